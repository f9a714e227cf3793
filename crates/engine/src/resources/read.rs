//! From objects that fit their definitions to what they say, with the rules that definitions cannot express.

use router_core::Labels;
use router_framework::document::{
    Diagnostics, Path, Span,
    diagnostics::quote,
    tree::{Map, Node},
};

use super::{
    MAX_REWRITE_MODELS, POOL_GROUP, Pages, Pool, definition::Kind, manifest::Object,
    time::unix_seconds,
};
use crate::rewrites::{Rewrite, Rule, Target};

/// Limits of Kubernetes.
const MAX_LABEL_NAME_BYTES: usize = 63;
const MAX_LABEL_PREFIX_BYTES: usize = 253;

/// What objects have in common.
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) created: Option<i64>,
    pub(super) is_legacy: bool,
    pub(super) page: usize,
    /// Of its name.
    pub(super) span: Span,
    pub(super) base: String,
}

/// The pool that an object is for.
pub(super) struct PoolRef {
    pub(super) group: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) span: Span,
}

pub(super) struct ObjectiveObject {
    pub(super) meta: Meta,
    pub(super) pool: PoolRef,
    pub(super) priority: Option<i32>,
}

pub(super) struct RewriteObject {
    pub(super) meta: Meta,
    pub(super) pool: PoolRef,
    pub(super) rewrite: Rewrite,
    /// Of every rule the places of its models, or the rule's own where it has none.
    pub(super) places: Vec<Vec<Span>>,
}

pub(super) struct PoolObject {
    pub(super) meta: Meta,
    pub(super) pool: Pool,
}

/// All objects by their kind.
#[derive(Default)]
pub(super) struct All {
    pub(super) objectives: Vec<ObjectiveObject>,
    pub(super) rewrites: Vec<RewriteObject>,
    pub(super) pools: Vec<PoolObject>,
}

/// Reads all objects; what is wrong is noted on their pages.
pub(super) fn all(objects: &[Object], pages: &mut Pages) -> All {
    let mut all = All::default();
    let mut n_models = 0;
    for object in objects {
        let Some(page) = pages.get_mut(object.page) else { continue };
        let mut reader = Reader { object, page };
        let Some(meta) = reader.meta() else { continue };
        let Some(spec) = object.node.get("spec") else { continue };
        match object.kind {
            Kind::Objective => {
                let Some(pool) = reader.pool_ref(spec) else { continue };
                let priority = reader.priority(spec);
                all.objectives.push(ObjectiveObject { meta, pool, priority });
            }
            Kind::Rewrite => {
                let Some(pool) = reader.pool_ref(spec) else { continue };
                let (rules, places) = reader.rules(spec);
                n_models +=
                    rules.iter().map(|rule| rule.models.len() + rule.targets.len()).sum::<usize>();
                if n_models > MAX_REWRITE_MODELS {
                    let message = format!("rewrites name more than {MAX_REWRITE_MODELS} models");
                    reader.error(spec.span, "spec.rules", message);
                }
                let rewrite =
                    Rewrite { name: meta.name.as_str().into(), created: meta.created, rules };
                all.rewrites.push(RewriteObject { meta, pool, rewrite, places });
            }
            Kind::Pool => {
                let pool = reader.pool(&meta, spec);
                all.pools.push(PoolObject { meta, pool });
            }
        }
    }
    all
}

struct Reader<'r> {
    object: &'r Object,
    page: &'r mut Diagnostics,
}

