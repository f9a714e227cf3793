//! Many requests at once, each at its own pace and with its own end: nothing of them stays.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;
use proptest::{collection::vec, prelude::*};
use router_core::{ErrorCode, Rejection};
use router_engine::{AttemptFailure, BodyFeed, Decision, Exchange};
use router_framework::{DataProducer, EndCause, EndpointSink, Outputs, Produced, RequestCx};
use router_testkit::router::{RouterBuilder, TestRouter, head, named, spec};

use crate::roles::{CHAT_PATH, Ledger, chunk, respond, respond_as};

const CONFIG: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: active-request-scorer
- type: token-load-scorer
- type: prefix-cache-scorer
- type: no-hit-lru-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: active-request-scorer, weight: 1}
  - {pluginRef: token-load-scorer, weight: 1}
  - {pluginRef: prefix-cache-scorer, weight: 1}
  - {pluginRef: no-hit-lru-scorer, weight: 1}
";

/// Requests that are under way at once.
const N_REQUESTS: usize = 12;
const N_ENDPOINTS: usize = 6;

/// What happens next, to which request.
#[derive(Clone, Debug)]
enum Step {
    /// The request takes its next natural step: begin, body, decision, head, chunks, end.
    On(usize),
    /// The driver lets go of it wherever it is.
    Drop(usize),
    AttemptFails(usize),
    /// Another endpoint served than the one expected.
    ServedBy(usize, usize),
    EndsWith(usize, EndCause),
    Reject(usize),
    /// The body is cut short by an error of the driver.
    BodyFails(usize),
    /// The pool holds these endpoints from here on.
    Pool(Vec<bool>),
    Wait(u64),
}

enum Stage {
    Body(BodyFeed, Decision),
    Deciding(BodyFeed, Decision),
    Routed(Exchange),
    Responding(Exchange, u8),
}

fn step() -> impl Strategy<Value = Step> {
    let request = || 0..N_REQUESTS;
    prop_oneof![
        12 => request().prop_map(Step::On),
        2 => request().prop_map(Step::Drop),
        2 => request().prop_map(Step::AttemptFails),
        1 => (request(), 0..N_ENDPOINTS).prop_map(|(at, by)| Step::ServedBy(at, by)),
        1 => (request(), prop_oneof![
            Just(EndCause::Natural), Just(EndCause::Error), Just(EndCause::Evicted),
            Just(EndCause::ClientDisconnect)
        ]).prop_map(|(at, cause)| Step::EndsWith(at, cause)),
        1 => request().prop_map(Step::Reject),
        1 => request().prop_map(Step::BodyFails),
        1 => vec(any::<bool>(), N_ENDPOINTS).prop_map(Step::Pool),
        4 => (0..20_u64).prop_map(Step::Wait),
    ]
}

/// Makes decisions overlap.
struct Slow;

impl DataProducer for Slow {
    fn produce<'a>(&'a self, cx: &RequestCx<'a>) -> Produced<'a> {
        let time = Duration::from_millis(cx.request.id % 8);
        Produced::Later(Box::pin(async move {
            tokio::time::sleep(time).await;
            Ok(Outputs::default())
        }))
    }
}

struct World {
    router: TestRouter,
    ledger: Arc<Ledger>,
    requests: [Option<Stage>; N_REQUESTS],
}

