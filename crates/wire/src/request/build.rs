//! From places in the body to slices of it.

use super::{
    Api, Feature, Piece, Prompt, ScanError, ScannedRequest, TokenIds,
    chunks::Chunks,
    found::{Found, Mark, PromptMark, Span},
};
use crate::{
    media::{Media, MediaKind},
    text::RawText,
};

/// System blocks that Anthropic's clients add for accounting. They differ from request to request, so that no two
/// prompts would share a prefix, and model servers do not show them to the model.
const BILLING_HEADER: &[u8] = b"x-anthropic-billing-header";

pub(super) fn build(found: Found, body: &Chunks) -> Result<ScannedRequest, ScanError> {
    let api = found.api;
    let features = features(&found, body);
    let name = |span: Option<Span>| span.map(|span| text(body, span).to_text());
    Ok(ScannedRequest {
        api,
        model: name(found.model),
        model_span: found.model_span.clone(),
        stream: found.stream,
        max_output_tokens: found.caps.iter().flatten().next().copied(),
        n_answers: found.n_answers,
        cache_salt: name(found.cache_salt),
        features,
        n_bytes: body.len(),
        members_at: found.members_at,
        has_members: found.has_members,
        prompts: prompts(found, body)?,
    })
}

fn prompts(found: Found, body: &Chunks) -> Result<Vec<Prompt>, ScanError> {
    let missing = ScanError::Missing { api: found.api };
    let by_messages = match found.api {
        Api::ChatCompletions | Api::AnthropicMessages => true,
        Api::Embeddings => found.prompts.is_empty(),
        _ => false,
    };
    if by_messages {
        if found.n_messages == 0 {
            return Err(missing);
        }
        let n_marks = found.system.len() + found.messages.len();
        let mut pieces = Vec::with_capacity(n_marks + usize::from(found.tools.is_some()));
        pieces.extend(found.tools.map(|span| Piece::Text(text(body, span))));
        pieces.extend(found.system.iter().filter_map(|mark| piece(body, mark)));
        pieces.extend(found.messages.iter().filter_map(|mark| piece(body, mark)));
        return Ok(vec![Prompt::Text(pieces)]);
    }
    if matches!(found.api, Api::Responses | Api::Conversations) {
        let input = found.input.ok_or(missing)?;
        let spans = [found.instructions, found.tools, (!input.is_empty()).then_some(input)];
        let pieces = spans.into_iter().flatten().map(|span| Piece::Text(text(body, span)));
        return Ok(vec![Prompt::Text(pieces.collect())]);
    }
    if found.prompts.is_empty() {
        return Err(missing);
    }
    if let (Api::VllmGenerate, [PromptMark::Tokens(tokens)]) = (found.api, found.prompts.as_slice())
        && tokens.n_ids == 0
    {
        return Err(missing);
    }
    let prompts = found.prompts.into_iter().map(|prompt| match prompt {
        PromptMark::Tokens(list) => {
            Prompt::Tokens(TokenIds::new(body.slices(list.span), list.n_ids))
        }
        PromptMark::Text(span) => {
            Prompt::Text(span.map(|span| Piece::Text(text(body, span))).into_iter().collect())
        }
    });
    Ok(prompts.collect())
}

fn text(body: &Chunks, span: Span) -> RawText {
    RawText::new(body.slices(span.start..span.end), span.escapes)
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
fn features(found: &Found, body: &Chunks) -> Vec<Feature> {
    let mut features = Vec::with_capacity(found.places.len());
    for kind in [MediaKind::Image, MediaKind::Audio, MediaKind::Video, MediaKind::Other] {
        let mut hashes = found.hashes.iter().filter(|(of, _)| *of == kind).map(|(_, span)| *span);
        for place in found.places.iter().filter(|place| place.kind == kind) {
            let hash = hashes.next().flatten().map(|span| text(body, span)).unwrap_or_default();
            features.push(Feature { kind, hash, offset: place.offset, length: place.length });
        }
    }
    features.sort_by_key(|feature| feature.offset);
    features
}
