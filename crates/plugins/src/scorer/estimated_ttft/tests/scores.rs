//! What candidates get, behind a token producer and a prefix index.

use super::*;

#[tokio::test]
async fn equal_endpoints_tie_exactly() {
    let mut bench = bench(9);
    let scores = bench.begin(50).await.scores(&bench.plugin);
    assert!(scores.iter().all(|score| *score == scores[0] && *score > 0.0), "{scores:?}");
}

#[tokio::test]
async fn a_cached_prefix_attracts_and_work_repels() {
    let mut bench = bench(3);
    bench.begin(100).await.pick(&[("default", &[1])]).served();
    let scores = bench.begin(100).await.scores(&bench.plugin);
    assert!(scores[1] > scores[0] && scores[0] == scores[2], "{scores:?}");
    let mut leases = Vec::new();
    for nth in 0..20 {
        let other = format!("{nth:02}").repeat(50 * 256);
        let turn = bench.pipeline.begin(completion("m", &other)).await;
        leases.push(turn.pick(&[("default", &[1])]));
    }
    let scores = bench.begin(100).await.scores(&bench.plugin);
    assert!(scores[1] < scores[0], "{scores:?}");
}

#[test]
fn hostile_values_neither_panic_nor_leave_the_range() {
    let mut builder = SceneBuilder::new();
    let plugin = builder.plugin(&PLUGIN, "");
    let absurd =
        |value| EndpointFixture::new().waiting(value).running(value).kv(value).blocks(value, value);
    let endpoints = vec![
        EndpointFixture::new(),
        absurd(f64::NAN),
        absurd(f64::INFINITY),
        absurd(-1.0),
        absurd(1e300),
        absurd(0.0).stale(),
        EndpointFixture::new().prefix(u32::MAX, u32::MAX, u32::MAX),
        EndpointFixture::new().prefix(u32::MAX, 0, 0),
    ];
    let mut scene = builder.scene(endpoints);
    for n_tokens in [0, 1, usize::MAX] {
        for cap in [None, Some(0), Some(u64::MAX)] {
            scene.request.parsed.max_output_tokens = cap;
            scene.tokens(prompt_of(n_tokens));
            let scores = scene.scores(&plugin);
            let sane = |score: &f64| (0.0..=1.0).contains(score);
            assert!(scores.iter().all(sane), "{n_tokens} {cap:?}: {scores:?}");
        }
    }
}

#[test]
fn parameters_must_be_what_a_model_server_can_be() {
    let check = |params: &str, refusal: &str| {
        assert_eq!(SceneBuilder::refusal(&PLUGIN, params), refusal);
    };
    let rate = "prefillTokensPerSecond: must be from 10 to 10000000";
    check("{prefillTokensPerSecond: 0}", rate);
    check("{prefillTokensPerSecond: 1.0e-308}", rate);
    check("{prefillTokensPerSecond: 1.0e+300}", rate);
    check("{decodeStepSeconds: -1}", "decodeStepSeconds: must be from 0.00001 to 10");
    check("{outputTokens: 1.0e+12}", "outputTokens: must be from 1 to 1000000");
}

#[tokio::test]
async fn a_prompt_that_many_begin_with_spreads_and_a_conversation_stays() {
    /// Score of an idle endpoint without it over that of the endpoint that has it, and is busy.
    async fn ratio(text: impl Fn(usize) -> String) -> f64 {
        let mut bench = bench(2);
        for nth in 0..30 {
            let turn = bench.pipeline.begin(completion("m", &text(nth))).await;
            turn.pick(&[("default", &[0])]).served();
        }
        let turn = bench.pipeline.begin(completion("m", &text(30))).await;
        let scores = turn.scores(&bench.plugin);
        scores[1] / scores[0]
    }
    let shared = ratio(|nth| "s".repeat(100 * 256) + &nth.to_string().repeat(64)).await;
    let conversation = ratio(|nth| "s".repeat((nth + 70) * 256)).await;
    assert!(shared > 1.5 * conversation, "{shared} {conversation}");
}

#[tokio::test]
async fn what_endpoints_have_that_a_filter_left_out_is_not_what_is_asked_for() {
    const N_REQUESTS: usize = 30;
    let mut bench = bench(3);
    let text = |nth: usize| "s".repeat(100 * 256) + &nth.to_string().repeat(10 * 256);
    // The first endpoint has every prompt whole, and how often they came is forgotten.
    for nth in 10..10 + N_REQUESTS {
        let turn = bench.pipeline.begin(completion("m", &text(nth))).await;
        turn.pick(&[("default", &[0])]).served();
    }
    bench.pipeline.now = bench.pipeline.now + Duration::from_mins(30);
    let left = [Position(1), Position(2)];
    let mut ratios = Vec::new();
    // Half of them are busy.
    let _pending = bench.pending(left[0]).await;
    for nth in 10..10 + N_REQUESTS {
        let turn = bench.pipeline.begin(completion("m", &text(nth))).await;
        let scores = turn.scores_of(&left, &bench.plugin);
        ratios.push(scores[1] / scores[0]);
        turn.pick_of(&left, &[("default", &[1])]).served();
    }
    assert!(ratios[N_REQUESTS - 1] > 1.5 * ratios[1], "{ratios:?}");
}
