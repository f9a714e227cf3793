//! Passive endpoint health: an endpoint that fails is left out for a while, then probed by one request.
//!
//! What counts as a failure: a connection that cannot be made or breaks before the response head, repeated
//! 503s, a scrape that cannot connect, repeated scrapes that fail otherwise. An endpoint that could not be
//! reached is back as soon as a scrape reaches it, and out for as long as scrapes cannot: no request need be
//! the one that tries. Any other has to pass a probe, and so has one whose requests go on failing between
//! scrapes that reach it. When every candidate would be out, none is (design §9).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use router_core::{Candidates, Endpoint, EndpointSlot, Stamp};

use crate::settings::HealthSettings;

/// Health of one endpoint.
#[derive(Debug, Default)]
pub struct Health(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: State,
    n_failed_scrapes: u32,
    n_unavailable: u32,
    /// Ejections in a row without a success between them.
    n_ejections: u32,
    /// How often a scrape has brought it back since a request last succeeded.
    n_brought_back: u32,
}

/// A scrape brings an endpoint back this often; when requests still fail then, it says nothing about them.
/// Such an endpoint has nothing to do, so it would look like the best one to every scorer.
const MAX_BROUGHT_BACK: u32 = 2;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum State {
    #[default]
    In,
    /// Left out until then.
    Out { until: Stamp, why: Why },
    /// One request is trying it; another may try when that has taken too long.
    Probing { since: Stamp, why: Why },
}

/// What took an endpoint out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// No connection, or it broke before the response head.
    Unreachable,
    /// It answered 503 again and again.
    Unavailable,
    /// Its scrapes fail again and again.
    Scrapes,
}

/// Whether an endpoint may be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    In,
    /// Its time out is over: one request may try it.
    Probe,
    Out,
}

impl Health {
    fn verdict(&self, now: Stamp, settings: &HealthSettings) -> Verdict {
        match self.0.lock().state {
            State::In => Verdict::In,
            State::Out { until, .. } if now >= until => Verdict::Probe,
            State::Probing { since, .. } if now.since(since) >= settings.max_ejection => {
                Verdict::Probe
            }
            State::Out { .. } | State::Probing { .. } => Verdict::Out,
        }
    }

    fn eject(inner: &mut Inner, why: Why, now: Stamp, settings: &HealthSettings) {
        if matches!(inner.state, State::Out { until, .. } if now < until) {
            return;
        }
        let doublings = inner.n_ejections.min(16);
        let time_out =
            settings.base_ejection.saturating_mul(1 << doublings).min(settings.max_ejection);
        inner.n_ejections = inner.n_ejections.saturating_add(1);
        inner.state = State::Out { until: now + time_out, why };
    }

    fn restore(inner: &mut Inner) {
        *inner = Inner::default();
    }

    /// From when on the endpoint is not out, as things are.
    fn out_until(inner: &Inner, settings: &HealthSettings) -> Stamp {
        match inner.state {
            State::In => Stamp::ORIGIN,
            State::Out { until, .. } => until,
            State::Probing { since, .. } => since + settings.max_ejection,
        }
    }
}

/// Judges and records the health of endpoints.
#[derive(Clone, Debug)]
pub struct HealthBook {
    slot: EndpointSlot<Health>,
    settings: Arc<HealthSettings>,
    /// From then on no endpoint is out, as things are; nanoseconds. Spares decisions the look at each of
    /// them while all are well.
    any_out_until: Arc<AtomicU64>,
}

impl HealthBook {
    pub fn new(slot: EndpointSlot<Health>, settings: HealthSettings) -> Self {
        Self { slot, settings: Arc::new(settings), any_out_until: Arc::default() }
    }

    fn change(&self, endpoint: &Endpoint, change: impl FnOnce(&mut Inner, &HealthSettings)) {
        if !self.settings.enabled {
            return;
        }
        if let Some(health) = endpoint.slot(&self.slot) {
            let mut inner = health.0.lock();
            change(&mut inner, &self.settings);
            let out_until = Health::out_until(&inner, &self.settings).as_nanos();
            if out_until > 0 {
                self.any_out_until.fetch_max(out_until, Ordering::Relaxed);
            }
        }
    }

    /// A connection could not be made, or broke before the response head.
    pub fn unreachable(&self, endpoint: &Endpoint, now: Stamp) {
        self.change(endpoint, |inner, settings| {
            Health::eject(inner, Why::Unreachable, now, settings)
        });
    }

    /// A response head came.
    pub fn answered(&self, endpoint: &Endpoint, status: u16, now: Stamp) {
        self.change(endpoint, |inner, settings| {
            if status != 503 {
                let still_out = matches!(inner.state, State::Out { until, .. } if now < until);
                if still_out {
                    inner.n_unavailable = 0;
                } else {
                    Health::restore(inner);
                }
                return;
            }
            inner.n_unavailable = inner.n_unavailable.saturating_add(1);
            let probe_failed = matches!(inner.state, State::Probing { .. });
            if probe_failed || inner.n_unavailable >= settings.n_unavailable {
                Health::eject(inner, Why::Unavailable, now, settings);
            }
        });
    }

