use bytes::Bytes;
use router_framework::{ParsedRequest, keys::PromptBlocks};
use router_testkit::scheduling::{EndpointFixture, SceneBuilder};
use router_wire::{
    media::{Media, MediaForm, MediaKind},
    request::{Api, Limits, RequestScan},
    text::RawText,
};

use super::*;

/// Runs the producer on a prompt with headers.
fn produce(
    params: &str,
    headers: &[(&str, &str)],
    parsed: ParsedRequest,
) -> Option<TokenizedPrompt> {
    let mut builder = SceneBuilder::new();
    let plugin = builder.named_plugin(&PLUGIN, "any-name", params);
    let read = builder.reader(&TOKENIZED_PROMPT, "");
    let mut scene = builder.scene(vec![EndpointFixture::new()]);
    headers.iter().for_each(|(name, value)| scene.header(name, value));
    scene.request.parsed = parsed;
    let Produced::Ready(outputs) = plugin.producer.unwrap().produce(&scene.cx()) else {
        panic!("estimating takes no time")
    };
    scene.accept(outputs.unwrap());
    scene.cx().read(&read).cloned()
}

fn parsed(api: Api, body: &str) -> ParsedRequest {
    let mut scan = RequestScan::new(api, Limits::default());
    scan.push(&Bytes::copy_from_slice(body.as_bytes())).unwrap();
    let scanned = scan.finish().unwrap();
    ParsedRequest {
        cache_salt: scanned.cache_salt.as_deref().map(Into::into),
        prompts: PromptInput::Prompts(scanned.prompts),
        features: scanned.features,
        ..ParsedRequest::default()
    }
}

fn media(kind: MediaKind, content: &str) -> ParsedRequest {
    let form = MediaForm::Url;
    let piece = Piece::Media(Media { kind, form, content: RawText::from(content) });
    let pieces = vec![Piece::Text(RawText::from("user1")), piece];
    ParsedRequest {
        prompts: PromptInput::Prompts(vec![Prompt::Text(pieces)]),
        ..ParsedRequest::default()
    }
}

/// Tokens of one medium that follows five bytes of text.
#[track_caller]
fn check(params: &str, headers: &[(&str, &str)], kind: MediaKind, content: &str, n_tokens: u64) {
    let tokens = produce(params, headers, media(kind, content)).unwrap();
    let [prompt] = tokens.prompts.as_slice() else { panic!("{tokens:?}") };
    let [feature] = prompt.media.as_slice() else { panic!("{prompt:?}") };
    assert_eq!(feature.n_tokens, n_tokens, "{params} {headers:?}");
    assert_eq!((feature.offset, feature.modality), (2, kind.name()), "aligned to a token");
    assert_eq!(prompt.n_tokens, 2 + n_tokens);
}

#[test]
fn four_bytes_are_a_token_and_nothing_is_copied() {
    let chat = parsed(
        Api::ChatCompletions,
        r#"{"cache_salt":"s","messages":[{"role":"user","content":"a\nbcdef"}]}"#,
    );
    let PromptInput::Prompts(prompts) = &chat.prompts else { panic!() };
    let Prompt::Text(pieces) = &prompts[0] else { panic!() };
    let Piece::Text(sent) = &pieces[1] else { panic!() };
    let sent = sent.slices()[0].as_ptr();
    let tokens = produce("", &[], chat).unwrap();
    assert_eq!(tokens.cache_salt.as_deref(), Some("s"));
    let [prompt] = tokens.prompts.as_slice() else { panic!("{tokens:?}") };
    assert_eq!(prompt.n_tokens, 3, "`user` and seven bytes");
    let TokenContent::Packed(pieces) = &prompt.content else { panic!("{prompt:?}") };
    let PackedPiece::Text(text) = &pieces[1] else { panic!("{pieces:?}") };
    assert_eq!(text.to_text(), "a\nbcdef");
    assert_eq!(text.slices()[0].as_ptr(), sent, "the same memory");
}

