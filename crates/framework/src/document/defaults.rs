//! Everything that runs without being written. In the order declared, so that a document always
//! means the same.

use super::{
    catalog::{Catalog, Role},
    model::{DataSource, Document, FlowControl, Origin, PluginRef, Profile, ProfilePlugin},
    source::Span,
    units::GoDuration,
};

pub(crate) const SINGLE_PROFILE_HANDLER: &str = "single-profile-handler";
pub(crate) const SATURATION_DETECTOR: &str = "utilization-detector";
pub(crate) const ORDERING_POLICY: &str = "fcfs-ordering-policy";
pub(crate) const FAIRNESS_POLICY: &str = "global-strict-fairness-policy";
pub(crate) const USAGE_LIMIT_POLICY: &str = "static-usage-limit-policy";
pub(crate) const EVICTION_FILTER: &str = "sheddable-eviction-filter";
pub(crate) const EVICTION_ORDER: &str = "priority-then-time-eviction-order-policy";
pub(crate) const PICKER: &str = "max-score-picker";
const METRICS_SOURCE: &str = "metrics-data-source";
const METRICS_EXTRACTOR: &str = "core-metrics-extractor";
const PARSERS: [&str; 4] =
    ["openai-parser", "anthropic-parser", "vllmhttp-parser", "passthrough-parser"];
const PROFILE: &str = "default";

/// How long a request waits in a queue where nothing else is written.
const REQUEST_TTL: GoDuration = GoDuration::from_millis(60_000);

fn added(name: &str, key: &str) -> PluginRef {
    PluginRef::added(name, format!("flowControl.{key}"))
}

impl Document {
    /// Adds all that a document means without saying it: a default profile, its handler and
    /// picker, weights, policies, the saturation detector, parsers, the metrics source.
    /// Data producers are left to the loader, which knows what plugins read.
    pub fn with_defaults(mut self, catalog: &dyn Catalog) -> Self {
        self.add_profile(catalog);
        self.add_handler(catalog);
        self.add_pickers(catalog);
        self.fill_weights(catalog);
        for policy in [ORDERING_POLICY, FAIRNESS_POLICY, USAGE_LIMIT_POLICY] {
            self.add_plugin(policy, "flow control needs one");
        }
        self.fill_flow_control(catalog);
        self.add_parsers();
        self.add_metrics_source(catalog);
        self
    }

    fn add_profile(&mut self, catalog: &dyn Catalog) {
        if !self.profiles.is_empty() {
            return;
        }
        let path = "schedulingProfiles[0]";
        let mut plugins = Vec::new();
        for plugin in &self.plugins {
            let info = catalog.lookup(&plugin.plugin_type);
            if info.is_some_and(|info| info.roles.iter().any(|role| role.is_scheduling())) {
                plugins.push(added_to_profile(&plugin.name, path, plugins.len()));
            }
        }
        self.profiles.push(Profile {
            name: PROFILE.to_owned(),
            plugins,
            span: Span::NONE,
            path: path.to_owned(),
            origin: Origin::Added("no profile is written"),
        });
    }

    fn add_handler(&mut self, catalog: &dyn Catalog) {
        if self.profiles.len() == 1 && self.having(Role::ProfileHandler, catalog).is_empty() {
            self.add_plugin(SINGLE_PROFILE_HANDLER, "one profile needs no other handler");
        }
    }

    fn add_pickers(&mut self, catalog: &dyn Catalog) {
        let mut profiles = std::mem::take(&mut self.profiles);
        for profile in &mut profiles {
            let is_picker = |entry: &ProfilePlugin| {
                self.info(&entry.plugin.name, catalog).is_some_and(|info| info.has(Role::Picker))
            };
            if profile.plugins.iter().any(is_picker) {
                continue;
            }
            let declared = self.having(Role::Picker, catalog).first().map(|p| p.name.clone());
            let picker = declared.unwrap_or_else(|| {
                self.add_plugin(PICKER, "a profile needs a picker");
                PICKER.to_owned()
            });
            let entry = added_to_profile(&picker, &profile.path, profile.plugins.len());
            profile.plugins.push(entry);
        }
        self.profiles = profiles;
    }

    fn fill_weights(&mut self, catalog: &dyn Catalog) {
        let mut profiles = std::mem::take(&mut self.profiles);
        for entry in profiles.iter_mut().flat_map(|profile| &mut profile.plugins) {
            let info = self.info(&entry.plugin.name, catalog);
            if info.is_some_and(|info| info.has(Role::Scorer)) {
                entry.weight.get_or_insert(1.0);
            }
        }
        self.profiles = profiles;
    }

