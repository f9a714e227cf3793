//! Which pool is served, and what of all objects is about it.

use std::collections::BTreeSet;

use router_framework::document::{Path, diagnostics::quote, suggest};

use super::{
    Pages, PoolChoice, Resources,
    definition::Kind,
    read::{All, Meta, PoolObject, PoolRef, RewriteObject},
};
use crate::rewrites::{Rewrites, Shadowed};

/// The pool that is served, as far as it is known.
struct Served {
    name: Option<String>,
    group: String,
    namespace: Option<String>,
}

/// Picks what is about the served pool. What is left out is warned of, and what is unclear is an error.
pub(super) fn choose(all: All, choice: &PoolChoice, pages: &mut Pages) -> Resources {
    let All { mut objectives, mut rewrites, mut pools } = all;
    only_current(&mut objectives, |of| &of.meta, Kind::Objective, pages);
    only_current(&mut rewrites, |of| &of.meta, Kind::Rewrite, pages);
    only_last(&mut objectives, |of| &of.meta, Kind::Objective, pages);
    only_last(&mut rewrites, |of| &of.meta, Kind::Rewrite, pages);
    only_last(&mut pools, |of| &of.meta, Kind::Pool, pages);
    let pool = pool(pools, choice, pages);
    let mut served = Served {
        name: choice.name.clone().or_else(|| pool.as_ref().map(|pool| pool.meta.name.clone())),
        group: choice.group.clone(),
        namespace: choice.namespace.clone().or_else(|| pool.as_ref()?.meta.namespace.clone()),
    };
    let refs = objectives.iter().map(|of| (&of.meta, &of.pool));
    served.agree(refs.chain(rewrites.iter().map(|of| (&of.meta, &of.pool))), pages);
    objectives.retain(|of| served.has(&of.meta, &of.pool, pages));
    rewrites.retain(|of| served.has(&of.meta, &of.pool, pages));
    let given: Vec<_> = rewrites.iter().map(|of| of.rewrite.clone()).collect();
    let (rules, shadowed) = Rewrites::new(&given);
    shadowed.iter().for_each(|shadowed| warn_of_shadow(&rewrites, shadowed, pages));
    Resources {
        objectives: objectives.into_iter().map(|of| (of.meta.name, of.priority)).collect(),
        rewrites: rules,
        pool: pool.map(|of| of.pool.into()),
    }
}

fn warn(pages: &mut Pages, meta: &Meta, message: String, help: Option<String>) {
    if let Some(page) = pages.get_mut(meta.page) {
        let base = Path::Base(&meta.base);
        let path = base.key("metadata");
        page.warning(meta.span, path.key("name"), message, || help);
    }
}

/// Where objects of a kind stand in both groups, those of the old one are ignored, as in a cluster that has both
/// definitions.
fn only_current<T>(objects: &mut Vec<T>, meta: fn(&T) -> &Meta, kind: Kind, pages: &mut Pages) {
    if objects.iter().all(|object| meta(object).is_legacy) {
        return;
    }
    objects.retain(|object| {
        let meta = meta(object);
        if meta.is_legacy {
            let (kind, versions) = (kind.name(), kind.api_versions());
            let [current, old] = versions else { return true };
            let message = format!(
                "of group and version {old}, which counts only where no {kind} is of {current}; \
                 it has no effect"
            );
            warn(pages, meta, message, None);
        }
        !meta.is_legacy
    });
}

/// Of objects with one name the last counts, as if they were applied one after the other.
fn only_last<T>(objects: &mut Vec<T>, meta: fn(&T) -> &Meta, kind: Kind, pages: &mut Pages) {
    let mut seen = BTreeSet::new();
    let mut keep: Vec<bool> = Vec::with_capacity(objects.len());
    for object in objects.iter().rev() {
        let meta = meta(object);
        let is_last = seen.insert((meta.namespace.clone(), meta.name.clone()));
        if !is_last {
            let message =
                format!("another {} of this name comes later; this one has no effect", kind.name());
            warn(pages, meta, message, None);
        }
        keep.push(is_last);
    }
    objects.retain(|_| keep.pop().unwrap_or(true));
}

