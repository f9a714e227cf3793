//! An `EndpointPickerConfig` document as a value: what was written, and later what was added.

use std::sync::Arc;

use super::{
    catalog::{Catalog, Role, TypeInfo},
    diagnostics::Diagnostics,
    gates::FeatureGates,
    source::{Path, Source, Span},
    tree::Node,
    units::{GoDuration, Quantity},
};

/// A document. Comes from [`load`](super::load), which has checked all that needs no plugin
/// instance; every part keeps its place, so that later errors can be shown at it.
#[derive(Debug, Clone)]
pub struct Document {
    /// The text this was read from.
    pub source: Arc<Source>,
    /// Features switched on and off.
    pub gates: FeatureGates,
    /// Plugins in the order declared; added ones come after them.
    pub plugins: Vec<Plugin>,
    /// Scheduling profiles in the order written.
    pub profiles: Vec<Profile>,
    /// Where signals of endpoints come from.
    pub data_layer: DataLayer,
    /// Queueing of requests.
    pub flow_control: FlowControl,
    /// Parsers in the order written.
    pub parsers: Vec<PluginRef>,
}

/// A plugin that the document declares or that was added to it.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// What references call it by.
    pub name: String,
    /// Its type; empty only in documents that were refused.
    pub plugin_type: String,
    /// What the plugin's own `Params` are read from; absent where nothing was written.
    pub parameters: Option<Node>,
    /// Where its entry stands.
    pub span: Span,
    /// Where its type stands.
    pub type_span: Span,
    /// Its path, such as `plugins[2]`.
    pub path: String,
    /// Why it is there.
    pub origin: Origin,
}

/// Why a part of a document is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Someone wrote it.
    Written,
    /// It was added, for this reason.
    Added(&'static str),
}

/// A reference to a plugin by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginRef {
    /// The plugin's name.
    pub name: String,
    /// Where the reference stands; [`Span::NONE`] for an added one.
    pub span: Span,
    /// Its path, such as `dataLayer.sources[0].pluginRef`.
    pub path: String,
}

/// A scheduling profile.
#[derive(Debug, Clone)]
pub struct Profile {
    /// What the profile handler calls it by.
    pub name: String,
    /// Its filters, scorers and picker.
    pub plugins: Vec<ProfilePlugin>,
    /// Where its name stands.
    pub span: Span,
    /// Its path, such as `schedulingProfiles[0]`.
    pub path: String,
    /// Why it is there.
    pub origin: Origin,
}

/// A plugin's place in a profile.
#[derive(Debug, Clone)]
pub struct ProfilePlugin {
    /// The plugin.
    pub plugin: PluginRef,
    /// What a scorer's values are multiplied by; set for all scorers once defaults are filled in.
    pub weight: Option<f64>,
    /// Where the weight stands.
    pub weight_span: Span,
}

/// The `dataLayer` section.
#[derive(Debug, Clone, Default)]
pub struct DataLayer {
    /// Whether the default metrics source may be added; true unless written otherwise.
    pub inject_defaults: Option<bool>,
    /// Data sources in the order written.
    pub sources: Vec<DataSource>,
    /// The plugin that finds endpoints; Kubernetes where absent.
    pub discovery: Option<PluginRef>,
    /// The plugin that finds other replicas.
    pub peer_discovery: Option<PluginRef>,
    /// The plugin that shares state between replicas.
    pub cross_replica_syncer: Option<PluginRef>,
    /// How often state is shared.
    pub cross_replica_sync_interval: Option<GoDuration>,
}

/// A data source with its extractors in the order they run.
#[derive(Debug, Clone)]
pub struct DataSource {
    /// The data source.
    pub plugin: PluginRef,
    /// What reads what it fetches.
    pub extractors: Vec<PluginRef>,
}

/// The `flowControl` section.
#[derive(Debug, Clone, Default)]
pub struct FlowControl {
    /// Bytes of bodies in all queues; 0 or absent: no limit.
    pub max_bytes: Option<Quantity>,
    /// Requests in all queues; 0 or absent: no limit.
    pub max_requests: Option<Quantity>,
    /// How long a request may wait; zero: no limit.
    pub default_request_ttl: Option<GoDuration>,
    /// How long a request may wait while there is no endpoint.
    pub no_endpoint_request_ttl: Option<GoDuration>,
    /// Settings for priorities that are not listed.
    pub default_priority_band: Option<PriorityBand>,
    /// Settings for priorities below 0 that are not listed.
    pub default_negative_priority_band: Option<PriorityBand>,
    /// Settings for single priorities.
    pub priority_bands: Vec<PriorityBand>,
    /// The plugin that bounds what each priority may use.
    pub usage_limit_policy: Option<PluginRef>,
    /// The plugin that tells how loaded the pool is.
    pub saturation_detector: Option<PluginRef>,
    /// Whether requests in flight may be evicted.
    pub enable_eviction: Option<bool>,
    /// The plugin that says what may be evicted.
    pub eviction_filter: Option<PluginRef>,
    /// The plugin that says what is evicted first.
    pub eviction_order: Option<PluginRef>,
    /// What hardly anybody has to change.
    pub expert: FlowControlExpert,
}

