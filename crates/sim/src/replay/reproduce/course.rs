//! What a recording says, done to routers one after another.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use router_core::{DropReason, Endpoint, Rejection, Stamp};
use router_engine::{
    AttemptFailure, Exchange, Recorder, ResponseHead, Routed, Router,
    record::{Event, Queued},
};
use router_framework::EndpointSink;
use router_rt::Clock;
use tokio::sync::mpsc;

use super::{
    Difference, MAX_DIFFERENCES, Report, ReproduceError, SCORE_TOLERANCE, Side, Terms, given,
};
use crate::replay::{
    read::Fault,
    recording::{
        ConfigurationInput, DecisionInput, FailedInput, FailureInput, HeadInput, Input, InputLine,
        ScrapeInput,
    },
    run::{Configuration, router, virtual_time},
};

/// Routers of one recording: each reload makes one.
const MAX_ROUTERS: usize = 1000;
/// What tells that the body of a response has begun; what it says is of no interest.
const FIRST_BYTE: &[u8] = b"\n";
const NAME_OF_BUILT_IN: &str = "built-in configuration";

/// The routers, and the requests that they have under way.
pub(super) struct Course<'a> {
    terms: &'a Terms,
    clock: Clock,
    routers: BTreeMap<u32, Arc<Router>>,
    under_way: BTreeMap<(u32, u64), Exchange>,
    headers: HeaderMap,
    /// The routers are recorded themselves: what they say of their decisions is then of the same kind as what is
    /// compared with it.
    recorder: Recorder,
    recorded: mpsc::Receiver<Queued>,
    report: Report,
}

impl<'a> Course<'a> {
    /// Must be made on the runtime whose clock it goes by.
    pub(super) fn new(terms: &'a Terms) -> Self {
        let clock = router::clock();
        let (recorder, recorded) = Recorder::new(clock, true);
        Self {
            terms,
            clock,
            recorder,
            recorded,
            routers: BTreeMap::new(),
            under_way: BTreeMap::new(),
            headers: HeaderMap::new(),
            report: Report::default(),
        }
    }

    pub(super) fn into_report(self) -> Report {
        self.report
    }

    /// Lets one thing happen. The inner error is what is wrong with the recording.
    pub(super) async fn take(
        &mut self,
        line: usize,
        input: InputLine,
    ) -> Result<Result<(), Fault>, ReproduceError> {
        let InputLine { input, t, router } = input;
        let at = Stamp::from_nanos(t);
        virtual_time::jump(self.clock, at).await;
        match input {
            Input::Configuration(recorded) => return self.configure(router, &recorded),
            Input::Gap { lines } => {
                self.report.n_lines_missing += lines;
                return Ok(Ok(()));
            }
            _ => {}
        }
        let Some(which) = self.routers.get(&router).cloned() else {
            let message = format!("nothing says how router {router} is configured");
            return Ok(Err(Fault::Syntax(message)));
        };
        match input {
            Input::Members(members) => match given::specs(members) {
                Ok(specs) => which.datastore().replace(specs),
                Err(fault) => return Ok(Err(fault)),
            },
            Input::Scrape(scrape) => scraped(&which, *scrape, at),
            Input::Decision(decision) => self.decide(line, router, &which, *decision, at).await,
            Input::Failed(failed) => self.failed(router, &which, &failed),
            Input::Head(head) => self.head(router, &head),
            Input::FirstByte { id } => {
                if let Some(exchange) = self.under_way.get_mut(&(router, id)) {
                    exchange.on_chunk(Bytes::from_static(FIRST_BYTE));
                }
            }
            Input::Ended(ended) => {
                if let Some(mut exchange) = self.under_way.remove(&(router, ended.id)) {
                    let usage = ended.usage.map(given::usage);
                    exchange.end_with(given::cause(ended.cause), usage);
                }
            }
            // Have been seen to above.
            Input::Configuration(_) | Input::Gap { .. } => {}
        }
        self.scores();
        Ok(Ok(()))
    }

    fn configure(
        &mut self,
        router: u32,
        recorded: &ConfigurationInput,
    ) -> Result<Result<(), Fault>, ReproduceError> {
        if self.routers.len() >= MAX_ROUTERS {
            let message = format!("there are more than {MAX_ROUTERS} configurations");
            return Ok(Err(Fault::Syntax(message)));
        }
        let Terms { configuration, registry, allow_experimental } = self.terms;
        let own = Configuration {
            name: if recorded.text.is_some() { &recorded.name } else { NAME_OF_BUILT_IN }
                .to_owned(),
            text: recorded.text.clone(),
        };
        let configuration = configuration.as_ref().unwrap_or(&own);
        let settings = given::settings(recorded);
        let record = Some(self.recorder.router());
        let (built, _) = router::build(
            configuration,
            registry,
            *allow_experimental,
            settings,
            self.clock,
            record,
        )?;
        self.routers.insert(router, built);
        Ok(Ok(()))
    }

    async fn decide(
        &mut self,
        line: usize,
        router: u32,
        which: &Arc<Router>,
        decision: DecisionInput,
        at: Stamp,
    ) {
        if decision.by_flow_control {
            return self.report.note_flow_control(decision.reason);
        }
        let id = decision.id;
        let (head, parsed, again) = given::request(&decision);
        let decided = which.begin_again(head, parsed, again).await;
        let again = self.side(&decided);
        self.compare(line, &decision, again, at);
        let Ok(mut routed) = decided else { return };
        // Where the request was refused, it holds nothing from here on.
        let Some(went_to) = decision.targets.first() else { return };
        if let Some(endpoint) = endpoint(which, went_to) {
            routed.exchange.redirect(&endpoint);
        }
        self.under_way.insert((router, id), routed.exchange);
    }

