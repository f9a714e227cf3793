use std::collections::{BTreeMap, BTreeSet};

use router_core::time::Stamp;

use super::*;
use crate::model::{Engine, EngineRequest, EventKind};

/// Families with their type, and the label names of each series.
#[derive(Debug, Default)]
struct Parsed {
    types: BTreeMap<String, String>,
    labels: BTreeMap<String, BTreeSet<Vec<String>>>,
    values: BTreeMap<String, f64>,
}

fn parse(page: &str) -> Parsed {
    let mut parsed = Parsed::default();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(parsed.types.insert(name.into(), kind.into()).is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
            // Values in these pages hold neither commas nor quotes.
            let names = labels.trim_end_matches('}').split("\",");
            let names = names
                .filter_map(|label| label.split_once('='))
                .map(|(name, _)| name.to_owned())
                .collect();
            parsed.labels.entry(name.into()).or_default().insert(names);
            parsed.values.insert(series.into(), value.parse().unwrap());
        }
    }
    parsed
}

fn shown_page(config: &ServerConfig, fake: Option<&FakeMetrics>, twist: Twist) -> String {
    let mut engine = Engine::new(config.profile.clone(), 1).unwrap();
    let mut latencies = Latencies::new(config.profile.max_model_len);
    latencies.requested(1, Some(16));
    engine.submit(Stamp::ORIGIN, EngineRequest::new(100, 16), &mut |_| ()).unwrap();
    engine.submit(Stamp::ORIGIN, EngineRequest::new(100, 500), &mut |_| ()).unwrap();
    let mut sink = |event: crate::model::Event| {
        if let EventKind::Finished(end) = event.kind {
            latencies.finished(&end, false);
        }
    };
    engine.advance(Stamp::from_nanos(500_000_000), &mut sink);
    let loras: Vec<_> = fake.map_or_else(|| vec![FakeLora::default()], |fake| fake.loras.clone());
    let shown = Shown {
        config,
        signals: &engine.signals(),
        latencies: &latencies,
        loras: &loras,
        fake,
        asleep: false,
        created: 1e9,
        now: 2e9,
    };
    page(&shown, twist)
}

/// Pages of vLLM 0.32 (`vllm-samples/metrics-0-idle.txt` and `run2-lora-byteshash/metrics-2-lora-waiting.txt`), reduced to
/// the types and the first series of each name.
const SAMPLE: &str = include_str!("../../../testdata/vllm-metrics.txt");

#[test]
fn names_types_and_labels_are_those_of_vllm() {
    let config = ServerConfig::default();
    let (ours, theirs) = (parse(&shown_page(&config, None, Twist::None)), parse(SAMPLE));
    for (name, kind) in &ours.types {
        assert_eq!(theirs.types.get(name), Some(kind), "{name}");
    }
    for (name, labels) in &ours.labels {
        let theirs =
            theirs.labels.get(name).unwrap_or_else(|| panic!("{name} is not in the sample"));
        for labels in labels {
            // The cache configuration of vLLM has many more labels.
            let known = theirs.iter().any(|theirs| {
                theirs == labels || labels.iter().all(|label| theirs.contains(label))
            });
            assert!(known, "{name} {labels:?} {theirs:?}");
        }
    }
    // Families that need what the simulator does not have.
    let absent: BTreeSet<_> = theirs
        .types
        .keys()
        .filter(|name| name.starts_with("vllm:") && !ours.types.contains_key(*name))
        .map(|name| name.trim_end_matches("_total").trim_end_matches("_created"))
        .collect();
    let expected = [
        "vllm:estimated_flops_per_gpu",
        "vllm:estimated_read_bytes_per_gpu",
        "vllm:estimated_write_bytes_per_gpu",
        "vllm:external_prefix_cache_hits",
        "vllm:external_prefix_cache_queries",
        "vllm:iteration_tokens",
        "vllm:mm_cache_hits",
        "vllm:mm_cache_queries",
        "vllm:prompt_tokens_cached_by_source",
    ];
    assert_eq!(
        absent.into_iter().map(|name| name.trim_end_matches("_total")).collect::<BTreeSet<_>>(),
        expected.into()
    );
}

