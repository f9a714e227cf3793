//! References of the data layer, flow control and the request handler.

use std::collections::{BTreeMap, BTreeSet};

use router_flow::Bounds;

use super::{Availability, Checker, Node, Path, PluginRef, Role, Target, quote};
use crate::document::{
    defaults::{
        EVICTION_FILTER, EVICTION_ORDER, FAIRNESS_POLICY, ORDERING_POLICY, SATURATION_DETECTOR,
        USAGE_LIMIT_POLICY,
    },
    model::{DataSource, PriorityBand},
    schema,
    tree::Entry,
    units::GoDuration,
};

/// The only setting of flow control that counts while its gate is off.
const ALWAYS_USED: &str = "saturationDetector";

impl Checker<'_> {
    pub(super) fn sections(&mut self) {
        self.data_layer();
        self.parsers();
        if let Some(detector) = &self.document.flow_control.saturation_detector {
            self.expect_or_added(detector, Role::SaturationDetector, SATURATION_DETECTOR);
        }
        self.priorities();
        if self.document.gates.flow_control.on {
            self.policies();
        } else {
            self.unused_flow_control();
        }
    }

    fn data_layer(&mut self) {
        let layer = &self.document.data_layer;
        let mut lines = BTreeMap::new();
        for source in &layer.sources {
            self.expect(&source.plugin, Role::DataSource);
            let reference = &source.plugin;
            if let Some(line) = lines.insert(&reference.name, reference.span.line) {
                let message = format!("a second entry for {}", quote(&reference.name));
                let help = || Some(format!("put its extractors under line {line}"));
                let path = Path::Base(&reference.path);
                self.diagnostics.error(reference.span, path, message, help);
            }
            self.extractors(source);
        }
        if let Some(discovery) = &layer.discovery {
            self.expect(discovery, Role::Discovery);
        }
        let replicas = [&layer.peer_discovery, &layer.cross_replica_syncer];
        for reference in replicas.into_iter().flatten() {
            self.resolve(reference);
        }
    }

    fn extractors(&mut self, source: &DataSource) {
        let document = self.document;
        let mut types = BTreeSet::new();
        for reference in &source.extractors {
            self.expect(reference, Role::Extractor);
            let Some(plugin) = document.plugin(&reference.name) else { continue };
            if !types.insert(plugin.plugin_type.as_str()) {
                let plugin_type = quote(&plugin.plugin_type);
                let message = format!("a second extractor of type {plugin_type} on this source");
                let path = Path::Base(&reference.path);
                self.diagnostics.error(reference.span, path, message, || None);
            }
        }
    }

    /// A parser may be named by its type; it is added then.
    fn parsers(&mut self) {
        let document = self.document;
        let mut types = BTreeSet::new();
        for reference in &document.parsers {
            let mut plugin_type = reference.name.as_str();
            match self.target(reference) {
                Target::Known(info) => {
                    self.expect_role(reference, info, Role::Parser);
                    let plugin = document.plugin(&reference.name);
                    plugin_type = plugin.map_or(plugin_type, |plugin| &plugin.plugin_type);
                }
                Target::Unknown => continue,
                Target::Missing => match self.catalog.lookup(&reference.name) {
                    Some(info) => {
                        let path = Path::Base(&reference.path);
                        self.plugin_type(&reference.name, reference.span, path);
                        if info.availability == Availability::Available {
                            self.expect_role(reference, info, Role::Parser);
                        }
                    }
                    None => self.no_parser(reference),
                },
            }
            if !types.insert(plugin_type) {
                let message = format!("a second parser of type {} is ignored", quote(plugin_type));
                let path = Path::Base(&reference.path);
                self.diagnostics.warning(reference.span, path, message, || None);
            }
        }
    }

    fn no_parser(&mut self, reference: &PluginRef) {
        let (document, catalog) = (self.document, self.catalog);
        let message =
            format!("{} is neither a plugin nor a type of parser", quote(&reference.name));
        let help = || {
            let is_parser =
                |name: &&str| catalog.lookup(name).is_some_and(|info| info.has(Role::Parser));
            let types = catalog.types().into_iter().filter(is_parser);
            let names = document.plugins.iter().map(|plugin| plugin.name.as_str());
            super::suggest::did_you_mean(&reference.name, names.chain(types))
        };
        self.diagnostics.error(reference.span, Path::Base(&reference.path), message, help);
    }

    /// One plugin of each of these kinds is there without being declared.
    fn expect_or_added(&mut self, reference: &PluginRef, role: Role, added: &str) {
        match self.target(reference) {
            Target::Known(info) => self.expect_role(reference, info, role),
            Target::Missing if reference.name != added => self.dangling(reference, Some(added)),
            Target::Missing | Target::Unknown => {}
        }
    }

    fn priorities(&mut self) {
        let bands = &self.document.flow_control.priority_bands;
        let mut lines = BTreeMap::new();
        for band in bands {
            let priority = band.priority.unwrap_or(0);
            if i32::try_from(priority).is_err() {
                let message = "expected a 32-bit whole number";
                self.diagnostics.error(band.span, Path::Base(&band.path), message, || None);
            }
            if let Some(line) = lines.insert(priority, band.span.line) {
                let message = format!("a second band for priority {priority}");
                let help = || Some(format!("the other is on line {line}"));
                self.diagnostics.error(band.span, Path::Base(&band.path), message, help);
            }
        }
    }

    fn policies(&mut self) {
        let flow_control = &self.document.flow_control;
        if let Some(policy) = &flow_control.usage_limit_policy {
            self.expect_or_added(policy, Role::UsageLimitPolicy, USAGE_LIMIT_POLICY);
        }
        let templates =
            [&flow_control.default_priority_band, &flow_control.default_negative_priority_band];
        for band in templates.into_iter().flatten().chain(&flow_control.priority_bands) {
            self.band(band);
        }
        if let Some(filter) = &flow_control.eviction_filter {
            self.expect_or_added(filter, Role::EvictionFilter, EVICTION_FILTER);
        }
        if let Some(order) = &flow_control.eviction_order {
            self.expect_or_added(order, Role::EvictionOrder, EVICTION_ORDER);
        }
        if flow_control.enable_eviction == Some(true) {
            if flow_control.eviction_filter.is_none() {
                let key = "evictionFilterPluginRef";
                self.at_most_one(Role::EvictionFilter, "eviction filter", key);
            }
            if flow_control.eviction_order.is_none() {
                self.at_most_one(Role::EvictionOrder, "eviction order", "evictionOrderPluginRef");
            }
        }
        self.expert();
    }

    /// A declared plugin of this role is used without being named, so there must be no choice.
    fn at_most_one(&mut self, role: Role, what: &str, key: &str) {
        let declared = self.document.having(role, self.catalog);
        let [first, second, ..] = declared.as_slice() else { return };
        let message = format!("a second {what}, beside {}", quote(&first.name));
        let help = || Some(format!("say in `flowControl.{key}` which one is used"));
        self.diagnostics.error(second.span, Path::Base(&second.path), message, help);
    }

    /// What the schema cannot say of the expert section.
    fn expert(&mut self) {
        let flow_control = &self.document.flow_control;
        let expert = &flow_control.expert;
        let default = Bounds::default();
        let or = |time: Option<GoDuration>, default: std::time::Duration| {
            time.unwrap_or_else(|| default.into())
        };
        let mut wrong = |is_wrong: bool, key: &str, message: &str| {
            if is_wrong {
                let path = format!("flowControl.expert.{key}");
                self.diagnostics.error(expert.span, Path::Base(&path), message, || None);
            }
        };
        let flow_idle = or(expert.flow_idle_timeout, default.flow_idle);
        let band_idle = or(expert.priority_band_idle_timeout, default.band_idle);
        let key = "priorityBandIdleTimeout";
        wrong(band_idle < flow_idle, key, "must be at least `flowIdleTimeout`");
        let least = or(expert.min_retry_after, default.min_retry_after);
        let most = or(expert.max_retry_after, default.max_retry_after);
        wrong(most < least, "maxRetryAfter", "must be at least `minRetryAfter`");
        let timeout = expert.eviction_confirmation_timeout;
        let is_zero = timeout.is_some_and(|timeout| timeout.nanos() == 0);
        wrong(is_zero, "evictionConfirmationTimeout", "must be above 0");
        let max_bands = expert.max_priority_bands.map_or(default.max_bands, |n| n as usize);
        // The one of priority 0 always exists.
        let has_zero =
            flow_control.priority_bands.iter().any(|band| band.priority.unwrap_or(0) == 0);
        let n_bands = flow_control.priority_bands.len() + usize::from(!has_zero);
        wrong(n_bands > max_bands, "maxPriorityBands", "less than the bands that are listed");
    }

    fn band(&mut self, band: &PriorityBand) {
        if let Some(policy) = &band.fairness_policy {
            self.expect_or_added(policy, Role::FairnessPolicy, FAIRNESS_POLICY);
        }
        if let Some(policy) = &band.ordering_policy {
            self.expect_or_added(policy, Role::OrderingPolicy, ORDERING_POLICY);
        }
    }

    fn unused_flow_control(&mut self) {
        let map = self.root.get("flowControl").and_then(Node::as_map);
        let entries = map.into_iter().flat_map(|map| map.entries());
        let keys = schema::format().pointer("/$defs/FlowControl/properties");
        let is_unused = |entry: &&Entry| {
            let is_known = keys.is_some_and(|keys| keys.get(&entry.key).is_some());
            is_known && entry.key != ALWAYS_USED && !entry.value.is_null()
        };
        let unused: Vec<_> = entries.filter(is_unused).collect();
        let Some(first) = unused.first() else { return };
        let names: Vec<_> = unused.iter().map(|entry| quote(&entry.key)).collect();
        let message =
            format!("no effect while feature gate `flowControl` is off: {}", names.join(", "));
        let path = Path::ROOT;
        self.diagnostics.warning(first.key_span, path.key("flowControl"), message, || None);
    }
}
