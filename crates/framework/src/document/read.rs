//! Tree to document. The tree has been compared with the schema and every misfit reported, so
//! what does not fit is left out here without a word and the rest is still read and checked.

use super::{
    diagnostics::Diagnostics,
    gates::FeatureGates,
    model::{
        DataLayer, DataSource, Document, FlowControl, FlowControlExpert, Origin, Plugin, PluginRef,
        PriorityBand, Profile, ProfilePlugin,
    },
    source::{Path, Span},
    tree::Node,
    units::{GoDuration, Quantity},
};

/// The name of the format's version that is not deprecated.
pub(crate) const API_VERSION: &str = "llm-d.ai/v1alpha1";
/// The one that is.
const OLD_API_VERSION: &str = "inference.networking.x-k8s.io/v1alpha1";
/// The only kind.
pub(crate) const KIND: &str = "EndpointPickerConfig";

/// Lists longer than their schema allows were reported; what is beyond is not read.
const MAX_LIST: usize = 1024;

const ROOT: Path<'_> = Path::ROOT;

pub(crate) fn document(root: &Node, diagnostics: &mut Diagnostics) -> Document {
    api_version(root, diagnostics);
    let gates = root.get("featureGates").and_then(Node::as_list).unwrap_or_default();
    let gates = FeatureGates::read(gates, &ROOT.key("featureGates"), diagnostics);
    let mut reader = Reader { diagnostics };
    Document {
        source: reader.diagnostics.source().clone(),
        gates,
        plugins: plugins(root),
        profiles: profiles(root),
        data_layer: root.get("dataLayer").map(data_layer).unwrap_or_default(),
        flow_control: reader.flow_control(root),
        parsers: reader.parsers(root),
    }
}

fn api_version(root: &Node, diagnostics: &mut Diagnostics) {
    let Some(node) = root.get("apiVersion") else { return };
    if node.as_str() == Some(OLD_API_VERSION) {
        let path = ROOT.key("apiVersion");
        diagnostics.warning(node.span, path, "this name of the version is deprecated", || {
            Some(format!("write `{API_VERSION}`"))
        });
    }
}

fn plugins(root: &Node) -> Vec<Plugin> {
    let path = ROOT.key("plugins");
    let mut plugins = Vec::new();
    for (path, node) in entries(root, "plugins", &path) {
        let type_node = node.get("type");
        let plugin_type = type_node.and_then(Node::as_str).unwrap_or_default();
        let name = node.get("name").and_then(Node::as_str).unwrap_or_default();
        let name = if name.is_empty() { plugin_type } else { name };
        if name.is_empty() {
            continue;
        }
        plugins.push(Plugin {
            name: name.to_owned(),
            plugin_type: plugin_type.to_owned(),
            parameters: node.get("parameters").filter(|node| node.as_map().is_some()).cloned(),
            span: node.span,
            type_span: type_node.map_or(node.span, |node| node.span),
            path: path.to_string(),
            origin: Origin::Written,
        });
    }
    plugins
}

fn profiles(root: &Node) -> Vec<Profile> {
    let path = ROOT.key("schedulingProfiles");
    let mut profiles = Vec::new();
    for (path, node) in entries(root, "schedulingProfiles", &path) {
        let name = node.get("name");
        let plugins_path = path.key("plugins");
        let plugins = entries(node, "plugins", &plugins_path).filter_map(|(path, node)| {
            let weight = node.get("weight");
            Some(ProfilePlugin {
                plugin: reference(node, &path)?,
                weight: weight.and_then(Node::as_f64),
                weight_span: weight.map_or(Span::NONE, |node| node.span),
            })
        });
        profiles.push(Profile {
            name: name.and_then(Node::as_str).unwrap_or_default().to_owned(),
            plugins: plugins.collect(),
            span: name.unwrap_or(node).span,
            path: path.to_string(),
            origin: Origin::Written,
        });
    }
    profiles
}

