//! Requests that need no engine: rendering, tokenizing, counting.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    chat,
    common::{Source, find_model, parse},
    completions,
    messages::MessagesPrompt,
};
use crate::server::{
    error::{ApiError, ErrorShape},
    state::State,
    tokens::{pieces, tokenize},
};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plain {
    RenderChat,
    RenderCompletions,
    CountTokens,
    Tokenize,
}

#[derive(Deserialize)]
struct TokenizeText {
    model: Option<String>,
    prompt: String,
    return_token_strs: Option<bool>,
}

impl Plain {
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions/render" => Some(Self::RenderChat),
            "/v1/completions/render" => Some(Self::RenderCompletions),
            "/v1/messages/count_tokens" => Some(Self::CountTokens),
            "/tokenize" => Some(Self::Tokenize),
            _ => None,
        }
    }

    pub(crate) fn errors(self) -> ErrorShape {
        match self {
            Self::CountTokens => ErrorShape::Anthropic,
            Self::RenderChat | Self::RenderCompletions | Self::Tokenize => ErrorShape::OpenAi,
        }
    }

    pub(crate) fn answer(self, state: &State, body: &[u8]) -> Result<Value, ApiError> {
        match self {
            Self::RenderChat => {
                let request: chat::Request = parse(body)?;
                find_model(state, request.model.as_deref())?;
                Ok(json!({ "token_ids": request.source()?.tokens }))
            }
            Self::RenderCompletions => {
                let request: completions::Request = parse(body)?;
                find_model(state, request.model.as_deref())?;
                let rendered = |source: Source| json!({ "token_ids": source.tokens });
                Ok(request.prompt.into_sources()?.into_iter().map(rendered).collect())
            }
            Self::CountTokens => {
                let request: MessagesPrompt = parse(body)?;
                find_model(state, request.model.as_deref())?;
                Ok(json!({ "input_tokens": request.source()?.tokens.len() }))
            }
            Self::Tokenize => tokenized(state, body),
        }
    }
}

/// A text or a chat.
fn tokenized(state: &State, body: &[u8]) -> Result<Value, ApiError> {
    let request: Value = parse(body)?;
    let (model, tokens, strings) = if request.get("messages").is_some() {
        let request: chat::Request = parse(body)?;
        let tokens = request.source()?.tokens;
        (request.model, tokens, None)
    } else {
        let request: TokenizeText = parse(body)?;
        let strings = request.return_token_strs.unwrap_or(false);
        let strings =
            strings.then(|| pieces(&request.prompt).map(str::to_owned).collect::<Vec<_>>());
        (request.model, tokenize(&request.prompt), strings)
    };
    find_model(state, model.as_deref())?;
    Ok(json!({
        "count": tokens.len(), "max_model_len": state.config.profile.max_model_len, "tokens": tokens,
        "token_strs": strings,
    }))
}
