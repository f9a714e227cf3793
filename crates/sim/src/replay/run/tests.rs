use std::collections::BTreeSet;

use router_core::{Column, Position, endpoint::Labels};
use router_framework::{
    DataKey, DataProducer, Instance, NoParams, Outputs, PluginDef, Produced, PromptInput, Read,
    RequestCx, Role, Scorer, Write,
};
use router_testkit::router::ONE_AT_A_TIME;

use super::*;
use crate::{
    model::Profile,
    replay::{
        outcome::Choice,
        pool::{Change, PoolEvent, Scrape, ServerKind},
        summary::{Goals, NotServed, Summary},
    },
};

const SECOND: Duration = Duration::from_secs(1);

fn request(start: Start, chain: &[u64], prompt_tokens: u32, output_tokens: u32) -> TraceRequest {
    TraceRequest {
        start,
        chain: chain.into(),
        prompt_tokens,
        output_tokens,
        tenant: None,
        priority: 0,
        lora: None,
        streams: true,
        max_output_tokens: None,
        n_sequences: 1,
        observed: None,
    }
}

fn at(millis: u64) -> Start {
    Start::At(Stamp::from_nanos(millis * 1_000_000))
}

/// Requests without anything in common, so far apart.
fn alone(
    n_requests: u64,
    gap_ms: u64,
    prompt_tokens: u32,
    output_tokens: u32,
) -> Vec<TraceRequest> {
    let one = |n: u64| {
        let ids: Vec<u64> =
            (0..u64::from(prompt_tokens / 16)).map(|nth| n * 100_000 + nth).collect();
        request(at(n * gap_ms), &ids, prompt_tokens, output_tokens)
    };
    (0..n_requests).map(one).collect()
}

struct Scene {
    setup: Setup,
}

impl Scene {
    fn new(requests: Vec<TraceRequest>, n_servers: usize) -> Self {
        let registry = Registry::new(router_plugins::PLUGINS.iter().copied());
        let setup = Setup {
            trace: Arc::new(Trace { block_tokens: 16, requests }),
            pool: Arc::new(Pool::uniform(n_servers)),
            configuration: Configuration { name: "built-in".to_owned(), text: None },
            registry,
            options: Options { jitter: Duration::ZERO, ..Options::default() },
        };
        Self { setup }
    }

    fn pool(mut self, change: impl FnOnce(&mut Pool)) -> Self {
        change(Arc::make_mut(&mut self.setup.pool));
        self
    }

    fn profile(self, change: impl Fn(&mut Profile)) -> Self {
        self.pool(|pool| pool.servers.iter_mut().for_each(|server| change(&mut server.profile)))
    }

    fn event(self, at_ms: u64, server: usize, what: Change) -> Self {
        let at = Stamp::from_nanos(at_ms * 1_000_000);
        self.pool(|pool| pool.events.push(PoolEvent { at, server, what }))
    }

    /// Only this scorer decides.
    fn scorer(mut self, scorer: &str) -> Self {
        let text = format!(
            "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: {scorer}\n\
             schedulingProfiles:\n- name: default\n  plugins:\n  - pluginRef: {scorer}\n"
        );
        self.setup.configuration = Configuration { name: scorer.to_owned(), text: Some(text) };
        self
    }

    fn run(&self, seed: u64) -> Outcome {
        let progress = Progress::default();
        let outcome = play(&self.setup, seed, &progress).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(progress.n_ended(), self.setup.trace.requests.len(), "all have ended");
        outcome
    }
}

fn fates(outcome: &Outcome) -> Vec<Fate> {
    outcome.requests.iter().map(|request| request.fate).collect()
}

fn n_on(outcome: &Outcome, server: u32) -> usize {
    outcome.requests.iter().filter(|request| request.server == Some(server)).count()
}

#[test]
fn one_request_takes_what_the_engine_takes() {
    let outcome = Scene::new(alone(1, 0, 1_000, 11), 1).run(1);
    let [request] = outcome.requests[..] else { panic!("{outcome:?}") };
    assert_eq!((request.fate, request.server, request.n_attempts), (Fate::Served, Some(0), 1));
    // A step of 7.5 ms with 1,000 tokens of 60 us and a little for their pairs; then ten steps of 7.5 ms.
    let (ttft, tpot) =
        (request.ttft().unwrap().as_secs_f64(), request.tpot().unwrap().as_secs_f64());
    assert!((0.067..0.070).contains(&ttft), "{ttft}");
    assert!((0.0075..0.0077).contains(&tpot), "{tpot}");
    assert_eq!((request.output_tokens, request.cached_tokens), (11, 0));
    assert_eq!(outcome.ended, request.ended);
}

