//! The plugin API: a trait per extension point, the registry of plugin types, configuration documents.
//!
//! A configuration document is read by [`document`], checked against the [`Registry`] of plugin types, and
//! turned by [`load`] into a [`Loaded`] pipeline: instances with their roles, profiles, and a checked
//! data-flow graph in which every declared read is bound to the slot of its writer.
//!
//! A plugin implements one or more of the traits below and declares the data that it reads and writes
//! ([`BuildCx`]). It sees a request through a [`RequestCx`]: candidates by position, columns by handle,
//! signals with their age. It never sees a socket, a proxy, Kubernetes or another plugin.
//!
//! | trait | runs |
//! | --- | --- |
//! | [`Parser`] | picks routing data out of a request body, usage out of a response |
//! | [`RequestHeaderHook`] | before admission |
//! | [`Screener`] | mandatory constraints for all profiles |
//! | [`DataProducer`] | writes columns or request attributes |
//! | [`Admitter`] | may refuse, with a typed error |
//! | [`ProfileHandler`], [`Filter`], [`Scorer`], [`Picker`] | the scheduling cycle |
//! | [`PreRequest`], [`ResponseHeaderHook`], [`ResponseBodyHook`] | after the decision and while the answer streams |
//! | [`OrderingPolicy`], [`FairnessPolicy`], [`UsageLimitPolicy`], [`SaturationDetector`], [`EvictionFilter`], [`EvictionOrder`] | admission and flow control |
//! | [`DataSource`], [`Extractor`], [`Discovery`] | the data layer |
//!
//! This crate does no I/O beyond what a trait is handed, and knows no plugin.

pub mod build;
pub mod cx;
pub mod data;
pub mod datalayer;
pub mod document;
pub mod flow;
mod graph;
pub mod hooks;
pub mod keys;
pub mod loader;
pub mod parser;
pub mod plugin;
pub mod producer;
pub mod registry;
pub mod request;
pub mod schedule;
pub mod workbench;

pub use build::{BuildCx, PluginEnv};
pub use cx::{Freshness, RequestCx};
pub use data::{DataKey, EndpointDataKey, Outputs, Read, RequestData, Write};
pub use datalayer::{
    DataSource, Discovery, DiscoveryCx, DiscoveryError, EndpointSink, ExtractError, Extractor,
    Fetch, FetchError, FetchSession, FetchTarget, FetchTls, Resolve,
};
pub use document::{Role, Stability};
pub use flow::{
    EvictionFilter, EvictionOrder, FairnessPolicy, Increments, OrderingPolicy, PoolView,
    Saturation, SaturationDetector, UsageLimitPolicy,
};
pub use hooks::{
    End, EndCause, Identity, Lease, MetadataNumber, PreRequest, Progress, RequestHeaderHook,
    ResponseBodyHook, ResponseCx, ResponseHeaderHook,
};
pub use loader::{Loaded, LoadedFlow, load};
pub use parser::{BodyParser, Parser, ResponseKind, ResponseParser};
pub use plugin::{
    BuildError, DUMP_LIMIT, DumpState, EndpointListener, Instance, NoParams, Params, PluginDef,
};
pub use producer::{DataProducer, ProduceError, Produced};
pub use registry::Registry;
pub use request::{ModelEditor, ParsedRequest, PromptInput, Request, RequestHead, SubsetHint};
pub use schedule::{
    Admitter, Cycle, Filter, FilterKind, MAX_TARGETS, Outcome, Picker, ProfileHandler,
    ProfileIndex, ProfileRun, Scorer, Screener,
};
pub use workbench::{Slots, Workbench};
// Part of what hooks are told of a response.
pub use router_wire::response::Usage;
