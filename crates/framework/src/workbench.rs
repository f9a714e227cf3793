//! Plugins built outside of a configuration document, for tests of plugins and for tools.
//!
//! A [`Workbench`] stands in for the loader: it builds single plugins from their parameters, stands in for
//! the producers of the data that they read, and then gives every handle its slot.

use std::{any::TypeId, collections::BTreeMap, sync::Arc};

use router_core::{EndpointSlot, Signals};
use router_rt::{Clock, Offload, Seeds};
use router_telemetry::{BUILD, Registry, RouterMetrics, metrics::RegisterError};

use crate::{
    build::{BuildCx, PluginEnv, SIGNALS},
    data::{DataKey, EndpointDataKey, Read, Write},
    document::{
        Origin, Plugin, Span, Style,
        tree::{self, Node},
    },
    graph::{DataFlow, Lifetime},
    plugin::{BuildError, Instance, PluginDef},
};

/// Name under which [`Workbench::reader`] reads.
const READER: &str = "the workbench";

/// Builds plugins one by one.
pub struct Workbench {
    env: PluginEnv,
    flow: DataFlow,
    built: BTreeMap<String, Instance>,
}

/// How many slots the data of the built plugins takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// On each request.
    pub n_request: usize,
    /// On each endpoint.
    pub n_endpoint: usize,
}

impl Workbench {
    /// An empty workbench with a clock and a metric registry of its own.
    pub fn new() -> Result<Self, RegisterError> {
        let registry = Registry::default();
        let metrics = RouterMetrics::new(&registry, &BUILD)?;
        let env = PluginEnv {
            clock: Clock::new(),
            seeds: Arc::new(Seeds::new(0)),
            offload: Offload::inline(),
            registry: Arc::new(registry),
            metrics: Arc::new(metrics),
        };
        Ok(Self { env, flow: DataFlow::default(), built: BTreeMap::new() })
    }

    pub fn env(&self) -> &PluginEnv {
        &self.env
    }

    /// For changing what plugins built from here on are given.
    pub fn env_mut(&mut self) -> &mut PluginEnv {
        &mut self.env
    }

    /// Builds an instance called `name` from parameters as YAML or JSON, empty for none. The error says
    /// what is wrong with the parameters and where.
    pub fn plugin(
        &mut self,
        def: &PluginDef,
        name: &str,
        parameters: &str,
    ) -> Result<Instance, BuildError> {
        let text = if parameters.trim().is_empty() { "{}" } else { parameters };
        let (node, mut diagnostics) = tree::parse("parameters", text.as_bytes());
        let is_broken = diagnostics.has_errors();
        let plugin = Plugin {
            name: name.to_owned(),
            plugin_type: def.plugin_type.to_owned(),
            parameters: node.filter(|node: &Node| node.as_map().is_some()),
            span: Span::NONE,
            type_span: Span::NONE,
            path: name.to_owned(),
            origin: Origin::Written,
        };
        let mut cx = BuildCx {
            plugin: &plugin,
            env: &self.env,
            flow: &mut self.flow,
            built: &self.built,
            diagnostics: &mut diagnostics,
        };
        let instance = match (def.build)(&mut cx) {
            Ok(instance) if !is_broken => instance,
            Err(error) if !error.message.is_empty() => return Err(error),
            _ => return Err(BuildError::new(diagnostics.render(Style::Plain))),
        };
        self.built.insert(name.to_owned(), instance.clone());
        Ok(instance)
    }

    /// Stands in for a producer called `producer`.
    pub fn writer<T: 'static>(&mut self, key: &DataKey<T>, producer: &str) -> Write<T> {
        let write = Write::unbound();
        let id = TypeId::of::<T>();
        self.flow.write(producer, Lifetime::Request, key.name, id, write.binding());
        write
    }

    /// Stands in for the key's default producer, unless the key is written already.
    pub fn provide<T: 'static>(&mut self, key: &DataKey<T>) -> Option<Write<T>> {
        let is_written = self.flow.is_written(Lifetime::Request, key.name);
        (!is_written).then(|| self.writer(key, key.default_producer))
    }

    /// Stands in for the default producer of a value on endpoints, unless it is written already.
    pub fn provide_endpoint<T: 'static>(
        &mut self,
        key: &EndpointDataKey<T>,
    ) -> Option<EndpointSlot<T>> {
        if self.flow.is_written(Lifetime::Endpoint, &key.name) {
            return None;
        }
        let slot = EndpointSlot::unbound();
        let id = TypeId::of::<T>();
        self.flow.write(key.default_producer, Lifetime::Endpoint, &key.name, id, slot.binding());
        Some(slot)
    }

    /// Stands in for an extractor of scraped signals.
    pub fn provide_signals(&mut self) {
        let id = TypeId::of::<Signals>();
        self.flow.write(READER, Lifetime::Endpoint, SIGNALS, id, Arc::default());
    }

    /// Reads what the instance called `producer` writes; empty for the default producer.
    pub fn reader<T: 'static>(&mut self, key: &DataKey<T>, producer: &str) -> Read<T> {
        let (read, id) = (Read::unbound(), TypeId::of::<T>());
        let (name, default) = (key.name, key.default_producer);
        self.flow.read(
            READER,
            Lifetime::Request,
            name,
            id,
            default,
            producer,
            true,
            read.binding(),
        );
        read
    }

    /// Reads what the instance called `producer` keeps on endpoints; empty for the default producer.
    pub fn endpoint_reader<T: 'static>(
        &mut self,
        key: &EndpointDataKey<T>,
        producer: &str,
    ) -> EndpointSlot<T> {
        let (slot, id) = (EndpointSlot::unbound(), TypeId::of::<T>());
        let (name, default) = (&key.name, key.default_producer);
        self.flow.read(
            READER,
            Lifetime::Endpoint,
            name,
            id,
            default,
            producer,
            true,
            slot.binding(),
        );
        slot
    }

    /// Gives every handle its slot. The error names the reads that nobody can serve.
    pub fn resolve(&self) -> Result<Slots, BuildError> {
        let resolved = self.flow.resolve().map_err(|errors| {
            let errors: Vec<_> =
                errors.iter().map(|error| format!("{:?} {error}", error.instance())).collect();
            BuildError::new(errors.join("; "))
        })?;
        Ok(Slots { n_request: resolved.n_request_slots, n_endpoint: resolved.n_endpoint_slots })
    }
}
