//! A request of a trace as the router and the engines see it, and what a server's answer looks like.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header::CONTENT_TYPE};
use router_core::{Stamp, header};
use router_engine::{Objectives, ResponseHead};
use router_framework::{ParsedRequest, PromptInput, RequestHead, SubsetHint, keys::PromptBlocks};

use crate::{
    model::{AdapterId, BlockHash, EngineRequest, Finished},
    replay::trace::{Trace, TraceRequest},
};

/// The model that requests ask for which name no adapter.
pub(super) const BASE_MODEL: &str = "replay";
const PATH: &str = "/v1/chat/completions";
/// What the first chunk of an answer carries does not matter to anybody.
const FIRST_CHUNK: &[u8] = b"data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"}}]}\n\n";

/// What all requests of a trace share, made once.
pub(super) struct Requests {
    block_tokens: u32,
    model: Arc<str>,
    path: Arc<str>,
    /// Numbers of the adapters that the trace names.
    adapters: BTreeMap<Arc<str>, AdapterId>,
    /// Of answers that stream, and of those that do not.
    events: HeaderMap,
    document: HeaderMap,
}

impl Requests {
    pub(super) fn of(trace: &Trace) -> Self {
        let mut adapters = BTreeMap::new();
        for lora in trace.requests.iter().filter_map(|request| request.lora.as_ref()) {
            let next = AdapterId(adapters.len() as u32);
            adapters.entry(Arc::clone(lora)).or_insert(next);
        }
        let of_type = |content_type| {
            HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))])
        };
        Self {
            block_tokens: trace.block_tokens.max(1),
            model: BASE_MODEL.into(),
            path: PATH.into(),
            adapters,
            events: of_type("text/event-stream"),
            document: of_type("application/json"),
        }
    }

    pub(super) fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    /// Names of the adapters, by number.
    pub(super) fn adapter_names(&self) -> Vec<Arc<str>> {
        let mut names: Vec<_> = self.adapters.iter().map(|(name, id)| (*id, name)).collect();
        names.sort_unstable();
        names.into_iter().map(|(_, name)| Arc::clone(name)).collect()
    }

    /// What the driver gives to the router.
    pub(super) fn begin(&self, request: &TraceRequest, now: Stamp) -> (RequestHead, ParsedRequest) {
        let mut headers = HeaderMap::new();
        if let Some(tenant) = &request.tenant
            && let Ok(value) = HeaderValue::from_str(tenant)
        {
            headers.insert(header::FAIRNESS_ID, value);
        }
        if request.priority != 0
            && let Ok(value) = HeaderValue::from_str(&objective(request.priority))
        {
            headers.insert(header::OBJECTIVE, value);
        }
        let head = RequestHead {
            method: Method::POST,
            path_and_query: Arc::clone(&self.path),
            headers,
            subset: SubsetHint::All,
            end_of_stream: false,
            received: now,
        };
        let n_full = (request.prompt_tokens / self.block_tokens) as usize;
        let ids = request.chain.get(..n_full).unwrap_or(&request.chain);
        let n_tokens = request.prompt_tokens as usize;
        let parsed = ParsedRequest {
            model: Some(Arc::clone(request.lora.as_ref().unwrap_or(&self.model))),
            stream: request.streams && request.output_tokens > 0,
            max_output_tokens: request.max_output_tokens.map(u64::from),
            prompts: PromptInput::Blocks(PromptBlocks::from_block_ids(
                ids,
                self.block_tokens,
                n_tokens,
            )),
            ..ParsedRequest::default()
        };
        (head, parsed)
    }

    /// What the engine computes.
    pub(super) fn engine_request(&self, request: &TraceRequest) -> EngineRequest {
        // Chained like the router's blocks: equal text counts as cached only after equal text.
        let blocks = PromptBlocks::from_block_ids(&request.chain, self.block_tokens, 0);
        EngineRequest {
            chain: blocks.hashes.iter().map(|hash| BlockHash(hash.0)).collect(),
            adapter: request.lora.as_ref().and_then(|lora| self.adapters.get(lora)).copied(),
            ..EngineRequest::new(request.prompt_tokens, request.output_tokens)
        }
    }

    pub(super) fn response_head(
        &self,
        request: &TraceRequest,
        status: StatusCode,
    ) -> ResponseHead<'_> {
        let headers = if request.streams { &self.events } else { &self.document };
        ResponseHead { status, headers, served: None, from_proxy: false }
    }
}

/// What comes with the first token of an answer that streams.
pub(super) fn first_chunk() -> Bytes {
    Bytes::from_static(FIRST_CHUNK)
}

/// What comes with the last one: how much the request took.
pub(super) fn last_chunk(request: &TraceRequest, end: &Finished) -> Bytes {
    let (prompt, output, cached) = (end.prompt_tokens, end.output_tokens, end.cached_tokens);
    let total = u64::from(prompt) + u64::from(output);
    let answer = format!(
        "{{\"choices\":[],\"usage\":{{\"prompt_tokens\":{prompt},\"completion_tokens\":{output},\
         \"total_tokens\":{total},\"prompt_tokens_details\":{{\"cached_tokens\":{cached}}}}}}}"
    );
    let streamed = || format!("data: {answer}\n\ndata: [DONE]\n\n");
    Bytes::from(if request.streams { streamed() } else { answer })
}

/// The objectives that stand for the priorities of a trace.
pub(super) fn objectives(trace: &Trace) -> Objectives {
    let priorities = trace.requests.iter().map(|request| request.priority);
    let named = priorities.filter(|&priority| priority != 0);
    named.map(|priority| (objective(priority), Some(priority))).collect()
}

/// Name of the objective with a priority.
fn objective(priority: i32) -> String {
    format!("priority{priority}")
}