#[test]
fn prompts_of_a_batch_stay_apart_and_ids_are_taken_as_they_are() {
    let texts = produce("", &[], parsed(Api::Completions, r#"{"prompt":["abcde","f"]}"#)).unwrap();
    let counts: Vec<_> = texts.prompts.iter().map(|prompt| prompt.n_tokens).collect();
    assert_eq!(counts, [2, 1]);
    let ids = produce("", &[], parsed(Api::Completions, r#"{"prompt":[[7,8],[9]]}"#)).unwrap();
    assert_eq!(ids.n_tokens(), 3);
    assert!(matches!(&ids.prompts[0].content, TokenContent::Ids(ids) if ids.iter().eq([7, 8])));
}

#[test]
fn placed_media_are_features() {
    let body = r#"{"token_ids":[1,2,3,4],"features":{"mm_hashes":{"image":["aa"]},
        "mm_placeholders":{"image":[{"offset":1,"length":2}]}}}"#;
    let tokens = produce("", &[], parsed(Api::VllmGenerate, body)).unwrap();
    let expected =
        MediaFeature { modality: "image", hash: "aa".to_owned(), offset: 1, n_tokens: 2 };
    assert_eq!(tokens.prompts[0].media, [expected]);
}

#[test]
fn without_tokens_nothing_is_written() {
    assert!(produce("", &[], ParsedRequest::default()).is_none());
    assert!(produce("", &[], parsed(Api::Completions, r#"{"prompt":[""]}"#)).is_none());
}

#[test]
fn a_trace_without_text_has_its_blocks() {
    let blocks = PromptBlocks::from_block_ids(&[1, 2, 3], 512, 1100);
    let prompts = PromptInput::Blocks(blocks.clone());
    let tokens = produce("", &[], ParsedRequest { prompts, ..ParsedRequest::default() }).unwrap();
    assert_eq!(tokens.n_tokens(), 1100);
    assert!(matches!(&tokens.prompts[0].content, TokenContent::Blocks(have) if *have == blocks));
}

#[test]
fn equal_media_are_equal_tokens() {
    let packed = |content| {
        let tokens = produce("", &[], media(MediaKind::Image, content)).unwrap();
        let TokenContent::Packed(pieces) = &tokens.prompts[0].content else { panic!() };
        let PackedPiece::Media { token, .. } = pieces[1] else { panic!() };
        (token, tokens.prompts[0].media[0].hash.clone())
    };
    let (token, hash) = packed("http://x/a.png");
    assert_eq!(packed("http://x/a.png"), (token, hash.clone()));
    assert_ne!(packed("http://x/b.png"), (token, hash.clone()));
    assert_eq!(hash.len(), 16);
    assert_eq!(u64::from_str_radix(&hash, 16).unwrap() as u32, token);
}

/// A PNG header that claims this size.
fn png(width: u32, height: u32) -> String {
    let mut header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    header.extend_from_slice(&width.to_be_bytes());
    header.extend_from_slice(&height.to_be_bytes());
    header.resize(48, 0);
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encoded = header.chunks(3).flat_map(|three| {
        let bits = u32::from(three[0]) << 16 | u32::from(three[1]) << 8 | u32::from(three[2]);
        [18, 12, 6, 0].map(|shift| alphabet[(bits >> shift & 63) as usize] as char)
    });
    format!("data:image/png;base64,{}", encoded.collect::<String>())
}

#[test]
fn images_count_by_their_size() {
    let check = |params, content: &str, n| check(params, &[], MediaKind::Image, content, n);
    check("", "http://x/a.png", 640 * 360 / 1024);
    check("", &png(1024, 512), 512);
    check("", &png(1, 1), 1);
    check("{estimate: {image: {dynamic: {factor: 512}}}}", &png(1024, 512), 1024);
    check("{estimate: {image: {defaultResolution: {width: 64, height: 64}}}}", "http://x/a.png", 4);
    let fixed = "{estimate: {image: {mode: static, static: {staticToken: 77}}}}";
    check(fixed, &png(1024, 512), 77);
}

#[test]
fn absurd_sizes_are_bounded() {
    check("", &[], MediaKind::Image, &png(u32::MAX, u32::MAX), u64::from(media::MAX_MEDIA_TOKENS));
    let headers = [
        ("x-llm-d-video-duration-seconds", "1e300"),
        ("x-llm-d-video-resolution", "4294967295x4294967295"),
    ];
    check("", &headers, MediaKind::Video, "v", u64::from(media::MAX_MEDIA_TOKENS));
    let huge = Media {
        kind: MediaKind::Image,
        form: MediaForm::Url,
        content: RawText::from(png(u32::MAX, u32::MAX).as_str()),
    };
    let pieces = vec![Piece::Media(huge); 40];
    let prompts = PromptInput::Prompts(vec![Prompt::Text(pieces)]);
    let tokens = produce("", &[], ParsedRequest { prompts, ..ParsedRequest::default() }).unwrap();
    assert_eq!(tokens.n_tokens(), MAX_REQUEST_MEDIA_TOKENS + 24, "16 in full, the others one each");
}

#[test]
fn videos_count_by_frames() {
    const FRAME: u64 = 640 * 360 / 1024;
    let check = |params: &str, headers: &[(&str, &str)], n| {
        check(params, headers, MediaKind::Video, "http://x/v.mp4", n);
    };
    let video = |params: &str| format!("{{estimate: {{video: {params}}}}}");
    check("", &[], 20 * FRAME);
    check("", &[("x-llm-d-video-duration-seconds", "2.6")], 5 * FRAME);
    check("", &[("x-llm-d-video-resolution", "1280x720")], 20 * 900);
    check("", &[("x-llm-d-video-fps", "60")], 20 * FRAME);
    check(&video("{defaultDuration: 3}"), &[], 6 * FRAME);
    check(&video("{maxVideoTokens: 1000}"), &[], 1000);
    check(&video("{frames: {maxFrames: 8}}"), &[], 8 * FRAME);
    check(&video("{frames: {minFrames: 32}}"), &[], 32 * FRAME);
    check(&video("{frames: {sampled: {sampleFPS: 1, temporalPatchSize: 4}}}"), &[], 2 * FRAME);
    check(&video("{frames: {maxFrames: 3, sampled: {temporalPatchSize: 4}}}"), &[], 1);
    let per_frame = "tokensPerFrame: {mode: static, static: {numTokensPerFrame: 10}}";
    check(&video(&format!("{{{per_frame}}}")), &[], 200);
    let strided =
        format!("{{frames: {{mode: strided, strided: {{frameStride: 5}}}}, {per_frame}}}");
    check(&video(&strided), &[], 480);
    check(&video(&strided), &[("x-llm-d-video-fps", "30")], 600);
}

#[test]
fn headers_that_make_no_sense_are_not_heard() {
    for (name, value) in [
        ("x-llm-d-video-duration-seconds", "NaN"),
        ("x-llm-d-video-duration-seconds", "-1"),
        ("x-llm-d-video-duration-seconds", "inf"),
        ("x-llm-d-video-resolution", "0x10"),
        ("x-llm-d-video-resolution", "big"),
    ] {
        check("", &[(name, value)], MediaKind::Video, "v", 20 * 225);
    }
}

#[test]
fn sound_and_the_rest_count_by_their_length() {
    check("", &[], MediaKind::Audio, "123456789", 3);
    check("", &[], MediaKind::Other, "1", 1);
}

#[test]
fn parameters_are_checked() {
    let check = |params: &str, place: &str| {
        let error = SceneBuilder::refusal(&PLUGIN, params);
        assert!(error.contains(place), "{params}: {error}");
    };
    check("{modelName: m}", "modelName: not available in this version: ");
    check("{vllm: {url: 'http://x'}}", "vllm: not available in this version: ");
    check("{udsTokenizerConfig: {socketFile: /x}}", "udsTokenizerConfig: not available");
    check("{estimate: {image: {dynamic: {factor: 0}}}}", "estimate.image.dynamic.factor");
    check("{estimate: {video: {defaultDuration: 0}}}", "estimate.video.defaultDuration");
    check("{estimate: {video: {frames: {minFrames: 9, maxFrames: 3}}}}", "frames.minFrames");
    check("{estimate: {image: {mode: big}}}", "mode");
    check("{estimat: {}}", "estimat");
}
