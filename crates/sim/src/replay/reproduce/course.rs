//! What a recording says, done to routers one after another.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use router_core::{Endpoint, Rejection, Stamp};
use router_engine::{AttemptFailure, Exchange, ResponseHead, Routed, Router};
use router_framework::EndpointSink;
use router_rt::Clock;

use super::{Difference, MAX_DIFFERENCES, Report, ReproduceError, Side, Terms, given};
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
    report: Report,
}

impl<'a> Course<'a> {
    /// Must be made on the runtime whose clock it goes by.
    pub(super) fn new(terms: &'a Terms) -> Self {
        Self {
            terms,
            clock: router::clock(),
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
        let (built, _) =
            router::build(configuration, registry, *allow_experimental, settings, self.clock)?;
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
        let id = decision.id;
        let (head, parsed, again) = given::request(&decision);
        let decided = which.begin_again(head, parsed, again).await;
        self.compare(line, which, &decision, &decided, at);
        let Ok(mut routed) = decided else { return };
        // Where the request was refused, it holds nothing from here on.
        let Some(went_to) = decision.targets.first() else { return };
        if let Some(endpoint) = endpoint(which, went_to) {
            routed.exchange.redirect(&endpoint);
        }
        self.under_way.insert((router, id), routed.exchange);
    }

    fn compare(
        &mut self,
        line: usize,
        which: &Router,
        decision: &DecisionInput,
        decided: &Result<Routed, Rejection>,
        at: Stamp,
    ) {
        let targets: Vec<&str> = match decided {
            Ok(routed) => routed.targets.iter().map(|target| &**target.id()).collect(),
            Err(_) => Vec::new(),
        };
        let refused = decided.as_ref().err().map(|rejection| rejection.code.label());
        let goes_alike = targets.first().copied() == decision.targets.first().map(String::as_str)
            && refused == decision.refused.as_deref();
        let is_equal =
            goes_alike && (self.terms.configuration.is_some() || targets == decision.targets);
        self.report.n_decisions += 1;
        if is_equal {
            self.report.n_equal += 1;
            return;
        }
        let is_unsettled = decision.changes > 0 || decision.from.is_some();
        self.report.n_unsettled += u64::from(is_unsettled);
        self.report.n_same_endpoint += u64::from(goes_alike);
        if self.report.differences.len() >= MAX_DIFFERENCES {
            return;
        }
        let again = Side {
            targets: targets.into_iter().map(str::to_owned).collect(),
            refused: refused.map(str::to_owned),
            scores: scores(which),
        };
        let recorded = Side {
            targets: decision.targets.clone(),
            refused: decision.refused.clone(),
            scores: decision.scores.iter().map(|(name, score)| (name.clone(), score.0)).collect(),
        };
        let request = decision.id;
        self.report.differences.push(Difference {
            line,
            request,
            at,
            is_unsettled,
            recorded,
            again,
        });
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

/// Totals of the decision that was made last, best first.
fn scores(router: &Router) -> Vec<(String, f64)> {
    let records = router.decisions().records();
    let Some(record) = records.first() else { return Vec::new() };
    let primary = record.profiles.iter().rev().find(|profile| profile.picked == record.targets);
    let Some(profile) = primary.or(record.profiles.last()) else { return Vec::new() };
    let rows = profile.candidates.iter().take(router_engine::record::MAX_SCORES);
    rows.map(|row| (row.endpoint.clone(), row.total)).collect()
}
