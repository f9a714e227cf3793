//! One request as the pipeline and its plugins see it.

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method};
use router_core::Stamp;
use router_wire::request::{Feature, Prompt};

use crate::keys::PromptBlocks;

/// Path that a request without any is taken to have (`spec/request-path.md` §2.1).
pub const DEFAULT_PATH: &str = "/v1/completions";

/// What the driver knows before the body: everything about an HTTP request but its bytes.
#[derive(Clone, Debug)]
pub struct RequestHead {
    pub method: Method,
    /// Path with its query, as the client sent it.
    pub path_and_query: Arc<str>,
    /// All headers, without pseudo headers.
    pub headers: HeaderMap,
    /// Endpoints that the proxy allows, from its metadata.
    pub subset: SubsetHint,
    /// No body will follow.
    pub end_of_stream: bool,
    /// When the first byte of the request was seen.
    pub received: Stamp,
}

impl RequestHead {
    /// The path without its query.
    pub fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or_default()
    }
}

/// The proxy's restriction of the candidates (`spec/request-path.md` §1.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SubsetHint {
    /// No restriction.
    #[default]
    All,
    /// Only these `ip:port`s; an entry without a port allows every port of its address. Empty allows none.
    Only(Vec<String>),
}

/// What a [`Parser`](crate::Parser) found in a body.
#[derive(Clone, Debug, Default)]
pub struct ParsedRequest {
    /// The model that the body names.
    pub model: Option<Arc<str>>,
    /// How another model is written into the body; `None` where the body cannot be rewritten.
    pub model_editor: Option<ModelEditor>,
    /// The client wants a stream.
    pub stream: bool,
    /// The client's cap on generated tokens.
    pub max_output_tokens: Option<u64>,
    /// How many answers the client wants, where it says so.
    pub n_answers: Option<u64>,
    pub cache_salt: Option<Arc<str>>,
    pub prompts: PromptInput,
    /// Media whose places among the token ids the client gave.
    pub features: Vec<Feature>,
    /// A model is mandatory for this API; without one after rewriting the request is refused with 400.
    pub model_required: bool,
    /// The response phase needs no attention (for example `count_tokens`).
    pub skip_response: bool,
    pub n_body_bytes: usize,
}

/// Makes the edit that puts a model name into a body: the range of bytes to replace, and what goes there.
#[derive(Clone)]
pub struct ModelEditor(Arc<dyn Fn(&str) -> (Range<usize>, Bytes) + Send + Sync>);

impl ModelEditor {
    pub fn new(edit: impl Fn(&str) -> (Range<usize>, Bytes) + Send + Sync + 'static) -> Self {
        Self(Arc::new(edit))
    }

    pub fn edit(&self, model: &str) -> (Range<usize>, Bytes) {
        (self.0)(model)
    }
}

impl fmt::Debug for ModelEditor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelEditor")
    }
}

/// The prompt in whatever form the driver has it.
#[derive(Clone, Debug, Default)]
pub enum PromptInput {
    /// None: a request without a body, or an opaque one.
    #[default]
    Empty,
    /// Text or token ids from a body.
    Prompts(Vec<Prompt>),
    /// Hashed blocks of a trace without text.
    Blocks(PromptBlocks),
    /// The same of several prompts in one request.
    Batch(Vec<PromptBlocks>),
}

/// A request on its way through the pipeline. Plugins only read it.
#[derive(Debug)]
pub struct Request {
    /// Unique in this process; every state of ours is keyed by it or, better, owned by the request.
    pub id: u64,
    /// The client's `x-request-id`, or ours. Not unique: clients choose it.
    pub external_id: Arc<str>,
    pub head: RequestHead,
    pub parsed: ParsedRequest,
    /// The model that the client asked for; empty where the API has none.
    pub model: Arc<str>,
    /// The model that is served, after rewriting.
    pub target_model: Arc<str>,
    /// Name of the `InferenceObjective` asked for.
    pub objective: Option<Arc<str>>,
    /// Larger is more important; negative may be shed.
    pub priority: i32,
    pub fairness_id: Arc<str>,
}

impl Request {
    pub fn header(&self, name: &http::HeaderName) -> Option<&str> {
        router_core::header::text(&self.head.headers, name, None)
    }

    /// `prefer: if-available`: answer only from a cached prefix (RFC 7240; conditional decode).
    pub fn wants_cached_only(&self) -> bool {
        let values = self.head.headers.get_all(router_core::header::PREFER);
        let is_it = |token: &str| {
            let name = token.split([';', '=']).next().unwrap_or_default();
            name.trim().eq_ignore_ascii_case("if-available")
        };
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(is_it)
    }
}
