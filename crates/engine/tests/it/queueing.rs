//! Requests that wait in flow control: who goes when, and what those are told who do not.

use std::{
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use router_core::{ErrorCode, Rejection};
use router_engine::{AttemptFailure, Decision, Routed};
use router_flow::{Arrival, OrderingPolicy, Rank};
use router_framework::{
    DataProducer, EndCause, EndpointSink, Outputs, Produced, RequestCx, RequestHead, SubsetHint,
};
use router_rt::Tasks;
use router_testkit::router::{
    ONE_AT_A_TIME, RouterBuilder, TestRouter, head, named, spec, with_header,
};

use crate::roles::{CHAT, CHAT_PATH, KeepsNothing, Refuses, chunk, complete, respond};

/// A router whose flow control is at work.
pub(crate) struct World {
    router: TestRouter,
    _tasks: Tasks,
}

impl std::ops::Deref for World {
    type Target = TestRouter;

    fn deref(&self) -> &TestRouter {
        &self.router
    }
}

impl World {
    pub(crate) fn new(more: &str, n_endpoints: usize) -> Self {
        Self::of(RouterBuilder::new(&format!("{ONE_AT_A_TIME}{more}")).endpoints(n_endpoints))
    }

    pub(crate) fn of(builder: RouterBuilder) -> Self {
        let builder = builder.objective("critical", 100).objective("batch", -10);
        let (router, tasks) = (builder.build(), Tasks::new());
        let alarm = router.flow().unwrap().run(router.datastore().changes());
        drop(tasks.spawn_cancellable("flow control", alarm));
        Self { router, _tasks: tasks }
    }

    /// A request of this objective, whose body has come. It has been decided on as far as can be.
    pub(crate) fn ask(&self, objective: &str) -> Waiting {
        self.ask_with(with_header(head(CHAT_PATH), "x-llm-d-inference-objective", objective))
    }

    pub(crate) fn ask_with(&self, head: RequestHead) -> Waiting {
        let received = self.router.clock().now();
        let (mut feed, decision) = self.router.begin(RequestHead { received, ..head });
        feed.push(&CHAT.into());
        feed.end();
        let mut waiting = Waiting { decision, told: None };
        waiting.look();
        waiting
    }

    pub(crate) fn n_waiting(&self) -> u64 {
        self.flow().unwrap().n_waiting()
    }
}

/// A request that has been sent.
pub(crate) struct Waiting {
    decision: Decision,
    told: Option<Result<Routed, Rejection>>,
}

impl Waiting {
    pub(crate) fn look(&mut self) -> bool {
        if self.told.is_none() {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(told) = Pin::new(&mut self.decision).poll(&mut cx) {
                self.told = Some(told);
            }
        }
        self.told.is_some()
    }

    pub(crate) async fn told(self) -> Result<Routed, Rejection> {
        match self.told {
            Some(told) => told,
            None => self.decision.await,
        }
    }

    pub(crate) async fn routed(self) -> Routed {
        self.told().await.unwrap()
    }

    /// Status, drop reason and whole seconds after which to come again.
    pub(crate) async fn refused(self) -> (u16, &'static str, u64) {
        let rejection = self.told().await.unwrap_err();
        let after = rejection.retry_after.expect("a time to come again");
        let reason = rejection.reason.map_or("", router_core::DropReason::as_str);
        (rejection.code.http_status(), reason, after.as_secs())
    }
}

#[tokio::test(start_paused = true)]
async fn the_important_go_first_and_the_others_wait() {
    let world = World::new("", 1);
    let running = world.ask("").routed().await;
    let (mut low, mut plain) = (world.ask("batch"), world.ask(""));
    let mut high = world.ask("critical");
    assert_eq!(world.n_waiting(), 3);
    drop(running);
    assert_eq!((high.look(), plain.look(), low.look()), (true, false, false));
    drop(high);
    assert_eq!((plain.look(), low.look()), (true, false));
    drop(plain);
    assert!(low.look());
    let name = "llm_d_epp_flow_control_requests_total";
    for priority in ["100", "0", "-10"] {
        let labels = [("outcome", "Dispatched"), ("priority", priority)];
        let expected = if priority == "0" { 2.0 } else { 1.0 };
        assert_eq!(world.sum(name, &labels), expected, "{priority}");
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_ends_a_request_lets_the_next_go() {
    let ends: [(&str, fn(Routed)); 5] = [
        ("its answer", |mut routed| complete(&mut routed.exchange, 200, "{}")),
        ("an error of the server", |mut routed| complete(&mut routed.exchange, 500, "{}")),
        ("its client before the answer", |routed| drop(routed)),
        ("its client within the answer", |mut routed| {
            respond(&mut routed.exchange, 200, "text/event-stream");
            chunk(&mut routed.exchange, "data: {}\n\n");
            drop(routed);
        }),
        ("no server that takes it", |mut routed| {
            assert!(routed.exchange.attempt_failed(AttemptFailure::Unreachable).is_none());
            routed.exchange.reject(&Rejection::new(ErrorCode::ServiceUnavailable, "nobody"));
        }),
    ];
    for (what, end) in ends {
        let world = World::new("", 1);
        let running = world.ask("").routed().await;
        let mut next = world.ask("");
        assert!(!next.look(), "{what}");
        end(running);
        assert!(next.look(), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_not_used_goes_to_the_next() {
    // A refusal after the queue, and a client that is told and gone.
    let kind = router_framework::FilterKind::Capacity;
    let world = World::of(RouterBuilder::new(ONE_AT_A_TIME).endpoints(1).change(move |loaded| {
        loaded.profiles[0].filters.push(named("none", Arc::new(KeepsNothing(kind))));
    }));
    for _ in 0..3 {
        assert_eq!(world.ask("").refused().await, (429, "rejected-saturated", 1));
    }
    let world = World::new("", 1);
    let running = world.ask("").routed().await;
    let (told, mut next) = (world.ask(""), world.ask(""));
    drop(running);
    assert!(!next.look(), "it is the other's turn");
    drop(told);
    assert!(next.look());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_hangs_up_leaves_the_queue_at_once() {
    let world = World::new("", 1);
    let _running = world.ask("").routed().await;
    let waiting: Vec<_> = (0..10).map(|_| world.ask("")).collect();
    assert_eq!(world.n_waiting(), 10);
    drop(waiting);
    assert_eq!(world.n_waiting(), 0);
    let gone = [("outcome", "EvictedContextCancelled")];
    assert_eq!(world.sum("llm_d_epp_flow_control_requests_total", &gone), 10.0);
    assert_eq!(world.sum("llm_d_epp_flow_control_queue_bytes", &[]), 0.0);
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses_and_says_when_to_come_again() {
    let world = World::new("  maxRequests: 2\n", 1);
    let mut running = world.ask("").routed().await;
    let (mut first, _second) = (world.ask(""), world.ask(""));
    assert_eq!(world.ask("").refused().await, (429, "rejected-saturated", 1));
    // One request went at once and one leaves the queue after eight seconds, so three take some ten or more.
    tokio::time::sleep(Duration::from_secs(8)).await;
    running.exchange.end(EndCause::Natural);
    assert!(first.look());
    let _third = world.ask("");
    let (status, reason, after) = world.ask("").refused().await;
    assert_eq!((status, reason), (429, "rejected-saturated"));
    assert!((10..20).contains(&after), "{after}");
}

/// Counts how often it is asked.
struct Counts(Arc<AtomicUsize>);

impl DataProducer for Counts {
    fn produce<'a>(&'a self, _: &RequestCx<'a>) -> Produced<'a> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Produced::Ready(Ok(Outputs::default()))
    }
}

#[tokio::test(start_paused = true)]
async fn producers_are_not_asked_about_who_is_refused_at_once() {
    let n_asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&n_asked);
    let config = format!("{ONE_AT_A_TIME}  maxRequests: 1\n");
    let world = World::of(RouterBuilder::new(&config).endpoints(1).change(move |loaded| {
        loaded.producers.push(named("counts", Arc::new(Counts(counted))));
    }));
    let asked = || n_asked.swap(0, Ordering::Relaxed);
    let running = world.ask("").routed().await;
    assert_eq!(asked(), 1);
    let mut waiting = world.ask("");
    assert_eq!(asked(), 1, "what it needs may decide whose turn it is");
    assert_eq!(world.ask("").refused().await, (429, "rejected-saturated", 1));
    assert_eq!(asked(), 0);
    // One that has no endpoint is told so, and not that the queue is full.
    let subset = SubsetHint::Only(vec!["10.99.0.1:1".to_owned()]);
    let nowhere = world.ask_with(RequestHead { subset, ..head(CHAT_PATH) });
    assert_eq!(nowhere.refused().await, (503, "rejected-no-endpoints", 1));
    drop(running);
    assert!(waiting.look());
    assert_eq!(asked(), 1, "by what is true by then");
    world.flow().unwrap().shut_down();
    assert_eq!(world.ask("").refused().await, (503, "rejected-shutting-down", 1));
    assert_eq!(asked(), 0);
    for (outcome, n_requests) in [("RejectedCapacity", 1.0), ("RejectedOther", 1.0)] {
        let name = "llm_d_epp_flow_control_requests_total";
        assert_eq!(world.sum(name, &[("outcome", outcome)]), n_requests, "{outcome}");
    }
}

#[tokio::test(start_paused = true)]
async fn prefix_hits_of_who_waited_count_once() {
    let config = ONE_AT_A_TIME.replace("queue-scorer", "prefix-cache-scorer");
    let world = World::of(RouterBuilder::new(&config).endpoints(1));
    let text = "what everybody asks ".repeat(200);
    let body =
        format!(r#"{{"model": "m", "messages": [{{"role": "user", "content": "{text}"}}]}}"#);
    let ask = || {
        let head = RequestHead { received: world.clock().now(), ..head(CHAT_PATH) };
        let (mut feed, decision) = world.begin(head);
        feed.push(&body.clone().into());
        feed.end();
        let mut waiting = Waiting { decision, told: None };
        waiting.look();
        waiting
    };
    let running = ask().routed().await;
    let mut waiting = ask();
    assert!(!waiting.look());
    drop(running);
    assert!(waiting.look());
    assert_eq!(world.sum("llm_d_epp_prefix_indexer_hit_ratio_count", &[]), 2.0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_too_long_ends() {
    let world = World::new("  defaultRequestTTL: 5s\n", 1);
    let _running = world.ask("").routed().await;
    let started = world.clock().now();
    assert_eq!(world.ask("").refused().await.0, 429);
    assert_eq!(world.clock().now().since(started).as_secs(), 5);
    let (_, reason, _) = world.ask("").refused().await;
    assert_eq!(reason, "rejected-ttl-expired");
}

#[tokio::test(start_paused = true)]
async fn an_empty_pool_is_waited_for() {
    let world = World::new("  noEndpointRequestTTL: 20s\n", 0);
    let waiting = world.ask("");
    tokio::time::sleep(Duration::from_secs(15)).await;
    world.datastore().replace(vec![spec(0)]);
    assert_eq!(waiting.routed().await.targets[0].name(), "e0");
    // A pool that empties under load: those that wait have their time, then a reason.
    let _running = world.ask("").routed().await;
    let left = world.ask("");
    world.datastore().replace(vec![]);
    let started = world.clock().now();
    let (status, reason, after) = left.refused().await;
    assert_eq!((status, reason), (503, "rejected-no-endpoints"));
    assert!((20..=60).contains(&after), "{after}");
    let waited = world.clock().now().since(started);
    assert!((Duration::from_secs(19)..Duration::from_secs(21)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_decided_after_a_wait_goes_by_what_is_then() {
    let world = World::new("", 1);
    let running = world.ask("").routed().await;
    let waiting = world.ask("");
    world.datastore().replace(vec![spec(7)]);
    drop(running);
    assert_eq!(waiting.routed().await.targets[0].name(), "e7");
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_body_do_not_wait() {
    let world = World::new("", 1);
    let _running = world.ask("").routed().await;
    let bare = RequestHead { end_of_stream: true, ..head("/v1/models") };
    assert!(world.decide(bare, "").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a4_34_a_drain_refuses_who_waits_only_at_its_end() {
    let world = World::new("", 1);
    let running = world.ask("").routed().await;
    let (finished, late) = (world.ask(""), world.ask(""));
    drop(running);
    let _finished = finished.routed().await;
    world.flow().unwrap().shut_down();
    assert_eq!(late.refused().await, (503, "rejected-shutting-down", 1));
    assert_eq!(world.ask("").refused().await, (503, "rejected-shutting-down", 1));
}

#[tokio::test(start_paused = true)]
async fn a4_33_objectives_have_bands_of_their_own() {
    let world = World::new("", 1);
    let page = world.flow().unwrap().debug_page();
    let priorities: Vec<_> =
        page["bands"].as_array().unwrap().iter().map(|band| band["priority"].clone()).collect();
    assert_eq!(priorities, [100, 0, -10]);
}

#[tokio::test(start_paused = true)]
async fn the_page_says_why_the_head_of_each_flow_waits() {
    let world = World::new("", 1);
    let _running = world.ask("").routed().await;
    let tenant = |id| with_header(head(CHAT_PATH), "x-llm-d-inference-fairness-id", id);
    let _waiting = [world.ask_with(tenant("a")), world.ask_with(tenant("b")), world.ask("batch")];
    tokio::time::sleep(Duration::from_secs(1)).await;
    let page = world.flow().unwrap().debug_page();
    let why = |band: usize, flow: usize| {
        let flow = &page["bands"][band]["flows"][flow];
        let why = flow["head"]["waitsBecause"].as_str().unwrap_or("it does not").to_owned();
        (flow["fairnessId"].as_str().unwrap().to_owned(), why)
    };
    let said = |id: &str, why: &str| (id.to_owned(), why.to_owned());
    let full = "the pool's saturation 1.000 has reached the band's ceiling 1.000";
    assert_eq!(why(1, 0), said("a", full));
    assert_eq!(why(1, 1), said("b", "it is the turn of \"a\""));
    assert_eq!(why(2, 0), said("default-flow", "requests of priority 0 go first"));
    assert_eq!(page["waiting"]["requests"], 3);
    assert_eq!(page["pool"]["inFlight"]["requests"], 1);
}

#[tokio::test(start_paused = true)]
async fn who_runs_makes_room_for_the_important() {
    let more = "  enableEviction: true\n";
    let world = World::new(more, 1);
    let mut running = world.ask("batch").routed().await;
    let mut evicted = pin!(running.exchange.eviction().expect("eviction is on"));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(evicted.as_mut().poll(&mut cx).is_pending());
    let mut critical = world.ask("critical");
    assert!(!critical.look());
    assert!(evicted.as_mut().poll(&mut cx).is_ready());
    let rejection = running.exchange.evict();
    assert_eq!(rejection.code.http_status(), 429);
    assert_eq!(rejection.reason.unwrap().as_str(), "evicted");
    assert!(rejection.retry_after.is_some());
    assert!(critical.look());
    let pool = [("inference_pool", "epp")];
    assert_eq!(world.sum("llm_d_epp_flow_control_revocations_issued_total", &pool), 1.0);
    assert_eq!(
        world.sum("llm_d_epp_flow_control_revocations_total", &[("outcome", "confirmed")]),
        1.0
    );
    assert_eq!(
        world.sum("llm_d_epp_flow_control_revocation_confirmation_seconds_count", &pool),
        1.0
    );
    let errors = [("error_code", "Evicted")];
    assert_eq!(world.sum("llm_d_epp_request_error_total", &errors), 1.0);
}

#[tokio::test(start_paused = true)]
async fn nobody_can_be_evicted_where_that_is_off() {
    let world = World::new("", 1);
    assert!(world.ask("batch").routed().await.exchange.eviction().is_none());
}

/// Fails to put requests in order that ask for a time to first token.
pub(crate) struct Brittle;

impl OrderingPolicy for Brittle {
    fn rank(&self, arrival: &Arrival) -> Rank {
        assert!(arrival.ttft_slo.is_none(), "a bug");
        Rank(arrival.enqueued.as_nanos(), 0)
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_panics_costs_one_request_its_answer() {
    let world = World::of(RouterBuilder::new(ONE_AT_A_TIME).endpoints(1).change(|loaded| {
        loaded.flow.as_mut().unwrap().config.template.ordering = Arc::new(Brittle);
    }));
    let slo = with_header(head(CHAT_PATH), "x-llm-d-slo-ttft-ms", "200");
    let failed = world.ask_with(slo).told().await.unwrap_err();
    assert_eq!(failed.code.http_status(), 500);
    let running = world.ask("").routed().await;
    let mut next = world.ask("");
    drop(running);
    assert!(next.look());
    assert_eq!(world.sum("llm_d_epp_plugin_panics_total", &[]), 1.0);
}

#[tokio::test(start_paused = true)]
async fn every_429_and_503_says_when_to_come_again() {
    let gate_off = ONE_AT_A_TIME.replace("featureGates: [flowControl]", "");
    for config in [ONE_AT_A_TIME, &gate_off] {
        for (code, hinted) in [
            (ErrorCode::ResourceExhausted, true),
            (ErrorCode::ServiceUnavailable, true),
            (ErrorCode::Forbidden, false),
        ] {
            let world = RouterBuilder::new(config)
                .endpoints(1)
                .change(move |loaded| {
                    let refuses = Refuses(Rejection::new(code, "no"));
                    loaded.admitters.push(named("refuses", Arc::new(refuses)));
                })
                .build();
            let refused = world.decide(head(CHAT_PATH), CHAT).await.unwrap_err();
            assert_eq!(refused.retry_after.is_some(), hinted, "{code:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a4_38_queued_bodies_are_limited_in_bytes() {
    let world = World::new(&format!("  maxBytes: {}\n", CHAT.len() + 1), 1);
    let _running = world.ask("").routed().await;
    let mut waiting = world.ask("");
    assert!(!waiting.look());
    assert_eq!(world.ask("").refused().await.0, 429);
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let check = |more: &str, parts: &[&str]| {
        let config = format!("{ONE_AT_A_TIME}{more}");
        let errors = RouterBuilder::new(&config).try_build().err().expect("refused");
        for part in parts {
            assert!(errors.contains(part), "{more}: {errors}");
        }
    };
    check("  expert: {maxPriorityBands: 0}\n", &["maxPriorityBands", "at least 1"]);
    check("  expert: {trickleShare: 2}\n", &["trickleShare", "at most 1"]);
    check("  expert: {minRetryAfter: 5m}\n", &["maxRetryAfter", "must be at least"]);
    check("  expert: {flowIdleTimeout: 1h}\n", &["priorityBandIdleTimeout"]);
    check("  expert: {evictionConfirmationTimeout: 0s}\n", &["must be above 0"]);
    check("  defaultRequestTTL: -1s\n", &["config.yaml:15:22", "must not be negative"]);
    check("  priorityBands: [{priority: 3000000000}]\n", &["32-bit"]);
    check("  evictionFilterPluginRef: queue-scorer\n", &["is not an eviction filter"]);
    check(
        "  expert: {maxPriorityBands: 1}\n  priorityBands: [{priority: 5}]\n",
        &["less than the bands"],
    );
}