    /// A page was scraped; `at_its_port` tells whether that was where the endpoint serves requests.
    pub fn scraped(&self, endpoint: &Endpoint, at_its_port: bool) {
        self.change(endpoint, |inner, _| {
            inner.n_failed_scrapes = 0;
            let (State::Out { why, .. } | State::Probing { why, .. }) = inner.state else { return };
            match why {
                Why::Scrapes => Health::restore(inner),
                Why::Unreachable if at_its_port && inner.n_brought_back < MAX_BROUGHT_BACK => {
                    let n_brought_back = inner.n_brought_back + 1;
                    *inner = Inner { n_brought_back, ..Inner::default() };
                }
                Why::Unreachable | Why::Unavailable => {}
            }
        });
    }

    /// Nobody listens where the endpoint serves requests, says a scrape that is tried again after `again`.
    pub fn scrape_refused(&self, endpoint: &Endpoint, again: Duration, now: Stamp) {
        self.change(endpoint, |inner, settings| {
            inner.n_failed_scrapes = inner.n_failed_scrapes.saturating_add(1);
            Health::eject(inner, Why::Unreachable, now, settings);
            if let State::Out { until, .. } = &mut inner.state {
                *until = (*until).max(now + settings.base_ejection.max(2 * again));
            }
        });
    }

    /// A page could not be scraped, which alone does not mean that requests cannot be served.
    pub fn scrape_failed(&self, endpoint: &Endpoint, now: Stamp) {
        self.change(endpoint, |inner, settings| {
            inner.n_failed_scrapes = inner.n_failed_scrapes.saturating_add(1);
            if inner.n_failed_scrapes >= settings.n_failed_scrapes {
                Health::eject(inner, Why::Scrapes, now, settings);
            }
        });
    }

    /// A probe of this endpoint starts: others stay away until it has ended.
    pub fn picked(&self, endpoint: &Endpoint, now: Stamp) {
        self.change(endpoint, |inner, _| {
            if let State::Out { until, why } = inner.state
                && now >= until
            {
                inner.state = State::Probing { since: now, why };
            }
        });
    }

    /// A request to this endpoint ended without telling anything about it, as when its client goes away. If
    /// it was the probe, the next request may be one.
    pub fn abandoned(&self, endpoint: &Endpoint, now: Stamp) {
        self.change(endpoint, |inner, _| {
            if let State::Probing { why, .. } = inner.state {
                inner.state = State::Out { until: now, why };
            }
        });
    }

    /// Why the endpoint is left out at this moment, if it is.
    pub fn out(&self, endpoint: &Endpoint, now: Stamp) -> Option<Why> {
        let health = endpoint.slot(&self.slot)?;
        if !self.settings.enabled || health.verdict(now, &self.settings) != Verdict::Out {
            return None;
        }
        match health.0.lock().state {
            State::Out { why, .. } | State::Probing { why, .. } => Some(why),
            State::In => None,
        }
    }

    /// Drops endpoints that are out, unless that would drop all of them.
    pub fn keep_well(&self, endpoints: &mut Vec<&Arc<Endpoint>>, now: Stamp) {
        if !self.settings.enabled || now.as_nanos() >= self.any_out_until.load(Ordering::Relaxed) {
            return;
        }
        if endpoints.iter().any(|endpoint| self.out(endpoint, now).is_none()) {
            endpoints.retain(|endpoint| self.out(endpoint, now).is_none());
        }
    }

    /// Drops candidates that are out, unless that would drop all of them. Gives the number dropped.
    pub fn apply(&self, candidates: &mut Candidates, now: Stamp) -> usize {
        if !self.settings.enabled || now.as_nanos() >= self.any_out_until.load(Ordering::Relaxed) {
            return 0;
        }
        let is_out = |endpoint: &Endpoint| {
            endpoint
                .slot(&self.slot)
                .is_some_and(|health| health.verdict(now, &self.settings) == Verdict::Out)
        };
        let n_out = candidates.iter().filter(|(_, endpoint)| is_out(endpoint)).count();
        if n_out == 0 || n_out == candidates.len() {
            return 0;
        }
        candidates.retain(|_, endpoint| !is_out(endpoint));
        n_out
    }
}

impl Default for HealthBook {
    fn default() -> Self {
        let disabled = HealthSettings {
            enabled: false,
            base_ejection: Duration::ZERO,
            ..HealthSettings::default()
        };
        Self::new(EndpointSlot::unbound(), disabled)
    }
}

#[cfg(test)]
mod tests {
    use router_core::{EndpointSpec, Pool};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn world() -> (HealthBook, Pool) {
        let pool = Pool::new(1);
        pool.replace(
            (1..=2).map(|n| EndpointSpec::new("d", &format!("e{n}"), "10.0.0.1", n)).collect(),
        );
        (HealthBook::new(EndpointSlot::bound(0), HealthSettings::default()), pool)
    }

    fn names(book: &HealthBook, pool: &Pool, now: Stamp) -> Vec<String> {
        let mut candidates = Candidates::all(pool.snapshot());
        book.apply(&mut candidates, now);
        candidates.iter().map(|(_, endpoint)| endpoint.name().to_owned()).collect()
    }