#[test]
fn decisions_see_what_is_asked_for_of_the_answer() {
    let check = |streams, output_tokens, max_output_tokens, expected| {
        let asked = request(at(0), &[], 9, output_tokens);
        let asked = TraceRequest { streams, max_output_tokens, ..asked };
        let (_, parsed) = Requests::of(&Trace::default()).begin(&asked, Stamp::ORIGIN);
        assert_eq!((parsed.stream, parsed.max_output_tokens), expected);
    };
    check(true, 5, None, (true, None));
    check(false, 5, Some(64), (false, Some(64)));
    // A prompt alone has no answer that could stream.
    check(true, 0, None, (false, None));
}

#[test]
fn of_an_answer_that_does_not_stream_the_router_sees_nothing_before_its_end() {
    let played = |streams| {
        let one = TraceRequest { streams, ..alone(1, 0, 1_000, 11).remove(0) };
        let look = |_: &Router, metrics: &router_telemetry::Registry| {
            metrics.encode(router_telemetry::metrics::Format::Text)
        };
        let scene = Scene::new(vec![one], 1);
        play_and_look(&scene.setup, 1, &Progress::default(), look).unwrap()
    };
    let ((streamed, _), (whole, page)) = (played(true), played(false));
    let value = |name: &str| -> f64 {
        let line = page.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_else(|| panic!("{page}"))
    };
    let [request] = whole.requests[..] else { panic!("{whole:?}") };
    let first_byte = value("llm_d_epp_request_ttft_seconds_sum");
    assert!((first_byte - request.ended.as_secs_f64()).abs() < 1e-6, "{first_byte}");
    assert_eq!(value("llm_d_epp_request_output_tokens_sum"), 11.0);
    // Results go by when the server had the first token.
    assert_eq!(whole, streamed);
    assert!(request.ttft().unwrap().as_secs_f64() < first_byte - 0.05);
}

#[test]
fn an_answer_that_does_not_stream_moves_on_until_its_end() {
    let ids: Vec<u64> = (0..10).collect();
    let one = TraceRequest { streams: false, ..request(at(0), &ids, 160, 1_000) };
    let scene = Scene::new(vec![one], 2);
    let first = scene.run(1).requests[0].server.unwrap();
    // Its client has got nothing, so that it can begin anew elsewhere.
    let outcome = scene.event(5_000, first as usize, Change::Restart { down: SECOND }).run(1);
    let [request] = outcome.requests[..] else { panic!("{outcome:?}") };
    assert_eq!((request.fate, request.server), (Fate::Served, Some(1 - first)));
    assert!(request.ttft().unwrap() > 5 * SECOND);
}

#[test]
fn the_router_knows_tenants_by_their_names() {
    let tenants = ["batch", "Zürich 東京"];
    let named =
        |(one, tenant): (TraceRequest, &str)| TraceRequest { tenant: Some(tenant.into()), ..one };
    let scene = Scene::new(alone(2, 1_000, 16, 1).into_iter().zip(tenants).map(named).collect(), 1);
    let look = |_: &Router, metrics: &router_telemetry::Registry| {
        metrics.encode(router_telemetry::metrics::Format::Text)
    };
    let (_, page) = play_and_look(&scene.setup, 1, &Progress::default(), look).unwrap();
    for tenant in tenants {
        assert!(page.contains(&format!("fairness_id=\"{tenant}\"")), "{tenant} is not in {page}");
    }
}

#[test]
fn one_seed_gives_one_course_to_the_bit() {
    let requests: Vec<_> = (0..300_u64)
        .map(|n| {
            let ids: Vec<u64> = (0..40)
                .map(|nth| if nth < 20 { n % 7 * 100 + nth } else { n * 1_000 + nth })
                .collect();
            TraceRequest {
                tenant: Some(format!("tenant {}", n % 3).into()),
                priority: (n % 2) as i32,
                ..request(at(n * 20), &ids, 640 + n as u32, 20)
            }
        })
        .collect();
    let mut scene = Scene::new(requests, 4);
    scene.setup.options.jitter = SECOND;
    let first = scene.run(1);
    assert_eq!(first, scene.run(1), "the same seed");
    let other = scene.run(2);
    assert_ne!(first.decisions, other.decisions);
    let moved = first.requests.iter().zip(&other.requests).filter(|(a, b)| a.arrived != b.arrived);
    assert!(moved.count() > 290, "a seed moves arrivals");
    assert!(first.requests.iter().any(|request| request.cached_tokens > 0));
}

