//! From a discovery plugin to the pool of one configuration.

use std::sync::Arc;

use router_core::EndpointSpec;
use router_framework::{Discovery, DiscoveryCx, DiscoveryError, EndpointSink};
use router_rt::{Clock, Tasks};
use tokio::sync::{oneshot, watch};

use crate::capabilities::SystemResolve;

/// Hands on what discovery reports, and tells of the first report, which may be an empty one.
struct Reports {
    sink: Arc<dyn EndpointSink>,
    reported: watch::Sender<bool>,
}

impl EndpointSink for Reports {
    fn replace(&self, endpoints: Vec<EndpointSpec>) {
        self.sink.replace(endpoints);
        self.reported.send_replace(true);
    }
}

/// Runs discovery until `tasks` is cancelled, and returns when it has reported once or can never do so.
pub(super) async fn find(
    discovery: Arc<dyn Discovery>,
    sink: Arc<dyn EndpointSink>,
    clock: Clock,
    tasks: &Tasks,
) -> Result<(), DiscoveryError> {
    let (reported, mut first) = watch::channel(false);
    let reports = Arc::new(Reports { sink, reported });
    let run = discovery.run(DiscoveryCx {
        sink: Arc::clone(&reports) as _,
        resolve: Arc::new(SystemResolve),
        clock,
        tasks: tasks.clone(),
    });
    let (ended, end) = oneshot::channel();
    let running = async move {
        // Nobody takes the result once the start is over.
        if let Err(Err(error)) = ended.send(run.await) {
            tracing::error!(%error, "discovery has ended, endpoints stay as they are");
        }
    };
    drop(tasks.spawn_cancellable("discovery", running));
    let end = tokio::select! {
        biased;
        // `reports` keeps the channel open.
        _ = first.wait_for(|reported| *reported) => return Ok(()),
        end = end => end,
    };
    match end {
        // Both may have come on another thread after the look at the first of the two.
        _ if *reports.reported.borrow() => Ok(()),
        Ok(Err(error)) => Err(error),
        // It has panicked, which is logged, or believes that there is nothing to report.
        Ok(Ok(())) | Err(_) => Err(DiscoveryError("discovery ended without a report".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::BoxFuture};

    use super::*;

    struct Nobody;

    impl EndpointSink for Nobody {
        fn replace(&self, _: Vec<EndpointSpec>) {}
    }

    /// Reports so many times, then ends in the given way.
    struct Scripted {
        n_reports: usize,
        end: fn() -> Result<(), DiscoveryError>,
    }

    impl Discovery for Scripted {
        fn run(self: Arc<Self>, cx: DiscoveryCx) -> BoxFuture<'static, Result<(), DiscoveryError>> {
            async move {
                (0..self.n_reports).for_each(|_| cx.sink.replace(Vec::new()));
                (self.end)()
            }
            .boxed()
        }
    }

    #[tokio::test]
    async fn the_first_report_counts_even_an_empty_one() {
        let check = async |n_reports, end, expected: Result<(), &str>| {
            let tasks = Tasks::new();
            let scripted = Arc::new(Scripted { n_reports, end });
            let found = find(scripted, Arc::new(Nobody), Clock::new(), &tasks).await;
            assert_eq!(found.map_err(|error| error.0), expected.map_err(str::to_owned));
            tasks.ended().await;
        };
        let broken = || Err(DiscoveryError("no such file".to_owned()));
        check(1, || Ok(()), Ok(())).await;
        check(2, broken, Ok(())).await;
        check(0, broken, Err("no such file")).await;
        check(0, || Ok(()), Err("discovery ended without a report")).await;
        check(0, || panic!("scripted"), Err("discovery ended without a report")).await;
    }

    /// Discovery that ends at its report does so on another thread, at any moment of the wait.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_report_is_seen_however_soon_the_end_follows() {
        let tasks = Tasks::new();
        for _ in 0..20_000 {
            let scripted = Arc::new(Scripted { n_reports: 1, end: || Ok(()) });
            find(scripted, Arc::new(Nobody), Clock::new(), &tasks).await.unwrap();
        }
        tasks.ended().await;
    }
}
