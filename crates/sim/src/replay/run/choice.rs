//! What was true of all servers when the router chose one of them.

use router_core::Stamp;

use super::{Replay, server::Server};
use crate::{
    model::{BlockHash, EngineRequest},
    replay::outcome::Choice,
};

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
        // A cache gives up the end of a prompt before its start, so who has a block has those before it.
        let has = |block: Option<BlockHash>| {
            move |(_, server): (usize, &Server)| {
                block.is_some_and(|block| server.engine.has_block(block))
            }
        };
        let block = |nth: u32| request.chain.get(nth as usize).copied();
        let has_longest = n_cached == limit || !others().any(has(block(n_cached)));
        let is_alike = match n_cached.checked_sub(1) {
            None => has_longest,
            Some(last) => has_longest && others().all(has(block(last))),
        };
        let is_least = !others().any(|(_, server)| server.flights.len() < chosen.flights.len());
        match (has_longest, is_least) {
            (true, true) if is_alike => Choice::AlikeLeastLoaded,
            (true, false) if is_alike => Choice::AlikeBusier,
            (true, true) => Choice::Both,
            (true, false) => Choice::LongestPrefix,
            (false, true) => Choice::LeastLoaded,
            (false, false) => Choice::Neither,
        }
    }
}
