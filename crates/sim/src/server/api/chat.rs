//! `/v1/chat/completions`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::common::{
    FINGERPRINT, OneOrMany, Sampling, Source, StreamOptions, add_usage, ask, finish_reason, parse,
    required_tool,
};
use crate::server::{
    error::ApiError,
    job::{Ask, Dialect, Job},
    prompt::Chat,
    sse::{DONE, Events, data},
    state::State,
    tokens::tokenize,
};

#[derive(Deserialize)]
pub(super) struct Request {
    pub(super) model: Option<String>,
    messages: Vec<Value>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
    min_tokens: Option<u32>,
    n: Option<u32>,
    stop: Option<OneOrMany>,
    seed: Option<i64>,
    tools: Option<Value>,
    tool_choice: Option<Value>,
    ignore_eos: Option<bool>,
    cache_salt: Option<String>,
    return_token_ids: Option<bool>,
    add_generation_prompt: Option<bool>,
}

struct Shape {
    options: StreamOptions,
    token_ids: bool,
}

pub(super) fn read(state: &State, id: String, body: &[u8]) -> Result<Ask, ApiError> {
    let request: Request = parse(body)?;
    let source = request.source()?;
    let shape = Shape {
        options: request.stream_options.unwrap_or_default(),
        token_ids: request.return_token_ids.unwrap_or(false),
    };
    let sampling = Sampling {
        n: request.n,
        max_tokens: request.max_completion_tokens.or(request.max_tokens),
        min_tokens: request.min_tokens,
        ignore_eos: request.ignore_eos.unwrap_or(false),
        stop: request.stop.map(OneOrMany::into_vec).unwrap_or_default(),
        seed: request.seed,
        salt: request.cache_salt,
        tool: required_tool(request.tools.as_ref(), request.tool_choice.as_ref())?,
        stream: request.stream.unwrap_or(false),
    };
    let id = format!("chatcmpl-{id}");
    ask(state, id, request.model.as_deref(), vec![source], sampling, Box::new(shape))
}

impl Request {
    /// The chat as one prompt.
    pub(super) fn source(&self) -> Result<Source, ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::bad_request("`messages` is empty").about("messages"));
        }
        let mut chat = Chat::default();
        chat.tools(self.tools.as_ref());
        for message in &self.messages {
            chat.openai(message)?;
        }
        let (text, echo) = chat.finish(self.add_generation_prompt == Some(false));
        Ok(Source { tokens: tokenize(&text), echo })
    }
}

impl Dialect for Shape {
    fn body(&mut self, job: &Job) -> Value {
        let choices: Vec<Value> = job
            .choices
            .iter()
            .enumerate()
            .filter_map(|(index, choice)| {
                let answer = choice.answer.as_ref()?;
                let mut message = json!({
                    "role": "assistant", "content": answer.text, "refusal": null, "annotations": null,
                    "audio": null, "function_call": null, "reasoning": null,
                });
                if let Some(call) = &answer.call {
                    message["content"] = Value::Null;
                    message["tool_calls"] = json!([{
                        "id": call.id, "type": "function",
                        "function": {"name": call.name, "arguments": answer.text},
                    }]);
                }
                Some(json!({
                    "index": index, "message": message, "logprobs": null,
                    "finish_reason": finish_reason(answer), "stop_reason": answer.stop,
                    "token_ids": self.token_ids.then_some(&answer.tokens),
                }))
            })
            .collect();
        let prompt = job.prompts.first().filter(|_| self.token_ids).map(|prompt| &prompt.tokens);
        json!({
            "id": job.id, "object": "chat.completion", "created": job.created, "model": job.model,
            "choices": choices, "service_tier": null, "system_fingerprint": FINGERPRINT,
            "usage": job.usage().openai(), "prompt_logprobs": null, "prompt_token_ids": prompt,
            "kv_transfer_params": null,
        })
    }

    fn open(&mut self, job: &Job, out: &mut Events) {
        let prompt = job.prompts.first().filter(|_| self.token_ids).map(|prompt| &prompt.tokens);
        for index in 0..job.choices.len() {
            let choice = json!({
                "index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": null,
                "finish_reason": null,
            });
            let mut chunk = chunk(job, json!([choice]));
            chunk["prompt_token_ids"] = json!(prompt);
            add_usage(&mut chunk, job, self.options);
            out.push(data(&chunk));
        }
    }

    fn token(&mut self, job: &Job, choice_idx: usize, nth: u32, out: &mut Events) {
        let Some(answer) = job.answer(choice_idx) else { return };
        let text = answer.slice(nth, nth + 1);
        let delta = match &answer.call {
            None => json!({ "content": text }),
            Some(call) if nth == 0 => json!({"tool_calls": [{
                "index": 0, "id": call.id, "type": "function",
                "function": {"name": call.name, "arguments": text},
            }]}),
            Some(_) => json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]}),
        };
        let token = answer.tokens.get(nth as usize).filter(|_| self.token_ids).map(|token| [token]);
        let mut choice = json!({
            "index": choice_idx, "delta": delta, "logprobs": null, "finish_reason": null, "token_ids": token,
        });
        if job.is_last(choice_idx, nth) {
            choice["finish_reason"] = json!(finish_reason(answer));
            choice["stop_reason"] = json!(answer.stop);
        }
        let mut chunk = chunk(job, json!([choice]));
        add_usage(&mut chunk, job, self.options);
        out.push(data(&chunk));
    }

    fn close(&mut self, job: &Job, out: &mut Events) {
        if self.options.include_usage {
            let mut chunk = chunk(job, json!([]));
            chunk["usage"] = job.usage().openai();
            chunk["system_fingerprint"] = json!(FINGERPRINT);
            out.push(data(&chunk));
        }
        out.push(DONE);
    }
}

fn chunk(job: &Job, choices: Value) -> Value {
    json!({
        "id": job.id, "object": "chat.completion.chunk", "created": job.created, "model": job.model,
        "choices": choices,
    })
}
