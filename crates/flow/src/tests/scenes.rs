//! Scenes with a beginning and an end.

use std::time::Duration;

use super::scene::{Scene, no_trickle};
use crate::{
    Ask, BandTemplate, Bounds, Config, Cost, Effect, Eviction, FlowId, Hold, Limit, Refusal,
    Trickle,
};

#[test]
fn requests_wait_while_the_pool_is_empty_and_go_when_an_endpoint_appears() {
    let mut scene = Scene::new(no_trickle());
    scene.empty_pool();
    scene.arrive_n(3);
    scene.at(59_999);
    assert!(scene.effects.is_empty());
    scene.pool(0.0, 0.1);
    assert_eq!(scene.gone().len(), 3);
}

#[test]
fn what_would_be_refused_is_known_before_it_comes() {
    let template = BandTemplate { max_requests: 2, max_bytes: 100, ..BandTemplate::default() };
    let mut scene = Scene::new(Config { template, max_requests: Some(3), ..no_trickle() });
    scene.pool(1.0, 0.1);
    let ask = |priority, bytes| Ask { priority, bytes, ..Ask::default() };
    let check = |scene: &mut Scene, asked: Ask, refused| {
        assert_eq!(scene.flow.refuses(&asked), refused, "{asked:?}");
        scene.ask(asked);
        assert_eq!(scene.refused().len(), usize::from(refused));
    };
    check(&mut scene, ask(0, 101), true);
    check(&mut scene, ask(0, 50), false);
    check(&mut scene, ask(0, 51), true);
    check(&mut scene, ask(0, 50), false);
    check(&mut scene, ask(0, 0), true);
    check(&mut scene, ask(-1, 0), false);
    // Who is more important takes the place of sheddable work.
    assert!(!scene.flow.refuses(&ask(5, 0)));
    check(&mut scene, ask(-1, 0), true);
    scene.flow.shut_down(scene.now, &mut scene.effects);
    assert!(scene.flow.refuses(&ask(5, 0)));
}

#[test]
fn a_snapshot_is_small_however_many_flows_there_are() {
    let mut scene = Scene::new(no_trickle());
    scene.pool(1.0, 0.1);
    for n in 0..300 {
        for priority in 0..15 {
            let flow = FlowId::from(format!("flow-{n}").as_str());
            for _ in 0..=usize::from(n == 7) {
                scene.ask(Ask { priority, flow: flow.clone(), ..Ask::default() });
            }
        }
    }
    let bands = scene.flow.snapshot(20).bands;
    let shown: Vec<usize> = bands.iter().map(|band| band.flows.len()).collect();
    assert_eq!(shown, [[20; 10].as_slice(), &[0; 5]].concat());
    assert!(bands.iter().all(|band| band.n_flows == 300 && band.jain == 1.0));
    let ids: Vec<&str> = bands[0].flows.iter().take(3).map(|flow| flow.id.as_str()).collect();
    assert_eq!(ids, ["flow-7", "flow-0", "flow-1"]);
}

#[test]
fn a_pool_that_empties_under_load_refuses_after_its_own_budget() {
    let no_endpoint_ttl = Some(Duration::from_secs(10));
    let mut scene = Scene::new(Config { no_endpoint_ttl, ..no_trickle() });
    scene.pool(1.0, 0.1);
    scene.arrive(0);
    scene.at(50_000);
    scene.arrive(0);
    // The wait so far was for capacity and does not count against the wait for an endpoint, nor the other
    // way round.
    scene.empty_pool();
    scene.at(59_999);
    scene.arrive(0);
    assert!(scene.effects.is_empty());
    scene.at(60_000);
    let refusal = Refusal::EvictedNoEndpoints;
    assert_eq!(scene.refused(), [(1, refusal), (2, refusal)]);
    scene.pool(1.0, 0.1);
    scene.at(119_999);
    assert!(scene.effects.is_empty());
    scene.at(120_000);
    assert_eq!(scene.refused(), [(3, Refusal::EvictedTtl)]);
}

