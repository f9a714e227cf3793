//! What earlier configurations have in flight, which were replaced while requests were under way.

use std::sync::{Arc, Weak, atomic::Ordering};

use parking_lot::Mutex;
use router_flow::{InStages, SubsetId};

use super::FlowController;

/// The flow control of earlier configurations. As many as have requests that wait or run.
#[derive(Default)]
pub struct Earlier(Mutex<Vec<Weak<FlowController>>>);

/// Those of them that are there at a moment.
pub(super) struct Alive(Vec<Arc<FlowController>>);

impl Earlier {
    pub(super) fn set(&self, controllers: Vec<Weak<FlowController>>) {
        *self.0.lock() = controllers;
    }

    pub(super) fn alive(&self) -> Alive {
        let mut known = self.0.lock();
        known.retain(|controller| controller.strong_count() > 0);
        Alive(known.iter().filter_map(Weak::upgrade).collect())
    }

    /// What they have in flight.
    pub(super) fn in_pool(&self) -> InStages {
        self.alive().sum(FlowController::in_stages)
    }
}

impl Alive {
    /// The same for the endpoints of a subset, which are so large a share of the pool. Of what runs in the
    /// pool, what is not known to run there is taken to run everywhere alike.
    pub(super) fn in_subset(&self, subset: &SubsetId, share: f64) -> InStages {
        self.sum(|controller| controller.in_stages_of(subset, share))
    }

    fn sum(&self, of: impl Fn(&FlowController) -> InStages) -> InStages {
        self.0.iter().fold(InStages::default(), |sum, controller| {
            let more = of(controller);
            InStages {
                prefill: sum.prefill.plus(more.prefill),
                decode: sum.decode.plus(more.decode),
            }
        })
    }
}

impl FlowController {
    /// Counts what these have in flight, whose configurations this one's replaces, until that ends. To be called
    /// before requests come.
    pub fn follows(self: &Arc<Self>, earlier: &[Arc<Self>]) {
        if !self.gauge.follows(earlier.iter().map(Arc::downgrade).collect()) {
            return;
        }
        for controller in earlier {
            let mut later = controller.later.lock();
            later.retain(|known| known.strong_count() > 0);
            later.push(Arc::downgrade(self));
        }
        self.earlier_changed();
    }

    fn earlier_changed(&self) {
        self.n_earlier_changes.fetch_add(1, Ordering::AcqRel);
        self.signals_changed();
    }

    /// What is in flight here has changed.
    pub(super) fn tell_later(&self) {
        let later = self.later.lock().clone();
        later.iter().filter_map(Weak::upgrade).for_each(|controller| controller.earlier_changed());
    }

    fn in_stages(&self) -> InStages {
        self.state.lock().flow.in_stages()
    }

    fn in_stages_of(&self, subset: &SubsetId, share: f64) -> InStages {
        let (all, n_placed) = {
            let state = self.state.lock();
            (state.flow.in_stages(), state.flow.n_placed_of(subset))
        };
        let share = (n_placed as f64 / all.decode.requests.max(1.0)).max(share);
        InStages { prefill: all.prefill.times(share), decode: all.decode.times(share) }
    }
}
