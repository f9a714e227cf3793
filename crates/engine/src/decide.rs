//! The steps from a parsed request to its destination (`spec/request-path.md` §2.2).

use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderValue};
use router_core::{Candidates, Endpoint, ErrorCode, Rejection, Stamp, header, header::HeadPatch};
use router_framework::{
    Identity, Outcome, Outputs, ParsedRequest, ProduceError, Produced, Request, RequestCx,
    RequestData, RequestHead, keys::TokenizedPrompt,
};
use router_rt::{Rng, deadline};
use router_telemetry::{
    metrics::OTHER,
    router::{DEFAULT_FLOW, RequestSeries},
};
use tracing::Span;

use crate::{
    admission,
    exchange::{Exchange, Held},
    explain::{self, DecisionRecord},
    flow::Pass,
    isolate::{isolated, note_panic},
    observe::Point,
    queue::{self, Queues},
    record::Noting,
    rewrites::Rewritten,
    router::{Again, BodyPlan, Routed, Router},
    subset, trace,
};

/// Decides where a request goes. The future is cancelled by dropping it, at any point without a trace.
pub(crate) async fn decide(
    router: Arc<Router>,
    head: RequestHead,
    parsed: Result<ParsedRequest, Rejection>,
    again: Option<Again>,
) -> Result<Routed, Rejection> {
    let received = head.received;
    let started = router.clock().now();
    let id = again.map_or_else(|| router.next_id(), |again| again.id);
    let mut rng = router.seeds.rng(id);
    let is_recorded = router.decisions.samples(&router.seeds, id);
    let mut record = is_recorded.then(DecisionRecord::default);
    let external_id = external_id(&head, &mut rng);
    let root = trace::root(router.settings().tracing, &head);
    let mut request = parsed.and_then(|parsed| identify(&router, id, external_id, head, parsed));
    if let (Ok(request), Some(again)) = (&mut request, again) {
        request.priority = again.priority;
    }
    let request = request.map(Arc::new);
    let mut noting = Noting::of(&router);
    let notes = Notes { record: record.as_mut(), noting: noting.as_mut() };
    let mut result = match &request {
        Ok(request) => {
            let is_queued = again.is_none() && !request.head.end_of_stream;
            route(&router, request, &root, &mut rng, notes, is_queued).await
        }
        Err(rejection) => Err(rejection.clone()),
    };
    if let Err(rejection) = &mut result {
        router.say_when(rejection, request.as_ref().map_or(0, |request| request.priority));
    }
    if let (Some(noting), Ok(request)) = (noting, &request) {
        noting.finish(request, &mut result);
    }
    let now = router.clock().now();
    let metrics = &router.env.metrics;
    metrics.requests.processing_duration.observe_duration(now.since(received));
    if let Err(rejection) = &result {
        let series = match &request {
            Ok(request) => series(&router, request),
            Err(_) => metrics.request("", "", DEFAULT_FLOW, 0),
        };
        series.error(rejection.code.label()).inc();
        root.record("otel.status_code", "ERROR");
    }
    if let (Some(record), Ok(request)) = (record, &request) {
        finish_record(&router, record, request, &result, now.since(started).as_secs_f64());
    }
    drop(request);
    if let Ok(routed) = &mut result {
        routed.exchange.forget_prompt();
    }
    result
}

/// Who takes down how a decision came about.
struct Notes<'a> {
    record: Option<&'a mut DecisionRecord>,
    noting: Option<&'a mut Noting>,
}

fn series(router: &Router, request: &Request) -> Arc<RequestSeries> {
    let Request { model, target_model, fairness_id, priority, .. } = request;
    router.env.metrics.request(model, target_model, fairness_id, *priority)
}

/// The client's request id where it is usable, else one of ours.
fn external_id(head: &RequestHead, rng: &mut Rng) -> Arc<str> {
    if let Some(id) = header::text(&head.headers, &header::REQUEST_ID, None) {
        return id.into();
    }
    let (high, low) = (rng.next_u64(), rng.next_u64());
    // Version 4, variant 1 of RFC 9562.
    let high = (high & !0xf000) | 0x4000;
    let low = (low & !(0b11 << 62)) | (0b10 << 62);
    format!(
        "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xffff,
        low >> 48,
        low & 0xffff_ffff_ffff
    )
    .into()
}

