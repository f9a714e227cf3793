//! Puts the instances of a document into their places in the pipeline.

use std::{any::TypeId, sync::Arc};

use super::{
    Ident, Loaded, LoadedPlugin, LoadedProfile, Named, SourceBinding,
    instantiate::{Instances, instantiate},
};
use crate::{
    build::PluginEnv,
    data::{DataKey, Read},
    document::{Diagnostics, Document, PluginRef, Span, model::Profile},
    graph::{GraphError, Lifetime, Resolved},
    keys::{PREFIX_MATCH, PROMPT_BLOCKS, TOKENIZED_PROMPT},
    plugin::Instance,
    registry::Registry,
};

/// Name under which the engine's own reads stand in the graph.
const ENGINE: &str = "the engine";

/// Loads a checked document with its defaults filled in. Everything that is wrong is added to
/// `diagnostics`; the result is `None` when there is an error among it. Producers that had to be created
/// are added to the document.
pub fn load(
    document: &mut Document,
    registry: &Registry,
    env: &PluginEnv,
    diagnostics: &mut Diagnostics,
) -> Option<Loaded> {
    let mut instances = instantiate(document, registry, env, diagnostics);
    let prefix_match = read_if_unique(&mut instances, &PREFIX_MATCH);
    let tokenized_prompt = read_if_unique(&mut instances, &TOKENIZED_PROMPT);
    let prompt_blocks = read_if_unique(&mut instances, &PROMPT_BLOCKS);
    let resolved = match instances.flow.resolve() {
        Ok(resolved) => resolved,
        Err(errors) => {
            errors.iter().for_each(|error| report(document, error, diagnostics));
            return None;
        }
    };
    let mut wiring = Wiring { document, instances: &instances, diagnostics };
    let profiles: Vec<_> = wiring.document.profiles.iter().collect();
    let profiles: Vec<_> =
        profiles.into_iter().filter_map(|profile| wiring.profile(profile)).collect();
    let sources = wiring.sources();
    let parsers = wiring.document.parsers.clone();
    let parsers = wiring.refs(&parsers, "a parser", |instance| instance.parser.clone());
    let detector = wiring.document.flow_control.saturation_detector.clone();
    let detector = detector.and_then(|r| {
        wiring.one(&r, "a saturation detector", |instance| instance.detector.clone())
    });
    let discovery = wiring.document.data_layer.discovery.clone();
    let discovery = discovery
        .and_then(|r| wiring.one(&r, "a discovery", |instance| instance.discovery.clone()));
    let flow = wiring.flow(&env.registry);
    let producers = wiring.producers(&resolved);
    let handler = wiring.all(|instance| instance.profile_handler.clone()).into_iter().next();
    let loaded = Loaded {
        plugins: wiring.plugins(),
        parsers,
        request_headers: wiring.all(|instance| instance.request_header.clone()),
        screeners: wiring.all(|instance| instance.screener.clone()),
        producers,
        admitters: wiring.all(|instance| instance.admitter.clone()),
        profile_handler: handler?,
        profiles,
        pre_requests: wiring.all(|instance| instance.pre_request.clone()),
        response_headers: wiring.all(|instance| instance.response_header.clone()),
        response_bodies: wiring.all(|instance| instance.response_body.clone()),
        detector: detector?,
        flow,
        sources,
        discovery,
        listeners: wiring.all(|instance| instance.listener.clone()),
        prefix_match,
        tokenized_prompt,
        prompt_blocks,
        n_request_slots: resolved.n_request_slots,
        n_endpoint_slots: resolved.n_endpoint_slots,
    };
    (!diagnostics.has_errors()).then_some(loaded)
}

/// A value that the engine uses where it is clear whose is meant.
fn read_if_unique<T: 'static>(instances: &mut Instances, key: &DataKey<T>) -> Read<T> {
    let read = Read::unbound();
    let (name, id, default) = (key.name, TypeId::of::<T>(), key.default_producer);
    instances.flow.read_if_unique(ENGINE, Lifetime::Request, name, id, default, read.binding());
    read
}

fn report(document: &Document, error: &GraphError, diagnostics: &mut Diagnostics) {
    let plugin = document.plugin(error.instance());
    let (span, path) = plugin
        .map_or_else(|| (Span::NONE, String::new()), |plugin| (plugin.span, plugin.path.clone()));
    diagnostics.error(span, path, format!("{:?} {error}", error.instance()), || None);
}

