//! Traces that several runs share: made by the first run that needs one, gone after the last.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use router_sim::replay::trace::Trace;

/// What a trace is drawn from: runs with equal keys play the same one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Index of the load.
    pub(super) load: usize,
    pub(super) n_servers: usize,
    pub(super) nth_seed: usize,
}

/// The traces of all runs. Runs with one key should follow each other.
pub(super) struct Traces {
    slots: BTreeMap<Key, Mutex<Slot>>,
}

struct Slot {
    /// Runs that have not had it yet. The last of them takes it along, so that it ends with the last run.
    n_to_come: usize,
    trace: Option<Arc<Trace>>,
}

impl Traces {
    /// `keys` has the key of every run.
    pub(super) fn new(keys: impl Iterator<Item = Key>) -> Self {
        let mut n_runs = BTreeMap::<Key, usize>::new();
        keys.for_each(|key| *n_runs.entry(key).or_default() += 1);
        let slot = |n_to_come| Mutex::new(Slot { n_to_come, trace: None });
        Self { slots: n_runs.into_iter().map(|(key, n)| (key, slot(n))).collect() }
    }

    /// The trace for one run. Another run that wants it too waits while `make` makes it.
    pub(super) fn lend(
        &self,
        key: Key,
        make: impl FnOnce() -> anyhow::Result<Arc<Trace>>,
    ) -> anyhow::Result<Arc<Trace>> {
        let Some(slot) = self.slots.get(&key) else { return make() };
        let mut slot = slot.lock();
        slot.n_to_come = slot.n_to_come.saturating_sub(1);
        let trace = match slot.trace.take() {
            Some(trace) => trace,
            None => make()?,
        };
        if slot.n_to_come > 0 {
            slot.trace = Some(Arc::clone(&trace));
        }
        Ok(trace)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;

    #[test]
    fn a_trace_is_made_once_and_ends_with_its_last_run() {
        let key = |load| Key { load, n_servers: 8, nth_seed: 0 };
        let traces = Traces::new([key(0), key(0), key(0), key(1)].into_iter());
        let made = || Ok(Arc::new(Trace::default()));
        let again = || -> anyhow::Result<Arc<Trace>> { anyhow::bail!("there is one") };
        let first = traces.lend(key(0), made).unwrap();
        let trace = Arc::downgrade(&first);
        drop(first);
        let second = traces.lend(key(0), again).unwrap();
        let third = traces.lend(key(0), again).unwrap();
        assert!(Arc::ptr_eq(&second, &third));
        drop((second, third));
        assert_eq!(Weak::strong_count(&trace), 0);
        assert_eq!(Arc::strong_count(&traces.lend(key(1), made).unwrap()), 1);
    }
}
