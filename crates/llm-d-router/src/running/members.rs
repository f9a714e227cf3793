//! Which of the endpoints that discovery finds belong to the pool.
//!
//! Without Kubernetes it is discovery that says which endpoints there are. A pool's manifest says which of them
//! are the pool's, by their labels, and how they are spoken to.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use router_core::{EndpointSpec, Scheme};
use router_engine::Pool;
use router_framework::EndpointSink;

/// The pool that is served, for all that find endpoints of it.
pub(super) struct Membership {
    pool: ArcSwapOption<Pool>,
    /// Endpoints come from the command line, which knows no labels.
    is_given: bool,
}

/// Takes what one configuration's discovery reports, and hands on what belongs to the pool.
pub(super) struct Members {
    membership: Arc<Membership>,
    sink: Arc<dyn EndpointSink>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What discovery reported last.
    reported: Option<Vec<EndpointSpec>>,
    /// What was said last, so that it is said once.
    said: Said,
}

/// What people should know about a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    pool: Option<Arc<Pool>>,
    n_reported: usize,
    n_selected: usize,
    /// Endpoints whose port is none of the pool's.
    n_other_ports: usize,
}

// === impl Membership ===

impl Membership {
    pub(super) fn new(is_given: bool) -> Arc<Self> {
        Arc::new(Self { pool: ArcSwapOption::empty(), is_given })
    }

    /// Endpoints that were handed on before stay until they are selected anew.
    pub(super) fn set(&self, pool: Option<Arc<Pool>>) {
        if let Some(pool) = pool.as_ref().filter(|_| self.is_given) {
            tracing::info!(
                pool = pool.name,
                place = pool.place,
                "the endpoints are those of the command line, whatever the pool selects"
            );
        }
        self.pool.store(pool);
    }
}

// === impl Members ===

impl Members {
    pub(super) fn new(membership: &Arc<Membership>, sink: Arc<dyn EndpointSink>) -> Arc<Self> {
        Arc::new(Self { membership: Arc::clone(membership), sink, state: Mutex::default() })
    }

    /// Selects anew from what discovery reported last, for a pool that has changed.
    pub(super) fn select_again(&self) {
        self.select(&mut self.state.lock());
    }

    /// Hands on what belongs to the pool. The state stays locked, so that an older report never comes last.
    fn select(&self, state: &mut State) {
        let Some(reported) = &state.reported else { return };
        let pool = self.membership.pool.load_full();
        let selected = match &pool {
            Some(pool) => select(pool, reported, self.membership.is_given),
            None => reported.clone(),
        };
        let said = Said::of(pool, reported, &selected, self.membership.is_given);
        if said != state.said {
            said.say();
            state.said = said;
        }
        self.sink.replace(selected);
    }
}

impl EndpointSink for Members {
    fn replace(&self, endpoints: Vec<EndpointSpec>) {
        let mut state = self.state.lock();
        state.reported = Some(endpoints);
        self.select(&mut state);
    }
}

/// The endpoints of the pool, as it says that they are spoken to.
fn select(pool: &Pool, endpoints: &[EndpointSpec], is_given: bool) -> Vec<EndpointSpec> {
    let selected = endpoints.iter().filter(|endpoint| is_given || pool.selects(&endpoint.labels));
    let spoken_to = |endpoint: &EndpointSpec| {
        let mut endpoint = endpoint.clone();
        if pool.is_h2c && endpoint.scheme == Scheme::Http {
            endpoint.scheme = Scheme::H2c;
        }
        endpoint
    };
    selected.map(spoken_to).collect()
}

// === impl Said ===

impl Said {
    fn of(
        pool: Option<Arc<Pool>>,
        reported: &[EndpointSpec],
        selected: &[EndpointSpec],
        is_given: bool,
    ) -> Self {
        let is_other = |endpoint: &&EndpointSpec| {
            pool.as_ref().is_some_and(|pool| !pool.target_ports.contains(&endpoint.port))
        };
        let n_other_ports = if is_given { 0 } else { selected.iter().filter(is_other).count() };
        let n_reported = if pool.is_some() { reported.len() } else { 0 };
        let n_selected = if pool.is_some() { selected.len() } else { 0 };
        Self { pool, n_reported, n_selected, n_other_ports }
    }

