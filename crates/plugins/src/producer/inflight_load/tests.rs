use http::StatusCode;
use router_framework::ParsedRequest;
use router_telemetry::metrics::{Format, Registry};
use router_testkit::{
    pipeline::{Pipeline, PipelineBuilder, Turn, completion, endpoints, request},
    scheduling::SceneBuilder,
};

use super::*;
use crate::producer::{approx_prefix_cache, token};

/// The plugin behind a token producer and a prefix index, on a pool of three endpoints.
struct Bench {
    pipeline: Pipeline,
    plugin: Instance,
    uncached: Read<Column<u64>>,
    registry: Arc<Registry>,
}

fn bench(params: &str) -> Bench {
    let mut builder = PipelineBuilder::new();
    builder.plugin(&token::PLUGIN, "");
    builder.plugin(&approx_prefix_cache::PLUGIN, "");
    let plugin = builder.plugin(&PLUGIN, params);
    let uncached = builder.reader(&UNCACHED_TOKENS, "");
    let registry = builder.env().registry;
    let pipeline = builder.build();
    pipeline.replace(endpoints(3));
    Bench { pipeline, plugin, uncached, registry }
}

/// A prompt of so many blocks of 64 tokens.
fn text(n_blocks: usize) -> String {
    "x".repeat(n_blocks * 256)
}

const ESTIMATED: &str = "{addEstimatedOutputTokens: true, outputRatio: 0.5}";

impl Bench {
    async fn begin(&mut self, prompt: &str) -> Turn {
        self.pipeline.begin(completion("m", prompt)).await
    }

    /// Requests and tokens by endpoint.
    fn load(&self) -> Vec<(i64, i64)> {
        let dump = self.plugin.dump.as_ref().unwrap().dump();
        let number = |value: &serde_json::Value| value.as_i64().unwrap();
        let all = dump["byEndpoint"].as_array().unwrap().iter();
        all.map(|one| (number(&one["requests"]), number(&one["tokens"]))).collect()
    }
}

const NONE: (i64, i64) = (0, 0);

#[tokio::test]
async fn tokens_are_released_with_the_first_byte_and_the_request_at_its_end() {
    let mut bench = bench("");
    let mut leases = bench.begin(&text(2)).await.pick(&[("default", &[1])]);
    assert_eq!(bench.load(), [NONE, (1, 128), NONE]);
    leases.first_byte();
    assert_eq!(bench.load(), [NONE, (1, 0), NONE]);
    leases.served();
    assert_eq!(bench.load(), [NONE; 3]);
}

#[tokio::test]
async fn estimated_output_counts_until_the_end() {
    let mut bench = bench(ESTIMATED);
    let mut leases = bench.begin(&text(2)).await.pick(&[("default", &[1])]);
    assert_eq!(bench.load(), [NONE, (1, 128 + 64), NONE]);
    leases.first_byte();
    assert_eq!(bench.load(), [NONE, (1, 192), NONE]);
    leases.served();
    assert_eq!(bench.load(), [NONE; 3]);
}

#[tokio::test]
async fn estimates_are_capped() {
    for (params, client_cap, tokens) in [
        (ESTIMATED, Some(10), 128 + 10),
        (ESTIMATED, Some(0), 128),
        ("{addEstimatedOutputTokens: true, maxEstimatedOutputTokens: 7}", Some(10), 128 + 7),
        ("{addEstimatedOutputTokens: true}", None, 128 + 192),
        ("{addEstimatedOutputTokens: true, outputRatio: 0}", None, 128),
        ("{outputRatio: 3}", None, 128),
    ] {
        let mut bench = bench(params);
        let mut asked = completion("m", &text(2));
        asked.parsed.max_output_tokens = client_cap;
        let _leases = bench.pipeline.begin(asked).await.pick(&[("default", &[0])]);
        assert_eq!(bench.load()[0], (1, tokens), "{params}");
    }
}

#[tokio::test]
async fn a09_profiles_other_than_the_primary_one_end_with_the_first_byte() {
    for (params, after) in [("", (1, 0)), (ESTIMATED, (1, 192))] {
        let mut bench = bench(params);
        let turn = bench.begin(&text(2)).await;
        let mut leases = turn.pick(&[("generate", &[0]), ("my-own-prompt-stage", &[2])]);
        assert_eq!(bench.load()[2].0, 1);
        assert_eq!(bench.load()[0].0, 1);
        leases.first_byte();
        assert_eq!(bench.load(), [after, NONE, NONE]);
        leases.served();
        assert_eq!(bench.load(), [NONE; 3]);
    }
}

#[tokio::test]
async fn whatever_ends_a_request_everything_is_released() {
    let mut bench = bench("");
    for status in [None, Some(StatusCode::OK), Some(StatusCode::BAD_GATEWAY)] {
        let turn = bench.begin(&text(2)).await;
        turn.pick(&[("decode", &[0]), ("prefill", &[1])]).end(status);
        assert_eq!(bench.load(), [NONE; 3], "{status:?}");
    }
    let leases = bench.begin(&text(2)).await.pick(&[("default", &[0])]);
    drop(leases);
    assert_eq!(bench.load(), [NONE; 3], "also what was never ended");
}

