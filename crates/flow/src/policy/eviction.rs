//! Who may be evicted, and who first.

use super::{EvictionFilter, EvictionOrder, Victim};

/// Requests of negative priority.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sheddable;

impl EvictionFilter for Sheddable {
    fn accepts(&self, victim: &Victim) -> bool {
        victim.priority < 0
    }
}

/// The least important first, of equal ones the one that was let go last: it has the least to lose.
#[derive(Clone, Copy, Debug, Default)]
pub struct PriorityThenTime;

impl EvictionOrder for PriorityThenTime {
    fn rank(&self, victim: &Victim) -> (i64, u64) {
        (i64::from(victim.priority), u64::MAX - victim.dispatched.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use router_core::Stamp;

    use super::*;
    use crate::request::Cost;

    #[test]
    fn only_sheddable_work_goes_the_least_important_and_newest_first() {
        let victim = |priority, nanos| Victim {
            priority,
            dispatched: Stamp::from_nanos(nanos),
            cost: Cost::default(),
        };
        assert!(Sheddable.accepts(&victim(-1, 0)) && !Sheddable.accepts(&victim(0, 0)));
        let order = [victim(-5, 9), victim(-5, 3), victim(-1, 10)];
        assert!(order.is_sorted_by_key(|victim| PriorityThenTime.rank(victim)));
    }
}
