//! From a checked document to plugin instances that are wired together.

use std::{sync::Arc, time::Duration};

use router_core::Column;
use router_telemetry::{Registry, router::FlowMetrics};

use crate::{
    data::Read,
    datalayer::{DataSource, Discovery, Extractor},
    flow::SaturationDetector,
    hooks::{PreRequest, RequestHeaderHook, ResponseBodyHook, ResponseHeaderHook},
    keys::{HashedPrompts, PrefixMatch, TokenizedPrompt},
    parser::Parser,
    plugin::{EndpointListener, Instance},
    producer::DataProducer,
    schedule::{Admitter, Filter, Picker, ProfileHandler, Scorer, Screener},
};

mod build;
mod flow;
mod instantiate;

pub use build::load;

/// Who a plugin instance is, in configuration, metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ident {
    pub name: Arc<str>,
    pub plugin_type: Arc<str>,
}

/// A plugin instance in one of its roles.
pub struct Named<T: ?Sized> {
    pub ident: Ident,
    pub role: Arc<T>,
}

impl<T: ?Sized> Clone for Named<T> {
    fn clone(&self) -> Self {
        Self { ident: self.ident.clone(), role: Arc::clone(&self.role) }
    }
}

/// One plugin instance with all its roles.
#[derive(Clone)]
pub struct LoadedPlugin {
    pub ident: Ident,
    pub instance: Instance,
}

/// A scheduling profile.
pub struct LoadedProfile {
    pub name: Arc<str>,
    pub filters: Vec<Named<dyn Filter>>,
    /// With their weights.
    pub scorers: Vec<(Named<dyn Scorer>, f64)>,
    pub picker: Named<dyn Picker>,
}

/// A data source and what reads it, in order.
#[derive(Clone)]
pub struct SourceBinding {
    pub source: Named<dyn DataSource>,
    pub extractors: Vec<Named<dyn Extractor>>,
}

/// What flow control is built with.
#[derive(Clone)]
pub struct LoadedFlow {
    /// All of it, but for the grace of eviction.
    pub config: router_flow::Config,
    /// How long after an evicted request ended its room may not show in the pool's signals; `None` follows from
    /// how signals come.
    pub eviction_grace: Option<Duration>,
    /// What it shows.
    pub metrics: FlowMetrics,
    /// For gauges that are worked out when the page is asked for.
    pub registry: Arc<Registry>,
}

/// A configuration ready to run. Everything is in the order of declaration, producers in the order of
/// their data.
pub struct Loaded {
    pub plugins: Vec<LoadedPlugin>,
    pub parsers: Vec<Named<dyn Parser>>,
    pub request_headers: Vec<Named<dyn RequestHeaderHook>>,
    pub screeners: Vec<Named<dyn Screener>>,
    pub producers: Vec<Named<dyn DataProducer>>,
    pub admitters: Vec<Named<dyn Admitter>>,
    pub profile_handler: Named<dyn ProfileHandler>,
    pub profiles: Vec<LoadedProfile>,
    pub pre_requests: Vec<Named<dyn PreRequest>>,
    pub response_headers: Vec<Named<dyn ResponseHeaderHook>>,
    pub response_bodies: Vec<Named<dyn ResponseBodyHook>>,
    pub detector: Named<dyn SaturationDetector>,
    /// `None` while the feature gate is off.
    pub flow: Option<LoadedFlow>,
    pub sources: Vec<SourceBinding>,
    pub discovery: Option<Named<dyn Discovery>>,
    pub listeners: Vec<Named<dyn EndpointListener>>,
    /// What the engine itself reads: cached blocks for `prefer: if-available`.
    pub prefix_match: Read<Column<PrefixMatch>>,
    /// What the engine itself reads: the length of the prompt, for the record of the decision.
    pub tokenized_prompt: Read<TokenizedPrompt>,
    /// What the engine itself reads: the prompt's blocks, for a recording.
    pub prompt_blocks: Read<Arc<HashedPrompts>>,
    /// Slots of data on each request.
    pub n_request_slots: usize,
    /// Slots of plugin state on each endpoint.
    pub n_endpoint_slots: usize,
}
