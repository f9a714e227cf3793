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
    observe_flow_control(registry);
    let inflight = InflightMetrics::new(registry).unwrap();
    inflight.requests.with(["e", "ns", "producer", "default-flow", "0"]).inc();
    inflight.tokens.with(["e", "ns", "producer", "default-flow", "0"]).inc();
    registry.encode(Format::Text)
}

/// A series in each family of flow control.
fn observe_flow_control(registry: &Registry) {
    let flow = FlowMetrics::new(registry).unwrap();
    let (pool, band) = (["pool"], ["0", "pool"]);
    flow.queue_duration.with(["default-flow", "0", "Dispatched", "pool", "m", "m"]).observe(0.0);
    flow.enqueue_duration.with(["default-flow", "0", "NotYetFinalized"]).observe(0.0);
    for family in [&flow.queue_size, &flow.queue_bytes] {
        family.with(["default-flow", "0", "pool", "m", "m"]).inc();
    }
    flow.pool_saturation.with(["pool", "decode"]).set(0.5);
    flow.stale_endpoints.with(["utilization-detector"]).set(0.0);
    for family in
        [&flow.capacity_utilization_requests, &flow.capacity_utilization_bytes, &flow.jain_index]
    {
        family.with(band).set(0.5);
    }
    for family in [
        &flow.global_capacity_utilization_requests,
        &flow.global_capacity_utilization_bytes,
        &flow.reclaim_target,
        &flow.pending_reclaim,
        &flow.signal_age,
    ] {
        family.with(pool).set(0.5);
    }
    flow.requests.with(["Dispatched", "0", "pool"]).inc();
    flow.revocations_issued.with(band).inc();
    flow.revocations.with(["confirmed", "pool"]).add(1.0);
    flow.revocation_confirmation.with(pool).observe(0.1);
    flow.counting_in_flight.with(["pool", "decode"]).set(0.0);
    flow.in_flight.with(["pool", "placed"]).set(1.0);
    flow.subsets_judged_as_pool.with(pool).set(1.0);
    flow.flow_service.with(["default-flow", "0", "pool"]).set(1.0);
}

