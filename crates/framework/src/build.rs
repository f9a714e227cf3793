//! What a plugin's `build` function works with.

use std::{any::TypeId, collections::BTreeMap, sync::Arc};

use router_core::EndpointSlot;
use router_rt::{Clock, Offload, Seeds};
use router_telemetry::{Registry, RouterMetrics};

use crate::{
    data::{DataKey, EndpointDataKey, Read, Write},
    document::{Diagnostics, Plugin},
    graph::{DataFlow, Lifetime},
    plugin::{BuildError, Instance, Params},
};

/// Name under which scraped signals stand in the data-flow graph.
pub(crate) const SIGNALS: &str = "Signals";

/// Values that every plugin may use.
#[derive(Clone)]
pub struct PluginEnv {
    pub clock: Clock,
    /// Where a plugin's own randomness comes from; a plugin takes a family named like its instance.
    pub seeds: Arc<Seeds>,
    /// For work that takes longer than a runtime thread may be held, and for files.
    pub offload: Offload,
    pub registry: Arc<Registry>,
    pub metrics: Arc<RouterMetrics>,
}

/// The construction of one plugin instance.
pub struct BuildCx<'a> {
    pub(crate) plugin: &'a Plugin,
    pub(crate) env: &'a PluginEnv,
    pub(crate) flow: &'a mut DataFlow,
    pub(crate) built: &'a BTreeMap<String, Instance>,
    pub(crate) diagnostics: &'a mut Diagnostics,
}

impl BuildCx<'_> {
    /// Instance name; equals the type where the configuration gives none.
    pub fn name(&self) -> &str {
        &self.plugin.name
    }

    pub fn plugin_type(&self) -> &str {
        &self.plugin.plugin_type
    }

    pub fn env(&self) -> &PluginEnv {
        self.env
    }

    /// The parameters, with defaults where the configuration is silent. Errors carry their place and are
    /// reported with all others, so the message of the returned error is not shown again.
    pub fn params<P: Params>(&mut self) -> Result<P, BuildError> {
        self.plugin.read_parameters(self.diagnostics).ok_or_else(|| BuildError::new(""))
    }

    /// Another instance that a parameter names; built before this one.
    pub fn instance(&self, name: &str) -> Option<&Instance> {
        self.built.get(name)
    }

    /// Declares a value that this plugin cannot do without. `producer` names the instance that writes it,
    /// empty for the default.
    pub fn reads<T: 'static>(&mut self, key: &DataKey<T>, producer: &str) -> Read<T> {
        self.request_read(key, producer, true)
    }

    /// Declares a value that this plugin uses where it is there.
    pub fn reads_optional<T: 'static>(&mut self, key: &DataKey<T>, producer: &str) -> Read<T> {
        self.request_read(key, producer, false)
    }

    fn request_read<T: 'static>(
        &mut self,
        key: &DataKey<T>,
        producer: &str,
        required: bool,
    ) -> Read<T> {
        let read = Read::unbound();
        let id = TypeId::of::<T>();
        self.flow.read(
            &self.plugin.name,
            Lifetime::Request,
            key.name,
            id,
            key.default_producer,
            producer,
            required,
            read.binding(),
        );
        read
    }

    /// Declares a value that this instance produces under its own name.
    pub fn writes<T: 'static>(&mut self, key: &DataKey<T>) -> Write<T> {
        let write = Write::unbound();
        self.flow.write(
            &self.plugin.name,
            Lifetime::Request,
            key.name,
            TypeId::of::<T>(),
            write.binding(),
        );
        write
    }

    /// Declares a read of a value that lives on endpoints.
    pub fn reads_endpoint<T: 'static>(
        &mut self,
        key: &EndpointDataKey<T>,
        producer: &str,
    ) -> EndpointSlot<T> {
        let slot = EndpointSlot::unbound();
        let id = TypeId::of::<T>();
        self.flow.read(
            &self.plugin.name,
            Lifetime::Endpoint,
            &key.name,
            id,
            key.default_producer,
            producer,
            true,
            slot.binding(),
        );
        slot
    }

    /// Declares a value that this instance keeps on endpoints for others to read.
    pub fn writes_endpoint<T: 'static>(&mut self, key: &EndpointDataKey<T>) -> EndpointSlot<T> {
        let slot = EndpointSlot::unbound();
        self.flow.write(
            &self.plugin.name,
            Lifetime::Endpoint,
            &key.name,
            TypeId::of::<T>(),
            slot.binding(),
        );
        slot
    }

    /// State of this instance on every endpoint, that nobody else reads.
    pub fn endpoint_state<T: 'static>(&mut self) -> EndpointSlot<T> {
        let slot = EndpointSlot::unbound();
        let key = format!("state of {}", self.plugin.name);
        self.flow.write(
            &self.plugin.name,
            Lifetime::Endpoint,
            &key,
            TypeId::of::<T>(),
            slot.binding(),
        );
        slot
    }

    /// Declares that this plugin reads scraped signals.
    pub fn reads_signals(&mut self) {
        let id = TypeId::of::<router_core::Signals>();
        self.flow.read(
            &self.plugin.name,
            Lifetime::Endpoint,
            SIGNALS,
            id,
            "",
            "",
            true,
            Arc::default(),
        );
    }

    /// Declares that this plugin writes scraped signals.
    pub fn writes_signals(&mut self) {
        let id = TypeId::of::<router_core::Signals>();
        self.flow.write(&self.plugin.name, Lifetime::Endpoint, SIGNALS, id, Arc::default());
    }
}
