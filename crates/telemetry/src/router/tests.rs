use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{
    build::BUILD,
    metrics::{Format, RegistryOptions},
};

/// Type, label names (sorted) and buckets of every family on a page.
#[derive(Debug, PartialEq)]
struct Shape {
    kind: String,
    labels: Vec<String>,
    buckets: Vec<String>,
}

fn shapes(page: &str) -> BTreeMap<String, Shape> {
    let mut shapes = BTreeMap::new();
    let mut current: Option<(String, Shape)> = None;
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            shapes.extend(current.take());
            let (name, kind) = rest.split_once(' ').unwrap();
            let shape = Shape { kind: kind.to_owned(), labels: Vec::new(), buckets: Vec::new() };
            current = Some((name.to_owned(), shape));
            continue;
        }
        let Some((_, shape)) = current.as_mut().filter(|_| !line.starts_with('#')) else {
            continue;
        };
        let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
        let mut names = Vec::new();
        for label in labels.iter().flat_map(|(labels, _)| labels.split("\",")) {
            let (name, value) = label.split_once("=\"").unwrap();
            if name == "le" {
                let bound = value.trim_end_matches('"').to_owned();
                if !shape.buckets.contains(&bound) {
                    shape.buckets.push(bound);
                }
            } else {
                names.push(name.to_owned());
            }
        }
        shape.labels = names;
    }
    shapes.extend(current);
    shapes
}

/// A page on which every family of this crate has a series.
fn full_page(registry: &Registry) -> String {
    let metrics = RouterMetrics::new(registry, &BUILD).unwrap();
    let series = metrics.request("m", "m", "default-flow", 0);
    series.total().inc();
    series.error("BadRequest").inc();
    let _running = series.start_running();
    for histogram in [
        series.duration(),
        series.request_size(),
        series.response_size(),
        series.input_tokens(),
        series.output_tokens(),
        series.cached_tokens(),
        series.ntpot(),
        series.ttft(true),
        series.ttft(false),
        series.streaming_tpot(),
        series.streaming_itl(),
    ] {
        histogram.observe(1.0);
    }
    let pool = &metrics.pool;
    for gauge in [
        &pool.average_kv_cache_utilization,
        &pool.average_queue_size,
        &pool.average_running_requests,
        &pool.std_dev_kv_cache_utilization,
        &pool.std_dev_queue_size,
        &pool.std_dev_running_requests,
        &pool.ready_endpoints,
    ] {
        gauge.with(["pool"]).set(0.5);
    }
    pool.per_endpoint_queue_size.replace([(["pool", "vllm-0"], 3.0)]);
    metrics.scheduler.attempts.with(["success", "m", "vllm-0", "default", "8000"]).inc();
    metrics.scheduler.plugin(ExtensionPoint::Scorer, "queue-scorer", "queue-scorer").observe(0.0);
    metrics.scheduler.data_scope_violations.with(["Scorer", "t", "n", "read"]).inc();
    metrics.data_layer.poll_errors.with(["metrics-data-source"]).inc();
    metrics.data_layer.extract_errors.with(["metrics-data-source", "core"]).inc();
    metrics.model_rewrite_decisions.with(["rewrite", "m", "n"]).inc();
    ExtProcMetrics::new(registry).unwrap().streams.with(["OK"]).inc();
    PrefixIndexMetrics::new(registry, "approx", "approx-prefix-cache-producer").unwrap();
    let inflight = InflightMetrics::new(registry).unwrap();
    inflight.requests.with(["e", "ns", "producer", "default-flow", "0"]).inc();
    inflight.tokens.with(["e", "ns", "producer", "default-flow", "0"]).inc();
    registry.encode(Format::Text)
}

#[test]
fn a53_every_family_has_the_type_labels_and_buckets_of_gos_page() {
    let recorded = shapes(include_str!("../../testdata/epp-metrics.txt"));
    let ours = shapes(&full_page(&Registry::default()));
    let mut n_compared = 0;
    for (name, shape) in &recorded {
        if name.contains("flow_control") {
            // Flow control registers its own families when it is built.
            continue;
        }
        assert_eq!(ours.get(name), Some(shape), "{name}");
        n_compared += 1;
    }
    assert_eq!(n_compared, 53);
}

