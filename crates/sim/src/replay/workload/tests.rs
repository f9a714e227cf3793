use std::collections::{BTreeMap, BTreeSet};

use router_core::Stamp;

use super::*;
use crate::replay::trace::{Start, TraceRequest};

const SERVERS: u32 = 8;

fn spec(seed: u64, load: f64, seconds: u64) -> Spec {
    Spec {
        seed,
        duration: Duration::from_secs(seconds),
        volume: Volume::Load { load, n_servers: SERVERS },
        ..Spec::default()
    }
}

fn trace(name: &str, seed: u64, load: f64, seconds: u64) -> Trace {
    generate(name, &spec(seed, load, seconds)).unwrap()
}

fn at_s(request: &TraceRequest) -> Option<f64> {
    match request.start {
        Start::At(at) => Some(at.as_secs_f64()),
        Start::After { .. } => None,
    }
}

/// Requests that begin a conversation.
fn firsts(trace: &Trace) -> impl Iterator<Item = &TraceRequest> {
    trace.requests.iter().filter(|request| at_s(request).is_some())
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, n) = values.fold((0.0, 0.0), |(sum, n), value| (sum + value, n + 1.0));
    sum / n
}

#[test]
fn a_limit_leaves_the_first_requests() {
    for workload in WORKLOADS {
        let (name, all) = (workload.name, trace(workload.name, 1, 0.5, 60));
        for max_requests in [0, 1, 77, all.requests.len() + 1] {
            let some = generate(name, &Spec { max_requests, ..spec(1, 0.5, 60) }).unwrap();
            let expected = &all.requests[..max_requests.min(all.requests.len())];
            assert_eq!(some.requests, expected, "{name}, {max_requests}");
        }
    }
}

#[test]
fn a_short_stretch_of_many_servers_is_no_long_trace() {
    for workload in WORKLOADS {
        let spec = |n_servers, seconds| {
            let volume = Volume::Load { load: 1.0, n_servers };
            Spec { volume, ..spec(1, 1.0, seconds) }
        };
        let n_requests = |n_servers, seconds| {
            let trace = generate(workload.name, &spec(n_servers, seconds)).unwrap();
            trace.requests.len() as f64
        };
        // Conversations that begin before are many times the requests of so short a time.
        let ratio = n_requests(1_000, 10) / n_requests(100, 10);
        assert!((5.0..20.0).contains(&ratio), "{}: {ratio}", workload.name);

        let (too_long, max_requests) = (spec(1_000_000, 100_000), 10);
        let error = generate(workload.name, &too_long).unwrap_err();
        assert!(matches!(error, WorkloadError::TooManyRequests { .. }), "{error}");
        let error = generate(workload.name, &Spec { max_requests, ..too_long }).unwrap_err();
        assert!(matches!(error, WorkloadError::TooManyConversations { .. }), "{error}");
    }
    let volume = Volume::Load { load: 1.0, n_servers: 1_000 };
    let long = Spec { volume, ..spec(1, 1.0, 3_000) };
    assert!(generate("sessions", &long).is_err());
    let limited = generate("sessions", &Spec { max_requests: 10, ..long });
    assert_eq!(limited.map(|trace| trace.requests.len()), Ok(10));
}

#[test]
fn every_workload_is_a_trace_that_can_be_played() {
    for workload in WORKLOADS {
        let name = workload.name;
        let trace = trace(name, 1, 0.5, 60);
        assert_eq!(trace.block_tokens, BLOCK_TOKENS, "{name}");
        assert!(trace.requests.len() > 50, "{name}: {}", trace.requests.len());
        let mut last = Stamp::ORIGIN;
        for (at, request) in trace.requests.iter().enumerate() {
            let n_tokens = request.prompt_tokens + request.output_tokens;
            assert!(n_tokens <= Profile::default().max_model_len, "{name}: {n_tokens}");
            assert_eq!(request.chain.len() as u32, n_tokens / BLOCK_TOKENS, "{name}");
            assert!(request.output_tokens > 0, "{name}");
            match request.start {
                Start::At(start) => {
                    assert!((last..Stamp::ORIGIN + Duration::from_mins(1)).contains(&start));
                    last = start;
                }
                Start::After { request: before, .. } => {
                    assert_eq!(before as usize + 1, at, "{name}");
                    let before = &trace.requests[before as usize];
                    let n_before = before.prompt_tokens + before.output_tokens;
                    assert!(request.prompt_tokens > n_before, "{name}: all of it is said again");
                    assert!(request.chain.starts_with(&before.chain), "{name}");
                }
            }
        }
    }
}

