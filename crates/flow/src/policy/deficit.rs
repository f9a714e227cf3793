//! Weighted deficit round robin, counted in tokens of service, with locality where it is free.
//!
//! Time is cut into rounds. In every round each flow may have `quantum × weight` tokens of service, its
//! *share*. A request is charged what it is expected to need when it is let go, and the difference to what
//! it did need when it ends. A flow is served while anything is left of its share; what its last request
//! needs beyond that is taken from its shares of the rounds to come. A round ends when no flow that waits
//! has anything left; what a flow leaves behind by having nothing to do is lost.
//!
//! Whose turn it is within a round does not change what each flow gets, so it is chosen by locality: the
//! flow whose first request has the longest cached prefix goes first, of equal ones the one that was served
//! longest ago.
//!
//! **No flow starves.** Take a flow with the share *S* that always has requests waiting, and two requests of
//! it that are let go one after the other. Let *X* be what it is charged from the first on until the second
//! goes: the first one's expected need, and what its requests that end in between needed beyond what was
//! expected of them. Let *C* be the largest expected need of any request, and `k = ⌈X / S⌉`. Between the two,
//! another flow with the share *V* is let go requests of less than `(k + 1 + 8)·V + C` tokens, what is given
//! back to it taken off; of less than `(k + 1)·V + C` where nothing is given back. All others together, less
//! than the sum of that.
//!
//! *Proof.* A flow's account is a number of tokens that grows by what it is charged; it is served in round
//! *r* only while its account is below `(r + 1)·share`. When the first request goes in round *r*, the flow's
//! account is below `(r + 1)·S`, so afterwards it stays below `(r + 1)·S + X ≤ (r + 1 + k)·S`: the flow has
//! something left in round `r + k`, or earlier. That round does not end before the flow is served, and every
//! round ends: nobody's account falls but by what is given back, and only so many may join it. So the second
//! request goes in round `r + k` at the latest. The other flow's account is at least `(r − 8)·V` when the
//! first goes or when it is let go a request after that, since what is given back leads no further down
//! ([`MAX_CREDIT_ROUNDS`]) and who begins to wait begins at round *r* or later. When it is let go the last
//! request before the second, it is below `(r + k + 1)·V`, and that request adds at most *C*. What its account
//! grew by in between is what was said.
//!
//! In time that is the sum over what the pool computes per second: with 20 flows of the same weight, the
//! quantum of 4,096 and requests of at most that, at most 12,288 tokens of each of the others, and 8 shares
//! more of those whose requests needed less than was expected.
//!
//! **A full queue is fair, too.** When the band is full, the flow that has the most requests waiting for its
//! weight loses its last one to a flow that has fewer. Otherwise who sends most would fill the queue, and
//! what the others are owed would never get into it.
//!
//! **Flows that are held stand still.** A flow that waits only for endpoints that are full is in no round: those
//! of the others go on. It comes back with what it had left when it was held, no more for the rounds that went
//! by and no less, and what it owed is paid by them. A round that ended while something of it was left to a
//! flow passed it over: once it is back it goes before all others, those first that were passed over first.
//! Otherwise locality could pass it over each time. So between two requests of the proof only those rounds count
//! in which the flow has a request that may go.
//!
//! **Newcomers cannot hold a round open.** A flow that begins to wait joins the round under way only while
//! no more have joined it than were there when it began; all others join the next one. So a round has
//! finitely many flows, whatever ids clients make up.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU64,
    sync::Arc,
};

use router_core::Stamp;

use super::{Fairness, FairnessPolicy, FlowKey, Head};
use crate::request::{Cost, FlowId, Usage};

/// Shares of past rounds that a flow can have left when its requests needed less than was expected.
/// More would let a flow whose estimates are far off keep all others waiting for as many rounds.
pub const MAX_CREDIT_ROUNDS: u64 = 8;

/// Parameters of deficit round robin.
#[derive(Clone, Debug)]
pub struct Deficit {
    /// Tokens of service that a flow of weight 1 may have in a round.
    pub quantum: NonZeroU64,
    /// Weight of a flow that is not in `weights`. Finite and above 0; others count as 1.
    pub default_weight: f64,
    pub weights: Arc<BTreeMap<String, f64>>,
}