    /// What was decided, as a recording would tell it.
    fn side(&mut self, decided: &Result<Routed, Rejection>) -> Side {
        let targets = decided.as_ref().map(|routed| routed.targets.as_slice()).unwrap_or_default();
        let rejection = decided.as_ref().err();
        Side {
            targets: targets.iter().map(|target| target.id().to_string()).collect(),
            refused: rejection.map(|rejection| rejection.code.label().to_owned()),
            reason: rejection.and_then(|r| r.reason).map(DropReason::as_str).map(str::to_owned),
            scores: self.scores(),
        }
    }

    /// Scores of the decision that was made since this was called last. Takes out all that was recorded.
    fn scores(&mut self) -> Vec<(String, f64)> {
        let mut scores = Vec::new();
        while let Ok(Queued { entry, .. }) = self.recorded.try_recv() {
            if let Event::Decided(decided) = entry.event {
                let named = decided.scores.into_iter();
                scores = named.map(|(endpoint, score)| (endpoint.to_string(), score)).collect();
            }
        }
        // What is no number cannot be written and is missing in the recording as well.
        scores.retain(|(_, score)| score.is_finite());
        scores
    }

    fn compare(&mut self, line: usize, decision: &DecisionInput, again: Side, at: Stamp) {
        let is_other = self.terms.configuration.is_some();
        let scores = decision.scores.iter().map(|(name, score)| (name.clone(), score.0));
        let recorded = Side {
            targets: decision.targets.clone(),
            refused: decision.refused.clone(),
            reason: decision.reason.clone(),
            scores: scores.collect(),
        };
        let is_reason_alike = recorded.reason.is_none() || recorded.reason == again.reason;
        let goes_alike = recorded.targets.first() == again.targets.first()
            && recorded.refused == again.refused
            && (is_other || is_reason_alike);
        let has_same_targets = goes_alike && recorded.targets == again.targets;
        let is_equal = if is_other {
            goes_alike
        } else {
            has_same_targets && are_alike(&recorded.scores, &again.scores)
        };
        self.report.n_decisions += 1;
        if is_equal {
            self.report.n_equal += 1;
            return;
        }
        let is_unsettled = decision.changes > 0 || decision.from.is_some();
        self.report.n_unsettled += u64::from(is_unsettled);
        self.report.n_same_targets += u64::from(has_same_targets);
        self.report.n_same_endpoint += u64::from(goes_alike && !has_same_targets);
        if self.report.differences.len() >= MAX_DIFFERENCES {
            return;
        }
        let request = decision.id;
        let difference = Difference { line, request, at, is_unsettled, recorded, again };
        self.report.differences.push(difference);
    }

    fn failed(&mut self, router: u32, which: &Router, failed: &FailedInput) {
        let Some(exchange) = self.under_way.get_mut(&(router, failed.id)) else { return };
        let failure = match failed.what {
            FailureInput::Unreachable => AttemptFailure::Unreachable,
            FailureInput::Unavailable => AttemptFailure::Unavailable,
            FailureInput::Timeout => AttemptFailure::Timeout,
        };
        let _where_to_is_recorded = exchange.attempt_failed(failure);
        if let Some(endpoint) = failed.next.as_deref().and_then(|next| endpoint(which, next)) {
            exchange.redirect(&endpoint);
        }
    }

    fn head(&mut self, router: u32, head: &HeadInput) {
        let Some(exchange) = self.under_way.get_mut(&(router, head.id)) else { return };
        exchange.on_headers(&ResponseHead {
            status: StatusCode::from_u16(head.status).unwrap_or(StatusCode::OK),
            headers: &self.headers,
            served: head.served.as_deref(),
            from_proxy: head.from_proxy,
        });
    }
}

fn endpoint(router: &Router, id: &str) -> Option<Arc<Endpoint>> {
    router.datastore().snapshot().by_id(id).cloned()
}

/// What a scrape does to the endpoint: first to its health, then to its signals.
fn scraped(router: &Router, scrape: ScrapeInput, at: Stamp) {
    let Some(endpoint) = endpoint(router, &scrape.endpoint) else { return };
    let Some(page) = scrape.page else {
        return match scrape.refused {
            Some(again) => router.health().scrape_refused(&endpoint, given::duration(again), at),
            None => router.health().scrape_failed(&endpoint, at),
        };
    };
    router.health().scraped(&endpoint, page.at_its_port);
    endpoint.signal_cell().update(|signals| {
        if let Some(shown) = page.signals {
            given::signals(signals, &shown);
        }
        if page.fresh {
            signals.scraped_at = at;
        }
    });
    if let Some(lora) = page.lora {
        endpoint.set_lora(given::lora(lora));
    }
}

/// Whether the same endpoints have the same scores. Which of equal ones stands before the other says nothing.
fn are_alike(recorded: &[(String, f64)], again: &[(String, f64)]) -> bool {
    let has = |(name, score): &(String, f64)| {
        let other = again.iter().find(|(other, _)| other == name);
        other.is_some_and(|(_, other)| (score - other).abs() <= SCORE_TOLERANCE)
    };
    recorded.len() == again.len() && recorded.iter().all(has)
}
