use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::fuzz::{fuzz_response, fuzz_restore};

#[derive(Debug, PartialEq)]
struct Seen {
    usage: Usage,
    has_usage: bool,
    n_events: u64,
}

fn scan(dialect: Dialect, streaming: bool, max_carry: usize, pieces: &[&[u8]]) -> Seen {
    let mut scan = ResponseScan::with_max_carry(dialect, streaming, max_carry);
    for piece in pieces {
        scan.push(piece);
    }
    assert_eq!(scan.n_bytes(), pieces.iter().map(|piece| piece.len()).sum::<usize>());
    scan.end();
    Seen { usage: scan.usage(), has_usage: scan.has_usage(), n_events: scan.n_events() }
}

fn usage(prompt: u64, completion: u64, cached: Option<u64>, total: u64) -> Usage {
    Usage {
        prompt_tokens: prompt,
        completion_tokens: completion,
        cached_tokens: cached,
        total_tokens: total,
    }
}

/// Checks a body whole, in single bytes, cut in two at every byte, and with nearly no room for split events.
fn check(dialect: Dialect, streaming: bool, body: &str, expected: Option<Usage>, n_events: u64) {
    let expected =
        Seen { usage: expected.unwrap_or_default(), has_usage: expected.is_some(), n_events };
    let body = body.as_bytes();
    let shown = String::from_utf8_lossy(body);
    let carry = DEFAULT_MAX_CARRY_BYTES;
    assert_eq!(scan(dialect, streaming, carry, &[body]), expected, "{shown}");
    for cut in 0..=body.len() {
        let (a, b) = body.split_at(cut);
        assert_eq!(scan(dialect, streaming, carry, &[a, b]), expected, "{shown} cut at {cut}");
        assert_eq!(scan(dialect, streaming, 8, &[a, b]), expected, "{shown} cut at {cut}, 8 bytes");
    }
    let single: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(scan(dialect, streaming, carry, &single), expected, "{shown} in single bytes");
    assert_eq!(scan(dialect, streaming, 8, &single), expected, "{shown} in single bytes, 8 bytes");
}

