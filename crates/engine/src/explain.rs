//! The optional record of a decision: who was a candidate, what each filter left, what each scorer said,
//! why the pick fell as it did (design §9). Served at `GET /debug/decisions` and by `config explain`.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use router_core::{Candidates, Position};
use router_rt::Seeds;
use serde::Serialize;

use crate::settings::DecisionSettings;

/// Candidates whose scores are kept in one record; of more, the best are kept.
pub const MAX_ROWS: usize = 64;

/// One decision, explained. It holds no prompt.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionRecord {
    pub request_id: String,
    /// Seconds since the epoch.
    pub time: f64,
    pub model: String,
    pub target_model: String,
    pub priority: i32,
    pub fairness_id: String,
    /// Absent where no plugin counts tokens.
    pub n_prompt_tokens: Option<u64>,
    /// Endpoints in the pool.
    pub n_endpoints: usize,
    /// Left out because they fail.
    pub n_unhealthy: usize,
    /// After the proxy's subset and health.
    pub n_candidates: usize,
    /// After screening; absent where the request was refused before.
    pub n_screened: Option<usize>,
    /// Data producers that failed or were late.
    pub failed_producers: Vec<String>,
    pub profiles: Vec<ProfileRecord>,
    /// Where the request goes, best first.
    pub targets: Vec<String>,
    /// Why it goes nowhere.
    pub rejection: Option<String>,
    /// One sentence on why the first target won.
    pub reason: String,
    /// Seconds in flow control's queues; 0 where the request went at once.
    pub queued_for: f64,
    /// Seconds from the end of the body to the decision.
    pub decided_in: f64,
}

/// One profile's run.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileRecord {
    pub profile: String,
    pub filters: Vec<FilterRecord>,
    pub candidates: Vec<CandidateRecord>,
    pub picker: String,
    pub picked: Vec<String>,
}

/// What a filter did.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FilterRecord {
    pub filter: String,
    pub n_in: usize,
    pub n_out: usize,
}

/// One candidate's scores.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CandidateRecord {
    pub endpoint: String,
    pub address: String,
    pub scores: Vec<ScoreRecord>,
    pub total: f64,
}

/// One scorer's opinion on one candidate.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ScoreRecord {
    pub scorer: String,
    /// As the scorer said it; absent for "no opinion".
    pub raw: Option<f64>,
    /// Clamped or filled in, times the weight: what went into the total.
    pub weighted: f64,
}

/// Collects one profile's run while it happens. Off, it costs one branch per step.
#[derive(Debug, Default)]
pub(crate) struct ProfileTrace {
    pub(crate) filters: Vec<FilterRecord>,
    /// Scorer name, and raw and weighted value by place in the scored list.
    pub(crate) scorers: Vec<(Arc<str>, Vec<f64>, Vec<f64>)>,
}

impl ProfileTrace {
    pub(crate) fn finish(
        self,
        profile: &str,
        picker: &str,
        candidates: &Candidates,
        scored: &[(Position, f64)],
        ranked: &[Position],
    ) -> ProfileRecord {
        let name = |position: &Position| {
            candidates.get(*position).map(|e| e.id().to_string()).unwrap_or_default()
        };
        let mut places: Vec<usize> = (0..scored.len()).collect();
        let total = |place: &usize| scored.get(*place).map_or(0.0, |(_, total)| *total);
        places.sort_by(|a, b| total(b).total_cmp(&total(a)));
        places.truncate(MAX_ROWS);
        let rows = places.iter().filter_map(|&place| {
            let (position, total) = scored.get(place)?;
            let endpoint = candidates.get(*position)?;
            let scores = self.scorers.iter().map(|(scorer, raw, weighted)| ScoreRecord {
                scorer: scorer.to_string(),
                raw: raw.get(place).copied().filter(|value| !value.is_nan()),
                weighted: weighted.get(place).copied().unwrap_or_default(),
            });
            Some(CandidateRecord {
                endpoint: endpoint.id().to_string(),
                address: endpoint.authority().to_owned(),
                scores: scores.collect(),
                total: *total,
            })
        });
        ProfileRecord {
            profile: profile.to_owned(),
            candidates: rows.collect(),
            filters: self.filters,
            picker: picker.to_owned(),
            picked: ranked.iter().map(name).collect(),
        }
    }
}

