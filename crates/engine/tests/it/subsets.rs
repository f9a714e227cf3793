//! Requests that are restricted to some endpoints, in flow control (`spec/request-path.md` §A.4, defect 31).

use std::time::Duration;

use router_framework::{EndpointSink, RequestHead, SubsetHint};
use router_testkit::router::{ONE_AT_A_TIME, RouterBuilder, head, spec, with_header};

use crate::{queueing::World, roles::CHAT_PATH};

/// The head of a request for these endpoints alone.
pub(crate) fn only(entries: &[&str]) -> RequestHead {
    let entries = entries.iter().map(|entry| (*entry).to_owned()).collect();
    RequestHead { subset: SubsetHint::Only(entries), ..head(CHAT_PATH) }
}

fn important(head: RequestHead) -> RequestHead {
    with_header(head, "x-llm-d-inference-objective", "critical")
}

const FIRST: &[&str] = &["10.0.0.1:8000"];
const SECOND: &[&str] = &["10.0.0.2"];

#[tokio::test(start_paused = true)]
async fn a4_31_a_request_waits_for_its_endpoints_and_holds_up_nobody() {
    let world = World::new("", 3);
    let running = world.ask_with(only(FIRST)).routed().await;
    assert_eq!(running.destination, "10.0.0.1:8000");
    let mut waits = world.ask_with(only(FIRST));
    let mut more_important = world.ask_with(important(only(FIRST)));
    // Of the same flow and of less important bands, whoever has room goes.
    let mut others = vec![world.ask_with(only(SECOND))];
    others.push(world.ask_with(only(&["10.0.0.1", "10.0.0.2", "10.0.0.3"])));
    assert!(others.iter_mut().all(|other| other.look()));
    // The pool is full for whoever may go anywhere, who does not wait for those ahead of it.
    let mut anywhere = world.ask("batch");
    assert!(!anywhere.look() && !waits.look() && !more_important.look());
    assert_eq!(world.n_waiting(), 3);
    let page = world.flow().unwrap().debug_page();
    let reason = page["bands"][0]["flows"][0]["head"]["waitsBecause"].as_str().unwrap();
    assert_eq!(
        reason,
        "the saturation 1.000 of its endpoints 10.0.0.1:8000 has reached the band's ceiling 1.000"
    );
    assert_eq!(page["subsets"]["inUse"], 3);
    // A slot there is for the most important one that waits for it.
    drop(running);
    assert!(more_important.look() && !waits.look() && !anywhere.look());
    drop(more_important.routed().await);
    assert!(waits.look());
    // One elsewhere is for the one that may go anywhere.
    drop(others);
    assert!(anywhere.look());
    assert_eq!(waits.routed().await.destination, "10.0.0.1:8000");
}

#[tokio::test(start_paused = true)]
async fn a4_31_a_pool_that_is_full_elsewhere_holds_up_nobody() {
    let world = World::new("", 2);
    // Requests without a body do not wait.
    let bodyless = RequestHead { end_of_stream: true, ..only(FIRST) };
    let _running = [world.ask_with(bodyless.clone()), world.ask_with(bodyless)];
    let (mut anywhere, mut second) = (world.ask(""), world.ask_with(only(SECOND)));
    assert!(!anywhere.look() && second.look());
}

