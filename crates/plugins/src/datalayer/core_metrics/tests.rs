use std::{fs, path::Path, time::Duration};

use router_core::{EndpointSpec, LoraSignals, Pool};
use router_framework::Workbench;
use router_testkit::scheduling::SceneBuilder;

use super::*;

/// The extractor and one endpoint.
struct Bench {
    metrics: Arc<RouterMetrics>,
    extractor: Arc<dyn Extractor>,
    pool: Pool,
    now: Stamp,
}

fn bench(params: &str, labels: &[(&str, &str)]) -> Bench {
    let mut bench = Workbench::new().unwrap();
    let plugin = bench.plugin(&PLUGIN, "core-metrics-extractor", params).unwrap();
    let pool = Pool::new(bench.resolve().unwrap().n_endpoint);
    let spec = EndpointSpec::new("d", "e", "10.0.0.1", 8000);
    pool.replace(vec![spec.with_labels(labels.iter().copied())]);
    let now = Stamp::ORIGIN + Duration::from_secs(10);
    let metrics = Arc::clone(&bench.env().metrics);
    Bench { metrics, extractor: plugin.extractor.unwrap(), pool, now }
}

impl Bench {
    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.pool.snapshot().endpoints()[0])
    }

    /// Extracts a page one second after the last one; gives the error's text.
    fn extract(&mut self, page: &str) -> Option<String> {
        self.now = self.now + Duration::from_secs(1);
        let extracted = self.extractor.extract(&self.endpoint(), page.as_bytes(), self.now);
        extracted.err().map(|error| error.to_string())
    }

    fn signals(&self) -> Signals {
        self.endpoint().signals()
    }

    fn load(&self) -> [f64; 3] {
        let Signals { waiting, running, kv_usage, .. } = self.signals();
        [waiting, running, kv_usage]
    }

    fn cache(&self) -> [f64; 2] {
        let Signals { block_size, n_blocks, .. } = self.signals();
        [block_size, n_blocks]
    }
}

fn same(values: &[f64], expected: &[f64]) {
    let equal = values.iter().zip(expected).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
    assert!(equal && values.len() == expected.len(), "{values:?} is not {expected:?}");
}

const NONE: f64 = f64::NAN;

fn vllm(waiting: &str, running: &str, kv: &str) -> String {
    format!(
        "vllm:num_requests_waiting{{engine=\"0\"}} {waiting}\n\
         vllm:num_requests_running{{engine=\"0\"}} {running}\n\
         vllm:kv_cache_usage_perc{{engine=\"0\"}} {kv}\n\
         vllm:cache_config_info{{block_size=\"16\",num_gpu_blocks=\"4096\"}} 1\n"
    )
}

fn recorded(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/wire");
    fs::read_to_string(folder.join(name)).unwrap()
}

#[test]
fn a_recorded_page_of_vllm() {
    let mut bench = bench("", &[]);
    assert_eq!(bench.extract(&recorded("metrics-under-load.txt")), None);
    same(&bench.load(), &[6.0, 4.0, 0.20512820512820518]);
    same(&bench.cache(), &[32.0, 40.0]);
    assert_eq!(bench.signals().scraped_at, bench.now);
    assert_eq!(**bench.endpoint().lora(), LoraSignals::default());
}

#[test]
fn the_newest_lora_series_counts() {
    let mut bench = bench("", &[]);
    assert_eq!(bench.extract(&recorded("metrics-lora-waiting.txt")), None);
    let expected = LoraSignals {
        active: vec!["loraB".to_owned()],
        waiting: vec!["loraB".to_owned()],
        max_active: 1,
    };
    assert_eq!(**bench.endpoint().lora(), expected);
    assert_eq!(bench.extract(&vllm("0", "0", "0")), None, "adapters may be missing");
    assert_eq!(**bench.endpoint().lora(), LoraSignals::default());
}

#[test]
fn every_built_in_engine_is_read() {
    let check = |engine: &str, page: &str, load: [f64; 3], cache: [f64; 2]| {
        let mut bench = bench("", &[("llm-d.ai/engine-type", engine)]);
        assert_eq!(bench.extract(page), None, "{engine}");
        same(&bench.load(), &load);
        same(&bench.cache(), &cache);
    };
    check("vllm", &vllm("1", "2", "0.5"), [1.0, 2.0, 0.5], [16.0, 4096.0]);
    check(
        "sglang",
        "sglang:num_queue_reqs{m=\"x\"} 3\nsglang:num_running_reqs 4\nsglang:token_usage 0.25\n\
         sglang:cache_config_info{page_size=\"64\",num_pages=\"100\"} 1.0\n",
        [3.0, 4.0, 0.25],
        [64.0, 100.0],
    );
    check(
        "trtllm-serve",
        "trtllm_num_requests_waiting 5\ntrtllm_num_requests_running 6\ntrtllm_kv_cache_utilization 0.75\n\
         trtllm_kv_cache_tokens_per_block 32\ntrtllm_kv_cache_max_blocks 2000\n",
        [5.0, 6.0, 0.75],
        [32.0, 2000.0],
    );
    check(
        "triton-tensorrt-llm",
        "nv_trt_llm_request_metrics{model=\"m\",request_type=\"waiting\",version=\"1\"} 7\n\
         nv_trt_llm_request_metrics{model=\"m\",request_type=\"scheduled\",version=\"1\"} 8\n\
         nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"fraction\"} 0.125\n\
         nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"tokens_per\"} 128\n\
         nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=\"max\"} 300\n",
        [7.0, 8.0, 0.125],
        [128.0, 300.0],
    );
    check(
        "triton",
        "# TYPE nv_inference_exec_count counter\nnv_inference_pending_request_count 9\nnv_inference_exec_count 10\n",
        [9.0, 10.0, NONE],
        [NONE, NONE],
    );
}