#[test]
fn a_full_queue_says_which_limit_and_whether_there_are_endpoints() {
    let template = BandTemplate { max_requests: 2, max_bytes: 100, ..BandTemplate::default() };
    let config = Config { max_bytes: Some(120), max_requests: Some(3), template, ..no_trickle() };
    let check = |asks: &[(i32, u64)], is_empty: bool, refusal: Refusal| {
        let mut scene = Scene::new(config.clone());
        if !is_empty {
            scene.pool(1.0, 0.1);
        }
        for &(priority, bytes) in asks {
            scene.ask(Ask { priority, bytes, ..Ask::default() });
        }
        assert_eq!(scene.refused(), [(asks.len() as u32, refusal)], "{asks:?}");
    };
    let capacity = Refusal::RejectedCapacity;
    check(&[(0, 60), (0, 41)], false, capacity(Limit::BandBytes));
    check(&[(0, 60), (1, 61)], false, capacity(Limit::GlobalBytes));
    check(&[(0, 1), (0, 1), (0, 1)], false, capacity(Limit::BandRequests));
    check(&[(0, 1), (0, 1), (1, 1), (2, 1)], false, capacity(Limit::GlobalRequests));
    check(&[(0, 500)], true, Refusal::RejectedNoEndpoints(Limit::GlobalBytes));
}

#[test]
fn sheddable_work_makes_room_for_what_is_more_important_at_a_limit_for_all() {
    let mut scene = Scene::new(Config { max_requests: Some(3), ..no_trickle() });
    scene.pool(1.0, 0.1);
    for priority in [-1, -1, 0, 0, 0, 0] {
        scene.arrive(priority);
    }
    let limit = Limit::GlobalRequests;
    let (shed, full) = (Refusal::EvictedCapacity(limit), Refusal::RejectedCapacity(limit));
    assert_eq!(scene.refused(), [(2, shed), (1, shed), (6, full)]);
}

#[test]
fn eviction_waits_for_what_was_evicted_and_for_its_room_to_show() {
    let eviction = Eviction { grace: Duration::from_secs(2), ..Eviction::default() };
    let mut scene = Scene::new(Config { eviction: Some(eviction), ..no_trickle() });
    scene.pool(0.0, 0.1);
    let running: Vec<_> = (0..10).map(|_| scene.arrive(-1)).collect();
    for &ticket in &running {
        scene.placed(ticket);
    }
    scene.at(1_000);
    scene.pool(1.0, 0.1);
    scene.effects.clear();
    scene.arrive(-1);
    assert_eq!(scene.evicted(), [], "nobody is evicted for their equals");
    scene.arrive(5);
    // The newest is the next, and one makes room enough.
    let evicted = scene.evicted();
    assert_eq!(evicted, [(running[9], 10)]);
    scene.arrive(5);
    scene.at(2_000);
    assert_eq!(scene.evicted(), [], "the first has not ended");
    let gone = evicted[0].0;
    scene.flow.finished(scene.now, gone, None, &mut scene.effects);
    assert_eq!(scene.gone(), [5]);
    scene.at(3_999);
    assert_eq!(scene.evicted(), [], "its room may not show yet");
    scene.at(4_000);
    let second = scene.evicted();
    assert_eq!(second, [(running[8], 9)]);
    // One that does not end is given up.
    scene.at(14_000);
    scene.at(16_000);
    assert_eq!(scene.evicted(), [(running[7], 8)]);
    let counts = scene.flow.snapshot(0).reclaim;
    assert_eq!((counts.issued, counts.confirmed, counts.timed_out), (3, 1, 1));
}

#[test]
fn retry_after_is_the_time_that_the_queue_takes_to_drain() {
    let template = BandTemplate { max_requests: 50, ..BandTemplate::default() };
    let mut scene = Scene::new(Config { template, ..no_trickle() });
    scene.pool(1.0, 0.1);
    scene.arrive_n(50);
    // Ten per second leave, and as many come.
    for n in 1..=200 {
        scene.at(n * 100);
        scene.effects.clear();
        scene.pool(0.95, 0.1);
        let [Effect::Dispatch { ticket, .. }] = scene.effects[..] else { panic!("one goes") };
        scene.pool(1.0, 0.1);
        scene.flow.finished(scene.now, ticket, None, &mut scene.effects);
        scene.pool(1.0, 0.1);
        scene.arrive(0);
    }
    scene.effects.clear();
    scene.arrive(0);
    let [Effect::Drop { retry_after, .. }] = scene.effects[..] else {
        panic!("{:?}", scene.effects);
    };
    assert!((4..=6).contains(&retry_after.as_secs()), "{retry_after:?}");
}

