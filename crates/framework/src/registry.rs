//! The plugin types of one executable.

use std::collections::BTreeMap;

use crate::{
    document::{Availability, Catalog, Deprecation, TypeInfo},
    plugin::PluginDef,
};

mod later;

/// Plugin types by name. It is a value: two routers of one process may have different ones.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    defs: BTreeMap<&'static str, PluginDef>,
    /// Types that others have, and what to say to who asks for one.
    elsewhere: BTreeMap<&'static str, &'static str>,
}

impl Registry {
    /// A registry of these types; of two with one name the later counts.
    pub fn new<'a>(defs: impl IntoIterator<Item = &'a PluginDef>) -> Self {
        let mut registry = Self::default();
        for def in defs {
            registry.add(*def);
        }
        registry
    }

    /// Adds a type, or replaces the one of that name.
    pub fn add(&mut self, def: PluginDef) {
        self.defs.insert(def.plugin_type, def);
    }

    /// Notes that a type is not here, and what to say to who asks for it.
    pub fn add_elsewhere(&mut self, plugin_type: &'static str, who_has: &'static str) {
        self.elsewhere.insert(plugin_type, who_has);
    }

    pub fn get(&self, plugin_type: &str) -> Option<&PluginDef> {
        self.defs.get(plugin_type)
    }

    /// All types, by name.
    pub fn defs(&self) -> impl Iterator<Item = &PluginDef> {
        self.defs.values()
    }
}

impl Catalog for Registry {
    fn lookup(&self, plugin_type: &str) -> Option<TypeInfo<'_>> {
        let Some(def) = self.defs.get(plugin_type) else { return later::lookup(plugin_type) };
        Some(TypeInfo {
            availability: Availability::Available,
            stability: def.stability,
            deprecation: def
                .deprecation
                .map(|deprecation| Deprecation { replacement: deprecation.replacement }),
            roles: def.roles,
            parameters: def.takes_params.then_some(def.schema),
            references: def.references,
            alone: def.alone,
            description: "",
        })
    }

    fn types(&self) -> Vec<&str> {
        self.defs.keys().copied().collect()
    }

    fn who_has(&self, plugin_type: &str) -> Option<&str> {
        self.elsewhere.get(plugin_type).copied()
    }
}
