//! A family: one metric name, its labels, and a bounded set of series.

use std::{
    any::Any,
    hash::{Hash, Hasher},
    sync::Arc,
};

use hashbrown::{Equivalent, HashMap};
use parking_lot::RwLock;

use super::{
    twin::{Projection, Twin},
    value::{Buckets, Gauge, Kind, Metric, Sample},
};

/// What a label shows once its family has no room for another value.
pub const OTHER: &str = "other";

/// The definition of a family with `N` labels.
#[derive(Clone, Debug)]
pub struct Def<const N: usize> {
    pub(super) name: &'static str,
    pub(super) help: String,
    pub(super) labels: [&'static str; N],
    pub(super) twin: Option<Twin>,
    pub(super) limits: Limits,
}

/// How much a family may grow. Beyond it, values are shown as [`OTHER`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Distinct values of each label.
    pub max_values_per_label: usize,
    /// Series in all; one more may exist, whose labels are all [`OTHER`].
    pub max_series: usize,
    /// Bytes of the label values of all series, but for that one.
    pub max_label_bytes: usize,
}

/// The series of one metric. Cheap to clone; clones are the same family.
///
/// [`Family::with`] costs a hash lookup under a read lock: resolve a handle once and keep it where
/// the labels are known in advance.
pub struct Family<M: Metric, const N: usize> {
    store: Arc<Store<M>>,
}

/// A family without its label count: what the registry keeps.
pub(super) struct Store<M: Metric> {
    pub(super) name: &'static str,
    pub(super) help: String,
    pub(super) labels: Vec<&'static str>,
    pub(super) shape: M::Shape,
    pub(super) twin: Option<(Twin, Projection)>,
    /// Positions of labels in order of their names: pages list labels sorted.
    sorted: Vec<usize>,
    limits: Limits,
    series: RwLock<SeriesMap<M>>,
}

struct SeriesMap<M> {
    by_values: HashMap<Values, Arc<M>>,
    /// For each label, its values with the number of series that show them.
    distinct: Vec<HashMap<Box<str>, usize>>,
    /// Bytes of all label values.
    n_label_bytes: usize,
}

/// Label values in order of definition.
#[derive(Clone, PartialEq, Eq)]
struct Values(Arc<[Box<str>]>);

