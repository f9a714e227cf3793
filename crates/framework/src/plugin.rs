//! What a plugin is to the framework: a definition, and an instance with the roles that it plays.
//!
//! A plugin is one file with a `PLUGIN` constant of type [`PluginDef`], and one line in the list of in-tree
//! plugins. Its `build` function reads its parameters, declares the data that it reads and writes, and
//! returns an [`Instance`]; a plugin with several roles builds them over shared state there.

use std::sync::Arc;

use router_core::Endpoint;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    build::BuildCx,
    datalayer::{DataSource, Discovery, Extractor},
    document::{Role, Stability},
    flow::{
        EvictionFilter, EvictionOrder, FairnessPolicy, OrderingPolicy, SaturationDetector,
        UsageLimitPolicy,
    },
    hooks::{PreRequest, RequestHeaderHook, ResponseBodyHook, ResponseHeaderHook},
    parser::Parser,
    producer::DataProducer,
    schedule::{Admitter, Filter, Picker, ProfileHandler, Scorer, Screener},
};

/// Parameters of a plugin: one struct with a documented field per parameter. Schema, defaults and the
/// reference page are generated from it.
pub trait Params: DeserializeOwned + Serialize + JsonSchema + Default {}

impl<T: DeserializeOwned + Serialize + JsonSchema + Default> Params for T {}

/// For plugins that take none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NoParams {}

/// A plugin type that goes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deprecation {
    pub since: &'static str,
    pub removal: &'static str,
    pub replacement: &'static str,
}

/// Definition of a plugin type.
#[derive(Clone, Copy, Debug)]
pub struct PluginDef {
    /// The `type` in configuration documents.
    pub plugin_type: &'static str,
    pub roles: &'static [Role],
    pub stability: Stability,
    pub deprecation: Option<Deprecation>,
    /// `file!()` of the definition; its module doc is the reference page.
    pub source: &'static str,
    /// Whether it takes parameters at all.
    pub takes_params: bool,
    pub schema: fn() -> schemars::Schema,
    /// Parameters with every default filled in.
    pub defaults: fn() -> serde_json::Value,
    /// Parameters as they will be used: what was written, with every default filled in.
    pub effective: fn(&serde_json::Value) -> serde_json::Value,
    /// Paths of parameters that name other plugin instances, such as `deciders.prefill`.
    pub references: &'static [&'static str],
    /// Why no other scorer belongs into a profile with it.
    pub alone: Option<&'static str>,
    pub build: fn(&mut BuildCx<'_>) -> Result<Instance, BuildError>,
}

impl PluginDef {
    /// A Beta plugin with parameters `P`.
    pub const fn new<P: Params + 'static>(
        plugin_type: &'static str,
        roles: &'static [Role],
        source: &'static str,
        build: fn(&mut BuildCx<'_>) -> Result<Instance, BuildError>,
    ) -> Self {
        Self {
            plugin_type,
            roles,
            stability: Stability::Beta,
            deprecation: None,
            source,
            takes_params: size_of::<P>() != 0,
            schema: schema_of::<P>,
            defaults: defaults_of::<P>,
            effective: effective_of::<P>,
            references: &[],
            alone: None,
            build,
        }
    }

    pub const fn alpha(mut self) -> Self {
        self.stability = Stability::Alpha;
        self
    }

    pub const fn deprecated(
        mut self,
        since: &'static str,
        removal: &'static str,
        replacement: &'static str,
    ) -> Self {
        self.deprecation = Some(Deprecation { since, removal, replacement });
        self
    }

    pub const fn references(mut self, paths: &'static [&'static str]) -> Self {
        self.references = paths;
        self
    }

    /// A scorer that is to be the only one of a profile, and why.
    pub const fn alone(mut self, reason: &'static str) -> Self {
        self.alone = Some(reason);
        self
    }
}

fn schema_of<P: Params>() -> schemars::Schema {
    schemars::schema_for!(P)
}

fn defaults_of<P: Params>() -> serde_json::Value {
    serde_json::to_value(P::default()).unwrap_or_default()
}

fn effective_of<P: Params>(written: &serde_json::Value) -> serde_json::Value {
    serde_json::from_value::<P>(written.clone())
        .ok()
        .and_then(|params| serde_json::to_value(params).ok())
        .unwrap_or_else(|| written.clone())
}

/// Why a plugin instance cannot be made from its parameters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// Path below the plugin's `parameters`, empty for the whole.
    pub path: String,
    pub message: String,
}

impl BuildError {
    pub fn new(message: impl Into<String>) -> Self {
        Self { path: String::new(), message: message.into() }
    }

    /// A parameter with a value that cannot be.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Hears of endpoints that come, change and go.
pub trait EndpointListener: Send + Sync {
    fn added(&self, endpoint: &Arc<Endpoint>);
    fn removed(&self, endpoint: &Arc<Endpoint>);
}

/// Shows what a plugin holds, for `GET /debug/plugins/state`. Lists are cut at [`DUMP_LIMIT`] entries.
pub trait DumpState: Send + Sync {
    fn dump(&self) -> serde_json::Value;
}

/// Longest list in a plugin's debug state.
pub const DUMP_LIMIT: usize = 100;

macro_rules! instance {
    ($($(#[$doc:meta])* $role:ident: $trait:ident;)*) => {
        /// A plugin instance: the roles that it plays, each with the object that plays it.
        #[derive(Clone, Default)]
        pub struct Instance {
            $($(#[$doc])* pub $role: Option<Arc<dyn $trait>>,)*
        }

        impl Instance {
            $(
                #[must_use]
                pub fn $role(mut self, role: Arc<impl $trait + 'static>) -> Self {
                    self.$role = Some(role);
                    self
                }
            )*
        }
    };
}

instance! {
    parser: Parser;
    request_header: RequestHeaderHook;
    screener: Screener;
    producer: DataProducer;
    admitter: Admitter;
    profile_handler: ProfileHandler;
    filter: Filter;
    scorer: Scorer;
    picker: Picker;
    pre_request: PreRequest;
    response_header: ResponseHeaderHook;
    response_body: ResponseBodyHook;
    detector: SaturationDetector;
    ordering: OrderingPolicy;
    fairness: FairnessPolicy;
    usage_limit: UsageLimitPolicy;
    eviction_filter: EvictionFilter;
    eviction_order: EvictionOrder;
    source: DataSource;
    extractor: Extractor;
    discovery: Discovery;
    listener: EndpointListener;
    dump: DumpState;
}

impl Instance {
    pub fn new() -> Self {
        Self::default()
    }
}