#[test]
fn a53_every_family_has_the_type_labels_and_buckets_of_gos_page() {
    let recorded = shapes(include_str!("../../testdata/epp-metrics.txt"));
    let ours = shapes(&full_page(&Registry::default()));
    let mut n_compared = 0;
    for (name, shape) in &recorded {
        assert_eq!(ours.get(name), Some(shape), "{name}");
        n_compared += 1;
    }
    assert_eq!(n_compared, 69);
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
    let flow = |name: &str| format!("llm_d_epp_flow_control_{name}");
    let (pool, band) = (["inference_pool"], ["inference_pool", "priority"]);
    for name in ["capacity_utilization_requests", "capacity_utilization_bytes"] {
        check(&flow(name), "gauge", &band, 0);
        check(&flow(&format!("global_{name}")), "gauge", &pool, 0);
    }
    check(&flow("stale_endpoints"), "gauge", &["detector"], 0);
    check(&flow("requests_total"), "counter", &["inference_pool", "outcome", "priority"], 0);
    check(&flow("revocations_issued_total"), "counter", &band, 0);
    check(&flow("revocations_total"), "counter", &["inference_pool", "outcome"], 0);
    check(&flow("reclaim_target"), "gauge", &pool, 0);
    check(&flow("pending_reclaim"), "gauge", &pool, 0);
    check(&flow("revocation_confirmation_seconds"), "histogram", &pool, 12);
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
    for name in ["m", "n"] {
        assert!(metrics.requests.know_model(name, KnownBy::Page));
    }
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
fn invented_names_leave_no_series() {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    for n in 0..20_000 {
        let model = format!("model-{n}");
        metrics.request(&model, &model, DEFAULT_FLOW, 0).total().inc();
    }
    let page = registry.encode(Format::Text);
    let other = "llm_d_epp_request_total{fairness_id=\"default-flow\",model_name=\"other\",\
                 priority=\"0\",target_model_name=\"other\"} 20000\n";
    assert!(page.contains(other), "{page}");
    assert!(!page.contains("model-"), "{page}");
}

#[test]
fn known_models_are_shown_and_unknown_ones_are_not() {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    let requests = &metrics.requests;
    assert!(requests.knows_model("") && !requests.knows_model("llama"));
    assert!(requests.know_model("llama", KnownBy::Response) && requests.knows_model("llama"));
    assert_eq!(metrics.request("llama", "llama", "t", 0).model(), "llama");
    let invented = metrics.request("invented", "llama", "t", 0);
    assert_eq!((invented.model(), invented.target_model()), ("other", "llama"));
    assert!(Arc::ptr_eq(&invented, &metrics.request("also-invented", "llama", "t", 0)));
}

#[test]
fn fairness_ids_of_clients_leave_room_for_models() {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    metrics.requests.know_model("early", KnownBy::Page);
    for n in 0..10_000 {
        metrics.request("early", "early", &format!("tenant-{n}"), 0).duration().observe(1.0);
    }
    metrics.requests.know_model("late", KnownBy::Page);
    let late = metrics.request("late", "late", DEFAULT_FLOW, 0);
    late.total().inc();
    late.duration().observe(1.0);
    late.error("Internal").inc();
    let page = registry.encode(Format::Text);
    let late = "{fairness_id=\"default-flow\",model_name=\"late\",priority=\"0\",\
                target_model_name=\"late\"} 1\n";
    for family in ["request_total", "request_duration_seconds_count"] {
        assert!(page.contains(&format!("llm_d_epp_{family}{late}")), "{family}");
    }
    let rest = "llm_d_epp_request_duration_seconds_count{fairness_id=\"other\",\
                model_name=\"early\",priority=\"0\",target_model_name=\"early\"} ";
    let rest = page.lines().find_map(|line| line.strip_prefix(rest)).unwrap();
    assert_eq!(rest, "9904", "ninety-six tenants have histograms of their own");
    let twin = "inference_objective_request_duration_seconds_count{model_name=\"early\",\
                target_model_name=\"early\"} 10000\n";
    assert!(page.contains(twin), "nothing is lost");
}

/// What a page may have at the most, in bytes.
const MAX_PAGE: usize = 16 << 20;
/// By how much the counts of a histogram are longer after years of traffic.
const MORE_DIGITS: usize = 11;

/// Observes everything that can be observed of one request, in numbers that are long to write.
fn observe_all(series: &RequestSeries) {
    series.total().add(1 << 40);
    drop(series.start_running());
    for code in ERROR_CODES {
        series.error(code).add(1 << 40);
    }
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
        for _ in 0..3 {
            histogram.observe(0.000_123_456_789_012_3);
        }
    }
}

/// As many values as the error label has.
const ERROR_CODES: [&str; 17] = [
    "BadRequest",
    "Unauthorized",
    "Forbidden",
    "NotFound",
    "RequestTimeout",
    "PreconditionFailed",
    "PayloadTooLarge",
    "UnsupportedMediaType",
    "HeadersTooLarge",
    "ResourceExhausted",
    "Internal",
    "NotImplemented",
    "ModelServerError",
    "ServiceUnavailable",
    "ModelServerTimeout",
    "ClientDisconnect",
    "Evicted",
];

/// What one flow puts on the page, in numbers that are long to write.
fn fill_flow_control(flow: &FlowMetrics, id: &str, model: &str, priority: i32) {
    let (priority, pool) = (priority.to_string(), "pool");
    for outcome in ["Dispatched", "RejectedCapacity", "EvictedContextCancelled"] {
        let labels = [id, &priority, outcome, pool, model, model];
        flow.queue_duration.with(labels).observe(0.000_123_456_789_012_3);
        let labels = [id, priority.as_str(), outcome];
        flow.enqueue_duration.with(labels).observe(0.000_123_456_789_012_3);
        flow.requests.with([outcome, &priority, pool]).add(1 << 40);
    }
    for family in [&flow.queue_size, &flow.queue_bytes] {
        family.with([id, &priority, pool, model, model]).set(1e9);
    }
    flow.flow_service.with([id, &priority, pool]).set(1e12);
    for family in
        [&flow.capacity_utilization_requests, &flow.capacity_utilization_bytes, &flow.jain_index]
    {
        family.with([&priority, pool]).set(0.123_456_789_012_3);
    }
}

