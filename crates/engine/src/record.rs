//! A tap on live traffic, for whoever writes it down: what requests were like and what became of them, and on
//! demand all that decisions depend on.
//!
//! Nothing waits for the writer. Entries go into a bounded queue; when it is full they are dropped and counted.
//! With inputs, entries stand in the order in which things happened, and each has the one time that the router
//! did it with. On a runtime of one thread that order is exact, so the same router makes the same decisions of
//! it again.

mod entry;
mod noting;
mod recorded;

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use router_core::{Endpoint, EndpointSpec, Stamp};
use router_rt::Clock;
use tokio::sync::mpsc::{self, error::TrySendError};

pub use self::entry::{
    Configured, Decided, Ended, Entry, Event, Refusal, Refused, RequestNote, ResponseNote,
    ScrapeNote, Verdict,
};
pub(crate) use self::{noting::Noting, recorded::Recorded};
use crate::settings::Settings;

/// Entries that wait to be written.
pub const QUEUE: usize = 16_384;
/// Memory of all entries that wait or are being written, in bytes: thrice what a full queue of requests of 6,000
/// tokens takes. A request brings 8 bytes for each block of its prompt, so the longest prompts would otherwise
/// make gigabytes of the same number of entries.
pub const QUEUE_BYTES: usize = 64 << 20;
/// Candidates whose scores are kept of one decision; of more, the best.
pub const MAX_SCORES: usize = 16;

/// What all routers of a process record into.
#[derive(Clone, Debug)]
pub struct Recorder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    entries: mpsc::Sender<Queued>,
    n_bytes: Arc<AtomicUsize>,
    clock: Clock,
    has_inputs: bool,
    is_open: AtomicBool,
    n_dropped: AtomicU64,
    /// Routed requests that have not ended.
    n_under_way: AtomicU64,
    n_routers: AtomicU32,
}

/// An entry in the queue.
#[derive(Debug)]
pub struct Queued {
    pub entry: Entry,
    _room: Room,
}

/// Bytes of the queue's bound, given back when the entry is gone.
#[derive(Debug)]
struct Room {
    all: Arc<AtomicUsize>,
    n_bytes: usize,
}

/// What one router records into.
#[derive(Clone, Debug)]
pub struct Record {
    shared: Arc<Shared>,
    /// The how-manieth of this process, from 0: a reload makes another.
    router: u32,
    /// How often what decisions depend on has changed.
    n_changes: Arc<AtomicU64>,
}

// === impl Recorder ===

impl Recorder {
    /// A recorder and the queue that is to be written. `has_inputs` asks for all that decisions depend on.
    pub fn new(clock: Clock, has_inputs: bool) -> (Self, mpsc::Receiver<Queued>) {
        let (entries, queue) = mpsc::channel(QUEUE);
        let shared = Shared {
            entries,
            n_bytes: Arc::default(),
            clock,
            has_inputs,
            is_open: AtomicBool::new(true),
            n_dropped: AtomicU64::new(0),
            n_under_way: AtomicU64::new(0),
            n_routers: AtomicU32::new(0),
        };
        (Self(Arc::new(shared)), queue)
    }

    /// For the next router.
    pub fn router(&self) -> Record {
        let router = self.0.n_routers.fetch_add(1, Relaxed);
        Record { shared: Arc::clone(&self.0), router, n_changes: Arc::default() }
    }

    /// Ends the recording; what comes from now on is neither kept nor counted.
    pub fn close(&self) {
        self.0.is_open.store(false, Relaxed);
    }

    /// Entries that found the queue full, by number or by bytes.
    pub fn n_dropped(&self) -> u64 {
        self.0.n_dropped.load(Relaxed)
    }

    /// Requests that have been routed and have not ended.
    pub fn n_under_way(&self) -> u64 {
        self.0.n_under_way.load(Relaxed)
    }
}

// === impl Record ===

impl Record {
    pub(crate) fn is_open(&self) -> bool {
        self.shared.is_open.load(Relaxed)
    }

    fn has_inputs(&self) -> bool {
        self.shared.has_inputs
    }

    fn n_changes(&self) -> u64 {
        self.n_changes.load(Relaxed)
    }

    fn send(&self, at: Stamp, event: Event) {
        if !self.is_open() {
            return;
        }
        let entry = Entry { router: self.router, at, event };
        let is_lost = match Room::take(&self.shared.n_bytes, entry.n_bytes()) {
            None => true,
            Some(room) => {
                let sent = self.shared.entries.try_send(Queued { entry, _room: room });
                matches!(sent, Err(TrySendError::Full(_)))
            }
        };
        if is_lost {
            self.shared.n_dropped.fetch_add(1, Relaxed);
        }
    }

    /// Something that later decisions depend on; made only where it is wanted.
    fn change(&self, at: Stamp, event: impl FnOnce() -> Event) {
        if self.has_inputs() && self.is_open() {
            self.n_changes.fetch_add(1, Relaxed);
            self.send(at, event());
        }
    }

    /// What the router of this record was built from; `None` for the text of the built-in configuration.
    pub fn configured(&self, name: &str, text: Option<&[u8]>, settings: &Settings) {
        self.change(self.shared.clock.now(), || {
            let text = text.map(|text| String::from_utf8_lossy(text).into_owned());
            let (name, settings) = (name.to_owned(), settings.clone());
            Event::Configured(Box::new(Configured { name, text, settings }))
        });
    }

    /// Whether membership is of interest, which takes a copy.
    pub(crate) fn wants_members(&self) -> bool {
        self.has_inputs() && self.is_open()
    }

    pub(crate) fn members(&self, endpoints: Vec<EndpointSpec>) {
        self.change(self.shared.clock.now(), || Event::Members(endpoints));
    }

    /// What a scrape came to, after all of it is in its place.
    pub(crate) fn scraped(&self, endpoint: &Endpoint, at: Stamp, scrape: ScrapeNote) {
        self.change(at, || {
            let lora = matches!(scrape, ScrapeNote::Page { .. }).then(|| endpoint.lora().clone());
            let (signals, endpoint) = (endpoint.signals(), Arc::clone(endpoint.id()));
            Event::Scraped { endpoint, scrape, signals, lora }
        });
    }
}

// === impl Room ===

impl Room {
    /// `None` where there is not so much left.
    fn take(all: &Arc<AtomicUsize>, n_bytes: usize) -> Option<Self> {
        let n_before = all.fetch_add(n_bytes, Relaxed);
        let room = Self { all: Arc::clone(all), n_bytes };
        // Dropping it gives back what is too much.
        (n_before.saturating_add(n_bytes) <= QUEUE_BYTES).then_some(room)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.all.fetch_sub(self.n_bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests;
