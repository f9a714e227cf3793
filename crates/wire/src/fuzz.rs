//! What holds for any bytes whatever, as plain functions for a fuzzer and for property tests.
//!
//! Each takes a few bytes from the front of its input as settings, among them the size of the pieces in which it
//! hands over the rest, and panics if something that must hold does not. No other part of the crate calls them.

use bytes::Bytes;

use crate::{
    prometheus::{PageScan, SeriesSpec},
    request::{Api, Limits, Piece, Prompt, RequestScan, ScanError, ScannedRequest},
    response::{Dialect, ModelRestore, ResponseScan, Usage},
    splice::splice,
    text::RawText,
};

const APIS: [Api; 8] = [
    Api::ChatCompletions,
    Api::Completions,
    Api::Embeddings,
    Api::Responses,
    Api::Conversations,
    Api::ImageGenerations,
    Api::AnthropicMessages,
    Api::VllmGenerate,
];

/// A model name that needs escapes.
const NEW_MODEL: &str = "new \"model\" \u{1}ü";

/// Takes a setting and the size of pieces from the front.
fn settings(data: &[u8]) -> Option<(u8, usize, &[u8])> {
    match data {
        [setting, size, rest @ ..] => Some((*setting, 1 + usize::from(*size), rest)),
        _ => None,
    }
}

fn pieces(body: &[u8], size: usize) -> Vec<Bytes> {
    body.chunks(size).map(Bytes::copy_from_slice).collect()
}

/// A request is read the same however it is cut, its texts are UTF-8, and an edit of the model changes that only.
pub fn fuzz_request(data: &[u8]) {
    let Some((setting, size, body)) = settings(data) else { return };
    let api = APIS.get(usize::from(setting) % APIS.len()).copied().unwrap_or(Api::Completions);
    let whole = scan_request(api, &[Bytes::copy_from_slice(body)]);
    let chunks = pieces(body, size);
    assert_eq!(whole, scan_request(api, &chunks), "cut into pieces of {size}");
    let Ok(request) = whole else { return };
    assert_eq!(request.n_bytes, body.len());
    request.prompts.iter().for_each(check_prompt);

    let (span, value) = request.model_edit(NEW_MODEL);
    assert!(span.start <= span.end && span.end <= body.len());
    let edited = splice(&chunks, span, value);
    let edited = scan_request(api, &edited);
    assert!(edited.is_ok(), "{edited:?} after an edit of the model");
    let Ok(edited) = edited else { return };
    assert_eq!(edited.model.as_deref(), Some(NEW_MODEL));
    assert_eq!(edited.prompts, request.prompts);
    assert_eq!(edited.cache_salt, request.cache_salt);
    assert_eq!(edited.max_output_tokens, request.max_output_tokens);
    assert_eq!(edited.n_answers, request.n_answers);
    assert_eq!(edited.stream, request.stream);
    assert_eq!(edited.features, request.features);
}

fn scan_request(api: Api, chunks: &[Bytes]) -> Result<ScannedRequest, ScanError> {
    let mut scan = RequestScan::new(api, Limits::default());
    for chunk in chunks {
        scan.push(chunk)?;
    }
    scan.finish()
}

fn check_prompt(prompt: &Prompt) {
    let pieces = match prompt {
        Prompt::Text(pieces) => pieces,
        Prompt::Tokens(ids) => return assert_eq!(ids.iter().count(), ids.len()),
    };
    for piece in pieces {
        match piece {
            Piece::Text(text) => check_text(text),
            Piece::Media(media) => {
                check_text(&media.content);
                if let Some((width, height)) = media.image_size() {
                    assert!(width > 0 && height > 0);
                }
                assert!(media.header(7).is_none_or(|header| header.len() <= 7));
            }
        }
    }
}

fn check_text(text: &RawText) {
    let decoded = text.prefix(usize::MAX);
    assert!(std::str::from_utf8(&decoded).is_ok());
    assert_eq!(decoded.len(), text.decoded_len());
    assert!(decoded.len() <= text.wire_len(), "no escape is shorter than what it stands for");
    let half = decoded.len() / 2;
    assert_eq!(decoded.get(..half), Some(text.prefix(half).as_slice()));
}

