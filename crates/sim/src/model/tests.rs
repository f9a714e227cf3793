use proptest::prelude::*;
use router_core::time::Stamp;

use super::*;

const MS: u64 = 1_000_000;

fn at(nanos: u64) -> Stamp {
    Stamp::from_nanos(nanos)
}

/// Round numbers: a step takes 10 ms, a prompt token 1 ms more, a decoding sequence 2 ms more.
fn plain() -> Profile {
    Profile {
        max_num_seqs: 8,
        max_num_batched_tokens: 64,
        max_waiting_queue_length: 16,
        max_model_len: 1000,
        block_size: 4,
        kv_cache_size: 100,
        max_loras: 1,
        step_base_us: 10_000.0,
        decode_seq_us: 2_000.0,
        decode_context_token_us: 0.0,
        prefill_token_us: 1_000.0,
        prefill_context_token_us: 0.0,
        lora_load_us: 100_000.0,
        ..Profile::default()
    }
}

fn engine(profile: Profile) -> Engine {
    Engine::new(profile, 1).unwrap()
}

fn chain(hashes: std::ops::Range<u64>) -> Box<[BlockHash]> {
    hashes.map(BlockHash).collect()
}

fn submit(engine: &mut Engine, now: u64, request: EngineRequest) -> (RequestId, Vec<Event>) {
    let mut events = Vec::new();
    let id = engine.submit(at(now), request, &mut |event| events.push(event)).unwrap();
    (id, events)
}

fn advance(engine: &mut Engine, now: u64) -> Vec<Event> {
    let mut events = Vec::new();
    engine.advance(at(now), &mut |event| events.push(event));
    events
}

/// Lets the engine work until it is idle.
fn drain(engine: &mut Engine) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(next) = engine.next_event() {
        engine.advance(next, &mut |event| events.push(event));
    }
    events
}

fn finished(events: &[Event], id: RequestId) -> Finished {
    let mut ends =
        events.iter().filter(|event| event.id == id).filter_map(|event| match event.kind {
            EventKind::Finished(finished) => Some(finished),
            _ => None,
        });
    let end = ends.next().unwrap();
    assert_eq!(ends.next(), None, "a request ends once");
    end
}

#[test]
fn one_request_takes_prefill_and_decode_steps() {
    let mut engine = engine(plain());
    let (id, _) = submit(&mut engine, 5 * MS, EngineRequest::new(20, 3));
    assert_eq!(engine.next_event(), Some(at(5 * MS)));
    let end = finished(&drain(&mut engine), id);
    // 10 + 20 ms of prefill gives the first token, two decode steps of 12 ms the others.
    assert_eq!(end.timings.admitted, at(5 * MS));
    assert_eq!(end.timings.first_token, at(35 * MS));
    assert_eq!(end.timings.finished, at(59 * MS));
    assert_eq!((end.output_tokens, end.reason), (3, FinishReason::Length));
    let signals = engine.signals();
    assert_eq!(signals.counters.steps, 3);
    assert_eq!((signals.counters.prompt_tokens, signals.counters.generation_tokens), (20, 3));
    assert_eq!(signals.kv_used_blocks, 0);
}

#[test]
fn a_long_prompt_is_cut_into_chunks_beside_decoding() {
    let mut engine = engine(Profile { max_num_batched_tokens: 10, ..plain() });
    let (short, _) = submit(&mut engine, 0, EngineRequest::new(4, 10));
    let (long, _) = submit(&mut engine, 0, EngineRequest::new(24, 1));
    let events = drain(&mut engine);
    // Step 1: 4 + 6 prompt tokens; steps 2 and 3: one decode token and 9 prompt tokens each.
    assert_eq!(finished(&events, short).timings.first_token, at(20 * MS));
    assert_eq!(finished(&events, long).timings.finished, at((20 + 21 + 21) * MS));
}

#[test]
fn requests_of_one_stamp_share_the_first_step() {
    let mut engine = engine(plain());
    let (a, _) = submit(&mut engine, 0, EngineRequest::new(4, 1));
    let (b, _) = submit(&mut engine, 0, EngineRequest::new(4, 1));
    let events = drain(&mut engine);
    assert_eq!(finished(&events, a).timings.finished, at(18 * MS));
    assert_eq!(finished(&events, b).timings.finished, at(18 * MS));
}

