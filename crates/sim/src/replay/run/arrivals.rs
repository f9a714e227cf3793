//! When the requests of a trace arrive, under a load factor and a seed.

use std::time::Duration;

use router_core::Stamp;
use router_rt::Rng;

use crate::replay::trace::{Start, Trace};

const NONE: u32 = u32::MAX;

/// Requests by the one that they wait for, as linked lists.
pub(super) struct Successors {
    first: Vec<u32>,
    next: Vec<u32>,
}

impl Successors {
    pub(super) fn of(trace: &Trace) -> Self {
        let n_requests = trace.requests.len();
        let mut successors = Self { first: vec![NONE; n_requests], next: vec![NONE; n_requests] };
        // From the last to the first, so that a list is in the order of the trace.
        for (at, request) in trace.requests.iter().enumerate().rev() {
            let Start::After { request: before, .. } = request.start else { continue };
            let first = successors.first.get_mut(before as usize);
            if let (Some(first), Some(next)) = (first, successors.next.get_mut(at)) {
                *next = std::mem::replace(first, at as u32);
            }
        }
        successors
    }

    /// The requests that wait for this one, in the order of the trace.
    pub(super) fn of_request(&self, request: u32) -> impl Iterator<Item = u32> {
        let is_one = |at: &u32| *at != NONE;
        let first = self.first.get(request as usize).copied().filter(is_one);
        std::iter::successors(first, move |&at| self.next.get(at as usize).copied().filter(is_one))
    }
}

/// When the last request arrives at the earliest, were every answer there at once. Times of their own are as late
/// as the jitter may make them.
pub(super) fn last(trace: &Trace, speed: f64, jitter: Duration) -> Stamp {
    let mut arrivals: Vec<Stamp> = Vec::with_capacity(trace.requests.len());
    for request in &trace.requests {
        arrivals.push(match request.start {
            Start::At(at) => scaled(at, speed) + jitter,
            Start::After { request: before, think } => {
                arrivals.get(before as usize).copied().unwrap_or_default() + think
            }
        });
    }
    arrivals.into_iter().max().unwrap_or_default()
}

fn scaled(at: Stamp, speed: f64) -> Stamp {
    Stamp::from_nanos((at.as_nanos() as f64 / speed) as u64)
}

/// When a request with a time of its own arrives: its time over the load factor, later by up to `jitter`.
pub(super) fn arrival(at: Stamp, speed: f64, jitter: Duration, rng: &mut Rng) -> Stamp {
    let most = u64::try_from(jitter.as_nanos()).unwrap_or(u64::MAX);
    scaled(at, speed) + Duration::from_nanos(rng.range(0..=most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::trace::TraceRequest;

    fn request(start: Start) -> TraceRequest {
        TraceRequest {
            start,
            chain: [].into(),
            prompt_tokens: 1,
            output_tokens: 1,
            tenant: None,
            priority: 0,
            lora: None,
            streams: true,
            max_output_tokens: None,
            n_sequences: 1,
            observed: None,
        }
    }

    #[test]
    fn successors_come_in_the_order_of_the_trace() {
        let after = |request| Start::After { request, think: Duration::ZERO };
        let starts =
            [Start::At(Stamp::ORIGIN), after(0), Start::At(Stamp::ORIGIN), after(0), after(1)];
        let requests = starts.into_iter().map(request).collect();
        let successors = Successors::of(&Trace { block_tokens: 16, requests });
        let of = |request| successors.of_request(request).collect::<Vec<_>>();
        assert_eq!((of(0), of(1), of(2), of(9)), (vec![1, 3], vec![4], vec![], vec![]));
    }

    #[test]
    fn the_last_arrival_is_that_of_instant_answers() {
        let seconds = Duration::from_secs;
        let own = |at| Start::At(Stamp::ORIGIN + seconds(at));
        let after = |request| Start::After { request, think: seconds(5) };
        let starts = [own(0), after(0), own(8), after(1)];
        let requests = starts.into_iter().map(request).collect();
        let trace = Trace { block_tokens: 16, requests };
        let check = |speed, jitter, expected: Duration| {
            assert_eq!(last(&trace, speed, jitter), Stamp::ORIGIN + expected, "at {speed}");
        };
        check(1.0, Duration::ZERO, seconds(10));
        check(0.5, seconds(1), seconds(17));
        check(f64::MIN_POSITIVE, seconds(1), Stamp::NEVER.since(Stamp::ORIGIN));
        assert_eq!(last(&Trace::default(), 1.0, seconds(1)), Stamp::ORIGIN);
    }

    #[test]
    fn a_load_factor_moves_arrivals_together_and_the_jitter_moves_each() {
        let mut rng = Rng::seeded(1);
        let at = Stamp::from_nanos(10_000_000_000);
        assert_eq!(arrival(at, 2.0, Duration::ZERO, &mut rng).as_nanos(), 5_000_000_000);
        let jitter = Duration::from_secs(1);
        let moved: Vec<_> =
            (0..100).map(|_| arrival(at, 1.0, jitter, &mut rng).since(at)).collect();
        assert!(moved.iter().all(|moved| *moved <= jitter));
        let spread = moved.iter().max().unwrap().abs_diff(*moved.iter().min().unwrap());
        assert!(spread > Duration::from_millis(800), "{spread:?}");
    }
}
