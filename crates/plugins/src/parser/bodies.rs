//! What the parsers share: the scans of `router-wire` as the framework wants them.

use bytes::Bytes;
use router_core::Rejection;
use router_framework::{
    BodyParser, ModelEditor, ParsedRequest, PromptInput, ResponseKind, ResponseParser,
};
use router_wire::{
    request::{Api, Limits, RequestScan, ScanError, ScannedRequest},
    response::{Dialect, ResponseScan, Usage},
};

/// Reads a JSON body in one of the formats that carry a model and a prompt.
pub(super) struct JsonBody {
    scan: RequestScan,
}

/// A body that nobody looks at: it is passed on as it comes.
pub(super) struct OpaqueBody {
    pub(super) skip_response: bool,
}

/// Watches a response for token usage.
pub(super) struct UsageWatch {
    scan: ResponseScan,
}

/// Whether `suffix` is the end of `path` and begins at a segment; one slash at the end of the path does
/// not count.
pub(super) fn has_suffix(path: &str, suffix: &str) -> bool {
    let path = path.trim();
    let path = path.strip_suffix('/').unwrap_or(path);
    path.strip_suffix(suffix).is_some_and(|rest| rest.is_empty() || rest.ends_with('/'))
}

// === impl JsonBody ===

impl JsonBody {
    pub(super) fn boxed(api: Api) -> Box<dyn BodyParser> {
        Box::new(Self { scan: RequestScan::new(api, Limits::default()) })
    }
}

impl BodyParser for JsonBody {
    fn push(&mut self, chunk: &Bytes) -> Result<(), Rejection> {
        self.scan.push(chunk).map_err(refuse)
    }

    fn held_bytes(&self) -> usize {
        self.scan.held_bytes()
    }

    fn finish(self: Box<Self>) -> Result<ParsedRequest, Rejection> {
        self.scan.finish().map(parsed).map_err(refuse)
    }
}

/// The texts are the documented ones; of the body they name places and members, never contents.
fn refuse(error: ScanError) -> Rejection {
    Rejection::bad_request(error.to_string())
}

fn parsed(mut scanned: ScannedRequest) -> ParsedRequest {
    let prompts = match scanned.api {
        // What an image is made of is no prompt that could be cached or counted.
        Api::ImageGenerations => PromptInput::Empty,
        _ => PromptInput::Prompts(std::mem::take(&mut scanned.prompts)),
    };
    ParsedRequest {
        model: scanned.model.as_deref().map(Into::into),
        stream: scanned.stream,
        max_output_tokens: scanned.max_output_tokens,
        n_answers: scanned.n_answers,
        cache_salt: scanned.cache_salt.as_deref().map(Into::into),
        prompts,
        features: std::mem::take(&mut scanned.features),
        model_required: true,
        skip_response: false,
        n_body_bytes: scanned.n_bytes,
        // What is left of the scan is a few numbers.
        model_editor: Some(ModelEditor::new(move |model| scanned.model_edit(model))),
    }
}

// === impl OpaqueBody ===

impl BodyParser for OpaqueBody {
    fn push(&mut self, _: &Bytes) -> Result<(), Rejection> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<ParsedRequest, Rejection> {
        Ok(ParsedRequest { skip_response: self.skip_response, ..ParsedRequest::default() })
    }
}

// === impl UsageWatch ===

impl UsageWatch {
    pub(super) fn boxed(dialect: Dialect, kind: ResponseKind) -> Box<dyn ResponseParser> {
        let streaming = kind == ResponseKind::Events;
        Box::new(Self { scan: ResponseScan::new(dialect, streaming) })
    }
}

impl ResponseParser for UsageWatch {
    fn push(&mut self, chunk: &[u8]) {
        self.scan.push(chunk);
    }

    fn end(&mut self) {
        self.scan.end();
    }

    fn usage(&self) -> Option<Usage> {
        self.scan.has_usage().then(|| self.scan.usage())
    }