#[test]
fn a_prompt_finds_its_prefix_and_answers_too() {
    let mut engine = engine(plain());
    // 16 prompt tokens and 9 generated ones, of which 8 are fed back: 24 tokens, 6 full blocks.
    let request = EngineRequest { chain: chain(0..6), ..EngineRequest::new(16, 9) };
    let (first, _) = submit(&mut engine, 0, request.clone());
    assert_eq!(finished(&drain(&mut engine), first).cached_tokens, 0);
    let (same, _) = submit(&mut engine, 1000 * MS, request);
    // At least one token is computed: the last of four full blocks does not count.
    assert_eq!(finished(&drain(&mut engine), same).cached_tokens, 12);
    let follow_up = EngineRequest { chain: chain(0..8), ..EngineRequest::new(32, 1) };
    let (next_turn, _) = submit(&mut engine, 2000 * MS, follow_up);
    assert_eq!(finished(&drain(&mut engine), next_turn).cached_tokens, 24);
    let counters = engine.signals().counters;
    assert_eq!((counters.prefix_cache_queries, counters.prefix_cache_hits), (64, 36));
    assert_eq!(counters.computed_prompt_tokens, 64 - 36);
    assert_eq!(counters.blocks_stored, 8);
}

#[test]
fn requests_that_cannot_run_are_refused() {
    let mut engine = engine(Profile { max_waiting_queue_length: 2, max_loras: 0, ..plain() });
    let mut refuse = |request| engine.submit(at(0), request, &mut |_| ()).map(|_| ());
    assert_eq!(
        refuse(EngineRequest::new(1000, 1)),
        Err(Refusal::TooLong { prompt_tokens: 1000, limit: 1000 })
    );
    assert_eq!(
        refuse(EngineRequest::new(401, 1)),
        Err(Refusal::DoesNotFit { needed: 101, available: 100 })
    );
    let lora = EngineRequest { adapter: Some(AdapterId(1)), ..EngineRequest::new(1, 1) };
    assert_eq!(refuse(lora), Err(Refusal::NoAdapterSlots));
    assert_eq!(refuse(EngineRequest::new(400, 1)), Ok(()));
    assert_eq!(refuse(EngineRequest::new(1, 1)), Ok(()));
    assert_eq!(refuse(EngineRequest::new(1, 1)), Err(Refusal::QueueFull { limit: 2 }));
    assert_eq!(engine.signals().counters.refused, 4);
}

#[test]
fn the_context_limit_cuts_the_answer() {
    let mut engine = engine(Profile { max_model_len: 50, ..plain() });
    let request = EngineRequest { finish: Some(FinishReason::Stop), ..EngineRequest::new(40, 30) };
    let (id, _) = submit(&mut engine, 0, request);
    let end = finished(&drain(&mut engine), id);
    assert_eq!((end.output_tokens, end.reason), (10, FinishReason::Length));
}

#[test]
fn a_request_without_output_ends_with_its_prefill() {
    let mut engine = engine(plain());
    let (id, _) = submit(&mut engine, 0, EngineRequest::new(12, 0));
    let events = drain(&mut engine);
    assert_eq!(events.len(), 1);
    let end = finished(&events, id);
    assert_eq!((end.output_tokens, end.timings.finished), (0, at(22 * MS)));
}

#[test]
fn without_blocks_the_youngest_starts_over() {
    // Two requests that need 10 blocks each at their end, in a pool of 15.
    let mut engine = engine(Profile { kv_cache_size: 15, ..plain() });
    let (old, _) = submit(&mut engine, 0, EngineRequest::new(20, 21));
    let (young, _) = submit(&mut engine, 0, EngineRequest::new(20, 21));
    let events = drain(&mut engine);
    let (old, young) = (finished(&events, old), finished(&events, young));
    assert_eq!((old.n_preemptions, young.n_preemptions), (0, 1));
    assert_eq!((old.output_tokens, young.output_tokens), (21, 21));
    assert!(young.timings.finished > old.timings.finished);
    let signals = engine.signals();
    assert_eq!(signals.counters.preemptions, 1);
    assert_eq!(signals.counters.prompt_tokens, 40);
    assert!(signals.counters.computed_prompt_tokens > 40, "a preempted prompt is computed again");
    assert_eq!(signals.kv_used_blocks, 0);
}

