//! What was true of all servers when the router chose one of them.

use router_core::Stamp;

use super::Replay;
use crate::{model::EngineRequest, replay::outcome::Choice};

impl Replay<'_> {
    /// How server `at` stood among the members that listen, before it gets the request.
    pub(super) fn choice(&self, at: u32, request: &EngineRequest, now: Stamp) -> Choice {
        let others = || {
            let rivals = self.servers.iter().enumerate();
            rivals.filter(move |(nth, server)| {
                *nth != at as usize && server.is_member && !server.is_down(now)
            })
        };
        if others().next().is_none() {
            return Choice::Only;
        }
        let chosen = &self.servers[at as usize];
        let limit = request.prompt_tokens.max(1).saturating_sub(1) / self.requests.block_tokens();
        let n_cached = chosen.engine.n_cached(&request.chain, limit);
        // Whoever has more has the next block, and of most servers that is all that must be looked up.
        let next = request.chain.get(n_cached as usize).filter(|_| n_cached < limit);
        let has_longest = next.is_none_or(|&next| {
            !others().any(|(_, server)| {
                server.engine.has_block(next)
                    && server.engine.n_cached(&request.chain, n_cached + 1) > n_cached
            })
        });
        let is_least = !others().any(|(_, server)| server.flights.len() < chosen.flights.len());
        match (has_longest, is_least) {
            (true, true) if n_cached == 0 => Choice::ColdLeastLoaded,
            (true, false) if n_cached == 0 => Choice::ColdBusier,
            (true, true) => Choice::Both,
            (true, false) => Choice::LongestPrefix,
            (false, true) => Choice::LeastLoaded,
            (false, false) => Choice::Neither,
        }
    }
}