#[test]
fn the_load_factor_brings_arrivals_together_and_leaves_think_times() {
    let think = 3 * SECOND;
    let mut requests = alone(2, 10_000, 160, 5);
    requests.push(request(Start::After { request: 1, think }, &[], 160, 5));
    let mut scene = Scene::new(requests, 1);
    scene.setup.options.speed = 4.0;
    let outcome = scene.run(1);
    let [_, second, third] = outcome.requests[..] else { panic!("{outcome:?}") };
    assert_eq!(second.arrived, Stamp::ORIGIN + Duration::from_millis(2_500));
    assert_eq!(third.arrived, second.ended + think);
}

#[test]
fn the_next_turn_finds_the_answer_cached_too() {
    let ids: Vec<u64> = (0..30).collect();
    let requests = vec![
        request(at(0), &ids[..20], 160, 160),
        request(Start::After { request: 0, think: SECOND }, &ids, 480, 1),
    ];
    let outcome = Scene::new(requests, 3).run(1);
    assert_eq!(outcome.requests[1].server, outcome.requests[0].server);
    // The last token of the answer is never fed back, so the last block of it is not whole.
    assert_eq!(outcome.requests[1].cached_tokens, 19 * 16);
}

#[test]
fn equal_blocks_count_only_after_equal_blocks() {
    let requests =
        vec![request(at(0), &[1, 2, 3], 48, 1), request(at(5_000), &[9, 2, 3, 4], 64, 1)];
    assert_eq!(Scene::new(requests, 1).run(1).requests[1].cached_tokens, 0);
}

#[test]
fn a_full_queue_sends_the_request_on_and_full_ones_leave_it_unserved() {
    let crowd = alone(12, 1, 160, 50);
    // It sees no queue between two scrapes, and sends more to one server than it takes.
    let scene = Scene::new(crowd, 2).scorer("queue-scorer").profile(|profile| {
        profile.max_num_seqs = 1;
        profile.max_waiting_queue_length = 3;
    });
    let outcome = scene.run(1);
    let n_of = |fate| fates(&outcome).into_iter().filter(|have| *have == fate).count();
    assert_eq!((n_of(Fate::Served), n_of(Fate::Unserved)), (8, 4), "{:?}", fates(&outcome));
    assert!(outcome.requests.iter().any(|r| r.fate == Fate::Served && r.n_attempts == 2));
}

#[test]
fn what_never_fits_is_invalid() {
    let scene =
        Scene::new(alone(1, 0, 5_000, 1), 2).profile(|profile| profile.max_model_len = 4_096);
    let outcome = scene.run(1);
    assert_eq!((fates(&outcome), outcome.requests[0].n_attempts), (vec![Fate::Invalid], 1));
}

#[test]
fn a_prompt_alone_ends_with_its_computation() {
    let outcome = Scene::new(alone(1, 0, 1_000, 0), 1).run(1);
    let [request] = outcome.requests[..] else { panic!("{outcome:?}") };
    assert_eq!((request.fate, request.output_tokens), (Fate::Served, 0));
    assert!(request.ttft().is_some() && request.tpot().is_none());
}

#[test]
fn scorers_see_metrics_as_often_and_as_late_as_they_come() {
    let share_of_slow = |scrape: Scrape| {
        let scene = Scene::new(alone(200, 300, 320, 20), 2)
            .scorer("queue-scorer")
            .profile(|profile| profile.max_num_seqs = 1)
            .event(0, 0, Change::Slow { factor: 50.0 })
            .pool(|pool| pool.scrape = scrape);
        n_on(&scene.run(1), 0) as f64 / 200.0
    };
    let interval = |millis| Some(Duration::from_millis(millis));
    let fresh = share_of_slow(Scrape { interval: interval(50), delay: Duration::ZERO });
    assert!(fresh < 0.2, "{fresh}");
    let never = share_of_slow(Scrape { interval: None, delay: Duration::ZERO });
    assert!((0.35..0.65).contains(&never), "{never}");
    let late = share_of_slow(Scrape { interval: interval(50), delay: 60 * SECOND });
    assert!((0.35..0.65).contains(&late), "{late}");
}

