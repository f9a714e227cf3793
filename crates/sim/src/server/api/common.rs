//! What several APIs have in common.

use router_rt::Rng;
use serde::Deserialize;
use serde_json::{Value, json};
use xxhash_rust::xxh64::xxh64;

use crate::{
    model::AdapterId,
    server::{
        answer::{Answer, Finish, Limits, Tool, answer},
        error::ApiError,
        job::{Ask, Choice, Dialect, Job, Prompt, Usage},
        state::State,
        tokens::{block_chain, tokenize},
    },
};

/// Answers to one prompt (OpenAI's bound).
const MAX_N: u32 = 128;
/// Answers to one request: prompts times `n`.
const MAX_CHOICES: usize = 2048;

/// A string or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// A prompt as text or as tokens, or several of one kind.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a string, an array of strings, of token ids or of arrays of token ids"
)]
pub(super) enum PromptInput {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    ManyTokens(Vec<Vec<u32>>),
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub(super) struct StreamOptions {
    #[serde(default)]
    pub(super) include_usage: bool,
    #[serde(default)]
    pub(super) continuous_usage_stats: bool,
}

/// One prompt in the making: its tokens, and what an echo of it says.
pub(super) struct Source {
    pub(super) tokens: Vec<u32>,
    pub(super) echo: String,
}

/// What is asked for beside the prompts.
#[derive(Default)]
pub(super) struct Sampling {
    pub(super) n: Option<u32>,
    pub(super) max_tokens: Option<u32>,
    pub(super) min_tokens: Option<u32>,
    pub(super) ignore_eos: bool,
    pub(super) stop: Vec<String>,
    pub(super) seed: Option<i64>,
    pub(super) salt: Option<String>,
    pub(super) tool: Option<Tool>,
    pub(super) stream: bool,
}

pub(super) fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::bad_request(format!("invalid request: {error}")))
}

impl OneOrMany {
    pub(super) fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

impl PromptInput {
    pub(super) fn into_sources(self) -> Result<Vec<Source>, ApiError> {
        let sources: Vec<_> = match self {
            Self::Text(text) => vec![Source::text(text)],
            Self::Texts(texts) => texts.into_iter().map(Source::text).collect(),
            Self::Tokens(tokens) => vec![Source::tokens(tokens)],
            Self::ManyTokens(many) => many.into_iter().map(Source::tokens).collect(),
        };
        if sources.is_empty() || sources.iter().any(|source| source.tokens.is_empty()) {
            return Err(ApiError::bad_request("the prompt is empty").about("prompt"));
        }
        Ok(sources)
    }
}

impl Source {
    pub(super) fn text(text: String) -> Self {
        Self { tokens: tokenize(&text), echo: text }
    }

