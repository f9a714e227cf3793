//! Takes every request that no other parser claims, without looking into it.
//!
//! The body is passed on as it is: no model is read from it or written into it, the prompt counts as empty, and no token usage is read from the response.
//! Requests are spread by everything that does not need the prompt.
//!
//! It ends the list of parsers: those after it are never asked.
//! Leave it out to refuse requests for unknown paths with 404.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: openai-parser
//! - type: passthrough-parser
//! requestHandler:
//!   parsers:
//!   - pluginRef: openai-parser
//!   - pluginRef: passthrough-parser
//! ```

use std::sync::Arc;

use router_core::Rejection;
use router_framework::{
    BodyParser, BuildCx, BuildError, Instance, NoParams, Parser, PluginDef, RequestHead,
    ResponseKind, ResponseParser, Role,
};

use super::bodies::OpaqueBody;

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("passthrough-parser", &[Role::Parser], file!(), build);

struct Passthrough;

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().parser(Arc::new(Passthrough)))
}

impl Parser for Passthrough {
    fn suffixes(&self) -> &'static [&'static str] {
        &[]
    }

    fn protocols(&self) -> &'static [&'static str] {
        &[]
    }

    fn begin(&self, _: &RequestHead) -> Result<Box<dyn BodyParser>, Rejection> {
        Ok(Box::new(OpaqueBody { skip_response: false }))
    }

    fn response(&self, _: &RequestHead, _: ResponseKind) -> Option<Box<dyn ResponseParser>> {
        None
    }
}

#[cfg(test)]
mod tests {
    use router_framework::PromptInput;

    use super::*;
    use crate::parser::bodies::tests::bench;

    #[test]
    fn a06_whatever_the_response_is_nobody_reads_it() {
        assert!(bench(&PLUGIN, "/v1/models").ignores_responses());
    }

    #[test]
    fn a20_a_body_that_cannot_be_rewritten_says_so() {
        let parsed = bench(&PLUGIN, "/anything").parse("\u{0}{\"model\":\"m\"");
        assert!(parsed.model_editor.is_none() && parsed.model.is_none());
        assert!(!parsed.model_required);
        assert!(matches!(parsed.prompts, PromptInput::Empty));
    }
}
