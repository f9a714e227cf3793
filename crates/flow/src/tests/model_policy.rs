//! Fairness as one would write it without care for cost: everything is worked out anew from lists.

use std::collections::{BTreeMap, BTreeSet};

use router_core::Stamp;

use super::model_limit::Place;
use crate::policy::{
    deficit::{Deficit, MAX_CREDIT_ROUNDS},
    program_aware::ProgramAware,
};
use crate::{Cost, FlowId, Usage};

#[derive(Clone, Debug)]
pub(super) enum Kind {
    GlobalStrict,
    RoundRobin,
    Deficit(Deficit),
    ProgramAware(ProgramAware),
}

/// The first request of a flow that waits.
#[derive(Clone, Debug)]
pub(super) struct FirstOf {
    pub(super) flow: String,
    pub(super) place: Place,
    pub(super) enqueued: Stamp,
    pub(super) cost: Cost,
}

/// What a band remembers.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    kind: Kind,
    last: Option<String>,
    round: u128,
    n_may_join: usize,
    /// By flow: tokens charged since round 0, as if every round before had been used up; and its last turn.
    accounts: BTreeMap<String, (u128, u64)>,
    /// Flows that were held while they were served by rounds, and since which round.
    held: BTreeMap<String, u128>,
    /// The first round that passed over a flow that was held.
    passed: BTreeMap<String, u128>,
    /// Flows that are held, and those that the turn has passed over, in that order.
    resting: BTreeSet<String>,
    owed: Vec<String>,
    turn: u64,
    service: BTreeMap<String, Vec<(Stamp, f64)>>,
}

