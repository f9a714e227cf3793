//! The page `GET /debug/flow-control`: bands, flows, and why the head of each waits.

use router_flow::{BandView, FlowView, HeadView, Hold, Snapshot, StageLoad, SubsetHold};
use serde_json::{Value, json};

use super::FlowController;

/// Flows of each band on the page, those with the most requests waiting first; ten times as many of all bands.
const MAX_FLOWS: usize = 100;

impl FlowController {
    /// What operators see of it.
    pub fn debug_page(&self) -> Value {
        self.look_again();
        page(&self.snapshot(MAX_FLOWS))
    }
}

fn page(snapshot: &Snapshot) -> Value {
    let signal = &snapshot.signal;
    json!({
        "waiting": { "requests": snapshot.n_waiting, "bytes": snapshot.waiting_bytes },
        "limits": { "requests": snapshot.max_requests, "bytes": snapshot.max_bytes },
        "pool": {
            "hasEndpoints": signal.has_endpoints,
            "saturation": snapshot.saturation,
            "signal": {
                "ageSeconds": snapshot.now.since(signal.as_of).as_secs_f64(),
                "prefill": signal.prefill.map(stage),
                "decode": signal.decode.map(stage),
            },
            "inFlight": {
                "requests": snapshot.in_flight.requests,
                "tokens": snapshot.in_flight.tokens,
                "notPlacedYet": snapshot.in_flight.unplaced_requests,
            },
        },
        "eviction": {
            "issued": snapshot.reclaim.issued,
            "confirmed": snapshot.reclaim.confirmed,
            "timedOut": snapshot.reclaim.timed_out,
        },
        "subsets": { "inUse": snapshot.n_subsets, "requestsNotJudgedByTheirs": snapshot.n_unjudged },
        "shuttingDown": snapshot.is_stopped,
        "bands": snapshot.bands.iter().map(|band| band_value(band, snapshot)).collect::<Vec<_>>(),
    })
}

fn stage(load: StageLoad) -> Value {
    json!({
        "saturation": load.saturation,
        "perRequest": load.per_request,
        "perToken": load.per_token,
    })
}

fn band_value(band: &BandView, snapshot: &Snapshot) -> Value {
    json!({
        "priority": band.priority,
        "ceiling": band.ceiling,
        "waiting": { "requests": band.n_waiting, "bytes": band.waiting_bytes },
        "limits": { "requests": band.max_requests, "bytes": band.max_bytes },
        "drainPerSecond": band.drain_per_second,
        "jainIndex": band.jain,
        "knownFlows": band.n_flows,
        "flowsLeftOut": band.n_flows - band.flows.len(),
        "flows": band.flows.iter().map(|flow| flow_value(flow, snapshot)).collect::<Vec<_>>(),
    })
}

fn flow_value(flow: &FlowView, snapshot: &Snapshot) -> Value {
    json!({
        "fairnessId": flow.id.as_str(),
        "waiting": flow.n_waiting,
        "running": flow.n_running,
        "served": flow.n_served,
        "serviceTokens": flow.service,
        "head": flow.head.as_ref().map(|head| head_value(head, snapshot)),
    })
}

fn head_value(head: &HeadView, snapshot: &Snapshot) -> Value {
    json!({
        "waitedSeconds": head.waited.as_secs_f64(),
        "bytes": head.bytes,
        "tokens": { "cached": head.cost.cached, "uncached": head.cost.uncached, "output": head.cost.output },
        "waitsBecause": reason(&head.hold, snapshot),
    })
}

/// Why a request waits, for a person.
fn reason(hold: &Hold, snapshot: &Snapshot) -> String {
    match hold {
        Hold::NoEndpoints => "the pool has no endpoints".to_owned(),
        Hold::Band { priority } => format!("requests of priority {priority} go first"),
        Hold::Flow { next } => format!("it is the turn of {:?}", next.as_str()),
        Hold::Ceiling { saturation, ceiling } => {
            format!(
                "the pool's saturation {saturation:.3} has reached the band's ceiling {ceiling:.3}"
            )
        }
        Hold::Subset(hold) => subset_reason(hold),
        Hold::Slowed { until } => {
            let wait = until.since(snapshot.now).as_secs_f64();
            format!("the band is slowed down, for another {wait:.3} s")
        }
    }
}

fn subset_reason(hold: &SubsetHold) -> String {
    let names = hold.names.join(", ");
    let more = match hold.n_names - hold.names.len() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let SubsetHold { saturation, ceiling, .. } = hold;
    match saturation {
        None => format!("nothing is known yet of its endpoints {names}{more}"),
        Some(saturation) => format!(
            "the saturation {saturation:.3} of its endpoints {names}{more} has reached the band's ceiling {ceiling:.3}"
        ),
    }
}
