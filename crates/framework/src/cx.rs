//! What a plugin sees while it works on a request.

use std::{sync::Arc, time::Duration};

use router_core::{Candidates, Column, Endpoint, EndpointSlot, Position, Signals, Stamp};

use crate::{
    data::{Read, RequestData},
    request::Request,
};

/// When scraped values are too old to mean anything: older than the larger of the staleness threshold and
/// four scrape intervals, for scorers and detectors alike (design §9).
#[derive(Clone, Copy, Debug)]
pub struct Freshness {
    pub max_age: Duration,
}

impl Freshness {
    /// Scrapes that may be missed before a value counts as stale.
    pub const INTERVALS: u32 = 4;

    pub fn new(threshold: Duration, interval: Duration) -> Self {
        Self { max_age: threshold.max(interval.saturating_mul(Self::INTERVALS)) }
    }

    pub fn is_fresh(&self, signals: &Signals, now: Stamp) -> bool {
        signals.ever_scraped() && now.since(signals.scraped_at) <= self.max_age
    }
}

/// One request, its candidates and the data that producers wrote.
#[derive(Clone, Copy, Debug)]
pub struct RequestCx<'a> {
    pub request: &'a Request,
    pub candidates: &'a Candidates,
    pub data: &'a RequestData,
    pub now: Stamp,
    pub freshness: Freshness,
}

impl<'a> RequestCx<'a> {
    pub fn endpoint(&self, position: Position) -> Option<&'a Arc<Endpoint>> {
        self.candidates.get(position)
    }

    /// The candidate's scraped signals; `None` when it was never scraped or the last scrape is stale.
    pub fn signals(&self, position: Position) -> Option<Signals> {
        let signals = self.endpoint(position)?.signals();
        self.freshness.is_fresh(&signals, self.now).then_some(signals)
    }

    /// A value on the request.
    pub fn read<T: 'static>(&self, handle: &Read<T>) -> Option<&'a T> {
        self.data.read(handle)
    }

    /// A value of one candidate on the request.
    pub fn column<T: 'static>(
        &self,
        handle: &Read<Column<T>>,
        position: Position,
    ) -> Option<&'a T> {
        self.data.read(handle)?.get(position)
    }

    /// A value that lives on the candidate's endpoint.
    pub fn endpoint_data<T: Default + Send + Sync + 'static>(
        &self,
        slot: &EndpointSlot<T>,
        position: Position,
    ) -> Option<&'a T> {
        self.endpoint(position)?.slot(slot)
    }
}
