//! Reads requests and responses of vLLM's own generate API, whose prompts are token ids.
//!
//! It claims paths that end with `inference/v1/generate`.
//! `token_ids` must be a list of at least one integer from 0 to 2³² − 1, else the answer is 400 and names the index.
//! `features.mm_hashes` and `features.mm_placeholders` say which token ids stand for media; the n-th placeholder of a modality belongs to its n-th hash.
//! The cap on the answer is `sampling_params.max_tokens`.
//!
//! A model is required.
//! Another model name is written into the original bytes.
//! Token usage is read as from OpenAI's responses.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: vllmhttp-parser
//! requestHandler:
//!   parsers:
//!   - pluginRef: vllmhttp-parser
//! ```

use std::sync::Arc;

use router_core::Rejection;
use router_framework::{
    BodyParser, BuildCx, BuildError, Instance, NoParams, Parser, PluginDef, RequestHead,
    ResponseKind, ResponseParser, Role,
};
use router_wire::{request::Api, response::Dialect};

use super::bodies::{JsonBody, UsageWatch};

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("vllmhttp-parser", &[Role::Parser], file!(), build);

struct VllmHttp;

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().parser(Arc::new(VllmHttp)))
}

impl Parser for VllmHttp {
    fn suffixes(&self) -> &'static [&'static str] {
        &["inference/v1/generate"]
    }

    fn protocols(&self) -> &'static [&'static str] {
        &["h2c", "http"]
    }

    fn begin(&self, _: &RequestHead) -> Result<Box<dyn BodyParser>, Rejection> {
        Ok(JsonBody::boxed(Api::VllmGenerate))
    }

    fn response(&self, _: &RequestHead, kind: ResponseKind) -> Option<Box<dyn ResponseParser>> {
        Some(UsageWatch::boxed(Dialect::OpenAi, kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::bodies::tests::{bench, texts};

    const PATH: &str = "/inference/v1/generate";

    #[test]
    fn token_ids_are_the_prompt() {
        let body = r#"{"model":"m","token_ids":[1,2,3],"cache_salt":"s","stream":true,
            "sampling_params":{"max_tokens":0},
            "features":{"mm_hashes":{"image":["h1"]},"mm_placeholders":{"image":[{"offset":1,"length":2}]}}}"#;
        let parsed = bench(&PLUGIN, PATH).parse(body);
        assert_eq!(texts(&parsed), ["[1, 2, 3]"]);
        assert_eq!((parsed.stream, parsed.max_output_tokens), (true, Some(0)));
        let [feature] = parsed.features.as_slice() else { panic!("{:?}", parsed.features) };
        assert_eq!((feature.offset, feature.length), (1, 2));
        assert_eq!(feature.hash.to_text(), "h1");
    }

    #[test]
    fn bad_token_ids_are_named_by_their_index() {
        let check = |ids: &str, message: &str| {
            let body = format!(r#"{{"model":"m","token_ids":{ids}}}"#);
            assert_eq!(bench(&PLUGIN, PATH).refusal(&body), message);
        };
        let at_2 = "invalid generate request: invalid token id at index 2 of token_ids";
        check("[1,2,-1]", at_2);
        check("[1,2,1.5]", at_2);
        check("[1,2,4294967296]", at_2);
        check("[1,2,\"3\"]", at_2);
        check("[]", "invalid generate request: must have token_ids field");
    }

    #[test]
    fn a15_the_model_is_spliced() {
        let body = r#"{"token_ids":[1],"model":"a"}"#;
        assert_eq!(bench(&PLUGIN, PATH).rewritten(body, "b"), r#"{"token_ids":[1],"model":"b"}"#);
    }
}
