//! Idle connections by target.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use router_core::time::Stamp;
use router_rt::Clock;
use tokio_util::sync::CancellationToken;

use super::{Target, connect::Connection};

/// Idle connections, newest last. A lock, held for moments only: a request takes and gives back
/// one connection.
#[derive(Debug)]
pub(super) struct Pool {
    max_idle_per_target: usize,
    idle_timeout: Duration,
    clock: Clock,
    state: Mutex<State>,
}

/// A connection in use, which goes back to its pool when the response has ended.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Weak<Pool>,
    target: Target,
    connection: Connection,
}

#[derive(Debug, Default)]
struct State {
    idle: HashMap<Target, VecDeque<Idle>>,
    closed: bool,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Stamp,
}

impl Pool {
    pub(super) fn new(max_idle_per_target: usize, idle_timeout: Duration, clock: Clock) -> Self {
        Self { max_idle_per_target, idle_timeout, clock, state: Mutex::default() }
    }

    /// The newest idle connection that can take a request at once.
    pub(super) async fn take(&self, target: &Target) -> Option<Connection> {
        let (connection, not_ready_yet) = self.take_ready(target);
        if connection.is_some() || !not_ready_yet {
            return connection;
        }
        // Its last response has just ended, and its driver has yet to notice: let it run once.
        tokio::task::yield_now().await;
        self.take_ready(target).0
    }

    /// The connection, and whether there is an open one that is not ready.
    fn take_ready(&self, target: &Target) -> (Option<Connection>, bool) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let Some(idle) = state.idle.get_mut(target) else { return (None, false) };
        idle.retain(|idle| !idle.connection.is_closed() && now < idle.since + self.idle_timeout);
        let Some(position) = idle.iter().rposition(|idle| idle.connection.is_ready()) else {
            return (None, !idle.is_empty());
        };
        if let Some(idle) = idle.get_mut(position)
            && let Some(shared) = idle.connection.share()
        {
            idle.since = now;
            return (Some(shared), false);
        }
        (idle.remove(position).map(|idle| idle.connection), false)
    }

    /// Puts a connection to use. One that can be shared is offered to others right away.
    pub(super) fn lease(self: &Arc<Self>, target: &Target, connection: Connection) -> Lease {
        if let Some(shared) = connection.share() {
            self.offer(target, shared);
        }
        Lease { pool: Arc::downgrade(self), target: target.clone(), connection }
    }

    fn offer(&self, target: &Target, connection: Connection) {
        if connection.is_closed() {
            return;
        }
        let since = self.clock.now();
        let mut state = self.state.lock();
        if state.closed || self.max_idle_per_target == 0 {
            return;
        }
        let idle = match state.idle.get_mut(target) {
            Some(idle) => idle,
            None => state.idle.entry(target.clone()).or_default(),
        };
        if matches!(connection.sender, super::Sender::Http2(_)) {
            // One shared connection per target is enough; the newest serves.
            idle.clear();
        } else if idle.len() >= self.max_idle_per_target {
            idle.pop_front();
        }
        idle.push_back(Idle { connection, since });
    }

    pub(super) fn forget(&self, target: &Target) {
        self.state.lock().idle.remove(target);
    }

    pub(super) fn n_idle(&self) -> usize {
        self.state.lock().idle.values().map(VecDeque::len).sum()
    }

    fn drop_expired(&self) {
        let now = self.clock.now();
        self.state.lock().idle.retain(|_, idle| {
            idle.retain(|one| !one.connection.is_closed() && now < one.since + self.idle_timeout);
            !idle.is_empty()
        });
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.idle.clear();
    }
}

impl Lease {
    /// The response has ended: the connection can serve again. Connections that are shared are in
    /// the pool already; offering them renews their time.
    pub(super) fn give_back(self) {
        if let Some(pool) = self.pool.upgrade() {
            pool.offer(&self.target, self.connection);
        }
    }
}

/// Closes connections that nobody used for long, until `cancelled`; then all idle ones.
pub(super) async fn sweep(pool: Arc<Pool>, cancelled: CancellationToken) {
    let every = pool.idle_timeout.max(Duration::from_millis(100));
    loop {
        tokio::select! {
            biased;
            () = cancelled.cancelled() => {
                pool.close();
                return;
            }
            () = tokio::time::sleep(every) => pool.drop_expired(),
        }
    }
}