/// Who asks, for which model, how important it is.
fn identify(
    router: &Router,
    id: u64,
    external_id: Arc<str>,
    head: RequestHead,
    parsed: ParsedRequest,
) -> Result<Request, Rejection> {
    let headers = &head.headers;
    let model = parsed.model.clone().unwrap_or_default();
    let target_model = target_model(router, id, headers, &parsed, &model);
    if parsed.model_required && target_model.is_empty() {
        return Err(Rejection::bad_request("model not found in request body"));
    }
    let objective: Option<Arc<str>> =
        header::text(headers, &header::OBJECTIVE, Some(&header::OBJECTIVE_ALIAS)).map(Arc::from);
    let priority =
        objective.as_ref().map_or(0, |name| router.datastore.objectives().priority(name));
    let fairness = header::text(headers, &header::FAIRNESS_ID, Some(&header::FAIRNESS_ID_ALIAS));
    let mut identity = Identity { fairness_id: fairness.map(Arc::from) };
    for hook in &router.request_headers {
        hook.call(Point::RequestHeader, |hook| hook.on_request_headers(&head, &mut identity))
            .unwrap_or(Ok(()))?;
    }
    let fairness_id = identity.fairness_id.unwrap_or_else(|| Arc::from(DEFAULT_FLOW));
    Ok(Request {
        id,
        external_id,
        head,
        parsed,
        model,
        target_model,
        objective,
        priority,
        fairness_id,
    })
}

/// The model that is to serve: what a rewrite says, else the client's header, else what was asked for.
fn target_model(
    router: &Router,
    id: u64,
    headers: &HeaderMap,
    parsed: &ParsedRequest,
    model: &Arc<str>,
) -> Arc<str> {
    // Without a way to write it into the body, another model would only be pretended (defect A.2#20).
    if parsed.model_editor.is_none() {
        return Arc::clone(model);
    }
    // Chance of its own, so that a split does not shift the other choices of a request.
    let rng = || router.seeds.family("model-rewrite").rng(id);
    if let Some(Rewritten { rewrite, target }) = router.datastore.rewrites().serve(model, rng) {
        let metrics = &router.env.metrics;
        let shown = |name| if metrics.requests.knows_model(name) { name } else { OTHER };
        metrics.model_rewrite_decisions.with([rewrite, shown(model), shown(target)]).inc();
        return Arc::clone(target);
    }
    let asked = header::text(headers, &header::MODEL_REWRITE, Some(&header::MODEL_REWRITE_ALIAS));
    asked.map_or_else(|| Arc::clone(model), Arc::from)
}

async fn route(
    router: &Arc<Router>,
    request: &Arc<Request>,
    root: &Span,
    rng: &mut Rng,
    mut notes: Notes<'_>,
    is_queued: bool,
) -> Result<Routed, Rejection> {
    let orchestration = trace::orchestration(root, request);
    let (seen, pass) = match router.queues.as_ref().filter(|_| is_queued) {
        None => (look(router, request, rng, &mut notes).await?, None),
        Some(queues) => {
            let turn = Box::pin(wait_for_turn(router, queues, request, rng, &mut notes));
            let (seen, pass) = turn.await?;
            (seen, Some(pass))
        }
    };
    let Seen { candidates, data, now } = seen;
    let Notes { record, noting } = notes;
    // From here to the leases nothing waits, so that decisions of one thread see each other's load.
    let _inside = orchestration.enter();
    let cx = RequestCx {
        request,
        candidates: &candidates,
        data: &data,
        now,
        freshness: router.freshness,
    };
    for admitter in &router.admitters {
        admitter.call(Point::Admission, |admitter| admitter.admit(&cx, rng)).unwrap_or(Ok(()))?;
    }
    let outcome = schedule(router, &cx, rng, record)?;
    if let Some(noting) = noting {
        noting.scheduled(&cx, &outcome);
    }
    let _motion = pass.as_ref().map(Pass::moving);
    let (mut patch, leases) = match take_leases(router, &cx, &outcome) {
        Ok(taken) => taken,
        Err(rejection) => {
            count_attempt(router, &series(router, request), outcome.target(&cx).map(|e| &**e));
            return Err(rejection);
        }
    };
    trace::propagate(root, request, rng, &mut patch);
    let held = (leases, pass);
    Ok(routed(router, request, &cx, &outcome, patch, held, root.clone()))
}