    fn say(&self) {
        let Some(Pool { name, place, selector, target_ports, .. }) = self.pool.as_deref() else {
            return;
        };
        let labels: Vec<_> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let labels = labels.join(",");
        let Self { n_reported, n_selected, n_other_ports, .. } = *self;
        if n_selected == 0 && n_reported > 0 {
            tracing::warn!(
                pool = name,
                place,
                labels,
                n_reported,
                "no endpoint has the labels that the pool selects: give them these labels where they are listed"
            );
        } else if n_selected < n_reported {
            tracing::info!(
                pool = name,
                labels,
                n_reported,
                n_selected,
                "the pool selects its endpoints"
            );
        }
        if n_other_ports > 0 {
            tracing::warn!(
                pool = name,
                place,
                ?target_ports,
                n_other_ports,
                "endpoints are listed with ports that are none of the pool's; requests go to the listed ones"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl EndpointSink for Log {
        fn replace(&self, endpoints: Vec<EndpointSpec>) {
            let shown = endpoints.iter().map(|spec| format!("{}:{:?}", spec.name, spec.scheme));
            self.0.lock().push(shown.collect::<Vec<_>>().join(" "));
        }
    }

    fn endpoint(name: &str, app: &str) -> EndpointSpec {
        EndpointSpec::new("default", name, "10.0.0.1", 8000).with_labels([("app", app)])
    }

    fn pool(app: &str, is_h2c: bool) -> Option<Arc<Pool>> {
        let selector = [("app".to_owned(), app.to_owned())].into();
        Some(Arc::new(Pool { name: "pool".to_owned(), selector, is_h2c, ..Pool::default() }))
    }

    fn check(is_given: bool, expected: &[&str]) {
        let membership = Membership::new(is_given);
        let log = Arc::new(Log::default());
        let members = Members::new(&membership, Arc::clone(&log) as _);
        // Nothing is reported yet: there is nothing to hand on.
        members.select_again();
        members.replace(vec![endpoint("a", "x"), endpoint("b", "y")]);
        membership.set(pool("x", false));
        members.select_again();
        members.replace(vec![endpoint("c", "x"), endpoint("d", "y")]);
        membership.set(pool("nobody", false));
        members.select_again();
        membership.set(pool("y", true));
        members.select_again();
        membership.set(None);
        members.select_again();
        assert_eq!(*log.0.lock(), expected);
    }

    #[test]
    fn the_pool_has_the_endpoints_with_its_labels() {
        check(false, &["a:Http b:Http", "a:Http", "c:Http", "", "d:H2c", "c:Http d:Http"]);
    }

    #[test]
    fn endpoints_of_the_command_line_have_no_labels_and_are_the_pool() {
        check(
            true,
            &[
                "a:Http b:Http",
                "a:Http b:Http",
                "c:Http d:Http",
                "c:Http d:Http",
                "c:H2c d:H2c",
                "c:Http d:Http",
            ],
        );
    }

    #[test]
    fn what_people_should_know_is_said_once() {
        let all = [endpoint("a", "x"), endpoint("b", "y")];
        let of = |app: &str, is_given| {
            let pool = pool(app, false);
            let selected = select(pool.as_ref().unwrap(), &all, is_given);
            let said = Said::of(pool, &all, &selected, is_given);
            (said.n_reported, said.n_selected, said.n_other_ports)
        };
        assert_eq!(of("x", false), (2, 1, 1));
        assert_eq!(of("nobody", false), (2, 0, 0));
        assert_eq!(of("x", true), (2, 2, 0));
        assert_eq!(Said::of(None, &all, &all, false), Said::default());
    }
}
