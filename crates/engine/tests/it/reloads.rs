//! Flow control of a configuration that replaces another while requests are under way.

use std::sync::Arc;

use router_testkit::router::{ONE_AT_A_TIME, RouterBuilder, head, spec};
use serde_json::Value;

use crate::{
    queueing::{Waiting, World},
    roles::{CHAT_PATH, chunk, respond},
    subsets::only,
};

const FIRST: &[&str] = &["10.0.0.1:8000"];
const SECOND: &[&str] = &["10.0.0.2:8000"];

fn four_at_a_time() -> World {
    let config = ONE_AT_A_TIME.replace("maxConcurrency: 1", "maxConcurrency: 4");
    World::of(RouterBuilder::new(&config).endpoints(2))
}

/// What a router does with its configurations: `world` is the new one.
fn replace(earlier: &[&World], world: World) -> World {
    // It has looked at the pool before it is told of the others.
    assert_eq!(pool(&world)["saturation"], 0.0);
    let earlier: Vec<_> = earlier.iter().map(|world| Arc::clone(world.flow().unwrap())).collect();
    world.flow().unwrap().follows(&earlier);
    earlier.iter().for_each(|flow| flow.retire());
    world
}

fn pool(world: &World) -> Value {
    world.flow().unwrap().debug_page()["pool"].take()
}

fn ask(world: &World, n: usize) -> Vec<Waiting> {
    (0..n).map(|_| world.ask("")).collect()
}

fn n_gone(requests: &mut [Waiting]) -> usize {
    requests.iter_mut().map(|request| usize::from(request.look())).sum()
}

#[tokio::test(start_paused = true)]
async fn a_reload_is_no_reason_to_overrun_the_pool() {
    let first = four_at_a_time();
    let mut before = ask(&first, 8);
    assert_eq!(n_gone(&mut before), 8);
    let second = replace(&[&first], four_at_a_time());
    let mut between = ask(&second, 4);
    assert_eq!((n_gone(&mut between), second.n_waiting()), (0, 4));
    assert_eq!(pool(&second)["saturation"], 1.0);
    // The room of those that end is seen at once, whoever they were.
    before.truncate(7);
    assert_eq!(n_gone(&mut between), 1);
    let third = replace(&[&first, &second], four_at_a_time());
    let mut after = ask(&third, 4);
    assert_eq!(n_gone(&mut after), 0);
    before.truncate(4);
    assert_eq!((n_gone(&mut between), n_gone(&mut after)), (4, 0));
    between.truncate(1);
    assert_eq!(n_gone(&mut after), 3);
    drop(before);
    assert_eq!(n_gone(&mut after), 4);
    drop((between, after));
    for world in [&first, &second, &third] {
        assert_eq!(pool(world)["saturation"], 0.0);
        assert_eq!(pool(world)["inFlight"]["requests"], 0);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_waited_through_a_reload_count_when_they_go() {
    let old = World::new("", 2);
    let mut before = ask(&old, 3);
    assert_eq!(n_gone(&mut before), 2);
    let new = replace(&[&old], World::new("", 2));
    let mut after = ask(&new, 1);
    before.remove(0);
    assert_eq!((n_gone(&mut before), n_gone(&mut after)), (2, 0));
    before.remove(0);
    assert_eq!((n_gone(&mut before), n_gone(&mut after)), (1, 1));
    // Who gives up while they run leaves room as well.
    let mut next = ask(&new, 1);
    assert_eq!(n_gone(&mut next), 0);
    drop(before);
    assert_eq!(n_gone(&mut next), 1);
}

#[tokio::test(start_paused = true)]
async fn what_runs_on_some_endpoints_counts_for_those_who_want_them() {
    let old = four_at_a_time();
    let mut before: Vec<_> = (0..4).map(|_| old.ask_with(only(FIRST))).collect();
    assert_eq!(n_gone(&mut before), 4);
    let new = replace(&[&old], four_at_a_time());
    let (mut first, mut second) = (new.ask_with(only(FIRST)), new.ask_with(only(SECOND)));
    assert_eq!((first.look(), second.look()), (false, true));
    before.truncate(3);
    assert!(first.look());
}

#[tokio::test(start_paused = true)]
async fn tokens_of_earlier_configurations_count_like_their_requests() {
    let tokens = "{concurrencyMode: tokens, maxTokenConcurrency: 1}";
    let config = ONE_AT_A_TIME.replace("{maxConcurrency: 1}", tokens);
    let world = || World::of(RouterBuilder::new(&config).endpoints(1));
    let old = world();
    let before = old.ask("").routed().await;
    let new = replace(&[&old], world());
    let mut after = new.ask("");
    assert!(!after.look());
    drop(before);
    assert!(after.look());
}

#[tokio::test(start_paused = true)]
async fn each_stage_has_what_is_in_it() {
    let role = |at, role| spec(at).with_labels([("llm-d.ai/role", role)]);
    let builder = || RouterBuilder::new(ONE_AT_A_TIME);
    let world = || World::of(builder().specs(vec![role(0, "prefill"), role(1, "decode")]));
    let stages = |world: &World| {
        let signal = pool(world)["signal"].take();
        let value = |stage: &str| signal[stage]["saturation"].as_f64();
        (value("prefill"), value("decode"))
    };
    let old = world();
    let mut before = old.ask_with(head(CHAT_PATH)).routed().await;
    let new = replace(&[&old], world());
    assert_eq!(stages(&new), (Some(1.0), Some(1.0)));
    respond(&mut before.exchange, 200, "text/event-stream");
    chunk(&mut before.exchange, "data: {}\n\n");
    assert_eq!(stages(&new), (Some(0.0), Some(1.0)));
    drop(before);
    assert_eq!(stages(&new), (Some(0.0), Some(0.0)));
}

#[tokio::test(start_paused = true)]
async fn what_endpoints_say_themselves_has_the_requests_of_all() {
    let config = ONE_AT_A_TIME
        .replace("concurrency-detector", "utilization-detector")
        .replace("\n  parameters: {maxConcurrency: 1}", "");
    let world = || World::of(RouterBuilder::new(&config).endpoints(1));
    let old = world();
    let mut before = ask(&old, 3);
    assert_eq!(n_gone(&mut before), 3);
    let new = replace(&[&old], world());
    // Nothing is known of the endpoint: what runs there counts instead, for a hundred at a time.
    tokio::time::advance(std::time::Duration::from_millis(10)).await;
    assert_eq!(pool(&new)["saturation"], 0.03);
    new.publish(0, |signals| signals.waiting = 1.0);
    tokio::time::advance(std::time::Duration::from_millis(10)).await;
    assert_eq!(pool(&new)["saturation"], 0.2);
}