#[test]
fn a_restart_breaks_answers_sends_the_others_on_and_forgets_the_cache() {
    let ids: Vec<u64> = (0..10).collect();
    let requests = vec![
        // Answers for 7.5 s.
        request(at(0), &ids, 160, 1_000),
        request(at(10_000), &ids, 161, 1),
    ];
    let scene = Scene::new(requests, 1).event(5_000, 0, Change::Restart { down: SECOND });
    let outcome = scene.run(1);
    assert_eq!(fates(&outcome), [Fate::Broken, Fate::Served]);
    assert_eq!(outcome.requests[0].ended, Stamp::ORIGIN + 5 * SECOND);
    assert_eq!(outcome.requests[1].cached_tokens, 0);

    // One that still waits moves on to the other server.
    let long = alone(1, 0, 100_000, 10);
    let scene = Scene::new(long, 2);
    let first = scene.run(1).requests[0].server.unwrap();
    let restarted = scene.event(500, first as usize, Change::Restart { down: SECOND }).run(1);
    let [request] = restarted.requests[..] else { panic!("{restarted:?}") };
    assert_eq!(
        (request.fate, request.server, request.n_attempts),
        (Fate::Served, Some(1 - first), 2)
    );
    assert_eq!(request.arrived, Stamp::ORIGIN);
}

#[test]
fn a_server_that_is_down_is_left_out_until_it_is_back() {
    let scene =
        Scene::new(alone(100, 100, 32, 2), 2).event(2_000, 0, Change::Restart { down: 3 * SECOND });
    let outcome = scene.run(1);
    let on_first = |from: u64, to: u64| {
        let of_span =
            outcome.requests.iter().skip(from as usize / 100).take((to - from) as usize / 100);
        of_span.filter(|request| request.server == Some(0)).count()
    };
    assert_eq!(on_first(2_000, 5_000), 0);
    assert!(on_first(0, 2_000) > 3 && on_first(8_000, 10_000) > 3);
    assert!(fates(&outcome).iter().all(|fate| *fate == Fate::Served));
}

#[test]
fn members_come_and_go() {
    let scene = Scene::new(alone(100, 100, 32, 2), 2).event(3_000, 1, Change::Join).event(
        6_000,
        0,
        Change::Leave,
    );
    let outcome = scene.run(1);
    let servers: Vec<_> = outcome.requests.iter().map(|request| request.server.unwrap()).collect();
    assert!(servers[..30].iter().all(|server| *server == 0));
    assert!(servers[30..60].contains(&0) && servers[30..60].contains(&1));
    assert!(servers[60..].iter().all(|server| *server == 1));

    // Who leaves finishes what it has; without any server requests are refused.
    let long = vec![request(at(0), &[], 160, 1_000), request(at(2_000), &[], 160, 5)];
    let outcome = Scene::new(long, 1).event(1_000, 0, Change::Leave).run(1);
    assert_eq!(fates(&outcome), [Fate::Served, Fate::Rejected(ErrorCode::ServiceUnavailable)]);
    assert!(outcome.requests[0].ended > Stamp::ORIGIN + 5 * SECOND);
}

#[test]
fn those_who_wait_for_a_refused_request_go_on() {
    let requests = vec![
        request(at(0), &[], 160, 5),
        request(Start::After { request: 0, think: SECOND }, &[], 160, 5),
    ];
    let outcome = Scene::new(requests, 1).event(0, 0, Change::Leave).run(1);
    assert_eq!(fates(&outcome), vec![Fate::Rejected(ErrorCode::ServiceUnavailable); 2]);
    assert_eq!(outcome.requests[1].arrived, Stamp::ORIGIN + SECOND);
}

#[test]
fn adapters_are_loaded_and_shown() {
    let with_adapter = |n: u64| TraceRequest {
        lora: Some(format!("adapter-{}", n % 2).into()),
        ..request(at(n * 300), &[], 320, 10)
    };
    let scene = Scene::new((0..60).map(with_adapter).collect(), 2).scorer("lora-affinity-scorer");
    // Requests come one by one, so nothing runs when one is decided; loading takes a tenth of a second.
    let scene = scene.profile(|profile| profile.lora_load_us = 100_000.0);
    let outcome = scene.run(1);
    assert!(fates(&outcome).iter().all(|fate| *fate == Fate::Served));
    let cold = outcome.requests[0].ttft().unwrap();
    let warm = outcome.requests.iter().filter_map(RequestOutcome::ttft).min().unwrap();
    assert!(cold > warm + Duration::from_millis(90), "{cold:?} {warm:?}");
}

#[test]
fn a_batch_shed_by_priority_is_rejected_by_the_router() {
    let crowd: Vec<_> = alone(200, 5, 3_200, 200)
        .into_iter()
        .map(|request| TraceRequest { priority: -1, ..request })
        .collect();
    let outcome = Scene::new(crowd, 1).profile(|profile| profile.max_num_seqs = 2).run(1);
    let shed = Fate::Rejected(ErrorCode::ResourceExhausted);
    assert!(fates(&outcome).contains(&shed), "{:?}", fates(&outcome));
}

