use http::StatusCode;
use router_framework::{ParsedRequest, PromptInput, Usage, keys::PromptBlocks};
use router_telemetry::metrics::{Format, Registry};
use router_testkit::{
    pipeline::{Pipeline, PipelineBuilder, Turn, completion, endpoints, request},
    scheduling::SceneBuilder,
};

use super::*;
use crate::producer::token;

/// A token producer and the plugin on a pool of three endpoints.
struct Bench {
    pipeline: Pipeline,
    matches: Read<Column<PrefixMatch>>,
    plugin: Instance,
    registry: Arc<Registry>,
}

fn bench(params: &str) -> Bench {
    bench_of(PipelineBuilder::new(), params)
}

fn bench_of(mut builder: PipelineBuilder, params: &str) -> Bench {
    builder.plugin(&token::PLUGIN, "");
    let plugin = builder.plugin(&PLUGIN, params);
    let matches = builder.reader(&PREFIX_MATCH, "");
    let registry = builder.env().registry;
    let pipeline = builder.build();
    pipeline.replace(endpoints(3));
    Bench { pipeline, matches, plugin, registry }
}

/// A text of so many blocks of 64 tokens that shares them with longer ones of the same letter.
fn text(letter: char, n_blocks: usize) -> String {
    letter.to_string().repeat(n_blocks * 256)
}

impl Bench {
    async fn begin(&mut self, prompt: &str) -> Turn {
        self.pipeline.begin(completion("m", prompt)).await
    }

    fn matched(&self, turn: &Turn) -> Vec<u32> {
        let column = turn.cx().read(&self.matches).unwrap();
        column.as_slice().iter().map(|found| found.matched_blocks).collect()
    }

    /// Matched blocks of all endpoints for a prompt.
    async fn look(&mut self, prompt: &str) -> Vec<u32> {
        let turn = self.begin(prompt).await;
        self.matched(&turn)
    }

    /// Sends a prompt to an endpoint that serves it.
    async fn serve(&mut self, prompt: &str, at: u32) {
        self.begin(prompt).await.pick(&[("default", &[at])]).served();
    }

    fn report(&self, at: usize, block_size: f64, n_blocks: f64) {
        self.pipeline.endpoint(at).signal_cell().update(|signals| {
            (signals.block_size, signals.n_blocks) = (block_size, n_blocks);
        });
    }

    fn dump(&self) -> serde_json::Value {
        self.plugin.dump.as_ref().unwrap().dump()
    }

    fn pairs(&self) -> u64 {
        self.dump()["pairs"].as_u64().unwrap()
    }
}

#[tokio::test]
async fn a_prompt_is_found_where_it_was_sent() {
    let mut bench = bench("");
    bench.serve(&text('a', 4), 1).await;
    assert_eq!(bench.look(&text('a', 4)).await, [0, 4, 0]);
    assert_eq!(bench.look(&text('a', 2)).await, [0, 2, 0]);
    assert_eq!(bench.look(&(text('a', 3) + &text('b', 3))).await, [0, 3, 0]);
    assert_eq!(bench.look(&text('b', 4)).await, [0, 0, 0]);
    let turn = bench.begin(&(text('a', 4) + "x")).await;
    let found = turn.cx().column(&bench.matches, router_core::Position(1)).copied().unwrap();
    let expected =
        PrefixMatch { matched_blocks: 4, total_blocks: 5, block_tokens: 64, cached_blocks: 4 };
    assert_eq!(found, expected, "the partial block counts");
}

#[tokio::test]
async fn the_served_model_and_the_salt_keep_prompts_apart() {
    let mut bench = bench("");
    bench.serve(&text('a', 2), 1).await;
    let mut other = completion("client's name", &text('a', 2));
    other.target_model = "m".into();
    let turn = bench.pipeline.begin(other).await;
    assert_eq!(bench.matched(&turn), [0, 2, 0], "the model that is served counts");
    let turn = bench.pipeline.begin(completion("n", &text('a', 2))).await;
    assert_eq!(bench.matched(&turn), [0, 0, 0]);
    let mut salted = completion("m", &text('a', 2));
    salted.parsed.cache_salt = Some("s".into());
    let turn = bench.pipeline.begin(salted).await;
    assert_eq!(bench.matched(&turn), [0, 0, 0]);
}

