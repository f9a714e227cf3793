//! Calls into plugins: timed, and isolated from their panics.

use std::{sync::Arc, time::Duration};

use router_framework::loader::{Ident, Named};
use router_rt::Clock;
use router_telemetry::{RouterMetrics, metrics::Histogram};
use smallvec::SmallVec;

pub(crate) use router_telemetry::router::ExtensionPoint as Point;

use crate::isolate::isolated;

/// A plugin in one of its roles, with the series that its calls are timed into.
pub(crate) struct Timed<T: ?Sized> {
    pub(crate) ident: Ident,
    pub(crate) role: Arc<T>,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<RouterMetrics>,
    pub(crate) series: SmallVec<[(Point, Arc<Histogram>); 2]>,
}

impl<T: ?Sized> Timed<T> {
    pub(crate) fn inner(&self) -> &T {
        &self.role
    }

    pub(crate) fn ident(&self) -> &Ident {
        &self.ident
    }

    /// Calls the plugin; `None` when it panicked.
    pub(crate) fn call<R>(&self, point: Point, call: impl FnOnce(&T) -> R) -> Option<R> {
        let (result, took) = self.run(point, || call(&self.role));
        self.observe(point, took);
        result
    }

    /// Calls something that the plugin made, without recording the time that it took; `None` when it
    /// panicked.
    pub(crate) fn run<R>(&self, point: Point, call: impl FnOnce() -> R) -> (Option<R>, Duration) {
        let started = self.clock.now();
        let result = isolated(&self.metrics, &self.ident, point.as_str(), call);
        (result, self.clock.now().since(started))
    }

    /// Records a call that the caller timed itself.
    pub(crate) fn observe(&self, point: Point, took: Duration) {
        if let Some((_, histogram)) = self.series.iter().find(|(have, _)| *have == point) {
            histogram.observe_duration(took);
        }
    }
}

/// Wraps plugins for timed calls.
pub(crate) struct Timer {
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<RouterMetrics>,
}

impl Timer {
    pub(crate) fn at<T: ?Sized>(&self, named: Named<T>, points: &[Point]) -> Timed<T> {
        let Named { ident, role } = named;
        let plugin = |point| self.metrics.scheduler.plugin(point, &ident.plugin_type, &ident.name);
        let series = points.iter().map(|&point| (point, plugin(point))).collect();
        Timed { ident, role, clock: self.clock, metrics: Arc::clone(&self.metrics), series }
    }

    pub(crate) fn all<T: ?Sized>(&self, named: Vec<Named<T>>, point: Point) -> Vec<Timed<T>> {
        named.into_iter().map(|one| self.at(one, &[point])).collect()
    }
}