impl World {
    fn new() -> Self {
        let ledger = Arc::new(Ledger::default());
        let join = ledger.join();
        let router = RouterBuilder::new(CONFIG)
            .endpoints(N_ENDPOINTS)
            .change(|loaded| {
                let slow: Arc<dyn DataProducer> = Arc::new(Slow);
                loaded.producers.push(named("slow", slow));
                join(loaded);
            })
            .build();
        Self { router, ledger, requests: std::array::from_fn(|_| None) }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::On(at) => {
                let stage = self.requests[at].take();
                self.requests[at] = self.next(at, stage);
            }
            Step::Drop(at) => self.requests[at] = None,
            Step::AttemptFails(at) => {
                if let Some(Stage::Routed(exchange)) = &mut self.requests[at]
                    && exchange.attempt_failed(AttemptFailure::Unreachable).is_none()
                {
                    exchange.reject(&Rejection::new(ErrorCode::ServiceUnavailable, "none left"));
                }
            }
            Step::ServedBy(at, by) => match self.requests[at].take() {
                Some(Stage::Routed(mut exchange)) => {
                    let served = format!("10.0.0.{}:8000", by + 1);
                    respond_as(&mut exchange, 200, "text/event-stream", Some(&served));
                    self.requests[at] = Some(Stage::Responding(exchange, 0));
                }
                other => self.requests[at] = other,
            },
            Step::EndsWith(at, cause) => {
                if let Some(Stage::Routed(exchange) | Stage::Responding(exchange, _)) =
                    &mut self.requests[at]
                {
                    exchange.end(cause);
                }
            }
            Step::Reject(at) => {
                if let Some(Stage::Routed(exchange) | Stage::Responding(exchange, _)) =
                    &mut self.requests[at]
                {
                    exchange.reject(&Rejection::internal("the driver gave up"));
                }
            }
            Step::BodyFails(at) => {
                if let Some(Stage::Body(feed, _)) = &mut self.requests[at] {
                    feed.fail(Rejection::new(ErrorCode::RequestTimeout, "too slow"));
                }
            }
            Step::Pool(members) => {
                let members = members.iter().enumerate().filter(|(_, is_in)| **is_in);
                self.router.datastore().replace(members.map(|(at, _)| spec(at)).collect());
            }
            Step::Wait(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
        }
    }

    fn next(&self, at: usize, stage: Option<Stage>) -> Option<Stage> {
        match stage {
            None => {
                let (mut feed, decision) = self.router.begin(head(CHAT_PATH));
                feed.push(&r#"{"model":"m","messages":[{"role":"user","content":""#.into());
                Some(Stage::Body(feed, decision))
            }
            Some(Stage::Body(mut feed, decision)) => {
                feed.push(&format!("{}\"}}]}}", "words and words ".repeat(at * 20)).into());
                feed.end();
                Some(Stage::Deciding(feed, decision))
            }
            Some(Stage::Deciding(feed, mut decision)) => match (&mut decision).now_or_never() {
                None => Some(Stage::Deciding(feed, decision)),
                Some(Ok(routed)) => Some(Stage::Routed(routed.exchange)),
                Some(Err(_)) => None,
            },
            Some(Stage::Routed(mut exchange)) => {
                respond(&mut exchange, if at == 0 { 500 } else { 200 }, "text/event-stream");
                Some(Stage::Responding(exchange, 0))
            }
            Some(Stage::Responding(mut exchange, n_chunks)) if n_chunks < 3 => {
                chunk(&mut exchange, "data: {\"usage\":{\"completion_tokens\":3}}\n\n");
                Some(Stage::Responding(exchange, n_chunks + 1))
            }
            Some(Stage::Responding(mut exchange, _)) => {
                exchange.end(EndCause::Natural);
                None
            }
        }
    }

    /// What is counted as in flight must be what the test holds.
    fn check(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.ledger.unsound().len(), self.n_open());
        Ok(())
    }

    /// Requests that hold leases.
    fn n_open(&self) -> usize {
        let is_open = |stage: &&Stage| match stage {
            Stage::Routed(exchange) | Stage::Responding(exchange, _) => !exchange.has_ended(),
            Stage::Body(..) | Stage::Deciding(..) => false,
        };
        self.requests.iter().flatten().filter(is_open).count()
    }

    fn check_empty(&self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.ledger.unsound(), Vec::<Vec<String>>::new());
        prop_assert_eq!(self.router.budget().held(), 0);
        for gauge in ["inflight_requests", "inflight_tokens", "request_running"] {
            prop_assert_eq!(self.router.sum(&format!("llm_d_epp_{gauge}"), &[]), 0.0, "{}", gauge);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn nothing_of_a_request_stays(steps in vec(step(), 1..300)) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.take(step).await;
                world.check()?;
            }
            world.requests = std::array::from_fn(|_| None);
            world.check_empty()
        })?;
    }
}
