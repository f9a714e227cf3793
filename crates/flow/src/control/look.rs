//! Looking at everything at once, for operators.

use std::time::Duration;

use router_core::Stamp;

use super::FlowControl;
use crate::{
    band::{Band, BandKey, Flow},
    policy::FlowKey,
    request::{Ask, State},
    snapshot::{BandView, FlowView, HeadView, Hold, Snapshot, SubsetHold, jain},
    subset::SubsetKey,
};

/// Bands of which a [`Snapshot`] may have as many flows as of any: the more important ones have them first.
const WHOLE_BANDS: usize = 10;
/// Names of a subset's endpoints that are shown.
const MAX_NAMES: usize = 3;

impl<T: Clone> FlowControl<T> {
    /// Whether a request like this would be refused at once, for all that can be said without changing
    /// anything: who is not refused by this may still be refused when it [`arrive`](Self::arrive)s.
    pub fn refuses(&self, ask: &Ask) -> bool {
        if self.is_stopped {
            return true;
        }
        let Some(band) = self.bands.find(ask.priority) else { return false };
        let limit = self.limit_for(band, ask.bytes);
        limit.is_some_and(|limit| self.displaced_by(band, ask, limit).is_none())
    }

    /// When it makes sense to come again for a request of this priority that is refused for reasons of its own:
    /// once all who wait in its band have gone.
    pub fn retry_after(&self, now: Stamp, priority: i32) -> Duration {
        let bounds = &self.config.bounds;
        let (least, most) = (bounds.min_retry_after, bounds.max_retry_after);
        let band = self.bands.find(priority).and_then(|band| self.bands.get(band));
        let after = |band: &Band| band.drain.time_for(now, band.n_waiting + 1, least, most);
        band.map_or(least, after)
    }

    /// What operators see, with at most `max_flows` flows of each band, and [`WHOLE_BANDS`] times as many of
    /// all.
    pub fn snapshot(&mut self, max_flows: usize) -> Snapshot {
        let keys: Vec<BandKey> = self.bands.iter().map(|(_, key, _)| key).collect();
        // Waiting changes nothing about whose turn it is, but asking needs the policies to themselves.
        self.judge(self.now);
        let saturation = self.subsets.whole.saturation;
        let mut first_waiting = None;
        let mut bands = Vec::with_capacity(keys.len());
        let mut n_left = max_flows.saturating_mul(WHOLE_BANDS);
        for (position, key) in keys.into_iter().enumerate() {
            let ceiling = self.subsets.whole.ceilings.get(position).copied().unwrap_or(1.0);
            let hold = self.band_hold(first_waiting, saturation, ceiling);
            let Some(band) = self.bands.get_mut(key) else { continue };
            let next = band.peek().map(|(flow, _)| flow);
            let Some(band) = self.bands.get(key) else { continue };
            if band.waits_freely() && first_waiting.is_none() {
                first_waiting = Some(band.priority);
            }
            let about = About { band, position, ceiling, next, hold };
            let view = self.band_view(&about, max_flows.min(n_left));
            n_left -= view.flows.len();
            bands.push(view);
        }
        Snapshot {
            now: self.now,
            n_waiting: self.n_waiting,
            waiting_bytes: self.bytes,
            max_requests: self.config.max_requests,
            max_bytes: self.config.max_bytes,
            signal: *self.pool.signal(),
            saturation,
            in_flight: self.pool.in_flight(),
            n_subsets: self.subsets.len(),
            n_unjudged: self.subsets.n_unjudged,
            reclaim: self.reclaim.counts(),
            is_stopped: self.is_stopped,
            bands,
        }
    }

    /// What holds the band's next request back.
    fn band_hold(&self, first_waiting: Option<i32>, saturation: f64, ceiling: f64) -> Hold {
        if !self.pool.has_endpoints() {
            return Hold::NoEndpoints;
        }
        if let Some(priority) = first_waiting {
            return Hold::Band { priority };
        }
        match self.retry_at {
            Some(until) if ceiling <= 0.0 => Hold::Slowed { until },
            _ => Hold::Ceiling { saturation, ceiling },
        }
    }

    fn band_view(&self, about: &About<'_>, max_flows: usize) -> BandView {
        let About { band, ceiling, .. } = *about;
        let mut flows: Vec<_> = band.flows().collect();
        let service: Vec<f64> = flows.iter().map(|(_, flow)| flow.service as f64).collect();
        keep_largest(&mut flows, max_flows);
        let views = flows.iter().map(|&(key, flow)| FlowView {
            id: flow.id.clone(),
            n_waiting: flow.n_waiting,
            n_running: flow.n_running,
            n_served: flow.n_served,
            service: flow.service,
            head: self.head_view(about, key),
        });
        BandView {
            priority: band.priority,
            ceiling,
            n_waiting: band.n_waiting,
            waiting_bytes: band.bytes,
            max_requests: band.template.max_requests,
            max_bytes: band.template.max_bytes,
            drain_per_second: band.drain.per_second(self.now),
            n_flows: band.n_flows(),
            jain: jain(&service),
            flows: views.collect(),
        }
    }

    fn head_view(&self, about: &About<'_>, key: FlowKey) -> Option<HeadView> {
        let entry = self.requests.get(about.band.first_in_line(key)?)?;
        if !matches!(entry.state, State::Waiting(_)) {
            return None;
        }
        let About { band, next, ref hold, .. } = *about;
        let of_flow = || {
            let next = band.flow(next.filter(|&next| next != key)?)?.id.clone();
            let is_by_turns = matches!(hold, Hold::Ceiling { .. } | Hold::Slowed { .. });
            is_by_turns.then_some(Hold::Flow { next })
        };
        let hold = self.subset_hold(about, entry.subset).or_else(of_flow);
        let hold = hold.unwrap_or_else(|| about.hold.clone());
        let waited = self.now.since(entry.enqueued);
        Some(HeadView { waited, cost: entry.cost, bytes: entry.bytes, hold })
    }

    /// What holds a request of the subset back that others do not wait for.
    fn subset_hold(&self, about: &About<'_>, subset: SubsetKey) -> Option<Hold> {
        let known = self.subsets.get(subset).filter(|_| self.pool.has_endpoints())?;
        if self.subsets.has_room(subset, about.position) {
            return None;
        }
        let names = known.id.names();
        Some(Hold::Subset(SubsetHold {
            names: names.iter().take(MAX_NAMES).cloned().collect(),
            n_names: names.len(),
            saturation: known.saturation(&self.pool),
            ceiling: known.judged.ceilings.get(about.position).copied().unwrap_or(about.ceiling),
        }))
    }
}

/// A band, and what is true of all who wait in it.
struct About<'a> {
    band: &'a Band,
    /// Its position among all bands.
    position: usize,
    ceiling: f64,
    /// The flow whose turn it is.
    next: Option<FlowKey>,
    hold: Hold,
}

/// Keeps the flows with the most requests waiting, then with the most service, in that order. Flows that are not
/// kept are not put in order, since nobody can do anything meanwhile.
fn keep_largest(flows: &mut Vec<(FlowKey, &Flow)>, n_kept: usize) {
    let larger_first = |(_, one): &(FlowKey, &Flow), (_, other): &(FlowKey, &Flow)| {
        let size = |flow: &Flow| (flow.n_waiting, flow.service);
        size(other).cmp(&size(one)).then_with(|| one.id.cmp(&other.id))
    };
    if n_kept < flows.len() {
        flows.select_nth_unstable_by(n_kept, larger_first);
        flows.truncate(n_kept);
    }
    flows.sort_unstable_by(larger_first);
}
