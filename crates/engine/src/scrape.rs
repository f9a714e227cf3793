//! The scrape runtime: one task per endpoint polls every source and hands the pages to their extractors.

use std::{collections::HashMap, sync::Arc, time::Duration};

use router_core::Endpoint;
use router_framework::{
    Fetch, FetchError, FetchSession,
    loader::{Named, SourceBinding},
};
use router_rt::{Tasks, deadline};

use crate::{isolate::isolated, record::ScrapeNote, router::Router};

/// Longest time that one fetch may take (`spec/scheduling.md` §13.2).
const FETCH_DEADLINE: Duration = Duration::from_secs(1);
/// Shortest polling interval.
const MIN_INTERVAL: Duration = Duration::from_millis(50);

/// Scrapes the endpoints of the pool until the tasks are cancelled. Endpoints that come are scraped at
/// once, those that go are left alone at once.
pub async fn run(router: Arc<Router>, fetch: Arc<dyn Fetch>, tasks: Tasks) {
    if router.sources.is_empty() {
        return;
    }
    let mut changes = router.datastore.changes();
    let mut pollers: HashMap<Arc<str>, (Arc<Endpoint>, Tasks)> = HashMap::new();
    loop {
        let snapshot = router.datastore.snapshot();
        pollers.retain(|id, (endpoint, poller)| {
            let alive = snapshot.by_id(id).is_some_and(|now| Arc::ptr_eq(now, endpoint));
            if !alive {
                poller.cancel();
            }
            alive
        });
        for endpoint in snapshot.endpoints() {
            pollers.entry(Arc::clone(endpoint.id())).or_insert_with(|| {
                let poller = tasks.child();
                let poll = poll(Arc::clone(&router), Arc::clone(&fetch), Arc::clone(endpoint));
                let _runs_until_cancelled = poller.spawn_cancellable("scrape endpoint", poll);
                (Arc::clone(endpoint), poller)
            });
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// One source of one endpoint, with its connection.
struct Poll<'a> {
    binding: &'a SourceBinding,
    /// Opened by the first fetch that can be made.
    session: Option<Box<dyn FetchSession>>,
    /// It is fetched from where the endpoint serves requests.
    at_its_port: bool,
    interval: Duration,
    due: tokio::time::Instant,
}

/// Polls all sources of one endpoint for ever.
async fn poll(router: Arc<Router>, fetch: Arc<dyn Fetch>, endpoint: Arc<Endpoint>) {
    let started = tokio::time::Instant::now();
    let base = router.settings().refresh_interval.max(MIN_INTERVAL);
    let mut polls: Vec<Poll<'_>> = router
        .sources
        .iter()
        .map(|binding| {
            let Named { ident, role } = &binding.source;
            let metrics = &router.env.metrics;
            let interval = isolated(metrics, ident, "DataSource", || role.interval()).flatten();
            let interval = interval.unwrap_or(base).max(MIN_INTERVAL);
            Poll { binding, session: None, at_its_port: false, interval, due: started }
        })
        .collect();
    let mut rng = router.seeds.rng(u64::from(endpoint.index().slot));
    let mut page = Vec::new();
    loop {
        let Some(next) = polls.iter_mut().min_by_key(|poll| poll.due) else { return };
        tokio::time::sleep_until(next.due).await;
        scrape(&router, &*fetch, &endpoint, next, &mut page).await;
        // Up to a tenth early, so that the scrapes of many endpoints spread instead of coming all at once.
        let jitter = next.interval.mul_f64(0.1 * rng.f64());
        next.due = tokio::time::Instant::now().max(next.due + next.interval - jitter);
    }
}

async fn scrape(
    router: &Router,
    fetch: &dyn Fetch,
    endpoint: &Endpoint,
    poll: &mut Poll<'_>,
    page: &mut Vec<u8>,
) {
    let source = &poll.binding.source.ident;
    let fetched = get(router, fetch, endpoint, poll, page).await;
    let now = router.clock().now();
    if let Err(error) = fetched {
        router.env.metrics.data_layer.poll_errors.with([&source.plugin_type]).inc();
        let note = match error {
            FetchError::Connect { .. } if poll.at_its_port => {
                router.health.scrape_refused(endpoint, poll.interval, now);
                Some(ScrapeNote::Refused { again: poll.interval })
            }
            _ if says_something_of_health(&error) => {
                router.health.scrape_failed(endpoint, now);
                Some(ScrapeNote::Failed)
            }
            _ => None,
        };
        if let (Some(record), Some(note)) = (&router.record, note) {
            record.scraped(endpoint, now, note);
        }
        tracing::debug!(endpoint = &**endpoint.id(), source = &*source.name, %error, "scrape failed");
        return;
    }
    router.health.scraped(endpoint, poll.at_its_port);
    for extractor in &poll.binding.extractors {
        let extracted = isolated(&router.env.metrics, &extractor.ident, "Extractor", || {
            extractor.role.extract(endpoint, page, now)
        });
        let error = match extracted {
            Some(Ok(())) => continue,
            Some(Err(error)) => error.to_string(),
            None => "it panicked".to_owned(),
        };
        router
            .env
            .metrics
            .data_layer
            .extract_errors
            .with([&source.plugin_type, &extractor.ident.plugin_type])
            .inc();
        tracing::debug!(
            endpoint = &**endpoint.id(),
            extractor = &*extractor.ident.name,
            error,
            "page is not whole"
        );
    }
    router.signals_changed();
    if let Some(record) = &router.record {
        record.scraped(endpoint, now, ScrapeNote::Page { at_its_port: poll.at_its_port });
    }
}

/// Whether a failed fetch makes it doubtful that the endpoint can serve. What is wrong with our own settings
/// does not, nor does a server that is there and answers, but has no page for us (none at that path, one
/// behind a login, one beyond our bound): it serves requests as well as others, of which we know more.
fn says_something_of_health(error: &FetchError) -> bool {
    match error {
        FetchError::Config(_) | FetchError::TooLarge { .. } => false,
        FetchError::Status { status, .. } => *status >= 500,
        FetchError::Connect { .. } | FetchError::Broken { .. } | FetchError::Deadline { .. } => {
            true
        }
    }
}

/// Fetches one page, over the connection that is kept.
async fn get(
    router: &Router,
    fetch: &dyn Fetch,
    endpoint: &Endpoint,
    poll: &mut Poll<'_>,
    page: &mut Vec<u8>,
) -> Result<(), FetchError> {
    let Named { ident, role } = &poll.binding.source;
    let session = match &mut poll.session {
        Some(session) => session,
        None => {
            let metrics = &router.env.metrics;
            let target = isolated(metrics, ident, "DataSource", || role.target(endpoint))
                .ok_or_else(|| FetchError::Config("the data source panicked".to_owned()))?;
            poll.at_its_port = *target.authority == *endpoint.authority();
            poll.session.insert(fetch.open(&target)?)
        }
    };
    deadline(FETCH_DEADLINE, session.get(page)).await.unwrap_or_else(|_elapsed| {
        let authority = endpoint.metrics_authority().to_owned();
        Err(FetchError::Deadline { authority, deadline: FETCH_DEADLINE })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_answers_without_a_page_is_not_taken_for_ill() {
        let authority = || "10.0.0.1:8000".to_owned();
        let check = |error: FetchError, expected| {
            assert_eq!(says_something_of_health(&error), expected, "{error}");
        };
        for status in [302, 401, 404] {
            check(FetchError::Status { authority: authority(), status }, false);
        }
        check(FetchError::Status { authority: authority(), status: 503 }, true);
        check(FetchError::TooLarge { authority: authority(), max_bytes: 1 }, false);
        check(FetchError::Deadline { authority: authority(), deadline: FETCH_DEADLINE }, true);
    }
}