#[tokio::test]
async fn a09_the_target_of_every_profile_is_remembered_whatever_it_is_called() {
    let mut bench = bench("");
    let turn = bench.begin(&text('a', 2)).await;
    turn.pick(&[("generate", &[0]), ("my-own-prompt-stage", &[2]), ("idle", &[])]).served();
    assert_eq!(bench.look(&text('a', 2)).await, [2, 0, 2]);
}

#[tokio::test]
async fn a14_a_primary_profile_without_a_target_is_no_trouble() {
    let mut bench = bench("");
    let turn = bench.begin(&text('a', 2)).await;
    turn.pick(&[("decode", &[]), ("prefill", &[1])]).served();
    turn.pick(&[]).served();
    assert_eq!(bench.look(&text('a', 2)).await, [0, 2, 0]);
}

#[tokio::test]
async fn a24_prompts_longer_than_the_capacity_leave_nothing_behind() {
    let mut bench = bench("{autoTune: false, blockSizeTokens: 64, lruCapacityPerServer: 3}");
    for letter in ['a', 'b', 'c', 'd'] {
        bench.serve(&text(letter, 20), 0).await;
        assert_eq!(bench.pairs(), 3);
    }
    bench.pipeline.replace(Vec::new());
    assert_eq!(bench.pairs(), 0);
    assert_eq!(bench.dump()["blocks"], 0);
}

#[tokio::test]
async fn a25_the_capacity_is_the_engines_in_blocks_of_the_index_and_follows_it() {
    let mut bench = bench("");
    bench.report(0, 16.0, 40.0);
    bench.serve(&text('a', 20), 0).await;
    assert_eq!(bench.dump()["byEndpoint"][0]["capacity"], 10, "640 tokens in blocks of 64");
    assert_eq!(bench.look(&text('a', 20)).await, [10, 0, 0]);
    bench.report(0, 16.0, 80.0);
    bench.serve(&text('a', 20), 0).await;
    assert_eq!(bench.look(&text('a', 20)).await, [20, 0, 0]);
    bench.report(0, 16.0, 8.0);
    bench.serve(&text('b', 1), 0).await;
    assert_eq!(bench.dump()["byEndpoint"][0]["capacity"], 2);
    assert!(bench.pairs() <= 2);
}

#[tokio::test]
async fn a25_absurd_reports_do_not_size_the_index() {
    let mut bench = bench("{lruCapacityPerServer: 7}");
    for (block_size, n_blocks, capacity) in [
        (16.0, 1e18, holdings::MAX_CAPACITY),
        (16.0, f64::NAN, 7),
        (f64::NAN, 100.0, 7),
        (16.0, -5.0, 7),
        (16.0, 1.0, 1),
    ] {
        bench.report(0, block_size, n_blocks);
        bench.serve(&text('a', 1), 0).await;
        assert_eq!(bench.dump()["byEndpoint"][0]["capacity"], capacity, "{block_size} {n_blocks}");
    }
}

#[tokio::test]
async fn a26_one_odd_endpoint_does_not_change_the_block_size() {
    let mut bench = bench("");
    bench.report(0, 256.0, 4096.0);
    bench.report(1, 128.0, 4096.0);
    bench.report(2, 128.0, 4096.0);
    bench.serve(&text('a', 8), 1).await;
    assert_eq!(bench.dump()["blockSizeTokens"], 128);
    assert_eq!(bench.look(&text('a', 8)).await, [0, 4, 0]);
}

#[tokio::test]
async fn the_capacity_of_a_silent_endpoint_is_learned_from_what_answers_miss() {
    for (params, reported, learns) in [
        ("", None, true),
        ("", Some(4_096.0), false),
        ("autoTune: false\nblockSizeTokens: 64", None, false),
    ] {
        let mut bench = bench(params);
        if let Some(n_blocks) = reported {
            bench.report(0, 64.0, n_blocks);
        }
        let nth = |nth: u8| text(char::from(b'a' + nth), 200);
        for at in 0..16 {
            bench.serve(&nth(at), 0).await;
        }
        let before = bench.dump()["byEndpoint"][0]["capacity"].as_u64().unwrap();
        let usage = Usage { prompt_tokens: 12_800, cached_tokens: Some(0), ..Usage::default() };
        bench.begin(&nth(0)).await.pick(&[("default", &[0])]).answered(usage);
        // The next request sees it.
        let after = bench.dump()["byEndpoint"][0]["capacity"].as_u64().unwrap();
        assert_eq!(after < before, learns, "{params:?}, {reported:?}: {before}, then {after}");
        assert!(
            !learns || (1_500..5_000).contains(&after),
            "15 prompts of 200 came since: {after}"
        );
    }
}