#[test]
fn flows_that_are_gone_are_forgotten_however_many_there_were() {
    let bounds = Bounds { max_idle_flows: 100, ..Bounds::default() };
    let mut scene = Scene::new(Config { bounds, ..no_trickle() });
    scene.pool(0.0, 0.0);
    for n in 0..20_000 {
        let flow = FlowId::from(format!("tenant-{n}").as_str());
        let ticket = scene.ask(Ask { flow, ..Ask::default() });
        scene.flow.finished(scene.now, ticket, None, &mut scene.effects);
        assert!(n % 500 != 0 || scene.flow.snapshot(0).bands[0].n_flows <= 101);
    }
    let gone = |scene: &Scene| {
        scene.effects.iter().filter(|effect| matches!(effect, Effect::FlowGone { .. })).count()
    };
    assert_eq!(gone(&scene), 19_900);
    scene.at(300_000);
    assert_eq!(gone(&scene), 20_000);
}

#[test]
fn operators_see_why_the_first_of_each_flow_waits() {
    let mut scene = Scene::new(no_trickle());
    let check = |scene: &mut Scene, expected: &[(&str, Hold)]| {
        let snapshot = scene.flow.snapshot(10);
        let flows = snapshot.bands.iter().flat_map(|band| &band.flows);
        let heads = flows.filter_map(|flow| Some((flow.id.as_str(), flow.head.clone()?.hold)));
        assert_eq!(heads.collect::<Vec<_>>(), expected);
    };
    for (flow, priority) in [("a", 0), ("b", 0), ("c", -1)] {
        scene.ask(Ask { flow: FlowId::from(flow), priority, ..Ask::default() });
    }
    let nobody = Hold::NoEndpoints;
    check(&mut scene, &[("a", nobody.clone()), ("b", nobody.clone()), ("c", nobody)]);
    scene.pool(1.25, 0.1);
    let ceiling = Hold::Ceiling { saturation: 1.25, ceiling: 1.0 };
    let behind = Hold::Flow { next: FlowId::from("a") };
    check(&mut scene, &[("a", ceiling), ("b", behind), ("c", Hold::Band { priority: 0 })]);
}

#[test]
fn after_the_end_nobody_waits_and_what_runs_goes_on() {
    let mut scene = Scene::new(no_trickle());
    scene.pool(0.95, 0.1);
    let running = scene.arrive(0);
    scene.arrive(0);
    scene.effects.clear();
    scene.flow.shut_down(scene.now, &mut scene.effects);
    scene.arrive(0);
    assert_eq!(scene.refused(), [(2, Refusal::EvictedOther), (3, Refusal::RejectedOther)]);
    assert!(scene.flow.finished(scene.now, running, None, &mut scene.effects));
}

#[test]
fn the_trickle_is_its_share_of_tokens_and_no_more() {
    let trickle = Trickle { share_ppm: 100_000, every: Duration::from_hours(1) };
    let mut scene = Scene::new(Config { trickle: Some(trickle), ttl: None, ..Config::default() });
    scene.pool(1.0, 0.1);
    let cost = |uncached| Cost { uncached, ..Cost::default() };
    for _ in 0..1_000 {
        scene.ask(Ask { priority: 100, cost: cost(10), ..Ask::default() });
        scene.ask(Ask { priority: 0, cost: cost(20), ..Ask::default() });
        scene.ask(Ask { priority: -1, cost: cost(20), ..Ask::default() });
    }
    scene.pool(0.0, 0.000_5);
    let gone = scene.gone();
    let count = |priority| gone.iter().filter(|of| **of == priority).count();
    // 10 tokens of each 100 that the first band gets, in turn to both bands below.
    assert_eq!(count(100), 1_000);
    let (middle, lowest) = (count(0), count(-1));
    assert!(middle > lowest, "once nobody waits above, the middle band goes first");
    let before = gone.iter().take(1_000).filter(|of| **of == -1).count();
    assert!((20..=25).contains(&before), "{before}");
}
