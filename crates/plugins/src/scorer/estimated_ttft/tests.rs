use std::{collections::VecDeque, time::Duration};

use http::StatusCode;
use router_core::{Signals, Stamp};
use router_framework::{
    Request,
    keys::{PromptBlocks, PromptTokens, TokenContent},
};
use router_rt::Rng;
use router_telemetry::metrics::{Format, Registry};
use router_testkit::{
    pipeline::{Pipeline, PipelineBuilder, Turn, completion, endpoints},
    scheduling::{EndpointFixture, SceneBuilder},
};

use super::{
    account::Answer,
    cost::{Cost, SEQUENCE_TOKENS, effective_tokens},
    speed::{Hits, Prefill, Sample},
    *,
};
use crate::producer::{approx_prefix_cache, token};

/// The plugin behind a token producer and a prefix index, on a pool of three endpoints.
struct Bench {
    pipeline: Pipeline,
    plugin: Instance,
    registry: Arc<Registry>,
}

/// Answers whose prompt is not computed, effective tokens of these prompts, answers that are under way.
type State = (u64, u64, u64);

const NONE: State = (0, 0, 0);

fn bench(n_endpoints: u8) -> Bench {
    let mut builder = PipelineBuilder::new();
    builder.plugin(&token::PLUGIN, "");
    builder.plugin(&approx_prefix_cache::PLUGIN, "");
    let plugin = builder.plugin(&PLUGIN, "");
    let registry = builder.env().registry;
    let mut pipeline = builder.build();
    // Not later than the clock by which leases go.
    pipeline.now = Stamp::ORIGIN;
    pipeline.replace(endpoints(n_endpoints));
    Bench { pipeline, plugin, registry }
}

/// A streamed request with a prompt of so many blocks of 64 tokens.
fn streamed(n_blocks: usize) -> Request {
    let mut asked = completion("m", &"x".repeat(n_blocks * 256));
    asked.parsed.stream = true;
    asked
}

impl Bench {
    async fn begin(&mut self, n_blocks: usize) -> Turn {
        self.pipeline.begin(streamed(n_blocks)).await
    }

    fn state(&self) -> Vec<State> {
        let dump = self.plugin.dump.as_ref().unwrap().dump();
        let number = |value: &serde_json::Value| value.as_f64().unwrap().round() as u64;
        let all = dump["byEndpoint"].as_array().unwrap().iter();
        all.map(|one| {
            (number(&one["waiting"]), number(&one["leasedTokens"]), number(&one["decoding"]))
        })
        .collect()
    }
}

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

#[test]
fn several_answers_teach_the_true_step_and_length() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let mut now = Stamp::from_nanos(1);
    let several = Job { n_answers: 4, n_copies: 4, ..job(500.0, 100.0) };
    for _ in 0..300 {
        let load = account.load(now, &pool.speed());
        let mut entry = account.take(now, &several, true, &load);
        let prefill = TRUTH.prefill.at(several.effective_tokens()) + TRUTH.step.base;
        now = now + Duration::from_secs_f64(prefill);
        account.first_byte(now, &mut entry, &pool);
        let step = TRUTH.step.at(several.context() + 4.0 * SEQUENCE_TOKENS);
        now = now + Duration::from_secs_f64(99.0 * step);
        account.end(now, &entry, Some(said(4 * 100)), &pool);
    }
    assert_near(speed(&account, &pool, now), TRUTH);
    assert!((pool.typical().output - 100.0).abs() < 20.0, "{:?}", pool.typical());
}