#[test]
fn adapters_share_slots_and_others_pass() {
    let mut engine = engine(plain());
    let lora = |id| EngineRequest { adapter: Some(AdapterId(id)), ..EngineRequest::new(4, 5) };
    let (first, _) = submit(&mut engine, 0, lora(1));
    let (other, _) = submit(&mut engine, 0, lora(2));
    let (base, _) = submit(&mut engine, 0, EngineRequest::new(4, 5));
    advance(&mut engine, 0);
    let signals = engine.signals();
    assert_eq!((signals.running, signals.waiting, signals.waiting_for_adapter), (2, 1, 1));
    assert_eq!(signals.running_adapters, [AdapterId(1)]);
    assert_eq!(signals.waiting_adapters, [AdapterId(2)]);
    let events = drain(&mut engine);
    let (first, other, base) =
        (finished(&events, first), finished(&events, other), finished(&events, base));
    assert_eq!(first.timings.finished, base.timings.finished);
    assert_eq!(other.timings.admitted, first.timings.finished);
    // Loading takes 100 ms beside the step's 10 and the prompts' 8.
    assert_eq!(first.timings.first_token, at(118 * MS));
    let (again, _) = submit(&mut engine, 10_000 * MS, lora(2));
    let again = finished(&drain(&mut engine), again);
    assert_eq!(again.timings.first_token, at(10_014 * MS), "a resident adapter is not loaded");
}

#[test]
fn a_run_of_decode_steps_is_one_event() {
    let mut engine = engine(plain());
    submit(&mut engine, 0, EngineRequest::new(4, 101));
    submit(&mut engine, 0, EngineRequest::new(4, 51));
    assert_eq!(advance(&mut engine, 18 * MS).len(), 2);
    // Fifty steps of 14 ms until the shorter answer ends.
    assert_eq!(engine.next_event(), Some(at((18 + 50 * 14) * MS)));
    // In the middle of a run the state is what single steps would show.
    advance(&mut engine, (18 + 25 * 14 + 3) * MS);
    assert_eq!(engine.signals().counters.generation_tokens, 2 * 26);
}

#[test]
fn token_events_count_up() {
    let mut engine = engine(plain());
    let request = EngineRequest { token_events: true, ..EngineRequest::new(4, 4) };
    submit(&mut engine, 0, request);
    let kinds: Vec<_> = drain(&mut engine).into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds[0], EventKind::FirstToken { cached_tokens: 0 });
    assert_eq!(kinds[1..4], [2, 3, 4].map(|n_tokens| EventKind::Token { n_tokens }));
    assert!(matches!(kinds[4], EventKind::Finished(_)));
}

#[test]
fn a_cancelled_request_leaves_nothing_at_any_stage() {
    // Chunks of 8 tokens and 8 blocks: requests pass through waiting, prefill, decode and preemption.
    let profile = Profile { max_num_batched_tokens: 8, kv_cache_size: 8, ..plain() };
    let mut stages = std::collections::BTreeSet::new();
    for cancel_at in 0..40 {
        for victim in 0..3 {
            let mut engine = engine(profile.clone());
            let ids: Vec<_> = (0..3)
                .map(|nth| {
                    let chain = chain(nth * 100..nth * 100 + 7);
                    let request = EngineRequest { chain, ..EngineRequest::new(12, 12) };
                    submit(&mut engine, nth * MS, request).0
                })
                .collect();
            let now = 3 * MS + cancel_at * 9 * MS;
            let mut events = advance(&mut engine, now);
            let before = engine.signals();
            let known = engine.cancel(at(now), ids[victim], &mut |event| events.push(event));
            let after = engine.signals();
            if known {
                let stage = (before.running - after.running, before.waiting - after.waiting);
                assert_eq!(stage.0 + stage.1, 1);
                stages.insert((stage, before.counters.preemptions > 0));
                assert!(
                    before.running > after.running || before.kv_used_blocks == after.kv_used_blocks
                );
            }
            events.extend(drain(&mut engine));
            let ends = events.iter().filter(|event| matches!(event.kind, EventKind::Finished(_)));
            assert_eq!(ends.count(), if known { 2 } else { 3 });
            let signals = engine.signals();
            assert_eq!((signals.kv_used_blocks, signals.running, signals.waiting), (0, 0, 0));
            assert_eq!(signals.counters.cancelled, u64::from(known));
            assert!(!engine.cancel(at(now), ids[victim], &mut |_| ()));
        }
    }
    assert_eq!(stages.len(), 4, "waiting and running, before and after a preemption: {stages:?}");
}