#[tokio::test]
async fn a27_a_prefix_that_nobody_computed_is_taken_back() {
    for status in [None, Some(StatusCode::SERVICE_UNAVAILABLE)] {
        let mut bench = bench("");
        bench.serve(&text('a', 2), 0).await;
        let leases = bench.begin(&text('a', 5)).await.pick(&[("default", &[0]), ("p", &[1])]);
        assert_eq!(bench.look(&text('a', 5)).await, [5, 5, 0]);
        leases.end(status);
        assert_eq!(bench.look(&text('a', 5)).await, [2, 0, 0], "what was there before stays");
    }
}

#[tokio::test]
async fn a27_equal_requests_that_all_fail_leave_nothing() {
    let mut bench = bench("");
    let mut all = Vec::new();
    for _ in 0..3 {
        all.push(bench.begin(&text('a', 5)).await.pick(&[("default", &[0])]));
    }
    for leases in all {
        leases.end(Some(StatusCode::SERVICE_UNAVAILABLE));
    }
    assert_eq!(bench.look(&text('a', 5)).await, [0, 0, 0]);
}

#[tokio::test]
async fn a_lease_without_an_end_leaves_nothing_in_use() {
    let mut bench = bench("");
    drop(bench.begin(&text('a', 5)).await.pick(&[("default", &[0]), ("p", &[1])]));
    assert_eq!(bench.pairs(), 0);
    assert_eq!(bench.look(&text('a', 5)).await, [0, 0, 0]);
}

#[tokio::test]
async fn a_request_that_moves_takes_its_prefix_along() {
    let mut bench = bench("");
    let mut leases = bench.begin(&text('a', 3)).await.pick(&[("default", &[0, 1, 2])]);
    leases.moved(&bench.pipeline.endpoint(1));
    assert_eq!(bench.look(&text('a', 3)).await, [0, 3, 0]);
    leases.moved(&bench.pipeline.endpoint(2));
    leases.served();
    assert_eq!(bench.look(&text('a', 3)).await, [0, 0, 3]);
}

#[tokio::test]
async fn two_profiles_on_one_endpoint_are_one_holding() {
    let mut bench = bench("");
    let leases = bench.begin(&text('a', 3)).await.pick(&[("decode", &[1]), ("prefill", &[1])]);
    leases.end(None);
    assert_eq!(bench.pairs(), 0);
}

#[tokio::test]
async fn what_a_request_uses_stays_and_counts_as_used_when_it_ends() {
    let mut bench = bench("{autoTune: false, blockSizeTokens: 64, lruCapacityPerServer: 10}");
    let capped = || {
        let mut request = completion("m", &text('a', 4));
        request.parsed.max_output_tokens = Some(64);
        request
    };
    let running = bench.pipeline.begin(capped()).await.pick(&[("default", &[0])]);
    for letter in ['b', 'c', 'd', 'e'] {
        bench.serve(&text(letter, 2), 0).await;
    }
    assert_eq!(bench.look(&text('a', 4)).await, [4, 0, 0], "a model server keeps it, too");
    // One block is for the answer of 'a', and four were for that of 'e'.
    let found = |letter| text(letter, 2);
    assert_eq!(bench.look(&found('b')).await, [0, 0, 0]);
    assert_eq!(bench.look(&found('e')).await, [2, 0, 0]);
    running.served();
    bench.serve(&text('f', 2), 0).await;
    assert_eq!(bench.look(&text('a', 4)).await, [4, 0, 0]);
    assert_eq!(bench.look(&found('e')).await, [0, 0, 0]);
}

