use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{
    fuzz::fuzz_request,
    media::{MediaForm, MediaKind},
    splice::splice,
};

fn scan_pieces(api: Api, limits: Limits, pieces: &[&[u8]]) -> Result<ScannedRequest, ScanError> {
    let mut scan = RequestScan::new(api, limits);
    for piece in pieces {
        scan.push(&Bytes::copy_from_slice(piece))?;
    }
    scan.finish()
}

/// Scans a body whole and cut in two at every byte; the results must be the same.
fn scan(api: Api, body: &str) -> Result<ScannedRequest, ScanError> {
    let body = body.as_bytes();
    let whole = scan_pieces(api, Limits::default(), &[body]);
    for cut in 0..=body.len() {
        let (a, b) = body.split_at(cut);
        let split = scan_pieces(api, Limits::default(), &[a, b]);
        assert_eq!(split, whole, "{} cut at {cut}", String::from_utf8_lossy(body));
    }
    let single: Vec<&[u8]> = body.chunks(1).collect();
    assert_eq!(scan_pieces(api, Limits::default(), &single), whole, "in single bytes");
    whole
}

/// The prompts in one line each: texts in brackets, media with their kind and form.
fn show(request: &ScannedRequest) -> Vec<String> {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => format!("[{}]", text.to_text()),
        Piece::Media(Media { kind, form, content }) => {
            format!("<{kind:?} {form:?} {}>", content.to_text())
        }
    };
    let prompt = |prompt: &Prompt| match prompt {
        Prompt::Text(pieces) => pieces.iter().map(piece).collect(),
        Prompt::Tokens(tokens) => format!("{tokens:?}"),
    };
    request.prompts.iter().map(prompt).collect()
}

fn check_prompts(api: Api, body: &str, expected: &[&str]) {
    let request = scan(api, body).unwrap_or_else(|error| panic!("{body}: {error}"));
    assert_eq!(show(&request), expected, "{body}");
}

fn check_error(api: Api, body: &str, message: &str) {
    match scan(api, body) {
        Ok(request) => panic!("{body} is accepted: {request:?}"),
        Err(error) => assert_eq!(error.to_string(), message, "{body}"),
    }
}

/// The request, and the bytes that its scan held besides the body.
fn held(api: Api, body: &str) -> (ScannedRequest, usize) {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let mut scan = RequestScan::new(api, Limits::default());
    for at in (0..body.len()).step_by(16 * 1024) {
        scan.push(&body.slice(at..body.len().min(at + 16 * 1024))).unwrap();
    }
    let held = scan.held_bytes();
    (scan.finish().unwrap(), held)
}