/// Each reason with its kind, number of requests and tokens.
fn reasons(scene: &Scene) -> Vec<String> {
    let outcome = scene.run(1);
    let shown = |one: &NotServed| {
        let kind = one.kind.as_deref().unwrap_or("-");
        let tokens = one.tokens.map_or_else(String::new, |tokens| {
            format!(" {} of {}", tokens.needed_tokens, tokens.available_tokens)
        });
        format!("{} {} {kind}{tokens}", one.n_requests, one.cause.label())
    };
    let reasons = NotServed::of(&scene.setup.trace, &scene.setup.pool, &outcome);
    let n_served = fates(&outcome).iter().filter(|fate| **fate == Fate::Served).count();
    let n_told: usize = reasons.iter().map(|one| one.n_requests).sum();
    assert_eq!(n_served + n_told, outcome.requests.len(), "each request once");
    reasons.iter().map(shown).collect()
}

#[test]
fn what_was_not_served_has_its_reason() {
    let check = |scene: Scene, expected: &[&str]| assert_eq!(reasons(&scene), expected);
    let lengths = || vec![request(at(0), &[], 800, 33), request(at(900), &[], 320, 9)];
    check(Scene::new(lengths(), 1), &[]);
    // A capacity of 16 tokens is one block.
    let small = |profile: &mut Profile| profile.kv_cache_size = 1;
    check(Scene::new(lengths(), 1).profile(small), &["2 cache_too_small server 336 of 16"]);
    let short = |profile: &mut Profile| profile.max_model_len = 500;
    check(Scene::new(lengths(), 1).profile(short), &["1 prompt_too_long server 800 of 500"]);
    let with_adapter =
        lengths().into_iter().map(|one| TraceRequest { lora: Some("a".into()), ..one });
    let none = |profile: &mut Profile| profile.max_loras = 0;
    let scene = Scene::new(with_adapter.collect(), 1).profile(none);
    check(scene, &["2 no_adapter_slots server"]);
    let scene = Scene::new(alone(12, 1, 160, 50), 1).profile(|profile| {
        profile.max_num_seqs = 1;
        profile.max_waiting_queue_length = 3;
    });
    check(scene, &["8 queues_full -"]);
    let restart = Change::Restart { down: 5 * SECOND };
    let scene = Scene::new(vec![request(at(0), &[], 160, 1_000)], 1);
    check(scene.event(1_000, 0, restart), &["1 broken -"]);
    let scene = Scene::new(vec![request(at(0), &[], 16_000, 5)], 1);
    check(scene.event(100, 0, restart), &["1 no_server_left -"]);
    let scene = Scene::new(vec![request(at(2_000), &[], 160, 5)], 1);
    check(scene.event(1_000, 0, restart), &["1 nobody_listens -"]);
    let scene = Scene::new(vec![request(at(2_000), &[], 160, 5)], 1);
    check(scene.event(1_000, 0, Change::Leave), &["1 rejected-no-endpoints -"]);
    let crowd = alone(200, 5, 3_200, 200).into_iter();
    let crowd = crowd.map(|request| TraceRequest { priority: -1, ..request }).collect();
    let shed = reasons(&Scene::new(crowd, 1).profile(|profile| profile.max_num_seqs = 2));
    assert!(shed[0].ends_with(" rejected-saturated -"), "{shed:?}");
    let unfinished = stuck(alone(3, 1_000, 320, 2));
    check(unfinished, &["3 unfinished -"]);
}

#[test]
fn kinds_differ() {
    let kind = |name: &str, time_factor| ServerKind {
        name: name.into(),
        kind: name.into(),
        labels: Labels::from([("speed".to_owned(), name.to_owned())]),
        profile: Profile { time_factor, ..Profile::default() },
    };
    let scene = Scene::new(alone(40, 1_000, 320, 2), 0)
        .pool(|pool| pool.servers = vec![kind("fast", 0.5), kind("slow", 5.0)]);
    let outcome = scene.run(1);
    assert_eq!(outcome.servers, [Arc::from("fast"), Arc::from("slow")]);
    let fastest = |server| {
        let of = outcome.requests.iter().filter(|request| request.server == Some(server));
        of.filter_map(RequestOutcome::ttft).min().unwrap()
    };
    let ratio = fastest(1).as_secs_f64() / fastest(0).as_secs_f64();
    assert!((9.0..11.0).contains(&ratio), "{ratio}");
}

/// Servers that need days for a prompt.
fn stuck(requests: Vec<TraceRequest>) -> Scene {
    let scene = Scene::new(requests, 2).profile(|profile| profile.prefill_token_us = 1e9);
    scene.pool(|pool| pool.scrape.interval = Some(Duration::from_mins(10)))
}