#[test]
fn a_seed_gives_one_trace_and_another_seed_another_one() {
    for workload in WORKLOADS {
        let name = workload.name;
        let (a, b) = (trace(name, 3, 0.4, 20), trace(name, 4, 0.4, 20));
        assert_eq!(a, trace(name, 3, 0.4, 20), "{name}");
        let starts = |trace: &Trace| firsts(trace).filter_map(at_s).collect::<Vec<_>>();
        assert_ne!(starts(&a), starts(&b), "{name}");
        // What is shared is the workload's, what is said the seed's.
        let lengths = |trace: &Trace| {
            trace.requests.iter().map(|request| request.output_tokens).collect::<Vec<_>>()
        };
        assert_ne!(lengths(&a), lengths(&b), "{name}");
    }
}

#[test]
fn a_load_is_a_share_of_what_the_servers_can_do() {
    for workload in WORKLOADS {
        let name = workload.name;
        // Contexts are short at first: a trace must be longer than its conversations to have its load.
        let seconds = if matches!(name, "sessions" | "agents" | "diurnal") { 900 } else { 240 };
        for wanted in [0.3, 0.7] {
            let volume = Volume::Load { load: wanted, n_servers: 4 };
            let trace = generate(name, &Spec { volume, ..spec(7, 1.0, seconds) }).unwrap();
            let work = work::of_trace(&trace, &Profile::default());
            let load = work.total_s() / 4.0 / seconds as f64;
            // Shared prompts are computed for the first time, and arrivals vary.
            let share = load / wanted;
            assert!((0.8..1.3).contains(&share), "{name}: {load} instead of {wanted}");
        }
    }
}

#[test]
fn work_is_there_from_the_first_second_to_the_last() {
    // Turns of a conversation have no time of their own; where they begin follows from what they wait for.
    for name in ["sessions", "agents"] {
        let trace = trace(name, 5, 0.8, 600);
        let mut starts_s: Vec<f64> = Vec::new();
        for request in &trace.requests {
            starts_s.push(match request.start {
                Start::At(at) => at.as_secs_f64(),
                Start::After { request: before, think } => {
                    let output = trace.requests[before as usize].output_tokens;
                    starts_s[before as usize]
                        + 0.5
                        + f64::from(output) * 0.025
                        + think.as_secs_f64()
                }
            });
        }
        let n_in =
            |from: f64| starts_s.iter().filter(|at| (from..from + 200.0).contains(*at)).count();
        let (first, middle, last) = (n_in(0.0), n_in(200.0), n_in(400.0));
        let is_even = |n: usize| n * 10 > middle * 8 && n * 10 < middle * 12;
        assert!(is_even(first) && is_even(last), "{name}: {first}, {middle}, {last}");
        assert!(starts_s.iter().all(|at| *at < 600.0), "{name}");
    }
}

#[test]
fn a_rate_is_requests_a_second() {
    for workload in WORKLOADS {
        let rate = Spec { volume: Volume::Rate(20.0), ..spec(2, 1.0, 300) };
        let n_requests = generate(workload.name, &rate).unwrap().requests.len() as f64;
        assert!((n_requests / 6_000.0 - 1.0).abs() < 0.15, "{}: {n_requests}", workload.name);
    }
}

