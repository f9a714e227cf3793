//! What a recording sees of a routed request until its end.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use router_core::{Endpoint, Stamp};
use router_framework::End;

use super::{Ended, Event, Record, RequestNote, ResponseNote};
use crate::exchange::{AttemptFailure, ResponseHead};

/// A routed request that is recorded.
#[derive(Debug)]
pub(crate) struct Recorded {
    record: Record,
    request: Arc<RequestNote>,
    dispatched: Stamp,
}

impl Recorded {
    /// `dispatched` is when it was decided where it goes.
    pub(super) fn new(record: Record, request: Arc<RequestNote>, dispatched: Stamp) -> Self {
        record.shared.n_under_way.fetch_add(1, Relaxed);
        Self { record, request, dispatched }
    }

    pub(crate) fn failed(&mut self, now: Stamp, failure: AttemptFailure, next: Option<&Endpoint>) {
        if next.is_some() {
            self.dispatched = now;
        }
        let (id, next) = (self.request.id, next.map(|next| Arc::clone(next.id())));
        self.record.change(now, || Event::Failed { id, failure, next });
    }

    pub(crate) fn head(&self, now: Stamp, head: &ResponseHead<'_>) {
        self.record.change(now, || {
            let response = ResponseNote {
                status: head.status,
                from_proxy: head.from_proxy,
                served: head.served.map(str::to_owned),
            };
            Event::Head { id: self.request.id, response: Box::new(response) }
        });
    }

    pub(crate) fn first_byte(&self, now: Stamp) {
        self.record.change(now, || Event::FirstByte { id: self.request.id });
    }

    pub(crate) fn ended(
        self,
        end: &End,
        endpoint: Option<&Endpoint>,
        first_byte: Option<Stamp>,
        n_events: u64,
    ) {
        let Self { record, request, dispatched } = self;
        let is_adapter = endpoint.is_some_and(|endpoint| {
            let lora = endpoint.lora();
            lora.active.iter().chain(&lora.waiting).any(|name| **name == *request.model)
        });
        if record.has_inputs() {
            record.n_changes.fetch_add(1, Relaxed);
        }
        record.send(
            end.at,
            Event::Ended(Box::new(Ended {
                request,
                endpoint: endpoint.map(|endpoint| Arc::clone(endpoint.id())),
                cause: end.cause,
                status: end.status,
                dispatched,
                first_byte,
                usage: end.usage,
                n_events,
                is_adapter,
            })),
        );
        record.shared.n_under_way.fetch_sub(1, Relaxed);
    }
}
