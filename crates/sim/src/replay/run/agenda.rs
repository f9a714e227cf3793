//! What will happen, in the order of its stamps.

use std::{cmp::Reverse, collections::BinaryHeap};

use router_core::Stamp;

/// What can be due. At one stamp the order is that of the variants: what servers do comes before what is seen of
/// it, and both before what arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// The server's engine does something, unless its plan has changed since.
    Engine(u32),
    /// An event of the pool, by its index.
    Change(u32),
    /// A server is looked at.
    Scrape(u32),
    /// What was seen of a server reaches the router.
    Publish(u32),
    /// A request arrives.
    Arrival(u32),
}

/// Everything that is due, soonest first.
#[derive(Debug, Default)]
pub(super) struct Agenda(BinaryHeap<Reverse<(Stamp, Due)>>);

impl Agenda {
    pub(super) fn add(&mut self, at: Stamp, due: Due) {
        self.0.push(Reverse((at, due)));
    }

    /// When the next thing is due.
    pub(super) fn next(&self) -> Option<Stamp> {
        self.0.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn take(&mut self) -> Option<(Stamp, Due)> {
        self.0.pop().map(|Reverse(next)| next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_one_stamp_servers_come_before_scrapes_and_these_before_arrivals() {
        let mut agenda = Agenda::default();
        let (early, late) = (Stamp::from_nanos(1), Stamp::from_nanos(2));
        let all = [
            (late, Due::Arrival(0)),
            (late, Due::Scrape(9)),
            (early, Due::Arrival(7)),
            (late, Due::Engine(3)),
            (late, Due::Engine(1)),
        ];
        all.into_iter().for_each(|(at, due)| agenda.add(at, due));
        assert_eq!(agenda.next(), Some(early));
        let order: Vec<_> = std::iter::from_fn(|| agenda.take()).map(|(_, due)| due).collect();
        let expected =
            [Due::Arrival(7), Due::Engine(1), Due::Engine(3), Due::Scrape(9), Due::Arrival(0)];
        assert_eq!(order, expected);
    }
}