#[tokio::test]
async fn room_is_kept_for_answers_of_the_usual_length() {
    let mut bench = bench("{autoTune: false, blockSizeTokens: 64, lruCapacityPerServer: 20}");
    bench.serve(&text('a', 16), 0).await;
    let left = async |bench: &mut Bench| {
        let running = bench.begin(&text('x', 1)).await.pick(&[("default", &[0])]);
        let left = bench.look(&text('a', 16)).await[0];
        running.end(None);
        bench.serve(&text('a', 16), 0).await;
        left
    };
    assert_eq!(left(&mut bench).await, 15, "256 tokens, as long as nothing is known");
    for _ in 0..1_000 {
        let usage = Usage { completion_tokens: 600, ..Usage::default() };
        bench.begin(&text('a', 1)).await.pick(&[("default", &[1])]).answered(usage);
    }
    assert_eq!(left(&mut bench).await, 9, "ten blocks for 600 tokens");
}

#[tokio::test]
async fn an_answer_keeps_the_room_of_its_tokens() {
    async fn check(params: &str, prompts: PromptInput, completion_tokens: u64, n_blocks: u64) {
        let mut bench = bench(params);
        let parsed = ParsedRequest { prompts, ..ParsedRequest::default() };
        let usage = Usage { completion_tokens, ..Usage::default() };
        let turn = bench.pipeline.begin(request("m", parsed)).await;
        turn.pick(&[("default", &[0])]).answered(usage);
        let dump = bench.dump();
        assert_eq!(dump["byEndpoint"][0]["blocks"], n_blocks, "{completion_tokens}: {dump}");
    }
    let of = |text: &str| completion("m", text).parsed.prompts;
    let half = || of(&(text('a', 2) + &"b".repeat(4 * 22)));
    check("", half(), 0, 3).await;
    check("", half(), 40, 3).await;
    check("", half(), 256, 6).await;
    check("", half(), 300, 7).await;
    check("", half(), u64::MAX, 3 + 254).await;
    check("{maxPrefixTokensToMatch: 256}", of(&text('a', 9)), 128, 4 + 2).await;
    let PromptInput::Prompts(mut two) = of(&text('a', 2)) else { panic!() };
    let PromptInput::Prompts(second) = of(&text('b', 2)) else { panic!() };
    two.extend(second);
    check("", PromptInput::Prompts(two), 256, 4 + 4).await;
    let trace = |n_tokens| PromptInput::Blocks(PromptBlocks::from_block_ids(&[1, 2], 64, n_tokens));
    check("", trace(128), 128, 4).await;
    check("", trace(150), 106, 4).await;
}

#[tokio::test]
async fn where_no_answer_was_written_none_takes_room() {
    let mut bench = bench("");
    let turn = bench.begin(&text('a', 3)).await;
    turn.pick(&[("decode", &[1]), ("prefill", &[0])]).served();
    let turn = bench.begin(&text('b', 3)).await;
    turn.pick(&[("decode", &[2])]).end(Some(StatusCode::TOO_MANY_REQUESTS));
    let dump = bench.dump();
    let n_blocks = |at: usize| dump["byEndpoint"][at]["blocks"].as_u64();
    let by_id =
        |id: &str| (0..3).find(|at| dump["byEndpoint"][*at]["endpoint"] == id).and_then(n_blocks);
    assert_eq!(["default/e0", "default/e1", "default/e2"].map(by_id), [Some(3), Some(7), Some(3)]);
}

#[tokio::test]
async fn a28_an_endpoint_that_comes_back_starts_without_a_cache() {
    let mut bench = bench("");
    bench.serve(&text('a', 4), 1).await;
    let late = bench.begin(&text('b', 4)).await.pick(&[("default", &[1])]);
    let mut others = endpoints(3);
    others.remove(1);
    bench.pipeline.replace(others);
    assert_eq!(bench.pairs(), 4, "of the request under way");
    bench.pipeline.replace(endpoints(3));
    assert_eq!(bench.look(&text('b', 4)).await, [0, 0, 0]);
    late.end(None);
    assert_eq!(bench.look(&text('a', 4)).await, [0, 0, 0]);
    assert_eq!(bench.pairs(), 0);
}

#[tokio::test]
async fn a_trace_without_text_uses_its_own_blocks() {
    let mut bench = bench("");
    bench.report(0, 128.0, 4096.0);
    let trace = |ids: &[u64]| {
        let blocks = PromptBlocks::from_block_ids(ids, 512, ids.len() * 512);
        let prompts = PromptInput::Blocks(blocks);
        request("m", ParsedRequest { prompts, ..ParsedRequest::default() })
    };
    let turn = bench.pipeline.begin(trace(&[1, 2, 3])).await;
    turn.pick(&[("default", &[0])]).served();
    let turn = bench.pipeline.begin(trace(&[1, 2, 4, 5])).await;
    let found = turn.cx().column(&bench.matches, router_core::Position(0)).copied().unwrap();
    let expected =
        PrefixMatch { matched_blocks: 2, total_blocks: 4, block_tokens: 512, cached_blocks: 2 };
    assert_eq!(found, expected);
}