/// The manifest of the served pool.
fn pool(pools: Vec<PoolObject>, choice: &PoolChoice, pages: &mut Pages) -> Option<PoolObject> {
    let is_chosen = |of: &PoolObject| {
        let is_named = choice.name.as_ref().is_none_or(|name| *name == of.meta.name);
        let namespaces = choice.namespace.as_ref().zip(of.meta.namespace.as_ref());
        is_named && namespaces.is_none_or(|(one, other)| one == other)
    };
    let (mut chosen, others): (Vec<_>, Vec<_>) = pools.into_iter().partition(is_chosen);
    if chosen.is_empty()
        && let Some(first) = others.first()
    {
        let name = choice.name.as_deref().unwrap_or(&first.meta.name);
        let namespace = choice
            .namespace
            .as_ref()
            .map_or_else(String::new, |of| format!(" in namespace {}", quote(of)));
        let message =
            format!("no InferencePool here is the one that is served, {}{namespace}", quote(name));
        let names = others.iter().map(|of| of.meta.name.as_str());
        let help = suggest::did_you_mean(name, names.filter(|other| *other != name));
        error(pages, &first.meta, message, help);
    }
    if let [first, second, ..] = chosen.as_slice() {
        let (one, other) = (quote(&first.meta.name), quote(&second.meta.name));
        let message = format!("more than one InferencePool: {one} and {other}");
        let help = "say which is served with --pool-name, or --pool-namespace";
        error(pages, &second.meta, message, Some(help.to_owned()));
    }
    chosen.truncate(1);
    chosen.pop()
}

fn error(pages: &mut Pages, meta: &Meta, message: String, help: Option<String>) {
    if let Some(page) = pages.get_mut(meta.page) {
        let base = Path::Base(&meta.base);
        let path = base.key("metadata");
        page.error(meta.span, path.key("name"), message, || help);
    }
}

impl Served {
    /// Where nothing says which pool is served, all objects must be for the same one.
    fn agree<'a>(
        &mut self,
        refs: impl Iterator<Item = (&'a Meta, &'a PoolRef)>,
        pages: &mut Pages,
    ) {
        if self.name.is_some() {
            return;
        }
        let mut refs: Vec<(&Meta, &PoolRef)> = refs.collect();
        refs.sort_by_key(|(meta, pool)| (meta.page, pool.span));
        let Some((_, PoolRef { name: first, .. })) = refs.first().copied() else { return };
        let mut others = BTreeSet::new();
        for (meta, pool) in refs.into_iter().filter(|(_, pool)| pool.name != *first) {
            let Some(page) = pages.get_mut(meta.page) else { continue };
            if !others.insert(&pool.name) {
                continue;
            }
            let base = Path::Base(&meta.base);
            let spec = base.key("spec");
            let reference = spec.key("poolRef");
            let message =
                format!("for pool {}, while others are for {}", quote(&pool.name), quote(first));
            let help = "say which pool is served with --pool-name, or add its InferencePool";
            page.error(pool.span, reference.key("name"), message, || Some(help.to_owned()));
        }
        if others.is_empty() {
            self.name = Some(first.clone());
        }
    }

    /// Whether an object is for this pool; one that is not is warned of.
    fn has(&self, meta: &Meta, pool: &PoolRef, pages: &mut Pages) -> bool {
        let Some(name) = &self.name else { return true };
        let namespaces = self.namespace.as_ref().zip(meta.namespace.as_ref());
        let is_here = namespaces.is_none_or(|(one, other)| one == other);
        let is_pool = pool.kind == Kind::Pool.name() && pool.group == self.group;
        if pool.name == *name && is_pool && is_here {
            return true;
        }
        let Some(page) = pages.get_mut(meta.page) else { return false };
        let (what, served) = if pool.name != *name {
            (format!("pool {}", quote(&pool.name)), quote(name))
        } else if !is_pool {
            let served = format!("the {} of group {}", Kind::Pool.name(), self.group);
            (format!("the {} of group {}", pool.kind, pool.group), served)
        } else {
            let namespace = |of: &Option<String>| quote(of.as_deref().unwrap_or_default());
            (
                format!("the pool of namespace {}", namespace(&meta.namespace)),
                namespace(&self.namespace),
            )
        };
        let base = Path::Base(&meta.base);
        let spec = base.key("spec");
        let reference = spec.key("poolRef");
        let message = format!("for {what}, while {served} is served; it has no effect");
        page.warning(pool.span, reference.key("name"), message, || {
            suggest::did_you_mean(&pool.name, [name.as_str()]).filter(|_| pool.name != *name)
        });
        false
    }
}

fn warn_of_shadow(rewrites: &[RewriteObject], shadowed: &Shadowed, pages: &mut Pages) {
    let Shadowed { rewrite, rule, model, by } = *shadowed;
    let (Some(of), Some(by)) = (rewrites.get(rewrite), rewrites.get(by)) else { return };
    let places = of.places.get(rule).map(Vec::as_slice).unwrap_or_default();
    let (Some(span), Some(page)) = (places.get(model), pages.get_mut(of.meta.page)) else { return };
    let name = of.rewrite.rules.get(rule).and_then(|rule| rule.models.get(model));
    let what = name
        .map_or_else(|| "every request".to_owned(), |name| format!("requests for {}", quote(name)));
    let message = format!(
        "{what} are taken by a rule of {} that goes first; this one has no effect",
        quote(&by.meta.name)
    );
    let base = Path::Base(&of.meta.base);
    let spec = base.key("spec");
    let rules = spec.key("rules");
    page.warning(*span, rules.index(rule), message, || None);
}
