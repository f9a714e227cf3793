//! Whose wait ends when, without looking at all who wait.
//!
//! There are two budgets. While the pool has endpoints each request has its own; while it is empty all have
//! the same, so that the line in order of arrival is the order of expiry. Both are charged from the later of
//! the request's arrival and the moment when the pool became what it is, so that no request is refused for
//! time that it spent under the other budget.

use std::{collections::BTreeSet, time::Duration};

use router_core::Stamp;

use crate::request::{Requests, State};

/// Order of expiry while the pool has endpoints. An entry is the earliest moment at which the request can
/// expire; its deadline is later when the pool was empty in between, which is looked at when the moment
/// comes.
#[derive(Default)]
pub(crate) struct Expiry {
    earliest: BTreeSet<(Stamp, u32)>,
}

impl Expiry {
    pub(crate) fn insert(&mut self, expires: Stamp, at: u32) {
        if expires != Stamp::NEVER {
            self.earliest.insert((expires, at));
        }
    }

    pub(crate) fn remove(&mut self, expires: Stamp, at: u32) {
        if expires != Stamp::NEVER {
            self.earliest.remove(&(expires, at));
        }
    }

    /// The earliest moment at which somebody can expire in a pool that has endpoints.
    pub(crate) fn earliest(&self) -> Option<Stamp> {
        self.earliest.first().map(|&(stamp, _)| stamp)
    }

    /// A request whose wait in a pool with endpoints is over.
    pub(crate) fn due<T>(
        &mut self,
        now: Stamp,
        flipped: Stamp,
        requests: &mut Requests<T>,
    ) -> Option<u32> {
        while let Some(&(expires, at)) = self.earliest.first()
            && expires <= now
        {
            let Some(entry) = requests.get_mut(at) else {
                self.earliest.pop_first();
                continue;
            };
            let enqueued = entry.enqueued;
            let State::Waiting(waiting) = &mut entry.state else {
                self.earliest.pop_first();
                continue;
            };
            let deadline = waiting.ttl.map_or(Stamp::NEVER, |ttl| enqueued.max(flipped) + ttl);
            if deadline <= now {
                return Some(at);
            }
            self.earliest.pop_first();
            waiting.expires = deadline;
            self.insert(deadline, at);
        }
        None
    }
}

/// The request that has waited longest, and when its wait in an empty pool is over.
pub(crate) fn oldest<T>(
    requests: &Requests<T>,
    flipped: Stamp,
    budget: Option<Duration>,
) -> Option<(Stamp, u32)> {
    let (at, budget) = (requests.oldest()?, budget?);
    Some((requests.get(at)?.enqueued.max(flipped) + budget, at))
}