/// What a request is decided with.
struct Seen {
    candidates: Candidates,
    data: RequestData,
    now: Stamp,
}

/// Looks up the candidates, and what producers know of them.
async fn look(
    router: &Router,
    request: &Arc<Request>,
    rng: &mut Rng,
    notes: &mut Notes<'_>,
) -> Result<Seen, Rejection> {
    let (candidates, now) = find(router, request, rng, notes)?;
    Ok(learn(router, request, candidates, now, notes).await)
}

/// Looks up the candidates, and says when that was.
fn find(
    router: &Router,
    request: &Arc<Request>,
    rng: &mut Rng,
    notes: &mut Notes<'_>,
) -> Result<(Candidates, Stamp), Rejection> {
    let Notes { record, noting } = notes;
    // One time for all that happens at once: what was decided can be decided again from a record of it.
    let now = router.clock().now();
    if let Some(noting) = noting.as_deref_mut() {
        noting.begin(now);
    }
    Ok((candidates(router, request, now, rng, record.as_deref_mut())?, now))
}

/// Asks the producers.
async fn learn(
    router: &Router,
    request: &Arc<Request>,
    candidates: Candidates,
    now: Stamp,
    notes: &mut Notes<'_>,
) -> Seen {
    let Notes { record, noting } = notes;
    let mut data = RequestData::new(router.n_request_slots);
    let now = produce(router, request, &candidates, &mut data, now, record.as_deref_mut()).await;
    if let Some(noting) = noting.as_deref_mut() {
        noting.produced(router, &data, now);
    }
    if let Some(record) = record.as_deref_mut() {
        let tokens = data.read(&router.tokenized_prompt);
        record.n_prompt_tokens = tokens.map(TokenizedPrompt::n_tokens);
    }
    Seen { candidates, data, now }
}

/// Waits in flow control. What is found out about a request before it waits tells what it will need; it is
/// used if the request need not wait, and else found out anew, because by then it is not true any more. Producers
/// are not asked about one that is refused at once.
async fn wait_for_turn(
    router: &Router,
    queues: &Queues,
    request: &Arc<Request>,
    rng: &mut Rng,
    notes: &mut Notes<'_>,
) -> Result<(Seen, Pass), Rejection> {
    let mut ahead = rng.clone();
    let mut ask = queue::ask(router, request, router.clock().now());
    // A pool without endpoints is waited for. One that has none for this request is an answer.
    let mut seen = None;
    if !router.datastore.snapshot().is_empty() {
        let (candidates, now) = find(router, request, &mut ahead, notes)?;
        if !queues.flow.refuses(&ask) {
            seen = Some(learn(router, request, candidates, now, notes).await);
        }
    }
    let entered = router.clock().now();
    if let Some(Seen { candidates, data, .. }) = &seen {
        ask.cost = queue::cost(router, request, Some((candidates, data)), entered);
    }
    let entry = queues.flow.enter(ask, series(router, request));
    let seen = seen.filter(|_| entry.is_settled());
    let pass = entry.await.inspect_err(|_| {
        if let Some(noting) = notes.noting.as_deref_mut() {
            noting.turned_away(router.clock().now());
        }
    })?;
    if let Some(seen) = seen {
        *rng = ahead;
        return Ok((seen, pass));
    }
    if let Some(record) = notes.record.as_deref_mut() {
        record.failed_producers.clear();
        record.queued_for = router.clock().now().since(entered).as_secs_f64();
    }
    Ok((look(router, request, rng, notes).await?, pass))
}

