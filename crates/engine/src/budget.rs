//! The bound on request bodies that are held in memory over all requests, and on what is found in them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes of request bodies held at once.
#[derive(Debug)]
pub struct BodyBudget {
    held: AtomicUsize,
    max: usize,
}

impl BodyBudget {
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), max })
    }

    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// A lease of zero bytes that can grow.
    pub fn lease(self: &Arc<Self>) -> BodyLease {
        BodyLease { budget: Arc::clone(self), n_bytes: 0 }
    }
}

/// One request's share of the budget; given back when it is dropped.
#[derive(Debug)]
pub struct BodyLease {
    budget: Arc<BodyBudget>,
    n_bytes: usize,
}

impl BodyLease {
    /// Takes `n_bytes` more; false (and nothing taken) when the budget is used up.
    #[must_use]
    pub fn grow(&mut self, n_bytes: usize) -> bool {
        let before = self.budget.held.fetch_add(n_bytes, Ordering::Relaxed);
        if before.saturating_add(n_bytes) > self.budget.max {
            self.budget.held.fetch_sub(n_bytes, Ordering::Relaxed);
            return false;
        }
        self.n_bytes += n_bytes;
        true
    }

    /// Gives back `n_bytes`, at most what it has.
    pub fn shrink(&mut self, n_bytes: usize) {
        let n_bytes = n_bytes.min(self.n_bytes);
        self.n_bytes -= n_bytes;
        self.budget.held.fetch_sub(n_bytes, Ordering::Relaxed);
    }

    pub fn n_bytes(&self) -> usize {
        self.n_bytes
    }
}

impl Drop for BodyLease {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.n_bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_budget_takes_nothing_and_a_dropped_lease_gives_back() {
        let budget = BodyBudget::new(10);
        let mut first = budget.lease();
        assert!(first.grow(8));
        let mut second = budget.lease();
        assert!(!second.grow(3));
        assert!(second.grow(2));
        first.shrink(3);
        assert_eq!((first.n_bytes(), budget.held()), (5, 7));
        first.shrink(9);
        assert_eq!((first.n_bytes(), budget.held()), (0, 2), "no more than it had");
        assert!(first.grow(8));
        drop(first);
        assert_eq!(budget.held(), 2);
        drop(second);
        assert_eq!(budget.held(), 0);
    }
}
