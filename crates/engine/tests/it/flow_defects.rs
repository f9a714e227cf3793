//! The defects of the Go implementation's flow control (`spec/request-path.md` §A.4) that the pipeline as a whole
//! does not have; those inside the queues are in `router_flow`.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Waker},
    time::Duration,
};

use bytes::Bytes;
use router_engine::{BodyFeed, BodyLease, Decision};
use router_framework::{EndpointSink, RequestHead};
use router_testkit::router::{ONE_AT_A_TIME, RouterBuilder, head, spec, with_header};

use crate::{
    queueing::{Brittle, Waiting, World},
    roles::{CHAT, CHAT_PATH},
    subsets::only,
};

#[tokio::test(start_paused = true)]
async fn a4_31_a_subset_without_endpoints_is_an_answer_and_not_a_wait() {
    let world = World::new("", 1);
    let running = world.ask("").routed().await;
    let nobody = world.ask_with(only(&["10.9.9.9:1"]));
    assert_eq!(nobody.refused().await, (503, "rejected-no-endpoints", 1));
    // One whose endpoints go while it waits is told so when it is its turn, and keeps nobody else waiting.
    let (left, mut next) = (world.ask_with(only(&["10.0.0.1"])), world.ask(""));
    world.datastore().replace(vec![spec(7)]);
    drop(running);
    assert_eq!(left.refused().await, (503, "rejected-no-endpoints", 1));
    assert!(next.look());
}

/// Asks for a chat whose client waits for so long, by the header of that name.
fn ask_within(world: &World, name: &'static str, millis: &str) -> Waiting {
    world.ask_with(with_header(head(CHAT_PATH), name, millis))
}

#[tokio::test(start_paused = true)]
async fn a4_37_a_request_waits_no_longer_than_its_client() {
    let band = "\n  defaultPriorityBand: {orderingPolicyRef: edf-ordering-policy}\n";
    let document = ONE_AT_A_TIME.replace("\nplugins:", "\nplugins:\n- type: edf-ordering-policy");
    let world =
        World::of(RouterBuilder::new(&format!("{}{band}", document.trim_end())).endpoints(1));
    let running = world.ask("").routed().await;
    let (told, expected) = ("x-envoy-upstream-rq-timeout-ms", "x-envoy-expected-rq-timeout-ms");
    let mut silent = world.ask("");
    let mut patient = ask_within(&world, told, "40000");
    let mut hurried = ask_within(&world, expected, "30000");
    let short = ask_within(&world, expected, "1000");
    // None of these is a time: they wait as long as the configuration says.
    let odd: Vec<Waiting> =
        ["0", "-1", "soon", "1e9"].map(|text| ask_within(&world, told, text)).into();
    assert_eq!(world.n_waiting(), 8);
    assert_eq!(short.refused().await, (429, "rejected-ttl-expired", 1));
    drop(odd);
    drop(running);
    assert_eq!((hurried.look(), patient.look(), silent.look()), (true, false, false));
    drop(hurried);
    assert_eq!((patient.look(), silent.look()), (true, false));
    drop(patient);
    assert!(silent.look());
}

/// A body that says when nobody has it any more.
struct Watched(Vec<u8>, Arc<AtomicBool>);

impl AsRef<[u8]> for Watched {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.1.store(true, Ordering::Relaxed);
    }
}

/// Room for 64 KiB of prompt.
const PROMPT: usize = 64 * 1024;

/// A request with a large body, and what a driver holds of it while it waits.
struct Large {
    decision: Decision,
    lease: BodyLease,
    body: Bytes,
    is_gone: Arc<AtomicBool>,
}

