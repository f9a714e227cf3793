//! What can be known to be wrong without building a plugin.

use super::{
    Options, availability,
    catalog::{Availability, Catalog, Role, Stability, TypeInfo},
    diagnostics::{Diagnostics, quote},
    model::{Document, Plugin, PluginRef},
    source::{Path, Span},
    suggest,
    tree::Node,
};

mod cycles;
mod parameters;
mod profiles;
mod sections;

/// Reports everything that is wrong; fits parameters' keys to the case that their types have.
pub(crate) fn check(
    document: &mut Document,
    root: &Node,
    catalog: &dyn Catalog,
    options: Options,
    diagnostics: &mut Diagnostics,
) {
    availability::check(root, diagnostics);
    let mut plugins = std::mem::take(&mut document.plugins);
    for plugin in &mut plugins {
        parameters::check(plugin, catalog, diagnostics);
    }
    document.plugins = plugins;

    let mut checker = Checker { document, root, catalog, options, diagnostics };
    checker.names();
    checker.types();
    checker.profiles();
    checker.sections();
    cycles::check(&mut checker);
    // Of a document that cannot be used nobody knows what its profiles would be.
    if !checker.diagnostics.has_errors() {
        checker.scorers();
    }
}

struct Checker<'c> {
    document: &'c Document,
    root: &'c Node,
    catalog: &'c dyn Catalog,
    options: Options,
    diagnostics: &'c mut Diagnostics,
}

/// What a reference turned out to be.
enum Target<'c> {
    /// A plugin whose type is known.
    Known(TypeInfo<'c>),
    /// A plugin whose own error is reported where it is declared.
    Unknown,
    /// Nothing.
    Missing,
}

impl<'c> Checker<'c> {
    fn names(&mut self) {
        let mut lines = std::collections::BTreeMap::new();
        for plugin in &self.document.plugins {
            if let Some(line) = lines.get(&plugin.name) {
                let message = format!("a second plugin named {}", quote(&plugin.name));
                let path = Path::Base(&plugin.path);
                self.diagnostics.error(plugin.span, path, message, || {
                    Some(format!("the first is on line {line}; give one another `name`"))
                });
            } else {
                lines.insert(&plugin.name, plugin.span.line);
            }
        }
    }

    fn types(&mut self) {
        for plugin in &self.document.plugins {
            if !plugin.plugin_type.is_empty() {
                let path = format!("{}.type", plugin.path);
                self.plugin_type(&plugin.plugin_type, plugin.type_span, Path::Base(&path));
            }
        }
    }

    /// Whether a type may be used, and what to do if not.
    fn plugin_type(&mut self, name: &str, span: Span, path: Path<'_>) {
        let Some(info) = self.catalog.lookup(name) else {
            let message = format!("unknown plugin type {}", quote(name));
            let elsewhere = || self.catalog.who_has(name).map(str::to_owned);
            let similar = || suggest::did_you_mean(name, self.catalog.types());
            self.diagnostics.error(span, path, message, || elsewhere().or_else(similar));
            return;
        };
        if let Availability::Later { feature } = info.availability {
            let what = format!("plugin type {} ({feature})", quote(name));
            availability::report(span, path, &what, self.diagnostics);
            return;
        }
        if let Some(deprecation) = info.deprecation {
            let message = format!("plugin type {} is deprecated", quote(name));
            let help = || Some(format!("use `{}`", deprecation.replacement));
            self.diagnostics.warning(span, path, message, help);
        }
        if info.stability == Stability::Alpha && !self.options.allow_experimental {
            let message = format!("plugin type {} is experimental", quote(name));
            let help = || Some("start with `--allow-experimental-plugins` to use it".to_owned());
            self.diagnostics.error(span, path, message, help);
        }
    }

    /// Reports a reference to a plugin that is not there.
    fn resolve(&mut self, reference: &PluginRef) -> Target<'c> {
        let target = self.target(reference);
        if matches!(target, Target::Missing) {
            self.dangling(reference, None);
        }
        target
    }

    fn target(&self, reference: &PluginRef) -> Target<'c> {
        match self.document.plugin(&reference.name) {
            None => Target::Missing,
            Some(plugin) => match self.catalog.lookup(&plugin.plugin_type) {
                Some(info) if info.availability == Availability::Available => Target::Known(info),
                _ => Target::Unknown,
            },
        }
    }

    /// `implicit` is a name that can be referred to without being declared.
    fn dangling(&mut self, reference: &PluginRef, implicit: Option<&str>) {
        let name = &reference.name;
        let (document, catalog) = (self.document, self.catalog);
        let help = || {
            let of_that_type = document.plugins.iter().find(|plugin| plugin.plugin_type == *name);
            if let Some(plugin) = of_that_type {
                return Some(format!("the plugin of that type is named `{}`", plugin.name));
            }
            let names = document.plugins.iter().map(|plugin| plugin.name.as_str());
            suggest::did_you_mean(name, names.chain(implicit)).or_else(|| {
                let plugin_type = suggest::nearest(name, catalog.types())?;
                Some(format!("add `- type: {plugin_type}` to `plugins`"))
            })
        };
        let message = format!("there is no plugin named {}", quote(name));
        self.diagnostics.error(reference.span, Path::Base(&reference.path), message, help);
    }

    /// Reports a reference to a plugin that is not there or cannot be used as `role`.
    fn expect(&mut self, reference: &PluginRef, role: Role) {
        if let Target::Known(info) = self.resolve(reference) {
            self.expect_role(reference, info, role);
        }
    }

    fn expect_role(&mut self, reference: &PluginRef, info: TypeInfo<'_>, role: Role) {
        if info.has(role) {
            return;
        }
        let message = format!("{} is not {}", quote(&reference.name), role.name());
        let (document, catalog) = (self.document, self.catalog);
        let help = || {
            let names: Vec<_> = document.having(role, catalog).into_iter().map(name_of).collect();
            (!names.is_empty()).then(|| format!("declared: {}", names.join(", ")))
        };
        self.diagnostics.error(reference.span, Path::Base(&reference.path), message, help);
    }
}

fn name_of(plugin: &Plugin) -> String {
    quote(&plugin.name)
}
