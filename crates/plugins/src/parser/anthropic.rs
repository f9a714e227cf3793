//! Reads requests and responses of the Anthropic API.
//!
//! | path ends with | what is read |
//! | --- | --- |
//! | `messages` | tools, system text, then role and content of each message: text, thinking, tool calls and results, images, documents |
//! | `messages/count_tokens` | nothing: the body is passed on as it is, and nothing is learnt from the response |
//!
//! Texts and JSON fragments count in the order in which the client wrote them.
//! System blocks that begin with `x-anthropic-billing-header` are left out: they differ from request to request, and the model does not see them.
//!
//! A model and at least one message are required.
//! Another model name is written into the original bytes; a request to `count_tokens` cannot be given another model.
//!
//! Token usage is read from `usage` in a JSON response, and in a stream from `message_start` and `message_delta`.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: anthropic-parser
//! requestHandler:
//!   parsers:
//!   - pluginRef: anthropic-parser
//! ```

use std::sync::Arc;

use router_core::Rejection;
use router_framework::{
    BodyParser, BuildCx, BuildError, Instance, NoParams, Parser, PluginDef, RequestHead,
    ResponseKind, ResponseParser, Role,
};
use router_wire::{request::Api, response::Dialect};

use super::bodies::{JsonBody, OpaqueBody, UsageWatch, has_suffix};

pub const PLUGIN: PluginDef =
    PluginDef::new::<NoParams>("anthropic-parser", &[Role::Parser], file!(), build);

const MESSAGES: &str = "messages";
const COUNT_TOKENS: &str = "messages/count_tokens";

struct Anthropic;

fn build(_: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    Ok(Instance::new().parser(Arc::new(Anthropic)))
}

impl Parser for Anthropic {
    fn suffixes(&self) -> &'static [&'static str] {
        &[MESSAGES, COUNT_TOKENS]
    }

    fn protocols(&self) -> &'static [&'static str] {
        &["h2c", "http"]
    }

    fn begin(&self, head: &RequestHead) -> Result<Box<dyn BodyParser>, Rejection> {
        let path = head.path();
        if has_suffix(path, COUNT_TOKENS) {
            return Ok(Box::new(OpaqueBody { skip_response: true }));
        }
        if has_suffix(path, MESSAGES) {
            return Ok(JsonBody::boxed(Api::AnthropicMessages));
        }
        Err(Rejection::bad_request(format!("unsupported API endpoint: {path}")))
    }

    fn response(&self, head: &RequestHead, kind: ResponseKind) -> Option<Box<dyn ResponseParser>> {
        let is_counting = has_suffix(head.path(), COUNT_TOKENS);
        (!is_counting).then(|| UsageWatch::boxed(Dialect::Anthropic, kind))
    }
}

#[cfg(test)]
mod tests {
    use router_framework::PromptInput;
    use router_wire::response::Usage;

    use super::*;
    use crate::parser::bodies::tests::{bench, texts};

    const PATH: &str = "/v1/messages";

    #[test]
    fn messages_are_read_as_the_model_sees_them() {
        let body = r#"{"model":"claude","max_tokens":64,"system":[
            {"type":"text","text":"x-anthropic-billing-header: cch=1;"},{"type":"text","text":"be kind"}],
            "tools":[{"name":"t","input_schema":{"z":1,"a":2}}],
            "messages":[{"role":"user","content":[{"type":"text","text":"hi"},
              {"type":"image","source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]},
              {"role":"assistant","content":[{"type":"thinking","thinking":"hm"},
              {"type":"tool_use","id":"1","name":"t","input":{"q":1}}]}]}"#;
        let parsed = bench(&PLUGIN, PATH).parse(body);
        assert_eq!(
            texts(&parsed),
            [concat!(
                r#"[{"name":"t","input_schema":{"z":1,"a":2}}]"#,
                r#"be kinduserhi<image>assistanthm1t{"q":1}"#
            )]
        );
        assert_eq!(parsed.model.as_deref(), Some("claude"));
        assert_eq!(parsed.max_output_tokens, Some(64));
        assert!(parsed.model_required);
    }

    #[test]
    fn a_message_is_required() {
        let check = |body: &str| {
            assert_eq!(
                bench(&PLUGIN, PATH).refusal(body),
                "invalid messages request: must have valid messages field"
            );
        };
        check(r#"{"model":"m"}"#);
        check(r#"{"model":"m","messages":[]}"#);
    }

    #[test]
    fn counting_tokens_is_passed_on_untouched() {
        let counting = bench(&PLUGIN, "/v1/messages/count_tokens");
        let parsed = counting.parse("not even json");
        assert!(parsed.skip_response && parsed.model_editor.is_none() && !parsed.model_required);
        assert!(matches!(parsed.prompts, PromptInput::Empty));
        assert!(counting.ignores_responses());
    }

    #[test]
    fn other_paths_are_refused() {
        let head = "/v1/complete";
        assert_eq!(bench(&PLUGIN, head).refusal("{}"), "unsupported API endpoint: /v1/complete");
    }

    #[test]
    fn a15_the_model_is_spliced() {
        let body = r#"{"max_tokens": 1, "model": "a","messages":[{"role":"user","content":"x"}]}"#;
        assert_eq!(bench(&PLUGIN, PATH).rewritten(body, "b"), body.replace("\"a\"", "\"b\""));
    }

    #[test]
    fn usage_is_put_together_from_start_and_end() {
        let body = concat!(
            "event: message_start\n",
            r#"data: {"type":"message_start","message":{"usage":{"input_tokens":9,"cache_read_input_tokens":4,"output_tokens":1}}}"#,
            "\n\n",
            r#"data: {"type":"content_block_delta","delta":{"text":"x"}}"#,
            "\n\n",
            r#"data: {"type":"message_delta","usage":{"output_tokens":12}}"#,
            "\n\n",
        );
        let found = Usage {
            prompt_tokens: 9,
            completion_tokens: 12,
            cached_tokens: Some(4),
            total_tokens: 21,
        };
        assert_eq!(bench(&PLUGIN, PATH).usage(ResponseKind::Events, body), (Some(found), 3));
    }
}