impl Policy {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            last: None,
            round: 1,
            n_may_join: 1,
            accounts: BTreeMap::new(),
            held: BTreeMap::new(),
            passed: BTreeMap::new(),
            resting: BTreeSet::new(),
            owed: Vec::new(),
            turn: 0,
            service: BTreeMap::new(),
        }
    }

    fn share(&self, flow: &str) -> u128 {
        match &self.kind {
            Kind::Deficit(deficit) => deficit.share(&FlowId::from(flow)).get().into(),
            _ => 1,
        }
    }

    fn level(&self, flow: &str) -> u128 {
        self.accounts.get(flow).map_or(0, |account| account.0) / self.share(flow)
    }

    /// A flow of which nothing waited begins to wait.
    pub(super) fn begins(&mut self, flow: &str) {
        if self.level(flow) >= self.round {
            return;
        }
        let joins = self.n_may_join > 0;
        self.n_may_join -= usize::from(joins);
        let level = self.round + u128::from(!joins);
        let position = level * self.share(flow);
        self.accounts.entry(flow.to_owned()).or_default().0 = position;
    }

    /// A flow that waits may not go for the time being; `begins` if it has only begun to wait.
    pub(super) fn held(&mut self, flow: &str, begins: bool) {
        self.resting.insert(flow.to_owned());
        if !begins {
            self.held.insert(flow.to_owned(), self.round);
        }
    }

    /// It may go again; or for the first time, if it has been held from the beginning.
    pub(super) fn resumes(&mut self, flow: &str) {
        self.resting.remove(flow);
        if !self.catches_up(flow) {
            self.begins(flow);
        }
    }

    /// Nothing of the flow waits any more.
    pub(super) fn gone(&mut self, flow: &str) {
        self.catches_up(flow);
        self.passed.remove(flow);
        self.resting.remove(flow);
        self.owed.retain(|owed| owed != flow);
    }

    /// The account of a flow that was held is what it would be had the rounds stood still for what it had left,
    /// and gone on for what it owes.
    fn catches_up(&mut self, flow: &str) -> bool {
        let Some(since) = self.held.remove(flow) else { return false };
        let (level, share) = (self.level(flow), self.share(flow));
        if let Some(round) = (since..self.round).find(|round| level <= *round) {
            self.passed.entry(flow.to_owned()).or_insert(round);
        }
        let account = self.accounts.entry(flow.to_owned()).or_default();
        if level <= since {
            account.0 += (self.round - since) * share;
        } else if level < self.round {
            account.0 = self.round * share;
        }
        true
    }

    /// Whose turn it could be; several where the policy leaves it open.
    pub(super) fn choices(&mut self, now: Stamp, waiting: &[FirstOf]) -> Vec<String> {
        match &self.kind {
            Kind::GlobalStrict => {
                let best = waiting.iter().min_by_key(|first| first.place);
                best.map(|first| first.flow.clone()).into_iter().collect()
            }
            Kind::RoundRobin => {
                let mut flows: Vec<_> = waiting.iter().map(|first| first.flow.clone()).collect();
                flows.sort();
                let owed = self.owed.iter().find(|flow| flows.contains(flow));
                if let Some(owed) = owed {
                    return vec![owed.clone()];
                }
                let behind = flows.iter().find(|flow| Some(*flow) > self.last.as_ref());
                behind.or(flows.first()).cloned().into_iter().collect()
            }
            Kind::Deficit(_) => self.deficit_choices(waiting),
            Kind::ProgramAware(params) => self.attained_choices(*params, now, waiting),
        }
    }

    fn deficit_choices(&mut self, waiting: &[FirstOf]) -> Vec<String> {
        let is_open = |policy: &Self, first: &&FirstOf| policy.level(&first.flow) <= policy.round;
        if !waiting.iter().any(|first| is_open(self, &first)) {
            let Some(round) = waiting.iter().map(|first| self.level(&first.flow)).min() else {
                return Vec::new();
            };
            self.round = round;
            self.n_may_join = waiting.iter().filter(|first| is_open(self, first)).count();
        }
        let turn = |first: &FirstOf| self.accounts.get(&first.flow).map_or(0, |account| account.1);
        let passed = |first: &FirstOf| self.passed.get(&first.flow).copied().unwrap_or(u128::MAX);
        let key = |first: &FirstOf| (passed(first), u32::MAX - first.cost.cached, turn(first));
        let open = waiting.iter().filter(|first| is_open(self, first));
        let best = open.clone().map(key).min();
        open.filter(|first| Some(key(first)) == best).map(|first| first.flow.clone()).collect()
    }

    fn attained_choices(
        &self,
        params: ProgramAware,
        now: Stamp,
        waiting: &[FirstOf],
    ) -> Vec<String> {
        let service = |first: &FirstOf| -> f64 {
            let had = self.service.get(&first.flow).into_iter().flatten();
            had.map(|(at, tokens)| {
                let age = now.since(*at).as_secs_f64();
                params.half_life.map_or(*tokens, |half| tokens * (-age / half.as_secs_f64()).exp2())
            })
            .sum()
        };
        let wait = |first: &FirstOf| now.since(first.enqueued).as_secs_f64();
        let services: Vec<f64> = waiting.iter().map(service).collect();
        let waits: Vec<f64> = waiting.iter().map(wait).collect();
        let (least, most) = range(&services);
        if most > least && most - least < most * 1e-9 {
            // Rounding decides who had less.
            return waiting.iter().map(|first| first.flow.clone()).collect();
        }
        let score = |at: usize| {
            params.service_weight * (1.0 - norm(services[at], range(&services)))
                + params.head_wait_weight * norm(waits[at], range(&waits))
        };
        let best = (0..waiting.len()).map(score).fold(f64::NEG_INFINITY, f64::max);
        let good = (0..waiting.len()).filter(|&at| score(at) > best - 1e-7);
        good.map(|at| waiting[at].flow.clone()).collect()
    }

    pub(super) fn dispatched(&mut self, flow: &str, cost: &Cost) {
        self.turn += 1;
        let account = self.accounts.entry(flow.to_owned()).or_default();
        *account = (account.0 + u128::from(cost.service()), self.turn);
        self.passed.remove(flow);
        if let Some(at) = self.owed.iter().position(|owed| owed == flow) {
            self.owed.remove(at);
            return;
        }
        let last = self.last.replace(flow.to_owned());
        let (Some(last), Kind::RoundRobin) = (last, &self.kind) else { return };
        // Those behind the last one, up to the flow, in the order of a circle.
        let behind = self.resting.range(last.clone()..).filter(|other| **other > last);
        let circle = behind.chain(self.resting.range(..=last.clone()));
        let is_before = |other: &&String| {
            let (is_behind, is_ahead) = (last < **other, other.as_str() < flow);
            if last.as_str() < flow { is_behind && is_ahead } else { is_behind || is_ahead }
        };
        let passed = circle.filter(is_before).filter(|other| !self.owed.contains(other)).cloned();
        self.owed.extend(passed.collect::<Vec<_>>());
    }

    pub(super) fn nobody_waits(&mut self) {
        self.last = None;
    }

    pub(super) fn settled(&mut self, now: Stamp, flow: &str, charged: &Cost, used: Option<Usage>) {
        let Some(used) = used else { return };
        if self.catches_up(flow) {
            self.held(flow, false);
        }
        let tokens = used.prompt as f64 + 2.0 * used.output as f64;
        self.service.entry(flow.to_owned()).or_default().push((now, tokens));
        let floor = self.round.saturating_sub(MAX_CREDIT_ROUNDS.into()) * self.share(flow);
        let account = self.accounts.entry(flow.to_owned()).or_default();
        let (charged, used) = (u128::from(charged.service()), u128::from(used.service()));
        let corrected = (account.0 + used).saturating_sub(charged);
        account.0 = if used >= charged { corrected } else { corrected.max(account.0.min(floor)) };
    }

    pub(super) fn forget(&mut self, flow: &str) {
        self.accounts.remove(flow);
        self.gone(flow);
        self.service.remove(flow);
    }
}

fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

fn norm(value: f64, (least, most): (f64, f64)) -> f64 {
    if most > least { (value - least) / (most - least) } else { 0.5 }
}
