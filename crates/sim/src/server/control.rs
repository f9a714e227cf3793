//! Everything that is no inference: models, health, metrics, adapters, sleep, settings, statistics.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use http::{Method, Response, StatusCode, request::Parts};
use hyper::body::Incoming;
use router_net::Body;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{
    config::{self, ConfigError, MetricsDialect},
    error::{ApiError, ErrorShape, bytes_response, json_response},
    fake::FakeLora,
    faults::MetricsFault,
    metrics::{self, Shown, Twist},
    route::{is_inference_path, not_served, read_body},
    state::State,
};
use crate::model::Profile;

const VLLM_PAGE: &str = "text/plain; version=1.0.0; charset=utf-8";
const PLAIN_PAGE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Answers a request that is no inference.
pub(crate) async fn handle(state: &Arc<State>, parts: &Parts, body: Incoming) -> Response<Body> {
    let answered = match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/v1/models") => Ok(json_response(StatusCode::OK, &models(state))),
        (&Method::GET, "/metrics") => Ok(metrics_page(state).await),
        (&Method::GET, "/health" | "/ping") => Ok(health(!state.runtime().faults.unhealthy)),
        (&Method::GET, "/health/ready") => Ok(health(state.is_ready())),
        (&Method::GET, "/version") => {
            let version = concat!("sim-", env!("CARGO_PKG_VERSION"));
            Ok(json_response(StatusCode::OK, &json!({ "version": version })))
        }
        (&Method::POST, "/v1/load_lora_adapter") => load_adapter(state, parts, body).await,
        (&Method::POST, "/v1/unload_lora_adapter") => unload_adapter(state, parts, body).await,
        (&Method::POST, "/reset_prefix_cache") => {
            reset_cache(state);
            Ok(json_response(StatusCode::OK, &json!({"success": true})))
        }
        (&Method::POST, "/sleep") if state.config.enable_sleep_mode => Ok(sleep(state)),
        (&Method::POST, "/wake_up") if state.config.enable_sleep_mode => Ok(wake_up(state, parts)),
        (&Method::GET, "/is_sleeping") if state.config.enable_sleep_mode => {
            let asleep = state.asleep.load(Ordering::SeqCst);
            Ok(json_response(StatusCode::OK, &json!({ "is_sleeping": asleep })))
        }
        (&Method::GET, "/admin/config") => settings(state, parts),
        (&Method::POST, "/admin/config") => change_settings(state, parts, body).await,
        (&Method::GET, "/sim/stats") => stats(state, parts),
        (&Method::DELETE, "/sim/stats") => named_server(state, parts).map(|state| {
            state.recorder.reset();
            bytes_response(StatusCode::NO_CONTENT, "text/plain", Bytes::new())
        }),
        (_, path) => Ok(not_served(is_inference_path(path) || PATHS.contains(&path))),
    };
    answered.unwrap_or_else(|error| error.response(ErrorShape::OpenAi))
}

const PATHS: [&str; 10] = [
    "/v1/models",
    "/metrics",
    "/health",
    "/health/ready",
    "/version",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/reset_prefix_cache",
    "/admin/config",
    "/sim/stats",
];

fn models(state: &State) -> Value {
    let created = state.unix_seconds();
    let model = |id: &str, root: &str, parent: Option<&str>, max_model_len: Option<u32>| {
        json!({
            "id": id, "object": "model", "created": created, "owned_by": "vllm", "root": root,
            "parent": parent, "max_model_len": max_model_len,
            "permission": [{
                "id": format!("modelperm-{}", state.fresh_id()), "object": "model_permission",
                "created": created, "allow_create_engine": false, "allow_sampling": true,
                "allow_logprobs": true, "allow_search_indices": false, "allow_view": true,
                "allow_fine_tuning": false, "organization": "*", "group": null, "is_blocking": false,
            }],
        })
    };
    let limit = Some(state.config.profile.max_model_len);
    let mut data: Vec<Value> = state
        .config
        .aliases()
        .iter()
        .map(|alias| model(alias, &state.config.model, None, limit))
        .collect();
    let adapters = state.adapters.lock();
    data.extend(
        adapters
            .loaded()
            .map(|(name, adapter)| model(name, &adapter.path, Some(state.model_name()), None)),
    );
    json!({ "object": "list", "data": data })
}

