//! The servers of a replay: kinds with their profiles, what happens to them, and how they are scraped.
//!
//! A pool file says it in YAML or JSON:
//!
//! ```yaml
//! scrape: {interval: 50ms, delay: 0s}   # or interval: never
//! servers:
//! - name: h100                          # servers h100-0, h100-1, …
//!   count: 6
//!   labels: {zone: a}
//!   profile: {kv-cache-size: 25000}     # keys of `Profile`; what is not said is its default
//! - name: l40s
//!   count: 2
//!   profile: {time-factor: 2.5}
//! events:
//! - {at: 10m, server: h100-0, do: slow, factor: 4}
//! - {at: 20m, server: h100-1, do: restart, down: 30s}
//! - {at: 5m, server: l40s-1, do: join}
//! - {at: 30m, server: l40s, do: leave}  # a kind: all of it
//! ```

use std::{sync::Arc, time::Duration};

use router_core::{Stamp, endpoint::Labels};

use crate::model::Profile;

mod document;
mod fields;

pub use document::PoolError;

/// The most servers of one pool.
pub const MAX_SERVERS: usize = 4096;
/// The most events of one pool, counted for each server that they are about.
pub const MAX_EVENTS: usize = 100_000;
/// The most scrapes of one server that may be on their way at once, when they come with a delay.
pub const MAX_IN_TRANSIT: u64 = 10_000;

/// The servers and what happens to them.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub servers: Vec<ServerKind>,
    /// In the order of time.
    pub events: Vec<PoolEvent>,
    pub scrape: Scrape,
}

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerKind {
    pub name: Arc<str>,
    /// What it and others like it are called together.
    pub kind: Arc<str>,
    pub labels: Labels,
    /// In the engine's own blocks; a run converts the capacity into the blocks of its trace.
    pub profile: Profile,
}

/// Something that happens to a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolEvent {
    /// From the start of the run; a load factor does not change it.
    pub at: Stamp,
    /// Index of the server.
    pub server: usize,
    pub what: Change,
}

/// What can happen to a server.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// Every cost is so many times that of the profile from then on.
    Slow { factor: f64 },
    /// The process ends, with all that it has; an empty one serves after `down`.
    Restart { down: Duration },
    /// It becomes a member of the pool. A server whose first change this is was none before.
    Join,
    /// It gets no new request and finishes those that it has.
    Leave,
}

/// How the router learns of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scrape {
    /// Time between two scrapes of a server; `None` for no metrics at all.
    pub interval: Option<Duration>,
    /// What a scrape says was true so long before it. The router takes it for fresh.
    pub delay: Duration,
}

impl Default for Scrape {
    fn default() -> Self {
        Self { interval: Some(Duration::from_millis(50)), delay: Duration::ZERO }
    }
}

impl Scrape {
    /// `Err` says why it cannot be done.
    pub fn check(&self) -> Result<(), String> {
        let Some(interval) = self.interval else { return Ok(()) };
        if interval < Duration::from_millis(1) {
            return Err("scrapes must be at least 1ms apart".to_owned());
        }
        if self.delay.as_nanos() / interval.as_nanos() > u128::from(MAX_IN_TRANSIT) {
            return Err(format!(
                "with a scrape every {interval:?} and a delay of {:?}, more than {MAX_IN_TRANSIT} scrapes \
                 of each server would be on their way",
                self.delay
            ));
        }
        Ok(())
    }
}

impl Pool {
    /// So many servers of the default profile, at most [`MAX_SERVERS`].
    pub fn uniform(n_servers: usize) -> Self {
        let kind: Arc<str> = "server".into();
        let server = |nth| ServerKind {
            name: format!("server-{nth}").into(),
            kind: Arc::clone(&kind),
            labels: Labels::new(),
            profile: Profile::default(),
        };
        Self {
            servers: (0..n_servers.min(MAX_SERVERS)).map(server).collect(),
            events: Vec::new(),
            scrape: Scrape::default(),
        }
    }

    /// Reads a pool file called `name` in messages. The error has everything that is wrong, with its place.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self, PoolError> {
        document::parse(name, text)
    }

    /// Whether the server is a member from the start.
    pub(crate) fn is_member_at_start(&self, server: usize) -> bool {
        let membership = |event: &&PoolEvent| {
            event.server == server && matches!(event.what, Change::Join | Change::Leave)
        };
        self.events.iter().find(membership).is_none_or(|event| event.what != Change::Join)
    }
}
