use std::sync::Arc;

use router_core::Stamp;
use router_framework::Registry;
use router_rt::Rng;

use super::*;
use crate::replay::{
    outcome::Outcome,
    policy,
    pool::{Pool, ServerKind},
    run::{self, Configuration, Options as RunOptions, Setup},
    trace::{Observed, Start, TraceRequest},
    workload::{self, Spec, Volume},
};

/// What the servers of a recording are, and what is asked of them.
struct Scene {
    workload: &'static str,
    policy: &'static str,
    rate: f64,
    seconds: u64,
    /// Names and profiles.
    servers: Vec<(&'static str, Profile)>,
}

/// Two kinds that are far from the default: one prefills at half the speed, decodes at two thirds and has 40 %
/// of the cache; the other is a third faster and has half of the cache.
fn slow() -> Profile {
    Profile {
        step_base_us: 11_250.0,
        decode_seq_us: 22.5,
        decode_context_token_us: 0.0645,
        prefill_token_us: 120.0,
        prefill_context_token_us: 0.0026,
        kv_cache_size: 10_000,
        ..Profile::default()
    }
}

fn fast() -> Profile {
    Profile { time_factor: 0.75, kv_cache_size: 20_000, ..Profile::default() }
}

impl Scene {
    /// What `serve --record` would have written.
    fn record(&self) -> Trace {
        let spec = Spec {
            seed: 3,
            duration: Duration::from_secs(self.seconds),
            volume: Volume::Rate(self.rate),
            ..Spec::default()
        };
        let trace = workload::generate(self.workload, &spec).unwrap();
        let server = |(name, profile): &(&'static str, Profile)| ServerKind {
            name: (*name).into(),
            kind: (*name).into(),
            labels: Default::default(),
            profile: profile.clone(),
        };
        let servers = self.servers.iter().map(server).collect();
        let setup = Setup {
            trace: Arc::new(trace.clone()),
            pool: Arc::new(Pool { servers, ..Pool::uniform(0) }),
            configuration: Configuration {
                name: self.policy.to_owned(),
                text: policy::preset(self.policy).map(|preset| preset.document.to_owned()),
            },
            registry: Registry::new(router_plugins::PLUGINS.iter().chain(policy::PLUGINS).copied()),
            options: RunOptions { jitter: Duration::ZERO, ..RunOptions::default() },
        };
        let outcome = run::play(&setup, 1, &run::Progress::default()).unwrap();
        observed(trace, &outcome)
    }
}

/// A trace with what became of its requests.
fn observed(mut trace: Trace, outcome: &Outcome) -> Trace {
    for (request, seen) in trace.requests.iter_mut().zip(&outcome.requests) {
        let Some(server) = seen.server else { continue };
        request.observed = Some(Box::new(Observed {
            endpoint: Arc::clone(&outcome.servers[server as usize]),
            dispatched: None,
            ttft: seen.ttft(),
            e2e: seen.ended.since(seen.arrived),
            prompt_tokens: None,
            cached_tokens: Some(seen.cached_tokens),
            status: if seen.ttft().is_some() { 200 } else { 503 },
        }));
    }
    trace
}

/// Log-normal noise of so much on both parts of a time, and now and then a request that was held up.
fn noisy(mut trace: Trace, deviation: f64, outliers: f64) -> Trace {
    let mut rng = Rng::seeded(5);
    for seen in trace.requests.iter_mut().filter_map(|request| request.observed.as_mut()) {
        let mut factor = || {
            let normal = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
            let held_up = if rng.chance(outliers) { 5.0 } else { 1.0 };
            (deviation * normal).exp() * held_up
        };
        let Some(ttft) = seen.ttft else { continue };
        let after = seen.e2e.saturating_sub(ttft).mul_f64(factor());
        let ttft = ttft.mul_f64(factor());
        (seen.ttft, seen.e2e) = (Some(ttft), ttft + after);
    }
    trace
}

fn fitted(trace: &Trace) -> Fit {
    let fit = fit(trace, Options::default(), &Progress::default()).unwrap();
    println!("{}{:?}", to_yaml(&fit), fit.overall);
    fit
}

fn chats() -> Trace {
    Scene {
        workload: "sessions",
        policy: "go-default",
        rate: 3.0,
        seconds: 240,
        servers: vec![
            ("a", small(slow(), 2_500)),
            ("b", small(fast(), 6_000)),
            ("c", small(slow(), 2_500)),
            ("d", small(fast(), 6_000)),
        ],
    }
    .record()
}

/// With a cache that the record fills, and chunks of its own.
fn small(profile: Profile, kv_cache_size: u32) -> Profile {
    Profile { kv_cache_size, max_num_batched_tokens: 2048, ..profile }
}

fn names(fit: &Fit) -> Vec<Vec<&str>> {
    fit.kinds.iter().map(|kind| kind.endpoints.iter().map(|name| &**name).collect()).collect()
}

#[track_caller]
fn near(what: &str, value: f64, truth: f64, tolerance: f64) {
    let off = value / truth - 1.0;
    assert!(off.abs() <= tolerance, "{what} is {value}, not {truth}: {:.1} %", 100.0 * off);
}

/// Costs are compared where they were seen: a step with some sequences, and a prompt of some length. How a step
/// is made up of its parts is known less well.
#[track_caller]
fn check_kind(fitted: &Kind, truth: &Profile, tolerance: f64) {
    let step = |profile: &Profile| {
        let per_seq = profile.decode_seq_us + 2_500.0 * profile.decode_context_token_us;
        (profile.step_base_us + 4.0 * per_seq) * profile.time_factor
    };
    let prompt = |profile: &Profile| {
        let pairs = 1_500.0 * (1_500.0 + 1_499.0 / 2.0) * profile.prefill_context_token_us;
        let tokens = 1_500.0 * profile.prefill_token_us;
        (profile.step_base_us + profile.prefill_base_us + tokens + pairs) * profile.time_factor
    };
    let tokens =
        |profile: &Profile| f64::from(profile.kv_cache_size) * f64::from(profile.block_size);
    let profile = &fitted.profile;
    near("step-base-us", profile.step_base_us, truth.step_base_us * truth.time_factor, tolerance);
    near("a step", step(profile), step(truth), tolerance);
    near("a prompt", prompt(profile), prompt(truth), tolerance);
    near("the cache", tokens(profile), tokens(truth), tolerance);
}

#[test]
fn two_kinds_are_told_apart_and_come_back() {
    let fit = fitted(&chats());
    assert_eq!(names(&fit), [["a", "c"], ["b", "d"]]);
    for (kind, truth) in fit.kinds.iter().zip([small(slow(), 2_500), small(fast(), 6_000)]) {
        check_kind(kind, &truth, 0.05);
        let factor = truth.time_factor;
        let Profile { prefill_token_us, decode_context_token_us, .. } = kind.profile;
        near("a token", prefill_token_us, truth.prefill_token_us * factor, 0.05);
        let truth_us = truth.decode_context_token_us * factor;
        near("a token of context", decode_context_token_us, truth_us, 0.1);
    }
    let Judgement { ttft, e2e, .. } = fit.overall;
    assert!(ttft.median < 0.1 && e2e.median < 0.03 && e2e.r2 > 0.95, "{ttft:?} {e2e:?}");
    assert_eq!(fit.overall.faults(), []);
}

/// Requests come earlier and wait in the router for up to a second, so that their servers get them when they did.
fn waiting(mut trace: Trace) -> Trace {
    let mut rng = Rng::seeded(7);
    for request in &mut trace.requests {
        let Some(seen) = request.observed.as_mut() else { continue };
        let most = Duration::from_secs_f64(rng.f64());
        let waited = match &mut request.start {
            Start::At(at) => {
                let waited = most.min(at.since(Stamp::ORIGIN));
                *at = Stamp::ORIGIN + at.since(Stamp::ORIGIN).saturating_sub(waited);
                waited
            }
            Start::After { think, .. } => {
                let waited = most.min(*think);
                *think -= waited;
                waited
            }
        };
        seen.dispatched = Some(waited);
        seen.ttft = seen.ttft.map(|ttft| ttft + waited);
        seen.e2e += waited;
    }
    trace
}

#[test]
fn waits_in_the_router_are_no_time_of_servers() {
    let plain = chats();
    let fit = |trace: &Trace| fit(trace, Options::default(), &Progress::default()).unwrap();
    let (plain, waited) = (fit(&plain), fit(&waiting(plain.clone())));
    assert!(waited.waits.median > Duration::from_millis(300) && waited.waits.n_unknown == 0);
    assert!(plain.waits.n_unknown > 0 && plain.waits.most == Duration::ZERO);
    assert_eq!(Fit { waits: plain.waits, ..waited }, plain);
}

#[test]
fn noise_and_outliers_move_little() {
    let fit = fitted(&noisy(chats(), 0.1, 0.03));
    assert_eq!(names(&fit), [["a", "c"], ["b", "d"]]);
    for (kind, truth) in fit.kinds.iter().zip([small(slow(), 2_500), small(fast(), 6_000)]) {
        check_kind(kind, &truth, 0.2);
    }
    assert_eq!(fit.overall.faults(), []);
}

/// Two servers of which one is half as fast, and each has every other request whatever it has to do.
fn one_at_half_speed() -> (Trace, [Profile; 2]) {
    let truth = [1.0, 2.0].map(|time_factor| Profile { time_factor, ..Profile::default() });
    let scene = Scene {
        workload: "shared-prompts",
        policy: "round-robin",
        rate: 3.0,
        seconds: 100,
        servers: vec![("a", truth[0].clone()), ("b", truth[1].clone())],
    };
    (scene.record(), truth)
}

#[track_caller]
fn check_speeds(fit: &Fit, truth: &[Profile]) {
    assert_eq!(names(fit), [["a"], ["b"]]);
    for (kind, truth) in fit.kinds.iter().zip(truth) {
        let step = truth.step_base_us * truth.time_factor;
        near("step-base-us", kind.profile.step_base_us, step, 0.1);
    }
    assert_eq!(fit.faults(), []);
}

#[test]
fn endpoints_that_one_profile_does_not_fit_are_two_kinds() {
    let (trace, truth) = one_at_half_speed();
    check_speeds(&fitted(&trace), &truth);
}

#[test]
fn answers_that_were_not_streamed_spoil_little() {
    let (mut trace, truth) = one_at_half_speed();
    let observed = trace.requests.iter_mut().filter_map(|request| request.observed.as_mut());
    observed.skip(1).step_by(3).for_each(|seen| seen.ttft = None);
    let fit = fitted(&trace);
    check_speeds(&fit, &truth);
    assert!(fit.left_out.no_first_token > 80, "{:?}", fit.left_out);
}

#[test]
fn a_batch_that_is_full_is_seen() {
    let profile = Profile { max_num_seqs: 12, ..small(slow(), 8_000) };
    let scene = Scene {
        workload: "shared-prompts",
        policy: "go-default",
        rate: 3.0,
        seconds: 120,
        servers: vec![("a", profile.clone()), ("b", profile.clone())],
    };
    let fit = fitted(&scene.record());
    let [kind] = &fit.kinds[..] else { panic!("{:?}", names(&fit)) };
    check_kind(kind, &profile, 0.1);
    assert!((11..=13).contains(&kind.profile.max_num_seqs), "{}", kind.profile.max_num_seqs);
    assert_eq!(fit.overall.faults(), []);
}

#[test]
fn one_record_gives_one_fit_which_a_pool_file_keeps() {
    let scene = Scene {
        workload: "shared-prompts",
        policy: "go-default",
        rate: 5.0,
        seconds: 50,
        servers: vec![("ns/a:80", fast()), ("ns/b:80", fast())],
    };
    let mut trace = scene.record();
    // As from servers that do not say what they had cached.
    for seen in trace.requests.iter_mut().filter_map(|request| request.observed.as_mut()) {
        seen.cached_tokens = None;
    }
    let options = Options { per_endpoint: true };
    let progress = Progress::default();
    let fit = fit(&trace, options, &progress).unwrap();
    assert_eq!(Ok(&fit), super::fit(&trace, options, &Progress::default()).as_ref());
    let (played, planned) = (progress.n_played.into_inner(), progress.n_planned.into_inner());
    assert!(played > planned / 10 && played <= planned, "{played} of {planned}");
    assert_eq!(names(&fit), [["ns/a:80"], ["ns/b:80"]]);
    let text = to_yaml(&fit);
    let pool =
        Pool::parse("fitted.yaml", text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let told: Vec<_> = pool.servers.iter().map(|server| &*server.name).collect();
    assert_eq!(told, ["1.ns-a-80-0", "2.ns-b-80-0"]);
    for (server, kind) in pool.servers.iter().zip(&fit.kinds) {
        assert_eq!(server.profile, kind.profile, "{text}");
    }
}

fn request(at_ms: u64, observed: Observed) -> TraceRequest {
    TraceRequest {
        start: Start::At(Stamp::from_nanos(at_ms * 1_000_000)),
        chain: [].into(),
        prompt_tokens: 100,
        output_tokens: 20,
        tenant: None,
        priority: 0,
        lora: None,
        streams: true,
        max_output_tokens: None,
        n_sequences: 1,
        observed: Some(Box::new(observed)),
    }
}

fn seen(endpoint: &str, ttft_ms: u64, e2e_ms: u64) -> Observed {
    Observed {
        endpoint: endpoint.into(),
        dispatched: None,
        ttft: Some(Duration::from_millis(ttft_ms)),
        e2e: Duration::from_millis(e2e_ms),
        prompt_tokens: None,
        cached_tokens: None,
        status: 200,
    }
}

#[test]
fn what_cannot_be_fitted_says_why() {
    let check = |requests: Vec<TraceRequest>, per_endpoint, said: &str| {
        let trace = Trace { block_tokens: 16, requests };
        let error = fit(&trace, Options { per_endpoint }, &Progress::default()).unwrap_err();
        assert!(error.to_string().contains(said), "{said:?} is missing in {error}");
    };
    let many = |n: u64, one: &dyn Fn(u64) -> Observed| -> Vec<TraceRequest> {
        (0..n).map(|nth| request(nth * 100, one(nth))).collect()
    };
    let plain = |_| seen("a", 50, 300);
    check(vec![], false, "none of the 0 requests says what became of it");
    check(
        many(100, &plain),
        false,
        "67 of 100 requests can be fitted to and 100 are needed: those that were answered in the first 70 % of the \
         record's time, one prompt and one answer each, so about 150 in all",
    );
    let failed = |_| Observed { status: 500, ..seen("a", 50, 300) };
    check(many(400, &failed), false, "0 of 400 requests");
    let whole = |_| Observed { ttft: None, ..seen("a", 0, 300) };
    check(many(400, &whole), false, "record streamed answers");
    let rare = |nth| seen(if nth % 50 == 0 { "rare" } else { "a" }, 50, 300);
    let said =
        "endpoint rare answered 6 requests in the first 70 % of the record's time and 40 are";
    check(many(400, &rare), true, said);
    let everywhere = |nth: u64| seen(&format!("endpoint {nth}"), 50, 300);
    check(many(600, &everywhere), false, "the record has 600 endpoints");
    check(vec![request(0, seen("a", 1, 2))], false, "0 of 1 requests");
    let fit = fit(
        &Trace { block_tokens: 16, requests: many(400, &rare) },
        Options::default(),
        &Progress::default(),
    );
    assert_eq!(names(&fit.unwrap()), [["a", "rare"]], "too few to be told apart");
}

#[test]
fn nonsense_comes_to_an_end() {
    let mut rng = Rng::seeded(11);
    for round in 0..4 {
        let mut draw = |most: u64| match rng.below(4) {
            0 => 0,
            1 => most,
            _ => rng.range(0..=most),
        };
        let requests = (0..160_u64)
            .map(|nth| {
                let e2e =
                    Duration::from_nanos(draw(if round % 2 == 0 { 1 << 40 } else { 1 << 54 }));
                let prompt_tokens = draw(1 << 13) as u32;
                let observed = Observed {
                    endpoint: ["a", "b", "c"][draw(2) as usize].into(),
                    dispatched: (draw(1) == 0).then(|| Duration::from_nanos(draw(1 << 41))),
                    ttft: (draw(3) > 0).then(|| e2e.min(Duration::from_nanos(draw(1 << 34)))),
                    e2e,
                    prompt_tokens: (draw(1) == 0).then(|| draw(1 << 13) as u32),
                    cached_tokens: (draw(1) == 0).then(|| draw(1 << 13) as u32),
                    status: 200,
                };
                let chain: Vec<u64> = (0..draw(20)).map(|_| draw(8)).collect();
                TraceRequest {
                    chain: chain.into(),
                    prompt_tokens,
                    output_tokens: draw(1 << 10) as u32 * u32::from(round != 2),
                    lora: (draw(3) == 0).then(|| ["x", "y"][draw(1) as usize].into()),
                    ..request(nth * draw(1 << 10), observed)
                }
            })
            .collect();
        let mut trace = Trace { block_tokens: 16, requests };
        trace.requests.sort_by_key(|request| match request.start {
            Start::At(at) => at,
            Start::After { .. } => Stamp::NEVER,
        });
        match fit(&trace, Options::default(), &Progress::default()) {
            Ok(fit) => {
                let text = to_yaml(&fit);
                Pool::parse("x", text.as_bytes()).unwrap_or_else(|e| panic!("{e}\n{text}"));
            }
            Err(error) => println!("{error}"),
        }
    }
}