#[test]
fn the_engine_is_chosen_by_label() {
    let sglang = "sglang:num_queue_reqs 3\nsglang:num_running_reqs 4\nsglang:token_usage 0.25\n\
        sglang:cache_config_info{page_size=\"64\",num_pages=\"100\"} 1\n";
    let check = |params: &str, labels: &[(&str, &str)], is_sglang: bool| {
        let mut bench = bench(params, labels);
        assert_eq!(bench.extract(sglang).is_none(), is_sglang, "{params} {labels:?}");
    };
    check("", &[], false);
    check("", &[("llm-d.ai/engine-type", "sglang")], true);
    check("", &[("inference.networking.k8s.io/engine-type", "sglang")], true);
    check("", &[("llm-d.ai/engine-type", "nobody-knows")], false);
    check("{defaultEngine: sglang}", &[("llm-d.ai/engine-type", "nobody-knows")], true);
    check("{engineLabelKey: engine}", &[("engine", "sglang")], true);
    check("{engineLabelKey: engine}", &[("llm-d.ai/engine-type", "sglang")], false);
}

#[test]
fn a16_what_a_page_does_not_say_is_unknown_and_not_hidden_by_the_rest() {
    let mut bench = bench("", &[]);
    assert_eq!(bench.extract(&vllm("4", "2", "0.5")), None);
    let broken = "vllm:num_requests_running 3\nvllm:kv_cache_usage_perc 0.25\n";
    let error = bench.extract(broken).unwrap();
    assert!(error.contains("vllm:num_requests_waiting"), "{error}");
    same(&bench.load(), &[NONE, 3.0, 0.25]);
    assert_eq!(bench.signals().scraped_at, bench.now);
    same(&bench.cache(), &[16.0, 4096.0]);
}

#[test]
fn a16_a_page_without_load_does_not_freshen_it() {
    let mut bench = bench("", &[]);
    assert_eq!(bench.extract(&vllm("4", "2", "0.5")), None);
    let scraped_at = bench.signals().scraped_at;
    for page in [
        "",
        "<html>hello</html>",
        "vllm:cache_config_info{block_size=\"32\",num_gpu_blocks=\"8\"} 1\n",
        &vllm("NaN", "-1", "+Inf"),
    ] {
        let error = bench.extract(page).unwrap();
        for name in ["num_requests_waiting", "num_requests_running", "kv_cache_usage_perc"] {
            assert!(error.contains(name), "{page}: {error}");
        }
        same(&bench.load(), &[4.0, 2.0, 0.5]);
        assert_eq!(bench.signals().scraped_at, scraped_at, "{page}");
    }
}

#[test]
fn a16_an_endpoint_that_was_never_read_says_nothing() {
    let mut bench = bench("", &[]);
    assert!(bench.extract("").is_some());
    assert!(!bench.signals().ever_scraped());
    same(&bench.load(), &[NONE; 3]);
}

#[test]
fn absurd_numbers_are_errors_of_their_field_alone() {
    for absurd in ["NaN", "-1", "+Inf", "-Inf", "1e300"] {
        let mut bench = bench("", &[]);
        let error = bench.extract(&vllm(absurd, "2", "0.5")).unwrap();
        assert_eq!(error, "no usable vllm:num_requests_waiting", "{absurd}");
        same(&bench.load(), &[NONE, 2.0, 0.5]);
    }
    let mut bench = bench("", &[]);
    let page = vllm("1", "2", "0.5").replace("\"4096\"", "\"None\"").replace("\"16\"", "\"0\"");
    let error = bench.extract(&page).unwrap();
    assert_eq!(
        error,
        "no usable vllm:cache_config_info label block_size, vllm:cache_config_info label num_gpu_blocks"
    );
    same(&bench.cache(), &[NONE, NONE]);
}

#[test]
fn a22_percent_is_told_from_a_share_and_remembered() {
    let mut bench = bench("", &[]);
    let mut kv = |usage: &str| {
        bench.extract(&vllm("0", "0", usage));
        bench.load()[2]
    };
    assert_eq!(kv("0.75"), 0.75);
    assert_eq!(kv("1.0"), 1.0);
    assert_eq!(kv("75"), 0.75);
    assert_eq!(kv("1"), 0.01);
    assert!(kv("1000").is_nan());
}

