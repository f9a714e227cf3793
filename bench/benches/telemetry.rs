//! What the metrics page costs the process that is scraped.

#![allow(clippy::unwrap_used, reason = "a bench that cannot set up has nothing to measure")]

use std::{hint::black_box, time::Duration};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use router_telemetry::{BUILD, Registry, RouterMetrics, metrics::Format, router::ExtensionPoint};

/// The page of a router that has served `n_models` models on eight endpoints.
fn registry(n_models: usize) -> Registry {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    for model in 0..n_models {
        let series = metrics.request(&format!("model-{model}"), "target", "default-flow", 0);
        series.total().inc();
        for histogram in [series.duration(), series.request_size(), series.response_size()] {
            histogram.observe(0.5);
        }
        for histogram in [series.input_tokens(), series.output_tokens(), series.ntpot()] {
            histogram.observe(7.0);
        }
    }
    for point in [ExtensionPoint::Scorer, ExtensionPoint::Picker, ExtensionPoint::DataProducer] {
        let histogram = metrics.scheduler.plugin(point, "type", "name");
        histogram.observe_duration(Duration::from_micros(3));
    }
    for endpoint in 0..8 {
        let name = format!("endpoint-{endpoint}");
        metrics.scheduler.attempts.with(["success", "target", &name, "default", "8000"]).inc();
    }
    registry
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("registry-encode");
    for n_models in [1, 100] {
        let registry = registry(n_models);
        group.bench_function(BenchmarkId::new("models", n_models), |b| {
            b.iter(|| black_box(registry.encode(Format::Text)));
        });
    }
}

fn observe(c: &mut Criterion) {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    let mut group = c.benchmark_group("registry-observe");
    group.bench_function("request-series", |b| {
        b.iter(|| black_box(metrics.request("model", "target", "default-flow", 0)));
    });
    let series = metrics.request("model", "target", "default-flow", 0);
    group.bench_function("histogram", |b| b.iter(|| series.duration().observe(black_box(0.3))));
    group.bench_function("counter", |b| b.iter(|| series.total().inc()));
}

/// Short: figures are compared by eye, within one run.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700))
}

criterion_group! {
    name = benches;
    config = settings();
    targets = encode, observe
}
criterion_main!(benches);