    pub(super) fn tokens(tokens: Vec<u32>) -> Self {
        let echo = tokens.iter().fold(String::new(), |mut echo, token| {
            echo.push_str(&token.to_string());
            echo.push(' ');
            echo
        });
        Self { tokens, echo }
    }
}

/// The model that a request names: the base model under one of its names, or an adapter.
pub(super) fn find_model(
    state: &State,
    model: Option<&str>,
) -> Result<(String, Option<AdapterId>), ApiError> {
    let Some(model) = model.filter(|model| !model.is_empty()) else {
        return Ok((state.model_name().to_owned(), None));
    };
    let aliases = state.config.aliases();
    if aliases.iter().any(|alias| alias == model) {
        return Ok((model.to_owned(), None));
    }
    match state.adapters.lock().find(model) {
        Some(adapter) => Ok((model.to_owned(), Some(adapter))),
        None => Err(ApiError::unknown_model(model, &aliases)),
    }
}

/// Settles what will be answered to each prompt.
pub(super) fn ask(
    state: &State,
    id: String,
    model: Option<&str>,
    sources: Vec<Source>,
    sampling: Sampling,
    dialect: Box<dyn Dialect>,
) -> Result<Ask, ApiError> {
    let (model, adapter) = find_model(state, model)?;
    let n = sampling.n.unwrap_or(1);
    if !(1..=MAX_N).contains(&n) || sources.len() * n as usize > MAX_CHOICES {
        let message =
            format!("`n` must be 1 to {MAX_N}, and `n` times prompts at most {MAX_CHOICES}");
        return Err(ApiError::bad_request(message).about("n"));
    }
    if sampling.max_tokens == Some(0) {
        let message = "max_tokens must be at least 1, got 0.";
        return Err(ApiError::bad_request(message).about("max_tokens"));
    }
    let root = chain_root(adapter.map(|_| model.as_str()), sampling.salt.as_deref());
    let (mut prompts, mut choices) = (Vec::new(), Vec::new());
    for (prompt_idx, source) in sources.into_iter().enumerate() {
        let limits = limits(state, &sampling, source.tokens.len())?;
        let seed = text_seed(state.seed, &sampling, &source);
        for nth in 0..n {
            let mut rng = Rng::seeded(seed ^ (u64::from(nth) << 40));
            let answer =
                answer(state.config.mode, &source.echo, &limits, sampling.tool.as_ref(), &mut rng);
            let tokens = source.tokens.iter().chain(&answer.tokens);
            let chain = block_chain(root, tokens, state.config.profile.block_size);
            choices.push(Choice { prompt_idx, answer: Some(answer), chain });
        }
        prompts.push(Prompt { tokens: source.tokens });
    }
    let max_tokens = sampling.max_tokens;
    Ok(Ask { id, model, adapter, prompts, choices, max_tokens, stream: sampling.stream, dialect })
}

/// Where chains of blocks begin: adapters and salts do not share.
pub(super) fn chain_root(adapter: Option<&str>, salt: Option<&str>) -> u64 {
    let salt = salt.map_or(0, |salt| xxh64(salt.as_bytes(), 1));
    xxh64(adapter.unwrap_or_default().as_bytes(), salt)
}

fn limits(state: &State, sampling: &Sampling, n_prompt: usize) -> Result<Limits, ApiError> {
    let limit = state.config.profile.max_model_len;
    let n_prompt = u32::try_from(n_prompt).unwrap_or(u32::MAX);
    if n_prompt >= limit {
        return Err(ApiError::too_long(n_prompt, limit));
    }
    let room = limit - n_prompt;
    if let Some(max) = sampling.max_tokens.filter(|&max| max > room) {
        return Err(ApiError::bad_request(format!(
            "This model's maximum context length is {limit} tokens. However, you requested {max} output \
             tokens and your prompt contains {n_prompt} input tokens, for a total of {} tokens. Please reduce \
             the length of the input prompt or the number of requested output tokens.",
            u64::from(max) + u64::from(n_prompt),
        ))
        .about("max_tokens"));
    }
    Ok(Limits {
        max_tokens: sampling.max_tokens,
        min_tokens: sampling.min_tokens.unwrap_or(0),
        ignore_eos: sampling.ignore_eos,
        stop: sampling.stop.clone(),
        room,
    })
}

/// Equal prompts get equal answers, wherever and whenever they are asked, unless the request brings a seed.
fn text_seed(seed: u64, sampling: &Sampling, source: &Source) -> u64 {
    let seed = seed ^ sampling.seed.map_or(0, |seed| xxh64(&seed.to_le_bytes(), 2));
    let bytes: Vec<u8> = source.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    xxh64(&bytes, seed)
}

/// A tool that must be called, in OpenAI's chat shape or in the flat one of responses.
pub(super) fn required_tool(
    tools: Option<&Value>,
    choice: Option<&Value>,
) -> Result<Option<Tool>, ApiError> {
    let name_of = |tool: &Value| {
        let function = tool.get("function").unwrap_or(tool);
        function.get("name").and_then(Value::as_str).map(str::to_owned)
    };
    let wanted = match choice {
        Some(Value::String(word)) if word == "required" => None,
        Some(Value::Object(_)) => choice.and_then(name_of),
        _ => return Ok(None),
    };
    let tools = tools.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let found = tools.iter().find(|tool| wanted.is_none() || name_of(tool) == wanted);
    let Some((tool, name)) = found.and_then(|tool| Some((tool, name_of(tool)?))) else {
        let message = "`tool_choice` asks for a tool that `tools` does not have";
        return Err(ApiError::bad_request(message).about("tool_choice"));
    };
    let function = tool.get("function").unwrap_or(tool);
    Ok(Some(Tool { name, parameters: function.get("parameters").cloned().unwrap_or_default() }))
}

pub(super) fn finish_reason(answer: &Answer) -> &'static str {
    match answer.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}

impl Usage {
    pub(super) fn openai(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }

    /// As chunks before the last carry it.
    pub(super) fn so_far(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.completion,
            "completion_tokens": self.completion,
        })
    }
}

pub(super) const FINGERPRINT: &str = concat!("sim-", env!("CARGO_PKG_VERSION"));

/// Adds `usage` to a chunk when the request wants it everywhere.
pub(super) fn add_usage(chunk: &mut Value, job: &Job, options: StreamOptions) {
    if options.continuous_usage_stats
        && let Value::Object(chunk) = chunk
    {
        chunk.insert("usage".to_owned(), job.usage().so_far());
    }
}
