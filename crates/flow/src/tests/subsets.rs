//! Requests that are restricted to some endpoints.

use std::{sync::Arc, time::Duration};

use router_core::{EndpointIndex, Stamp};

use super::scene::{Scene, no_trickle};
use crate::{
    Ask, BandTemplate, Bounds, Config, Effect, Eviction, FairnessPolicy, FlowId, Hold, PoolSignal,
    Refusal, StageLoad, SubsetHold, SubsetId, SubsetSignal, Ticket,
    policy::{deficit::Deficit, round_robin::RoundRobin},
};

fn endpoint(slot: u32) -> EndpointIndex {
    EndpointIndex { slot, generation: 0 }
}

/// Of four endpoints, those with these numbers.
fn subset(slots: &[u32]) -> SubsetId {
    SubsetId::new(slots.iter().map(|slot| format!("10.0.0.{slot}:80")))
}

fn only(flow: &str, slots: &[u32]) -> Ask {
    Ask { flow: FlowId::from(flow), subset: Some(subset(slots)), ..Ask::default() }
}

impl Scene {
    /// What runs on each of four endpoints, which serve one request at a time.
    fn shows(&mut self, running: [u64; 4]) {
        let signal = |slots: &[u32]| {
            let n_running = slots.iter().map(|slot| running[*slot as usize]).sum();
            PoolSignal::of_pool(StageLoad::counted(n_running, slots.len() as u64), self.now)
        };
        let pool = signal(&[0, 1, 2, 3]);
        let all: [&[u32]; 5] = [&[0], &[1], &[0, 1], &[2, 3], &[0, 1, 2, 3]];
        let subsets = all.map(|slots| SubsetSignal {
            id: subset(slots),
            signal: signal(slots),
            endpoints: slots.iter().copied().map(endpoint).collect(),
            share: slots.len() as f64 / 4.0,
        });
        self.flow.signals(self.now, self.now, pool, subsets, &mut self.effects);
    }

    fn place(&mut self, ticket: Ticket, slot: u32) {
        self.flow.placed(self.now, ticket, Some(endpoint(slot)), &mut self.effects);
    }

    /// Numbers of those that were let go since the last look.
    fn went(&mut self) -> Vec<u32> {
        let gone = self.effects.drain(..).filter_map(|effect| match effect {
            Effect::Dispatch { payload, .. } => Some(payload),
            _ => None,
        });
        gone.collect()
    }

    fn end(&mut self, ticket: Ticket) {
        self.flow.finished(self.now, ticket, None, &mut self.effects);
    }
}

fn fair(fairness: impl FairnessPolicy + 'static) -> Config {
    let template = BandTemplate { fairness: Arc::new(fairness), ..BandTemplate::default() };
    Config { template, ..no_trickle() }
}

#[test]
fn a4_31_who_waits_for_full_endpoints_holds_up_nobody() {
    let mut scene = Scene::new(no_trickle());
    scene.ask(only("a", &[0]));
    scene.ask(Ask { priority: 9, ..only("a", &[0]) });
    scene.ask(only("a", &[1]));
    scene.ask(Ask { flow: FlowId::from("a"), ..Ask::default() });
    scene.ask(only("b", &[0, 1]));
    scene.ask(Ask { priority: -1, ..only("b", &[2, 3]) });
    // The first endpoint is full: of the same flow, of another and of a band below, all others go.
    scene.shows([1, 0, 0, 0]);
    assert_eq!(scene.went(), [3, 4, 6]);
    // Its slot goes to the most important one that waits for it, and to that one alone.
    scene.shows([0, 0, 1, 1]);
    assert_eq!(scene.went(), [2]);
}

