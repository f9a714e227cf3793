//! `/inference/v1/generate`: tokens in, tokens out.

use serde::Deserialize;
use serde_json::{Value, json};

use super::common::{Sampling, Source, StreamOptions, ask, finish_reason, parse};
use crate::server::{
    error::ApiError,
    job::{Ask, Dialect, Job},
    sse::{DONE, Events, data},
    state::State,
};

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    #[serde(rename = "request_id")]
    id: Option<String>,
    token_ids: Vec<u32>,
    #[serde(default)]
    sampling_params: SamplingParams,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    cache_salt: Option<String>,
}

#[derive(Default, Deserialize)]
struct SamplingParams {
    max_tokens: Option<u32>,
    min_tokens: Option<u32>,
    n: Option<u32>,
    seed: Option<i64>,
    ignore_eos: Option<bool>,
}

struct Shape {
    options: StreamOptions,
}

/// What vLLM generates when sampling parameters name no limit.
const DEFAULT_MAX_TOKENS: u32 = 16;

pub(super) fn read(state: &State, id: String, body: &[u8]) -> Result<Ask, ApiError> {
    let request: Request = parse(body)?;
    if request.token_ids.is_empty() {
        return Err(ApiError::bad_request("`token_ids` is empty").about("token_ids"));
    }
    let params = request.sampling_params;
    let sampling = Sampling {
        n: params.n,
        max_tokens: params.max_tokens.or(Some(DEFAULT_MAX_TOKENS)),
        min_tokens: params.min_tokens,
        ignore_eos: params.ignore_eos.unwrap_or(false),
        seed: params.seed,
        salt: request.cache_salt,
        stream: request.stream.unwrap_or(false),
        ..Sampling::default()
    };
    let id = request.id.unwrap_or_else(|| format!("generate-tokens-{id}"));
    let shape = Shape { options: request.stream_options.unwrap_or_default() };
    let source = Source::tokens(request.token_ids);
    ask(state, id, request.model.as_deref(), vec![source], sampling, Box::new(shape))
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
                    "index": index, "logprobs": null, "finish_reason": finish_reason(answer),
                    "token_ids": answer.tokens,
                }))
            })
            .collect();
        json!({
            "request_id": job.id, "choices": choices, "prompt_logprobs": null, "kv_transfer_params": null,
            "usage": job.usage().openai(),
        })
    }

    fn open(&mut self, _job: &Job, _out: &mut Events) {}

    fn token(&mut self, job: &Job, choice_idx: usize, nth: u32, out: &mut Events) {
        let Some(answer) = job.answer(choice_idx) else { return };
        let token = answer.tokens.get(nth as usize);
        let reason = job.is_last(choice_idx, nth).then(|| finish_reason(answer));
        out.push(data(&json!({
            "request_id": job.id,
            "choices": [{
                "index": choice_idx, "logprobs": null, "finish_reason": reason, "token_ids": [token],
            }],
        })));
    }

    fn close(&mut self, job: &Job, out: &mut Events) {
        if self.options.include_usage {
            let usage = job.usage().openai();
            out.push(data(&json!({ "request_id": job.id, "choices": [], "usage": usage })));
        }
        out.push(DONE);
    }
}
