//! How full the pool is, and each subset of its endpoints.

use super::*;

/// What somebody waits for or runs on.
pub(super) struct Subset {
    pub(super) id: SubsetId,
    /// None before the first signal.
    known: Option<SubsetSignal>,
    moves: Vec<Move>,
}

/// Requests and tokens that came to a stage (the prefill stage, if true), when, and to which endpoint.
pub(super) type Move = (Stamp, bool, i64, i64, Option<EndpointIndex>);

impl Model {
    /// Of the pool, or of a subset of which a signal has come.
    pub(in super::super) fn saturation_of(&self, subset: Option<&SubsetId>) -> Option<f64> {
        let known = match subset {
            Some(id) => Some(self.subsets.iter().find(|subset| subset.id == *id)?),
            None => None,
        };
        let of_subset = match known {
            Some(subset) => Some(subset.known.as_ref()?),
            None => None,
        };
        let (signal, moves) = match (known, of_subset) {
            (Some(subset), Some(known)) => (&known.signal, &subset.moves),
            _ => (&self.signal, &self.moves),
        };
        let share = of_subset.map_or(0.0, |known| known.share);
        let of = |is_prefill: bool| {
            let load = if is_prefill { signal.prefill } else { signal.decode }?;
            let (mut here, mut elsewhere) = ((0, 0), (0, 0));
            for (_, stage, n_requests, n_tokens, _) in moves {
                if *stage == is_prefill {
                    here = (here.0 + n_requests, here.1 + n_tokens);
                }
            }
            for request in self.requests.iter().filter(|request| request.at == At::Unplaced) {
                let (n_requests, n_tokens) = size(&request.cost, is_prefill);
                let is_here = subset.is_none() || request.subset.as_ref() == subset;
                let sum = if is_here { &mut here } else { &mut elsewhere };
                *sum = (sum.0 + n_requests, sum.1 + n_tokens);
            }
            let n_requests = here.0 as f64 + share * elsewhere.0 as f64;
            let n_tokens = here.1 as f64 + share * elsewhere.1 as f64;
            let sum = n_requests * load.per_request + n_tokens * load.per_token;
            Some((load.saturation + sum).max(0.0))
        };
        Some([of(true), of(false)].into_iter().flatten().reduce(f64::max).unwrap_or(1.0))
    }

    pub(in super::super) fn saturation(&self) -> f64 {
        self.saturation_of(None).unwrap()
    }

    /// Subsets that are in use.
    pub(in super::super) fn subset_ids(&self) -> impl Iterator<Item = &SubsetId> {
        self.subsets.iter().map(|subset| &subset.id)
    }

    /// What becomes of the subset that a request is restricted to.
    pub(super) fn enter_subset(&mut self, asked: Option<&SubsetId>) -> Option<SubsetId> {
        let id = asked?;
        if !self.subsets.iter().any(|subset| subset.id == *id) {
            if self.subsets.len() >= self.setup.config.bounds.max_subsets {
                return None;
            }
            self.subsets.push(Subset { id: id.clone(), known: None, moves: Vec::new() });
        }
        Some(id.clone())
    }

    /// Nothing is kept of subsets that nobody waits for or runs on.
    pub(super) fn leave_subsets(&mut self) {
        let requests = &self.requests;
        let is_used = |subset: &mut Subset| {
            requests.iter().any(|request| request.subset.as_ref() == Some(&subset.id))
        };
        self.subsets.retain_mut(is_used);
    }