#[test]
fn usage_is_found_in_documents() {
    let openai = |body: &str, expected| check(Dialect::OpenAi, false, body, expected, 0);
    openai(
        r#"{"choices":[{"usage":{"prompt_tokens":9}}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
        Some(usage(1, 2, None, 3)),
    );
    openai(r#"{"usage":{"prompt_tokens":5,"total_tokens":5}}"#, Some(usage(5, 0, None, 5)));
    openai(
        r#"{"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":4,"x":[1]},"output_tokens":6,"total_tokens":15}}"#,
        Some(usage(9, 6, Some(4), 15)),
    );
    openai(
        r#"{"usage":{"prompt_tokens":"7","completion_tokens":"3","prompt_tokens_details":{"cached_tokens":"0"}}}"#,
        Some(usage(7, 3, Some(0), 10)),
    );
    openai(
        r#"{"usage":{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":null}}"#,
        Some(usage(1, 2, None, 3)),
    );
    // A total that the server says counts only beside both others.
    openai(
        r#"{"usage":{"prompt_tokens":1,"completion_tokens":0,"total_tokens":9}}"#,
        Some(usage(1, 0, None, 1)),
    );
    openai(r#"{"usage":null}"#, None);
    openai(r#"{"usage":{}}"#, None);
    openai(r#"{"usage":[1]}"#, None);
    openai(r#"{"usage":{"prompt_tokens":-1}}"#, None);
    openai(r#"{"a":"\"usage\":{\"prompt_tokens\":1}"}"#, None);
    openai("<html>usage</html>", None);
    openai("", None);
    // Cut off, but the usage was whole.
    openai(r#"{"usage":{"prompt_tokens":1,"completion_tokens":2},"x"#, Some(usage(1, 2, None, 3)));
    check(
        Dialect::Anthropic,
        false,
        r#"{"usage":{"input_tokens":9,"output_tokens":6,"cache_creation_input_tokens":2,"cache_read_input_tokens":5}}"#,
        Some(usage(9, 6, Some(5), 15)),
        0,
    );
}

#[test]
fn usage_is_found_in_events() {
    let openai = |body: &str, expected, n| check(Dialect::OpenAi, true, body, expected, n);
    openai(
        "data: {\"usage\":null}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}}\n\ndata: [DONE]\n\n",
        Some(usage(3, 4, None, 7)),
        2,
    );
    // Reports that go on: the last one counts.
    openai(
        "data:{\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}\r\n\r\ndata:{\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\r\n\r\ndata: [DONE] \r\n",
        Some(usage(3, 2, None, 5)),
        2,
    );
    for kind in ["completed", "incomplete", "failed"] {
        openai(
            &format!(
                "event: response.{kind}\ndata: {{\"type\":\"response.{kind}\",\"response\":{{\"usage\":{{\"input_tokens\":3,\"output_tokens\":2,\"input_tokens_details\":{{\"cached_tokens\":1}}}}}}}}\n\n"
            ),
            Some(usage(3, 2, Some(1), 5)),
            1,
        );
    }
    // The last line has no end.
    openai(
        "data: {\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":1}}",
        Some(usage(3, 1, None, 4)),
        1,
    );
    openai(
        ": \"usage\"\ndata: {\"text\":\"\\\"usage\\\":{\\\"prompt_tokens\\\":1}\"}\n\n",
        None,
        1,
    );
    openai("data: {\"usage\":{\"prompt_tokens\":1\n\ndata: no\n\ndata:\n\n", None, 3);
    openai("{\"usage\":{\"prompt_tokens\":1}}\n", None, 0);
    check(
        Dialect::Anthropic,
        true,
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"cache_read_input_tokens\":4,\"output_tokens\":1}}}\n\nevent: message_delta\ndata: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":12}}\n\n",
        Some(usage(9, 12, Some(4), 21)),
        2,
    );
}

#[test]
fn a_long_event_is_read_with_little_memory() {
    let text = "x".repeat(1_000_000);
    let event = format!(
        "data: {{\"type\":\"response.completed\",\"response\":{{\"text\":\"{text}\",\"usage\":{{\"input_tokens\":3,\"output_tokens\":2}}}}}}\n\ndata: {{}}\n\n"
    );
    let mut scan = ResponseScan::new(Dialect::OpenAi, true);
    for piece in event.as_bytes().chunks(16 * 1024) {
        scan.push(piece);
        let Body::Events(body) = &scan.body else { panic!("not events") };
        assert!(body.carry.len() <= DEFAULT_MAX_CARRY_BYTES);
    }
    assert_eq!(scan.usage(), usage(3, 2, None, 5));
    assert_eq!(scan.n_events(), 2);
}

/// The answers that a real vLLM gave: the dialect, whether it is a stream, the body, and usage where it was given.
fn recorded() -> Vec<(Dialect, bool, String, Value)> {
    let file = include_str!("../../../../testdata/wire/http.json");
    let steps: Vec<Value> = serde_json::from_str(file).unwrap();
    let mut answers = vec![];
    for step in steps {
        let path = step["path"].as_str().unwrap_or_default();
        let dialect = if path == "/v1/messages" { Dialect::Anthropic } else { Dialect::OpenAi };
        let content_type = step["headers"]["content-type"].as_str().unwrap_or_default();
        let streaming = content_type.starts_with("text/event-stream");
        let body = match step["raw_body"].as_str() {
            Some(raw) => raw.to_owned(),
            None => step["response"].to_string(),
        };
        let usage = if streaming {
            let events = body.lines().filter_map(|line| line.strip_prefix("data: "));
            let reports = events.filter_map(|data| serde_json::from_str::<Value>(data).ok());
            reports.map(|event| event["usage"].clone()).rfind(Value::is_object)
        } else {
            step["response"]["usage"].is_object().then(|| step["response"]["usage"].clone())
        };
        answers.push((dialect, streaming, body, usage.unwrap_or_default()));
    }
    assert_eq!(answers.iter().filter(|(_, streaming, ..)| *streaming).count(), 2);
    answers
}

#[test]
fn recorded_answers_are_read_the_same_wherever_they_are_cut() {
    for (dialect, streaming, body, reported) in recorded() {
        let n = |names: [&str; 2]| names.iter().find_map(|name| reported[name].as_u64());
        let expected = reported.is_object().then(|| {
            let prompt = n(["prompt_tokens", "input_tokens"]).unwrap_or_default();
            let completion = n(["completion_tokens", "output_tokens"]).unwrap_or_default();
            let cached = reported["prompt_tokens_details"]["cached_tokens"]
                .as_u64()
                .or(reported["input_tokens_details"]["cached_tokens"].as_u64())
                .or(reported["cache_read_input_tokens"].as_u64());
            usage(prompt, completion, cached, prompt + completion)
        });
        let data =
            body.lines().filter(|line| line.starts_with("data: ") && *line != "data: [DONE]");
        let n_events = if streaming { data.count() as u64 } else { 0 };
        check(dialect, streaming, &body, expected, n_events);
    }
}

fn restore(target: &str, incoming: &str, pieces: &[&[u8]]) -> String {
    let mut restore = ModelRestore::new(target, incoming);
    let mut out = vec![];
    for piece in pieces {
        restore.push(Bytes::copy_from_slice(piece)).iter().for_each(|p| out.extend_from_slice(p));
    }
    out.extend(restore.end().unwrap_or_default());
    String::from_utf8_lossy(&out).into_owned()
}

fn check_restore(body: &str, expected: &str) {
    let bytes = body.as_bytes();
    assert_eq!(restore("srv", "ask\"ed", &[bytes]), expected, "{body}");
    for cut in 0..=bytes.len() {
        let (a, b) = bytes.split_at(cut);
        assert_eq!(restore("srv", "ask\"ed", &[a, b]), expected, "{body} cut at {cut}");
    }
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(restore("srv", "ask\"ed", &single), expected, "{body} in single bytes");
}

#[test]
fn the_model_is_restored_where_it_is_a_member_and_nowhere_else() {
    let check = check_restore;
    check(r#"{"id":1,"model":"srv","x":2}"#, r#"{"id":1,"model":"ask\"ed","x":2}"#);
    check("{ \"model\"\n :\t \"srv\" }", "{ \"model\"\n :\t \"ask\\\"ed\" }");
    check(r#"{"m\u006fdel":"s\u0072v"}"#, r#"{"m\u006fdel":"ask\"ed"}"#);
    check(r#"{"model":"srv","model":"srv"}"#, r#"{"model":"ask\"ed","model":"ask\"ed"}"#);
    check(r#"{"response":{"model":"srv"},"y":1}"#, r#"{"response":{"model":"ask\"ed"},"y":1}"#);
    check(
        r#"{"message":{"a":[{"model":"srv"}],"model":"srv"}}"#,
        r#"{"message":{"a":[{"model":"srv"}],"model":"ask\"ed"}}"#,
    );
    for same in [
        r#"{"model":"srv2","x":"\"model\":\"srv\""}"#,
        r#"{"x":{"model":"srv"},"model":null}"#,
        r#"{"x":["model","srv"],"model":["srv"],"Model":"srv"}"#,
        r#"{"choices":[{"message":{"model":"srv"}}]}"#,
        r#"[{"model":"srv"}]"#,
        r#"{"model":{"model":"srv"}}"#,
        r#"{"model":"sr"#,
        r#"{"model" "srv"}"#,
        r#"{"x":tru,"model":"srv"}"#,
        "\"model\":\"srv\"",
        "model: srv",
        "",
        "  \n ",
    ] {
        check(same, same);
    }
}

#[test]
fn the_model_is_restored_in_events() {
    let check = check_restore;
    check(
        "data: {\"model\":\"srv\",\"d\":\"x\"}\n\ndata: {\"model\": \"srv\"}\n\ndata: [DONE]\n\n",
        "data: {\"model\":\"ask\\\"ed\",\"d\":\"x\"}\n\ndata: {\"model\": \"ask\\\"ed\"}\n\ndata: [DONE]\n\n",
    );
    check(
        ": hi\r\nevent: x\r\ndata:{\"response\":{\"model\":\"srv\"}}\r\n\r\ndata: {\"model\":\"srv\"}",
        ": hi\r\nevent: x\r\ndata:{\"response\":{\"model\":\"ask\\\"ed\"}}\r\n\r\ndata: {\"model\":\"ask\\\"ed\"}",
    );
    // A document over several lines of data.
    check(
        "\n\ndata: {\"a\":1,\ndata: \"model\":\ndata: \"srv\"}\n\ndata: {\"model\":\"srv\"}\n\n",
        "\n\ndata: {\"a\":1,\ndata: \"model\":\ndata: \"ask\\\"ed\"}\n\ndata: {\"model\":\"ask\\\"ed\"}\n\n",
    );
    // What is broken passes, and the next event is read again.
    check(
        "data: {\"model\":\"sr\n\ndata: {\"model\":\"srv\"}\n\n",
        "data: {\"model\":\"sr\n\ndata: {\"model\":\"ask\\\"ed\"}\n\n",
    );
    check("  data: {\"model\":\"srv\"}\n\n", "  data: {\"model\":\"srv\"}\n\n");
}

#[test]
fn names_that_are_equal_or_empty_change_nothing() {
    let body = br#"{"model":"srv","x":""}"#;
    for (target, incoming) in [("srv", "srv"), ("", "x"), ("srv", "")] {
        assert_eq!(restore(target, incoming, &[body]).as_bytes(), body);
    }
}

#[test]
fn bytes_go_out_as_soon_as_they_can_and_are_shared() {
    let mut restore = ModelRestore::new("srv", "a");
    let piece = Bytes::from_static(br#"{"x":"long text","model":"#);
    let out = restore.push(piece.clone());
    assert_eq!(out.as_slice(), std::slice::from_ref(&piece));
    assert_eq!(out[0].as_ptr(), piece.as_ptr());
    assert!(restore.push(Bytes::from_static(b"\"s")).is_empty());
    assert!(restore.push(Bytes::from_static(b"rv")).is_empty());
    let out = restore.push(Bytes::from_static(b"\",\"y\":1}"));
    assert_eq!(out.as_slice(), [&b"\"a\""[..], b",\"y\":1}"]);
    assert_eq!(restore.end(), None);
}

#[test]
fn a_value_that_is_too_long_is_let_go() {
    let body = format!(r#"{{"model":"{}","z":1}}"#, "x".repeat(10_000));
    let mut restore = ModelRestore::new("srv", "a");
    let (mut out, mut n_in) = (vec![], 0);
    for piece in body.as_bytes().chunks(100) {
        n_in += piece.len();
        restore.push(Bytes::copy_from_slice(piece)).iter().for_each(|p| out.extend_from_slice(p));
        assert!(n_in - out.len() <= 4096 + 100, "{} bytes held", n_in - out.len());
    }
    assert_eq!(out, body.as_bytes());
    assert_eq!(super::tests::restore("srv", "a", &[body.as_bytes()]), body);
}

#[test]
fn a_value_is_too_long_wherever_it_is_cut() {
    // With its quotes: just held back, and one byte too long.
    for (n_bytes, is_restored) in [(4094, true), (4095, false)] {
        let name = "x".repeat(n_bytes);
        let body = format!(r#"{{"model":"{name}"}}"#);
        let expected = if is_restored { r#"{"model":"a"}"# } else { &*body };
        for cut in [0, 9, 10, 2000, body.len() - 3, body.len() - 2, body.len() - 1] {
            let (one, other) = body.as_bytes().split_at(cut);
            assert_eq!(restore(&name, "a", &[one, other]), expected, "{n_bytes} cut at {cut}");
        }
    }
}

#[test]
fn recorded_answers_get_the_name_asked_for() {
    for (_, _, body, _) in recorded() {
        let expected = body.replace(r#""model":"tiny""#, r#""model":"asked""#);
        assert_eq!(restore("tiny", "asked", &[body.as_bytes()]), expected);
        for cut in 0..=body.len() {
            let (a, b) = body.as_bytes().split_at(cut);
            assert_eq!(restore("tiny", "asked", &[a, b]), expected, "cut at {cut}");
        }
    }
}

/// Documents out of members that may or may not be a model, with what must come out.
fn documents() -> impl Strategy<Value = (String, String)> {
    let member = prop_oneof![
        Just((r#""model":"srv""#, r#""model":"ask\"ed""#)),
        Just((r#""model" : "srv""#, r#""model" : "ask\"ed""#)),
        Just((r#""response":{"a":1,"model":"srv"}"#, r#""response":{"a":1,"model":"ask\"ed"}"#)),
        Just((r#""model":"other""#, r#""model":"other""#)),
        Just((r#""x":{"model":"srv"}"#, r#""x":{"model":"srv"}"#)),
        Just((r#""y":["model","srv",{"model":"srv"}]"#, r#""y":["model","srv",{"model":"srv"}]"#)),
        Just((r#""z":"\"model\":\"srv\"""#, r#""z":"\"model\":\"srv\"""#)),
        Just((r#""n":-1.5e3"#, r#""n":-1.5e3"#)),
    ];
    prop::collection::vec(member, 0..6).prop_map(|members| {
        let join = |list: Vec<&str>| format!("{{{}}}", list.join(","));
        let (before, after) = members.into_iter().unzip();
        (join(before), join(after))
    })
}

fn noise() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&str] = &[
        "data: ",
        "data:",
        "\n",
        "\n\n",
        "\r\n",
        "\r",
        "{",
        "}",
        "\"model\":\"m\"",
        "\"model\"",
        ":",
        "\"m\"",
        "\"target-model\"",
        ",",
        "\"usage\":{\"prompt_tokens\":3}",
        "\"usage\":null",
        "[DONE]",
        " ",
        "[",
        "]",
        "\"response\":{",
        "\"message\":{",
        "\"a\\\"b\"",
        "\"target-",
        "é",
        "\\u006d",
        "data",
        ": x",
        "{\"model\":\"target-model\",\"usage\":{\"completion_tokens\":\"4\"}}",
    ];
    prop::collection::vec(prop::sample::select(WORDS), 0..16)
        .prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn streams_are_restored_however_they_are_cut(
        events in prop::collection::vec(documents(), 1..5),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        crlf: bool,
    ) {
        let end = if crlf { "\r\n\r\n" } else { "\n\n" };
        let join = |list: Vec<&String>| -> String {
            list.into_iter().flat_map(|data| ["data: ", data, end]).collect()
        };
        let (before, after): (Vec<_>, Vec<_>) = events.iter().map(|(a, b)| (a, b)).unzip();
        let (body, expected) = (join(before), join(after));
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut pieces, mut at) = (vec![], 0);
        for cut in cuts.into_iter().chain([body.len()]) {
            pieces.push(&body.as_bytes()[at..cut]);
            at = cut;
        }
        prop_assert_eq!(restore("srv", "ask\"ed", &pieces), expected);
    }

    #[test]
    fn documents_are_restored_however_they_are_cut(document in documents(), size in 1usize..30) {
        let pieces: Vec<&[u8]> = document.0.as_bytes().chunks(size).collect();
        prop_assert_eq!(restore("srv", "ask\"ed", &pieces), document.1);
    }

    #[test]
    fn any_response_is_read_the_same_however_it_is_cut(
        setting: u8, size in 0u8..30, body in noise(),
    ) {
        fuzz_response(&[&[setting, size][..], &body].concat());
        fuzz_restore(&[&[setting, size][..], &body].concat());
    }
}
