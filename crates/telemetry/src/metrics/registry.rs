//! The registry: families by name, and what must be worked out when the page is asked for.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Weak},
};

use parking_lot::Mutex;
use thiserror::Error;

use super::{
    describe::{self, Description},
    encode::{self, Format},
    family::{Collect, Def, Family, Store},
    value::{Buckets, Counter, Gauge, Histogram, Metric, Total},
};

/// A set of metric families: a value to hand down, not a global. Cheap to clone.
///
/// Registering the same definition twice gives the same family, so that two instances of one
/// plugin share it.
#[derive(Clone)]
pub struct Registry {
    inner: Arc<Inner>,
}

/// How a registry writes its page.
#[derive(Clone, Copy, Debug)]
pub struct RegistryOptions {
    /// Whether families also appear under their deprecated names.
    pub deprecated_twins: bool,
}

/// Keeps a scrape hook alive; dropping it takes the hook off.
#[must_use = "the hook is taken off when this is dropped"]
pub struct ScrapeHook {
    _hook: Arc<Hook>,
}

/// Why a family could not be registered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RegisterError {
    #[error("metric `{name}` is already registered with other labels, buckets or kind")]
    Conflict { name: &'static str },
    #[error("`{name}` is not a metric or label name")]
    BadName { name: &'static str },
    #[error("metric `{name}` has the label `{label}` twice")]
    RepeatedLabel { name: &'static str, label: &'static str },
    #[error("twin `{twin}` shows the label `{label}`, which its family lacks")]
    UnknownLabel { twin: &'static str, label: &'static str },
}

struct Inner {
    options: RegistryOptions,
    families: Mutex<BTreeMap<&'static str, Arc<dyn Collect>>>,
    hooks: Mutex<Vec<Weak<Hook>>>,
}

struct Hook(Box<dyn Fn() + Send + Sync>);

impl Default for RegistryOptions {
    fn default() -> Self {
        Self { deprecated_twins: true }
    }
}

// === impl Registry ===

impl Registry {
    pub fn new(options: RegistryOptions) -> Self {
        let inner =
            Inner { options, families: Mutex::new(BTreeMap::new()), hooks: Mutex::new(Vec::new()) };
        Self { inner: Arc::new(inner) }
    }

    /// Registers a counter.
    pub fn counter<const N: usize>(
        &self,
        def: Def<N>,
    ) -> Result<Family<Counter, N>, RegisterError> {
        self.register(def, ())
    }

    /// Registers a counter of fractions.
    pub fn total<const N: usize>(&self, def: Def<N>) -> Result<Family<Total, N>, RegisterError> {
        self.register(def, ())
    }

    /// Registers a gauge.
    pub fn gauge<const N: usize>(&self, def: Def<N>) -> Result<Family<Gauge, N>, RegisterError> {
        self.register(def, ())
    }

    /// Registers a histogram with fixed buckets.
    pub fn histogram<const N: usize>(
        &self,
        def: Def<N>,
        buckets: &Buckets,
    ) -> Result<Family<Histogram, N>, RegisterError> {
        self.register(def, buckets.clone())
    }

    /// Calls `hook` before each page is written, to set what is cheaper to work out then. It runs
    /// on the thread that writes the page, without any lock of the registry held.
    pub fn on_scrape(&self, hook: impl Fn() + Send + Sync + 'static) -> ScrapeHook {
        let hook = Arc::new(Hook(Box::new(hook)));
        let mut hooks = self.inner.hooks.lock();
        hooks.retain(|hook| hook.strong_count() > 0);
        hooks.push(Arc::downgrade(&hook));
        ScrapeHook { _hook: hook }
    }

    /// Writes the page.
    pub fn encode(&self, format: Format) -> String {
        let hooks: Vec<Weak<Hook>> = self.inner.hooks.lock().clone();
        for hook in hooks.iter().filter_map(Weak::upgrade) {
            (hook.0)();
        }
        let families: Vec<Arc<dyn Collect>> =
            self.inner.families.lock().values().cloned().collect();
        encode::page(&families, self.inner.options.deprecated_twins, format)
    }

    /// Names of all families, without twins, sorted.
    pub fn names(&self) -> Vec<&'static str> {
        self.inner.families.lock().keys().copied().collect()
    }

    /// All families without their series, by name.
    pub fn describe(&self) -> Vec<Description> {
        let families = self.inner.families.lock();
        families.values().map(|family| describe::family(&**family)).collect()
    }

    fn register<M: Metric, const N: usize>(
        &self,
        def: Def<N>,
        shape: M::Shape,
    ) -> Result<Family<M, N>, RegisterError> {
        check_names(&def)?;
        let name = def.name;
        let store = Store::<M>::new(def, shape)
            .map_err(|(twin, label)| RegisterError::UnknownLabel { twin, label })?;
        let mut families = self.inner.families.lock();
        if let Some(known) = families.get(name) {
            return match Arc::clone(known).as_any().downcast::<Store<M>>() {
                Ok(known) if known.same_as(&store) => Ok(Family::new(known)),
                _ => Err(RegisterError::Conflict { name }),
            };
        }
        let twin = store.twin.as_ref().map(|(twin, _)| twin.name);
        for taken in families.values() {
            let taken_twin = taken.twin().map(|(twin, _)| twin.name);
            if taken_twin == Some(name) || twin.is_some() && taken_twin == twin {
                return Err(RegisterError::Conflict { name });
            }
        }
        if let Some(twin) = twin.filter(|twin| families.contains_key(twin)) {
            return Err(RegisterError::Conflict { name: twin });
        }
        let store = Arc::new(store);
        families.insert(name, Arc::clone(&store) as Arc<dyn Collect>);
        Ok(Family::new(store))
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new(RegistryOptions::default())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("n_families", &self.inner.families.lock().len()).finish()
    }
}

impl fmt::Debug for ScrapeHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScrapeHook")
    }
}

fn check_names<const N: usize>(def: &Def<N>) -> Result<(), RegisterError> {
    let twin_names = def.twin.iter().flat_map(|twin| {
        let labels = twin.labels.iter().map(|label| (label.name, false));
        labels.chain([(twin.name, true)])
    });
    let names = def.labels.iter().map(|&label| (label, false));
    for (name, colons) in names.chain([(def.name, true)]).chain(twin_names) {
        if !is_name(name, colons) {
            return Err(RegisterError::BadName { name });
        }
    }
    for (position, label) in def.labels.iter().enumerate() {
        // A histogram's own label would clash with one of the same name.
        let repeated = def.labels.iter().skip(position + 1).any(|other| other == label);
        if repeated || *label == "le" {
            return Err(RegisterError::RepeatedLabel { name: def.name, label });
        }
    }
    Ok(())
}

fn is_name(name: &str, colons: bool) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_' || colons && byte == b':';
    let mut bytes = name.bytes();
    bytes.next().is_some_and(fits) && bytes.all(|byte| fits(byte) || byte.is_ascii_digit())
}