    pub(super) fn take_signals(
        &mut self,
        now: Stamp,
        signal: PoolSignal,
        subsets: &[SubsetSignal],
    ) {
        if signal.has_endpoints != self.signal.has_endpoints {
            self.flipped = now;
        }
        let as_of = signal.as_of.min(now).max(self.signal.as_of);
        self.signal = PoolSignal { as_of, ..signal };
        for signal in subsets {
            let Some(subset) = self.subsets.iter_mut().find(|subset| subset.id == signal.id) else {
                continue;
            };
            if subset.known.is_none() {
                // All that is remembered.
                let is_here = |(.., endpoint): &&Move| {
                    endpoint.is_some_and(|endpoint| signal.endpoints.contains(&endpoint))
                };
                subset.moves = self.moves.iter().filter(is_here).copied().collect();
            }
            let before = subset.known.as_ref().map_or(Stamp::ORIGIN, |known| known.signal.as_of);
            let as_of = signal.signal.as_of.min(now).max(before);
            let signal_of = PoolSignal { as_of, ..signal.signal };
            subset.known = Some(SubsetSignal { signal: signal_of, ..signal.clone() });
            subset.moves.retain(|(at, ..)| *at > as_of);
        }
        self.moves.retain(|(at, ..)| *at > as_of);
    }

    /// Who waits for a subset without endpoints, though the pool has some.
    pub(super) fn stranded(&self) -> Vec<u64> {
        let is_stranded = |request: &&Request| {
            let subset =
                self.subsets.iter().find(|subset| request.subset.as_ref() == Some(&subset.id));
            let known = subset.and_then(|subset| subset.known.as_ref());
            self.signal.has_endpoints && known.is_some_and(|known| !known.signal.has_endpoints)
        };
        self.waiting().filter(is_stranded).map(|request| request.id).collect()
    }

    pub(super) fn came(
        &mut self,
        now: Stamp,
        (cost, endpoint): (&Cost, Option<EndpointIndex>),
        is_prefill: bool,
        sign: i64,
    ) {
        let (requests, tokens) = size(cost, is_prefill);
        let change = (now, is_prefill, sign * requests, sign * tokens, endpoint);
        self.moves.push(change);
        for subset in &mut self.subsets {
            let known = subset.known.as_ref().zip(endpoint);
            if known.is_some_and(|(known, endpoint)| known.endpoints.contains(&endpoint)) {
                subset.moves.push(change);
            }
        }
    }

    /// Whether an endpoint is one of the subset's, or of the pool's.
    pub(super) fn is_in(&self, endpoint: Option<EndpointIndex>, subset: Option<&SubsetId>) -> bool {
        let Some(id) = subset else { return true };
        let known = self.subsets.iter().find(|subset| subset.id == *id).unwrap().known.as_ref();
        known.zip(endpoint).is_some_and(|(known, endpoint)| known.endpoints.contains(&endpoint))
    }

    pub(super) fn share_of(&self, subset: Option<&SubsetId>) -> f64 {
        let Some(id) = subset else { return 1.0 };
        let subset = self.subsets.iter().find(|subset| subset.id == *id).unwrap();
        subset.known.as_ref().map_or(0.0, |known| known.share)
    }

    /// Up to where the pool or the subset may be filled for the bands, and how full it is.
    pub(super) fn ceilings(
        &self,
        now: Stamp,
        subset: Option<&SubsetId>,
    ) -> Option<(f64, Vec<f64>)> {
        let saturation = self.saturation_of(subset)?;
        let priorities: Vec<i32> = self.bands.iter().map(|band| band.priority).collect();
        let (limits, slowed) = (self.setup.limits, self.slowed);
        let mut ceilings: Vec<f64> = (0..priorities.len())
            .map(|at| limits.ceiling(now, slowed, saturation, &priorities, at))
            .collect();
        for at in 1..ceilings.len() {
            ceilings[at] = ceilings[at].min(ceilings[at - 1]);
        }
        Some((saturation, ceilings))
    }

    /// Whether a request may go as one of the band at this position.
    pub(super) fn has_room(&self, now: Stamp, subset: Option<&SubsetId>, at: usize) -> bool {
        let judged = self.ceilings(now, subset);
        judged.is_some_and(|(saturation, ceilings)| saturation < ceilings[at])
    }
}

fn size(cost: &Cost, is_prefill: bool) -> (i64, i64) {
    let tokens = if is_prefill { cost.uncached } else { cost.cached + cost.uncached + cost.output };
    (1, i64::from(tokens))
}