    #[test]
    fn one_failure_takes_an_endpoint_out_and_one_probe_at_a_time_tries_it() {
        let (book, pool) = world();
        let first = pool.snapshot().endpoints()[0].clone();
        let start = Stamp::from_nanos(1);
        book.unreachable(&first, start);
        assert_eq!(names(&book, &pool, start), ["e2"]);
        let later = start + SECOND;
        assert_eq!(names(&book, &pool, later), ["e1", "e2"]);
        book.picked(&first, later);
        assert_eq!(names(&book, &pool, later), ["e2"], "a probe is under way");
        book.unreachable(&first, later);
        assert_eq!(names(&book, &pool, later + SECOND), ["e2"], "the time out has doubled");
        assert_eq!(names(&book, &pool, later + 2 * SECOND), ["e1", "e2"]);
        book.picked(&first, later + 2 * SECOND);
        book.answered(&first, 200, later + 2 * SECOND);
        assert_eq!(names(&book, &pool, later + 2 * SECOND), ["e1", "e2"]);
    }

    #[test]
    fn when_all_are_out_none_is() {
        let (book, pool) = world();
        for endpoint in pool.snapshot().endpoints() {
            book.unreachable(endpoint, Stamp::from_nanos(1));
        }
        assert_eq!(names(&book, &pool, Stamp::from_nanos(1)), ["e1", "e2"]);
    }

    #[test]
    fn a_scrape_brings_back_what_could_not_be_reached_but_not_what_says_503() {
        let (book, pool) = world();
        let first = pool.snapshot().endpoints()[0].clone();
        let now = Stamp::from_nanos(1);
        book.scrape_refused(&first, SECOND, now);
        assert_eq!(book.out(&first, now), Some(Why::Unreachable));
        book.scraped(&first, false);
        assert_eq!(book.out(&first, now), Some(Why::Unreachable), "that was another port");
        book.scraped(&first, true);
        assert_eq!(book.out(&first, now), None);
        for _ in 0..3 {
            book.answered(&first, 503, now);
        }
        book.scraped(&first, true);
        assert_eq!(book.out(&first, now), Some(Why::Unavailable));
    }

    #[test]
    fn a_server_that_answers_scrapes_and_no_request_stays_out() {
        let (book, pool) = world();
        let first = pool.snapshot().endpoints()[0].clone();
        let mut now = Stamp::from_nanos(1);
        let mut n_failed = 0;
        for _ in 0..1_000 {
            if book.out(&first, now).is_none() {
                book.picked(&first, now);
                book.unreachable(&first, now);
                n_failed += 1;
            }
            now = now + SECOND / 20;
            book.scraped(&first, true);
        }
        assert!(n_failed < 10, "{n_failed} requests in 50 s");
        let probed = now + 30 * SECOND;
        book.picked(&first, probed);
        book.answered(&first, 200, probed);
        assert_eq!(book.out(&first, probed), None);
        book.unreachable(&first, probed);
        book.scraped(&first, true);
        assert_eq!(book.out(&first, probed), None, "it has earned trust again");
    }

    #[test]
    fn no_request_tries_an_endpoint_that_scrapes_cannot_reach() {
        let (book, pool) = world();
        let first = pool.snapshot().endpoints()[0].clone();
        let interval = SECOND / 20;
        let mut now = Stamp::from_nanos(1);
        book.unreachable(&first, now);
        for _ in 0..1_000 {
            book.scrape_refused(&first, interval, now);
            now = now + interval;
            assert_eq!(names(&book, &pool, now), ["e2"]);
        }
        book.scraped(&first, true);
        assert_eq!(names(&book, &pool, now), ["e1", "e2"]);
        // Scrapes elsewhere that fail are no proof: requests try it now and then.
        for _ in 0..3 {
            book.scrape_failed(&first, now);
        }
        assert_eq!(names(&book, &pool, now), ["e2"]);
        assert_eq!(names(&book, &pool, now + SECOND), ["e1", "e2"]);
    }

    #[test]
    fn a_probe_whose_client_went_away_lets_the_next_one_go() {
        let (book, pool) = world();
        let first = pool.snapshot().endpoints()[0].clone();
        book.unreachable(&first, Stamp::from_nanos(1));
        let probed = Stamp::from_nanos(1) + SECOND;
        book.picked(&first, probed);
        assert_eq!(names(&book, &pool, probed), ["e2"]);
        book.abandoned(&first, probed);
        assert_eq!(names(&book, &pool, probed), ["e1", "e2"]);
    }

    #[test]
    fn a_probe_that_never_ends_does_not_keep_the_endpoint_out_for_ever() {
        let (book, pool) = world();
        let first = pool.snapshot().endpoints()[0].clone();
        book.unreachable(&first, Stamp::from_nanos(1));
        let probed = Stamp::from_nanos(1) + SECOND;
        book.picked(&first, probed);
        assert_eq!(book.out(&first, probed + 29 * SECOND), Some(Why::Unreachable));
        assert_eq!(book.out(&first, probed + 30 * SECOND), None);
    }
}
