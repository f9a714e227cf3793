//! What a recording holds, before it is made anonymous and written.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use router_core::{DropReason, EndpointSpec, ErrorCode, LoraSignals, Signals, Stamp};
use router_framework::{
    EndCause, SubsetHint,
    keys::{HashedPrompts, PromptBlocks},
};
use router_kvcache::BlockHash;
use router_wire::response::Usage;
use smallvec::SmallVec;

use crate::{exchange::AttemptFailure, settings::Settings};

/// One thing that happened.
#[derive(Debug)]
pub struct Entry {
    /// The router that it happened in.
    pub router: u32,
    /// The one time that the router did it with.
    pub at: Stamp,
    pub event: Event,
}

#[derive(Debug)]
pub enum Event {
    // Inputs of decisions, on demand.
    Configured(Box<Configured>),
    /// The pool holds exactly these.
    Members(Vec<EndpointSpec>),
    Scraped {
        endpoint: Arc<str>,
        scrape: ScrapeNote,
        /// What the endpoint's signals are now.
        signals: Signals,
        /// Of a page.
        lora: Option<Arc<LoraSignals>>,
    },
    Decided(Box<Decided>),
    /// An attempt failed; the request went on to the next endpoint, if there was one.
    Failed {
        id: u64,
        failure: AttemptFailure,
        next: Option<Arc<str>>,
    },
    /// The head of a response.
    Head {
        id: u64,
        response: Box<ResponseNote>,
    },
    FirstByte {
        id: u64,
    },
    // What a request came to, always.
    Ended(Box<Ended>),
    /// The router refused it.
    Refused(Box<Refused>),
}

/// What a router was built from.
#[derive(Debug)]
pub struct Configured {
    pub name: String,
    /// `None` for the built-in configuration.
    pub text: Option<String>,
    pub settings: Settings,
}

/// What a scrape said of an endpoint's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScrapeNote {
    /// A page came, from where the endpoint serves requests or from elsewhere.
    Page {
        at_its_port: bool,
    },
    /// Nobody listens; it is tried again after this time.
    Refused {
        again: Duration,
    },
    Failed,
}

/// A request as decisions see it. It holds no text.
#[derive(Debug)]
pub struct RequestNote {
    /// Of its router.
    pub id: u64,
    pub received: Stamp,
    /// As the router counts them; where it did not come to that, a token for four bytes of the body.
    pub n_prompt_tokens: u64,
    /// Where a plugin cuts prompts into blocks.
    pub blocks: Option<Arc<HashedPrompts>>,
    /// The model that is served.
    pub model: Arc<str>,
    /// Where the request or its client has one.
    pub fairness_id: Option<Arc<str>>,
    pub priority: i32,
    pub streams: bool,
    /// Prompts of the request, where it has any.
    pub n_prompts: usize,
    /// Answers that the client asks for, where it says so.
    pub n_answers: Option<u64>,
    pub max_output_tokens: Option<u64>,
}

/// A decision and what only it depends on.
#[derive(Debug)]
pub struct Decided {
    pub request: Arc<RequestNote>,
    /// When its candidates were looked up; earlier than the decision where a plugin had to wait.
    pub from: Stamp,
    /// How often what it depends on changed meanwhile, by other threads or while it waited.
    pub n_changes: u64,
    /// The client brought a request id, so that none was drawn.
    pub has_external_id: bool,
    /// The client takes an answer from a cached prompt only.
    pub wants_cached_only: bool,
    pub subset: SubsetHint,
    pub verdict: Verdict,
    /// Totals of the primary profile, best first.
    pub scores: Vec<(Arc<str>, f64)>,
}

/// Where a request goes, best first, or why it goes nowhere.
#[derive(Debug)]
pub enum Verdict {
    Routed(SmallVec<[Arc<str>; 8]>),
    Refused(Refusal),
}