/// Families of the specification that had no series on the recorded page.
#[test]
fn families_that_the_recorded_page_lacks_follow_the_specification() {
    let ours = shapes(&full_page(&Registry::default()));
    let check = |name: &str, kind: &str, labels: &[&str], n_buckets: usize| {
        let shape = ours.get(name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!((shape.kind.as_str(), shape.buckets.len()), (kind, n_buckets), "{name}");
        assert_eq!(shape.labels, labels, "{name}");
    };
    let mfp = ["fairness_id", "model_name", "priority", "target_model_name"];
    check("llm_d_epp_request_cached_tokens", "histogram", &mfp, 20);
    let models = ["model_name", "target_model_name"];
    check("inference_objective_prompt_cached_tokens", "histogram", &models, 20);
    for prefix in ["llm_d_epp", "llm_d_inference_scheduler"] {
        let name = format!("{prefix}_datalayer_poll_errors_total");
        check(&name, "counter", &["source_type"], 0);
        let name = format!("{prefix}_datalayer_extract_errors_total");
        check(&name, "counter", &["extractor_type", "source_type"], 0);
    }
    for prefix in ["llm_d_epp", "inference_extension"] {
        let name = format!("{prefix}_model_rewrite_decisions_total");
        check(&name, "counter", &["model_name", "model_rewrite_name", "target_model"], 0);
    }
    let plugin = ["access", "extension_point", "plugin_name", "plugin_type"];
    check("llm_d_epp_plugin_data_scope_violations_total", "counter", &plugin, 0);
    let inflight = ["endpoint_name", "fairness_id", "namespace", "priority", "producer_name"];
    check("llm_d_epp_inflight_requests", "gauge", &inflight, 0);
    check("llm_d_epp_inflight_tokens", "gauge", &inflight, 0);
}

#[test]
fn twins_can_be_left_out() {
    let registry = Registry::new(RegistryOptions { deprecated_twins: false });
    let names = shapes(&full_page(&registry));
    assert_eq!(names.keys().find(|name| !name.starts_with("llm_d_epp_")), None);
}

#[test]
fn a_request_series_is_resolved_once_and_counts() {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    let series = metrics.request("m", "n", "tenant-a", -1);
    assert!(Arc::ptr_eq(&series, &metrics.request("m", "n", "tenant-a", -1)));
    series.total().inc();
    series.duration().observe_duration(Duration::from_millis(30));
    let running = series.start_running();
    let page = registry.encode(Format::Text);
    let labels =
        "{fairness_id=\"tenant-a\",model_name=\"m\",priority=\"-1\",target_model_name=\"n\"}";
    assert!(page.contains(&format!("llm_d_epp_request_total{labels} 1\n")));
    assert!(page.contains(&format!("llm_d_epp_request_running{labels} 1\n")));
    assert!(page.contains(&format!("llm_d_epp_request_duration_seconds_sum{labels} 0.03\n")));
    assert!(!page.contains("llm_d_epp_request_ttft_seconds"), "not before it was observed");
    assert!(page.contains("inference_objective_running_requests{model_name=\"m\"} 1\n"));
    drop(running);
    assert!(registry.encode(Format::Text).contains(&format!("request_running{labels} 0\n")));
}

#[test]
fn requests_without_a_model_count_but_do_not_run() {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    let series = metrics.request("", "", "default-flow", 0);
    series.error("BadRequest").inc();
    assert!(series.start_running().is_none());
    let line = "inference_objective_request_error_total{error_code=\"BadRequest\",model_name=\"\",\
                target_model_name=\"\"} 1\n";
    assert!(registry.encode(Format::Text).contains(line));
}

#[test]
fn invented_names_cannot_fill_the_page() {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    for n in 0..20_000 {
        let model = format!("model-{n}");
        metrics.request(&model, &model, &format!("tenant-{n}"), n % 7).total().inc();
    }
    let page = registry.encode(Format::Text);
    let lines: Vec<_> =
        page.lines().filter(|line| line.starts_with("llm_d_epp_request_total{")).collect();
    assert!(lines.len() <= 4_097, "{}", lines.len());
    let total: f64 =
        lines.iter().map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum();
    assert_eq!(total, 20_000.0);
}

#[test]
fn known_models_are_shown_and_unknown_ones_are_not() {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    assert!(metrics.requests.known_model("llama"));
    assert_eq!(metrics.request("llama", "llama", "t", 0).model(), "llama");
    let invented = metrics.request("invented", "llama", "t", 0);
    assert_eq!((invented.model(), invented.target_model()), ("other", "llama"));
    assert!(Arc::ptr_eq(&invented, &metrics.request("also-invented", "llama", "t", 0)));
}
