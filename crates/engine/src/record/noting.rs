//! Takes down a decision while it is made.

use std::sync::Arc;

use router_core::{Rejection, Stamp, header};
use router_framework::{
    Outcome, Request, RequestCx, RequestData,
    keys::{HashedPrompts, TokenizedPrompt},
};
use router_telemetry::router::DEFAULT_FLOW;

use super::{Decided, Event, MAX_SCORES, Record, Recorded, Refusal, Refused, RequestNote, Verdict};
use crate::router::{Routed, Router};

/// Bytes of a body that stand for a token where nobody has looked at the prompt.
const BYTES_PER_TOKEN: usize = 4;

/// A decision under way.
pub(crate) struct Noting {
    record: Record,
    n_changes: u64,
    from: Stamp,
    at: Stamp,
    n_prompt_tokens: Option<u64>,
    n_prompts: usize,
    blocks: Option<Arc<HashedPrompts>>,
    scores: Vec<(Arc<str>, f64)>,
    /// Flow control gave it no turn.
    by_flow_control: bool,
}

impl Noting {
    /// `None` where nothing is recorded.
    pub(crate) fn of(router: &Router) -> Option<Self> {
        let record = router.record.as_ref().filter(|record| record.is_open())?;
        Some(Self {
            record: record.clone(),
            n_changes: 0,
            from: Stamp::ORIGIN,
            at: Stamp::ORIGIN,
            n_prompt_tokens: None,
            n_prompts: 0,
            blocks: None,
            scores: Vec::new(),
            by_flow_control: false,
        })
    }

    /// Candidates are looked up now.
    pub(crate) fn begin(&mut self, now: Stamp) {
        self.n_changes = self.record.n_changes();
        (self.from, self.at) = (now, now);
    }

    /// Flow control refuses the request now, whatever would have been decided about it.
    pub(crate) fn turned_away(&mut self, now: Stamp) {
        self.begin(now);
        self.by_flow_control = true;
    }

    /// All data is there.
    pub(crate) fn produced(&mut self, router: &Router, data: &RequestData, now: Stamp) {
        self.at = now;
        let tokenized = data.read(&router.tokenized_prompt);
        self.n_prompt_tokens = Some(tokenized.map_or(0, TokenizedPrompt::n_tokens));
        self.n_prompts = tokenized.map_or(0, |tokenized| tokenized.prompts.len());
        self.blocks = data.read(&router.prompt_blocks).cloned();
    }

    /// Keeps the best scores for those who will want to know why.
    pub(crate) fn scheduled(&mut self, cx: &RequestCx<'_>, outcome: &Outcome) {
        if !self.record.has_inputs() {
            return;
        }
        let Some(run) = outcome.primary_run() else { return };
        let mut scored = run.scored.clone();
        if scored.len() > MAX_SCORES {
            scored.select_nth_unstable_by(MAX_SCORES, |(_, a), (_, b)| b.total_cmp(a));
            scored.truncate(MAX_SCORES);
        }
        scored.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let named = scored
            .into_iter()
            .filter_map(|(position, score)| Some((Arc::clone(cx.endpoint(position)?.id()), score)));
        self.scores = named.collect();
    }

    /// The decision is made. A routed request is followed to its end.
    pub(crate) fn finish(self, request: &Request, result: &mut Result<Routed, Rejection>) {
        let Self { record, n_changes, from, at, n_prompt_tokens, n_prompts, blocks, .. } = self;
        let refusal = result.as_ref().err().map(|rejection| Refusal {
            code: rejection.code,
            reason: rejection.reason,
            by_flow_control: self.by_flow_control,
        });
        let parsed = &request.parsed;
        let by_bytes = || (parsed.n_body_bytes / BYTES_PER_TOKEN) as u64;
        let has_flow = *request.fairness_id != *DEFAULT_FLOW;
        let note = Arc::new(RequestNote {
            id: request.id,
            received: request.head.received,
            n_prompt_tokens: n_prompt_tokens.unwrap_or_else(by_bytes),
            blocks,
            model: Arc::clone(&request.target_model),
            fairness_id: has_flow.then(|| Arc::clone(&request.fairness_id)),
            priority: request.priority,
            streams: parsed.stream,
            n_prompts,
            n_answers: parsed.n_answers,
            max_output_tokens: parsed.max_output_tokens,
        });
        let n_changes = record.n_changes().saturating_sub(n_changes);
        record.change(at, || {
            let targets = result.as_ref().map(|routed| routed.targets.as_slice());
            let targets = targets.unwrap_or_default().iter().map(|e| Arc::clone(e.id()));
            let routed = || Verdict::Routed(targets.collect());
            let verdict = refusal.map_or_else(routed, Verdict::Refused);
            Event::Decided(Box::new(Decided {
                request: Arc::clone(&note),
                from,
                n_changes,
                has_external_id: request.header(&header::REQUEST_ID).is_some(),
                wants_cached_only: request.wants_cached_only(),
                subset: request.head.subset.clone(),
                verdict,
                scores: self.scores,
            }))
        });
        match (result, refusal) {
            (Ok(routed), _) => routed.exchange.record(Recorded::new(record, note, at)),
            (Err(_), None) => {}
            (Err(_), Some(refusal)) => {
                record.send(at, Event::Refused(Box::new(Refused { request: note, refusal })));
            }
        }
    }
}