/// Values to look up without copying them.
struct Lookup<'a>(&'a [&'a str]);

/// A family as the page writer sees it.
pub(super) trait Collect: Send + Sync {
    fn name(&self) -> &'static str;
    fn help(&self) -> &str;
    fn kind(&self) -> Kind;
    /// Label names in order of definition.
    fn labels(&self) -> &[&'static str];
    /// Positions of labels in order of their names.
    fn sorted(&self) -> &[usize];
    fn twin(&self) -> Option<(&Twin, &Projection)>;
    /// Upper bounds of a histogram.
    fn buckets(&self) -> Option<Buckets>;
    /// All series, sorted by their values in order of label names.
    fn collect(&self) -> Vec<Collected>;
    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

pub(super) struct Collected {
    values: Values,
    pub(super) sample: Sample,
}

/// Longer values are shown as [`OTHER`]: label values may come from clients, and a page must not
/// grow by what they send.
const MAX_VALUE_BYTES: usize = 1024;

// === impl Def ===

impl<const N: usize> Def<N> {
    /// A family with a help text and label names.
    pub fn new(name: &'static str, help: &str, labels: [&'static str; N]) -> Self {
        Self { name, help: help.to_owned(), labels, twin: None, limits: Limits::default() }
    }

    /// A family whose help text says that it is alpha, as all of the endpoint picker's do.
    pub fn alpha(name: &'static str, help: &str, labels: [&'static str; N]) -> Self {
        Self::new(name, &format!("{ALPHA}{help}"), labels)
    }

    /// Adds a deprecated name for the same data.
    pub fn twin(mut self, twin: Twin) -> Self {
        self.twin = Some(twin);
        self
    }

    /// Replaces the default bounds.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }
}

pub(super) const ALPHA: &str = "[ALPHA] ";

impl Default for Limits {
    fn default() -> Self {
        // The values are those of the Go implementation's model and fairness labels; the others keep a
        // family of counters or gauges within half a megabyte of the page.
        Self { max_values_per_label: 1_000, max_series: 2_048, max_label_bytes: 2_048 * 80 }
    }
}

// === impl Family ===

impl<M: Metric, const N: usize> Family<M, N> {
    pub(super) fn new(store: Arc<Store<M>>) -> Self {
        Self { store }
    }

    /// The series with these label values, in order of definition; made if it does not exist.
    pub fn with(&self, values: [&str; N]) -> Arc<M> {
        self.store.get_or_make(&values)
    }

    /// The series with these label values, if it exists.
    pub fn get(&self, values: [&str; N]) -> Option<Arc<M>> {
        self.store.series.read().by_values.get(&Lookup(&values)).cloned()
    }

    /// Takes a series off the page. Handles to it go on working, unseen.
    pub fn remove(&self, values: [&str; N]) -> bool {
        let mut series = self.store.series.write();
        let removed = series.by_values.remove_entry(&Lookup(&values));
        if let Some((values, _)) = &removed {
            series.forget(values);
        }
        removed.is_some()
    }

    /// Takes all series off the page for whose values `keep` says no.
    pub fn retain(&self, mut keep: impl FnMut([&str; N]) -> bool) {
        let mut series = self.store.series.write();
        let gone: Vec<Values> = series
            .by_values
            .extract_if(|values, _| !keep(values.as_strs()))
            .map(|(values, _)| values)
            .collect();
        for values in &gone {
            series.forget(values);
        }
    }

    /// How many series exist.
    pub fn n_series(&self) -> usize {
        self.store.series.read().by_values.len()
    }
}

impl<const N: usize> Family<Gauge, N> {
    /// Sets these series and takes all others off the page: for gauges that are worked out when
    /// the page is asked for.
    pub fn replace<'a>(&self, entries: impl IntoIterator<Item = ([&'a str; N], f64)>) {
        let kept: Vec<Arc<Gauge>> = entries
            .into_iter()
            .map(|(values, value)| {
                let gauge = self.with(values);
                gauge.set(value);
                gauge
            })
            .collect();
        let kept: hashbrown::HashSet<*const Gauge> = kept.iter().map(Arc::as_ptr).collect();
        let mut series = self.store.series.write();
        let gone: Vec<Values> = series
            .by_values
            .extract_if(|_, gauge| !kept.contains(&Arc::as_ptr(gauge)))
            .map(|(values, _)| values)
            .collect();
        for values in &gone {
            series.forget(values);
        }
    }
}

impl<M: Metric, const N: usize> Clone for Family<M, N> {
    fn clone(&self) -> Self {
        Self { store: Arc::clone(&self.store) }
    }
}

impl<M: Metric, const N: usize> std::fmt::Debug for Family<M, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Family").field("name", &self.store.name).finish_non_exhaustive()
    }
}

// === impl Store ===

impl<M: Metric> Store<M> {
    /// Fails with the label that the twin shows and the family lacks.
    pub(super) fn new<const N: usize>(
        def: Def<N>,
        shape: M::Shape,
    ) -> Result<Self, (&'static str, &'static str)> {
        let labels = def.labels.to_vec();
        let mut sorted: Vec<usize> = (0..N).collect();
        sorted.sort_unstable_by_key(|&position| labels.get(position));
        let twin = match def.twin {
            None => None,
            Some(twin) => match Projection::new(&twin, &labels) {
                Ok(projection) => Some((twin, projection)),
                Err(label) => return Err((twin.name, label)),
            },
        };
        let series = SeriesMap {
            by_values: HashMap::new(),
            distinct: vec![HashMap::new(); N],
            n_label_bytes: 0,
        };
        let store = Self {
            name: def.name,
            help: def.help,
            labels,
            shape,
            twin,
            sorted,
            limits: def.limits,
            series: RwLock::new(series),
        };
        if N == 0 {
            // A metric without labels is on the page from the start, as in Go.
            store.get_or_make(&[]);
        }
        Ok(store)
    }

