//! Flows of which nothing waits or runs, until they are forgotten.

use std::collections::VecDeque;

use router_core::Stamp;

use crate::{
    band::{BandKey, Bands},
    config::Bounds,
    policy::FlowKey,
    request::FlowId,
};

/// A line of flows that were idle when they joined it. A flow stands in it once at most and is looked at
/// when its time comes, so that a flow that is busy and idle in turn costs nothing each time.
#[derive(Default)]
pub(crate) struct IdleFlows {
    line: VecDeque<(Stamp, BandKey, FlowKey)>,
}

impl IdleFlows {
    /// Nothing of the flow waits or runs since now.
    pub(crate) fn rest(&mut self, now: Stamp, bands: &mut Bands, band: BandKey, key: FlowKey) {
        let Some(flow) = bands.get_mut(band).and_then(|band| band.flow_mut(key)) else { return };
        flow.idle_since = now;
        if !std::mem::replace(&mut flow.in_idle_line, true) {
            self.line.push_back((now, band, key));
        }
    }

    /// When somebody's time comes.
    pub(crate) fn due(&self, bounds: &Bounds) -> Option<Stamp> {
        self.line.front().map(|(since, _, _)| *since + bounds.flow_idle)
    }

    /// Forgets the next flow whose time has come, or that is one too many.
    pub(crate) fn forget_next(
        &mut self,
        now: Stamp,
        bounds: &Bounds,
        bands: &mut Bands,
    ) -> Option<(i32, FlowId)> {
        while let Some(&(since, key, flow_key)) = self.line.front() {
            let is_over = self.line.len() > bounds.max_idle_flows;
            if !is_over && since + bounds.flow_idle > now {
                return None;
            }
            self.line.pop_front();
            let Some(band) = bands.get_mut(key) else { continue };
            let Some(flow) = band.flow_mut(flow_key) else { continue };
            if !flow.is_idle() {
                // It joins again when it rests.
                flow.in_idle_line = false;
            } else if !is_over && flow.idle_since > since {
                // It was busy in between: from the end of the line it is looked at again in time, if late.
                self.line.push_back((now, key, flow_key));
            } else {
                let priority = band.priority;
                return band.forget(now, flow_key).map(|id| (priority, id));
            }
        }
        None
    }
}
