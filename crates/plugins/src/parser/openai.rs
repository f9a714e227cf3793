//! Reads requests and responses of the OpenAI API, as vLLM, SGLang and others serve it.
//!
//! | path ends with | prompt |
//! | --- | --- |
//! | `chat/completions`, `chat/completions/render` | tools, then role and content of each message |
//! | `completions`, `completions/render` | `prompt`: a text, a list of texts, token ids, or a list of lists of token ids |
//! | `embeddings` | `input` in the same forms, or messages |
//! | `responses` | instructions, tools and input as they are written |
//! | `conversations` | the items as they are written |
//! | `images/generations` | none: `prompt` must be there, but makes no use of a prefix cache |
//!
//! A body must be a JSON object with the member that its API requires, else the answer is 400.
//! Optional members of a wrong type are passed over: whether they are right is the model server's to say.
//! A model is required.
//! Another model name is written into the original bytes; every other byte stays as it came.
//!
//! Token usage is read from `usage` in a JSON response, and from whichever event carries it in a stream, the final events of the Responses API included.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: openai-parser
//! requestHandler:
//!   parsers:
//!   - pluginRef: openai-parser
//! ```

use std::sync::Arc;

use router_core::Rejection;
use router_framework::{
    BodyParser, BuildCx, BuildError, Instance, NoParams, Parser, PluginDef, RequestHead,
    ResponseKind, ResponseParser, Role,
};
use router_wire::{request::Api, response::Dialect};

use super::bodies::{JsonBody, UsageWatch, has_suffix};

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("openai-parser", &[Role::Parser], file!(), build);

/// Longer suffixes before those that they end with.
const APIS: [(&str, Api); 8] = [
    ("chat/completions/render", Api::ChatCompletions),
    ("completions/render", Api::Completions),
    ("chat/completions", Api::ChatCompletions),
    ("completions", Api::Completions),
    ("embeddings", Api::Embeddings),
    ("responses", Api::Responses),
    ("conversations", Api::Conversations),
    ("images/generations", Api::ImageGenerations),
];

const SUFFIXES: [&str; APIS.len()] = {
    let mut suffixes = [""; APIS.len()];
    let mut at = 0;
    while at < APIS.len() {
        suffixes[at] = APIS[at].0;
        at += 1;
    }
    suffixes
};

struct OpenAi;

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().parser(Arc::new(OpenAi)))
}

impl Parser for OpenAi {
    fn suffixes(&self) -> &'static [&'static str] {
        &SUFFIXES
    }

    fn protocols(&self) -> &'static [&'static str] {
        &["h2c", "http"]
    }

    fn begin(&self, head: &RequestHead) -> Result<Box<dyn BodyParser>, Rejection> {
        let known = APIS.iter().find(|(suffix, _)| has_suffix(head.path(), suffix));
        // Any other path is one of completions, as in the Go implementation (`spec/request-path.md` §3.2).
        Ok(JsonBody::boxed(known.map_or(Api::Completions, |(_, api)| *api)))
    }

    fn response(&self, _: &RequestHead, kind: ResponseKind) -> Option<Box<dyn ResponseParser>> {
        Some(UsageWatch::boxed(Dialect::OpenAi, kind))
    }
}

#[cfg(test)]
mod tests;