#[tokio::test(start_paused = true)]
async fn a4_31_a_burst_for_one_endpoint_is_as_many_at_a_time_as_it_serves() {
    let world = World::new("", 4);
    let mut waiting: Vec<_> = (0..20).map(|_| world.ask_with(only(FIRST))).collect();
    for n_left in (0..20).rev() {
        assert_eq!(world.n_waiting(), n_left);
        let at = waiting.iter_mut().position(|request| request.look()).unwrap();
        drop(waiting.remove(at).routed().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a4_31_who_is_held_is_answered_as_anybody_who_waits() {
    let outcome = |world: &World, outcome| {
        world.sum("llm_d_epp_flow_control_requests_total", &[("outcome", outcome)])
    };
    let world = World::new("  defaultRequestTTL: 5s\n  maxRequests: 2\n", 2);
    let _running = world.ask_with(only(FIRST)).routed().await;
    let started = world.clock().now();
    let (status, reason, _) = world.ask_with(only(FIRST)).refused().await;
    assert_eq!((status, reason), (429, "rejected-ttl-expired"));
    assert_eq!(world.clock().now().since(started).as_secs(), 5);
    drop(world.ask_with(only(FIRST)));
    assert_eq!((world.n_waiting(), outcome(&world, "EvictedContextCancelled")), (0, 1.0));
    // One that is full of those who are held is full.
    let batch = with_header(only(FIRST), "x-llm-d-inference-objective", "batch");
    let (shed, waits) = (world.ask_with(batch), world.ask_with(only(FIRST)));
    let mut anywhere = world.ask("");
    assert!(anywhere.look(), "it takes the place of sheddable work, and goes");
    assert_eq!(shed.refused().await.1, "rejected-saturated");
    world.flow().unwrap().shut_down();
    assert_eq!(waits.refused().await, (503, "rejected-shutting-down", 1));
}

#[tokio::test(start_paused = true)]
async fn a4_31_who_waits_for_endpoints_that_leave_is_told_so_at_once() {
    let world = World::new("", 2);
    let _running = [world.ask_with(only(FIRST)), world.ask_with(only(SECOND))];
    let (gone, mut stays) = (world.ask_with(only(FIRST)), world.ask_with(only(SECOND)));
    let both = &["10.0.0.1", "10.0.0.2"];
    let mut either = world.ask_with(only(both));
    world.datastore().replace(vec![spec(1)]);
    assert_eq!(gone.refused().await, (503, "rejected-no-endpoints", 1));
    assert!(!stays.look() && !either.look());
    // An empty pool is waited for. When it is one again, it is not theirs.
    world.datastore().replace(vec![]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!stays.look() && !either.look());
    world.datastore().replace(vec![spec(0), spec(6)]);
    assert_eq!(stays.refused().await, (503, "rejected-no-endpoints", 1));
    tokio::task::yield_now().await;
    assert!(either.look());
}

#[tokio::test(start_paused = true)]
async fn a4_31_room_is_made_on_the_endpoints_that_are_waited_for() {
    let world = World::new("  enableEviction: true\n", 2);
    let batch = |entries| with_header(only(entries), "x-llm-d-inference-objective", "batch");
    let first = world.ask_with(batch(FIRST)).routed().await;
    let mut second = world.ask_with(batch(SECOND)).routed().await;
    let mut waits = world.ask_with(important(only(SECOND)));
    second.exchange.eviction().unwrap().await;
    second.exchange.evict();
    drop(second);
    assert!(waits.look());
    let told = tokio::time::timeout(Duration::from_secs(5), first.exchange.eviction().unwrap());
    assert!(told.await.is_err(), "its room would have helped nobody");
}

#[tokio::test(start_paused = true)]
async fn subsets_are_not_told_apart_where_they_are_not_looked_at() {
    let builder = RouterBuilder::new(ONE_AT_A_TIME).endpoints(2);
    let world = World::of(builder.settings(|settings| settings.disable_subset_filter = true));
    let running = world.ask_with(only(FIRST)).routed().await;
    let mut other = world.ask_with(only(FIRST));
    assert!(other.look());
    drop(running);
    assert_eq!(world.flow().unwrap().debug_page()["subsets"]["inUse"], 0);
    let entries: Vec<String> = (0..2_000).map(|n| format!("10.0.0.1:{n}")).collect();
    let long: Vec<&str> = entries.iter().map(String::as_str).chain(["10.0.0.1"]).collect();
    let world = World::new("", 2);
    let _runs = world.ask_with(only(&long)).routed().await;
    let page = world.flow().unwrap().debug_page();
    assert_eq!(page["subsets"], serde_json::json!({"inUse": 0, "requestsNotJudgedByTheirs": 1}));
    assert_eq!(world.sum("llm_d_epp_flow_control_subsets_judged_as_pool_total", &[]), 1.0);
}
