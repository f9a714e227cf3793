//! Limits of queues, and who goes where one is reached.

use super::*;

impl Model {
    pub(super) fn displaced(&self, priority: i32, ask: &Ask) -> Option<(Vec<u64>, Refusal)> {
        let limit = self.limit(priority, ask.bytes).filter(|_| !self.is_stopped)?;
        let (config, template) = (&self.setup.config, self.template(priority));
        if ask.bytes > template.max_bytes || config.max_bytes.is_some_and(|max| ask.bytes > max) {
            return None;
        }
        let weight = |flow: &str| template.fairness.weight(&FlowId::from(flow));
        let length = |priority: i32, flow: &str, more: usize| {
            let n = self.waiting_in(priority).filter(|request| request.flow == flow).count() + more;
            (n as f64 * 1_000.0 / weight(flow)) as u64
        };
        // Of flows with as many, any.
        let last_of_longest = |priority: i32, least: u64| {
            let flows: BTreeSet<&String> =
                self.waiting_in(priority).map(|request| &request.flow).collect();
            let most = flows.iter().map(|flow| length(priority, flow, 0)).max()?;
            let longest = flows.iter().filter(|flow| length(priority, flow, 0) == most);
            let last = |flow: &&&String| {
                let own = self.waiting_in(priority).filter(|request| request.flow == ***flow);
                own.max_by_key(|request| request.place).map(|request| request.id)
            };
            (most > least)
                .then(|| longest.clone().filter_map(|flow| last(&flow)).collect::<Vec<_>>())
        };
        let shed = self
            .bands
            .iter()
            .rev()
            .map(|band| band.priority)
            .find(|&other| other < priority.min(0) && self.waiting_in(other).next().is_some());
        let shed = shed.filter(|_| matches!(limit, Limit::GlobalBytes | Limit::GlobalRequests));
        let own = template.fairness.drops_from_longest();
        let ids = shed.and_then(|shed| last_of_longest(shed, 0)).or_else(|| {
            let least = length(priority, ask.flow.as_str(), 1);
            own.then(|| last_of_longest(priority, least)).flatten()
        })?;
        let refusal = if self.signal.has_endpoints {
            Refusal::EvictedCapacity(limit)
        } else {
            Refusal::EvictedNoEndpoints
        };
        Some((ids, refusal))
    }

    pub(super) fn refusal(&self, priority: i32, bytes: u64) -> Option<Refusal> {
        if self.is_stopped {
            return Some(Refusal::RejectedOther);
        }
        let limit = self.limit(priority, bytes)?;
        Some(if self.signal.has_endpoints {
            Refusal::RejectedCapacity(limit)
        } else {
            Refusal::RejectedNoEndpoints(limit)
        })
    }

    /// The first limit that a request of so many bytes would exceed.
    fn limit(&self, priority: i32, bytes: u64) -> Option<Limit> {
        let config = &self.setup.config;
        let all: u64 = self.waiting().map(|request| request.bytes).sum();
        let own: u64 = self.waiting_in(priority).map(|request| request.bytes).sum();
        let template = self.template(priority);
        let limits = [
            (config.max_bytes.is_some_and(|max| all + bytes > max), Limit::GlobalBytes),
            (
                config.max_requests.is_some_and(|max| self.waiting().count() as u64 + 1 > max),
                Limit::GlobalRequests,
            ),
            (own + bytes > template.max_bytes, Limit::BandBytes),
            (
                self.waiting_in(priority).count() as u64 + 1 > template.max_requests,
                Limit::BandRequests,
            ),
        ];
        limits.into_iter().find(|(is_over, _)| *is_over).map(|(_, limit)| limit)
    }
}