#[test]
fn a_run_that_would_not_end_is_stopped_and_what_is_left_is_counted() {
    let mut requests = alone(3, 1_000, 320, 2);
    requests.push(request(Start::After { request: 2, think: SECOND }, &[], 16, 2));
    let scene = stuck(requests);
    let progress = Progress::default();
    let outcome = play(&scene.setup, 1, &progress).unwrap();
    assert_eq!(fates(&outcome), [Fate::Unfinished; 4]);
    let last = Stamp::from_nanos(2_000_000_000) + SECOND;
    assert_eq!(outcome.ended, last + MAX_DRAIN);
    assert_eq!((progress.n_ended(), progress.share()), (4, 1.0));
    assert!(progress.passed() + Duration::from_mins(10) > MAX_DRAIN, "{progress:?}");
    let arrived: Vec<_> = outcome.requests.iter().map(RequestOutcome::has_arrived).collect();
    assert_eq!(arrived, [true, true, true, false]);
    let summary = Summary::of(&outcome, Goals::default());
    assert_eq!((summary.n_unfinished(), summary.served_share(), summary.goodput), (4, 0.0, 0.0));
    let in_flight: f32 =
        summary.course.in_flight.iter().filter_map(|row| row.iter().rev().nth(1)).sum();
    assert!((in_flight - 3.0).abs() < 0.1, "servers are busy to the end: {in_flight}");
}

#[test]
fn servers_may_take_as_long_again_as_the_trace_is() {
    let mut requests = alone(1, 0, 160, 2);
    requests.push(request(at(48 * 3_600_000), &[], 16, 2));
    // Sixty hours for the first one, six for the second.
    let scene = stuck(requests).profile(|profile| profile.time_factor = 1.35);
    assert_eq!(fates(&scene.run(1)), [Fate::Served, Fate::Served]);
}

#[test]
fn a_run_of_years_is_refused() {
    let check = |scene: &Scene, said: &str| {
        let error = play(&scene.setup, 1, &Progress::default()).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(
            error.contains(said) && error.contains("--limit"),
            "{said:?} is missing in {error}"
        );
    };
    let mut scene = Scene::new(alone(3, 1_000, 16, 1), 1);
    scene.setup.options.speed = 1e-9;
    check(&scene, "at load 0.000000001 the last request arrives after 23149 days and 31 days is");
    scene.setup.options.speed = f64::MIN_POSITIVE;
    check(&scene, "after 213504 days");
    let mut scene = Scene::new(alone(3, 1_000, 16, 1), 1);
    scene.setup.options.jitter = Duration::from_hours(31 * 24);
    check(&scene, "after 32 days");
    let year = Duration::from_hours(366 * 24);
    let mut requests = alone(1, 0, 16, 1);
    requests.push(request(Start::After { request: 0, think: year }, &[], 16, 1));
    check(&Scene::new(requests, 1), "after 366 days");
}

#[test]
fn what_cannot_run_says_why() {
    let fails = |scene: Scene, said: &str| {
        let error = play(&scene.setup, 1, &Progress::default()).err();
        let error = error.map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(said), "{said:?} is missing in {error:?}");
    };
    let mut scene = Scene::new(alone(1, 0, 16, 1), 1);
    scene.setup.configuration =
        Configuration { name: "my.yaml".to_owned(), text: Some("kind: Nonsense".to_owned()) };
    fails(scene, "my.yaml:1:7");
    let mut scene = Scene::new(alone(1, 0, 16, 1), 1);
    scene.setup.options.speed = 0.0;
    fails(scene, "a load factor must be above zero, not 0");
    let forward = request(Start::After { request: 0, think: SECOND }, &[], 1, 1);
    fails(Scene::new(vec![forward], 1), "request 0 waits for request 0");
    let huge = Scene::new(alone(1, 0, 16, 1), 1).profile(|profile| {
        profile.kv_cache_size = 1 << 22;
        profile.block_size = 1 << 12;
    });
    fails(huge, "server server-0 cannot run: `kv-cache-size`");
}

const SLOW: DataKey<Column<f64>> = DataKey::new("Slow", "slow-producer");
const SLOW_PRODUCER: PluginDef =
    PluginDef::new::<NoParams>("slow-producer", &[Role::DataProducer], file!(), |cx| {
        Ok(Instance::new().producer(Arc::new(Slow { write: cx.writes(&SLOW) })))
    });
const SLOW_READER: PluginDef =
    PluginDef::new::<NoParams>("slow-reader", &[Role::Scorer], file!(), |cx| {
        Ok(Instance::new().scorer(Arc::new(SlowReader(cx.reads(&SLOW, "")))))
    });