#[test]
fn answers_that_do_not_stream_decode_when_their_prompts_must_have_been_computed() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let from = Stamp::from_nanos(1_000_000_000);
    let whole = job(3_000.0, 100.0);
    let second = whole.effective_tokens() * START.prefill.per_unit;
    let at = |prompts: f64| from + Duration::from_secs_f64(prompts * second);
    let take = |shows| account.take(from, &whole, shows, &account.load(from, &START));
    let [first, _, last] = [false, false, true].map(take);
    let check = |prompts, n_waiting: f64, n_decoding: f64| {
        let load = account.load(at(prompts), &START);
        let near = |a: f64, b: f64| (a - b).abs() < 0.01;
        assert!(near(load.n_waiting, n_waiting) && near(load.n_decoding, n_decoding), "{load:?}");
        let pending = (3.0 - prompts).max(0.0) * whole.effective_tokens();
        assert!(near(load.pending / pending.max(1.0), pending / pending.max(1.0)), "{load:?}");
        assert!(near(load.context, n_decoding * whole.context()), "{load:?}");
    };
    check(0.0, 3.0, 0.0);
    check(0.5, 2.5, 0.5);
    // What changes in the account in between changes nothing.
    assert_eq!(account.end(at(0.6), &take(true), None, &pool), None);
    check(1.0, 2.0, 1.0);
    assert_eq!(account.end(at(1.2), &take(true), None, &pool), None);
    check(1.5, 1.5, 1.5);
    check(2.0, 1.0, 2.0);
    // Of the streamed one it is seen.
    check(9.0, 1.0, 2.0);
    assert_eq!(account.end(at(9.0), &first, None, &pool), None);
    check(9.0, 1.0, 1.0);
    assert_eq!(account.end(at(9.0), &last, None, &pool), None);
    check(9.0, 0.0, 1.0);
}

/// Rate that is learned where every fourth prompt is counted so many times too long, and another waits behind it.
fn learned_under(factor: f64) -> f64 {
    let (account, pool, mut rng) = (Account::default(), Pool::new(START, 256.0), Rng::seeded(3));
    let mut now = Stamp::from_nanos(1);
    let load = |now| account.load(now, &pool.speed());
    for nth in 0..600 {
        let liar = job(1_000.0 + 2_000.0 * rng.f64(), 100.0);
        let honest = job(200.0 + 4_000.0 * rng.f64(), 100.0);
        let seconds = |job: Job| Duration::from_secs_f64(TRUTH.prefill.at(job.effective_tokens()));
        let answer = |job: Job| Answer { prompt: Some(job.prompt as u64), ..said(100) };
        let liar = (nth % 4 == 0).then(|| {
            let claimed = Job { prompt: factor * liar.prompt, ..liar };
            (liar, account.take(now, &claimed, true, &load(now)))
        });
        let mut entry = account.take(now, &honest, true, &load(now));
        let liar = liar.map(|(liar, mut entry)| {
            now = now + seconds(liar);
            account.first_byte(now, &mut entry, &pool);
            (liar, entry)
        });
        now = now + seconds(honest);
        account.first_byte(now, &mut entry, &pool);
        now = now + Duration::from_secs(3);
        account.end(now, &entry, Some(answer(honest)), &pool);
        // The truth comes late.
        if let Some((liar, entry)) = liar {
            account.end(now, &entry, Some(answer(liar)), &pool);
        }
    }
    1.0 / load(now).prefill.at(2_000.0)
}

#[test]
fn claims_of_a_thousand_times_the_tokens_do_not_move_the_rate() {
    let honest = learned_under(1.0);
    for factor in [1_000.0, 0.001] {
        let ratio = learned_under(factor) / honest;
        assert!((0.95..1.05).contains(&ratio), "{factor}: {ratio}");
    }
}

#[test]
fn text_that_is_always_counted_differently_is_learned_from_as_it_is_counted() {
    let pool = Pool::new(START, 256.0);
    for _ in 0..400 {
        let prefill = Prefill { prompt: 2_000.0, seconds: 1.0, ..Prefill::default() };
        let claim = Some((2_000.0, 2_800.0));
        pool.observe(&Sample { prefill: Some(prefill), claim, ..Sample::default() });
    }
    let seconds = pool.speed().prefill.at(cost::effective_tokens(2_000.0, 0.0));
    assert!((0.95..1.05).contains(&seconds), "{seconds}");
}

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