/// The `flowControl.expert` section; what is absent has its default.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct FlowControlExpert {
    /// Priority bands at a time.
    pub max_priority_bands: Option<u32>,
    /// Flows that are remembered without requests.
    pub max_idle_flows: Option<u32>,
    /// How long a flow without requests is remembered.
    pub flow_idle_timeout: Option<GoDuration>,
    /// How long a band is remembered that nobody names and that has no flows.
    pub priority_band_idle_timeout: Option<GoDuration>,
    /// Shortest time after which a refused client is told to come again.
    pub min_retry_after: Option<GoDuration>,
    /// Longest such time.
    pub max_retry_after: Option<GoDuration>,
    /// What bands below the most important one that waits get for certain, as a share.
    pub trickle_share: Option<f64>,
    /// How often a band at its ceiling gets a request for certain.
    pub trickle_interval: Option<GoDuration>,
    /// Requests that are evicted at once.
    pub max_evictions_at_once: Option<u32>,
    /// How long an evicted request may take to end.
    pub eviction_confirmation_timeout: Option<GoDuration>,
    /// How long after its end its room may not show.
    pub eviction_confirmation_grace: Option<GoDuration>,
    /// Where the section stands.
    pub span: Span,
}

/// Settings for one priority.
#[derive(Debug, Clone)]
pub struct PriorityBand {
    /// The priority; 0 where absent.
    pub priority: Option<i64>,
    /// Bytes of bodies queued; 0 or absent: 10⁹.
    pub max_bytes: Option<Quantity>,
    /// Requests queued; 0 or absent: 5000.
    pub max_requests: Option<Quantity>,
    /// The plugin that chooses the queue to serve.
    pub fairness_policy: Option<PluginRef>,
    /// The plugin that orders a queue.
    pub ordering_policy: Option<PluginRef>,
    /// Where the priority stands, or else the band.
    pub span: Span,
    /// Its path, such as `flowControl.priorityBands[0]`.
    pub path: String,
}

// === impl Document ===

impl Document {
    /// The plugin of that name.
    pub fn plugin(&self, name: &str) -> Option<&Plugin> {
        self.plugins.iter().find(|plugin| plugin.name == name)
    }

    /// Adds a plugin without parameters, named like its type, for `reason`. Answers false, and
    /// adds nothing, if there is a plugin of that name.
    pub fn add_plugin(&mut self, plugin_type: &str, reason: &'static str) -> bool {
        if self.plugin(plugin_type).is_some() {
            return false;
        }
        self.plugins.push(Plugin {
            name: plugin_type.to_owned(),
            plugin_type: plugin_type.to_owned(),
            parameters: None,
            span: Span::NONE,
            type_span: Span::NONE,
            path: format!("plugins[{}]", self.plugins.len()),
            origin: Origin::Added(reason),
        });
        true
    }

    /// An empty collection for what is found later about this document.
    pub fn diagnostics(&self) -> Diagnostics {
        Diagnostics::new(self.source.clone())
    }

    /// What the catalog knows about the plugin of that name.
    pub(crate) fn info<'c>(&self, name: &str, catalog: &'c dyn Catalog) -> Option<TypeInfo<'c>> {
        catalog.lookup(&self.plugin(name)?.plugin_type)
    }

    /// Names of the plugins that can be used as `role`, in the order declared.
    pub(crate) fn having(&self, role: Role, catalog: &dyn Catalog) -> Vec<&Plugin> {
        let has = |plugin: &&Plugin| {
            catalog.lookup(&plugin.plugin_type).is_some_and(|info| info.has(role))
        };
        self.plugins.iter().filter(has).collect()
    }
}

// === impl Plugin ===

impl Plugin {
    /// Reads the plugin's parameters as a `T`; where none were written, as from an empty map.
    /// What is wrong is reported at its place.
    pub fn read_parameters<T: serde::de::DeserializeOwned>(
        &self,
        diagnostics: &mut Diagnostics,
    ) -> Option<T> {
        let base = format!("{}.parameters", self.path);
        let path = Path::Base(&base);
        match &self.parameters {
            Some(parameters) => super::de::read(parameters, &path, diagnostics),
            None => super::de::read(&Node::empty_map(self.type_span), &path, diagnostics),
        }
    }
}

// === impl PluginRef ===

impl PluginRef {
    /// A reference that nobody wrote.
    pub fn added(name: &str, path: impl Into<String>) -> Self {
        Self { name: name.to_owned(), span: Span::NONE, path: path.into() }
    }
}