/// Usage and events are found the same however a response is cut.
pub fn fuzz_response(data: &[u8]) {
    let Some((setting, size, body)) = settings(data) else { return };
    let dialect = if setting & 1 == 0 { Dialect::OpenAi } else { Dialect::Anthropic };
    let streaming = setting & 2 == 0;
    let whole = scan_response(dialect, streaming, &[Bytes::copy_from_slice(body)]);
    let split = scan_response(dialect, streaming, &pieces(body, size));
    assert_eq!(whole, split, "cut into pieces of {size}");
    let (usage, has_usage, n_events) = whole;
    assert!(has_usage || usage == Usage::default());
    assert!(n_events <= body.len() as u64 / 5, "every event has its 'data:'");
    assert!(streaming || n_events == 0);
}

fn scan_response(dialect: Dialect, streaming: bool, pieces: &[Bytes]) -> (Usage, bool, u64) {
    let mut scan = ResponseScan::new(dialect, streaming);
    for piece in pieces {
        scan.push(piece);
    }
    scan.end();
    (scan.usage(), scan.has_usage(), scan.n_events())
}

/// Names are restored the same however a response is cut, a second pass finds nothing, and a body without the name
/// is not changed.
pub fn fuzz_restore(data: &[u8]) {
    let Some((setting, size, body)) = settings(data) else { return };
    let (target, incoming) =
        if setting & 1 == 0 { ("m", NEW_MODEL) } else { ("target-model", "m") };
    let whole = restore(target, incoming, &[Bytes::copy_from_slice(body)]);
    let split = restore(target, incoming, &pieces(body, size));
    assert_eq!(whole, split, "cut into pieces of {size}");
    let again = restore(target, incoming, &pieces(&whole, size));
    assert_eq!(whole, again, "a second pass");
    if memchr::memmem::find(body, b"\"model\"").is_none() && !body.contains(&b'\\') {
        assert_eq!(whole, body, "there is no model");
    }
    assert_eq!(restore(target, target, &pieces(body, size)), body, "nothing to replace");
}

fn restore(target: &str, incoming: &str, pieces: &[Bytes]) -> Vec<u8> {
    let mut restore = ModelRestore::new(target, incoming);
    let mut out = Vec::new();
    for piece in pieces {
        restore.push(piece.clone()).iter().for_each(|piece| out.extend_from_slice(piece));
    }
    out.extend(restore.end().unwrap_or_default());
    out
}

/// A series is found the same whatever else is wanted, and its labels can be read. The first line of the input is
/// read as the name of a series, too.
pub fn fuzz_prometheus(page: &[u8]) {
    let first_line = page.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let names = ["a", "ab", "a{x=1}", "ab{x=\"1\",y=z}", "vllm:num_requests_waiting", "a_total"];
    let mut specs: Vec<SeriesSpec> = names.iter().filter_map(|name| name.parse().ok()).collect();
    if let Some(spec) = std::str::from_utf8(first_line).ok().and_then(|text| text.parse().ok()) {
        let spec: SeriesSpec = spec;
        assert_eq!(spec.to_string().parse().as_ref(), Ok(&spec), "printed and read again");
        specs.push(spec);
    }
    specs.extend(specs.clone().into_iter().map(SeriesSpec::highest));
    let together = PageScan::new(&specs).scan(page);
    for (i, spec) in specs.iter().enumerate() {
        let alone = PageScan::new(std::slice::from_ref(spec)).scan(page);
        let (sample, other) = (alone.sample(0), together.sample(i));
        // NaN is not equal to itself.
        assert_eq!(format!("{sample:?}"), format!("{other:?}"), "{spec} alone and with others");
        let Some(sample) = sample else { continue };
        for label in sample.labels() {
            assert!(label.value().len() <= 3 * page.len());
        }
        for (name, value) in spec.labels() {
            assert!(sample.labels().any(|label| label.name == name && label.value() == value));
        }
    }
}
