//! One address of a model server: what it is, and the live state that is kept about it.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;

use crate::{
    signals::{LoraSignals, SignalCell, Signals},
    slots::{EndpointSlot, SlotValues},
};

/// Labels of an endpoint, ordered by name.
pub type Labels = BTreeMap<String, String>;

/// Dense number of a live endpoint. A number is used again after its endpoint has gone; `generation` tells
/// the two apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointIndex {
    pub slot: u32,
    pub generation: u32,
}

/// How a model server is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scheme {
    #[default]
    Http,
    /// HTTP/2 without TLS, which the server must speak without being asked.
    H2c,
    Https,
}

/// What discovery says about an endpoint. Equal specs mean that nothing changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSpec {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// IP address as text, without brackets; a DNS name has been resolved by then.
    pub address: Arc<str>,
    pub port: u16,
    pub scheme: Scheme,
    /// Host name for TLS and the `host` header where it is not the address.
    pub host: Option<Arc<str>>,
    /// `host:port` that metrics are scraped from where it is not the endpoint's own.
    pub metrics_authority: Option<Arc<str>>,
    pub labels: Arc<Labels>,
    /// Data-parallel rank behind one address.
    pub rank: u32,
}

impl EndpointSpec {
    pub fn new(namespace: &str, name: &str, address: &str, port: u16) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            address: address.into(),
            port,
            scheme: Scheme::Http,
            host: None,
            metrics_authority: None,
            labels: Arc::default(),
            rank: 0,
        }
    }

    pub fn with_labels<K: Into<String>, V: Into<String>>(
        mut self,
        labels: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        self.labels = Arc::new(labels.into_iter().map(|(k, v)| (k.into(), v.into())).collect());
        self
    }
}

/// State that outlives a change of the spec: signals and what plugins keep.
#[derive(Debug)]
pub struct EndpointState {
    signals: SignalCell,
    lora: ArcSwap<LoraSignals>,
    slots: SlotValues,
}

impl EndpointState {
    pub(crate) fn new(n_slots: usize) -> Self {
        Self {
            signals: SignalCell::default(),
            lora: ArcSwap::from_pointee(LoraSignals::default()),
            slots: SlotValues::new(n_slots),
        }
    }
}

/// One endpoint of a pool snapshot. The identity (id and index) never changes; a changed spec gives a new
/// value that shares the state.
pub struct Endpoint {
    index: EndpointIndex,
    spec: EndpointSpec,
    id: Arc<str>,
    authority: Arc<str>,
    state: Arc<EndpointState>,
}

impl Endpoint {
    pub(crate) fn new(index: EndpointIndex, spec: EndpointSpec, state: Arc<EndpointState>) -> Self {
        let id = format!("{}/{}", spec.namespace, spec.name).into();
        let authority = authority(&spec.address, spec.port).into();
        Self { index, spec, id, authority, state }
    }

    pub fn index(&self) -> EndpointIndex {
        self.index
    }

    pub fn spec(&self) -> &EndpointSpec {
        &self.spec
    }

    /// `namespace/name`.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// `address:port`, with brackets around an IPv6 address.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub fn shared_authority(&self) -> &Arc<str> {
        &self.authority
    }

    /// `host:port` that metrics are scraped from.
    pub fn metrics_authority(&self) -> &str {
        self.spec.metrics_authority.as_deref().unwrap_or(&self.authority)
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.spec.labels.get(name).map(String::as_str)
    }

    pub fn signals(&self) -> Signals {
        self.state.signals.load()
    }

    pub fn signal_cell(&self) -> &SignalCell {
        &self.state.signals
    }

    pub fn lora(&self) -> arc_swap::Guard<Arc<LoraSignals>> {
        self.state.lora.load()
    }

    pub fn set_lora(&self, lora: LoraSignals) {
        if **self.state.lora.load() != lora {
            self.state.lora.store(Arc::new(lora));
        }
    }

    /// What a plugin keeps on this endpoint; `None` when the slot belongs to no loaded plugin.
    pub fn slot<T: Default + Send + Sync + 'static>(&self, slot: &EndpointSlot<T>) -> Option<&T> {
        self.state.slots.get(slot)
    }

    /// Whether `other` is the same endpoint at another moment (and not a later one under the same name).
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    pub(crate) fn state(&self) -> &Arc<EndpointState> {
        &self.state
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.id, self.authority)
    }
}

/// `address:port`, with brackets around an IPv6 address.
pub fn authority(address: &str, port: u16) -> String {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) => format!("[{v6}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_bracketed() {
        assert_eq!(authority("::1", 80), "[::1]:80");
        assert_eq!(authority("10.0.0.1", 80), "10.0.0.1:80");
        assert_eq!(authority("vllm.local", 80), "vllm.local:80");
    }
}
