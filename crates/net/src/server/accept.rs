//! The accept loop.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::{OwnedSemaphorePermit, Semaphore},
};

use super::{
    Handler, Peer,
    connection::{self, Context},
};

/// Counts open connections and bounds them.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    n_open: AtomicUsize,
}

/// One open connection.
struct Place {
    places: Arc<Places>,
    _permit: OwnedSemaphorePermit,
}

/// Waits between failed accepts: short at first, so that one hiccup is not felt.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts until the tasks' owner is cancelled. Accepts only when there is a place for the
/// connection, so that the bound holds before a descriptor is spent.
pub(super) async fn accept_loop<H: Handler>(
    listener: TcpListener,
    context: Arc<Context<H>>,
    places: Arc<Places>,
) {
    let draining = context.tasks.token().clone();
    let mut pause = FIRST_PAUSE;
    loop {
        let next = async {
            let permit = Arc::clone(&places.free).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = draining.cancelled() => return,
            next = next => next,
        };
        // The semaphore is never closed.
        let Ok(permit) = permit else { return };
        let error = match accepted {
            Ok((stream, addr)) => {
                pause = FIRST_PAUSE;
                let peer = Peer {
                    addr,
                    local: stream.local_addr().unwrap_or(addr),
                    tls: context.tls.is_some(),
                };
                let place = places.open(permit);
                let context = Arc::clone(&context);
                let tasks = context.tasks.clone();
                tasks.spawn("connection", async move {
                    let _place = place;
                    connection::serve(stream, peer, context).await;
                });
                continue;
            }
            Err(error) => error,
        };
        if concerns_one_connection(&error) {
            continue;
        }
        // Out of descriptors or memory: accepting again at once would spin.
        tracing::warn!(server = context.options.name, %error, ?pause, "cannot accept");
        tokio::select! {
            biased;
            () = draining.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The client gave up between connecting and being accepted: nothing is wrong with the listener.
fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

// === impl Places ===

impl Places {
    pub(super) fn new(max_connections: usize) -> Self {
        // A semaphore has a bound of its own, far above any number of descriptors.
        let n_free = max_connections.min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(n_free)), n_open: AtomicUsize::new(0) }
    }

    pub(super) fn n_open(&self) -> usize {
        self.n_open.load(Ordering::Relaxed)
    }

    fn open(self: &Arc<Self>, permit: OwnedSemaphorePermit) -> Place {
        self.n_open.fetch_add(1, Ordering::Relaxed);
        Place { places: Arc::clone(self), _permit: permit }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.n_open.fetch_sub(1, Ordering::Relaxed);
    }
}