/// A prompt of which only the length is known.
fn prompt_of(n_tokens: usize) -> TokenizedPrompt {
    let blocks = PromptBlocks { block_tokens: 64, hashes: Vec::new(), n_tokens };
    let content = TokenContent::Blocks(blocks);
    let prompt = PromptTokens { n_tokens: n_tokens as u64, content, media: Vec::new() };
    TokenizedPrompt { prompts: vec![prompt], cache_salt: None }
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
fn parameters_must_be_above_zero() {
    let check = |params: &str, refusal: &str| {
        assert_eq!(SceneBuilder::refusal(&PLUGIN, params), refusal);
    };
    check("{prefillTokensPerSecond: 0}", "prefillTokensPerSecond: must be above 0");
    check("{decodeStepSeconds: -1}", "decodeStepSeconds: must be above 0");
    check("{outputTokens: 0}", "outputTokens: must be above 0");
}

fn job(prompt: f64, output: f64) -> Job {
    let (n_answers, n_copies) = (1, 1);
    Job { prompt, cached: 0.0, output, n_answers, n_copies, cached_best: 0.0, reuses: 0.0 }
}

/// Requests with so many uncached tokens, and answers of a hundred.
fn typical(uncached: f64) -> Typical {
    Typical { output: 100.0, prompt: uncached, uncached, hits: 1.0, beyond: 0.0 }
}

/// What servers say of an answer of so many tokens.
fn hits(expected: f64, found: f64) -> Hits {
    Hits { expected: Expected { tokens: expected, is_most: false }, found }
}

fn said(n_tokens: u64) -> Answer {
    Answer { n_tokens: Some(n_tokens), prompt: None, hits: None }
}

/// How fast the endpoints of these tests are: prefill ten times slower than where learning begins.
const TRUTH: Speed = Speed {
    prefill: Line { base: 0.02, per_unit: 1.0 / 1_500.0 },
    step: Line { base: 0.03, per_unit: 1e-7 },
};
const START: Speed = Speed {
    prefill: Line { base: FIRST_BASE, per_unit: 1.0 / 15_000.0 },
    step: Line { base: 0.0075, per_unit: 0.0075 / STEP_TOKENS },
};

/// One request after the other, each with the times of `truth`; a share of them takes ten times as long.
fn serve(
    account: &Account,
    pool: &Pool,
    truth: Speed,
    from: Stamp,
    outliers: f64,
    n_requests: usize,
) -> Stamp {
    let (mut now, mut rng) = (from, Rng::seeded(7));
    for _ in 0..n_requests {
        let job = job(200.0 + 4_000.0 * rng.f64(), 100.0);
        let mut entry = account.take(now, &job, true, &account.load(now, &pool.speed()));
        let factor = if rng.chance(outliers) { 10.0 } else { 1.0 };
        let prefill = truth.prefill.at(job.effective_tokens()) + truth.step.base;
        now = now + Duration::from_secs_f64(factor * prefill);
        account.first_byte(now, &mut entry, pool);
        let step = truth.step.at(job.context() + SEQUENCE_TOKENS);
        now = now + Duration::from_secs_f64(factor * step * 99.0);
        account.end(now, &entry, Some(said(100)), pool);
    }
    now
}

#[track_caller]
fn assert_near(found: Speed, truth: Speed) {
    let pairs = [
        (found.prefill.at(2_000.0), truth.prefill.at(2_000.0)),
        (found.prefill.at(4_000.0), truth.prefill.at(4_000.0)),
        (found.step.at(2_000.0), truth.step.at(2_000.0)),
    ];
    let near = |(a, b): (f64, f64)| (a / b - 1.0).abs() < 0.25;
    assert!(pairs.into_iter().all(near), "{found:?} is not {truth:?}: {pairs:?}");
}

fn speed(account: &Account, pool: &Pool, now: Stamp) -> Speed {
    let load = account.load(now, &pool.speed());
    Speed { prefill: load.prefill, step: load.step }
}

#[test]
fn the_true_rates_are_learned_under_outliers_and_a_slow_down_is_followed() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let now = serve(&account, &pool, TRUTH, Stamp::from_nanos(1), 0.2, 150);
    assert_near(speed(&account, &pool, now), TRUTH);
    let slower = Speed {
        prefill: Line { per_unit: 3.0 * TRUTH.prefill.per_unit, ..TRUTH.prefill },
        step: Line { base: 3.0 * TRUTH.step.base, ..TRUTH.step },
    };
    let now = serve(&account, &pool, slower, now, 0.2, 80);
    assert_near(speed(&account, &pool, now), slower);
    assert!((pool.typical().output - 100.0).abs() < 20.0, "{:?}", pool.typical());
}

#[test]
fn a_new_endpoint_begins_with_the_pools_speed() {
    let (taught, pool) = (Account::default(), Pool::new(START, 256.0));
    let now = serve(&taught, &pool, TRUTH, Stamp::from_nanos(1), 0.0, 300);
    assert_near(speed(&taught, &pool, now), TRUTH);
    assert_near(speed(&Account::default(), &pool, now), TRUTH);
}

