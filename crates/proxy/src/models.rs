//! `GET /v1/models`: the models of all endpoints, and what differs between them.
//!
//! Entries are those of the first endpoint that lists a model. Where endpoints differ, an entry has a
//! member `llm_d_router`: `missing_on` names endpoints that answered without this model, `differs` names,
//! for each member of the entry, the endpoints that say something else than the entry shown.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use futures_util::{
    FutureExt, StreamExt,
    future::{BoxFuture, Shared},
    stream,
};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use router_core::{Endpoint, ErrorCode, Rejection, Stamp};
use router_engine::{Datastore, Router};
use router_net::{BoxError, Upstream, body, upstream::SendError};
use router_rt::{Clock, Elapsed, Tasks, deadline};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::{
    attempt::{host, target},
    options::ModelsOptions,
};

/// Models of a merged list, at most; further ones are left out.
const MAX_MODELS: usize = 10_000;

/// Members that model servers make anew for every answer.
const VOLATILE: [&str; 2] = ["created", "permission"];

/// The member that we add.
const NOTE: &str = "llm_d_router";

/// Asks endpoints for their models, once for all clients that ask at the same time.
pub(crate) struct ModelList {
    asker: Asker,
    tasks: Tasks,
    current: Mutex<Option<Listing>>,
}

/// A list that is being made, or was made.
struct Listing {
    of: Weak<Datastore>,
    version: u64,
    list: Shared<BoxFuture<'static, Made>>,
}

/// A list, and when it was made.
type Made = (Stamp, Result<Bytes, Rejection>);

#[derive(Clone)]
struct Asker {
    upstream: Upstream,
    options: ModelsOptions,
    authorization: Option<HeaderValue>,
}

/// Why an endpoint is left out of the list.
#[derive(Debug, Error)]
enum AskError {
    #[error("the address is not an IP address")]
    Address,
    #[error(transparent)]
    Elapsed(#[from] Elapsed),
    #[error(transparent)]
    Send(Box<SendError>),
    #[error("status {0}")]
    Status(StatusCode),
    #[error("{0}")]
    Body(BoxError),
    #[error("not a list of models: {0}")]
    Json(#[from] serde_json::Error),
    #[error("not a list of models: no `data`")]
    NoData,
}

/// One model in the making.
struct Entry {
    shown: Map<String, Value>,
    /// Places of the endpoints that list it.
    on: Vec<usize>,
    /// Members that differ, with the endpoints that differ.
    differs: Map<String, Value>,
}

// === impl ModelList ===

impl ModelList {
    pub(crate) fn new(
        upstream: Upstream,
        options: ModelsOptions,
        authorization: Option<HeaderValue>,
        tasks: Tasks,
    ) -> Self {
        let asker = Asker { upstream, options, authorization };
        Self { asker, tasks, current: Mutex::default() }
    }

    /// The merged list as JSON.
    pub(crate) async fn get(&self, router: &Router) -> Result<Bytes, Rejection> {
        let list = self.listing(router);
        list.await.1
    }

    fn listing(&self, router: &Router) -> Shared<BoxFuture<'static, Made>> {
        let (store, clock) = (router.datastore(), *router.clock());
        let snapshot = store.snapshot();
        let mut current = self.current.lock();
        if let Some(listing) = &*current
            && listing.version == snapshot.version()
            && std::ptr::eq(listing.of.as_ptr(), Arc::as_ptr(store))
            && listing.is_fresh(clock.now(), &self.asker.options)
        {
            return listing.list.clone();
        }
        let endpoints = snapshot.endpoints().to_vec();
        let made = make(self.asker.clone(), endpoints, clock);
        // A task, so that the list is made to its end though the client that asked first goes away.
        let list = self.tasks.spawn_cancellable("list models", made).map(move |made| {
            made.unwrap_or_else(|end| (clock.now(), Err(Rejection::internal(end.to_string()))))
        });
        let list = list.boxed().shared();
        *current = Some(Listing {
            of: Arc::downgrade(store),
            version: snapshot.version(),
            list: list.clone(),
        });
        list
    }
}

impl Listing {
    fn is_fresh(&self, now: Stamp, options: &ModelsOptions) -> bool {
        match self.list.peek() {
            None => true,
            Some((made, Ok(_))) => now.since(*made) < options.ttl,
            Some((_, Err(_))) => false,
        }
    }
}

async fn make(asker: Asker, endpoints: Vec<Arc<Endpoint>>, clock: Clock) -> Made {
    let asked = stream::iter(endpoints).map(|endpoint| {
        let asker = asker.clone();
        async move {
            let found = Box::pin(asker.ask(&endpoint)).await;
            if let Err(error) = &found {
                tracing::warn!(?endpoint, %error, "an endpoint does not list its models");
            }
            found.ok().map(|models| (endpoint, models))
        }
    });
    let answers: Vec<_> = asked
        .buffered(asker.options.max_concurrent.max(1))
        .filter_map(std::future::ready)
        .collect()
        .await;
    let list = if answers.is_empty() {
        let message = "no model server lists its models, try again later";
        Err(Rejection::no_endpoints(message))
    } else {
        let names: Vec<&str> = answers.iter().map(|(endpoint, _)| &**endpoint.id()).collect();
        let pages: Vec<&[Map<String, Value>]> =
            answers.iter().map(|(_, models)| models.as_slice()).collect();
        serde_json::to_vec(&merge(&names, &pages))
            .map(Bytes::from)
            .map_err(|error| Rejection::new(ErrorCode::Internal, error.to_string()))
    };
    (clock.now(), list)
}

// === impl Asker ===

impl Asker {
    async fn ask(&self, endpoint: &Endpoint) -> Result<Vec<Map<String, Value>>, AskError> {
        deadline(self.options.timeout, Box::pin(self.fetch(endpoint))).await?
    }