#[tokio::test]
async fn prompts_of_a_batch_add_up() {
    let mut bench = bench("");
    bench.serve(&text('a', 2), 0).await;
    bench.serve(&text('b', 3), 1).await;
    let mut batch = completion("m", &text('a', 2));
    let PromptInput::Prompts(mut prompts) = batch.parsed.prompts else { panic!() };
    let PromptInput::Prompts(second) = completion("m", &text('b', 3)).parsed.prompts else {
        panic!()
    };
    prompts.extend(second);
    batch.parsed.prompts = PromptInput::Prompts(prompts);
    let turn = bench.pipeline.begin(batch).await;
    assert_eq!(bench.matched(&turn), [2, 3, 0]);
    turn.pick(&[("default", &[2])]).served();
    assert_eq!(bench.look(&text('a', 2)).await, [2, 0, 2]);
}

#[tokio::test]
async fn requests_without_a_prompt_pass() {
    let mut bench = bench("");
    let turn = bench.pipeline.begin(request("m", ParsedRequest::default())).await;
    assert!(turn.cx().read(&bench.matches).is_none());
    turn.pick(&[("default", &[0])]).served();
    assert_eq!(bench.pairs(), 0);
}

#[tokio::test]
async fn only_the_first_blocks_are_looked_at() {
    let mut bench = bench("{maxPrefixTokensToMatch: 256}");
    bench.serve(&text('a', 9), 0).await;
    assert_eq!(bench.look(&text('a', 9)).await, [4, 0, 0]);
}

#[tokio::test]
async fn long_prompts_are_hashed_elsewhere_with_the_same_result() {
    let params = "{maxPrefixTokensToMatch: 0, maxPrefixBlocksToMatch: 0}";
    let mut builder = PipelineBuilder::new();
    builder.offload(Offload::pool(1));
    let mut elsewhere = bench_of(builder, params);
    let long = text('a', MAX_INLINE_BYTES / 256 + 1);
    for (prompt, is_later) in [(text('a', 3), false), (long.clone(), true)] {
        let turn = elsewhere.begin(&prompt).await;
        let producer = elsewhere.plugin.producer.as_ref().unwrap();
        assert_eq!(matches!(producer.produce(&turn.cx()), Produced::Later(_)), is_later);
    }
    let mut inline = bench(params);
    for bench in [&mut inline, &mut elsewhere] {
        bench.serve(&long, 1).await;
        assert_eq!(bench.look(&long).await, [0, 1025, 0]);
    }
    assert_eq!(inline.dump(), elsewhere.dump());
}

#[tokio::test]
async fn metrics_show_size_and_hits() {
    let mut bench = bench("");
    bench.serve(&text('a', 4), 0).await;
    bench.serve(&(text('a', 4) + &text('b', 4)), 0).await;
    let page = bench.registry.encode(Format::Text);
    let labels =
        "plugin_name=\"approx-prefix-cache-producer\",plugin_type=\"approx-prefix-cache-producer\"";
    for line in [
        format!("llm_d_epp_prefix_indexer_size{{{labels}}} 8"),
        format!("llm_d_epp_prefix_indexer_hit_ratio_sum{{{labels}}} 0.5"),
        format!("llm_d_epp_prefix_indexer_hit_bytes_sum{{{labels}}} 1024"),
        "inference_extension_prefix_indexer_size 8".to_owned(),
    ] {
        assert!(page.contains(&line), "{line} is not in\n{page}");
    }
}

#[tokio::test]
async fn the_dump_names_endpoints() {
    let mut bench = bench("");
    bench.serve(&text('a', 2), 1).await;
    let dump = bench.dump();
    assert_eq!(dump["byEndpoint"][0]["endpoint"], "default/e1");
    assert_eq!(dump["byEndpoint"][0]["blocks"], 2 + 4, "and those of an answer of 256 tokens");
    assert_eq!(dump["endpoints"], 1);
}