#[test]
fn values_are_the_engine_s() {
    let values = parse(&shown_page(&ServerConfig::default(), None, Twist::None)).values;
    let model = "engine=\"0\",model_name=\"sim-model\"";
    assert_eq!(values[&format!("vllm:num_requests_running{{{model}}}")], 1.0);
    assert_eq!(values[&format!("vllm:prompt_tokens_total{{{model}}}")], 200.0);
    assert_eq!(values[&format!("vllm:e2e_request_latency_seconds_count{{{model}}}")], 1.0);
    assert_eq!(values[&format!("vllm:inter_token_latency_seconds_count{{{model}}}")], 15.0);
    assert!(values[&format!("vllm:kv_cache_usage_perc{{{model}}}")] > 0.0);
}

#[test]
fn fake_values_replace_the_engine_s() {
    let loras = vec![FakeLora { running: "a,b".into(), waiting: "c".into(), timestamp: 5.0 }];
    let fake =
        FakeMetrics { running_requests: 7.0, waiting_requests: 8.5, kv_cache_usage: -2.0, loras };
    let values = parse(&shown_page(&ServerConfig::default(), Some(&fake), Twist::None)).values;
    let model = "engine=\"0\",model_name=\"sim-model\"";
    assert_eq!(values[&format!("vllm:num_requests_running{{{model}}}")], 7.0);
    assert_eq!(values[&format!("vllm:num_requests_waiting{{{model}}}")], 8.5);
    assert_eq!(values[&format!("vllm:kv_cache_usage_perc{{{model}}}")], -2.0);
    let lora = "vllm:lora_requests_info{max_lora=\"1\",running_lora_adapters=\"a,b\",waiting_lora_adapters=\"c\"}";
    assert_eq!(values[lora], 5.0);
    assert_eq!(values.len(), 5, "nothing else but the cache configuration: {values:?}");
}

#[test]
fn twists_reach_every_value() {
    let config = ServerConfig::default();
    assert!(
        parse(&shown_page(&config, None, Twist::Nan)).values.values().all(|value| value.is_nan())
    );
    assert!(
        parse(&shown_page(&config, None, Twist::Negative))
            .values
            .values()
            .all(|&value| value < 0.0)
    );
}

#[test]
fn other_engines_have_their_names() {
    let page = |metrics_dialect| {
        parse(&shown_page(
            &ServerConfig { metrics_dialect, ..ServerConfig::default() },
            None,
            Twist::None,
        ))
    };
    for (dialect, names) in [
        (
            MetricsDialect::Sglang,
            &[
                "sglang:num_queue_reqs",
                "sglang:num_running_reqs",
                "sglang:token_usage",
                "sglang:cache_config_info",
            ][..],
        ),
        (
            MetricsDialect::TrtllmServe,
            &[
                "trtllm_num_requests_waiting",
                "trtllm_kv_cache_utilization",
                "trtllm_kv_cache_max_blocks",
            ],
        ),
        (
            MetricsDialect::TritonTensorrtLlm,
            &["nv_trt_llm_request_metrics", "nv_trt_llm_kv_cache_block_metrics"],
        ),
        (
            MetricsDialect::Triton,
            &["nv_inference_pending_request_count", "nv_inference_exec_count"],
        ),
    ] {
        let parsed = page(dialect);
        for name in names {
            assert_eq!(parsed.types.get(*name).map(String::as_str), Some("gauge"), "{name}");
            assert!(parsed.labels.contains_key(*name), "{name}");
        }
    }
}

#[test]
fn label_values_are_escaped() {
    let config = ServerConfig { model: "a\"b\\c\nd".into(), ..ServerConfig::default() };
    let page = shown_page(&config, None, Twist::None);
    assert!(page.contains(r#"model_name="a\"b\\c\nd""#));
}
