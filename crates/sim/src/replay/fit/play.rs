//! An endpoint's requests played through the engine model, each when it arrived.

use std::time::Duration;

use router_core::Stamp;

use super::samples::Sample;
use crate::model::{Engine, EngineRequest, Event, EventKind, Profile, ProfileError};

/// No request is refused while a profile is tried: the endpoint has answered all of them.
const MAX_WAITING: u32 = 1 << 20;
/// A profile under which the endpoint falls behind by more than this, in times of the slowest observed request,
/// is given up: what has not ended by then counts as never.
const PATIENCE: u32 = 4;

/// What the engine model says of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Played {
    pub(super) ttft: f64,
    pub(super) e2e: f64,
    pub(super) cached: u32,
}

/// What each sample takes on an engine of this profile; `None` for what it does not come to an end with. The
/// profile is in blocks of the trace.
pub(super) fn play(
    profile: &Profile,
    samples: &[Sample],
) -> Result<Vec<Option<Played>>, ProfileError> {
    let profile = Profile { max_waiting_queue_length: MAX_WAITING, ..profile.clone() };
    let mut engine = Engine::new(profile, 0)?;
    let mut played = vec![None; samples.len()];
    // The samples of the engine's requests, by their number.
    let mut submitted: Vec<usize> = Vec::with_capacity(samples.len());
    let mut events: Vec<Event> = Vec::new();
    for (at, sample) in samples.iter().enumerate() {
        let request = EngineRequest {
            chain: sample.chain.clone(),
            adapter: sample.adapter,
            ..EngineRequest::new(sample.prompt, sample.output)
        };
        if engine.submit(sample.arrived, request, &mut |event| events.push(event)).is_ok() {
            submitted.push(at);
        }
        note(&mut events, &submitted, &mut played);
    }
    let slowest = samples.iter().map(|sample| sample.e2e).fold(0.0, f64::max);
    let last = samples.last().map_or(Stamp::ORIGIN, |sample| sample.arrived);
    let slowest = Duration::try_from_secs_f64(slowest).unwrap_or(Duration::MAX);
    let until = last + slowest.saturating_mul(PATIENCE);
    while let Some(at) = engine.next_event().filter(|at| *at <= until) {
        engine.advance(at, &mut |event| events.push(event));
        note(&mut events, &submitted, &mut played);
    }
    Ok(played)
}

fn note(events: &mut Vec<Event>, submitted: &[usize], played: &mut [Option<Played>]) {
    for event in events.drain(..) {
        let EventKind::Finished(end) = event.kind else { continue };
        let nth = submitted.get(event.id.0 as usize);
        if let Some(played) = nth.and_then(|&nth| played.get_mut(nth)) {
            let since = |stamp: Stamp| stamp.since(end.timings.arrived).as_secs_f64();
            *played = Some(Played {
                ttft: since(end.timings.first_token),
                e2e: since(end.timings.finished),
                cached: end.cached_tokens,
            });
        }
    }
}
