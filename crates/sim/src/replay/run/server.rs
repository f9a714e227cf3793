//! One simulated server of a run: its engine, the requests that it has, and what the router may know of it.

use std::{
    collections::{BTreeMap, VecDeque},
    net::Ipv4Addr,
    sync::Arc,
};

use router_core::{Endpoint, EndpointSpec, LoraSignals, Signals, Stamp};
use router_engine::Exchange;
use router_rt::Seeds;

use crate::{
    model::{AdapterId, Engine, EngineSignals, Event, Profile, ProfileError, RequestId},
    replay::pool::ServerKind,
};

const NAMESPACE: &str = "replay";
const PORT: u16 = 8000;

/// A server.
pub(super) struct Server {
    pub(super) spec: EndpointSpec,
    /// In blocks of the trace.
    profile: Profile,
    /// Factor on its costs, besides the profile's own.
    slowness: f64,
    pub(super) engine: Engine,
    n_restarts: u64,
    /// What it works on.
    pub(super) flights: BTreeMap<RequestId, Flight>,
    /// When the engine's next event is, as the agenda has it.
    pub(super) due: Option<Stamp>,
    /// Whether it is a member of the pool.
    pub(super) is_member: bool,
    /// Nobody listens before this.
    pub(super) down_until: Stamp,
    /// What the router knows it as; none while it is no member.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    /// Scrapes on their way, with the adapters; soonest first.
    pub(super) in_transit: VecDeque<Seen>,
}

/// A request at a server.
pub(super) struct Flight {
    /// Its index in the trace.
    pub(super) request: u32,
    pub(super) exchange: Exchange,
}

/// What a scrape saw; `None` where nobody answered it.
pub(super) struct Seen(Option<(Signals, LoraSignals)>);

// === impl Server ===

impl Server {
    pub(super) fn new(
        at: usize,
        kind: &ServerKind,
        block_tokens: u32,
        seeds: &Seeds,
    ) -> Result<Self, ProfileError> {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 1)) + at as u32);
        let spec = EndpointSpec::new(NAMESPACE, &kind.name, &address.to_string(), PORT)
            .with_labels(kind.labels.clone());
        let profile = in_blocks_of(&kind.profile, block_tokens);
        let seed = seeds.rng(at as u64).next_u64();
        Ok(Self {
            spec,
            engine: Engine::new(profile.clone(), seed)?,
            profile,
            slowness: 1.0,
            n_restarts: 0,
            flights: BTreeMap::new(),
            due: None,
            is_member: false,
            down_until: Stamp::ORIGIN,
            endpoint: None,
            in_transit: VecDeque::new(),
        })
    }

    pub(super) fn is_down(&self, now: Stamp) -> bool {
        now < self.down_until
    }

    /// Makes every cost so many times that of the profile.
    pub(super) fn slow_down(
        &mut self,
        now: Stamp,
        factor: f64,
        sink: &mut dyn FnMut(Event),
    ) -> Result<(), ProfileError> {
        let slower =
            Profile { time_factor: self.profile.time_factor * factor, ..self.profile.clone() };
        self.engine.set_costs(now, &slower, sink)?;
        self.slowness = factor;
        Ok(())
    }

    /// The process ends and an empty one takes its place. Gives the requests that it had.
    pub(super) fn restart(
        &mut self,
        until: Stamp,
        seeds: &Seeds,
    ) -> Result<BTreeMap<RequestId, Flight>, ProfileError> {
        self.n_restarts += 1;
        let time_factor = self.profile.time_factor * self.slowness;
        let profile = Profile { time_factor, ..self.profile.clone() };
        self.engine = Engine::new(profile, seeds.rng(u64::MAX - self.n_restarts).next_u64())?;
        self.down_until = until;
        self.due = None;
        Ok(std::mem::take(&mut self.flights))
    }

    /// What a scrape sees at this moment.
    pub(super) fn look(&self, now: Stamp, adapters: &[Arc<str>]) -> Seen {
        if self.is_down(now) {
            return Seen(None);
        }
        let seen = self.engine.signals();
        let signals = Signals {
            waiting: f64::from(seen.waiting),
            running: f64::from(seen.running),
            kv_usage: seen.kv_usage(),
            block_size: f64::from(self.profile.block_size),
            n_blocks: f64::from(seen.kv_blocks),
            scraped_at: now,
        };
        let lora =
            if adapters.is_empty() { LoraSignals::default() } else { self.lora(&seen, adapters) };
        Seen(Some((signals, lora)))
    }

    fn lora(&self, seen: &EngineSignals, adapters: &[Arc<str>]) -> LoraSignals {
        let names = |ids: &[AdapterId]| {
            ids.iter().filter_map(|id| Some(adapters.get(id.0 as usize)?.to_string())).collect()
        };
        LoraSignals {
            active: names(&seen.running_adapters),
            waiting: names(&seen.waiting_adapters),
            max_active: self.profile.max_loras,
        }
    }
}

impl Seen {
    /// Gives the router what was seen. False when nobody had answered.
    pub(super) fn publish(self, endpoint: &Endpoint, now: Stamp) -> bool {
        let Some((signals, lora)) = self.0 else { return false };
        // The clock's origin means "never scraped".
        let scraped_at = now.max(Stamp::from_nanos(1));
        endpoint.signal_cell().store(Signals { scraped_at, ..signals });
        endpoint.set_lora(lora);
        true
    }
}

/// The profile with its KV capacity, in tokens, cut into blocks of the trace.
fn in_blocks_of(profile: &Profile, block_tokens: u32) -> Profile {
    let n_tokens = u64::from(profile.kv_cache_size) * u64::from(profile.block_size);
    let n_blocks = (n_tokens / u64::from(block_tokens.max(1))).max(1);
    Profile {
        block_size: block_tokens,
        kv_cache_size: u32::try_from(n_blocks).unwrap_or(u32::MAX),
        ..profile.clone()
    }
}
