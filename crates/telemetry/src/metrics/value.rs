//! Counters, gauges and histograms: plain atomics, no locks.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// A count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A total in fractions, such as seconds of CPU time.
#[derive(Debug)]
pub struct Total(AtomicU64);

/// A value that goes up and down.
#[derive(Debug)]
pub struct Gauge(AtomicU64);

/// How many observations fell below each of a fixed list of bounds, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: Buckets,
    /// One more than there are bounds; not cumulative. The page adds them up, so that `_count` and
    /// the `+Inf` bucket can never disagree.
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

/// The upper bounds of a histogram, ascending, without `+Inf`.
#[derive(Clone, PartialEq)]
pub struct Buckets(Arc<[f64]>);

/// A kind of metric that a family can hold.
pub trait Metric: Send + Sync + Sized + 'static {
    /// What all series of a family share.
    type Shape: Clone + PartialEq + Send + Sync + fmt::Debug;

    #[doc(hidden)]
    const KIND: Kind;

    #[doc(hidden)]
    fn new(shape: &Self::Shape) -> Self;

    #[doc(hidden)]
    fn sample(&self) -> Sample;

    #[doc(hidden)]
    fn buckets(_: &Self::Shape) -> Option<&Buckets> {
        None
    }
}

#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The value of a series at one moment.
#[doc(hidden)]
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    Counter(f64),
    Gauge(f64),
    Histogram { bounds: Buckets, counts: Vec<u64>, sum: f64 },
}

// === impl Counter ===

impl Counter {
    /// Adds one.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Metric for Counter {
    type Shape = ();
    const KIND: Kind = Kind::Counter;

    fn new((): &()) -> Self {
        Self::default()
    }

    fn sample(&self) -> Sample {
        Sample::Counter(self.get() as f64)
    }
}

// === impl Total ===

impl Total {
    /// Replaces the total by one that was counted elsewhere.
    pub fn set(&self, total: f64) {
        self.0.store(total.to_bits(), Ordering::Relaxed);
    }

    /// Adds `amount`; amounts below zero are ignored.
    pub fn add(&self, amount: f64) {
        if amount > 0.0 {
            add_f64(&self.0, amount);
        }
    }
}

impl Metric for Total {
    type Shape = ();
    const KIND: Kind = Kind::Counter;

    fn new((): &()) -> Self {
        Self(AtomicU64::new(0.0_f64.to_bits()))
    }

    fn sample(&self) -> Sample {
        Sample::Counter(f64::from_bits(self.0.load(Ordering::Relaxed)))
    }
}

// === impl Gauge ===

impl Gauge {
    #[inline]
    pub fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }

    /// Adds `amount`, which may be negative.
    #[inline]
    pub fn add(&self, amount: f64) {
        add_f64(&self.0, amount);
    }

    #[inline]
    pub fn inc(&self) {
        self.add(1.0);
    }

    #[inline]
    pub fn dec(&self) {
        self.add(-1.0);
    }

    pub fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }
}

impl Metric for Gauge {
    type Shape = ();
    const KIND: Kind = Kind::Gauge;

    fn new((): &()) -> Self {
        Self(AtomicU64::new(0.0_f64.to_bits()))
    }

    fn sample(&self) -> Sample {
        Sample::Gauge(self.get())
    }
}

// === impl Histogram ===

impl Histogram {
    /// Counts one observation. NaN is dropped: it would make the sum useless for good.
    #[inline]
    pub fn observe(&self, value: f64) {
        if value.is_nan() {
            return;
        }
        let bucket = self.bounds.0.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        add_f64(&self.sum, value);
    }

    /// Counts a duration, in seconds.
    #[inline]
    pub fn observe_duration(&self, duration: std::time::Duration) {
        self.observe(duration.as_secs_f64());
    }

    /// How many observations there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// The sum of all observations.
    pub fn sum(&self) -> f64 {
        f64::from_bits(self.sum.load(Ordering::Relaxed))
    }
}

impl Metric for Histogram {
    type Shape = Buckets;
    const KIND: Kind = Kind::Histogram;

    fn new(bounds: &Buckets) -> Self {
        let counts = (0..=bounds.0.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds: bounds.clone(), counts, sum: AtomicU64::new(0.0_f64.to_bits()) }
    }

    fn sample(&self) -> Sample {
        Sample::Histogram {
            bounds: self.bounds.clone(),
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum: self.sum(),
        }
    }

    fn buckets(bounds: &Buckets) -> Option<&Buckets> {
        Some(bounds)
    }
}

fn add_f64(bits: &AtomicU64, amount: f64) {
    let mut current = bits.load(Ordering::Relaxed);
    loop {
        let next = (f64::from_bits(current) + amount).to_bits();
        match bits.compare_exchange_weak(current, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return,
            Err(seen) => current = seen,
        }
    }
}

// === impl Buckets ===

impl Buckets {
    /// Bounds in ascending order. NaN and infinities are dropped, the rest is sorted.
    pub fn new(bounds: impl IntoIterator<Item = f64>) -> Self {
        let mut bounds: Vec<f64> = bounds.into_iter().filter(|bound| bound.is_finite()).collect();
        bounds.sort_unstable_by(f64::total_cmp);
        bounds.dedup();
        Self(bounds.into())
    }

    pub fn bounds(&self) -> &[f64] {
        &self.0
    }
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Kind and Sample ===

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

impl Sample {
    /// Adds another series of the same family.
    pub(super) fn merge(&mut self, other: &Sample) {
        match (self, other) {
            (Self::Counter(total), Self::Counter(more)) => *total += more,
            (Self::Gauge(total), Self::Gauge(more)) => *total += more,
            (
                Self::Histogram { counts, sum, .. },
                Self::Histogram { counts: more_counts, sum: more_sum, .. },
            ) => {
                for (count, more) in counts.iter_mut().zip(more_counts) {
                    *count += more;
                }
                *sum += more_sum;
            }
            // A family holds one kind only.
            (Self::Counter(_) | Self::Gauge(_) | Self::Histogram { .. }, _) => {}
        }
    }
}
