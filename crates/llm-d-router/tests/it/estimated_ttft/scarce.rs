//! Servers that have too little room for what is asked for: no worse than the best of the policies that are made for
//! that.

use router_rt::Rng;
use router_sim::{
    model::Profile,
    replay::workload::{Spec, Volume, generate},
};

use super::*;

const N_SERVERS: usize = 8;

/// Mean goodput of ours, and of a preset, over two seeds.
fn goodputs(profile: &Profile, other: &str, trace: impl Fn(u64) -> Trace) -> [f64; 2] {
    let mut pool = Pool::uniform(N_SERVERS);
    pool.servers.iter_mut().for_each(|server| server.profile = profile.clone());
    [ESTIMATED_TTFT, preset(other).unwrap().document].map(|document| {
        let of = |seed| goodput(&run_on(pool.clone(), document, trace(seed), seed).requests);
        f64::midpoint(of(1), of(2))
    })
}

/// All system prompts together take most of what the servers can keep: each copy of one pushes another out.
#[test]
fn prompts_that_fit_into_the_caches_only_once_are_kept_once() {
    let profile = Profile { kv_cache_size: 8_000, ..Profile::default() };
    let volume = Volume::Load { load: 0.66, n_servers: N_SERVERS as u32 };
    let spec = |seed| Spec { seed, duration: Duration::from_mins(6), volume, ..Spec::default() };
    let trace = |seed| generate("shared-prompts", &spec(seed)).unwrap();
    let [ours, go_default] = goodputs(&profile, "go-default", trace);
    assert!(ours > go_default - 0.01, "{ours}, go-default {go_default}");
}

/// Each server has room for one adapter at once, and there are thirty. Whoever waits for that does not show how fast
/// the server computes.
#[test]
fn waits_for_adapters_cost_no_goals() {
    let trace = |seed| {
        let hot = HotPrefix { seconds: 600.0, ..HotPrefix::new(0, 0, 4.8) };
        let mut trace = HotPrefix { arrivals: Arrivals::Random(seed), ..hot }.trace();
        let mut rng = Rng::seeded(seed);
        for (nth, request) in (0_u64..).zip(&mut trace.requests) {
            let mut length = |mean: f64| (-mean * (1.0 - rng.f64()).ln()).max(1.0) as u32;
            (request.prompt_tokens, request.output_tokens) = (length(400.0), length(200.0));
            let n_blocks = (request.prompt_tokens + request.output_tokens) / BLOCK_TOKENS;
            request.chain = (0..u64::from(n_blocks)).map(|at| (nth + 1) << 32 | at).collect();
            let rank = (1.0 - rng.f64()).powf(-1.0 / 0.8).min(30.0) as u32;
            request.lora = Some(format!("adapter-{rank}").into());
        }
        trace
    };
    let [ours, balanced] = goodputs(&Profile::default(), "least-requests", trace);
    assert!(ours > balanced - 0.01, "{ours}, least requests {balanced}");
}