#[test]
fn a_slow_endpoint_is_told_from_fast_ones_and_forgotten_without_answers() {
    let (fast, slow) = ([0; 7].map(|_| Account::default()), Account::default());
    let (pool, mut now) = (Pool::new(START, 256.0), Stamp::from_nanos(1));
    let slower = Speed { prefill: TRUTH.prefill.times(8.0), step: TRUTH.step.times(2.0) };
    for _ in 0..60 {
        for account in &fast {
            now = serve(account, &pool, TRUTH, now, 0.0, 1);
        }
        now = serve(&slow, &pool, slower, now, 0.0, 1);
    }
    assert_near(speed(&slow, &pool, now), slower);
    for account in &fast {
        assert_near(speed(account, &pool, now), TRUTH);
    }
    let at = |minutes| {
        let later = now + Duration::from_mins(minutes);
        slow.load(later, &pool.speed()).prefill.at(2_000.0) / TRUTH.prefill.at(2_000.0)
    };
    assert!(at(5) < 0.6 * at(0) && at(5) > 0.2 * at(0), "half of the way: {} {}", at(0), at(5));
    assert!(at(600) < 1.5, "{}", at(600));
}

#[test]
fn a_clock_that_stands_still_teaches_nothing_absurd() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let now = Stamp::from_nanos(5);
    for _ in 0..10_000 {
        let load = account.load(now, &pool.speed());
        let mut entry = account.take(now, &job(1_000.0, 100.0), true, &load);
        account.first_byte(now, &mut entry, &pool);
        let answer = Answer { prompt: Some(u64::MAX), hits: Some(hits(0.0, 5.0)), ..said(100) };
        account.end(now, &entry, Some(answer), &pool);
    }
    let load = account.load(now, &pool.speed());
    let cost = load.cost(&job(1e6, 1e4), &pool.typical());
    assert!(cost.total().is_finite() && cost.first_token > 0.0, "{cost:?}");
}

#[test]
fn a_copy_that_many_have_use_of_costs_less_than_one_for_a_single_conversation() {
    let load = Account::default().load(Stamp::from_nanos(1), &START);
    let cost = |cached_best, reuses| {
        load.cost(&Job { cached_best, reuses, ..job(10_000.0, 100.0) }, &typical(1_000.0)).total()
    };
    assert_eq!(cost(0.0, 100.0), cost(9_000.0, 0.0), "new text, and text of its own");
    assert!(cost(9_000.0, 1.0) < 0.7 * cost(9_000.0, 0.0));
    assert!(cost(9_000.0, 1.0) > cost(9_000.0, 10.0));
    let first_token = load.cost(&job(10_000.0, 100.0), &typical(1_000.0)).first_token;
    assert!(cost(10_000.0, 1e9) > first_token, "it still delays this request");
}

#[test]
fn where_slots_are_taken_nobody_has_use_of_a_copy() {
    let imposed = |n_waiting, n_decoding, slots, reuses| {
        let load = Load { n_waiting, n_decoding, slots, ..idle(1.0) };
        let job = Job { cached_best: 9_000.0, reuses, ..job(10_000.0, 100.0) };
        load.cost(&job, &typical(1_000.0)).imposed
    };
    let saved_beside = |n_waiting, n_decoding, slots| {
        let of = |reuses| imposed(n_waiting, n_decoding, slots, reuses);
        1.0 - of(1e9) / of(0.0)
    };
    let saved = |n_decoding, slots| saved_beside(0.0, n_decoding, slots);
    let at_first = saved(64.0, f64::INFINITY);
    assert!(at_first > 0.8, "{at_first}");
    assert!(saved(32.0, 64.0) > 0.9 * at_first, "half of the slots: {}", saved(32.0, 64.0));
    assert!(saved(60.0, 64.0) < 0.3 * at_first, "few left: {}", saved(60.0, 64.0));
    assert_eq!(saved(64.0, 64.0), 0.0);
    assert!(saved_beside(30.0, 30.0, 64.0) < 0.3 * at_first, "those that wait will have slots");
    assert_eq!(saved_beside(64.0, 64.0, 64.0), 0.0);
}

