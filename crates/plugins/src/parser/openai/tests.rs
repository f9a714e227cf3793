use router_framework::PromptInput;
use router_wire::response::Usage;

use super::*;
use crate::parser::bodies::tests::{bench, texts};

const CHAT: &str = "/v1/chat/completions";

fn check_texts(path: &str, body: &str, expected: &[&str]) {
    assert_eq!(texts(&bench(&PLUGIN, path).parse(body)), expected, "{path}");
}

fn check_refusal(path: &str, body: &str, message: &str) {
    assert_eq!(bench(&PLUGIN, path).refusal(body), message, "{path}: {body}");
}

fn usage(prompt: u64, completion: u64, cached: Option<u64>, total: u64) -> Usage {
    Usage {
        prompt_tokens: prompt,
        completion_tokens: completion,
        cached_tokens: cached,
        total_tokens: total,
    }
}

#[test]
fn the_path_says_which_api_it_is() {
    let chat = r#"{"model":"m","messages":[{"role":"user","content":"hi"}]}"#;
    check_texts(CHAT, chat, &["userhi"]);
    check_texts("/openai/v1/chat/completions/?x=/v1/embeddings", chat, &["userhi"]);
    check_texts("/v1/chat/completions/render", chat, &["userhi"]);
    let prompt = r#"{"model":"m","prompt":"hello"}"#;
    check_texts("/v1/completions", prompt, &["hello"]);
    check_texts("/v1/completions/render", prompt, &["hello"]);
    check_texts("/anything/else", prompt, &["hello"]);
    check_texts("/v1/embeddings", r#"{"model":"m","input":["a","b"]}"#, &["a", "b"]);
    check_texts(
        "/v1/responses",
        r#"{"model":"m","instructions":"be kind","input":[{"role":"user","content":"hi"}]}"#,
        &[r#"be kind[{"role":"user","content":"hi"}]"#],
    );
    check_texts(
        "/v1/conversations",
        r#"{"model":"m","items":[{"type":"message"}]}"#,
        &[r#"[{"type":"message"}]"#],
    );
}

#[test]
fn every_path_is_claimed() {
    let parser = OpenAi;
    assert_eq!(parser.suffixes().len(), 8);
    for path in ["chat/completions", "images/generations", "completions/render"] {
        assert!(parser.suffixes().contains(&path), "{path}");
    }
    assert_eq!(parser.protocols(), ["h2c", "http"]);
}

#[test]
fn what_routing_needs_is_found() {
    let body = r#"{"stream":true,"max_tokens":7,"max_completion_tokens":5,"cache_salt":"s",
        "messages":[{"role":"user","content":"x"}],"model":"org/m"}"#;
    let parsed = bench(&PLUGIN, CHAT).parse(body);
    assert_eq!(parsed.model.as_deref(), Some("org/m"));
    assert_eq!(parsed.cache_salt.as_deref(), Some("s"));
    assert_eq!((parsed.stream, parsed.max_output_tokens), (true, Some(5)));
    assert!(parsed.model_required && !parsed.skip_response);
    assert_eq!(parsed.n_body_bytes, body.len());
}

#[test]
fn images_have_no_prompt_but_need_one() {
    let images = bench(&PLUGIN, "/v1/images/generations");
    let parsed = images.parse(r#"{"model":"m","prompt":"a cat","n":1}"#);
    assert!(matches!(parsed.prompts, PromptInput::Empty));
    assert_eq!(
        images.refusal(r#"{"model":"m"}"#),
        "invalid images generations request: must have prompt field"
    );
}

#[test]
fn what_is_missing_is_named() {
    let check = check_refusal;
    let missing = "{\"model\":\"m\"}";
    check(CHAT, missing, "invalid chat completions request: must have valid messages field");
    check("/v1/completions", missing, "invalid completions request: must have prompt field");
    check("/v1/embeddings", missing, "invalid embeddings request: must have input field");
    check("/v1/responses", missing, "invalid responses request: must have input field");
    check("/v1/conversations", missing, "invalid conversations request: must have items field");
}

#[test]
fn what_is_no_json_is_refused() {
    for body in ["", "{", "[]", "null", "{\"model\":}", "{\"a\":1}}", "{\"a\":\"\u{1}\"}"] {
        let message = bench(&PLUGIN, CHAT).refusal(body);
        assert!(message.starts_with("error unmarshaling request bodyMap: "), "{body}: {message}");
    }
}

#[test]
fn a15_every_byte_but_the_model_stays() {
    let body = r#"{ "seed":9007199254740993, "z":1.0e2, "model" : "a", "messages":[{"role":"user","content":"<&>\u003c"}],"a":[ ] }"#;
    assert_eq!(
        bench(&PLUGIN, CHAT).rewritten(body, "b\"c"),
        body.replace("\"model\" : \"a\"", "\"model\" : \"b\\\"c\"")
    );
    let without = r#"{"messages":[{"role":"user","content":"x"}]}"#;
    assert_eq!(
        bench(&PLUGIN, CHAT).rewritten(without, "b"),
        r#"{"model":"b","messages":[{"role":"user","content":"x"}]}"#
    );
}

#[test]
fn a16_optional_members_of_a_wrong_type_are_the_model_servers_to_judge() {
    let body = r#"{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":"many",
        "stream":"yes","tools":7,"temperature":{},"cache_salt":[1]}"#;
    let parsed = bench(&PLUGIN, CHAT).parse(body);
    assert_eq!((parsed.stream, parsed.max_output_tokens, parsed.cache_salt), (false, None, None));
}

#[test]
fn a16_batches_of_token_prompts_are_prompts() {
    check_texts("/v1/completions", r#"{"model":"m","prompt":[[1,2],[3]]}"#, &["[1, 2]", "[3]"]);
    check_texts(
        "/v1/completions",
        r#"{"model":"m","prompt":[1,2,4294967295]}"#,
        &["[1, 2, 4294967295]"],
    );
    check_texts("/v1/embeddings", r#"{"model":"m","input":[[5],[6]]}"#, &["[5]", "[6]"]);
}

#[test]
fn a18_the_message_of_a_400_is_ours_and_shows_nothing_of_the_body() {
    let message = bench(&PLUGIN, CHAT).refusal(r#"{"messages":"a secret","model":"m"}"#);
    assert_eq!(message, "invalid chat completions request: messages must be an array of objects");
    let message = bench(&PLUGIN, CHAT).refusal(r#"{"secret": secret}"#);
    assert!(!message.contains("secret"), "{message}");
}

#[test]
fn usage_of_a_json_response() {
    let chat = bench(&PLUGIN, CHAT);
    let body = r#"{"id":"1","usage":{"prompt_tokens":10,"completion_tokens":4,"total_tokens":14,
        "prompt_tokens_details":{"cached_tokens":6}}}"#;
    assert_eq!(chat.usage(ResponseKind::Json, body), (Some(usage(10, 4, Some(6), 14)), 0));
    assert_eq!(chat.usage(ResponseKind::Json, "<html>busy</html>"), (None, 0));
    assert_eq!(chat.usage(ResponseKind::Json, ""), (None, 0));
}

#[test]
fn a08_usage_of_a_stream_is_found_wherever_it_is_cut() {
    let body = "data: {\"choices\":[{\"delta\":{\"content\":\"usage\"}}],\"usage\":null}\r\n\r\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2,\"total_tokens\":5}}\n\n\
        data: [DONE]\n\n";
    let chat = bench(&PLUGIN, CHAT);
    assert_eq!(chat.usage(ResponseKind::Events, body), (Some(usage(3, 2, None, 5)), 2));
}

#[test]
fn a_last_line_without_an_end_counts() {
    let body = "data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}";
    let chat = bench(&PLUGIN, CHAT);
    assert_eq!(chat.usage(ResponseKind::Events, body), (Some(usage(3, 2, None, 5)), 1));
}

#[test]
fn a19_incomplete_and_failed_responses_carry_usage_too() {
    for event in ["response.completed", "response.incomplete", "response.failed"] {
        let body = format!(
            "event: {event}\ndata: {{\"type\":\"{event}\",\"response\":{{\"usage\":{{\"input_tokens\":8,\
             \"output_tokens\":1,\"input_tokens_details\":{{\"cached_tokens\":4}}}}}}}}\n\n"
        );
        let responses = bench(&PLUGIN, "/v1/responses");
        assert_eq!(
            responses.usage(ResponseKind::Events, &body),
            (Some(usage(8, 1, Some(4), 9)), 1),
            "{event}"
        );
    }
}

#[test]
fn a19_what_one_event_lacks_is_not_taken_from_another_ones_details() {
    let body = "data: {\"response\":{\"usage\":{\"input_tokens\":8,\"output_tokens\":1,\
        \"input_tokens_details\":{\"cached_tokens\":4}}}}\n\n\
        data: {\"response\":{\"other\":{\"usage\":{\"input_tokens\":99}}}}\n\n";
    let responses = bench(&PLUGIN, "/v1/responses");
    assert_eq!(responses.usage(ResponseKind::Events, body).0, Some(usage(8, 1, Some(4), 9)));
}