#[test]
fn who_has_room_goes_though_the_pool_is_full_and_what_is_on_its_way_counts() {
    let mut scene = Scene::new(no_trickle());
    scene.arrive(0);
    let pair = [scene.ask(only("a", &[0, 1])), scene.ask(only("a", &[0, 1]))];
    let third = scene.ask(only("a", &[0, 1]));
    scene.shows([0, 0, 7, 7]);
    assert_eq!(scene.went(), [2, 3]);
    // Where they have got to counts in other subsets from then on.
    scene.ask(only("a", &[0]));
    scene.ask(only("a", &[1]));
    scene.place(pair[0], 0);
    scene.at(1);
    // The other one is probably not on its way to the second endpoint.
    scene.shows([1, 0, 7, 7]);
    assert_eq!(scene.went(), [6]);
    scene.place(pair[1], 0);
    scene.at(2);
    scene.shows([2, 1, 7, 7]);
    scene.flow.cancel(scene.now, third, &mut scene.effects);
    scene.end(pair[0]);
    assert_eq!(scene.went(), []);
    scene.end(pair[1]);
    assert_eq!(scene.went(), [5]);
}

/// Whose requests go, when each takes the only slot of an endpoint, and nobody may go in between.
fn turns(config: Config, flows: &[&str], n: usize) -> Vec<u32> {
    let mut scene = Scene::new(config);
    for _ in 0..n {
        for flow in flows {
            scene.ask(only(flow, &[0]));
        }
    }
    let mut went = Vec::new();
    scene.shows([0, 1, 1, 1]);
    for millis in 1..=n as u64 {
        let Some(Effect::Dispatch { ticket, payload, .. }) = scene.effects.pop() else { break };
        went.push((payload - 1) % flows.len() as u32);
        scene.place(ticket, 0);
        // Somebody else has room, so that the policy is asked while these are held.
        scene.at(millis);
        let other = scene.ask(only("z", &[1]));
        scene.shows([1, 0, 1, 1]);
        scene.end(other);
        scene.effects.clear();
        scene.end(ticket);
    }
    went
}

