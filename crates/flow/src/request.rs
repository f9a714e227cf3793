//! What flow control is told of a request, and where it keeps it.

use std::{fmt, sync::Arc, time::Duration};

use router_core::{EndpointIndex, Stamp};

use crate::{
    band::BandKey,
    policy::{FlowKey, Rank},
    subset::{SubsetId, SubsetKey},
};

/// Longest fairness id that is kept as it came; metrics show none that is longer, and go by this name when a
/// flow is forgotten. Of a longer one the beginning and a hash remain, so that what clients send cannot make an
/// idle flow large.
pub const MAX_FLOW_ID_BYTES: usize = 256;

/// Bytes of a long id that remain beside its hash.
const KEPT_ID_BYTES: usize = MAX_FLOW_ID_BYTES - 17;

/// The fairness id: whose request it is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(Arc<str>);

impl FlowId {
    pub fn new(id: &Arc<str>) -> Self {
        if id.len() <= MAX_FLOW_ID_BYTES {
            return Self(Arc::clone(id));
        }
        let kept = id.get(..id.floor_char_boundary(KEPT_ID_BYTES)).unwrap_or_default();
        Self(format!("{kept}#{:016x}", fnv1a(id.as_bytes())).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for FlowId {
    fn from(id: &str) -> Self {
        Self::new(&Arc::from(id))
    }
}

impl fmt::Debug for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// FNV-1a: two ids that collide share a flow, which whoever makes them collide may have anyway by sending
/// the same id.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A request that asks to be let go.
#[derive(Clone, Debug)]
pub struct Ask {
    pub priority: i32,
    pub flow: FlowId,
    /// Bytes of the body, which count against the limits in bytes.
    pub bytes: u64,
    /// When its head came; deadlines of the client count from here.
    pub received: Stamp,
    /// How long it may wait at most, where that is less than the configured time.
    pub ttl: Option<Duration>,
    /// Time to first token that the client asks for.
    pub ttft_slo: Option<Duration>,
    pub cost: Cost,
    /// The only endpoints that it may go to; `None` is all.
    pub subset: Option<SubsetId>,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            priority: 0,
            flow: FlowId::from("default-flow"),
            bytes: 0,
            received: Stamp::ORIGIN,
            ttl: None,
            ttft_slo: None,
            cost: Cost::default(),
            subset: None,
        }
    }
}

/// What a request is expected to need, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Prompt tokens that some endpoint probably has in its cache.
    pub cached: u32,
    /// All other prompt tokens.
    pub uncached: u32,
    pub output: u32,
}

impl Cost {
    /// Tokens of service: what has to be computed.
    pub fn service(&self) -> u64 {
        u64::from(self.uncached) + u64::from(self.output)
    }

    /// Tokens that occupy memory while the request runs.
    pub fn load(&self) -> u64 {
        u64::from(self.cached) + self.service()
    }
}

/// What a request did need, in tokens; all 0 when nothing was served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt: u64,
    /// Of the prompt's tokens, those that came from a cache.
    pub cached: u64,
    pub output: u64,
}

impl Usage {
    /// Tokens of service: what was computed.
    pub fn service(&self) -> u64 {
        self.prompt.saturating_sub(self.cached).saturating_add(self.output)
    }
}

/// Names one request from its arrival to its end. A ticket of a request that is gone names nothing, for
/// ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    pub(crate) seq: u64,
    pub(crate) at: u32,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.seq)
    }
}

/// A request that waits or runs.
pub(crate) struct Entry<T> {
    pub(crate) seq: u64,
    pub(crate) payload: T,
    pub(crate) band: BandKey,
    pub(crate) flow: FlowKey,
    pub(crate) subset: SubsetKey,
    pub(crate) bytes: u64,
    pub(crate) enqueued: Stamp,
    pub(crate) cost: Cost,
    pub(crate) state: State,
}

pub(crate) enum State {
    Waiting(Waiting),
    Running(Running),
}

/// A request in a queue.
#[derive(Clone, Copy)]
pub(crate) struct Waiting {
    pub(crate) rank: Rank,
    /// How long it may wait while the pool has endpoints.
    pub(crate) ttl: Option<Duration>,
    /// Its place in the order of expiry; its deadline is then or later.
    pub(crate) expires: Stamp,
    /// Neighbours in the line of all that wait, in order of arrival.
    before: u32,
    after: u32,
}