/// Looks up instances in their roles.
pub(super) struct Wiring<'a> {
    pub(super) document: &'a Document,
    instances: &'a Instances,
    pub(super) diagnostics: &'a mut Diagnostics,
}

impl<'a> Wiring<'a> {
    fn ident(&self, name: &str) -> Ident {
        let plugin_type = self.document.plugin(name).map_or(name, |plugin| &plugin.plugin_type);
        Ident { name: name.into(), plugin_type: plugin_type.into() }
    }

    /// Instances with a role, in the order of declaration (defect A-7 of `spec/scheduling.md`).
    fn all<T: ?Sized>(&self, role: impl Fn(&Instance) -> Option<Arc<T>>) -> Vec<Named<T>> {
        let plugins = self.document.plugins.iter();
        let with_role = plugins.filter_map(|plugin| {
            let role = role(self.instances.by_name.get(&plugin.name)?)?;
            Some(Named { ident: self.ident(&plugin.name), role })
        });
        with_role.collect()
    }

    fn plugins(&self) -> Vec<LoadedPlugin> {
        let plugins = self.document.plugins.iter();
        let loaded = plugins.filter_map(|plugin| {
            let instance = self.instances.by_name.get(&plugin.name)?.clone();
            Some(LoadedPlugin { ident: self.ident(&plugin.name), instance })
        });
        loaded.collect()
    }

    pub(super) fn one<T: ?Sized>(
        &mut self,
        reference: &PluginRef,
        wanted: &str,
        role: impl Fn(&Instance) -> Option<Arc<T>>,
    ) -> Option<Named<T>> {
        // An instance that could not be built has been reported.
        let instance = self.instances.by_name.get(&reference.name)?;
        let Some(role) = role(instance) else {
            let message = format!("{:?} is not {wanted}", reference.name);
            self.diagnostics.error(reference.span, &reference.path, message, || None);
            return None;
        };
        Some(Named { ident: self.ident(&reference.name), role })
    }

    fn refs<T: ?Sized>(
        &mut self,
        references: &[PluginRef],
        wanted: &str,
        role: impl Fn(&Instance) -> Option<Arc<T>>,
    ) -> Vec<Named<T>> {
        references.iter().filter_map(|reference| self.one(reference, wanted, &role)).collect()
    }

    fn profile(&mut self, profile: &'a Profile) -> Option<LoadedProfile> {
        let mut loaded = (Vec::new(), Vec::new(), None);
        for entry in &profile.plugins {
            let Some(instance) = self.instances.by_name.get(&entry.plugin.name) else { continue };
            let ident = self.ident(&entry.plugin.name);
            if let Some(role) = instance.filter.clone() {
                loaded.0.push(Named { ident: ident.clone(), role });
            }
            if let Some(role) = instance.scorer.clone() {
                loaded.1.push((Named { ident: ident.clone(), role }, entry.weight.unwrap_or(1.0)));
            }
            if let Some(role) = instance.picker.clone() {
                loaded.2 = Some(Named { ident, role });
            }
        }
        let (filters, scorers, picker) = loaded;
        Some(LoadedProfile {
            name: profile.name.as_str().into(),
            filters,
            scorers,
            picker: picker?,
        })
    }

    fn sources(&mut self) -> Vec<SourceBinding> {
        let sources = &self.document.data_layer.sources;
        let bound = sources.iter().filter_map(|entry| {
            let source =
                self.one(&entry.plugin, "a data source", |instance| instance.source.clone())?;
            let extractors =
                self.refs(&entry.extractors, "an extractor", |instance| instance.extractor.clone());
            Some(SourceBinding { source, extractors })
        });
        bound.collect()
    }

    /// Producers, each after those whose data it reads.
    fn producers(&mut self, resolved: &Resolved) -> Vec<Named<dyn crate::producer::DataProducer>> {
        let producers = self.all(|instance| instance.producer.clone());
        let names: Vec<String> =
            producers.iter().map(|named| named.ident.name.to_string()).collect();
        match resolved.order(&names) {
            Ok(order) => {
                let by_name = |name: &String| {
                    producers.iter().find(|named| *named.ident.name == **name).cloned()
                };
                order.iter().filter_map(by_name).collect()
            }
            Err(cycle) => {
                report(self.document, &cycle, self.diagnostics);
                Vec::new()
            }
        }
    }
}
