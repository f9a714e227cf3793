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
pub(super) struct Agenda {
    heap: BinaryHeap<Reverse<(Stamp, Due)>>,
    /// How much of it is more than scraping, which goes on for ever.
    n_events: usize,
}

impl Due {
    fn is_scraping(self) -> bool {
        matches!(self, Self::Scrape(_) | Self::Publish(_))
    }
}

impl Agenda {
    pub(super) fn add(&mut self, at: Stamp, due: Due) {
        self.n_events += usize::from(!due.is_scraping());
        self.heap.push(Reverse((at, due)));
    }

    /// When the next thing is due.
    pub(super) fn next(&self) -> Option<Stamp> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn take(&mut self) -> Option<(Stamp, Due)> {
        let Reverse((at, due)) = self.heap.pop()?;
        self.n_events -= usize::from(!due.is_scraping());
        Some((at, due))
    }

    /// Whether nothing will happen but scrapes.
    pub(super) fn is_idle(&self) -> bool {
        self.n_events == 0
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
        assert_eq!((agenda.next(), agenda.is_idle()), (Some(early), false));
        let order: Vec<_> = std::iter::from_fn(|| agenda.take()).map(|(_, due)| due).collect();
        let expected =
            [Due::Arrival(7), Due::Engine(1), Due::Engine(3), Due::Scrape(9), Due::Arrival(0)];
        assert_eq!(order, expected);
        agenda.add(late, Due::Publish(1));
        assert!(agenda.is_idle());
    }
}