impl Waiting {
    pub(crate) fn new(rank: Rank, ttl: Option<Duration>, expires: Stamp) -> Self {
        Self { rank, ttl, expires, before: NOBODY, after: NOBODY }
    }
}

/// A request that was let go and has not ended.
#[derive(Clone, Copy)]
pub(crate) struct Running {
    pub(crate) dispatched: Stamp,
    pub(crate) phase: Phase,
    /// Where it is placed, if that is known.
    pub(crate) endpoint: Option<EndpointIndex>,
    /// Its place among those that may be evicted.
    pub(crate) evictable: Option<(i64, u64)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No endpoint knows of it yet.
    Unplaced,
    Prefill,
    Decode,
}

const NOBODY: u32 = u32::MAX;

/// All requests that wait or run. Those that wait also stand in a line, in order of arrival.
pub(crate) struct Requests<T> {
    entries: Vec<Option<Entry<T>>>,
    free: Vec<u32>,
    first: u32,
    last: u32,
}

/// Places that are kept for later when everything has gone.
const KEPT_PLACES: usize = 1024;

impl<T> Requests<T> {
    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), free: Vec::new(), first: NOBODY, last: NOBODY }
    }

    pub(crate) fn get(&self, at: u32) -> Option<&Entry<T>> {
        self.entries.get(at as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, at: u32) -> Option<&mut Entry<T>> {
        self.entries.get_mut(at as usize)?.as_mut()
    }

    /// The place of the request that the ticket names, if it is still there.
    pub(crate) fn find(&self, ticket: Ticket) -> Option<&Entry<T>> {
        self.get(ticket.at).filter(|entry| entry.seq == ticket.seq)
    }

    pub(crate) fn find_mut(&mut self, ticket: Ticket) -> Option<&mut Entry<T>> {
        self.get_mut(ticket.at).filter(|entry| entry.seq == ticket.seq)
    }

    /// The place that the next request gets.
    pub(crate) fn next_place(&self) -> u32 {
        self.free.last().copied().unwrap_or(self.entries.len() as u32)
    }

    /// Adds a request at the end of the line.
    pub(crate) fn push(&mut self, mut entry: Entry<T>) {
        let at = self.next_place();
        if let State::Waiting(waiting) = &mut entry.state {
            (waiting.before, waiting.after) = (self.last, NOBODY);
            match self.waiting_mut(self.last) {
                Some(last) => last.after = at,
                None => self.first = at,
            }
            self.last = at;
        }
        if self.free.pop().is_some() {
            if let Some(place) = self.entries.get_mut(at as usize) {
                *place = Some(entry);
            }
        } else {
            self.entries.push(Some(entry));
        }
    }

    /// The request at `at` waits no longer.
    pub(crate) fn leave_line(&mut self, at: u32) {
        let Some(&mut Waiting { before, after, .. }) = self.waiting_mut(at) else { return };
        match self.waiting_mut(before) {
            Some(waiting) => waiting.after = after,
            None => self.first = after,
        }
        match self.waiting_mut(after) {
            Some(waiting) => waiting.before = before,
            None => self.last = before,
        }
    }

    /// Forgets the request, which must have left the line.
    pub(crate) fn remove(&mut self, at: u32) -> Option<Entry<T>> {
        let entry = self.entries.get_mut(at as usize)?.take()?;
        self.free.push(at);
        if self.free.len() == self.entries.len() && self.entries.len() > KEPT_PLACES {
            (self.entries, self.free) = (Vec::new(), Vec::new());
        }
        Some(entry)
    }

    /// The request that has waited longest.
    pub(crate) fn oldest(&self) -> Option<u32> {
        (self.first != NOBODY).then_some(self.first)
    }

    fn waiting_mut(&mut self, at: u32) -> Option<&mut Waiting> {
        match &mut self.get_mut(at)?.state {
            State::Waiting(waiting) => Some(waiting),
            State::Running(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_fairness_id_is_cut_and_stays_its_own() {
        let long = |tail: &str| FlowId::from(format!("{}{tail}", "ä".repeat(5_000)).as_str());
        assert_eq!(FlowId::from("tenant-7").as_str(), "tenant-7");
        assert!(long("1").as_str().len() <= MAX_FLOW_ID_BYTES);
        assert_eq!(long("1"), long("1"));
        assert_ne!(long("1"), long("2"));
    }
}