    fn n_events(&self) -> u64 {
        self.scan.n_events()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use http::{HeaderMap, Method};
    use router_core::{ErrorCode, Stamp};
    use router_framework::{Instance, Parser, PluginDef, RequestHead, SubsetHint, Workbench};
    use router_wire::{
        request::{Piece, Prompt},
        splice::splice,
    };

    use super::*;

    /// One parser with the head of a request for `path`.
    pub(in crate::parser) struct Bench {
        instance: Instance,
        head: RequestHead,
    }

    pub(in crate::parser) fn bench(def: &PluginDef, path: &str) -> Bench {
        let instance = Workbench::new().unwrap().plugin(def, def.plugin_type, "").unwrap();
        let head = RequestHead {
            method: Method::POST,
            path_and_query: path.into(),
            headers: HeaderMap::new(),
            subset: SubsetHint::All,
            end_of_stream: false,
            received: Stamp::ORIGIN,
        };
        Bench { instance, head }
    }

    impl Bench {
        fn parser(&self) -> &dyn Parser {
            self.instance.parser.as_deref().unwrap()
        }

        fn try_parse(&self, body: &str, piece: usize) -> Result<ParsedRequest, Rejection> {
            let mut parser = self.parser().begin(&self.head)?;
            for chunk in body.as_bytes().chunks(piece) {
                parser.push(&Bytes::copy_from_slice(chunk))?;
            }
            parser.finish()
        }

        pub(in crate::parser) fn parse(&self, body: &str) -> ParsedRequest {
            let whole = self.try_parse(body, usize::MAX).unwrap();
            let cut = self.try_parse(body, 1).unwrap();
            assert_eq!(show(&whole), show(&cut), "cut into single bytes");
            whole
        }

        /// The message of a 400.
        pub(in crate::parser) fn refusal(&self, body: &str) -> String {
            let whole = self.try_parse(body, usize::MAX).unwrap_err();
            let cut = self.try_parse(body, 1).unwrap_err();
            assert_eq!(whole, cut, "cut into single bytes");
            assert_eq!(whole.code, ErrorCode::BadRequest);
            whole.message.into_owned()
        }

        /// The body with another model.
        pub(in crate::parser) fn rewritten(&self, body: &'static str, model: &str) -> String {
            let (span, value) = self.parse(body).model_editor.unwrap().edit(model);
            let parts = splice(&[Bytes::from_static(body.as_bytes())], span, value);
            String::from_utf8(parts.concat()).unwrap()
        }

        /// Usage and events of a response, the same however it is cut.
        pub(in crate::parser) fn usage(
            &self,
            kind: ResponseKind,
            body: &str,
        ) -> (Option<Usage>, u64) {
            let watch = |pieces: &[&[u8]]| {
                let mut response = self.parser().response(&self.head, kind).unwrap();
                pieces.iter().for_each(|piece| response.push(piece));
                response.end();
                (response.usage(), response.n_events())
            };
            let body = body.as_bytes();
            let whole = watch(&[body]);
            for cut in 0..=body.len() {
                let (a, b) = body.split_at(cut);
                assert_eq!(watch(&[a, b]), whole, "cut at {cut}");
            }
            whole
        }

        pub(in crate::parser) fn ignores_responses(&self) -> bool {
            [ResponseKind::Json, ResponseKind::Events]
                .iter()
                .all(|kind| self.parser().response(&self.head, *kind).is_none())
        }
    }

    /// The texts of the prompts, one string each; token ids in their debug form.
    pub(in crate::parser) fn texts(parsed: &ParsedRequest) -> Vec<String> {
        let PromptInput::Prompts(prompts) = &parsed.prompts else { return Vec::new() };
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.to_text(),
            Piece::Media(media) => format!("<{}>", media.kind.name()),
        };
        let one = |prompt: &Prompt| match prompt {
            Prompt::Text(pieces) => pieces.iter().map(piece).collect(),
            Prompt::Tokens(ids) => format!("{ids:?}"),
        };
        prompts.iter().map(one).collect()
    }

    fn show(parsed: &ParsedRequest) -> String {
        let ParsedRequest { model, stream, max_output_tokens, cache_salt, features, .. } = parsed;
        format!(
            "{model:?} {stream} {max_output_tokens:?} {cache_salt:?} {features:?} {:?}",
            texts(parsed)
        )
    }

    #[test]
    fn a17_suffixes_begin_at_a_segment() {
        let check =
            |path, expected| assert_eq!(has_suffix(path, "completions"), expected, "{path}");
        check("/v1/completions", true);
        check("/v1/completions/", true);
        check("completions", true);
        check("/x/mycompletions", false);
        check("/v1/completions/x", false);
    }
}
