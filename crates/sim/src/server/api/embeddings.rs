//! `/v1/embeddings`.

use router_rt::Rng;
use serde::Deserialize;
use serde_json::{Value, json};
use xxhash_rust::xxh64::xxh64;

use super::common::{PromptInput, chain_root, find_model, parse};
use crate::server::{
    base64,
    error::ApiError,
    job::{Ask, Choice, Dialect, Job, Prompt},
    sse::Events,
    state::State,
    tokens::block_chain,
};

const MAX_DIMENSIONS: u32 = 16_384;
const MAX_INPUTS: usize = 2048;

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    input: PromptInput,
    encoding_format: Option<Encoding>,
    dimensions: Option<u32>,
    cache_salt: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    Float,
    Base64,
}

struct Shape {
    encoding: Encoding,
    n_dimensions: u32,
    seed: u64,
}

pub(super) fn read(state: &State, id: String, body: &[u8]) -> Result<Ask, ApiError> {
    let request: Request = parse(body)?;
    let n_dimensions = request.dimensions.unwrap_or(state.config.default_embedding_dimensions);
    if !(1..=MAX_DIMENSIONS).contains(&n_dimensions) {
        let message = format!("`dimensions` must be 1 to {MAX_DIMENSIONS}");
        return Err(ApiError::bad_request(message).about("dimensions"));
    }
    let sources = request.input.into_sources()?;
    if sources.len() > MAX_INPUTS {
        return Err(ApiError::bad_request(format!("more than {MAX_INPUTS} inputs")).about("input"));
    }
    let (model, adapter) = find_model(state, request.model.as_deref())?;
    let root = chain_root(adapter.map(|_| model.as_str()), request.cache_salt.as_deref());
    let block_size = state.config.profile.block_size;
    let choices = sources
        .iter()
        .enumerate()
        .map(|(prompt_idx, source)| {
            let chain = block_chain(root, source.tokens.iter(), block_size);
            Choice { prompt_idx, answer: None, chain }
        })
        .collect();
    Ok(Ask {
        id: format!("embd-{id}"),
        model,
        adapter,
        prompts: sources.into_iter().map(|source| Prompt { tokens: source.tokens }).collect(),
        choices,
        max_tokens: None,
        stream: false,
        dialect: Box::new(Shape {
            encoding: request.encoding_format.unwrap_or(Encoding::Float),
            n_dimensions,
            seed: state.seed,
        }),
    })
}

impl Shape {
    /// A vector of length 1 that follows from the tokens.
    fn vector(&self, tokens: &[u32]) -> Vec<f32> {
        let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        let mut rng = Rng::seeded(xxh64(&bytes, self.seed));
        let raw: Vec<f64> = (0..self.n_dimensions).map(|_| rng.f64() * 2.0 - 1.0).collect();
        let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        raw.into_iter().map(|x| (x / length) as f32).collect()
    }
}

impl Dialect for Shape {
    fn body(&mut self, job: &Job) -> Value {
        let data: Vec<Value> = job
            .prompts
            .iter()
            .enumerate()
            .map(|(index, prompt)| {
                let vector = self.vector(&prompt.tokens);
                let embedding = match self.encoding {
                    Encoding::Float => json!(vector),
                    Encoding::Base64 => {
                        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                        json!(base64::encode(&bytes))
                    }
                };
                json!({ "index": index, "object": "embedding", "embedding": embedding })
            })
            .collect();
        json!({
            "id": job.id, "object": "list", "created": job.created, "model": job.model, "data": data,
            "usage": job.usage().openai(),
        })
    }

    // Embeddings are never streamed.
    fn open(&mut self, _job: &Job, _out: &mut Events) {}
    fn token(&mut self, _job: &Job, _choice_idx: usize, _nth: u32, _out: &mut Events) {}
    fn close(&mut self, _job: &Job, _out: &mut Events) {}
}
