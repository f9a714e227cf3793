//! From places in the body to slices of it.

use super::{
    Api, Feature, Piece, Prompt, ScanError, ScannedRequest,
    chunks::Chunks,
    scan::{Mark, PromptMark, Scan, Span},
};
use crate::{
    media::{Media, MediaKind},
    text::RawText,
};

/// System blocks that Anthropic's clients add for accounting. They differ from request to request, so that no two
/// prompts would share a prefix, and model servers do not show them to the model.
const BILLING_HEADER: &[u8] = b"x-anthropic-billing-header";

pub(super) fn build(scan: Scan, body: &Chunks) -> Result<ScannedRequest, ScanError> {
    let api = scan.api;
    let features = features(&scan, body);
    let name = |span: Option<Span>| span.map(|span| text(body, span).to_text());
    Ok(ScannedRequest {
        api,
        model: name(scan.model),
        model_span: scan.model_span.clone(),
        stream: scan.stream,
        max_output_tokens: scan.caps.iter().flatten().next().copied(),
        cache_salt: name(scan.cache_salt),
        features,
        n_bytes: body.len(),
        members_at: scan.members_at,
        has_members: scan.has_members,
        prompts: prompts(scan, body)?,
    })
}

fn prompts(scan: Scan, body: &Chunks) -> Result<Vec<Prompt>, ScanError> {
    let missing = ScanError::Missing { api: scan.api };
    let by_messages = match scan.api {
        Api::ChatCompletions | Api::AnthropicMessages => true,
        Api::Embeddings => scan.prompts.is_empty(),
        _ => false,
    };
    if by_messages {
        if scan.n_messages == 0 {
            return Err(missing);
        }
        let n_marks = scan.system.len() + scan.messages.len();
        let mut pieces = Vec::with_capacity(n_marks + usize::from(scan.tools.is_some()));
        pieces.extend(scan.tools.map(|span| Piece::Text(text(body, span))));
        pieces.extend(scan.system.iter().filter_map(|mark| piece(body, mark)));
        pieces.extend(scan.messages.iter().filter_map(|mark| piece(body, mark)));
        return Ok(vec![Prompt::Text(pieces)]);
    }
    if matches!(scan.api, Api::Responses | Api::Conversations) {
        let input = scan.input.ok_or(missing)?;
        let spans = [scan.instructions, scan.tools, (!input.is_empty()).then_some(input)];
        let pieces = spans.into_iter().flatten().map(|span| Piece::Text(text(body, span)));
        return Ok(vec![Prompt::Text(pieces.collect())]);
    }
    if scan.prompts.is_empty() {
        return Err(missing);
    }
    if let (Api::VllmGenerate, [PromptMark::Tokens(tokens)]) = (scan.api, scan.prompts.as_slice())
        && tokens.is_empty()
    {
        return Err(missing);
    }
    let prompts = scan.prompts.into_iter().map(|prompt| match prompt {
        PromptMark::Tokens(tokens) => Prompt::Tokens(tokens),
        PromptMark::Text(span) => {
            Prompt::Text(span.map(|span| Piece::Text(text(body, span))).into_iter().collect())
        }
    });
    Ok(prompts.collect())
}

fn text(body: &Chunks, span: Span) -> RawText {
    RawText::new(body.slices(span.start..span.end), span.escaped)
}

fn piece(body: &Chunks, mark: &Mark) -> Option<Piece> {
    match *mark {
        Mark::NoRole => None,
        Mark::Text(span) => Some(Piece::Text(text(body, span))),
        Mark::SystemText(span) => {
            let text = text(body, span);
            (text.prefix(BILLING_HEADER.len()) != BILLING_HEADER).then_some(Piece::Text(text))
        }
        Mark::Media { kind, form, span } => {
            Some(Piece::Media(Media { kind, form, content: text(body, span) }))
        }
    }
}

/// Pairs placeholders with hashes by their order within a kind.
fn features(scan: &Scan, body: &Chunks) -> Vec<Feature> {
    let mut features = Vec::with_capacity(scan.places.len());
    for kind in [MediaKind::Image, MediaKind::Audio, MediaKind::Video, MediaKind::Other] {
        let mut hashes = scan.hashes.iter().filter(|(of, _)| *of == kind).map(|(_, span)| *span);
        for place in scan.places.iter().filter(|place| place.kind == kind) {
            let hash = hashes.next().flatten().map(|span| text(body, span)).unwrap_or_default();
            features.push(Feature { kind, hash, offset: place.offset, length: place.length });
        }
    }
    features.sort_by_key(|feature| feature.offset);
    features
}
