//! Hot prefixes whose answers differ in length, and whose rate is not what it was: no worse than where all servers share
//! the load, since there are enough of them for all to have the prefix.

use router_rt::Rng;

use super::*;

/// Goodput here, and where each request is sent where the fewest are.
fn goodputs(trace: &Trace, n_servers: usize, seed: u64) -> [f64; 2] {
    let balanced = preset("least-requests").unwrap().document;
    [ESTIMATED_TTFT, balanced]
        .map(|document| goodput(&run_as(document, trace.clone(), n_servers, true, seed).requests))
}

/// The same with answers as long as `length` draws; nobody asks for their blocks again.
fn with_answers(mut trace: Trace, seed: u64, length: impl Fn(&mut Rng) -> u32) -> Trace {
    let mut rng = Rng::seeded(seed);
    for (nth, request) in (0_u64..).zip(&mut trace.requests) {
        request.output_tokens = length(&mut rng);
        let n_blocks = u64::from(request.output_tokens / BLOCK_TOKENS);
        let answer = (0..n_blocks).map(|at| 1 << 62 | nth << 32 | at);
        request.chain = request.chain.iter().copied().chain(answer).collect();
    }
    trace
}

/// Most answers are short and end first, while most of the tokens are in a few that take minutes.
#[test]
fn answers_that_differ_much_in_length_are_seen_before_they_end() {
    for (per_second, share, short, long) in [(15.0, 0.05, 5, 8_000), (3.0, 0.2, 10, 8_000)] {
        for seed in 1..=2 {
            let arrivals = Arrivals::Random(seed);
            let hot = HotPrefix { seconds: 600.0, arrivals, ..HotPrefix::new(300, 0, per_second) };
            let length = |rng: &mut Rng| if rng.chance(share) { long } else { short };
            let [ours, balanced] = goodputs(&with_answers(hot.trace(), seed, length), 8, seed);
            assert!(ours > balanced - 0.01, "{hot:?} {long}: {ours}, balanced {balanced}");
        }
    }
}

/// It is asked for twice a second for minutes, then 25 times.
#[test]
fn a_lukewarm_prefix_that_becomes_hot_at_once_spreads_in_time() {
    const LUKEWARM: Duration = Duration::from_secs(200);
    for seed in 1..=2 {
        let hot = |per_second, seconds| HotPrefix {
            seconds,
            arrivals: Arrivals::Random(seed),
            ..HotPrefix::new(640, 100, per_second)
        };
        let mut trace = hot(2.0, LUKEWARM.as_secs_f64()).trace();
        for mut request in hot(25.0, 60.0).trace().requests {
            let Start::At(start) = request.start else { unreachable!("all have times") };
            request.start = Start::At(start + LUKEWARM);
            // What is not shared is another request's.
            let (shared, own) = request.chain.split_at(640);
            let own = own.iter().map(|block| block | 1 << 61);
            request.chain = shared.iter().copied().chain(own).collect();
            trace.requests.push(request);
        }
        let [ours, balanced] = goodputs(&trace, 16, seed);
        assert!(ours > balanced - 0.01, "seed {seed}: {ours}, balanced {balanced}");
    }
}