#[test]
fn a_prefix_needs_as_many_endpoints_as_it_keeps_busy_for_half_of_their_time() {
    let hot = Job { cached_best: 9_000.0, ..job(10_000.0, 100.0) };
    assert_eq!(hot.n_needed(0.0, &START), 0.0);
    let one = hot.n_needed(1.0, &START);
    assert!((hot.n_needed(20.0, &START) - 20.0 * one).abs() < 1e-9);
    let prefill = effective_tokens(10_000.0, 9_000.0) * START.prefill.per_unit;
    let steps = 100.0 * START.step.per_unit * (10_000.0 + 100.0 / 2.0 + SEQUENCE_TOKENS);
    assert!((one - 2.0 * (prefill + steps)).abs() < 1e-9, "{one}");
}

#[test]
fn a_copy_is_charged_less_by_what_it_saves_those_to_come() {
    let invested = |reuses, copy, with_copy, elsewhere| {
        let job = Job { reuses, ..job(10_000.0, 100.0) };
        job.invested(copy, with_copy, elsewhere)
    };
    assert_eq!(invested(4.0, 6.0, 0.5, 1.5), 2.0);
    assert_eq!(invested(0.0, 6.0, 0.5, 1.5), 6.0, "nobody comes");
    assert_eq!(invested(4.0, 6.0, 1.5, 1.5), 6.0, "nothing is saved");
    assert_eq!(invested(100.0, 6.0, 0.5, 1.5), 0.5, "it is no better than a copy that is there");
    assert_eq!(invested(100.0, 0.4, 0.5, 1.5), 0.4);
}

/// An idle endpoint, so many times as slow as the pool.
fn idle(slowness: f64) -> Load {
    let load = Account::default().load(Stamp::from_nanos(1), &START);
    Load { prefill: START.prefill.times(slowness), step: START.step.times(slowness), ..load }
}

#[test]
fn of_a_burst_a_slow_endpoint_takes_more_than_it_does_in_the_same_time_and_less_than_half() {
    let request = job(4_000.0, 100.0);
    let tokens = request.effective_tokens();
    let mut loads = [idle(2.0 / 3.0), idle(4.0 / 3.0)];
    for _ in 0..90 {
        let [fast, slow] = loads.map(|load| load.cost(&request, &typical(tokens)).total());
        let taken = &mut loads[usize::from(slow < fast)];
        taken.n_waiting += 1.0;
        taken.pending += tokens;
        taken.leased += tokens;
    }
    let [fast, slow] = loads.map(|load| load.n_waiting);
    assert!(slow > 33.0 && slow < 42.0, "{fast} {slow}: 60 and 30 would be done at once");
}

#[test]
fn short_prompts_that_wait_count_by_their_tokens_and_long_ones_by_their_number() {
    let imposed = |n_waiting, leased| {
        let load = Load { leased, n_waiting, ..idle(1.0) };
        load.cost(&job(2_000.0, 100.0), &typical(500.0)).imposed
    };
    assert_eq!(imposed(1.0, 500.0), imposed(1.0, 50_000.0));
    // The answer makes the steps of all of them longer.
    let (short, typical, none) =
        (imposed(10.0, 1_000.0), imposed(10.0, 5_000.0), imposed(0.0, 0.0));
    let share = (short - none) / (typical - none);
    assert!(share > 0.2 && share < 0.3, "{share}");
}

#[test]
fn where_no_slot_is_left_the_first_token_waits_for_answers_to_end() {
    let (request, typical) = (job(200.0, 100.0), typical(200.0));
    let cost = |n_waiting: f64, n_decoding: f64, slots: f64| {
        let load = Load { n_waiting, n_decoding, slots, ..idle(1.0) };
        (load.cost(&request, &typical).first_token, 100.0 * load.step() / slots)
    };
    let unknown = |n_waiting: f64, n_decoding: f64| cost(n_waiting, n_decoding, f64::INFINITY).0;
    let check = |n_waiting: f64, n_decoding: f64, n_ends: f64| {
        let (first_token, between_ends) = cost(n_waiting, n_decoding, 64.0);
        let wait = first_token - unknown(n_waiting, n_decoding);
        assert!((wait - n_ends * between_ends).abs() < 1e-9, "{n_waiting} {n_decoding}: {wait}");
    };
    check(0.0, 63.0, 0.0);
    check(20.0, 40.0, 0.0);
    check(0.0, 64.0, 1.0);
    check(20.0, 64.0, 21.0);
    check(30.0, 50.0, 17.0);
}