    fn fill_flow_control(&mut self, catalog: &dyn Catalog) {
        let gate = self.gates.flow_control.on;
        let flow_control = &mut self.flow_control;
        let detector = flow_control
            .saturation_detector
            .get_or_insert_with(|| added(SATURATION_DETECTOR, "saturationDetector.pluginRef"));
        let is_default = detector.name == SATURATION_DETECTOR;
        // With the gate off the rest has no effect, and writing it out would say it has.
        if gate {
            let ttl = *flow_control.default_request_ttl.get_or_insert(REQUEST_TTL);
            flow_control.no_endpoint_request_ttl.get_or_insert(ttl);
            flow_control
                .usage_limit_policy
                .get_or_insert_with(|| added(USAGE_LIMIT_POLICY, "usageLimitPolicyPluginRef"));
        }
        if is_default {
            self.add_plugin(SATURATION_DETECTOR, "the saturation detector");
        }
        if gate && self.flow_control.enable_eviction == Some(true) {
            let filter = self.eviction_policy(Role::EvictionFilter, EVICTION_FILTER, catalog);
            let order = self.eviction_policy(Role::EvictionOrder, EVICTION_ORDER, catalog);
            let FlowControl { eviction_filter, eviction_order, .. } = &mut self.flow_control;
            eviction_filter.get_or_insert_with(|| added(&filter, "evictionFilterPluginRef"));
            eviction_order.get_or_insert_with(|| added(&order, "evictionOrderPluginRef"));
        }
    }

    /// The first declared plugin of the role; else one of the default type, which is added.
    /// Differs: Go makes its own and never consults a declared one.
    fn eviction_policy(&mut self, role: Role, default: &str, catalog: &dyn Catalog) -> String {
        if let Some(declared) = self.having(role, catalog).first() {
            return declared.name.clone();
        }
        self.add_plugin(default, "eviction is enabled");
        default.to_owned()
    }

    fn add_parsers(&mut self) {
        if self.parsers.is_empty() {
            let path = |index| format!("requestHandler.parsers[{index}].pluginRef");
            let all = PARSERS.iter().enumerate();
            self.parsers = all.map(|(n, name)| PluginRef::added(name, path(n))).collect();
        }
        let names: Vec<_> = self.parsers.iter().map(|parser| parser.name.clone()).collect();
        for name in names {
            self.add_plugin(&name, "a parser");
        }
    }

    /// Differs: Go looks for a source *named* like the type, and scrapes everything twice where
    /// the metrics source has another name (spec/scheduling.md A-5).
    fn add_metrics_source(&mut self, catalog: &dyn Catalog) {
        let of_type = |document: &Self, wanted: &str| {
            let mut plugins = document.plugins.iter();
            plugins.find(|plugin| plugin.plugin_type == wanted).map(|plugin| plugin.name.clone())
        };
        let is_metrics = |source: &DataSource| {
            let plugin = self.plugin(&source.plugin.name);
            plugin.is_some_and(|plugin| plugin.plugin_type == METRICS_SOURCE)
        };
        let has_one = self.data_layer.sources.iter().any(is_metrics);
        let wanted = self.data_layer.inject_defaults.unwrap_or(true) && !has_one;
        let known = |name| catalog.lookup(name).is_some();
        if !wanted || !known(METRICS_SOURCE) || !known(METRICS_EXTRACTOR) {
            return;
        }
        let mut name_of = |wanted: &str| {
            of_type(self, wanted).unwrap_or_else(|| {
                self.add_plugin(wanted, "scorers read endpoint metrics");
                wanted.to_owned()
            })
        };
        let (source, extractor) = (name_of(METRICS_SOURCE), name_of(METRICS_EXTRACTOR));
        let path = format!("dataLayer.sources[{}]", self.data_layer.sources.len());
        self.data_layer.sources.push(DataSource {
            extractors: vec![PluginRef::added(
                &extractor,
                format!("{path}.extractors[0].pluginRef"),
            )],
            plugin: PluginRef::added(&source, format!("{path}.pluginRef")),
        });
    }
}

fn added_to_profile(plugin: &str, profile_path: &str, index: usize) -> ProfilePlugin {
    let path = format!("{profile_path}.plugins[{index}].pluginRef");
    let plugin = PluginRef::added(plugin, path);
    ProfilePlugin { plugin, weight: None, weight_span: Span::NONE }
}