#[test]
fn a_prompt_is_held_once_whatever_it_is_made_of() {
    let ids = "1,".repeat(200_000);
    let escaped = r"\n\u00e9".repeat(50_000);
    for (api, body) in [
        (Api::Completions, format!(r#"{{"model":"m","prompt":[{ids}1]}}"#)),
        (Api::Embeddings, format!(r#"{{"model":"m","input":[[{ids}1],[2]]}}"#)),
        (Api::VllmGenerate, format!(r#"{{"model":"m","token_ids":[{ids}1]}}"#)),
        (Api::Completions, format!(r#"{{"model":"m","prompt":"{escaped}"}}"#)),
        (
            Api::ChatCompletions,
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{escaped}"}}]}}"#),
        ),
    ] {
        let (request, held) = held(api, &body);
        assert!(held <= body.len() / 100, "{held} bytes for {} of {api:?}", body.len());
        match &request.prompts[0] {
            Prompt::Tokens(ids) => {
                assert_eq!((ids.len(), ids.iter().sum::<u32>()), (200_001, 200_001))
            }
            Prompt::Text(pieces) => assert!(!pieces.is_empty()),
        }
    }
}

#[test]
fn what_a_scan_holds_is_counted() {
    let part = r#"{"type":"text","text":"a"},"#.repeat(20_000);
    let body = format!(r#"{{"messages":[{{"role":"user","content":[{part}{{}}]}}]}}"#);
    let (request, held) = held(Api::ChatCompletions, &body);
    let Prompt::Text(pieces) = &request.prompts[0] else { panic!("{request:?}") };
    assert_eq!(pieces.len(), 20_001);
    assert!(held >= 20_001 * size_of::<found::Mark>(), "{held}");

    let mut scan = RequestScan::new(Api::Completions, Limits::default());
    for _ in 0..50_000 {
        scan.push(&Bytes::from_static(b" ")).unwrap();
    }
    assert!(scan.held_bytes() >= 50_000, "small chunks are copied: {}", scan.held_bytes());
}

#[test]
fn chats_are_read_in_the_order_in_which_the_model_sees_them() {
    let check = |body: &str, expected: &str| check_prompts(Api::ChatCompletions, body, &[expected]);
    check(r#"{"messages":[{"role":"user","content":"hi"}]}"#, "[user][hi]");
    check(
        r#"{"messages":[{"content":"one\ntwo","role":"system"},{"role":"user","content":"é\u00e9"}]}"#,
        "[system][one\ntwo][user][éé]",
    );
    // Tools go first, as they were written, wherever they stand.
    check(
        r#"{"messages":[{"role":"user","content":"x"}],"tools":[ {"b":1, "a":"\n"} ],"n":1}"#,
        r#"[[ {"b":1, "a":"\n"} ]][user][x]"#,
    );
    check(r#"{"tools":[],"messages":[{"role":"user","content":"x"}]}"#, "[user][x]");
    check(r#"{"tools":null,"messages":[{"role":"user","content":"x"}]}"#, "[user][x]");
    check(
        r#"{"messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"1"}]},{"role":"tool","content":""}]}"#,
        r#"[assistant][[{"id":"1"}]][tool]"#,
    );
    check(
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"detail":"low","url":"http://x/y.png"}},{"text":"b","type":"text"}]}]}"#,
        "[user][a]<Image Url http://x/y.png>[b]",
    );
    check(
        r#"{"messages":[{"role":"user","content":[{"type":"input_audio","input_audio":{"data":"QUJD","format":"wav"}},{"type":"video_url","video_url":{"url":"http:\/\/v"}},{"type":"audio_url","audio_url":{"url":"u"}},{"type":"image_url","image_url":"plain"}]}]}"#,
        "[user]<Audio Base64 QUJD><Video Url http://v><Audio Url u><Image Url plain>",
    );
    // Wrong types of what may be left out do not refuse a request.
    check(
        r#"{"messages":[{"role":7,"content":5,"name":[{}]},{},{"content":{"a":1}}],"tools":"x","stream":"yes","cache_salt":3}"#,
        "",
    );
    check(r#"{"messages":[{"role":"user","content":[1,"x",null,[],{"text":["a"]}]}]}"#, "[user]");
    // Of a member that is given twice the last one counts.
    check(
        r#"{"messages":[{"role":"a","content":"b"}],"tools":[1],"tools":[2],"messages":[{"role":"c","content":"x","content":[{"text":"y"}],"content":"d"}]}"#,
        "[[2]][c][d]",
    );
    check(r#"{"\u006dessages":[{"r\u006fle":"user","content":"x"}]}"#, "[user][x]");
    check(
        r#"{"messages":[{"role":"user","content":"x"}],"other":{"messages":[],"tools":[1]}}"#,
        "[user][x]",
    );
}

#[test]
fn completions_and_embeddings_are_read_one_prompt_for_each_input() {
    for (api, field) in [(Api::Completions, "prompt"), (Api::Embeddings, "input")] {
        let check = |value: &str, expected: &[&str]| {
            check_prompts(api, &format!(r#"{{"{field}":{value}}}"#), expected);
        };
        check(r#""a\tb""#, &["[a\tb]"]);
        check(r#"["a","","b"]"#, &["[a]", "", "[b]"]);
        check("[1,2,4294967295]", &["[1, 2, 4294967295]"]);
        check("[[1,2],[],[3]]", &["[1, 2]", "[]", "[3]"]);
        check("[1.0,2e2]", &["[1, 200]"]);
    }
    check_prompts(
        Api::Embeddings,
        r#"{"messages":[{"role":"user","content":"x"}]}"#,
        &["[user][x]"],
    );
    check_prompts(Api::ImageGenerations, r#"{"prompt":"a cat","n":2}"#, &["[a cat]"]);
}

#[test]
fn responses_and_conversations_are_read() {
    let check = |body: &str, expected: &str| check_prompts(Api::Responses, body, &[expected]);
    check(r#"{"input":"hi\n"}"#, "[hi\n]");
    check(r#"{"input":""}"#, "");
    check(
        r#"{"input":[{"role":"user", "content":"x\n"}],"tools":[{"t":1}],"instructions":"be \"brief\""}"#,
        r#"[be "brief"][[{"t":1}]][[{"role":"user", "content":"x\n"}]]"#,
    );
    check_prompts(
        Api::Conversations,
        r#"{"metadata":{},"items":[ {"type":"message"} ]}"#,
        &[r#"[[ {"type":"message"} ]]"#],
    );
}

#[test]
fn anthropic_messages_are_read() {
    let check =
        |body: &str, expected: &str| check_prompts(Api::AnthropicMessages, body, &[expected]);
    check(r#"{"max_tokens":6,"messages":[{"role":"user","content":"Hello"}]}"#, "[user][Hello]");
    // System texts go between tools and messages; blocks for accounting are dropped.
    check(
        r#"{"messages":[{"role":"user","content":"x"}],"system":[{"type":"text","text":"x-anthropic-billing-header: cc=1"},{"type":"text","text":"be"},{"type":"text","text":"\u0078-anthropic-billing-header"}],"tools":[{"name":"t"}]}"#,
        r#"[[{"name":"t"}]][be][user][x]"#,
    );
    check(r#"{"system":"s","messages":[{"role":"user","content":"x"}]}"#, "[s][user][x]");
    check(
        r#"{"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"tool_use","id":"i","name":"n","input":{"z":1, "a":[2]}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"i","content":"r"},{"type":"tool_result","tool_use_id":"i","content":[{"type":"text","text":"p"},{"type":"image","source":{"type":"base64","media_type":"image/png","data":"QUJD"}}]},{"type":"text","text":"q"}]}]}"#,
        r#"[assistant][hm][i][n][{"z":1, "a":[2]}][user][r][p]<Image Base64 QUJD>[q]"#,
    );
    check(
        r#"{"messages":[{"role":"user","content":[{"type":"image","source":{"type":"url","url":"http://i"}},{"type":"document","source":{"type":"text","media_type":"text/plain","data":"doc"}},{"type":"document","source":{"type":"base64","data":"cGRm"}}]}]}"#,
        "[user]<Image Url http://i>[doc]<Other Base64 cGRm>",
    );
}

#[test]
fn token_ids_and_features_are_read() {
    let body = r#"{"model":"m","token_ids":[5,0,7],"cache_salt":"s","stream":true,
        "features":{"mm_placeholders":{"video":[{"offset":9,"length":1}],"image":[{"offset":0,"length":2},{"length":3,"offset":4}]},
                    "mm_hashes":{"image":["h1",null],"video":[]}},
        "sampling_params":{"n":1,"max_tokens":12}}"#;
    let request = scan(Api::VllmGenerate, body).unwrap();
    assert_eq!(show(&request), ["[5, 0, 7]"]);
    assert_eq!(request.max_output_tokens, Some(12));
    assert_eq!(request.cache_salt.as_deref(), Some("s"));
    assert!(request.stream);
    let feature = |kind, hash: &str, offset, length| Feature {
        kind,
        hash: RawText::from(hash),
        offset,
        length,
    };
    let expected = [
        feature(MediaKind::Image, "h1", 0, 2),
        feature(MediaKind::Image, "", 4, 3),
        feature(MediaKind::Video, "", 9, 1),
    ];
    assert_eq!(request.features, expected);
}

#[test]
fn what_is_required_is_missed() {
    let cases: [(Api, &str, &[&str]); 8] = [
        (
            Api::ChatCompletions,
            "invalid chat completions request: must have valid messages field",
            &["{}", r#"{"messages":[]}"#, r#"{"messages":null}"#, r#"{"model":"m","prompt":"x"}"#],
        ),
        (
            Api::Completions,
            "invalid completions request: must have prompt field",
            &[
                "{}",
                r#"{"prompt":""}"#,
                r#"{"prompt":[]}"#,
                r#"{"prompt":null}"#,
                r#"{"prompt":"a","prompt":null}"#,
            ],
        ),
        (
            Api::Embeddings,
            "invalid embeddings request: must have input field",
            &["{}", r#"{"input":""}"#, r#"{"input":[]}"#],
        ),
        (
            Api::Responses,
            "invalid responses request: must have input field",
            &["{}", r#"{"input":null}"#, r#"{"instructions":"x"}"#],
        ),
        (
            Api::Conversations,
            "invalid conversations request: must have items field",
            &["{}", r#"{"items":[]}"#, r#"{"items":{"a":1}}"#, r#"{"items":"x"}"#],
        ),
        (
            Api::ImageGenerations,
            "invalid images generations request: must have prompt field",
            &["{}", r#"{"prompt":""}"#],
        ),
        (
            Api::AnthropicMessages,
            "invalid messages request: must have valid messages field",
            &["{}", r#"{"system":"x"}"#, r#"{"messages":[]}"#],
        ),
        (
            Api::VllmGenerate,
            "invalid generate request: must have token_ids field",
            &["{}", r#"{"token_ids":[]}"#, r#"{"token_ids":null}"#],
        ),
    ];
    for (api, message, bodies) in cases {
        for body in bodies {
            check_error(api, body, message);
        }
    }
}

#[test]
fn what_is_wrong_is_said() {
    let chat = |body: &str, message: &str| check_error(Api::ChatCompletions, body, message);
    chat("", "error unmarshaling request bodyMap: unexpected end at byte 0");
    chat("[]", "error unmarshaling request bodyMap: the body is not a JSON object");
    chat("\"x\"", "error unmarshaling request bodyMap: the body is not a JSON object");
    chat("12", "error unmarshaling request bodyMap: the body is not a JSON object");
    chat(r#"{"messages":[}"#, "error unmarshaling request bodyMap: unexpected '}' at byte 13");
    chat(
        r#"{"messages":[{}]} x"#,
        "error unmarshaling request bodyMap: unexpected 'x' after the document at byte 18",
    );
    for messages in ["5", "\"x\"", "{}", "[1]", "[\"x\"]", "[null]", "[[]]"] {
        let body = format!(r#"{{"messages":{messages}}}"#);
        chat(&body, "invalid chat completions request: messages must be an array of objects");
    }
    let expected = "a string, token ids, or an array of strings or of token ids";
    for prompt in [
        "5.5",
        "true",
        "{}",
        "[{}]",
        "[null]",
        "[1,\"a\"]",
        "[\"a\",1]",
        "[[1],2]",
        "[[1],\"a\"]",
        "[1,[2]]",
    ] {
        check_error(
            Api::Completions,
            &format!(r#"{{"prompt":{prompt}}}"#),
            &format!("invalid completions request: prompt must be {expected}"),
        );
    }
    for (ids, index) in [
        ("[1,-1]", 1),
        ("[1.5]", 0),
        ("[1,2,4294967296]", 2),
        ("[\"a\"]", 0),
        ("[0,[1]]", 1),
        ("[{}]", 0),
        ("[true]", 0),
    ] {
        check_error(
            Api::VllmGenerate,
            &format!(r#"{{"token_ids":{ids}}}"#),
            &format!("invalid generate request: invalid token id at index {index} of token_ids"),
        );
    }
    check_error(
        Api::Completions,
        r#"{"prompt":[[1],[2,-3]]}"#,
        "invalid completions request: invalid token id at index 1 of prompt",
    );
    check_error(
        Api::VllmGenerate,
        r#"{"token_ids":"x"}"#,
        "invalid generate request: token_ids must be an array of integers",
    );
}

#[test]
fn fields_are_read() {
    let scan = |api, fields: &str| {
        let body = match api {
            Api::Responses => format!(r#"{{{fields},"input":"x"}}"#),
            Api::Completions => format!(r#"{{{fields},"prompt":"x"}}"#),
            Api::VllmGenerate => format!(r#"{{{fields},"token_ids":[1]}}"#),
            _ => format!(r#"{{{fields},"messages":[{{"content":"x"}}]}}"#),
        };
        scan(api, &body).unwrap()
    };
    let chat = |fields| scan(Api::ChatCompletions, fields);
    assert_eq!(chat(r#""model":"a\u0062c""#).model.as_deref(), Some("abc"));
    assert_eq!(chat(r#""model":"a","model":"b""#).model.as_deref(), Some("b"));
    assert_eq!(chat(r#""model":"a","model":7"#).model, None);
    assert_eq!(chat(r#""model":"""#).model.as_deref(), Some(""));
    assert_eq!(chat(r#""model":{"a":[]}"#).model, None);
    assert!(chat(r#""stream":true"#).stream);
    assert!(!chat(r#""stream":true,"stream":false"#).stream);
    assert!(!chat(r#""stream":1"#).stream);
    assert_eq!(chat(r#""cache_salt":"s\n""#).cache_salt.as_deref(), Some("s\n"));
    assert_eq!(chat(r#""cache_salt":"s","cache_salt":1"#).cache_salt, None);

    let cap = |fields| chat(fields).max_output_tokens;
    assert_eq!(cap(r#""max_tokens":5"#), Some(5));
    assert_eq!(cap(r#""max_tokens":5,"max_completion_tokens":7"#), Some(7));
    assert_eq!(cap(r#""max_completion_tokens":0,"max_tokens":5"#), Some(0));
    assert_eq!(cap(r#""max_completion_tokens":-1,"max_tokens":5.0"#), Some(5));
    assert_eq!(cap(r#""max_completion_tokens":"9","max_tokens":1.5"#), None);
    assert_eq!(cap(r#""max_tokens":1e3"#), Some(1000));
    assert_eq!(cap(r#""max_output_tokens":5"#), None);
    assert_eq!(
        scan(Api::Responses, r#""max_output_tokens":5,"max_tokens":6"#).max_output_tokens,
        Some(5)
    );
    assert_eq!(scan(Api::Completions, r#""max_tokens":5"#).max_output_tokens, Some(5));
    assert_eq!(scan(Api::AnthropicMessages, r#""max_tokens":5"#).max_output_tokens, Some(5));

    let answers = |fields| chat(fields).n_answers;
    assert_eq!(answers(r#""n":4"#), Some(4));
    assert_eq!(
        (answers(r#""n":4,"n":null"#), answers(r#""n":-1"#), answers(r#""model":"a""#)),
        (None, None, None)
    );
    assert_eq!(scan(Api::Completions, r#""n":2"#).n_answers, Some(2));
    assert_eq!(scan(Api::Responses, r#""n":2"#).n_answers, None);
    assert_eq!(scan(Api::VllmGenerate, r#""sampling_params":{"n":3}"#).n_answers, Some(3));
}

#[test]
fn the_model_is_edited_in_place() {
    let check = |body: &str, expected: &str| {
        let request = scan(Api::Completions, body).unwrap();
        let (span, value) = request.model_edit("n\"w");
        let edited = splice(&[Bytes::copy_from_slice(body.as_bytes())], span, value).concat();
        assert_eq!(String::from_utf8(edited).unwrap(), expected);
    };
    check(
        r#"{"seed":12345678901234567890, "model" : "old" ,"prompt":"<&>"}"#,
        r#"{"seed":12345678901234567890, "model" : "n\"w" ,"prompt":"<&>"}"#,
    );
    check(r#"{"prompt":"x","model":null}"#, r#"{"prompt":"x","model":"n\"w"}"#);
    check(r#"{"prompt":"x","model":[{}]}"#, r#"{"prompt":"x","model":"n\"w"}"#);
    check(r#"{"model":1.5,"prompt":"x"}"#, r#"{"model":"n\"w","prompt":"x"}"#);
    check(" { \"prompt\":\"x\"}", " {\"model\":\"n\\\"w\", \"prompt\":\"x\"}");
    check(
        r#"{"model":"a","prompt":"x","m\u006fdel":"b"}"#,
        r#"{"model":"a","prompt":"x","m\u006fdel":"n\"w"}"#,
    );
    check(
        r#"{"prompt":"x","o":{"model":"z"}}"#,
        r#"{"model":"n\"w","prompt":"x","o":{"model":"z"}}"#,
    );
}

#[test]
fn the_length_of_a_text_is_known_without_unescaping_it() {
    let check = |escaped: &str| {
        let body = format!(r#"{{"prompt":"a{escaped}b"}}"#);
        let text: String = serde_json::from_str(&format!("\"{escaped}\"")).unwrap_or_default();
        for cut in 0..=body.len() {
            let pieces = [&body.as_bytes()[..cut], &body.as_bytes()[cut..]];
            let request = scan_pieces(Api::Completions, Limits::default(), &pieces).unwrap();
            let [Prompt::Text(pieces)] = request.prompts.as_slice() else { panic!("{request:?}") };
            let [Piece::Text(read)] = pieces.as_slice() else { panic!("{pieces:?}") };
            let mut n_bytes = 0;
            read.decode(&mut |part| n_bytes += part.len());
            assert_eq!(read.decoded_len(), n_bytes, "{escaped} cut at {cut}");
            assert!(text.is_empty() || n_bytes == text.len() + 2, "{escaped} cut at {cut}");
        }
    };
    check(r#"\"\\\/\b\f\n\r\t"#);
    check(r"\u0041\u00e9\u20AC\uffFD");
    check(r"\ud83d\ude00\ud83d\ude00");
    // Halves of pairs that stand alone; serde_json refuses them.
    check(r"\ud83d");
    check(r"\ude00\ud83d\ud83d\ude00\ude00");
    check(r"\ud83d \ude00\ud83d\n\ude00");
}

#[test]
fn bounds_are_kept() {
    let limits =
        Limits { max_depth: 8, max_prompts: 3, max_pieces: 4, max_tokens: 5, max_name_bytes: 6 };
    let check = |api, body: &str, expected: Result<(), &str>| {
        let verdict = scan_pieces(api, limits, &[body.as_bytes()]).map(|_| ());
        assert_eq!(verdict.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    };
    let completions = |body: &str, expected| check(Api::Completions, body, expected);
    completions(r#"{"prompt":["","",""]}"#, Ok(()));
    completions(
        r#"{"prompt":["","","",""]}"#,
        Err("invalid completions request: more than 3 prompts"),
    );
    completions(
        r#"{"prompt":[[],[],[],[]]}"#,
        Err("invalid completions request: more than 3 prompts"),
    );
    completions(r#"{"prompt":[[1,2,3],[4,5]]}"#, Ok(()));
    completions(
        r#"{"prompt":[[1,2,3],[4,5,6]]}"#,
        Err("invalid completions request: more than 5 token ids"),
    );
    completions(r#"{"model":"123456","prompt":"x"}"#, Ok(()));
    completions(
        r#"{"model":"1234567","prompt":"x"}"#,
        Err("invalid completions request: model is longer than 6 bytes"),
    );
    completions(
        r#"{"cache_salt":"1234567","prompt":"x"}"#,
        Err("invalid completions request: cache_salt is longer than 6 bytes"),
    );
    completions(
        r#"{"prompt":"x","a":[[[[[[[[]]]]]]]]}"#,
        Err("error unmarshaling request bodyMap: nested deeper than 8 at byte 25"),
    );
    let chat = |body: &str, expected| check(Api::ChatCompletions, body, expected);
    let message = r#"{"role":"u","content":"x"}"#;
    chat(&format!(r#"{{"messages":[{message},{message}]}}"#), Ok(()));
    let error = Err("invalid chat completions request: more than 4 parts");
    chat(&format!(r#"{{"messages":[{message},{message},{message}]}}"#), error);
    chat(r#"{"messages":[{},{},{},{},{}]}"#, error);
}

#[test]
fn an_error_is_final() {
    let mut scan = RequestScan::new(Api::Completions, Limits::default());
    let error = scan.push(&Bytes::from_static(br#"{"prompt":5}"#)).unwrap_err();
    assert_eq!(scan.push(&Bytes::from_static(b"x")), Err(error.clone()));
    assert_eq!(scan.finish(), Err(error));
}

#[test]
fn texts_share_the_memory_of_the_body() {
    let text = "x".repeat(5000);
    let body = Bytes::from(format!(r#"{{"prompt":"{text}"}}"#));
    let mut scan = RequestScan::new(Api::Completions, Limits::default());
    let (first, second) = (body.slice(..2000), body.slice(2000..));
    scan.push(&first).unwrap();
    scan.push(&second).unwrap();
    let request = scan.finish().unwrap();
    let [Prompt::Text(pieces)] = request.prompts.as_slice() else { panic!("{request:?}") };
    let [Piece::Text(text)] = pieces.as_slice() else { panic!("{pieces:?}") };
    let pointers: Vec<_> = text.slices().iter().map(|slice| slice.as_ptr()).collect();
    assert_eq!(pointers, [body[11..].as_ptr(), body[2000..].as_ptr()]);
}

#[test]
fn the_size_of_an_image_is_read_from_its_url() {
    let size = |content: &str, form| {
        Media { kind: MediaKind::Image, form, content: RawText::from(content) }.image_size()
    };
    // The head of a PNG of 640 × 360.
    let png = "iVBORw0KGgoAAAANSUhEUgAAAoAAAAFoCAYAAAA";
    assert_eq!(size(png, MediaForm::Base64), Some((640, 360)));
    assert_eq!(size(&format!("data:image/png;base64,{png}"), MediaForm::Url), Some((640, 360)));
    assert_eq!(size(&format!("DATA:;BASE64,{png}"), MediaForm::Url), Some((640, 360)));
    assert_eq!(size(&format!("data:image/png,{png}"), MediaForm::Url), None);
    assert_eq!(size("http://example.com/a.png", MediaForm::Url), None);
    assert_eq!(size("", MediaForm::Url), None);
    assert_eq!(size("", MediaForm::Base64), None);
    // A JPEG whose frame comes after more than the first part that is looked at.
    let app = [&[0xff, 0xe2, 0x80, 0x00][..], &vec![0; 0x7ffe]].concat();
    let jpeg = [&[0xff, 0xd8][..], &app, &[0xff, 0xc0, 0, 17, 8, 1, 0x68, 2, 0x80]].concat();
    assert_eq!(size(&base64(&jpeg), MediaForm::Base64), Some((640, 360)));
}

fn base64(bytes: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte))
            << (8 * (3 - group.len()));
        for i in 0..=group.len() {
            out.push(char::from(alphabet[(bits >> (18 - 6 * i) & 63) as usize]));
        }
    }
    out
}

/// The requests that a real vLLM was sent.
fn recorded() -> Vec<(Api, Value)> {
    let files = [
        include_str!("../../../../testdata/wire/http.json"),
        include_str!("../../../../testdata/wire/http-lora.json"),
    ];
    let mut requests = vec![];
    for file in files {
        let steps: Vec<Value> = serde_json::from_str(file).unwrap();
        for step in steps {
            let api = match step["path"].as_str().unwrap_or_default() {
                "/v1/chat/completions" => Api::ChatCompletions,
                "/v1/completions" => Api::Completions,
                "/v1/responses" => Api::Responses,
                "/v1/messages" => Api::AnthropicMessages,
                _ => continue,
            };
            requests.push((api, step["request"].clone()));
        }
    }
    assert!(requests.len() > 15);
    requests
}

#[test]
fn recorded_requests_are_read_the_same_wherever_they_are_cut() {
    for (api, request) in recorded() {
        let body = request.to_string();
        if request["prompt"] == json!(5.5) {
            assert!(matches!(scan(api, &body), Err(ScanError::WrongType { .. })));
            continue;
        }
        let scanned = scan(api, &body).unwrap();
        assert_eq!(scanned.model.as_deref(), request["model"].as_str());
        assert_eq!(scanned.stream, request["stream"] == json!(true));
        assert_eq!(scanned.cache_salt.as_deref(), request["cache_salt"].as_str());
        let cap = request["max_tokens"].as_u64().or(request["max_output_tokens"].as_u64());
        assert_eq!(scanned.max_output_tokens, cap);
        let span = scanned.model_span.clone().unwrap();
        assert_eq!(body[span], request["model"].to_string());
        let expected = match &request["prompt"] {
            Value::Array(ids) => format!("{ids:?}").replace("Number(", "").replace(')', ""),
            Value::String(text) => format!("[{text}]"),
            _ => match request["messages"].as_array() {
                Some(messages) => messages
                    .iter()
                    .flat_map(|m| [m["role"].as_str().unwrap(), m["content"].as_str().unwrap()])
                    .flat_map(|text| ["[", text, "]"])
                    .collect(),
                None => format!("[{}]", request["input"].as_str().unwrap()),
            },
        };
        assert_eq!(show(&scanned), [expected]);
    }
}

/// Words of which request bodies are made.
fn words() -> impl Strategy<Value = Vec<u8>> {
    const WORDS: &[&str] = &[
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"model\":\"m\",",
        "\"model\":",
        "\"messages\":[",
        "\"role\":\"user\"",
        "\"content\":",
        "\"x\\n\"",
        "\"prompt\":",
        "\"input\":",
        "\"tools\":[1]",
        "\"text\":\"a\\u00e9\"",
        "null",
        "1",
        "-2.5",
        "{\"type\":\"text\",\"text\":\"é\"}",
        "\"image_url\":{\"url\":\"data:;base64,iVBORw0KGgo\"}",
        "\"items\":[",
        "\"token_ids\":[",
        "\"system\":[",
        "\"source\":{\"data\":\"QQ\"}",
        " ",
        "true",
        "\"\"",
        "{\"prompt\":\"a\"",
        "{\"messages\":[{\"content\":[",
        "}]}",
        "\"features\":{\"mm_hashes\":{\"image\":[\"h\"]}}",
    ];
    prop::collection::vec(prop::sample::select(WORDS), 0..14)
        .prop_map(|words| words.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_body_is_read_the_same_however_it_is_cut(api: u8, size in 0u8..40, body in words()) {
        fuzz_request(&[&[api, size][..], &body].concat());
    }

    #[test]
    fn any_chat_is_read_as_serde_reads_it(
        texts in prop::collection::vec(("\\PC{0,20}", "[\u{0}-\u{20}\"\\\\é😀]{0,10}"), 1..5),
        size in 1usize..50,
    ) {
        let messages: Vec<Value> =
            texts.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
        let body = json!({"messages": messages}).to_string();
        let pieces: Vec<&[u8]> = body.as_bytes().chunks(size).collect();
        let request = scan_pieces(Api::ChatCompletions, Limits::default(), &pieces).unwrap();
        let expected: String = texts
            .iter()
            .flat_map(|(role, content)| [role.as_str(), content.as_str()])
            .filter(|text| !text.is_empty())
            .flat_map(|text| ["[", text, "]"])
            .collect();
        prop_assert_eq!(show(&request), [expected]);
    }
}