#[test]
fn where_slots_lack_long_requests_do_not_gather_where_few_wait() {
    let imposed = |n_waiting, leased, n_decoding| {
        let load = Load { n_waiting, leased, n_decoding, slots: 64.0, ..idle(1.0) };
        load.cost(&job(2_000.0, 100.0), &typical(500.0)).imposed
    };
    let few_long = imposed(5.0, 40_000.0, 64.0);
    let many_short = imposed(40.0, 2_000.0, 64.0);
    assert!(few_long > many_short, "{few_long} {many_short}");
    // With slots left, those that come are as many as those that wait.
    assert!(imposed(5.0, 40_000.0, 20.0) < imposed(40.0, 20_000.0, 20.0));
}

/// An endpoint with so many slots, which are all that lacks: one request waits for the others all the time.
fn overrun(
    account: &Account,
    pool: &Pool,
    from: Stamp,
    n_slots: usize,
    n_requests: usize,
) -> Stamp {
    let (mut now, mut rng) = (from, Rng::seeded(9));
    let (mut waiting, mut decoding) = (VecDeque::new(), Vec::new());
    for _ in 0..n_requests {
        while waiting.len() <= 20 {
            let job = job(200.0 + 4_000.0 * rng.f64(), 100.0);
            let load = account.load(now, &pool.speed());
            waiting.push_back(account.take(now, &job, true, &load));
        }
        now = now + Duration::from_millis(400);
        if decoding.len() == n_slots {
            let entry = decoding.swap_remove(rng.below(n_slots));
            account.end(now, &entry, Some(said(100)), pool);
        }
        let Some(mut entry) = waiting.pop_front() else { continue };
        account.first_byte(now, &mut entry, pool);
        decoding.push(entry);
    }
    for entry in waiting.into_iter().chain(decoding) {
        account.end(now, &entry, None, pool);
    }
    now
}

#[test]
fn waits_for_a_slot_are_not_learned_as_times_of_prefill() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let now = serve(&account, &pool, TRUTH, Stamp::from_nanos(1), 0.0, 150);
    assert_eq!(account.load(now, &pool.speed()).slots, f64::INFINITY);
    let before = speed(&account, &pool, now).prefill.at(2_000.0);
    let now = overrun(&account, &pool, now, 16, 1_000);
    assert_eq!(account.load(now, &pool.speed()).slots, 16.0);
    let after = speed(&account, &pool, now).prefill.at(2_000.0);
    assert!(after < 1.3 * before, "{before} {after}");
    // With slots left, it is learned how fast prefill is.
    let slower = Speed { prefill: TRUTH.prefill.times(3.0), ..TRUTH };
    let now = serve(&account, &pool, slower, now, 0.0, 80);
    let found = speed(&account, &pool, now).prefill.at(2_000.0) / slower.prefill.at(2_000.0);
    assert!((0.75..1.25).contains(&found), "{found}");
}

/// Requests with nearly all of their prompts cached come in the middle of an endpoint's long decode steps.
#[test]
fn waits_for_decode_steps_are_not_learned_as_times_of_prefill() {
    let (account, pool) = (Account::default(), Pool::new(START, 256.0));
    let mut now = serve(&account, &pool, TRUTH, Stamp::from_nanos(1), 0.0, 150);
    let before = speed(&account, &pool, now).prefill.at(2_000.0);
    let (mut waiting, mut decoding) = (VecDeque::new(), VecDeque::new());
    let mut rng = Rng::seeded(5);
    // Looks every 5 ms; every 25th time, one more comes.
    for nth in 0..100_000 {
        now = now + Duration::from_millis(5);
        let step = TRUTH.step.at(decoding.len() as f64 * (10_050.0 + SEQUENCE_TOKENS));
        while let Some((_, mut entry)) = waiting.pop_front_if(|(until, _)| *until <= now) {
            account.first_byte(now, &mut entry, &pool);
            decoding.push_back((0.0, entry));
        }
        decoding.iter_mut().for_each(|(n_steps, _)| *n_steps += 0.005 / step);
        while let Some((_, entry)) = decoding.pop_front_if(|(n_steps, _)| *n_steps >= 99.0) {
            account.end(now, &entry, Some(said(100)), &pool);
        }
        if nth % 25 == 0 {
            let job = Job { cached: 9_990.0, ..job(10_000.0, 100.0) };
            let load = account.load(now, &pool.speed());
            let prefill = TRUTH.prefill.at(load.pending + job.effective_tokens());
            let until = now + Duration::from_secs_f64((1.0 + rng.f64()) * step + prefill);
            waiting.push_back((until, account.take(now, &job, true, &load)));
        }
    }
    assert!(account.load(now, &pool.speed()).step() > 0.1, "steps are long");
    let after = speed(&account, &pool, now).prefill.at(2_000.0);
    assert!((0.5..2.0).contains(&(after / before)), "{before} {after}");
}