fn large(world: &World, head: RequestHead) -> Large {
    let prompt = "x".repeat(PROMPT);
    let text = CHAT.replace("hello", &prompt);
    let is_gone = Arc::new(AtomicBool::new(false));
    let body = Bytes::from_owner(Watched(text.into_bytes(), Arc::clone(&is_gone)));
    let received = world.clock().now();
    let (mut feed, mut decision): (BodyFeed, _) = world.begin(RequestHead { received, ..head });
    feed.push(&body);
    feed.end();
    let lease = feed.into_lease();
    assert!(Pin::new(&mut decision).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    Large { decision, lease, body, is_gone }
}

#[tokio::test(start_paused = true)]
async fn a4_38_a_queued_body_counts_once_and_every_end_gives_it_back() {
    type End = fn(&World);
    let ends: [(&str, &str, Option<u16>, End); 6] = [
        ("let go", "", None, |_| {}),
        ("expired", "  defaultRequestTTL: 5s\n", Some(429), |_| {}),
        ("without endpoints", "  noEndpointRequestTTL: 5s\n", Some(503), |world| {
            world.datastore().replace(vec![]);
        }),
        ("displaced", "  maxRequests: 1\n", Some(429), |world| {
            drop(world.ask("critical"));
        }),
        ("drained", "", Some(503), |world| world.flow().unwrap().shut_down()),
        ("hung up", "", Some(0), |_| {}),
    ];
    for (what, more, status, end) in ends {
        let world = World::new(more, 1);
        let running = world.ask("").routed().await;
        let batch = with_header(head(CHAT_PATH), "x-llm-d-inference-objective", "batch");
        let Large { decision, lease, body, is_gone } = large(&world, batch);
        assert_eq!(world.budget().held(), body.len(), "{what}");
        assert_eq!(world.sum("llm_d_epp_flow_control_queue_bytes", &[]), body.len() as f64);
        end(&world);
        let routed = match status {
            None => {
                drop(running);
                Some(decision.await.unwrap())
            }
            Some(0) => {
                drop(decision);
                None
            }
            Some(status) => {
                let rejection = decision.await.unwrap_err();
                assert_eq!(rejection.code.http_status(), status, "{what}");
                None
            }
        };
        assert_eq!(world.n_waiting(), 0, "{what}");
        assert_eq!(world.sum("llm_d_epp_flow_control_queue_bytes", &[]), 0.0, "{what}");
        // The driver alone still has it; when it has sent it, or has answered, nobody does.
        assert!(!is_gone.load(Ordering::Relaxed), "{what}");
        drop((lease, body));
        assert_eq!(world.budget().held(), 0, "{what}");
        assert!(is_gone.load(Ordering::Relaxed), "{what}: somebody keeps the body");
        drop(routed);
    }
}

#[tokio::test(start_paused = true)]
async fn a4_38_bodies_of_the_evicted_and_of_failed_policies_are_given_back() {
    let world = World::new("  enableEviction: true\n", 1);
    let batch = with_header(head(CHAT_PATH), "x-llm-d-inference-objective", "batch");
    let running = world.ask("").routed().await;
    let waits = large(&world, batch);
    drop(running);
    let mut evicted = waits.decision.await.unwrap();
    let critical = world.ask("critical");
    evicted.exchange.eviction().unwrap().await;
    evicted.exchange.evict();
    drop((waits.lease, waits.body));
    assert!(waits.is_gone.load(Ordering::Relaxed));
    drop(critical.routed().await);
    let world = World::of(RouterBuilder::new(ONE_AT_A_TIME).endpoints(1).change(|loaded| {
        loaded.flow.as_mut().unwrap().config.template.ordering = Arc::new(Brittle);
    }));
    let slo = with_header(head(CHAT_PATH), "x-llm-d-slo-ttft-ms", "200");
    assert_eq!(world.ask_with(slo).told().await.unwrap_err().code.http_status(), 500);
    assert_eq!(world.budget().held(), 0);
    assert_eq!(world.sum("llm_d_epp_flow_control_queue_bytes", &[]), 0.0);
}

/// Types of the policies of flow control, with the parameters that they cannot do without.
const POLICIES: [(&str, &str); 13] = [
    ("static-usage-limit-policy", "{}"),
    ("priority-holdback-policy", "{minCeiling: 0.5}"),
    ("soft-reflective-ceiling-policy", "{}"),
    ("fcfs-ordering-policy", "{}"),
    ("edf-ordering-policy", "{}"),
    ("slo-deadline-ordering-policy", "{}"),
    ("global-strict-fairness-policy", "{}"),
    ("round-robin-fairness-policy", "{}"),
    ("deficit-fairness-policy", "{}"),
    ("program-aware-fairness", "{}"),
    ("sheddable-eviction-filter", "{}"),
    ("priority-then-time-eviction-order-policy", "{}"),
    ("utilization-detector", "{}"),
];

#[tokio::test(start_paused = true)]
async fn a4_40_every_policy_reports_the_type_that_it_is_registered_as() {
    let declare = |(policy, params)| {
        format!("- {{type: {policy}, name: my-{policy}, parameters: {params}}}\n")
    };
    let declared = POLICIES.map(declare).concat();
    let profiles = "schedulingProfiles:";
    let config = ONE_AT_A_TIME.replace(profiles, &format!("{declared}{profiles}"));
    let limit = "  usageLimitPolicyPluginRef: my-static-usage-limit-policy\n";
    let state = RouterBuilder::new(&format!("{config}{limit}")).build().plugin_state();
    for (policy, _) in POLICIES {
        let shown = &state["plugins"][format!("my-{policy}")];
        assert_eq!(shown["type"], policy, "{state}");
    }
}

/// The default detector, which goes by scrapes.
fn by_scrapes(gate: &str) -> String {
    format!(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n{gate}plugins:\n\
         - type: queue-scorer\n- type: utilization-detector\n- type: probabilistic-admitter\n\
         schedulingProfiles:\n- name: default\n  plugins:\n  - {{pluginRef: queue-scorer}}\n  \
         - {{pluginRef: utilization-detector}}\n"
    )
}

/// As many as 100 for each endpoint.
const MAX_IN_FLIGHT: usize = 200;

#[tokio::test(start_paused = true)]
async fn a4_41_without_metrics_in_flight_requests_are_what_sheddable_ones_are_shed_by() {
    let builder = RouterBuilder::new(&by_scrapes("")).endpoints(2).objective("batch", -10);
    let world = builder.build();
    let batch = || with_header(head(CHAT_PATH), "x-llm-d-inference-objective", "batch");
    let mut running = Vec::new();
    for _ in 0..MAX_IN_FLIGHT {
        running.push(world.decide(batch(), CHAT).await.expect("nothing is known to be full"));
    }
    let judged = "llm_d_epp_admission_without_signals_total";
    assert_eq!(world.sum(judged, &[("name", "epp")]), MAX_IN_FLIGHT as f64);
    let refused = world.decide(batch(), CHAT).await.unwrap_err();
    assert_eq!(refused.code.http_status(), 429);
    running.push(world.decide(head(CHAT_PATH), CHAT).await.expect("not sheddable"));
    running.truncate(MAX_IN_FLIGHT - 1);
    running.push(world.decide(batch(), CHAT).await.expect("one has ended"));
    // One endpoint that says something is enough to go by.
    world.publish(0, |signals| (signals.waiting, signals.kv_usage) = (9.0, 0.1));
    running.clear();
    assert_eq!(world.decide(batch(), CHAT).await.unwrap_err().code.http_status(), 429);
}

#[tokio::test(start_paused = true)]
async fn a4_41_without_metrics_in_flight_requests_are_what_is_waited_for() {
    let gate = "featureGates: [flowControl]\n";
    let world = World::of(RouterBuilder::new(&by_scrapes(gate)).endpoints(2));
    let counting = [("stage", "decode")];
    let counting = || world.sum("llm_d_epp_flow_control_counting_in_flight", &counting);
    let mut running = Vec::new();
    for nth in 0..MAX_IN_FLIGHT {
        let objective = if nth % 2 == 0 { "batch" } else { "" };
        running.push(world.ask(objective).told().await.expect("nothing is known to be full"));
    }
    assert_eq!(counting(), 1.0);
    let mut next = world.ask("batch");
    assert!(!next.look());
    drop(running.pop());
    assert!(next.look());
    let late = world.ask("batch");
    for at in 0..2 {
        world.publish(at, |signals| (signals.waiting, signals.kv_usage) = (0.0, 0.1));
    }
    world.signals_changed();
    tokio::time::sleep(Duration::from_millis(60)).await;
    drop(late.routed().await);
    assert_eq!(counting(), 0.0);
}