/// Says in one sentence why the first target of the primary profile won.
pub(crate) fn reason(profile: &ProfileRecord) -> String {
    let Some(first) = profile.picked.first() else { return "nothing was picked".to_owned() };
    let rows = &profile.candidates;
    let Some(winner) = rows.iter().find(|row| row.endpoint == *first) else { return String::new() };
    let others: Vec<_> = rows.iter().filter(|row| row.endpoint != *first).collect();
    let Some(best) = others.iter().max_by(|a, b| a.total.total_cmp(&b.total)) else {
        return format!("{first} was the only candidate");
    };
    if winner.scores.is_empty() {
        return format!(
            "{first} was picked by {} among {} without scores",
            profile.picker,
            rows.len()
        );
    }
    if winner.total < best.total {
        return format!(
            "{first} was picked by {} although {} scored higher",
            profile.picker, best.endpoint
        );
    }
    let n_tied = others.iter().filter(|row| row.total == winner.total).count();
    if n_tied > 0 {
        return format!(
            "{first} tied with {n_tied} others at {:.4}; {} chose",
            winner.total, profile.picker
        );
    }
    let lead = |at: usize| {
        let of = |row: &CandidateRecord| row.scores.get(at).map_or(0.0, |score| score.weighted);
        of(winner) - of(best)
    };
    let strongest = (0..winner.scores.len()).max_by(|a, b| lead(*a).total_cmp(&lead(*b)));
    let scorer =
        strongest.and_then(|at| winner.scores.get(at)).map_or("", |score| score.scorer.as_str());
    format!(
        "{first} leads {} by {:.4} ({:.4} to {:.4}), most of it from {scorer}",
        best.endpoint,
        winner.total - best.total,
        winner.total,
        best.total
    )
}

/// The last decisions, sampled, in a bounded ring.
#[derive(Debug)]
pub struct DecisionLog {
    settings: DecisionSettings,
    ring: Mutex<VecDeque<Arc<DecisionRecord>>>,
}

impl DecisionLog {
    pub fn new(settings: DecisionSettings) -> Self {
        Self { settings, ring: Mutex::default() }
    }

    /// Whether the request with this id is to be recorded. It draws from a generator of its own, so that
    /// recording changes no decision.
    pub(crate) fn samples(&self, seeds: &Seeds, id: u64) -> bool {
        self.is_on() && seeds.family("decision record").rng(id).f64() < self.settings.sampling
    }

    pub fn is_on(&self) -> bool {
        self.settings.sampling > 0.0
    }

    pub(crate) fn push(&self, record: DecisionRecord) {
        let mut ring = self.ring.lock();
        while ring.len() >= self.settings.capacity.max(1) {
            ring.pop_front();
        }
        ring.push_back(Arc::new(record));
    }

    /// Newest first.
    pub fn records(&self) -> Vec<Arc<DecisionRecord>> {
        self.ring.lock().iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(totals: &[f64], picked: usize) -> ProfileRecord {
        let rows = totals.iter().enumerate().map(|(at, &total)| CandidateRecord {
            endpoint: format!("d/e{at}"),
            address: String::new(),
            scores: vec![ScoreRecord {
                scorer: "queue-scorer".to_owned(),
                raw: Some(total),
                weighted: total,
            }],
            total,
        });
        ProfileRecord {
            candidates: rows.collect(),
            picker: "max-score-picker".to_owned(),
            picked: vec![format!("d/e{picked}")],
            ..ProfileRecord::default()
        }
    }

    #[test]
    fn the_reason_names_the_scorer_that_made_the_difference() {
        let check =
            |totals: &[f64], picked, said: &str| assert_eq!(reason(&profile(totals, picked)), said);
        check(&[1.0], 0, "d/e0 was the only candidate");
        check(
            &[1.0, 0.5],
            0,
            "d/e0 leads d/e1 by 0.5000 (1.0000 to 0.5000), most of it from queue-scorer",
        );
        check(&[1.0, 1.0], 1, "d/e1 tied with 1 others at 1.0000; max-score-picker chose");
        check(&[1.0, 0.5], 1, "d/e1 was picked by max-score-picker although d/e0 scored higher");
    }

    #[test]
    fn the_ring_is_bounded() {
        let log = DecisionLog::new(DecisionSettings { sampling: 1.0, capacity: 2 });
        for n in 0..5 {
            log.push(DecisionRecord { request_id: n.to_string(), ..DecisionRecord::default() });
        }
        let ids: Vec<_> = log.records().iter().map(|record| record.request_id.clone()).collect();
        assert_eq!(ids, ["4", "3"]);
    }
}