/// Prefers the last endpoint, after 10 ms and for some requests a little more. A prompt of 7 tokens it never
/// comes to an end with.
struct Slow {
    write: Write<Column<f64>>,
}

impl DataProducer for Slow {
    fn produce<'a>(&'a self, cx: &RequestCx<'a>) -> Produced<'a> {
        let column: Column<f64> =
            cx.candidates.positions().map(|p| f64::from(p.0) / 10.0).collect();
        let mut time = Duration::from_millis(10 + cx.request.id % 3);
        if matches!(&cx.request.parsed.prompts, PromptInput::Blocks(blocks) if blocks.n_tokens == 7)
        {
            time = Duration::from_hours(24 * 365);
        }
        Produced::Later(Box::pin(async move {
            tokio::time::sleep(time).await;
            Ok(Outputs::of(&self.write, column))
        }))
    }

    fn deadline(&self) -> Duration {
        Duration::from_hours(24 * 366)
    }
}

struct SlowReader(Read<Column<f64>>);

impl Scorer for SlowReader {
    fn score(&self, cx: &RequestCx<'_>, positions: &[Position], out: &mut [f64]) {
        for (out, position) in out.iter_mut().zip(positions) {
            *out = cx.column(&self.0, *position).copied().unwrap_or(f64::NAN);
        }
    }
}

fn with_slow_decisions(requests: Vec<TraceRequest>) -> Scene {
    let mut scene = Scene::new(requests, 3).scorer("slow-reader");
    scene.setup.registry.add(SLOW_PRODUCER);
    scene.setup.registry.add(SLOW_READER);
    scene
}

#[test]
fn decisions_that_take_time_overlap_and_everything_else_goes_on() {
    let scene = with_slow_decisions(alone(60, 4, 16, 3));
    let outcome = scene.run(1);
    assert_eq!(outcome, scene.run(1));
    assert_eq!(n_on(&outcome, 2), 60, "what was produced late decides");
    let ttfts: Vec<_> = outcome.requests.iter().filter_map(RequestOutcome::ttft).collect();
    let (least, most) = (ttfts.iter().min().unwrap(), ttfts.iter().max().unwrap());
    // A step of the engine takes 8 to 9 ms, and a request may wait for the one under way.
    let millis = Duration::from_millis;
    assert!(*least >= millis(18) && *most < millis(32), "{least:?} {most:?}");
    let arrivals: Vec<_> = outcome.requests.iter().map(|r| r.arrived.as_nanos()).collect();
    assert!(
        arrivals.iter().enumerate().all(|(n, at)| *at == n as u64 * 4_000_000),
        "to the nanosecond"
    );
}

#[test]
fn a_decision_that_never_comes_does_not_hold_up_the_rest_for_ever() {
    let mut requests = alone(3, 1_000, 16, 2);
    requests.insert(0, request(at(0), &[], 7, 2));
    // Waits for the one above.
    requests.push(request(Start::After { request: 0, think: SECOND }, &[], 16, 2));
    // Comes long after patience would have ended.
    requests.push(request(at(3 * 3_600_000), &[], 16, 2));
    let scene = with_slow_decisions(requests);
    let outcome = play(&scene.setup, 1, &Progress::default()).unwrap();
    let expected =
        [Fate::Undecided, Fate::Served, Fate::Served, Fate::Served, Fate::Unfinished, Fate::Served];
    assert_eq!(fates(&outcome), expected);
}

#[test]
fn a_choice_is_judged_by_what_was_true_of_all_servers() {
    use Choice::{AlikeBusier, AlikeLeastLoaded, Both, LeastLoaded, LongestPrefix, Only};
    let ids: Vec<u64> = (0..40).collect();
    let long = |start| request(start, &ids, 650, 400);
    let check = |scorer, n_servers, starts: &[u64], expected: &[Choice]| {
        let requests = starts.iter().map(|&start| long(at(start))).collect();
        let outcome = Scene::new(requests, n_servers).scorer(scorer).run(1);
        let choices: Vec<_> = outcome.requests.iter().filter_map(|r| r.choice).collect();
        assert_eq!(choices, expected, "{scorer}");
    };
    // An answer takes three seconds and a bit.
    check("prefix-cache-scorer", 2, &[0, 10_000, 10_100], &[AlikeLeastLoaded, Both, LongestPrefix]);
    // What is being computed counts.
    check("prefix-cache-scorer", 2, &[0, 0], &[AlikeLeastLoaded, LongestPrefix]);
    check("active-request-scorer", 2, &[0, 1_000], &[AlikeLeastLoaded, LeastLoaded]);
    check("prefix-cache-scorer", 1, &[0, 1_000], &[Only, Only]);
    // Once both servers have it, the prefix is no reason any more.
    let alike = [AlikeLeastLoaded, LeastLoaded, AlikeLeastLoaded];
    check("active-request-scorer", 2, &[0, 1_000, 10_000], &alike);
    // Nothing tells these apart, so they are spread by chance.
    let outcome = Scene::new(alone(30, 0, 160, 100), 4).scorer("prefix-cache-scorer").run(1);
    let choices: BTreeSet<_> = outcome.requests.iter().filter_map(|r| r.choice).collect();
    assert_eq!(choices.into_iter().collect::<Vec<_>>(), [AlikeLeastLoaded, AlikeBusier]);
}