#[test]
fn a_flow_that_is_held_keeps_its_turn() {
    let went = turns(fair(RoundRobin), &["a", "b", "c"], 9);
    assert_eq!(went, [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_subset_without_endpoints_is_told_so_once_the_pool_has_some() {
    let mut scene = Scene::new(no_trickle());
    let absent = Ask { subset: Some(subset(&[9])), ..Ask::default() };
    let gone = |scene: &mut Scene, pool: PoolSignal| {
        let signal = PoolSignal::empty(scene.now);
        let absent = SubsetSignal { id: subset(&[9]), signal, endpoints: [].into(), share: 0.0 };
        scene.flow.signals(scene.now, scene.now, pool, [absent], &mut scene.effects);
        scene.refused()
    };
    scene.ask(absent.clone());
    scene.ask(absent.clone());
    let empty = PoolSignal::empty(scene.now);
    assert_eq!(gone(&mut scene, empty), []);
    let full = PoolSignal::of_pool(StageLoad::counted(1, 1), scene.now);
    let refusal = Refusal::EvictedNoEndpoints;
    assert_eq!(gone(&mut scene, full), [(1, refusal), (2, refusal)]);
    assert!(scene.flow.subsets().is_empty());
}

#[test]
fn the_first_signal_of_a_subset_never_takes_the_place_of_another() {
    let mut scene = Scene::new(no_trickle());
    scene.shows([1, 0, 0, 0]);
    scene.ask(only("a", &[0]));
    scene.ask(only("a", &[1]));
    let id = |subsets: Vec<crate::SubsetInUse>| {
        subsets.into_iter().map(|subset| subset.id).collect::<Vec<_>>()
    };
    assert_eq!(id(scene.flow.unknown_subsets()), [subset(&[0]), subset(&[1])]);
    let says = |scene: &mut Scene, slot: u32, n_running: u64| {
        let signal = SubsetSignal {
            id: subset(&[slot]),
            signal: PoolSignal::of_pool(StageLoad::counted(n_running, 1), scene.now),
            endpoints: [endpoint(slot)].into(),
            share: 0.25,
        };
        scene.flow.first_signals(scene.now, scene.now, vec![signal], &mut scene.effects);
        scene.went()
    };
    assert_eq!(says(&mut scene, 0, 1), []);
    assert_eq!(id(scene.flow.unknown_subsets()), [subset(&[1])]);
    assert_eq!(says(&mut scene, 0, 0), [], "it came too late");
    assert_eq!(says(&mut scene, 1, 0), [2]);
    assert!(!scene.flow.lacks_signals());
    scene.shows([0; 4]);
    assert_eq!(scene.went(), [1]);
}

/// What is said of the first endpoint alone.
fn said(n_placed: u64, as_of: Stamp) -> SubsetSignal {
    let signal = PoolSignal::of_pool(StageLoad::counted(n_placed, 1), as_of);
    SubsetSignal { id: subset(&[0]), signal, endpoints: [endpoint(0)].into(), share: 0.25 }
}

/// The account of a subset that comes into use begins with what came to its endpoints and went since that which
/// its first signal shows, also before it was in use.
#[test]
fn what_came_and_went_since_what_the_first_signal_shows_counts() {
    /// Whether one that may go to the first endpoint alone goes by a signal that shows it as it was at 10 ms,
    /// when this happens to another request at 5, 11 and 12 ms.
    #[track_caller]
    fn check(n_placed: u64, happens: [fn(&mut Scene, Ticket); 3], expected: bool) {
        let mut scene = Scene::new(no_trickle());
        let other = scene.ask(only("a", &[0, 1]));
        scene.shows([0; 4]);
        for (millis, happens) in [5, 11, 12].into_iter().zip(happens) {
            scene.at(millis);
            happens(&mut scene, other);
        }
        scene.ask(only("b", &[0]));
        assert_eq!(scene.went(), [1]);
        let first = said(n_placed, Stamp::from_nanos(10_000_000));
        scene.flow.first_signals(scene.now, scene.now, [first], &mut scene.effects);
        assert_eq!(scene.went() == [2], expected);
    }
    let nothing = |_: &mut Scene, _| {};
    let place = |scene: &mut Scene, ticket| scene.place(ticket, 0);
    let place_elsewhere = |scene: &mut Scene, ticket| scene.place(ticket, 1);
    let end = |scene: &mut Scene, ticket| scene.end(ticket);
    check(1, [place, nothing, nothing], false);
    check(1, [place, nothing, end], true);
    check(0, [place, end, nothing], true);
    check(0, [nothing, place, nothing], false);
    check(0, [nothing, place, end], true);
    check(0, [nothing, place_elsewhere, nothing], true);
}

#[test]
fn what_was_taken_before_a_subset_came_into_use_is_not_of_it() {
    let mut scene = Scene::new(no_trickle());
    scene.shows([0; 4]);
    let before = scene.now;
    scene.at(1);
    scene.ask(only("a", &[0]));
    scene.flow.first_signals(scene.now, before, [said(0, before)], &mut scene.effects);
    assert!(scene.flow.lacks_signals());
    let pool = *scene.flow.pool_signal();
    scene.flow.signals(scene.now, before, pool, [said(0, before)], &mut scene.effects);
    assert!(scene.flow.lacks_signals());
    assert_eq!(scene.went(), []);
    scene.flow.first_signals(scene.now, scene.now, [said(0, scene.now)], &mut scene.effects);
    assert_eq!(scene.went(), [1]);
}

/// A reading of all subsets takes longer than one of a new subset alone, which may overtake it.
#[test]
fn a_reading_that_was_overtaken_does_not_undo_the_later_one() {
    let mut scene = Scene::new(no_trickle());
    scene.shows([0; 4]);
    scene.ask(only("a", &[0]));
    let before = scene.now;
    scene.at(1);
    scene.flow.first_signals(scene.now, scene.now, [said(1, scene.now)], &mut scene.effects);
    let pool = *scene.flow.pool_signal();
    scene.flow.signals(scene.now, before, pool, [said(0, before)], &mut scene.effects);
    assert_eq!(scene.went(), []);
    scene.at(2);
    scene.flow.signals(scene.now, scene.now, pool, [said(0, scene.now)], &mut scene.effects);
    assert_eq!(scene.went(), [1]);
}

#[test]
fn more_subsets_than_are_told_apart_wait_for_the_pool() {
    let bounds = Bounds { max_subsets: 1, ..Bounds::default() };
    let mut scene = Scene::new(Config { bounds, ..no_trickle() });
    let known = scene.ask(only("a", &[0]));
    scene.ask(only("a", &[1]));
    scene.shows([1, 1, 0, 0]);
    assert_eq!(scene.went(), [2]);
    let snapshot = scene.flow.snapshot(1);
    assert_eq!((snapshot.n_subsets, snapshot.n_unjudged), (1, 1));
    // One that is free again is another's.
    scene.flow.cancel(scene.now, known, &mut scene.effects);
    scene.ask(only("a", &[1]));
    scene.shows([0, 1, 0, 0]);
    assert_eq!(scene.went(), []);
}

#[test]
fn room_is_made_where_it_is_wanted() {
    let eviction = Eviction { grace: Duration::ZERO, ..Eviction::default() };
    let mut scene = Scene::new(Config { eviction: Some(eviction), ..no_trickle() });
    scene.shows([0; 4]);
    let running: Vec<Ticket> = (0..4).map(|_| scene.arrive(-1)).collect();
    (0..4).for_each(|slot| scene.place(running[slot as usize], slot));
    scene.at(10);
    scene.effects.clear();
    scene.ask(only("a", &[1]));
    scene.shows([1; 4]);
    assert_eq!(scene.evicted(), [(running[1], 2)]);
}

#[test]
fn operators_see_that_a_request_waits_for_its_endpoints() {
    let mut scene = Scene::new(no_trickle());
    let hold = |scene: &mut Scene| {
        let snapshot = scene.flow.snapshot(1);
        snapshot.bands[0].flows[0].head.as_ref().unwrap().hold.clone()
    };
    let names = ["10.0.0.0:80", "10.0.0.1:80", "10.0.0.2:80"].map(Into::into).to_vec();
    let expected = |saturation| {
        let names = names.clone();
        Hold::Subset(SubsetHold { names, n_names: 4, saturation, ceiling: 1.0 })
    };
    scene.ask(only("a", &[3, 2, 1, 0, 0]));
    assert_eq!(hold(&mut scene), Hold::NoEndpoints);
    scene.pool(0.0, 0.1);
    assert_eq!(hold(&mut scene), expected(None));
    scene.shows([2, 1, 1, 1]);
    assert_eq!(hold(&mut scene), expected(Some(1.25)));
}

#[test]
fn nothing_is_kept_of_subsets_that_are_gone() {
    let mut scene = Scene::new(fair(Deficit::default()));
    scene.pool(1.0, 0.1);
    let mut tickets = Vec::new();
    for n in 0..5_000 {
        let flow = format!("tenant-{}", n % 50);
        tickets.push(scene.ask(only(&flow, &[n, n + 1])));
    }
    let n_known = scene.flow.subsets().len();
    assert_eq!(n_known, Bounds::default().max_subsets);
    for ticket in tickets {
        scene.flow.cancel(scene.now, ticket, &mut scene.effects);
    }
    assert!(scene.flow.subsets().is_empty() && !scene.flow.lacks_signals());
    // The next is the first again.
    scene.ask(only("a", &[0]));
    assert_eq!(scene.flow.subsets().len(), 1);
    scene.effects.clear();
    scene.shows([0; 4]);
    assert_eq!(scene.went().len(), 1);
}