#[test]
fn configured_engines_replace_built_in_ones_as_a_whole() {
    let params = "{engineConfigs: [{name: vllm, queuedRequestsSpec: 'my_queue{kind=\"a\"}'}]}";
    let mut bench = bench(params, &[]);
    assert_eq!(bench.extract("my_queue{kind=\"b\"} 9\nmy_queue{kind=\"a\"} 5\n"), None);
    same(&bench.load(), &[5.0, NONE, NONE]);
    assert!(bench.signals().ever_scraped());
}

#[test]
fn custom_metrics_become_attributes() {
    let params = "{engineConfigs: [
        {name: vllm, queuedRequestsSpec: q, customMetrics: [{attributeKey: power, metricSpec: watts}]},
        {name: other, customMetrics: [{attributeKey: power, metricSpec: w}]}]}";
    let mut bench = Workbench::new().unwrap();
    let plugin = bench.plugin(&PLUGIN, "core-metrics-extractor", params).unwrap();
    let slot = bench.endpoint_reader(&keys::scalar("power"), "core-metrics-extractor");
    let pool = Pool::new(bench.resolve().unwrap().n_endpoint);
    pool.replace(vec![EndpointSpec::new("d", "e", "10.0.0.1", 8000)]);
    let endpoint = Arc::clone(&pool.snapshot().endpoints()[0]);
    assert!(endpoint.slot(&slot).unwrap().get().is_nan());
    let extractor = plugin.extractor.unwrap();
    let now = Stamp::ORIGIN + Duration::from_secs(1);
    let value = |page: &[u8]| {
        let ok = extractor.extract(&endpoint, page, now).is_ok();
        (ok, endpoint.slot(&slot).unwrap().get())
    };
    assert_eq!(value(b"q 1\nwatts -12.5\n"), (true, -12.5));
    let (ok, unknown) = value(b"q 1\nwatts NaN\n");
    assert!(!ok && unknown.is_nan());
}

#[test]
fn parameters_are_checked() {
    let check = |params: &str, place: &str| {
        let error = SceneBuilder::refusal(&PLUGIN, params);
        assert!(error.contains(place), "{params}: {error}");
    };
    check("{defaultEngine: vlm}", "defaultEngine: no such engine; known are sglang, triton");
    check("{engineConfigs: [{queuedRequestsSpec: q}]}", "engineConfigs[0].name: must be given");
    check("{engineConfigs: [{name: default}]}", "engineConfigs[0].name");
    check("{engineConfigs: [{name: a}, {name: a}]}", "engineConfigs[1].name: is there twice");
    check("{engineConfigs: [{name: a, kvUsageSpec: 'x{'}]}", "engineConfigs[0].kvUsageSpec");
    check("{engineConfigs: [{name: a, kvUsageSpec: '7x'}]}", "engineConfigs[0].kvUsageSpec");
    let custom = |list: &str| format!("{{engineConfigs: [{{name: a, customMetrics: [{list}]}}]}}");
    check(&custom("{attributeKey: k}"), "customMetrics[0].metricSpec: must be given");
    check(&custom("{metricSpec: m}"), "customMetrics[0].attributeKey");
    check(
        &custom("{attributeKey: k, metricSpec: m}, {attributeKey: k, metricSpec: other}"),
        "customMetrics[1].attributeKey",
    );
    check("{engineConfig: []}", "engineConfig");
}

#[test]
fn models_that_a_page_names_are_known() {
    let check = |params: &str, page: &str, known: &[&str]| {
        let mut bench = bench(params, &[]);
        let _faults = bench.extract(page);
        for name in ["llama", "adapter-a", "adapter-b", "0"] {
            let is_known = bench.metrics.requests.knows_model(name);
            assert_eq!(is_known, known.contains(&name), "{name}: {page}");
        }
    };
    check("", "vllm:num_requests_waiting{engine=\"0\",model_name=\"llama\"} 1\n", &["llama"]);
    check("", "vllm:kv_cache_usage_perc{model_name=\"llama\"} NaN\n", &["llama"]);
    check("", "vllm:num_requests_waiting{engine=\"0\"} 1\n", &[]);
    check("", "vllm:num_requests_waiting{model_name=\"\"} 1\n", &[]);
    check(
        "",
        "vllm:num_requests_waiting{model_name=\"llama\"} 1\n\
         vllm:lora_requests_info{max_lora=\"4\",running_lora_adapters=\"adapter-a\",\
         waiting_lora_adapters=\"adapter-b\"} 1\n",
        &["llama", "adapter-a", "adapter-b"],
    );
    check(
        "{defaultEngine: triton}",
        "nv_inference_pending_request_count{model=\"llama\",version=\"1\"} 1\n",
        &["llama"],
    );
}