/// The largest page: all that clients and a huge pool can put on it, with names of the given length.
fn largest_page(name_bytes: usize, character: &str) -> usize {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    let inflight = InflightMetrics::new(&registry).unwrap();
    let flow = FlowMetrics::new(&registry).unwrap();
    let name = |kind: &str, n: usize| {
        let number = format!("{kind}{n}");
        format!("{number}{}", character.repeat(name_bytes.saturating_sub(number.len())))
    };
    for n in 0..1_500 {
        let model = name("m", n);
        metrics.requests.know_model(&model, KnownBy::Page);
        let series = metrics.request(&model, &model, DEFAULT_FLOW, i32::MIN);
        observe_all(&series);
        observe_all(&metrics.request(&model, &model, &name("f", n), i32::MIN + n as i32));
        fill_flow_control(&flow, &name("f", n), series.target_model(), i32::MIN + n as i32);
        for at in 0..10 {
            let endpoint = name("e", n * 10 + at);
            let labels = ["success", series.target_model(), &endpoint, "namespace", "65535"];
            metrics.scheduler.attempts.with(labels).add(1 << 40);
            metrics.pool.per_endpoint_queue_size.with(["pool", &endpoint]).set(1e9);
            for gauge in [&inflight.requests, &inflight.tokens] {
                let fairness_id = series.fairness_id();
                gauge.with([&endpoint, "namespace", "producer", fairness_id, "0"]).set(1e9);
            }
        }
    }
    for n in 0..100 {
        let plugin = name("p", n);
        metrics
            .scheduler
            .plugin(ExtensionPoint::ProcessProfilesResults, &plugin, &plugin)
            .observe(1.0);
        metrics.scheduler.plugin_panics.with(["ProcessProfilesResults", &plugin, &plugin]).inc();
    }
    let page = registry.encode(Format::OpenMetrics);
    page.len() + MORE_DIGITS * page.lines().count()
}

#[test]
fn a_page_is_bounded_whatever_clients_send() {
    let check = |name_bytes, character| {
        let n_bytes = largest_page(name_bytes, character);
        assert!(n_bytes < MAX_PAGE, "{n_bytes} bytes with names of {name_bytes} {character:?}");
        n_bytes
    };
    assert!(check(20, "x") > MAX_PAGE / 2, "the page is filled");
    check(40, "\"");
    check(256, "x");
}

#[test]
fn reloads_are_on_the_page_before_the_first_one() {
    let registry = Registry::default();
    let metrics = RouterMetrics::new(&registry, &BUILD).unwrap();
    let keys = metrics.reloads.follow(Followed::ApiKeys, 1_000.0);
    let check = |successes, failures, is_successful, at| {
        let page = registry.encode(Format::Text);
        for line in [
            format!("reloads_total{{result=\"success\",what=\"api_keys\"}} {successes}"),
            format!("reloads_total{{result=\"failure\",what=\"api_keys\"}} {failures}"),
            format!("last_reload_successful{{what=\"api_keys\"}} {is_successful}"),
            format!("last_reload_success_timestamp_seconds{{what=\"api_keys\"}} {at}"),
        ] {
            assert!(page.contains(&format!("llm_d_epp_{line}\n")), "{line}: {page}");
        }
    };
    check(0, 0, 1, 1_000);
    keys.failed();
    check(0, 1, 0, 1_000);
    keys.failed();
    keys.succeeded(2_000.0);
    check(1, 2, 1, 2_000);
}
