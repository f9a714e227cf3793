//! What becomes of a request, and what the driver has to do about it (`spec/request-path.md` §5.8).

use std::time::Duration;

use router_core::{DropReason, ErrorCode, Rejection};

use crate::{
    guard::PolicyFailure,
    request::{FlowId, Ticket},
};

/// Which limit a request would have exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    GlobalBytes,
    GlobalRequests,
    BandBytes,
    BandRequests,
}

impl Limit {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GlobalBytes => "all queues are full by bytes",
            Self::GlobalRequests => "all queues are full by requests",
            Self::BandBytes => "the queue of this priority is full by bytes",
            Self::BandRequests => "the queue of this priority is full by requests",
        }
    }
}

/// How the wait of a request ended. *Rejected* ones never stood in a queue, *evicted* ones did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    Dispatched,
    Refused(Refusal),
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// A queue is full while the pool has endpoints.
    RejectedCapacity(Limit),
    /// A queue is full and the pool is empty.
    RejectedNoEndpoints(Limit),
    /// It came after the end.
    RejectedOther,
    /// The ordering policy failed to rank it.
    RejectedInternal,
    /// A queue was full, and it stood in it for a flow that has more than others, or has no priority over
    /// anybody (`Differs:` the Go implementation refuses whoever comes).
    EvictedCapacity(Limit),
    /// It waited as long as it may while the pool has endpoints.
    EvictedTtl,
    /// It waited as long as it may while the pool is empty.
    EvictedNoEndpoints,
    /// Its client went away.
    EvictedContextCancelled,
    /// The router goes away.
    EvictedOther,
}

impl Outcome {
    /// Value of the `outcome` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Dispatched => "Dispatched",
            Self::Refused(refusal) => refusal.label(),
        }
    }
}

impl Refusal {
    /// Value of the `outcome` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::RejectedCapacity(_) => "RejectedCapacity",
            Self::RejectedNoEndpoints(_) => "RejectedNoEndpoints",
            Self::RejectedOther | Self::RejectedInternal => "RejectedOther",
            Self::EvictedCapacity(_) => "EvictedCapacity",
            Self::EvictedTtl => "EvictedTTL",
            Self::EvictedNoEndpoints => "EvictedNoEndpoints",
            Self::EvictedContextCancelled => "EvictedContextCancelled",
            Self::EvictedOther => "EvictedOther",
        }
    }

    /// What the client is told; nothing of a failure of our own.
    pub const fn drop_reason(self) -> Option<DropReason> {
        Some(match self {
            Self::RejectedCapacity(_) | Self::EvictedCapacity(_) => DropReason::Saturated,
            Self::RejectedNoEndpoints(_) | Self::EvictedNoEndpoints => DropReason::NoEndpoints,
            Self::EvictedTtl => DropReason::TtlExpired,
            Self::EvictedContextCancelled => DropReason::ContextCancelled,
            Self::RejectedOther | Self::EvictedOther => DropReason::ShuttingDown,
            Self::RejectedInternal => return None,
        })
    }

    const fn code(self) -> ErrorCode {
        match self {
            Self::RejectedCapacity(_) | Self::EvictedCapacity(_) | Self::EvictedTtl => {
                ErrorCode::ResourceExhausted
            }
            Self::RejectedNoEndpoints(_)
            | Self::EvictedNoEndpoints
            | Self::EvictedContextCancelled
            | Self::RejectedOther
            | Self::EvictedOther => ErrorCode::ServiceUnavailable,
            Self::RejectedInternal => ErrorCode::Internal,
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::RejectedCapacity(limit) | Self::EvictedCapacity(limit) => limit.as_str(),
            Self::RejectedNoEndpoints(_) => "no endpoint is ready and the queue is full",
            Self::EvictedTtl => "no capacity became free in time",
            Self::EvictedNoEndpoints => "no endpoint became ready in time",
            Self::EvictedContextCancelled => "the client went away",
            Self::RejectedOther | Self::EvictedOther => "the router is shutting down",
            Self::RejectedInternal => "the request could not be put in order",
        }
    }

    /// The answer to the client.
    pub fn rejection(self, retry_after: Duration) -> Rejection {
        let rejection = Rejection::new(self.code(), self.message());
        match self.drop_reason() {
            Some(reason) => rejection.with_reason(reason).with_retry_after(retry_after),
            None => rejection,
        }
    }
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect<T> {
    /// Let the request go; it runs until [`finished`](crate::FlowControl::finished).
    Dispatch {
        ticket: Ticket,
        payload: T,
        /// Priority of the band that it was in.
        priority: i32,
        waited: Duration,
    },
    /// Answer the request with a rejection. Its ticket names nothing any more.
    Drop {
        ticket: Ticket,
        payload: T,
        priority: i32,
        waited: Duration,
        refusal: Refusal,
        /// When it makes sense to come again, by the rate at which the queue drains.
        retry_after: Duration,
    },
    /// Stop a request that runs, to make room. It counts as running until it has ended.
    Evict {
        ticket: Ticket,
        payload: T,
        /// Priority of those for whom the room is made.
        demand: i32,
    },
    /// Nothing is known of the flow any more; what is kept by its name elsewhere can go.
    FlowGone { priority: i32, flow: FlowId },
    /// A policy has failed. Nobody is lost by it; whom it costs an answer is told by a `Drop`.
    PolicyFailed(PolicyFailure),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_follow_the_table_of_the_spec() {
        let check = |refusal: Refusal, label, status, reason| {
            let rejection = refusal.rejection(Duration::from_secs(3));
            assert_eq!(Outcome::Refused(refusal).label(), label);
            assert_eq!(rejection.code.http_status(), status, "{label}");
            assert_eq!(rejection.reason.unwrap().as_str(), reason, "{label}");
            assert_eq!(rejection.retry_after, Some(Duration::from_secs(3)));
        };
        let limit = Limit::BandRequests;
        check(Refusal::RejectedCapacity(limit), "RejectedCapacity", 429, "rejected-saturated");
        check(
            Refusal::RejectedNoEndpoints(limit),
            "RejectedNoEndpoints",
            503,
            "rejected-no-endpoints",
        );
        check(Refusal::EvictedCapacity(limit), "EvictedCapacity", 429, "rejected-saturated");
        check(Refusal::EvictedTtl, "EvictedTTL", 429, "rejected-ttl-expired");
        check(Refusal::EvictedNoEndpoints, "EvictedNoEndpoints", 503, "rejected-no-endpoints");
        let cancelled = "rejected-context-cancelled";
        check(Refusal::EvictedContextCancelled, "EvictedContextCancelled", 503, cancelled);
        check(Refusal::RejectedOther, "RejectedOther", 503, "rejected-shutting-down");
        check(Refusal::EvictedOther, "EvictedOther", 503, "rejected-shutting-down");
        assert_eq!(Outcome::Dispatched.label(), "Dispatched");
        let failed = Refusal::RejectedInternal;
        let rejection = failed.rejection(Duration::ZERO);
        assert_eq!((failed.label(), rejection.code.http_status()), ("RejectedOther", 500));
        assert_eq!((rejection.reason, rejection.retry_after), (None, None));
    }
}