/// The endpoints that may serve: the proxy's subset, without those that fail, screened.
fn candidates(
    router: &Router,
    request: &Arc<Request>,
    now: Stamp,
    rng: &mut Rng,
    mut record: Option<&mut DecisionRecord>,
) -> Result<Candidates, Rejection> {
    let snapshot = router.datastore.snapshot();
    let n_endpoints = snapshot.len();
    let mut candidates = if router.settings().disable_subset_filter {
        Candidates::all(snapshot)
    } else {
        subset::candidates(snapshot, &request.head.subset)
    };
    let n_unhealthy = router.health.apply(&mut candidates, now);
    // Noted before anything can refuse, so that a refusal has its numbers too.
    if let Some(record) = record.as_deref_mut() {
        record.n_endpoints = n_endpoints;
        record.n_unhealthy = n_unhealthy;
        record.n_candidates = candidates.len();
    }
    if router.queues.is_none() {
        let detector = router.detector.inner();
        let (metrics, plugin) = (&router.env.metrics, router.detector.ident());
        let load = admission::Load {
            detector,
            freshness: router.freshness,
            now,
            n_in_flight: router.n_in_flight.load(Ordering::Relaxed),
            n_endpoints,
            note_blind: &|| metrics.pool.judged_blindly.with([&router.settings().pool_name]).inc(),
        };
        let admitted = isolated(metrics, plugin, "SaturationDetector", || {
            admission::admit(request.priority, &candidates, &load)
        });
        admitted.unwrap_or(Ok(()))?;
    }
    if candidates.is_empty() {
        let message = "failed to find endpoint candidates for serving the request";
        return Err(Rejection::no_endpoints(message));
    }
    if !router.screeners.is_empty() {
        screen(router, request, rng, now, &mut candidates);
    }
    if let Some(record) = record {
        record.n_screened = Some(candidates.len());
    }
    if candidates.is_empty() {
        return Err(Rejection::no_endpoints(
            "no endpoint passes the mandatory constraints of this request",
        ));
    }
    Ok(candidates)
}

/// Drops the candidates that do not meet a mandatory constraint.
fn screen(
    router: &Router,
    request: &Request,
    rng: &mut Rng,
    now: Stamp,
    candidates: &mut Candidates,
) {
    let nothing = RequestData::default();
    let cx = RequestCx { request, candidates, data: &nothing, now, freshness: router.freshness };
    let mut kept = vec![true; candidates.len()];
    for screener in &router.screeners {
        let mut keep = vec![true; candidates.len()];
        // A mandatory constraint that cannot be evaluated is not met.
        if screener.call(Point::Screener, |screener| screener.screen(&cx, rng, &mut keep)).is_none()
        {
            keep.fill(false);
        }
        kept.iter_mut().zip(keep).for_each(|(kept, keep)| *kept &= keep);
    }
    candidates.retain(|position, _| kept.get(position.index()).copied().unwrap_or(false));
}

/// Runs the producers in the order of their data. One that fails or is late costs only its own values
/// (defect A-8 of `spec/scheduling.md`). Gives the time at its end, which is `now` unless a producer waited.
async fn produce(
    router: &Router,
    request: &Request,
    candidates: &Candidates,
    data: &mut RequestData,
    mut now: Stamp,
    mut record: Option<&mut DecisionRecord>,
) -> Stamp {
    for producer in &router.producers {
        let started = router.clock().now();
        let cx = RequestCx { request, candidates, data, now, freshness: router.freshness };
        let (metrics, ident) = (&*router.env.metrics, producer.ident());
        let made = match isolated(metrics, ident, Point::DataProducer.as_str(), || {
            (producer.inner().produce(&cx), producer.inner().deadline())
        }) {
            None => Err("it panicked".to_owned()),
            Some((Produced::Ready(made), _)) => made.map_err(|error| error.to_string()),
            Some((Produced::Later(made), limit)) => {
                let made = wait_for(made, limit).await.unwrap_or_else(|panic| {
                    note_panic(metrics, ident, Point::DataProducer.as_str(), &*panic);
                    Err("it panicked".to_owned())
                });
                now = router.clock().now();
                made
            }
        };
        producer.observe(Point::DataProducer, router.clock().now().since(started));
        match made {
            Ok(outputs) => data.accept(outputs),
            Err(cause) => {
                let plugin = &*producer.ident().name;
                tracing::debug!(
                    plugin,
                    cause,
                    request_id = &*request.external_id,
                    "a data producer has nothing"
                );
                if let Some(record) = record.as_deref_mut() {
                    record.failed_producers.push(format!("{plugin}: {cause}"));
                }
            }
        }
    }
    now
}