#[test]
fn parameters_are_checked() {
    let check = |params: &str, place: &str| {
        let error = SceneBuilder::refusal(&PLUGIN, params);
        assert!(error.contains(place), "{params}: {error}");
    };
    check("{autoTune: false, blockSizeTokens: 0}", "blockSizeTokens");
    check("{autoTune: false, blockSizeTokens: -4}", "blockSizeTokens");
    check("{maxPrefixTokensToMatch: -1}", "maxPrefixTokensToMatch");
    check("{maxPrefixBlocksToMatch: -1}", "maxPrefixBlocksToMatch");
    check("{blockSizeToken: 1}", "blockSizeToken");
}

#[tokio::test]
async fn the_deprecated_block_size_stands_in_for_the_default() {
    for (params, expected) in [
        ("{autoTune: false, blockSize: 128}", 128),
        ("{autoTune: false, blockSize: 128, blockSizeTokens: 256}", 256),
        ("{autoTune: false}", 64),
    ] {
        assert_eq!(bench(params).dump()["blockSizeTokens"], expected, "{params}");
    }
}

#[tokio::test]
async fn an_answer_with_which_a_conversation_goes_on_takes_room_once() {
    for (n_asked, n_answered) in [(128, 256), (100, 300), (70, 400), (300, 60)] {
        let mut bench = bench("");
        let mut n_tokens = 0;
        for _ in 0..10 {
            n_tokens += n_asked;
            let usage = Usage { completion_tokens: n_answered, ..Usage::default() };
            let turn = bench.begin(&"a".repeat(4 * n_tokens as usize)).await;
            turn.pick(&[("default", &[0])]).answered(usage);
            n_tokens += n_answered;
        }
        let n_there = bench.dump()["byEndpoint"][0]["blocks"].as_u64().unwrap();
        let n_held = n_tokens / 64;
        // The block in which each prompt ended stays until it is the oldest.
        assert!((n_held..=n_held + 11).contains(&n_there), "{n_there}, an engine {n_held}");
    }
}

/// An engine's cache of full blocks, last used first, by conversation and place.
struct EngineCache(Vec<(usize, usize)>);

impl EngineCache {
    const N_BLOCKS: usize = 2_000;

    fn n_leading(&self, of: usize, n_most: usize) -> usize {
        (0..n_most).take_while(|at| self.0.contains(&(of, *at))).count()
    }

    fn compute(&mut self, of: usize, n_blocks: usize) {
        self.0.retain(|(other, _)| *other != of);
        self.0.splice(..0, (0..n_blocks).map(|at| (of, at)));
        self.0.truncate(Self::N_BLOCKS);
    }
}

#[tokio::test]
async fn what_is_expected_of_an_earlier_prompt_is_what_an_engine_keeps_of_it() {
    const N_CONVERSATIONS: usize = 60;
    for (n_asked, n_answered) in [(128, 256), (100, 300), (300, 60), (500, 500)] {
        let (mut bench, mut engine) = (bench(""), EngineCache(Vec::new()));
        bench.report(0, 64.0, EngineCache::N_BLOCKS as f64);
        let (mut n_turns, mut random) = ([0; N_CONVERSATIONS], 7_u64);
        let (mut n_expected, mut n_there) = (0, 0);
        for _ in 0..1_500 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let slot = (random >> 33) as usize % N_CONVERSATIONS;
            let turn = &mut n_turns[slot];
            *turn += 1;
            // Ten turns each, then another one begins.
            let (of, before) =
                (slot + N_CONVERSATIONS * (*turn / 10), *turn % 10 * (n_asked + n_answered));
            let n_prompt = before + n_asked;
            let prompt = format!("{of:08}") + &"a".repeat(4 * n_prompt - 8);
            let request = bench.begin(&prompt).await;
            n_expected += bench.matched(&request)[0] as usize;
            n_there += engine.n_leading(of, before.saturating_sub(n_answered) / 64);
            let usage = Usage { completion_tokens: n_answered as u64, ..Usage::default() };
            request.pick(&[("default", &[0])]).answered(usage);
            engine.compute(of, (n_prompt + n_answered) / 64);
        }
        let share = n_expected as f64 / n_there as f64;
        // The block in which a prompt ended stays until it is the oldest.
        assert!((0.97..1.02).contains(&share), "{n_asked} + {n_answered}: {share}");
    }
}