#[tokio::test]
async fn a_request_that_moves_counts_where_it_went() {
    let mut bench = bench("");
    bench.begin(&text(3)).await.pick(&[("default", &[1])]).served();
    let turn = bench.begin(&text(4)).await;
    let mut leases = turn.pick(&[("default", &[0, 1])]);
    assert_eq!(bench.load(), [(1, 256), NONE, NONE]);
    leases.moved(&bench.pipeline.endpoint(1));
    assert_eq!(bench.load(), [NONE, (1, 64), NONE], "three of four blocks are cached there");
    leases.moved(&bench.pipeline.endpoint(2));
    assert_eq!(bench.load(), [NONE, NONE, (1, 64)], "nobody ranked this one");
    leases.first_byte();
    leases.moved(&bench.pipeline.endpoint(1));
    assert_eq!(bench.load(), [NONE, (1, 0), NONE], "what was released stays released");
    leases.served();
    assert_eq!(bench.load(), [NONE; 3]);
}

#[tokio::test]
async fn uncached_tokens_follow_the_prefix_match() {
    let mut bench = bench("");
    bench.begin(&text(3)).await.pick(&[("default", &[1])]).served();
    let turn = bench.begin(&text(4)).await;
    let column = turn.cx().read(&bench.uncached).unwrap();
    assert_eq!(column.as_slice(), [256, 64, 256]);
}

#[tokio::test]
async fn an_endpoint_that_comes_back_under_its_name_starts_at_zero() {
    let mut bench = bench("");
    let leases = bench.begin(&text(2)).await.pick(&[("default", &[1])]);
    bench.pipeline.replace(Vec::new());
    bench.pipeline.replace(endpoints(3));
    assert_eq!(bench.load(), [NONE; 3]);
    leases.served();
    assert_eq!(bench.load(), [NONE; 3], "the old request is taken off the old endpoint");
}

#[tokio::test]
async fn a10_instances_count_apart_from_each_other() {
    let mut builder = PipelineBuilder::new();
    builder.plugin(&token::PLUGIN, "");
    let plain = builder.named_plugin(&PLUGIN, "plain", "");
    let with_output = builder.named_plugin(&PLUGIN, "with-output", ESTIMATED);
    let by_name = builder.reader(&UNCACHED_TOKENS, "with-output");
    let registry = builder.env().registry;
    let mut pipeline = builder.build();
    pipeline.replace(endpoints(1));
    let turn = pipeline.begin(completion("m", &text(2))).await;
    assert!(turn.cx().read(&by_name).is_some());
    let _leases = turn.pick(&[("default", &[0])]);
    let tokens = |plugin: &Instance| {
        plugin.dump.as_ref().unwrap().dump()["byEndpoint"][0]["tokens"].as_i64().unwrap()
    };
    assert_eq!((tokens(&plain), tokens(&with_output)), (128, 192));
    let page = registry.encode(Format::Text);
    for producer in ["plain", "with-output"] {
        assert!(page.contains(&format!("producer_name=\"{producer}\"")), "{page}");
    }
}

#[tokio::test]
async fn a25_equal_request_ids_do_not_mix() {
    let mut bench = bench("");
    let first = bench.begin(&text(2)).await.pick(&[("default", &[0])]);
    let second = bench.begin(&text(2)).await.pick(&[("default", &[0])]);
    first.served();
    assert_eq!(bench.load()[0].0, 1);
    second.served();
    assert_eq!(bench.load(), [NONE; 3]);
}

#[tokio::test]
async fn requests_without_a_prompt_count_as_requests() {
    let mut bench = bench(ESTIMATED);
    let turn = bench.pipeline.begin(request("m", ParsedRequest::default())).await;
    let leases = turn.pick(&[("default", &[2])]);
    assert_eq!(bench.load(), [NONE, NONE, (1, 0)]);
    leases.served();
    assert_eq!(bench.load(), [NONE; 3]);
}

#[tokio::test]
async fn gauges_follow_and_go_with_their_endpoint() {
    let mut bench = bench("");
    let mut asked = completion("m", &text(2));
    (asked.fairness_id, asked.priority) = ("tenant".into(), -1);
    let leases = bench.pipeline.begin(asked).await.pick(&[("default", &[1])]);
    let labels = "endpoint_name=\"e1\",fairness_id=\"tenant\",namespace=\"default\",priority=\"-1\",\
        producer_name=\"inflight-load-producer\"";
    let check = |requests: u32, tokens: u32| {
        let page = bench.registry.encode(Format::Text);
        for line in [
            format!("llm_d_epp_inflight_requests{{{labels}}} {requests}\n"),
            format!("llm_d_epp_inflight_tokens{{{labels}}} {tokens}\n"),
        ] {
            assert!(page.contains(&line), "{line} is not in\n{page}");
        }
    };
    check(1, 128);
    leases.served();
    check(0, 0);
    bench.pipeline.replace(Vec::new());
    let page = bench.registry.encode(Format::Text);
    assert!(!page.contains("llm_d_epp_inflight_requests{"), "{page}");
}

#[tokio::test]
async fn a36_label_values_of_clients_are_bounded() {
    let mut bench = bench("");
    for tenant in 0..3000 {
        let mut asked = completion("m", "x");
        asked.fairness_id = format!("tenant-{tenant}").into();
        bench.pipeline.begin(asked).await.pick(&[("default", &[0])]).served();
    }
    let page = bench.registry.encode(Format::Text);
    let shown = page.lines().filter(|line| line.starts_with("llm_d_epp_inflight_requests{"));
    let n_shown = shown.count();
    assert!((900..=1100).contains(&n_shown), "{n_shown} series");
}

#[test]
fn parameters_are_checked() {
    let check = |params: &str, place: &str| {
        let error = SceneBuilder::refusal(&PLUGIN, params);
        assert!(error.contains(place), "{params}: {error}");
    };
    check("{outputRatio: -0.1}", "outputRatio");
    check("{maxEstimatedOutputTokens: -1}", "maxEstimatedOutputTokens");
    check("{outputRation: 1}", "outputRation");
}
