//! Fuzz target of replay as a whole: what a trace and a pool file say is played, whatever it is.
//!
//! It stands here because only the executable and this crate see both the simulator and the plugins.

use std::sync::Arc;

use router_framework::Registry;
use router_sim::replay::{
    outcome::{Fate, Outcome},
    policy,
    pool::Pool,
    read,
    run::{self, Configuration, Options, Progress, RunError, Setup},
    summary::{Goals, MEASURES, Summary},
    trace::Trace,
};

/// Larger inputs say nothing more and take long.
const MAX_REQUESTS: usize = 32;
const MAX_SERVERS: usize = 4;
const MAX_EVENTS: usize = 32;
const MAX_BLOCKS: u32 = 1 << 14;

/// Plays the trace after the first zero byte on the servers of the pool file before it.
pub(crate) fn fuzz_replay(data: &[u8]) {
    let (pool, trace) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => data.split_at(at),
        None => (&[][..], data),
    };
    let mut pool =
        Pool::parse("fuzz", pool).ok().filter(is_small).unwrap_or_else(|| Pool::uniform(2));
    // Scrapes, and steps with noise, take time.
    pool.scrape.interval = None;
    pool.servers.iter_mut().for_each(|server| server.profile.step_noise = 0.0);
    let trace = trace.strip_prefix(&[0]).unwrap_or(trace);
    let Ok(mut trace) = read::read("fuzz", trace, None, MAX_REQUESTS) else { return };
    trace.leave_out_several();
    for name in ["round-robin", "default"] {
        match play(name, trace.clone(), pool.clone()) {
            Ok(outcome) => check(&trace, &outcome),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
}

/// Whether a pool is quickly played; the cache of a server takes memory.
fn is_small(pool: &Pool) -> bool {
    let blocks = pool.servers.iter().map(|server| server.profile.kv_cache_size);
    pool.servers.len() <= MAX_SERVERS
        && pool.events.len() <= MAX_EVENTS
        && blocks.max() <= Some(MAX_BLOCKS)
}

fn play(name: &str, trace: Trace, pool: Pool) -> Result<Outcome, RunError> {
    let text = policy::preset(name).map(|preset| preset.document.to_owned());
    let setup = Setup {
        trace: Arc::new(trace),
        pool: Arc::new(pool),
        configuration: Configuration { name: name.to_owned(), text },
        registry: Registry::new(router_plugins::PLUGINS.iter().chain(policy::PLUGINS).copied()),
        options: Options::default(),
    };
    let progress = Progress::default();
    let outcome = run::play(&setup, 1, &progress)?;
    assert_eq!(progress.n_ended(), setup.trace.requests.len(), "each comes to an end");
    Ok(outcome)
}

fn check(trace: &Trace, outcome: &Outcome) {
    assert_eq!(outcome.requests.len(), trace.requests.len());
    for (asked, request) in trace.requests.iter().zip(&outcome.requests) {
        assert!(request.arrived <= request.ended && request.ended <= outcome.ended, "{request:?}");
        assert!(request.cached_tokens <= request.prompt_tokens, "{request:?}");
        if request.fate == Fate::Served {
            let first = request.first_token;
            assert!(
                first.is_some_and(|at| (request.arrived..=request.ended).contains(&at)),
                "{request:?}"
            );
            assert!(request.output_tokens <= asked.output_tokens.max(1), "{request:?}");
        }
    }
    let summary = Summary::of(outcome, Goals::default());
    assert_eq!(summary.fates.values().sum::<usize>(), trace.requests.len());
    for measure in MEASURES {
        assert!((measure.of)(&summary).is_finite(), "{}", measure.name);
    }
}