/// Why a request goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: ErrorCode,
    pub reason: Option<DropReason>,
    /// It got no turn in flow control, so that nothing was decided about it.
    pub by_flow_control: bool,
}

/// A request that the router refused.
#[derive(Debug)]
pub struct Refused {
    pub request: Arc<RequestNote>,
    pub refusal: Refusal,
}

/// The head of a response.
#[derive(Debug)]
pub struct ResponseNote {
    pub status: StatusCode,
    /// The proxy made it itself.
    pub from_proxy: bool,
    /// `ip:port` that served, where the proxy says so.
    pub served: Option<String>,
}

/// What became of a routed request.
#[derive(Debug)]
pub struct Ended {
    pub request: Arc<RequestNote>,
    /// That served, or was the last to be tried.
    pub endpoint: Option<Arc<str>>,
    pub cause: EndCause,
    /// Of the response head, where one came.
    pub status: Option<StatusCode>,
    /// When it was decided where it goes, or, after an attempt that failed, where it goes next.
    pub dispatched: Stamp,
    pub first_byte: Option<Stamp>,
    pub usage: Option<Usage>,
    /// Events of a streamed answer.
    pub n_events: u64,
    /// The endpoint said that the model is an adapter that it has loaded.
    pub is_adapter: bool,
}

impl Entry {
    /// Memory that it takes, nearly. What a request's entries share counts for each of them.
    pub(super) fn n_bytes(&self) -> usize {
        let text = |text: &Option<Arc<str>>| text.as_ref().map_or(0, |text| text.len());
        let more = match &self.event {
            Event::Configured(configured) => {
                size_of::<Configured>()
                    + configured.name.len()
                    + configured.text.as_ref().map_or(0, String::len)
            }
            Event::Members(endpoints) => endpoints.iter().map(spec_bytes).sum(),
            Event::Scraped { lora, .. } => lora.as_ref().map_or(0, |lora| {
                let names = lora.active.iter().chain(&lora.waiting);
                names.map(|name| size_of::<String>() + name.len()).sum()
            }),
            Event::Decided(decided) => decided.n_bytes(),
            Event::Failed { next, .. } => text(next),
            Event::Head { response, .. } => {
                size_of::<ResponseNote>() + response.served.as_ref().map_or(0, String::len)
            }
            Event::FirstByte { .. } => 0,
            Event::Ended(ended) => {
                size_of::<Ended>() + text(&ended.endpoint) + ended.request.n_bytes()
            }
            Event::Refused(refused) => size_of::<Refused>() + refused.request.n_bytes(),
        };
        size_of::<Self>() + more
    }
}

impl Decided {
    fn n_bytes(&self) -> usize {
        let subset = match &self.subset {
            SubsetHint::All => 0,
            SubsetHint::Only(entries) => {
                entries.iter().map(|entry| size_of::<String>() + entry.len()).sum()
            }
        };
        // Names of endpoints are shared with the pool.
        let scores = self.scores.len() * size_of::<(Arc<str>, f64)>();
        size_of::<Self>() + self.request.n_bytes() + subset + scores
    }
}

impl RequestNote {
    fn n_bytes(&self) -> usize {
        let of_prompt = |prompt: &PromptBlocks| {
            size_of::<PromptBlocks>() + prompt.hashes.len() * size_of::<BlockHash>()
        };
        let blocks =
            self.blocks.as_ref().map_or(0, |hashed| hashed.prompts.iter().map(of_prompt).sum());
        let names = self.model.len() + self.fairness_id.as_ref().map_or(0, |id| id.len());
        size_of::<Self>() + names + blocks
    }
}

fn spec_bytes(spec: &EndpointSpec) -> usize {
    let labels: usize = spec
        .labels
        .iter()
        .map(|(key, value)| 2 * size_of::<String>() + key.len() + value.len())
        .sum();
    size_of::<EndpointSpec>() + spec.namespace.len() + spec.name.len() + spec.address.len() + labels
}
