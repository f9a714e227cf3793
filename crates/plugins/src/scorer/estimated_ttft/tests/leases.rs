//! What a request holds, and that all of it is given back.

use super::*;

#[tokio::test]
async fn tokens_are_released_with_the_first_byte_and_the_request_at_its_end() {
    let mut bench = bench(3);
    let mut leases = bench.begin(2).await.pick(&[("default", &[1])]);
    assert_eq!(bench.state(), [NONE, (1, 128, 0), NONE]);
    leases.first_byte();
    assert_eq!(bench.state(), [NONE, (0, 0, 1), NONE]);
    leases.served();
    assert_eq!(bench.state(), [NONE; 3]);
}

#[tokio::test]
async fn whatever_ends_a_request_everything_is_released_once() {
    let mut bench = bench(3);
    for status in [None, Some(StatusCode::OK), Some(StatusCode::BAD_GATEWAY)] {
        for first_byte in [false, true] {
            let turn = bench.begin(2).await;
            let mut leases = turn.pick(&[("decode", &[0, 1]), ("prefill", &[1])]);
            if first_byte {
                leases.first_byte();
            }
            leases.end(status);
            assert_eq!(bench.state(), [NONE; 3], "{status:?} {first_byte}");
        }
    }
    let leases = bench.begin(2).await.pick(&[("default", &[0])]);
    drop(leases);
    assert_eq!(bench.state(), [NONE; 3], "also what was never ended");
}

#[tokio::test]
async fn other_profiles_end_with_the_first_byte() {
    let mut bench = bench(3);
    let mut leases = bench.begin(2).await.pick(&[("generate", &[0]), ("prompts", &[2])]);
    assert_eq!(bench.state(), [(1, 128, 0), NONE, (1, 128, 0)]);
    leases.first_byte();
    assert_eq!(bench.state(), [(0, 0, 1), NONE, NONE]);
    leases.served();
    assert_eq!(bench.state(), [NONE; 3]);
}

#[tokio::test]
async fn a_request_that_moves_counts_where_it_went() {
    let mut bench = bench(3);
    bench.begin(3).await.pick(&[("default", &[1])]).served();
    let turn = bench.begin(4).await;
    let mut leases = turn.pick(&[("default", &[0, 1])]);
    // Tokens count by what they attend to: 256 of them a little more than 256.
    assert_eq!(bench.state(), [(1, 257, 0), NONE, NONE]);
    leases.moved(&bench.pipeline.endpoint(1));
    assert_eq!(bench.state(), [NONE, (1, 64, 0), NONE], "three of four blocks are cached there");
    leases.moved(&bench.pipeline.endpoint(2));
    assert_eq!(bench.state(), [NONE, NONE, (1, 257, 0)], "nobody ranked this one");
    leases.first_byte();
    leases.moved(&bench.pipeline.endpoint(1));
    assert_eq!(bench.state(), [NONE, (0, 0, 1), NONE], "what was released stays released");
    leases.served();
    assert_eq!(bench.state(), [NONE; 3]);
}

#[tokio::test]
async fn answers_that_do_not_stream_are_done_with_their_prompts_when_later_ones_are() {
    let mut bench = bench(1);
    // Long enough not to be done by itself: 8 seconds.
    let mut whole = streamed(2_000);
    whole.parsed.stream = false;
    let whole = bench.pipeline.begin(whole).await.pick(&[("default", &[0])]);
    let mut later = bench.begin(1).await.pick(&[("default", &[0])]);
    assert_eq!(bench.state()[0].0, 2);
    later.first_byte();
    assert_eq!(bench.state(), [(0, 0, 2)]);
    whole.served();
    assert_eq!(bench.state(), [(0, 0, 1)]);
    later.served();
    assert_eq!(bench.state(), [NONE]);
}

#[tokio::test]
async fn several_answers_to_a_prompt_decode_at_once() {
    for (asked, counted) in [(0, 1), (4, 4), (u64::MAX, 128)] {
        let mut bench = bench(1);
        let mut several = streamed(2);
        several.parsed.n_answers = Some(asked);
        let mut leases = bench.pipeline.begin(several).await.pick(&[("default", &[0])]);
        assert_eq!(bench.state(), [(counted, 128, 0)], "the prompt is computed once");
        leases.first_byte();
        assert_eq!(bench.state(), [(0, 0, counted)]);
        leases.served();
        assert_eq!(bench.state(), [NONE]);
    }
}

#[tokio::test]
async fn predictions_and_their_errors_are_metrics() {
    let mut bench = bench(2);
    let mut leases = bench.begin(10).await.pick(&[("default", &[1])]);
    leases.first_byte();
    leases.served();
    let page = bench.registry.encode(Format::Text);
    let has =
        |line: &str| assert!(page.lines().any(|have| have.starts_with(line)), "{line} in {page}");
    has("llm_d_router_estimated_ttft_seconds_count{plugin_name=\"estimated-ttft-scorer\"} 1");
    has("llm_d_router_estimated_ttft_error_ratio_count{plugin_name=\"estimated-ttft-scorer\"} 1");
    has("llm_d_router_estimated_prefill_tokens_per_second{endpoint_name=\"e1\"");
    has("llm_d_router_estimated_decode_step_seconds{endpoint_name=\"e1\"");
    bench.pipeline.replace(endpoints(1));
    let page = bench.registry.encode(Format::Text);
    assert!(!page.contains("endpoint_name=\"e1\""), "{page}");
}