/// What a producer makes later, or why there is nothing; the error is its panic.
async fn wait_for(
    made: BoxFuture<'_, Result<Outputs, ProduceError>>,
    limit: Duration,
) -> Result<Result<Outputs, String>, Box<dyn Any + Send>> {
    match deadline(limit, AssertUnwindSafe(made).catch_unwind()).await {
        Ok(made) => made.map(|made| made.map_err(|error| error.to_string())),
        Err(_elapsed) => Ok(Err(format!("no answer within {limit:?}"))),
    }
}

fn schedule(
    router: &Router,
    cx: &RequestCx<'_>,
    rng: &mut Rng,
    record: Option<&mut DecisionRecord>,
) -> Result<Outcome, Rejection> {
    let started = router.clock().now();
    let outcome = router.scheduler.schedule(cx, rng, record.map(|record| &mut record.profiles));
    let metrics = &router.env.metrics.scheduler;
    metrics.e2e_duration.observe_duration(router.clock().now().since(started));
    // A successful attempt is counted with its request, whose model may not be known yet.
    if outcome.as_ref().ok().and_then(|outcome| outcome.target(cx)).is_none() {
        count_attempt(router, &series(router, cx.request), None);
    }
    outcome
}

/// Counts a scheduling attempt, which chose this endpoint or none.
pub(crate) fn count_attempt(router: &Router, series: &RequestSeries, chosen: Option<&Endpoint>) {
    let attempts = &router.env.metrics.scheduler.attempts;
    let model = series.target_model();
    let Some(endpoint) = chosen else {
        return attempts.with(["failure", model, "", "", ""]).inc();
    };
    let spec = endpoint.spec();
    let port = spec.port.to_string();
    attempts.with(["success", model, &spec.name, &spec.namespace, &port]).inc();
}

/// Whether the chosen endpoint holds at least one block of the prompt.
fn has_cached_prefix(router: &Router, cx: &RequestCx<'_>, outcome: &Outcome) -> bool {
    let target = outcome.primary_run().and_then(router_framework::ProfileRun::target);
    target
        .and_then(|position| cx.column(&router.prefix_match, position))
        .is_some_and(|found| found.matched_blocks > 0)
}

/// Runs all pre-request hooks; if one fails, what the others took is released. Gives the changes of the head
/// that they ask for, too.
fn take_leases(
    router: &Arc<Router>,
    cx: &RequestCx<'_>,
    outcome: &Outcome,
) -> Result<(HeadPatch, Vec<Held>), Rejection> {
    if cx.request.wants_cached_only() && !has_cached_prefix(router, cx, outcome) {
        let message = "no decode worker has the requested KV cache";
        return Err(Rejection::new(ErrorCode::PreconditionFailed, message));
    }
    let mut patch = HeadPatch::default();
    let mut leases = Vec::with_capacity(router.pre_requests.len());
    let mut failures = Vec::new();
    for (at, hook) in router.pre_requests.iter().enumerate() {
        // A hook that fails half-way leaves no header behind.
        let mut own = HeadPatch::default();
        match hook.call(Point::PreRequest, |hook| hook.pre_request(cx, outcome, &mut own)) {
            Some(Ok(lease)) => {
                leases.extend(lease.map(|lease| Held::new(at, lease)));
                own.remove.into_iter().for_each(|name| patch.remove(name));
                own.set.into_iter().for_each(|(name, value)| patch.set(name, value));
            }
            Some(Err(rejection)) => failures.push(rejection),
            None => {}
        }
    }
    let Some(first) = failures.pop() else { return Ok((patch, leases)) };
    Exchange::release(router, leases, cx.now);
    if failures.is_empty() {
        return Err(first);
    }
    let causes: Vec<_> = failures.iter().chain([&first]).map(ToString::to_string).collect();
    Err(Rejection::internal(causes.join("; ")))
}