impl Reader<'_> {
    fn error(&mut self, span: Span, path: impl std::fmt::Display, message: impl Into<String>) {
        let base = Path::Base(&self.object.base);
        let dot = if self.object.base.is_empty() { "" } else { "." };
        self.page.error(span, format_args!("{base}{dot}{path}"), message, || None);
    }

    /// `None` for an object that its cluster is about to forget.
    fn meta(&mut self) -> Option<Meta> {
        let Object { node, is_legacy, page, base, .. } = self.object;
        let metadata = node.get("metadata")?;
        let text = |key| metadata.get(key).and_then(Node::as_str);
        let name = metadata.get("name")?;
        if let Some(deleted) = metadata.get("deletionTimestamp") {
            let message = "the object was being deleted when it was written down; it has no effect";
            self.page.warning(deleted.span, Path::Base(base), message, || None);
            return None;
        }
        let created = metadata.get("creationTimestamp");
        let seconds = created.and_then(Node::as_str).and_then(unix_seconds);
        if let (Some(created), None) = (created, seconds) {
            let message = "expected a time such as `2026-01-31T08:00:00Z`";
            self.error(created.span, "metadata.creationTimestamp", message);
        }
        Some(Meta {
            name: name.as_str()?.to_owned(),
            namespace: text("namespace").map(str::to_owned),
            created: seconds,
            is_legacy: *is_legacy,
            page: *page,
            span: name.span,
            base: base.clone(),
        })
    }

    fn pool_ref(&mut self, spec: &Node) -> Option<PoolRef> {
        let node = spec.get("poolRef")?;
        let text = |key| node.get(key).and_then(Node::as_str);
        let name = node.get("name")?;
        Some(PoolRef {
            group: text("group").unwrap_or(POOL_GROUP).to_owned(),
            kind: text("kind").unwrap_or(Kind::Pool.name()).to_owned(),
            name: name.as_str()?.to_owned(),
            span: name.span,
        })
    }

    fn priority(&mut self, spec: &Node) -> Option<i32> {
        let node = spec.get("priority")?;
        let priority = node.as_i64().and_then(|value| i32::try_from(value).ok());
        if priority.is_none() {
            self.error(node.span, "spec.priority", "expected a 32-bit whole number");
        }
        priority
    }

    fn rules(&mut self, spec: &Node) -> (Vec<Rule>, Vec<Vec<Span>>) {
        let rules = list(spec, "rules").iter().enumerate();
        rules.map(|(at, rule)| self.rule(rule, &format!("spec.rules[{at}]"))).unzip()
    }

    fn rule(&mut self, node: &Node, path: &str) -> (Rule, Vec<Span>) {
        let values = list(node, "matches").iter().filter_map(|of| of.get("model")?.get("value"));
        let (models, mut places): (Vec<_>, Vec<_>) =
            values.filter_map(|value| Some((value.as_str()?.into(), value.span))).unzip();
        if models.is_empty() {
            places.push(node.span);
        }
        let targets = list(node, "targets");
        let weight = |target: &Node| target.get("weight").and_then(Node::as_i64);
        let is_weighted = targets.iter().any(|target| weight(target).is_some());
        let mut rule = Rule { models, targets: Vec::new() };
        for (at, target) in targets.iter().enumerate() {
            let Some(model) = target.get("modelRewrite") else { continue };
            let name = model.as_str().unwrap_or_default();
            if name.is_empty() {
                // Every such request would be refused for its missing model.
                self.error(
                    model.span,
                    format_args!("{path}.targets[{at}].modelRewrite"),
                    "must not be empty",
                );
            }
            let weight = weight(target).and_then(|weight| u32::try_from(weight).ok());
            if is_weighted && weight.is_none() {
                let message = "`weight` must be set for all targets of a rule or for none; \
                               this one would never be chosen";
                self.error(target.span, format_args!("{path}.targets[{at}]"), message);
            }
            rule.targets.push(Target { model: name.into(), weight });
        }
        (rule, places)
    }

    fn pool(&mut self, meta: &Meta, spec: &Node) -> Pool {
        let selector =
            spec.get("selector").and_then(|selector| selector.get("matchLabels")?.as_map());
        let place = format!("{}:{}", self.page.source().name(), meta.span);
        let pool = Pool {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            selector: selector.map(|selector| self.labels(selector)).unwrap_or_default(),
            target_ports: self.target_ports(spec),
            is_h2c: spec.get("appProtocol").and_then(Node::as_str) == Some("kubernetes.io/h2c"),
            place,
        };
        self.picker(spec);
        pool
    }

    /// A definition cannot say what keys are like, so that an API server lets all pass.
    fn labels(&mut self, selector: &Map) -> Labels {
        let mut labels = Labels::new();
        for entry in selector.entries() {
            if !is_label_key(&entry.key) {
                let message = format!("{} is no label's key", quote(&entry.key));
                self.error(entry.key_span, "spec.selector.matchLabels", message);
            }
            labels.insert(entry.key.clone(), entry.value.as_str().unwrap_or_default().to_owned());
        }
        labels
    }

    fn target_ports(&mut self, spec: &Node) -> Vec<u16> {
        let mut ports = Vec::new();
        for (at, node) in list(spec, "targetPorts").iter().enumerate() {
            let Some(number) = node.get("number") else { continue };
            let Some(port) = number.as_i64().and_then(|port| u16::try_from(port).ok()) else {
                continue;
            };
            if ports.contains(&port) {
                let path = format!("spec.targetPorts[{at}].number");
                self.error(number.span, path, "port number must be unique");
            }
            ports.push(port);
        }
        ports
    }

    /// Who a gateway asks for an endpoint. Without a gateway nobody reads it.
    fn picker(&mut self, spec: &Node) {
        let Some(picker) = spec.get("endpointPickerRef") else { return };
        let kind = picker.get("kind").and_then(Node::as_str).unwrap_or("Service");
        if kind == "Service" && picker.get("port").is_none() {
            let message =
                "port is required when kind is 'Service' or unspecified (defaults to 'Service')";
            self.error(picker.span, "spec.endpointPickerRef", message);
        }
        let fails_open = |mode: &&Node| mode.as_str() == Some("FailOpen");
        if let Some(mode) = picker.get("failureMode").filter(fails_open) {
            let path = Path::Base(&self.object.base);
            let path = path.key("spec");
            let path = path.key("endpointPickerRef");
            let message = "has no effect without a gateway that reads it";
            let help = "behind Envoy, `failure_mode_allow` of its ext_proc filter decides";
            self.page
                .warning(mode.span, path.key("failureMode"), message, || Some(help.to_owned()));
        }
    }
}

fn list<'n>(node: &'n Node, key: &str) -> &'n [Node] {
    node.get(key).and_then(Node::as_list).unwrap_or_default()
}

/// `name` or `prefix/name`, as Kubernetes has it.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) =
        key.split_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let is_part = |part: &str| is_enclosed(part, is_small, b"-");
    is_enclosed(name, |byte| byte.is_ascii_alphanumeric(), b"-_.")
        && name.len() <= MAX_LABEL_NAME_BYTES
        && prefix.is_none_or(|prefix| {
            prefix.len() <= MAX_LABEL_PREFIX_BYTES && prefix.split('.').all(is_part)
        })
}

fn is_small(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// Whether all is `is_end` or one of `inner`, and both ends are `is_end`.
fn is_enclosed(text: &str, is_end: fn(u8) -> bool, inner: &[u8]) -> bool {
    let ends = [text.bytes().next(), text.bytes().last()];
    ends.into_iter().all(|end| end.is_some_and(is_end))
        && text.bytes().all(|byte| is_end(byte) || inner.contains(&byte))
}