    async fn fetch(&self, endpoint: &Endpoint) -> Result<Vec<Map<String, Value>>, AskError> {
        let target = target(endpoint).ok_or(AskError::Address)?;
        let host = host(endpoint);
        let request = || {
            let mut request = Request::new(body::empty());
            *request.uri_mut() = http::Uri::from_static("/v1/models");
            let headers = request.headers_mut();
            if let Some(host) = &host {
                headers.insert(header::HOST, host.clone());
            }
            if let Some(value) = &self.authorization {
                headers.insert(header::AUTHORIZATION, value.clone());
            }
            request
        };
        let response = self.upstream.send_replayable(&target, request).await;
        let response = response.map_err(|error| AskError::Send(Box::new(error)))?;
        if response.status() != StatusCode::OK {
            return Err(AskError::Status(response.status()));
        }
        let page = Limited::new(response.into_body(), self.options.max_page_bytes).collect().await;
        let mut page: Value = serde_json::from_slice(&page.map_err(AskError::Body)?.to_bytes())?;
        let Some(Value::Array(data)) = page.get_mut("data").map(Value::take) else {
            return Err(AskError::NoData);
        };
        let entry = |value| match value {
            Value::Object(entry) => Some(entry),
            _ => None,
        };
        Ok(data.into_iter().filter_map(entry).collect())
    }
}

/// One list out of those of all endpoints. `names` are the endpoints' names.
fn merge(names: &[&str], pages: &[&[Map<String, Value>]]) -> Value {
    let mut models: Vec<Entry> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for (at, page) in pages.iter().enumerate() {
        for shown in *page {
            let Some(id) = shown.get("id").and_then(Value::as_str) else { continue };
            match places.get(id).copied() {
                Some(place) => {
                    if let Some(entry) = models.get_mut(place) {
                        entry.compare(shown, at, names);
                    }
                }
                None if models.len() < MAX_MODELS => {
                    places.insert(id, models.len());
                    models.push(Entry { shown: shown.clone(), on: vec![at], differs: Map::new() });
                }
                None => {}
            }
        }
    }
    let data: Vec<Value> = models.into_iter().map(|entry| entry.finish(names)).collect();
    json!({ "object": "list", "data": data })
}

// === impl Entry ===

impl Entry {
    /// Another endpoint lists the model as well.
    fn compare(&mut self, other: &Map<String, Value>, at: usize, names: &[&str]) {
        if self.on.last() == Some(&at) {
            return;
        }
        self.on.push(at);
        let Some(name) = names.get(at) else { return };
        let members =
            self.shown.keys().chain(other.keys().filter(|key| !self.shown.contains_key(*key)));
        for member in members.filter(|member| !VOLATILE.contains(&member.as_str())) {
            if self.shown.get(member) == other.get(member) {
                continue;
            }
            let on = self.differs.entry(member.clone()).or_insert_with(|| json!([]));
            if let Value::Array(on) = on {
                on.push((*name).into());
            }
        }
    }

    fn finish(mut self, names: &[&str]) -> Value {
        let mut note = Map::new();
        let missing_on: Vec<&str> = names
            .iter()
            .enumerate()
            .filter(|(at, _)| !self.on.contains(at))
            .map(|(_, name)| *name)
            .collect();
        if !missing_on.is_empty() {
            note.insert("missing_on".to_owned(), missing_on.into());
        }
        if !self.differs.is_empty() {
            note.insert("differs".to_owned(), Value::Object(self.differs));
        }
        // An endpoint's word about us is not ours.
        self.shown.shift_remove(NOTE);
        if !note.is_empty() {
            self.shown.insert(NOTE.to_owned(), Value::Object(note));
        }
        Value::Object(self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pages: &[(&str, Value)], expected: Value) {
        let names: Vec<&str> = pages.iter().map(|(name, _)| *name).collect();
        let models: Vec<Vec<Map<String, Value>>> =
            pages.iter().map(|(_, page)| serde_json::from_value(page.clone()).unwrap()).collect();
        let models: Vec<&[Map<String, Value>]> = models.iter().map(Vec::as_slice).collect();
        let merged = merge(&names, &models);
        assert_eq!(merged, json!({"object": "list", "data": expected}));
    }

    #[test]
    fn equal_lists_become_one_without_a_note() {
        let page = |created| json!([{"id": "m", "created": created, "max_model_len": 8}]);
        check(&[("a", page(1)), ("b", page(2))], page(1));
    }

    #[test]
    fn what_is_missing_or_differs_is_named() {
        check(
            &[
                ("a", json!([{"id": "m", "max_model_len": 8}])),
                ("b", json!([{"id": "m", "max_model_len": 4}, {"id": "lora", "parent": "m"}])),
                ("c", json!([{"id": "lora", "parent": "m"}, {"id": "lora", "parent": "x"}])),
            ],
            json!([
                {"id": "m", "max_model_len": 8,
                 "llm_d_router": {"missing_on": ["c"], "differs": {"max_model_len": ["b"]}}},
                {"id": "lora", "parent": "m", "llm_d_router": {"missing_on": ["a"]}},
            ]),
        );
    }

    #[test]
    fn a_member_that_one_endpoint_lacks_differs() {
        check(
            &[("a", json!([{"id": "m"}])), ("b", json!([{"id": "m", "root": "r"}]))],
            json!([{"id": "m", "llm_d_router": {"differs": {"root": ["b"]}}}]),
        );
    }

    #[test]
    fn odd_entries_are_left_out() {
        check(
            &[("a", json!([{"name": "m"}, {"id": 7}, {"id": "m", "llm_d_router": "spoofed"}]))],
            json!([{"id": "m"}]),
        );
    }
}