impl Default for Deficit {
    fn default() -> Self {
        Self {
            quantum: NonZeroU64::MIN.saturating_add(4095),
            default_weight: 1.0,
            weights: Arc::default(),
        }
    }
}

impl Deficit {
    /// Tokens of service per round of the flow.
    pub fn share(&self, id: &FlowId) -> NonZeroU64 {
        let tokens = (self.quantum.get() as f64 * self.weight(id)).round() as u64;
        NonZeroU64::new(tokens).unwrap_or(NonZeroU64::MIN)
    }
}

impl FairnessPolicy for Deficit {
    fn start(&self) -> Box<dyn Fairness> {
        Box::new(Rounds::new(self.clone()))
    }

    fn weight(&self, id: &FlowId) -> f64 {
        let usable = |weight: &f64| weight.is_finite() && *weight > 0.0;
        let default = Some(self.default_weight).filter(usable).unwrap_or(1.0);
        self.weights.get(id.as_str()).copied().filter(usable).unwrap_or(default)
    }

    fn drops_from_longest(&self) -> bool {
        true
    }
}

struct Rounds {
    params: Deficit,
    /// The round under way; accounts of flows that never waited are at 0, before the first.
    round: u64,
    /// Flows that wait and have something left: those that were passed over first, then by the longest cached
    /// prefix, then by the longest time without service.
    open: BTreeSet<(u64, Reverse<u32>, u64, FlowKey)>,
    /// Flows that wait for a later round, by that round.
    later: BTreeSet<(u64, FlowKey)>,
    /// How many may join the round under way.
    n_may_join: usize,
    flows: Vec<Account>,
    /// Counts what is let go.
    turn: u64,
}

/// What a flow has had: all of its shares of the rounds before `level`, and `used` of that of `level`.
#[derive(Clone, Copy)]
struct Account {
    share: NonZeroU64,
    level: u64,
    /// Less than `share`.
    used: u64,
    /// When it was served last, by `turn`.
    served: u64,
    /// Cached prefix of its first request.
    cached: u32,
    /// The first round that passed it over while it was held, since it was served last; else [`NEVER`].
    passed: u64,
    waits: Waits,
}

/// A round that never comes.
const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    Not,
    Open,
    Later,
    /// Since this round it is passed over.
    Held(u64),
}

impl Account {
    fn new(share: NonZeroU64) -> Self {
        Self { share, level: 0, used: 0, served: 0, cached: 0, passed: NEVER, waits: Waits::Not }
    }

    fn charge(&mut self, tokens: u64) {
        let used = self.used.saturating_add(tokens);
        self.level = self.level.saturating_add(used / self.share);
        self.used = used % self.share;
    }

    /// Its place among those that have something left.
    fn place(&self, flow: FlowKey) -> (u64, Reverse<u32>, u64, FlowKey) {
        (self.passed, Reverse(self.cached), self.served, flow)
    }

    /// It is back after the rounds from `since` on went by without it.
    fn resume(&mut self, since: u64, round: u64) {
        let passed = self.level.max(since);
        if passed < round {
            self.passed = self.passed.min(passed);
        }
        if self.level <= since {
            self.level += round - since;
        } else if self.level < round {
            (self.level, self.used) = (round, 0);
        }
    }

    /// Gives tokens back, at most down to the beginning of round `floor`; nothing to a flow that has more
    /// left than that.
    fn refund(&mut self, tokens: u64, floor: u64) {
        if self.level < floor {
            return;
        }
        let Some(missing) = tokens.checked_sub(self.used).filter(|&missing| missing > 0) else {
            self.used -= tokens;
            return;
        };
        let rounds = missing.div_ceil(self.share.get());
        if self.level >= floor.saturating_add(rounds) {
            self.level -= rounds;
            self.used = (self.share.get() - missing % self.share) % self.share;
        } else {
            (self.level, self.used) = (floor, 0);
        }
    }
}

impl Rounds {
    fn new(params: Deficit) -> Self {
        Self {
            params,
            round: 1,
            open: BTreeSet::new(),
            later: BTreeSet::new(),
            n_may_join: 1,
            flows: Vec::new(),
            turn: 0,
        }
    }