fn data_layer(node: &Node) -> DataLayer {
    let path = ROOT.key("dataLayer");
    let sources_path = path.key("sources");
    let sources = entries(node, "sources", &sources_path).filter_map(|(path, node)| {
        let extractors_path = path.key("extractors");
        let extractors = entries(node, "extractors", &extractors_path);
        Some(DataSource {
            plugin: reference(node, &path)?,
            extractors: extractors.filter_map(|(path, node)| reference(node, &path)).collect(),
        })
    });
    DataLayer {
        inject_defaults: node.get("injectDefaults").and_then(Node::as_bool),
        sources: sources.collect(),
        discovery: reference_under(node, "discovery", &path),
        peer_discovery: reference_under(node, "peerDiscovery", &path),
        cross_replica_syncer: named(node, "crossReplicaSyncerPluginRef", &path),
        cross_replica_sync_interval: duration(node, "crossReplicaSyncInterval"),
    }
}

struct Reader<'d> {
    diagnostics: &'d mut Diagnostics,
}

impl Reader<'_> {
    fn flow_control(&mut self, root: &Node) -> FlowControl {
        let path = ROOT.key("flowControl");
        let mut flow_control = root.get("flowControl").map_or_else(FlowControl::default, |node| {
            let mut band = |key| {
                let band = node.get(key)?;
                Some(self.band(band, &path.key(key)))
            };
            let default_priority_band = band("defaultPriorityBand");
            let default_negative_priority_band = band("defaultNegativePriorityBand");
            let bands_path = path.key("priorityBands");
            let bands = entries(node, "priorityBands", &bands_path);
            FlowControl {
                default_priority_band,
                default_negative_priority_band,
                priority_bands: bands.map(|(path, node)| self.band(node, &path)).collect(),
                max_bytes: self.quantity(node, "maxBytes", &path),
                max_requests: self.quantity(node, "maxRequests", &path),
                default_request_ttl: self.time(node, "defaultRequestTTL", &path),
                no_endpoint_request_ttl: self.time(node, "noEndpointRequestTTL", &path),
                usage_limit_policy: named(node, "usageLimitPolicyPluginRef", &path),
                saturation_detector: reference_under(node, "saturationDetector", &path),
                enable_eviction: node.get("enableEviction").and_then(Node::as_bool),
                eviction_filter: named(node, "evictionFilterPluginRef", &path),
                eviction_order: named(node, "evictionOrderPluginRef", &path),
                expert: node
                    .get("expert")
                    .map(|node| self.expert(node, &path.key("expert")))
                    .unwrap_or_default(),
            }
        });
        let old = reference_under(root, "saturationDetector", &ROOT);
        if let Some(old) = old {
            let new = &mut flow_control.saturation_detector;
            let is_set = new.is_some();
            self.deprecated(&old, "saturationDetector", "flowControl.saturationDetector", is_set);
            new.get_or_insert(old);
        }
        flow_control
    }

    fn parsers(&mut self, root: &Node) -> Vec<PluginRef> {
        let path = ROOT.key("requestHandler");
        let path = path.key("parsers");
        let mut parsers: Vec<_> = root
            .get("requestHandler")
            .into_iter()
            .flat_map(|node| entries(node, "parsers", &path))
            .filter_map(|(path, node)| reference(node, &path))
            .collect();
        if let Some(old) = reference_under(root, "parser", &ROOT) {
            self.deprecated(&old, "parser", "requestHandler.parsers", !parsers.is_empty());
            if parsers.is_empty() {
                parsers.push(old);
            }
        }
        parsers
    }

    fn deprecated(&mut self, old: &PluginRef, key: &str, new_key: &str, is_set: bool) {
        let message = if is_set {
            format!("deprecated, and ignored because `{new_key}` is set")
        } else {
            "deprecated".to_owned()
        };
        let help = || (!is_set).then(|| format!("write `{new_key}`"));
        self.diagnostics.warning(old.span, ROOT.key(key), message, help);
    }

    fn band(&mut self, node: &Node, path: &Path<'_>) -> PriorityBand {
        let priority = node.get("priority");
        PriorityBand {
            priority: priority.and_then(Node::as_i64),
            max_bytes: self.quantity(node, "maxBytes", path),
            max_requests: self.quantity(node, "maxRequests", path),
            fairness_policy: named(node, "fairnessPolicyRef", path),
            ordering_policy: named(node, "orderingPolicyRef", path),
            span: priority.unwrap_or(node).span,
            path: path.to_string(),
        }
    }

    fn expert(&mut self, node: &Node, path: &Path<'_>) -> FlowControlExpert {
        let count = |key| node.get(key).and_then(Node::as_i64).and_then(|n| u32::try_from(n).ok());
        FlowControlExpert {
            max_priority_bands: count("maxPriorityBands"),
            max_idle_flows: count("maxIdleFlows"),
            flow_idle_timeout: self.time(node, "flowIdleTimeout", path),
            priority_band_idle_timeout: self.time(node, "priorityBandIdleTimeout", path),
            min_retry_after: self.time(node, "minRetryAfter", path),
            max_retry_after: self.time(node, "maxRetryAfter", path),
            trickle_share: node.get("trickleShare").and_then(Node::as_f64),
            trickle_interval: self.time(node, "trickleInterval", path),
            max_evictions_at_once: count("maxEvictionsAtOnce"),
            eviction_confirmation_timeout: self.time(node, "evictionConfirmationTimeout", path),
            eviction_confirmation_grace: self.time(node, "evictionConfirmationGrace", path),
            span: node.span,
        }
    }

    /// A duration that is not negative.
    fn time(&mut self, node: &Node, key: &str, path: &Path<'_>) -> Option<GoDuration> {
        let time = duration(node, key)?;
        if time.nanos() >= 0 {
            return Some(time);
        }
        let (message, span) = (format!("`{time}` must not be negative"), node.get(key)?.span);
        self.diagnostics.error(span, path.key(key), message, || None);
        None
    }

    fn quantity(&mut self, node: &Node, key: &str, path: &Path<'_>) -> Option<Quantity> {
        let node = node.get(key)?;
        let text = match node.as_str() {
            Some(text) => text.to_owned(),
            None => node.as_f64().map(|_| node.to_json().to_string())?,
        };
        let quantity: Quantity = text.parse().ok()?;
        if quantity.value() < 0 {
            let message = format!("`{quantity}` must not be negative");
            self.diagnostics.error(node.span, path.key(key), message, || None);
            return None;
        }
        Some(quantity)
    }
}

/// The entries of the list under `key`, with their paths.
fn entries<'n, 'p>(
    node: &'n Node,
    key: &str,
    path: &'p Path<'p>,
) -> impl Iterator<Item = (Path<'p>, &'n Node)> {
    let list = node.get(key).and_then(Node::as_list).unwrap_or_default();
    list.iter().take(MAX_LIST).enumerate().map(|(index, node)| (path.index(index), node))
}

/// The reference in a map's `pluginRef`.
fn reference(node: &Node, path: &Path<'_>) -> Option<PluginRef> {
    named(node, "pluginRef", path)
}

fn reference_under(node: &Node, key: &str, path: &Path<'_>) -> Option<PluginRef> {
    reference(node.get(key)?, &path.key(key))
}

/// The reference that the text under `key` is.
fn named(node: &Node, key: &str, path: &Path<'_>) -> Option<PluginRef> {
    let node = node.get(key)?;
    let name = node.as_str().filter(|name| !name.is_empty())?.to_owned();
    Some(PluginRef { name, span: node.span, path: path.key(key).to_string() })
}

fn duration(node: &Node, key: &str) -> Option<GoDuration> {
    node.get(key)?.as_str()?.parse().ok()
}