#[test]
fn more_servers_take_more() {
    let n_requests = |n_servers| {
        let volume = Volume::Load { load: 0.5, n_servers };
        generate("rag", &Spec { volume, ..spec(1, 1.0, 120) }).unwrap().requests.len() as f64
    };
    assert!((n_requests(16) / n_requests(4) - 4.0).abs() < 0.5);
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let check = |name: &str, volume, seconds, error: &str| {
        let spec = Spec { volume, ..spec(1, 1.0, seconds) };
        let found = generate(name, &spec).unwrap_err().to_string();
        assert!(found.contains(error), "{found}");
    };
    let load = |load, n_servers| Volume::Load { load, n_servers };
    check("raq", load(1.0, 8), 60, "no workload `raq`; there are shared-prompts, sessions");
    check("rag", load(0.0, 8), 60, "above 0");
    check("rag", load(f64::NAN, 8), 60, "above 0");
    check("rag", load(1.0, 0), 60, "above 0");
    check("rag", Volume::Rate(-1.0), 60, "above 0");
    check("shared-prompts", load(1.0, 5_000), 3_600, "is the most");
}

#[test]
fn shared_prompts_are_many_and_some_are_hot() {
    let trace = trace("shared-prompts", 1, 1.0, 120);
    let mut by_prompt = BTreeMap::<u64, usize>::new();
    for request in &trace.requests {
        *by_prompt.entry(request.chain[0]).or_default() += 1;
    }
    let n_requests = trace.requests.len() as f64;
    let hottest = *by_prompt.values().max().unwrap() as f64 / n_requests;
    assert!((130..=150).contains(&by_prompt.len()), "{}", by_prompt.len());
    // One over the sum of 1/n for n up to 150.
    assert!((hottest - 0.179).abs() < 0.02, "{hottest}");
    let mean_prompt = mean(trace.requests.iter().map(|request| f64::from(request.prompt_tokens)));
    assert!((4_000.0..12_500.0).contains(&mean_prompt), "{mean_prompt}");
}

#[test]
fn sessions_have_many_turns_with_time_between_them() {
    let trace = trace("sessions", 1, 0.5, 600);
    let thinks = trace.requests.iter().filter_map(|request| match request.start {
        Start::After { think, .. } => Some(think.as_secs_f64()),
        Start::At(_) => None,
    });
    let thinks: Vec<_> = thinks.collect();
    let mean_think = mean(thinks.iter().copied());
    assert!((mean_think - 15.0).abs() < 1.0, "{mean_think}");
    assert!(thinks.iter().all(|think| *think >= 1.0));
    // Conversations are cut at both ends of the trace, so that some look shorter than they are.
    let turns = trace.requests.len() as f64 / firsts(&trace).count() as f64;
    assert!((3.0..6.5).contains(&turns), "{turns}");
}

#[test]
fn agents_grow_long_contexts_without_pausing() {
    let trace = trace("agents", 1, 0.5, 900);
    let longest = trace.requests.iter().map(|request| request.prompt_tokens).max().unwrap();
    let mean_prompt = mean(trace.requests.iter().map(|request| f64::from(request.prompt_tokens)));
    assert!((50_000..=100_000).contains(&longest), "{longest}");
    assert!((15_000.0..40_000.0).contains(&mean_prompt), "{mean_prompt}");
    let thinks = trace.requests.iter().filter_map(|request| match request.start {
        Start::After { think, .. } => Some(think.as_secs_f64()),
        Start::At(_) => None,
    });
    let mean_think = mean(thinks);
    assert!((3.0..5.0).contains(&mean_think), "{mean_think}");
}