#[test]
fn half_a_step_is_in_the_way_where_anything_decodes_and_late_steps_count_for_more() {
    let cost = |n_decoding, n_per_token: f64| {
        let step = Line { per_unit: n_per_token * START.step.per_unit, ..START.step };
        let load = Load { n_decoding, context: n_decoding * 1_000.0, step, ..idle(1.0) };
        // All of the prompt but a token is cached: what it does to others is what its answer does.
        let job = Job { cached: 999.0, ..job(1_000.0, 100.0) };
        (load.step(), load.cost(&job, &typical(1.0)))
    };
    let ((idle_step, idle), (step, busy)) = (cost(0.0, 1.0), cost(10.0, 1.0));
    let more = busy.first_token - idle.first_token;
    assert!((more - (1.5 * step - idle_step)).abs() < 1e-9, "{more}");
    // As much as a token makes steps longer, it costs; where steps are late, the square of that.
    let by_token = |n_per_token| {
        let (step, Cost { imposed, .. }) = cost(10.0, n_per_token);
        (step, imposed / n_per_token)
    };
    let ((short, in_time), (still, at_goal)) = (by_token(1.0), by_token(100.0));
    assert!(short < still && still < 0.1 && (at_goal / in_time - 1.0).abs() < 0.1);
    let (late, counted) = by_token(200.0);
    assert!(late > 0.13 && late < 0.18, "{late}");
    let weight = (late / 0.1).powi(2);
    assert!((counted / at_goal / weight - 1.0).abs() < 0.1, "{counted} {at_goal} {weight}");
    // At most as much as for a first token.
    let (_, hopeless) = by_token(100_000.0);
    assert!((hopeless / at_goal - 1.0 / 0.3).abs() < 0.1, "{hopeless} {at_goal}");
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
    for nth in 10..10 + N_REQUESTS {
        let turn = bench.pipeline.begin(completion("m", &text(nth))).await;
        let scores = turn.scores_of(&left, &bench.plugin);
        ratios.push(scores[1] / scores[0]);
        turn.pick_of(&left, &[("default", &[1])]).served();
    }
    assert!(ratios[N_REQUESTS - 1] > 1.5 * ratios[1], "{ratios:?}");
}

#[test]
fn rare_long_answers_count_in_full() {
    let pool = Pool::new(START, 256.0);
    let answer = |output| {
        pool.observe(&Sample { output: Some(output), ..Sample::default() });
        pool.typical().output
    };
    // After each long one it is at its highest, before the next at its lowest.
    let ends = (0..2_000).map(|nth| answer(if nth % 20 == 0 { 8_000.0 } else { 5.0 }));
    let means: Vec<f64> = ends.skip(1_000).collect();
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    let truth = (8_000.0 + 19.0 * 5.0) / 20.0;
    assert!((mean / truth - 1.0).abs() < 0.02, "{mean} instead of {truth}");
    // One that nobody can have written moves it by no more than the longest that there are.
    let before = pool.typical().output;
    let after = answer(1e15);
    assert!(after > before && after < before + 1_400.0, "{before}, then {after}");
}

#[test]
fn hits_that_are_none_are_expected_less() {
    let pool = Pool::new(START, 256.0);
    for _ in 0..500 {
        pool.observe(&Sample { hits: Some(hits(2_000.0, 500.0)), ..Sample::default() });
    }
    let share = pool.typical().hits;
    assert!((share - 0.25).abs() < 0.02, "{share}");
    pool.observe(&Sample { hits: Some(hits(0.0, 1e9)), ..Sample::default() });
    pool.observe(&Sample { hits: Some(hits(f64::NAN, f64::NAN)), ..Sample::default() });
    assert!((pool.typical().hits - share).abs() < 0.01);
}

