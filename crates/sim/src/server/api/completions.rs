//! `/v1/completions`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::common::{
    FINGERPRINT, OneOrMany, PromptInput, Sampling, StreamOptions, add_usage, ask, finish_reason,
    parse,
};
use crate::server::{
    error::ApiError,
    job::{Ask, Dialect, Job},
    sse::{DONE, Events, data},
    state::State,
};

#[derive(Deserialize)]
pub(super) struct Request {
    pub(super) model: Option<String>,
    pub(super) prompt: PromptInput,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    min_tokens: Option<u32>,
    n: Option<u32>,
    stop: Option<OneOrMany>,
    seed: Option<i64>,
    ignore_eos: Option<bool>,
    cache_salt: Option<String>,
    return_token_ids: Option<bool>,
}

struct Shape {
    options: StreamOptions,
    token_ids: bool,
}

/// What OpenAI and vLLM generate when a completion names no limit.
const DEFAULT_MAX_TOKENS: u32 = 16;

pub(super) fn read(state: &State, id: String, body: &[u8]) -> Result<Ask, ApiError> {
    let request: Request = parse(body)?;
    let shape = Shape {
        options: request.stream_options.unwrap_or_default(),
        token_ids: request.return_token_ids.unwrap_or(false),
    };
    let sampling = Sampling {
        n: request.n,
        max_tokens: request.max_tokens.or(Some(DEFAULT_MAX_TOKENS)),
        min_tokens: request.min_tokens,
        ignore_eos: request.ignore_eos.unwrap_or(false),
        stop: request.stop.map(OneOrMany::into_vec).unwrap_or_default(),
        seed: request.seed,
        salt: request.cache_salt,
        tool: None,
        stream: request.stream.unwrap_or(false),
    };
    let sources = request.prompt.into_sources()?;
    ask(state, format!("cmpl-{id}"), request.model.as_deref(), sources, sampling, Box::new(shape))
}

impl Shape {
    fn prompt_ids<'a>(&self, job: &'a Job, choice_idx: usize) -> Option<&'a Vec<u32>> {
        let choice = job.choices.get(choice_idx).filter(|_| self.token_ids)?;
        job.prompts.get(choice.prompt_idx).map(|prompt| &prompt.tokens)
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
                Some(json!({
                    "index": index, "text": answer.text, "logprobs": null,
                    "finish_reason": finish_reason(answer), "stop_reason": answer.stop,
                    "token_ids": self.token_ids.then_some(&answer.tokens), "prompt_logprobs": null,
                    "prompt_token_ids": self.prompt_ids(job, index),
                }))
            })
            .collect();
        json!({
            "id": job.id, "object": "text_completion", "created": job.created, "model": job.model,
            "choices": choices, "service_tier": null, "system_fingerprint": FINGERPRINT,
            "usage": job.usage().openai(), "kv_transfer_params": null,
        })
    }

    fn open(&mut self, _job: &Job, _out: &mut Events) {}

    fn token(&mut self, job: &Job, choice_idx: usize, nth: u32, out: &mut Events) {
        let Some(answer) = job.answer(choice_idx) else { return };
        let token = answer.tokens.get(nth as usize).filter(|_| self.token_ids).map(|token| [token]);
        let last = job.is_last(choice_idx, nth);
        let choice = json!({
            "index": choice_idx, "text": answer.slice(nth, nth + 1), "logprobs": null,
            "finish_reason": last.then(|| finish_reason(answer)),
            "stop_reason": answer.stop.as_ref().filter(|_| last),
            "prompt_token_ids": self.prompt_ids(job, choice_idx).filter(|_| nth == 0), "token_ids": token,
        });
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
        "id": job.id, "object": "text_completion", "created": job.created, "model": job.model,
        "choices": choices,
    })
}