#[test]
fn noise_keeps_the_mean_and_follows_the_seed() {
    let run = |seed| {
        let profile = Profile { step_noise: 0.2, ..plain() };
        let mut engine = Engine::new(profile, seed).unwrap();
        submit(&mut engine, 0, EngineRequest::new(4, 380));
        drain(&mut engine).last().unwrap().at
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    let exact = 14.0 + 379.0 * 12.0;
    let seconds = run(3).as_secs_f64() * 1e3;
    assert!((seconds / exact - 1.0).abs() < 0.05, "{seconds} against {exact}");
}

#[test]
fn the_default_profile_is_an_h100_with_8b() {
    let mut engine = engine(Profile::default());
    let (long, _) = submit(&mut engine, 0, EngineRequest::new(30_000, 1));
    let seconds = finished(&drain(&mut engine), long).timings.finished.as_secs_f64();
    let rate = 30_000.0 / seconds;
    assert!((12_000.0..17_000.0).contains(&rate), "{rate} prompt tokens a second");

    let per_token = |n_requests: u32| {
        let mut engine = Engine::new(Profile::default(), 1).unwrap();
        let ids: Vec<_> = (0..n_requests)
            .map(|_| submit(&mut engine, 0, EngineRequest::new(1_000, 101)).0)
            .collect();
        let end = finished(&drain(&mut engine), ids[0]);
        end.timings.finished.since(end.timings.first_token).as_secs_f64() * 10.0
    };
    let (alone, crowded) = (per_token(1), per_token(8));
    assert!((7.0..9.0).contains(&alone), "{alone} ms a token");
    assert!(crowded > alone * 1.03, "{crowded} ms a token among eight, {alone} alone");
}

#[test]
fn an_instant_engine_answers_at_the_stamp_of_the_request() {
    let mut engine = engine(Profile::instant());
    let (id, _) = submit(&mut engine, 77, EngineRequest::new(10_000, 500));
    let events = advance(&mut engine, 77);
    assert_eq!(finished(&events, id).timings.finished, at(77));
    assert_eq!(engine.next_event(), None);
}

#[test]
fn costs_change_from_the_next_step_on() {
    let mut engine = engine(plain());
    let (id, _) = submit(&mut engine, 0, EngineRequest::new(20, 3));
    advance(&mut engine, 0);
    let slower = Profile { time_factor: 2.0, max_num_seqs: 1, ..plain() };
    engine.set_costs(at(MS), &slower, &mut |_| ()).unwrap();
    assert_eq!((engine.profile().time_factor, engine.profile().max_num_seqs), (2.0, 8));
    // The prefill in flight takes its 30 ms, the decode steps twice 12 each.
    assert_eq!(finished(&drain(&mut engine), id).timings.finished, at((30 + 48) * MS));
    let bad = Profile { time_factor: -1.0, ..plain() };
    assert!(engine.set_costs(at(MS), &bad, &mut |_| ()).is_err());
}

#[test]
fn bad_profiles_are_named() {
    let check = |profile: Profile, text: &str| {
        let error = Engine::new(profile, 1).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    check(Profile { block_size: 0, ..plain() }, "`block-size` is 0");
    check(Profile { kv_cache_size: u32::MAX, ..plain() }, "`kv-cache-size` is 4294967295");
    check(Profile { step_noise: 0.5, ..plain() }, "`step-noise` is 0.5");
    check(Profile { time_factor: f64::NAN, ..plain() }, "`time-factor` is NaN");
    check(Profile { prefill_token_us: -1.0, ..plain() }, "`prefill-token-us` is -1");
}

// === Properties ===

#[derive(Clone, Debug)]
enum Step {
    Submit { after: u64, request: EngineRequest },
    Cancel { after: u64, which: prop::sample::Index },
    Look { after: u64 },
    Caching { after: u64, on: bool },
}

fn small_profile() -> impl Strategy<Value = Profile> {
    let sizes = (1..6u32, 3..24u32, prop_oneof![Just(1u32), Just(2), Just(4), Just(16)], 4..40u32);
    let costs = (0..3u32, 0..3u32, 0..3u32, 0..3u32);
    (sizes, costs, 1..3u32, 2..12u32).prop_map(
        |((seqs, budget, block_size, blocks), costs, loras, queue)| {
            Profile {
                max_num_seqs: seqs,
                max_num_batched_tokens: budget,
                max_waiting_queue_length: queue,
                max_model_len: 200,
                block_size,
                kv_cache_size: blocks,
                max_loras: loras,
                // Odd fractions, so that rounding would show.
                step_base_us: f64::from(costs.0) * 3.337,
                decode_seq_us: f64::from(costs.1) * 0.713,
                decode_context_token_us: f64::from(costs.2) * 0.000_713,
                prefill_base_us: f64::from(costs.3) * 1.77,
                prefill_token_us: f64::from(costs.3) * 0.377,
                prefill_context_token_us: f64::from(costs.2) * 0.000_137,
                lora_load_us: 5.5,
                ..Profile::default()
            }
        },
    )
}

fn request(token_events: bool) -> impl Strategy<Value = EngineRequest> {
    // Few different chains with shared starts, and chains that run on into the answer: hits, equal blocks in
    // two running requests, and waiting requests that look for what a running one generates.
    let chain = (0..3u64, 0..20usize, 0..10usize).prop_map(|(family, len, fork)| {
        (0..len as u64)
            .map(|nth| BlockHash(if nth < fork as u64 { nth } else { 100 * family + nth }))
            .collect::<Box<[_]>>()
    });
    let adapter = prop::option::weighted(0.3, (0..3u32).prop_map(AdapterId));
    (1..40u32, 0..60u32, chain, adapter, any::<bool>()).prop_map(
        move |(prompt_tokens, output_tokens, chain, adapter, stop)| EngineRequest {
            prompt_tokens,
            output_tokens,
            finish: stop.then_some(FinishReason::Stop),
            chain,
            adapter,
            token_events,
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let after = || prop_oneof![Just(0u64), 0..2_000u64, 0..200_000u64];
    let step = prop_oneof![
        6 => (after(), prop_oneof![4 => request(false), 1 => request(true)])
            .prop_map(|(after, request)| Step::Submit { after, request }),
        2 => (after(), any::<prop::sample::Index>())
            .prop_map(|(after, which)| Step::Cancel { after, which }),
        2 => after().prop_map(|after| Step::Look { after }),
        1 => (after(), any::<bool>()).prop_map(|(after, on)| Step::Caching { after, on }),
    ];
    prop::collection::vec(step, 1..30)
}

#[derive(Debug, PartialEq)]
struct Outcome {
    events: Vec<Event>,
    looks: Vec<EngineSignals>,
    refusals: Vec<Option<Refusal>>,
    cancels: Vec<bool>,
}

/// Runs a script; `follow` also advances at each announced event, as a driver with a timer does.
fn run(mut engine: Engine, steps: &[Step], follow: bool) -> (Outcome, Engine) {
    let (mut events, mut ids, mut now) = (Vec::new(), Vec::new(), 0);
    let mut outcome = Outcome {
        events: Vec::new(),
        looks: Vec::new(),
        refusals: Vec::new(),
        cancels: Vec::new(),
    };
    for step in steps {
        let (Step::Submit { after, .. }
        | Step::Cancel { after, .. }
        | Step::Look { after }
        | Step::Caching { after, .. }) = step;
        now += after;
        while follow && let Some(next) = engine.next_event().filter(|&next| next < at(now)) {
            engine.advance(next, &mut |event| events.push(event));
        }
        let sink = &mut |event| events.push(event);
        match step {
            Step::Submit { request, .. } => match engine.submit(at(now), request.clone(), sink) {
                Ok(id) => {
                    ids.push(id);
                    outcome.refusals.push(None);
                }
                Err(refusal) => outcome.refusals.push(Some(refusal)),
            },
            Step::Cancel { which, .. } if !ids.is_empty() => {
                outcome.cancels.push(engine.cancel(at(now), *which.get(&ids), sink));
            }
            Step::Cancel { .. } => (),
            Step::Look { .. } => {
                engine.advance(at(now), sink);
                outcome.looks.push(engine.signals());
            }
            Step::Caching { on, .. } => engine.set_prefix_caching(at(now), *on, sink),
        }
        engine.pool.check_invariants(engine.running.iter().map(|seq| seq.table.as_slice()));
    }
    events.extend(drain(&mut engine));
    outcome.looks.push(engine.signals());
    outcome.events = events;
    (outcome, engine)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn jumps_equal_single_steps(profile in small_profile(), steps in steps()) {
        let new = || Engine::new(profile.clone(), 3).unwrap();
        let (jumping, _) = run(new(), &steps, false);
        let (stepping, _) = run(new().without_jumps(), &steps, false);
        prop_assert_eq!(&jumping, &stepping);
        // A driver that wakes at each announced event sees the same.
        let (followed, _) = run(new(), &steps, true);
        prop_assert_eq!(&jumping, &followed);
    }

    #[test]
    fn nothing_is_lost(profile in small_profile(), steps in steps()) {
        let (outcome, engine) = run(Engine::new(profile, 3).unwrap(), &steps, false);
        let last = outcome.looks.last().unwrap();
        prop_assert_eq!((last.running, last.waiting, last.kv_used_blocks), (0, 0, 0));
        prop_assert_eq!(engine.pool.n_free(), engine.pool.n_blocks());

        let ends: Vec<_> = outcome.events.iter().filter_map(|event| match event.kind {
            EventKind::Finished(end) => Some(end),
            _ => None,
        }).collect();
        let accepted = outcome.refusals.iter().filter(|refusal| refusal.is_none()).count() as u64;
        let counters = last.counters;
        prop_assert_eq!(ends.len() as u64, counters.finished_stop + counters.finished_length);
        prop_assert_eq!(accepted, ends.len() as u64 + counters.cancelled);
        prop_assert_eq!(counters.refused, outcome.refusals.len() as u64 - accepted);
        let cancelled = outcome.cancels.iter().filter(|&&known| known).count() as u64;
        prop_assert_eq!(counters.cancelled, cancelled);

        for end in &ends {
            let times = end.timings;
            prop_assert!(times.arrived <= times.admitted && times.admitted <= times.first_token);
            prop_assert!(times.first_token <= times.finished);
            prop_assert!(end.cached_tokens < end.prompt_tokens);
        }
        if cancelled == 0 {
            let sum = |of: fn(&Finished) -> u32| ends.iter().map(|end| u64::from(of(end))).sum::<u64>();
            prop_assert_eq!(counters.prompt_tokens, sum(|end| end.prompt_tokens));
            prop_assert_eq!(counters.cached_prompt_tokens, sum(|end| end.cached_tokens));
            prop_assert_eq!(counters.prefix_cache_hits, sum(|end| end.cached_tokens));
            prop_assert_eq!(counters.generation_tokens, sum(|end| end.output_tokens));
            if counters.preemptions == 0 {
                prop_assert_eq!(
                    counters.computed_prompt_tokens,
                    counters.prompt_tokens - counters.cached_prompt_tokens
                );
            }
        }
        prop_assert!(outcome.events.is_sorted_by_key(|event| event.at));
    }
}