fn health(ok: bool) -> Response<Body> {
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    bytes_response(status, "text/plain", Bytes::new())
}

async fn metrics_page(state: &State) -> Response<Body> {
    state.recorder.scrape();
    let content_type = match state.config.metrics_dialect {
        MetricsDialect::Vllm => VLLM_PAGE,
        MetricsDialect::Sglang
        | MetricsDialect::TrtllmServe
        | MetricsDialect::TritonTensorrtLlm
        | MetricsDialect::Triton => PLAIN_PAGE,
    };
    let page = |body: Bytes| bytes_response(StatusCode::OK, content_type, body);
    let streamed = |body: Body| page(Bytes::new()).map(|_| body);
    match state.runtime().faults.metrics_fault {
        MetricsFault::None => page(write_page(state, Twist::None).into()),
        MetricsFault::Nan => page(write_page(state, Twist::Nan).into()),
        MetricsFault::Negative => page(write_page(state, Twist::Negative).into()),
        MetricsFault::Stale => page(state.frozen_page(|| write_page(state, Twist::None))),
        MetricsFault::Error => {
            let message = "the metrics page is broken on purpose";
            bytes_response(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", message)
        }
        MetricsFault::Garbage => page(state.with_rng(metrics::garbage).into()),
        MetricsFault::Endless => streamed(metrics::endless()),
        MetricsFault::Huge => streamed(metrics::huge(write_page(state, Twist::None))),
        MetricsFault::Hang => std::future::pending().await,
    }
}

fn write_page(state: &State, twist: Twist) -> String {
    let runtime = state.runtime();
    let signals = state.signals();
    let loras: Vec<FakeLora> = match &runtime.fake_metrics {
        Some(fake) => fake.loras.clone(),
        None => state.lora_series(&signals),
    };
    let cell = state.cell.lock();
    let shown = Shown {
        config: &state.config,
        signals: &signals,
        latencies: &cell.latencies,
        loras: &loras,
        fake: runtime.fake_metrics.as_ref(),
        asleep: state.asleep.load(Ordering::SeqCst),
        created: state.clock.unix(state.started).as_secs_f64(),
        now: state.clock.unix_now().as_secs_f64(),
    };
    metrics::page(&shown, twist)
}

#[derive(Deserialize)]
struct AdapterRequest {
    #[serde(default)]
    lora_name: String,
    #[serde(default)]
    lora_path: String,
}

async fn load_adapter(
    state: &State,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<Body>, ApiError> {
    let request: AdapterRequest = json_body(state, parts, body).await?;
    if request.lora_path.is_empty() {
        return Err(ApiError::bad_request("Both 'lora_name' and 'lora_path' must be provided."));
    }
    if state.config.aliases().contains(&request.lora_name) {
        return Err(ApiError::bad_request(format!("'{}' is the base model", request.lora_name)));
    }
    state.adapters.lock().load(&request.lora_name, &request.lora_path)?;
    let message = format!("Success: LoRA adapter '{}' added successfully.", request.lora_name);
    Ok(bytes_response(StatusCode::OK, "text/plain; charset=utf-8", message))
}

async fn unload_adapter(
    state: &State,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<Body>, ApiError> {
    let request: AdapterRequest = json_body(state, parts, body).await?;
    if request.lora_name.is_empty() {
        return Err(ApiError::bad_request(
            "'lora_name' needs to be provided to unload a LoRA adapter.",
        ));
    }
    let id = state.adapters.lock().unload(&request.lora_name)?;
    state.cell.lock().forget_adapter(id);
    let message = format!("Success: LoRA adapter '{}' removed successfully.", request.lora_name);
    Ok(bytes_response(StatusCode::OK, "text/plain; charset=utf-8", message))
}

async fn json_body<T: for<'de> Deserialize<'de>>(
    state: &State,
    parts: &Parts,
    body: Incoming,
) -> Result<T, ApiError> {
    let body = read_body(state, &parts.headers, body, None).await?;
    serde_json::from_slice(&body)
        .map_err(|error| ApiError::bad_request(format!("invalid JSON: {error}")))
}

fn reset_cache(state: &State) {
    let mut cell = state.cell.lock();
    let now = state.clock.now();
    cell.set_prefix_caching(now, false);
    cell.set_prefix_caching(now, !state.asleep.load(Ordering::SeqCst));
    drop(cell);
    state.wake.notify_one();
}

/// A sleeping server answers on, but remembers no prefixes (reference simulator).
fn sleep(state: &State) -> Response<Body> {
    state.asleep.store(true, Ordering::SeqCst);
    reset_cache(state);
    health(true)
}

fn wake_up(state: &State, parts: &Parts) -> Response<Body> {
    let tags: Vec<&str> = query(parts, "tags").collect();
    if tags.is_empty() || tags.contains(&"kv_cache") {
        state.asleep.store(false, Ordering::SeqCst);
        reset_cache(state);
    }
    health(true)
}

fn settings(state: &State, parts: &Parts) -> Result<Response<Body>, ApiError> {
    let state = named_server(state, parts)?;
    let runtime = state.runtime();
    let mut shown = serde_json::to_value(&*runtime).unwrap_or_default();
    let profile = serde_json::to_value(state.cell.lock().profile()).unwrap_or_default();
    if let (Value::Object(shown), Value::Object(profile)) = (&mut shown, profile) {
        shown.extend(profile.into_iter().filter(|(key, _)| is_cost(key)));
    }
    Ok(json_response(StatusCode::OK, &shown))
}

/// Changes settings: all that the body names, or none if one is wrong.
async fn change_settings(
    state: &State,
    parts: &Parts,
    body: Incoming,
) -> Result<Response<Body>, ApiError> {
    let changes: Map<String, Value> = json_body(state, parts, body).await?;
    let state = named_server(state, parts)?;
    let (costs, others): (Map<_, _>, Map<_, _>) =
        changes.into_iter().partition(|(key, _)| is_cost(key));
    let refused = |error: ConfigError| ApiError::bad_request(error.to_string());
    let runtime = state.runtime().changed(&Value::Object(others)).map_err(refused)?;
    let mut cell = state.cell.lock();
    let profile: Profile =
        config::merged(cell.profile(), &Value::Object(costs)).map_err(refused)?;
    cell.set_costs(state.clock.now(), &profile).map_err(|error| refused(error.into()))?;
    drop(cell);
    state.set_runtime(runtime);
    state.wake.notify_one();
    settings(&state, parts)
}

fn is_cost(key: &str) -> bool {
    Profile::COST_KEYS.contains(&key)
}

fn stats(state: &State, parts: &Parts) -> Result<Response<Body>, ApiError> {
    let state = named_server(state, parts)?;
    let stats = serde_json::to_value(state.stats()).unwrap_or_default();
    Ok(json_response(StatusCode::OK, &stats))
}

/// The server that `?server=<index>` names, or this one: any server of a process can be asked about any other.
fn named_server(state: &State, parts: &Parts) -> Result<Arc<State>, ApiError> {
    let index = match query(parts, "server").next() {
        None => Some(state.index),
        Some(text) => text.parse().ok(),
    };
    index.and_then(|index| state.sibling(index)).ok_or_else(|| {
        ApiError::new(
            StatusCode::NOT_FOUND,
            "`server` must be the index of a server of this process",
        )
    })
}

fn query<'a>(parts: &'a Parts, key: &'a str) -> impl Iterator<Item = &'a str> {
    let pairs = parts.uri.query().unwrap_or_default().split('&');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .filter(move |(name, _)| *name == key)
        .map(|(_, value)| value)
}