    /// Changes the account of a flow, whose place in the orders follows. `waits` is whether it waits
    /// afterwards.
    fn change(&mut self, flow: FlowKey, waits: bool, change: impl FnOnce(&mut Account)) {
        let Some(account) = self.flows.get_mut(flow.index()) else { return };
        match account.waits {
            Waits::Not => {}
            Waits::Held(since) => account.resume(since, self.round),
            Waits::Open => {
                self.open.remove(&account.place(flow));
            }
            Waits::Later => {
                self.later.remove(&(account.level, flow));
            }
        }
        change(account);
        account.waits = match (waits, account.level <= self.round) {
            (false, _) => Waits::Not,
            (true, true) => {
                self.open.insert(account.place(flow));
                Waits::Open
            }
            (true, false) => {
                self.later.insert((account.level, flow));
                Waits::Later
            }
        };
    }

    fn waits(&self, flow: FlowKey) -> Waits {
        self.flows.get(flow.index()).map_or(Waits::Not, |account| account.waits)
    }

    /// The flow is passed over from now on.
    fn pass_over(&mut self, flow: FlowKey) {
        if let Some(account) = self.flows.get_mut(flow.index()) {
            account.waits = Waits::Held(self.round);
        }
    }

    /// Begins the next round in which someone who waits has something left.
    fn begin_round(&mut self) {
        let Some(&(round, _)) = self.later.first() else { return };
        self.round = round;
        while let Some(&(level, flow)) = self.later.first()
            && level <= round
        {
            self.later.pop_first();
            if let Some(account) = self.flows.get_mut(flow.index()) {
                account.waits = Waits::Open;
                self.open.insert(account.place(flow));
            }
        }
        self.n_may_join = self.open.len();
    }
}

impl Fairness for Rounds {
    fn join(&mut self, flow: FlowKey, id: &FlowId) {
        let account = Account::new(self.params.share(id));
        if self.flows.len() <= flow.index() {
            self.flows.resize(flow.index() + 1, account);
        } else if let Some(place) = self.flows.get_mut(flow.index()) {
            *place = account;
        }
    }

    fn offer(&mut self, flow: FlowKey, head: &Head) {
        let (round, may_join) = (self.round, self.n_may_join > 0);
        let account = self.flows.get(flow.index());
        let begins = account.is_some_and(|known| known.waits == Waits::Not && known.level < round);
        self.change(flow, true, |account| {
            account.cached = head.cost.cached;
            if begins {
                (account.level, account.used) = (if may_join { round } else { round + 1 }, 0);
            }
        });
        if begins && may_join {
            self.n_may_join -= 1;
        }
    }

    fn hold(&mut self, flow: FlowKey) {
        if self.waits(flow) != Waits::Not {
            self.change(flow, false, |_| {});
            self.pass_over(flow);
        }
    }

    fn withdraw(&mut self, flow: FlowKey) {
        self.change(flow, false, |account| account.passed = NEVER);
    }

    fn next(&mut self) -> Option<FlowKey> {
        if self.open.is_empty() {
            self.begin_round();
        }
        self.open.first().map(|&(_, _, _, flow)| flow)
    }

    fn dispatched(&mut self, flow: FlowKey, sent: &Head, next: Option<&Head>) {
        self.turn += 1;
        let turn = self.turn;
        self.change(flow, next.is_some(), |account| {
            account.charge(sent.cost.service());
            (account.served, account.passed) = (turn, NEVER);
            account.cached = next.map_or(0, |head| head.cost.cached);
        });
    }

    fn settled(&mut self, _: Stamp, flow: FlowKey, charged: &Cost, used: Option<&Usage>) {
        let Some(used) = used.map(Usage::service) else { return };
        let charged = charged.service();
        if used == charged {
            return;
        }
        let floor = self.round.saturating_sub(MAX_CREDIT_ROUNDS);
        let waits = self.waits(flow);
        self.change(flow, matches!(waits, Waits::Open | Waits::Later), |account| {
            if used > charged {
                account.charge(used - charged);
            } else {
                account.refund(charged - used, floor);
            }
        });
        if matches!(waits, Waits::Held(_)) {
            self.pass_over(flow);
        }
    }

    fn forget(&mut self, flow: FlowKey) {
        self.withdraw(flow);
    }
}

#[cfg(test)]
mod tests;
