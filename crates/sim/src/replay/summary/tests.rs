use router_core::{ErrorCode, Stamp};

use super::*;

fn served(arrived: f64, ttft: f64, tpot: f64, n_output: u32) -> RequestOutcome {
    let at = |seconds: f64| Stamp::from_nanos((seconds * 1e9) as u64);
    RequestOutcome {
        fate: Fate::Served,
        server: Some(0),
        first_token: Some(at(arrived + ttft)),
        ended: at(arrived + ttft + tpot * f64::from(n_output.saturating_sub(1))),
        cached_tokens: 50,
        output_tokens: n_output,
        ..RequestOutcome::arriving(at(arrived), 100)
    }
}

fn outcome(requests: Vec<RequestOutcome>) -> Outcome {
    let ended = requests.iter().map(|request| request.ended).max().unwrap_or_default();
    Outcome { requests, servers: vec!["a".into(), "b".into()], decisions: 255, ended }
}

#[test]
fn a_request_is_good_when_it_reaches_both_goals() {
    let check = |request, good: bool| {
        let summary = Summary::of(&outcome(vec![request]), Goals::default());
        assert_eq!(summary.goodput, f64::from(u8::from(good)), "{request:?}");
    };
    check(served(0.0, 4.9, 0.09, 10), true);
    check(served(0.0, 5.1, 0.01, 10), false);
    check(served(0.0, 1.0, 0.11, 10), false);
    check(served(0.0, 1.0, 9.0, 1), true);
    let rejected = Fate::Rejected(ErrorCode::ResourceExhausted);
    check(RequestOutcome { fate: rejected, ..served(0.0, 1.0, 0.01, 10) }, false);
    check(RequestOutcome { fate: Fate::Broken, ..served(0.0, 1.0, 0.01, 10) }, false);
}

#[test]
fn a_run_in_numbers() {
    let mut requests: Vec<_> =
        (0..100).map(|n| served(f64::from(n), f64::from(n) / 10.0, 0.02, 11)).collect();
    requests.push(RequestOutcome {
        fate: Fate::Rejected(ErrorCode::ServiceUnavailable),
        server: None,
        ..RequestOutcome::arriving(Stamp::from_nanos(100_000_000_000), 70)
    });
    let summary = Summary::of(&outcome(requests), Goals::default());
    let near =
        |value: f64, expected: f64| assert!((value - expected).abs() < 1e-6, "{value} {expected}");
    assert_eq!(summary.fates, BTreeMap::from([("ServiceUnavailable", 1), ("served", 100)]));
    near(summary.ttft.p50, 4.95);
    near(summary.ttft.p90, 8.91);
    near(summary.ttft.mean, 4.95);
    near(summary.tpot.p99, 0.02);
    near(summary.goodput, 51.0 / 101.0);
    near(summary.good_per_second, 0.51);
    near(summary.cached_ratio, 0.5);
    near(summary.imbalance, 2.0);
    near(summary.duration, 109.1);
    near(summary.served_share(), 100.0 / 101.0);
    let loads: Vec<_> =
        summary.servers.iter().map(|load| (load.n_requests, load.computed_tokens)).collect();
    assert_eq!(loads, [(100, 5_000), (0, 0)]);
    assert_eq!(summary.decisions, "00000000000000ff");
}

#[test]
fn nothing_gives_zeros() {
    let summary = Summary::of(&outcome(Vec::new()), Goals::default());
    assert!(MEASURES.iter().filter(|m| m.name != "unserved").all(|m| (m.of)(&summary) == 0.0));
}

#[test]
fn differences_are_taken_seed_by_seed() {
    let summary =
        |ttft: f64| Summary::of(&outcome(vec![served(0.0, ttft, 0.01, 5)]), Goals::default());
    let base: Vec<_> = [1.0, 2.0, 3.0].map(summary).into();
    let other: Vec<_> = [1.5, 2.5, 3.5].map(summary).into();
    let of_base = over_seeds(&base)["ttft_mean"];
    assert!((of_base.mean - 2.0).abs() < 1e-9 && of_base.half_width.unwrap() > 2.0, "{of_base:?}");
    let difference = differences(&base, &other)["ttft_mean"];
    assert!((difference.mean - 0.5).abs() < 1e-9, "{difference:?}");
    assert!(difference.half_width.unwrap() < 1e-9 && difference.is_clear());
}
