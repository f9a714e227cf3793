//! The servers of a run as the router knows them: scraping, membership, and what happens to them.

use std::{collections::BTreeMap, sync::Arc};

use router_core::Stamp;
use router_engine::{AttemptFailure, Exchange};
use router_framework::{EndCause, EndpointSink};

use super::{Replay, RunError, agenda::Due, server::Flight};
use crate::replay::{outcome::Fate, pool::Change};

impl Replay<'_> {
    pub(super) fn scrape(&mut self, at: u32, now: Stamp) {
        let Some(interval) = self.setup.pool.scrape.interval else { return };
        let delay = self.setup.pool.scrape.delay;
        self.agenda.add(now + interval, Due::Scrape(at));
        if !self.server(at).is_member {
            return;
        }
        // How full the cache is changes between two events too.
        self.advance(at, now);
        let seen = self.servers[at as usize].look(now, &self.adapters);
        self.server(at).in_transit.push_back(seen);
        if delay.is_zero() {
            self.publish(at, now);
        } else {
            self.agenda.add(now + delay, Due::Publish(at));
        }
    }

    /// The oldest scrape on its way reaches the router.
    pub(super) fn publish(&mut self, at: u32, now: Stamp) {
        let server = &mut self.servers[at as usize];
        let seen = server.in_transit.pop_front();
        let (Some(seen), Some(endpoint)) = (seen, &server.endpoint) else { return };
        let health = self.router.health();
        if seen.publish(endpoint, now) {
            health.scraped(endpoint, true);
        } else {
            let interval = self.setup.pool.scrape.interval.unwrap_or_default();
            health.scrape_refused(endpoint, interval, now);
        }
        self.router.signals_changed();
    }

    pub(super) fn change(&mut self, event: usize, now: Stamp) -> Result<(), RunError> {
        let pool = &self.setup.pool;
        let Some(event) = pool.events.get(event) else { return Ok(()) };
        let at = event.server as u32;
        let failed = |source| RunError::Server {
            name: Arc::clone(&pool.servers[event.server].name),
            source,
        };
        match event.what {
            Change::Slow { factor } => {
                let mut events = std::mem::take(&mut self.events);
                let mut sink = |event| events.push(event);
                self.server(at).slow_down(now, factor, &mut sink).map_err(failed)?;
                self.take(at, events);
                self.reschedule(at);
            }
            Change::Restart { down } => {
                let seeds = self.seeds.family("restarts");
                let lost = self.server(at).restart(now + down, &seeds).map_err(failed)?;
                for Flight { request, exchange } in lost.into_values() {
                    self.lose(request, exchange, now);
                }
            }
            Change::Join | Change::Leave => {
                self.server(at).is_member = event.what == Change::Join;
                self.publish_members(now);
            }
        }
        Ok(())
    }

    /// The connection of a request broke.
    fn lose(&mut self, request: u32, mut exchange: Exchange, now: Stamp) {
        if self.has_begun(request) {
            exchange.end(EndCause::Error);
            return self.end(request, Fate::Broken, now);
        }
        self.outcome(request).first_token = None;
        match exchange.attempt_failed(AttemptFailure::Unreachable) {
            Some(_next) => self.send(request, exchange, now),
            None => self.unserved(request, exchange, now),
        }
    }

    /// Makes the pool what it is from now on. Endpoints that come are scraped at once.
    pub(super) fn publish_members(&mut self, now: Stamp) {
        let members = self.servers.iter().filter(|server| server.is_member);
        self.router.datastore().replace(members.map(|server| server.spec.clone()).collect());
        let had: Vec<bool> = self.servers.iter().map(|server| server.endpoint.is_some()).collect();
        self.servers.iter_mut().for_each(|server| server.endpoint = None);
        let snapshot = self.router.datastore().snapshot();
        let names: BTreeMap<&str, usize> = self
            .setup
            .pool
            .servers
            .iter()
            .enumerate()
            .map(|(at, kind)| (&*kind.name, at))
            .collect();
        for endpoint in snapshot.endpoints() {
            let Some(&at) = names.get(endpoint.name()) else { continue };
            self.by_authority.insert(Arc::clone(endpoint.shared_authority()), at as u32);
            let server = &mut self.servers[at];
            server.endpoint = Some(Arc::clone(endpoint));
            if !had[at] && self.setup.pool.scrape.interval.is_some() {
                server.look(now, &self.adapters).publish(endpoint, now);
            }
        }
    }
}
