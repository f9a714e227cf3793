//! What a request for a subset of endpoints costs where many are in use, by how often the detector is asked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use router_engine::flow::READ_AGAIN_AFTER;
use router_framework::{Increments, PoolView, Saturation, SaturationDetector};
use router_testkit::router::{ONE_AT_A_TIME, RouterBuilder};

use crate::{queueing::World, subsets::only};

/// Idle, and counts how often it is asked.
struct Idle(Arc<AtomicUsize>);

impl SaturationDetector for Idle {
    fn saturation(&self, _: &PoolView<'_>) -> Saturation {
        self.0.fetch_add(1, Ordering::Relaxed);
        Saturation { value: 0.0, n_stale: 0 }
    }

    fn increments(&self, view: &PoolView<'_>) -> Increments {
        Increments { per_request: 0.0, per_token: 0.0, as_of: view.now }
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_subset_is_looked_at_without_the_others() {
    const N_SUBSETS: usize = 100;
    let n_asked = Arc::new(AtomicUsize::new(0));
    let detector = Arc::new(Idle(Arc::clone(&n_asked)));
    let builder = RouterBuilder::new(ONE_AT_A_TIME).endpoints(N_SUBSETS + 2);
    let world = World::of(builder.change(|loaded| loaded.detector.role = detector));
    // Its alarm begins by a reading of its own.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut running = Vec::new();
    let mut asked_for = async |n: usize| {
        let before = n_asked.load(Ordering::Relaxed);
        let endpoint = format!("10.0.0.{}", n + 1);
        running.push(world.ask_with(only(&[&endpoint])).routed().await);
        n_asked.load(Ordering::Relaxed) - before
    };
    assert_eq!(asked_for(0).await, 2, "the pool, and the subset");
    for n in 1..N_SUBSETS {
        assert_eq!(asked_for(n).await, 1, "with {n} subsets in use");
    }
    tokio::time::advance(READ_AGAIN_AFTER * 3 / 4).await;
    assert_eq!(asked_for(N_SUBSETS).await, 1);
    // That was no reading of the others, which are due when they were before.
    tokio::time::advance(READ_AGAIN_AFTER / 4).await;
    assert_eq!(asked_for(0).await, 1 + N_SUBSETS + 1);
    assert_eq!(asked_for(0).await, 0);
    assert_eq!(asked_for(N_SUBSETS + 1).await, 1);
}
