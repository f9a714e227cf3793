//! The accept loop.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::Semaphore};

use super::{
    Handler, Peer,
    connection::{self, Context},
};

/// Waits between failed accepts: short at first, so that one hiccup is not felt.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts until the tasks' owner is cancelled. Accepts only when there is a place for the
/// connection, so that the bound holds before a descriptor is spent.
pub(super) async fn accept_loop<H: Handler>(
    listener: TcpListener,
    context: Arc<Context<H>>,
    places: Arc<Semaphore>,
) {
    let draining = context.tasks.token().clone();
    let mut pause = FIRST_PAUSE;
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = draining.cancelled() => return,
            next = next => next,
        };
        let error = match accepted {
            Ok((stream, addr)) => {
                pause = FIRST_PAUSE;
                let peer = Peer {
                    addr,
                    local: stream.local_addr().unwrap_or(addr),
                    tls: context.tls.is_some(),
                };
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