impl Scene {
    fn flow_control(mut self, more: &str) -> Self {
        let several = ONE_AT_A_TIME.replace("maxConcurrency: 1", "maxConcurrency: 4");
        let text = Some(format!("{several}{more}"));
        self.setup.configuration = Configuration { name: "flow control".to_owned(), text };
        self.setup.options.allow_experimental = true;
        self
    }
}

/// Requests that two servers need twice the time for that they come in, every third of them important, every
/// third sheddable.
fn overload() -> Vec<TraceRequest> {
    let priority = |n: usize| [100, 0, -10][n % 3];
    alone(600, 50, 1_600, 100)
        .into_iter()
        .enumerate()
        .map(|(n, request)| TraceRequest { priority: priority(n), ..request })
        .collect()
}

#[test]
fn under_overload_the_important_keep_their_time_and_the_sheddable_absorb_the_loss() {
    let more = "  priorityBands:\n  - {priority: -10, maxRequests: 5}\n";
    let scene = Scene::new(overload(), 2).flow_control(more);
    let outcome = scene.run(1);
    assert_eq!(outcome, scene.run(1), "one seed, one course");
    let of = |priority: i32| {
        let requests = scene.setup.trace.requests.iter().zip(&outcome.requests);
        requests.filter(move |(request, _)| request.priority == priority).map(|(_, end)| end)
    };
    let mean_ttft = |priority| {
        let times: Vec<_> = of(priority).filter_map(RequestOutcome::ttft).collect();
        times.iter().sum::<Duration>() / times.len() as u32
    };
    for priority in [100, 0] {
        assert!(of(priority).all(|end| end.fate == Fate::Served), "{priority}");
    }
    assert!(mean_ttft(100) < 2 * mean_ttft(0), "{:?} {:?}", mean_ttft(100), mean_ttft(0));
    let n_served = of(-10).filter(|end| end.fate == Fate::Served).count();
    let n_shed =
        of(-10).filter(|end| end.fate == Fate::Rejected(ErrorCode::ResourceExhausted)).count();
    assert!(n_shed > 20 && n_served + n_shed == 200, "{n_served} {n_shed}");
    let meanwhile = Stamp::ORIGIN + 10 * SECOND..Stamp::ORIGIN + 30 * SECOND;
    let n_sent = of(-10).filter(|end| end.sent.is_some_and(|at| meanwhile.contains(&at))).count();
    assert!(n_sent > 0, "the lowest band never stops");
}

#[test]
fn the_sheddable_make_room_where_eviction_is_on() {
    let mut requests = alone(10, 1, 1_600, 2_000);
    requests.iter_mut().take(8).for_each(|request| request.priority = -1);
    let scene = Scene::new(requests, 2).flow_control("  enableEviction: true\n");
    let outcome = scene.run(1);
    let evicted = Fate::Rejected(ErrorCode::ResourceExhausted);
    let n_evicted = outcome.requests.iter().filter(|end| end.fate == evicted).count();
    assert_eq!(n_evicted, 2, "{:?}", fates(&outcome));
    let [.., first, second] = &outcome.requests[..] else { panic!() };
    for important in [first, second] {
        assert_eq!(important.fate, Fate::Served);
        assert!(important.ttft().is_some_and(|ttft| ttft < 2 * SECOND), "{important:?}");
    }
}

#[test]
fn an_empty_pool_is_waited_for_in_virtual_time() {
    let scene = Scene::new(alone(20, 10, 1_600, 10), 1)
        .flow_control("  noEndpointRequestTTL: 90s\n")
        .event(0, 0, Change::Leave)
        .event(40_000, 0, Change::Join);
    let outcome = scene.run(1);
    assert!(fates(&outcome).iter().all(|fate| *fate == Fate::Served), "{:?}", fates(&outcome));
    assert!(outcome.requests.iter().all(|end| end.ttft().is_some_and(|t| t > 39 * SECOND)));
}