    /// Whether `other` defines the same family.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        self.labels == other.labels
            && self.shape == other.shape
            && self.twin.as_ref().map(|(twin, _)| twin) == other.twin.as_ref().map(|(twin, _)| twin)
    }

    fn get_or_make(&self, values: &[&str]) -> Arc<M> {
        let shown: Vec<&str>;
        {
            let series = self.series.read();
            if let Some(metric) = series.by_values.get(&Lookup(values)) {
                return Arc::clone(metric);
            }
            shown = self.bounded(&series, values);
            if let Some(metric) = series.by_values.get(&Lookup(&shown)) {
                return Arc::clone(metric);
            }
        }
        let mut series = self.series.write();
        let shown = self.bounded(&series, &shown);
        if let Some(metric) = series.by_values.get(&Lookup(&shown)) {
            return Arc::clone(metric);
        }
        let metric = Arc::new(M::new(&self.shape));
        series.remember(&shown, Arc::clone(&metric));
        metric
    }

    /// The values as they are shown, within the bounds.
    fn bounded<'a>(&self, series: &SeriesMap<M>, values: &[&'a str]) -> Vec<&'a str> {
        if series.by_values.len() >= self.limits.max_series {
            return vec![OTHER; values.len()];
        }
        let bound = |(value, distinct): (&&'a str, &HashMap<Box<str>, usize>)| {
            // `other` itself takes no room.
            let n_values = distinct.len() - usize::from(distinct.contains_key(OTHER));
            let room = n_values < self.limits.max_values_per_label;
            let known = distinct.contains_key(*value);
            if (room || known) && value.len() <= MAX_VALUE_BYTES { *value } else { OTHER }
        };
        let shown: Vec<&str> = values.iter().zip(&series.distinct).map(bound).collect();
        let n_more_bytes = n_bytes(shown.iter().copied());
        if series.n_label_bytes + n_more_bytes > self.limits.max_label_bytes {
            return vec![OTHER; values.len()];
        }
        shown
    }
}

impl<M: Metric> Collect for Store<M> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn help(&self) -> &str {
        &self.help
    }

    fn kind(&self) -> Kind {
        M::KIND
    }

    fn labels(&self) -> &[&'static str] {
        &self.labels
    }

    fn sorted(&self) -> &[usize] {
        &self.sorted
    }

    fn twin(&self) -> Option<(&Twin, &Projection)> {
        self.twin.as_ref().map(|(twin, projection)| (twin, projection))
    }

    fn buckets(&self) -> Option<Buckets> {
        M::buckets(&self.shape).cloned()
    }

    fn collect(&self) -> Vec<Collected> {
        let mut all: Vec<Collected> = self
            .series
            .read()
            .by_values
            .iter()
            .map(|(values, metric)| Collected { values: values.clone(), sample: metric.sample() })
            .collect();
        all.sort_unstable_by(|a, b| a.in_order(&self.sorted).cmp(b.in_order(&self.sorted)));
        all
    }

    fn as_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

// === impl SeriesMap ===

impl<M> SeriesMap<M> {
    fn remember(&mut self, values: &[&str], metric: Arc<M>) {
        for (distinct, value) in self.distinct.iter_mut().zip(values) {
            *distinct.entry_ref(*value).or_insert(0) += 1;
        }
        self.n_label_bytes += n_bytes(values.iter().copied());
        let values = values.iter().map(|&value| Box::from(value)).collect();
        self.by_values.insert(Values(values), metric);
    }

    fn forget(&mut self, values: &Values) {
        self.n_label_bytes -= n_bytes(values.0.iter().map(|value| &**value));
        for (distinct, value) in self.distinct.iter_mut().zip(values.0.iter()) {
            let Some(n_series) = distinct.get_mut(value) else { continue };
            *n_series -= 1;
            if *n_series == 0 {
                distinct.remove(value);
            }
        }
    }
}

fn n_bytes<'a>(values: impl Iterator<Item = &'a str>) -> usize {
    values.map(str::len).sum()
}

// === impl Values and Lookup ===

impl Values {
    fn as_strs<const N: usize>(&self) -> [&str; N] {
        std::array::from_fn(|position| self.0.get(position).map_or("", |value| &**value))
    }
}

impl Hash for Values {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in self.0.iter() {
            value.hash(state);
        }
    }
}

impl Hash for Lookup<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for value in self.0 {
            value.hash(state);
        }
    }
}

impl Equivalent<Values> for Lookup<'_> {
    fn equivalent(&self, key: &Values) -> bool {
        self.0.len() == key.0.len() && self.0.iter().zip(key.0.iter()).all(|(a, b)| **a == **b)
    }
}

impl Collected {
    /// Label values in order of definition.
    pub(super) fn values(&self) -> &[Box<str>] {
        &self.values.0
    }

    /// Label values in order of label names.
    pub(super) fn in_order<'a>(&'a self, sorted: &'a [usize]) -> impl Iterator<Item = &'a str> {
        sorted.iter().map(|&position| self.values.0.get(position).map_or("", |value| &**value))
    }
}