#[test]
fn rag_shares_instructions_and_little_more() {
    let trace = trace("rag", 1, 0.5, 300);
    let instructions = &trace.requests[0].chain[..1_024 / BLOCK_TOKENS as usize];
    assert!(trace.requests.iter().all(|request| request.chain.starts_with(instructions)));
    let mut cache = BTreeSet::new();
    let cached = trace.requests.iter().map(|request| {
        let n_cached = request.chain.iter().take_while(|block| cache.contains(*block)).count();
        cache.extend(request.chain.iter().copied());
        n_cached as f64 * f64::from(BLOCK_TOKENS) / f64::from(request.prompt_tokens)
    });
    let share = mean(cached);
    assert!((0.15..0.45).contains(&share), "{share}");
    let answers = mean(trace.requests.iter().map(|request| f64::from(request.output_tokens)));
    assert!((answers - 80.0).abs() < 10.0, "{answers}");
}

#[test]
fn bursts_are_cold_equally_long_and_sudden() {
    let trace = trace("bursts", 1, 0.7, 300);
    let burst: Vec<_> = trace
        .requests
        .iter()
        .filter(|request| (request.prompt_tokens, request.output_tokens) == (4_000, 100))
        .collect();
    let share = burst.len() as f64 / trace.requests.len() as f64;
    assert!((share - 0.2).abs() < 0.05, "{share}");
    assert_eq!(burst.len() % 100, 0, "whole bursts");
    let firsts: BTreeSet<_> = burst.iter().map(|request| request.chain[0]).collect();
    assert_eq!(firsts.len(), burst.len(), "they share nothing");
    for burst in burst.chunks(100) {
        let times: Vec<_> = burst.iter().filter_map(|request| at_s(request)).collect();
        let span = times.last().unwrap() - times[0];
        assert!(span < 0.2, "{span}");
    }
}

#[test]
fn a_day_has_a_noon_and_a_night() {
    let trace = trace("diurnal", 1, 0.5, 600);
    let n_in = |from: f64, until: f64| {
        firsts(&trace).filter_map(at_s).filter(|at| (from..until).contains(at)).count() as f64
    };
    // Means of 1 − 0.6·cos: 1.57 around noon, 0.50 in the last sixth.
    let (noon, night) = (n_in(250.0, 350.0), n_in(500.0, 600.0));
    assert!((noon / night - 3.1).abs() < 0.7, "{noon} against {night}");
}

#[test]
fn one_of_twenty_tenants_sends_half() {
    let trace = trace("wild-tenant", 1, 0.7, 120);
    let mut by_tenant = BTreeMap::<&str, usize>::new();
    let mut prompts = BTreeSet::new();
    for request in &trace.requests {
        let tenant = request.tenant.as_deref().unwrap();
        *by_tenant.entry(tenant).or_default() += 1;
        prompts.insert((tenant, request.chain[0]));
    }
    assert_eq!((by_tenant.len(), prompts.len()), (20, 20));
    let wild = by_tenant[WildTenant::WILD] as f64 / trace.requests.len() as f64;
    assert!((wild - 0.5).abs() < 0.03, "{wild}");
}

#[test]
fn priorities_share_everything_but_their_priority() {
    let trace = trace("priorities", 1, 2.0, 120);
    let mut by_priority = BTreeMap::<i32, Vec<f64>>::new();
    for request in &trace.requests {
        by_priority.entry(request.priority).or_default().push(f64::from(request.prompt_tokens));
    }
    let n_requests = trace.requests.len() as f64;
    for (priority, share) in [(100, 0.25), (0, 0.2), (-10, 0.55)] {
        let prompts = &by_priority[&priority];
        let found = prompts.len() as f64 / n_requests;
        assert!((found - share).abs() < 0.04, "{priority}: {found}");
        let tokens = mean(prompts.iter().copied());
        assert!((tokens / 5_000.0 - 1.0).abs() < 0.1, "{priority}: {tokens}");
    }
    let important = Priorities { shares: vec![(100, 1.0)], ..Priorities::default() };
    let important = important.generate(&spec(1, 2.0, 120)).unwrap();
    assert!(important.requests.iter().all(|request| request.priority == 100));
    let asked = |trace: &Trace| trace.requests.iter().map(|r| r.prompt_tokens).collect::<Vec<_>>();
    assert_eq!(asked(&important), asked(&trace), "the same questions");
}