/// Turn after turn of conversations: of each prompt the last answer is cached, too, which nobody here can know.
#[test]
fn what_is_found_beyond_is_expected_then_and_does_not_make_the_rate_look_higher() {
    const BEYOND: f64 = 300.0;
    let (account, pool, mut rng) = (Account::default(), Pool::new(START, 256.0), Rng::seeded(3));
    let mut now = Stamp::from_nanos(1);
    for _ in 0..400 {
        let prompt = 5_000.0 + 500.0 * rng.f64();
        let expected = Expected { tokens: 4_000.0, is_most: true };
        let cached = pool.typical().believed(expected, prompt);
        let job = Job { prompt, cached, ..job(prompt, 100.0) };
        let mut entry = account.take(now, &job, true, &account.load(now, &pool.speed()));
        let found = expected.tokens + BEYOND;
        let work = effective_tokens(prompt, found);
        now = now + Duration::from_secs_f64(START.prefill.at(work) + START.step.base);
        account.first_byte(now, &mut entry, &pool);
        now = now + Duration::from_secs_f64(99.0 * START.step.at(job.context() + SEQUENCE_TOKENS));
        let hits = Some(Hits { expected, found });
        account.end(now, &entry, Some(Answer { hits, ..said(100) }), &pool);
    }
    assert_near(pool.speed(), START);
    let typical = pool.typical();
    let believed = |tokens, is_most| typical.believed(Expected { tokens, is_most }, 5_000.0);
    assert!((believed(4_000.0, true) - 4_300.0).abs() < 10.0, "{typical:?}");
    assert_eq!(believed(4_000.0, false), 4_000.0, "the last answer was not given there");
    assert_eq!(believed(4_990.0, true), 4_999.0, "a last token is computed");
}

#[test]
fn recent_scrapes_show_the_load_of_others_and_old_ones_are_not_looked_at() {
    let mut builder = SceneBuilder::new();
    let plugin = builder.plugin(&PLUGIN, "");
    let busy = || EndpointFixture::new().waiting(8.0).running(12.0);
    let none = || EndpointFixture::new().waiting(0.0).running(0.0);
    let mut scene = builder.scene(vec![EndpointFixture::new(), none(), busy(), busy().stale()]);
    let scores = scene.scores(&plugin);
    assert!(
        scores[2] < scores[0] && scores[1] == scores[0] && scores[3] == scores[0],
        "{scores:?}"
    );
    scene.advance(Duration::from_secs(2));
    let scores = scene.scores(&plugin);
    assert!(scores.iter().all(|score| *score == scores[0]), "{scores:?}");
}

#[test]
fn requests_from_here_are_no_load_of_others() {
    let account = Account::default();
    let now = Stamp::from_nanos(10_000_000_000);
    let signals = Signals { waiting: 1.0, running: 2.0, scraped_at: now, ..Signals::default() };
    let pool = Pool::new(START, 256.0);
    let check = |now, foreign| assert_eq!(account.foreign(now, &signals), foreign, "{now:?}");
    check(now, 3.0);
    let load = account.load(now, &pool.speed());
    let entries = [0; 3].map(|_| account.take(now, &job(100.0, 100.0), true, &load));
    check(now, 0.0);
    let later = now + Duration::from_millis(600);
    for entry in &entries {
        assert_eq!(account.end(later, entry, None, &pool), None);
    }
    check(later, 0.0);
    check(now + Duration::from_secs(1), 0.0);
    check(now + Duration::from_millis(1_100), 0.0);
}

#[test]
fn a_cache_that_others_fill_holds_less_of_a_prompt() {
    let check = |n_others: f64, kv: f64, is_less: bool| {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let holds =
            |kv| EndpointFixture::new().waiting(0.0).running(n_others).kv(kv).prefix(90, 100, 64);
        let mut scene = builder.scene(vec![holds(0.5), holds(kv)]);
        scene.tokens(prompt_of(6_400));
        let scores = scene.scores(&plugin);
        assert_eq!(scores[1] < scores[0], is_less, "{kv}: {scores:?}");
    };
    check(4.0, 0.9, false);
    check(4.0, 0.97, true);
    check(4.0, 1.0, true);
    check(4.0, f64::NAN, false);
    // What requests from here use is known without scrapes.
    check(0.0, 1.0, false);
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
