//! Gauges about the pool, refreshed at an interval (`spec/request-path.md` §6.1).

use crate::router::Router;

/// Mean and sample standard deviation of what endpoints with fresh signals say, rounded to two decimals.
#[derive(Debug, PartialEq)]
struct Spread {
    mean: f64,
    deviation: f64,
}

impl Router {
    /// Refreshes the gauges until the future is dropped.
    pub async fn refresh_pool_metrics(&self) {
        let interval =
            self.settings().pool_metrics_interval.max(std::time::Duration::from_millis(10));
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.publish_pool_metrics();
        }
    }

    /// Sets the gauges from the signals of this moment.
    pub fn publish_pool_metrics(&self) {
        let now = self.clock().now();
        let pool = &self.settings().pool_name;
        let metrics = &self.env.metrics.pool;
        let snapshot = self.datastore.snapshot();
        let signals: Vec<_> =
            snapshot.endpoints().iter().map(|endpoint| (endpoint, endpoint.signals())).collect();
        let fresh: Vec<_> = signals
            .iter()
            .map(|(_, signals)| signals)
            .filter(|s| self.freshness.is_fresh(s, now))
            .collect();
        metrics.ready_endpoints.with([pool]).set(fresh.len() as f64);
        metrics.per_endpoint_queue_size.replace(signals.iter().map(|(endpoint, s)| {
            ([&**pool, endpoint.name()], if s.waiting.is_nan() { 0.0 } else { s.waiting })
        }));
        let sets = [
            (
                &metrics.average_queue_size,
                &metrics.std_dev_queue_size,
                fresh.iter().map(|s| s.waiting).collect::<Vec<_>>(),
            ),
            (
                &metrics.average_running_requests,
                &metrics.std_dev_running_requests,
                fresh.iter().map(|s| s.running).collect(),
            ),
            (
                &metrics.average_kv_cache_utilization,
                &metrics.std_dev_kv_cache_utilization,
                fresh.iter().map(|s| s.kv_usage).collect(),
            ),
        ];
        for (mean, deviation, values) in sets {
            // Without a fresh endpoint the last averages stay.
            if let Some(spread) = spread(&values) {
                mean.with([pool]).set(spread.mean);
                deviation.with([pool]).set(spread.deviation);
            }
        }
    }
}

fn spread(values: &[f64]) -> Option<Spread> {
    let values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    if values.is_empty() {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let deviation = if values.len() < 2 { 0.0 } else { (squares / (n - 1.0)).sqrt() };
    let round = |value: f64| (value * 100.0).round() / 100.0;
    Some(Spread { mean: round(mean), deviation: round(deviation) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_is_of_the_sample_and_rounded() {
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[f64::NAN]), None);
        assert_eq!(spread(&[2.0]), Some(Spread { mean: 2.0, deviation: 0.0 }));
        assert_eq!(spread(&[1.0, 2.0, 4.0]), Some(Spread { mean: 2.33, deviation: 1.53 }));
    }
}
