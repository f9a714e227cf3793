//! What came to endpoints and went lately.
//!
//! The account of a subset begins when its first signal comes. What happened between the moment that the signal
//! is of and this one is in neither, unless somebody else remembers it: a request that ended meanwhile would take
//! its room for as long as that signal counts, and the room of one that was placed would be given away again.

use std::collections::VecDeque;

use router_core::{EndpointIndex, Stamp};

use crate::{pool::Load, request::Cost};

/// Changes that are remembered. When more come between two signals of the pool, the oldest are forgotten: a
/// subset that comes into use then lacks them until its second signal.
const MAX_CHANGES: usize = 4_096;

#[derive(Clone, Copy)]
pub(super) enum What {
    Placed,
    Prefilled,
    Ended,
}

/// What became of a request at an endpoint.
#[derive(Clone, Copy)]
pub(super) struct Change {
    pub(super) at: Stamp,
    pub(super) what: What,
    pub(super) endpoint: EndpointIndex,
    pub(super) cost: Cost,
}

impl Change {
    pub(super) fn note_in(&self, load: &mut Load) {
        match self.what {
            What::Placed => load.placed(self.at, &self.cost),
            What::Prefilled => load.prefilled(self.at, &self.cost),
            What::Ended => load.ended(self.at, &self.cost),
        }
    }
}

/// What changed at all endpoints since the pool's last signal was taken, the oldest first.
#[derive(Default)]
pub(super) struct Recent(VecDeque<Change>);

impl Recent {
    pub(super) fn note(&mut self, change: Change) {
        if self.0.len() >= MAX_CHANGES {
            self.0.pop_front();
        }
        self.0.push_back(change);
    }

    /// Forgets what a signal of that moment has in it.
    pub(super) fn settle(&mut self, as_of: Stamp) {
        while self.0.front().is_some_and(|change| change.at <= as_of) {
            self.0.pop_front();
        }
    }

    /// What a signal of that moment does not have in it.
    pub(super) fn since(&self, as_of: Stamp) -> impl Iterator<Item = &Change> {
        self.0.range(self.0.partition_point(|change| change.at <= as_of)..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Change {
        let endpoint = EndpointIndex { slot: 0, generation: 0 };
        let cost = Cost { cached: 0, uncached: 0, output: 0 };
        Change { at: Stamp::from_nanos(nanos), what: What::Placed, endpoint, cost }
    }

    #[track_caller]
    fn check(recent: &Recent, as_of: u64, expected: &[u64]) {
        let since = recent.since(Stamp::from_nanos(as_of)).map(|change| change.at.as_nanos());
        assert_eq!(since.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_a_signal_has_in_it_is_forgotten() {
        let mut recent = Recent::default();
        for nanos in [1, 2, 2, 4] {
            recent.note(at(nanos));
        }
        check(&recent, 0, &[1, 2, 2, 4]);
        check(&recent, 2, &[4]);
        check(&recent, 4, &[]);
        recent.settle(Stamp::from_nanos(1));
        check(&recent, 0, &[2, 2, 4]);
        recent.settle(Stamp::from_nanos(3));
        check(&recent, 0, &[4]);
    }

    #[test]
    fn of_too_many_the_latest_are_remembered() {
        let mut recent = Recent::default();
        let n_more = 2;
        for nanos in 1..=MAX_CHANGES as u64 + n_more {
            recent.note(at(nanos));
        }
        assert_eq!(recent.0.len(), MAX_CHANGES);
        assert_eq!(recent.0.front().map(|change| change.at), Some(Stamp::from_nanos(1 + n_more)));
    }
}
