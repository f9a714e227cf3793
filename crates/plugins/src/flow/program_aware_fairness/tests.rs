use router_flow::Rank;
use router_telemetry::metrics::Format;
use router_testkit::scheduling::SceneBuilder;

use super::*;

fn head(enqueued: Stamp, seq: u64) -> Head {
    Head { rank: Rank::default(), seq, enqueued, cost: Cost::default() }
}

fn join(band: &mut dyn Fairness, flow: u32, id: &str) {
    band.join(FlowKey(flow), &FlowId::from(id));
}

fn settle(band: &mut dyn Fairness, flow: u32, now: Stamp, prompt: u64, output: u64) {
    let used = Usage { prompt, cached: 0, output };
    band.settled(now, FlowKey(flow), &Cost::default(), Some(&used));
}

#[tokio::test(start_paused = true)]
async fn who_had_little_goes_first_and_is_remembered() {
    let mut builder = SceneBuilder::new();
    let policy = builder.plugin(&PLUGIN, "{lasHalfLifeSeconds: 0}").fairness.unwrap();
    let mut band = policy.start();
    join(&mut *band, 0, "a");
    settle(&mut *band, 0, Stamp::ORIGIN, 100, 50);
    band.forget(FlowKey(0));
    // It comes back, in another place, after one that had nothing.
    join(&mut *band, 0, "b");
    join(&mut *band, 1, "a");
    band.offer(FlowKey(1), &head(Stamp::ORIGIN, 0));
    band.offer(FlowKey(0), &head(Stamp::ORIGIN, 1));
    assert_eq!(band.next(), Some(FlowKey(0)));
}

#[tokio::test(start_paused = true)]
async fn a_program_is_forgotten_in_time() {
    let params = "{lasHalfLifeSeconds: 0, evictionTtlSeconds: 10, evictionSweepSeconds: 1}";
    let mut builder = SceneBuilder::new();
    let policy = builder.plugin(&PLUGIN, params).fairness.unwrap();
    let mut band = policy.start();
    join(&mut *band, 0, "a");
    settle(&mut *band, 0, Stamp::ORIGIN, 100, 0);
    drop(band);
    tokio::time::advance(Duration::from_secs(20)).await;
    let mut band = policy.start();
    join(&mut *band, 0, "b");
    join(&mut *band, 1, "a");
    band.offer(FlowKey(1), &head(Stamp::ORIGIN, 0));
    band.offer(FlowKey(0), &head(Stamp::ORIGIN, 1));
    assert_eq!(band.next(), Some(FlowKey(1)), "both have had nothing, and it came first");
}

#[tokio::test(start_paused = true)]
async fn the_page_shows_service_waits_and_how_equal_they_are() {
    let mut bench = router_framework::Workbench::new().unwrap();
    let instance = bench.plugin(&PLUGIN, "fair", "{lasHalfLifeSeconds: 10}").unwrap();
    let clock = bench.env().clock;
    let mut band = instance.fairness.unwrap().start();
    for (flow, id) in ["a", "b"].into_iter().enumerate() {
        join(&mut *band, flow as u32, id);
    }
    let enqueued = clock.now();
    band.offer(FlowKey(0), &head(enqueued, 0));
    tokio::time::advance(Duration::from_millis(250)).await;
    band.dispatched(FlowKey(0), &head(enqueued, 0), None);
    settle(&mut *band, 0, clock.now(), 100, 50);
    tokio::time::advance(Duration::from_secs(10)).await;
    let page = bench.env().registry.encode(Format::Text);
    for line in [
        "llm_d_epp_program_aware_jains_fairness_index 0.5",
        "llm_d_epp_program_aware_avg_wait_time_milliseconds{program_id=\"a\"} 250",
        "llm_d_epp_program_aware_attained_service_tokens{program_id=\"a\"} 100",
        "llm_d_epp_program_aware_attained_service_tokens{program_id=\"b\"} 0",
    ] {
        assert!(page.lines().any(|known| known == line), "{line}\n{page}");
    }
}

#[test]
fn numbers_that_cannot_be_are_refused() {
    for name in
        ["evictionTtlSeconds", "lasWeightService", "lasWeightHeadWait", "lasHalfLifeSeconds"]
    {
        let error = SceneBuilder::refusal(&PLUGIN, &format!("{{{name}: -1}}"));
        assert!(error.contains(name), "{error}");
    }
    let error = SceneBuilder::refusal(&PLUGIN, "{evictionSweepSeconds: 0}");
    assert!(error.contains("evictionSweepSeconds"), "{error}");
    let error = SceneBuilder::refusal(&PLUGIN, "{strategy: fifo}");
    assert!(error.contains("strategy"), "{error}");
}
