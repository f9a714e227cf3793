//! Envoy's messages for what the engine decided.

use bytes::Bytes;
use http::HeaderValue;
use router_core::{
    Rejection,
    header::{self, HeadPatch},
};
use router_framework::MetadataNumber;
use router_proto::{
    ext_proc::{
        BodyResponse, CommonResponse, HeaderMutation, HeaderValueOption, HeadersResponse,
        HttpStatus, ImmediateResponse, ProcessingResponse, processing_response::Response,
    },
    google::{Struct, Value},
};

/// Longest piece of a body in one message; some Envoys stop at 64 KiB (`spec/request-path.md` §1.4).
pub const MAX_PIECE_BYTES: usize = 62_000;

/// A patch as a mutation; only the delta is sent.
pub(crate) fn mutation(patch: &HeadPatch) -> HeaderMutation {
    HeaderMutation {
        set_headers: patch.set.iter().map(|(name, value)| set(name.as_str(), value)).collect(),
        remove_headers: patch.remove.iter().map(|name| name.as_str().to_owned()).collect(),
    }
}

fn set(name: &str, value: &HeaderValue) -> HeaderValueOption {
    HeaderValueOption::overwrite(name, Bytes::copy_from_slice(value.as_bytes()))
}

/// A reply to headers.
pub(crate) fn headers(patch: &HeadPatch, clear_route_cache: bool) -> HeadersResponse {
    let header_mutation = (!patch.is_empty()).then(|| mutation(patch));
    CommonResponse { header_mutation, clear_route_cache, ..CommonResponse::default() }.into()
}

/// The destination as dynamic metadata, and the candidates' scores where they are emitted.
pub(crate) fn destination_metadata(
    destination: &str,
    scores: Option<&[(std::sync::Arc<str>, f64)]>,
) -> Struct {
    let mut fields = vec![(header::DESTINATION.as_str().to_owned(), Value::from(destination))];
    if let Some(scores) = scores.filter(|scores| !scores.is_empty()) {
        let scores: Struct = scores
            .iter()
            .map(|(endpoint, score)| (endpoint.to_string(), Value::from(*score)))
            .collect();
        fields.push((header::SCORES_KEY.to_owned(), Value::from(scores)));
    }
    let lb: Struct = fields.into_iter().collect();
    [(header::METADATA_LB, Value::from(lb))].into_iter().collect()
}

/// Numbers for the proxy, by namespace.
pub(crate) fn number_metadata(numbers: Vec<MetadataNumber>) -> Option<Struct> {
    let mut namespaces: std::collections::BTreeMap<String, Struct> =
        std::collections::BTreeMap::new();
    for number in numbers {
        let fields = &mut namespaces.entry(number.namespace).or_default().fields;
        fields.insert(number.name, Value::from(number.value));
    }
    let all: Struct =
        namespaces.into_iter().map(|(name, fields)| (name, Value::from(fields))).collect();
    (!all.fields.is_empty()).then_some(all)
}

/// Which body a piece belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Request,
    Response,
}

/// The pieces of a body as replies, none longer than [`MAX_PIECE_BYTES`]; the last one ends the body when
/// `end_of_stream` says so. An empty body that ends is one empty piece.
pub(crate) fn body(
    direction: Direction,
    chunks: impl IntoIterator<Item = Bytes>,
    end_of_stream: bool,
    mut push: impl FnMut(ProcessingResponse),
) {
    let mut held: Option<Bytes> = None;
    for mut chunk in chunks {
        while !chunk.is_empty() {
            let piece = chunk.split_to(chunk.len().min(MAX_PIECE_BYTES));
            if let Some(before) = held.replace(piece) {
                push(piece_reply(direction, before, false));
            }
        }
    }
    match held {
        Some(last) => push(piece_reply(direction, last, end_of_stream)),
        None if end_of_stream => push(piece_reply(direction, Bytes::new(), true)),
        None => {}
    }
}

fn piece_reply(direction: Direction, piece: Bytes, end_of_stream: bool) -> ProcessingResponse {
    let reply = BodyResponse::streamed(piece, end_of_stream);
    match direction {
        Direction::Request => Response::RequestBody(reply).into(),
        Direction::Response => Response::ResponseBody(reply).into(),
    }
}

/// The answer to a request that is not routed.
pub(crate) fn immediate(rejection: &Rejection) -> Response {
    let mut set_headers = Vec::new();
    if let Some(reason) = rejection.reason {
        set_headers
            .push(HeaderValueOption::overwrite(header::DROPPED_REASON.as_str(), reason.as_str()));
    }
    if let Some(after) = rejection.retry_after {
        let seconds = after.as_secs_f64().ceil().max(1.0) as u64;
        set_headers.push(HeaderValueOption::overwrite("retry-after", seconds.to_string()));
    }
    set_headers.push(HeaderValueOption::overwrite("content-type", "text/plain"));
    Response::ImmediateResponse(ImmediateResponse {
        status: Some(HttpStatus { code: i32::from(rejection.code.http_status()) }),
        headers: Some(HeaderMutation { set_headers, remove_headers: Vec::new() }),
        body: Bytes::from(rejection.body()),
        details: rejection.code.label().to_owned(),
        ..ImmediateResponse::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_cut_into_pieces_and_only_the_last_ends_them() {
        let check = |lengths: &[usize], eos: bool, expected: &[(usize, bool)]| {
            let chunks = lengths.iter().map(|&length| Bytes::from(vec![b'x'; length]));
            let mut pieces = Vec::new();
            body(Direction::Request, chunks, eos, |reply| {
                let Some(Response::RequestBody(reply)) = reply.response else {
                    panic!("{reply:?}")
                };
                let piece = reply.into_streamed().unwrap();
                pieces.push((piece.body.len(), piece.end_of_stream));
            });
            assert_eq!(pieces, expected);
        };
        check(&[], true, &[(0, true)]);
        check(&[], false, &[]);
        check(&[0, 5, 0], true, &[(5, true)]);
        check(&[5, 6], false, &[(5, false), (6, false)]);
        check(&[130_000], true, &[(62_000, false), (62_000, false), (6_000, true)]);
    }
}
