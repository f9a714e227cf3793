//! Which path does what, and how an inference request goes through a server.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use router_net::Body;
use xxhash_rust::xxh64::xxh64;

use super::{
    api::{self, Api, Plain},
    control,
    error::{ApiError, ErrorShape, bytes_response, json_response},
    faults::Fate,
    job::Job,
    listen::Control,
    state::State,
    stats::{Outcome, Track},
};

/// Bodies longer than this are read away from the runtime's threads.
const LONG_BODY_BYTES: usize = 256 << 10;
/// An id from a client that is longer is not taken over into answers.
const MAX_REQUEST_ID_BYTES: usize = 128;

/// Answers a request.
pub(crate) async fn handle(
    state: Arc<State>,
    connection: Arc<Control>,
    request: Request<Incoming>,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let request_id = parts.headers.get("x-request-id").cloned();
    let posted = parts.method == Method::POST;
    let path = parts.uri.path();
    let mut response = if let Some(api) = Api::of(path).filter(|_| posted) {
        infer(&state, &connection, api, parts, body).await
    } else if let Some(plain) = Plain::of(path).filter(|_| posted) {
        plain_answer(&state, plain, &parts, body).await
    } else {
        control::handle(&state, &parts, body).await
    };
    let headers = response.headers_mut();
    headers.insert("x-inference-port", HeaderValue::from(state.port()));
    if let Ok(name) = HeaderValue::from_str(&state.pod_name()) {
        headers.insert("x-inference-pod", name);
    }
    if let Some(id) = request_id.filter(|_| state.config.enable_request_id_headers) {
        headers.insert("x-request-id", id);
    }
    response
}

async fn infer(
    state: &Arc<State>,
    connection: &Control,
    api: Api,
    parts: Parts,
    body: Incoming,
) -> Response<Body> {
    let mut track = state.recorder.begin(&parts.method, parts.uri.path(), &parts.headers);
    let body = match read_body(state, &parts.headers, body, Some(&track)).await {
        Ok(body) => body,
        Err(error) => return track.answer(error.response(api.errors())),
    };
    let mut cut_after = None;
    match state.draw_fate() {
        Fate::Serve => {}
        Fate::Fail(kind) => {
            let limit = state.config.profile.max_model_len;
            return track.answer(kind.error(state.model_name(), limit).response(api.errors()));
        }
        Fate::Hang => {
            track.end(Outcome::Broken);
            std::future::pending::<()>().await;
        }
        Fate::Reset => {
            track.end(Outcome::Broken);
            connection.reset().await;
        }
        Fate::Cut(n_events) => cut_after = Some(n_events),
    }
    match serve(state, api, &parts.headers, body, &track, cut_after).await {
        Ok(response) => track.answer(response),
        Err(error) => track.answer(error.response(api.errors())),
    }
}

async fn serve(
    state: &Arc<State>,
    api: Api,
    headers: &HeaderMap,
    body: Bytes,
    track: &Track,
    cut_after: Option<u32>,
) -> Result<Response<Body>, ApiError> {
    if let Some(status) = headers.get("x-return-error") {
        return Err(asked_for_error(status));
    }
    let id = client_id(headers).unwrap_or_else(|| state.fresh_id());
    let is_long = body.len() > LONG_BODY_BYTES;
    let (reader, read_id) = (Arc::clone(state), id.clone());
    let read = move || api.read(&reader, read_id, &body);
    let ask = if is_long { state.offload.run(read).await.map_err(internal)?? } else { read()? };
    let record = track.record().clone();
    record.note(|record| {
        ask.model.clone_into(&mut record.model);
        if record.request_id.is_empty() {
            record.request_id = id;
        }
    });
    let streamed = ask.stream;
    let (job, dialect) = Job::start(state, ask)?;
    if streamed {
        Ok(job.stream(dialect, cut_after, record))
    } else {
        Ok(job.whole(dialect, &record).await)
    }
}

/// Answers that need no engine: rendering, tokenizing, counting.
async fn plain_answer(
    state: &Arc<State>,
    plain: Plain,
    parts: &Parts,
    body: Incoming,
) -> Response<Body> {
    let answer = async {
        let body = read_body(state, &parts.headers, body, None).await?;
        let is_long = body.len() > LONG_BODY_BYTES;
        let reader = Arc::clone(state);
        let read = move || plain.answer(&reader, &body);
        if is_long { state.offload.run(read).await.map_err(internal)? } else { read() }
    };
    match answer.await {
        Ok(value) => json_response(StatusCode::OK, &value),
        Err(error) => error.response(plain.errors()),
    }
}

/// The whole body, within the server's bound.
pub(crate) async fn read_body(
    state: &State,
    headers: &HeaderMap,
    body: Incoming,
    track: Option<&Track>,
) -> Result<Bytes, ApiError> {
    let limit = state.config.max_request_body_size_mb as usize * (1 << 20);
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the request body exceeds {limit} bytes"),
        )
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    if announced
        .and_then(|length| length.parse::<usize>().ok())
        .is_some_and(|length| length > limit)
    {
        return Err(too_large());
    }
    let body = match Limited::new(body, limit).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Err(error) => return Err(ApiError::bad_request(format!("cannot read the body: {error}"))),
    };
    if let Some(track) = track {
        let hash = xxh64(&body, 0);
        track.record().note(|record| {
            record.body_bytes = body.len() as u64;
            record.body_xxh64 = format!("{hash:016x}");
        });
    }
    Ok(body)
}

/// The error that `X-Return-Error` asks for.
fn asked_for_error(status: &HeaderValue) -> ApiError {
    let status = status.to_str().ok().and_then(|text| text.trim().parse::<u16>().ok());
    match status.filter(|status| (400..=599).contains(status)).map(StatusCode::from_u16) {
        Some(Ok(status)) => ApiError::new(status, "the request asked for this error"),
        Some(Err(_)) | None => {
            ApiError::bad_request("x-return-error must be a status from 400 to 599")
        }
    }
}

fn client_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get("x-request-id")?.to_str().ok()?;
    Some(id.to_owned()).filter(|id| !id.is_empty() && id.len() <= MAX_REQUEST_ID_BYTES)
}

fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// What FastAPI says of a path that nobody serves, or not with this method.
pub(crate) fn not_served(known: bool) -> Response<Body> {
    if known {
        bytes_response(
            StatusCode::METHOD_NOT_ALLOWED,
            "application/json",
            r#"{"detail":"Method Not Allowed"}"#,
        )
    } else {
        bytes_response(StatusCode::NOT_FOUND, "application/json", r#"{"detail":"Not Found"}"#)
    }
}

impl Api {
    fn errors(self) -> ErrorShape {
        match self {
            Self::Messages => ErrorShape::Anthropic,
            Self::Chat
            | Self::Completions
            | Self::Embeddings
            | Self::Responses
            | Self::Generate => ErrorShape::OpenAi,
        }
    }
}

/// Whether an inference or plain path is known, for answers to the wrong method.
pub(crate) fn is_inference_path(path: &str) -> bool {
    api::Api::of(path).is_some() || Plain::of(path).is_some()
}