fn routed(
    router: &Arc<Router>,
    request: &Arc<Request>,
    cx: &RequestCx<'_>,
    outcome: &Outcome,
    plugin_patch: HeadPatch,
    (leases, pass): (Vec<Held>, Option<Pass>),
    root: Span,
) -> Routed {
    let run = outcome.primary_run();
    let endpoints = |positions: &[router_core::Position]| -> smallvec::SmallVec<_> {
        positions.iter().filter_map(|&position| cx.endpoint(position).cloned()).collect()
    };
    let targets: smallvec::SmallVec<[_; router_framework::MAX_TARGETS]> =
        run.map(|run| endpoints(&run.ranked)).unwrap_or_default();
    let shown: Vec<_> = run
        .map(|run| run.shown())
        .unwrap_or_default()
        .iter()
        .filter_map(|&position| cx.endpoint(position).map(|endpoint| endpoint.authority()))
        .collect();
    let destination = shown.join(",");
    let scores = router.settings().emit_endpoint_scores.then(|| {
        let scored = run.map(|run| run.scored.as_slice()).unwrap_or_default();
        scored
            .iter()
            .filter_map(|(position, score)| {
                Some((Arc::clone(cx.endpoint(*position)?.shared_authority()), *score))
            })
            .collect()
    });
    let edit = (request.target_model != request.model)
        .then_some(request.parsed.model_editor.as_ref())
        .flatten();
    let body_plan = edit.map_or(BodyPlan::Pass, |editor| {
        let (span, replacement) = editor.edit(&request.target_model);
        BodyPlan::Splice { span, replacement }
    });
    let restores = matches!(body_plan, BodyPlan::Splice { .. }) && !request.model.is_empty();
    let head_patch = head_patch(request, plugin_patch, restores);
    let exchange = Exchange::new(
        Arc::clone(router),
        Arc::clone(request),
        targets.clone(),
        (leases, pass),
        restores,
        root,
        cx.now,
    );
    Routed { targets, destination, head_patch, body_plan, scores, exchange }
}

/// The delta of the request's head: control headers that a client sent are removed (defect A.1#4), ours
/// are set, everything else stays as it came (defect A.1#5).
fn head_patch(request: &Request, plugin_patch: HeadPatch, reads_response: bool) -> HeadPatch {
    let headers = &request.head.headers;
    let mut patch = HeadPatch::default();
    for name in header::CONTROL.iter().filter(|name| headers.contains_key(*name)) {
        patch.remove(name.clone());
    }
    if reads_response && headers.contains_key(http::header::ACCEPT_ENCODING) {
        patch.remove(http::header::ACCEPT_ENCODING);
    }
    if header::text(headers, &header::REQUEST_ID, None).is_none()
        && let Ok(value) = HeaderValue::from_str(&request.external_id)
    {
        patch.set(header::REQUEST_ID, value);
    }
    for name in plugin_patch.remove {
        if headers.contains_key(&name) {
            patch.remove(name);
        }
    }
    for (name, value) in plugin_patch.set {
        patch.set(name, value);
    }
    patch
}

fn finish_record(
    router: &Router,
    mut record: DecisionRecord,
    request: &Request,
    result: &Result<Routed, Rejection>,
    decided_in: f64,
) {
    record.request_id = request.external_id.to_string();
    record.time = router.clock().unix_now().as_secs_f64();
    record.model = request.model.to_string();
    record.target_model = request.target_model.to_string();
    record.priority = request.priority;
    record.fairness_id = request.fairness_id.to_string();
    record.decided_in = decided_in;
    match result {
        Ok(routed) => {
            record.targets =
                routed.targets.iter().map(|endpoint| endpoint.id().to_string()).collect();
            let primary =
                record.profiles.iter().rev().find(|profile| profile.picked == record.targets);
            record.reason = primary.map(explain::reason).unwrap_or_default();
        }
        Err(rejection) => {
            record.reason = "rejected".to_owned();
            record.rejection = Some(rejection.to_string());
        }
    }
    router.decisions.push(record);
}
