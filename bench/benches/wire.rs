//! What reading foreign bytes costs: request bodies, response bodies, metrics pages.
//!
//! Bodies come in chunks of 16 KiB, as a proxy sends them.

#![allow(clippy::unwrap_used, reason = "a bench stops where it cannot go on")]

use std::{hint::black_box, time::Duration};

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use router_bench::payload::mix;
use router_wire::{
    prometheus::{PageScan, SeriesSpec},
    request::{Api, Limits, Piece, Prompt, RequestScan, ScannedRequest},
    response::{Dialect, ResponseScan},
    text::RawText,
};

const KIB: usize = 1024;
const CHUNK_BYTES: usize = 16 * KIB;
const SIZES: [(usize, &str); 4] =
    [(KIB, "1KiB"), (16 * KIB, "16KiB"), (128 * KIB, "128KiB"), (1024 * KIB, "1MiB")];

/// A page of a real vLLM under load; `data/vllm-metrics.txt` tells where it came from.
const PAGE: &str = include_str!("../data/vllm-metrics.txt");

const CODE: &str =
    "fn main() {\\n\\tlet name = \\\"world\\\";\\n\\tprintln!(\\\"hello, {name}\\\");\\n}\\n";
/// The beginning of [`CHINESE`] as Python's `json.dumps` writes it.
const BY_NUMBER: &str =
    "\\u5927\\u578b\\u8bed\\u8a00\\u6a21\\u578b\\u63a8\\u7406\\u7684\\u8bf7\\u6c42";
const CHINESE: &str = "大型语言模型推理的请求应当送到已经缓存其前缀的服务器上，以免重复计算。";

/// A text of about `n_bytes` bytes out of the words of `next`.
fn text<'a>(n_bytes: usize, mut next: impl FnMut(u64) -> &'a str) -> String {
    let mut text = String::with_capacity(n_bytes + 64);
    let mut n = 0;
    while text.len() < n_bytes {
        text.push_str(next(mix(n)));
        n += 1;
    }
    text
}

fn words(n_bytes: usize) -> String {
    const WORDS: [&str; 8] = [
        "the ",
        "router ",
        "keeps ",
        "a prompt ",
        "on the ",
        "endpoint ",
        "that has ",
        "its prefix. ",
    ];
    text(n_bytes, |random| WORDS[random as usize % WORDS.len()])
}

fn body(messages: &[String]) -> Bytes {
    let messages: Vec<_> = messages
        .iter()
        .enumerate()
        .map(|(n, text)| {
            let role = if n % 2 == 0 { "user" } else { "assistant" };
            format!("{{\"role\":\"{role}\",\"content\":\"{text}\"}}")
        })
        .collect();
    let head = "{\"model\":\"llama-3.1-8b\",\"stream\":true,\"max_tokens\":256,\"messages\":[";
    Bytes::from(format!("{head}{}]}}", messages.join(",")))
}

/// Every kind of body at `n_bytes`.
fn bodies(n_bytes: usize) -> [(&'static str, Bytes); 6] {
    let paragraphs = || (0..n_bytes / 80).map(|_| words(70) + ".\\n").collect();
    let turns: Vec<String> = (0..n_bytes.div_ceil(100)).map(|_| words(48)).collect();
    [
        ("prose", body(&[words(n_bytes)])),
        ("paragraphs", body(&[paragraphs()])),
        ("many-messages", body(&turns)),
        ("code", body(&[text(n_bytes, |_| CODE)])),
        ("chinese", body(&[text(n_bytes, |_| CHINESE)])),
        ("chinese-by-number", body(&[text(n_bytes, |_| BY_NUMBER)])),
    ]
}

fn scan(chunks: &[Bytes]) -> ScannedRequest {
    let mut scan = RequestScan::new(Api::ChatCompletions, Limits::default());
    for chunk in chunks {
        scan.push(black_box(chunk)).unwrap();
    }
    scan.finish().unwrap()
}

fn body_scan(c: &mut Criterion) {
    for (n_bytes, size) in SIZES {
        let mut group = c.benchmark_group("body-scan");
        for (kind, body) in bodies(n_bytes) {
            let chunks: Vec<Bytes> = body.chunks(CHUNK_BYTES).map(|c| body.slice_ref(c)).collect();
            group.throughput(Throughput::Bytes(body.len() as u64));
            group.bench_function(BenchmarkId::new(kind, size), |b| b.iter(|| scan(&chunks)));
        }
    }
}

/// What producers do with a text: its length, and a look at all its bytes.
fn text_decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("text-decode-128KiB");
    for (kind, body) in bodies(128 * KIB) {
        let chunks: Vec<Bytes> = body.chunks(CHUNK_BYTES).map(|c| body.slice_ref(c)).collect();
        let request = scan(&chunks);
        let Some(Prompt::Text(pieces)) = request.prompts.first() else { unreachable!() };
        let texts: Vec<&RawText> = pieces
            .iter()
            .filter_map(|piece| if let Piece::Text(text) = piece { Some(text) } else { None })
            .collect();
        group.bench_function(BenchmarkId::new("bytes", kind), |b| {
            b.iter(|| texts.iter().for_each(|text| text.decode(&mut |part| _ = black_box(part))));
        });
        group.bench_function(BenchmarkId::new("length", kind), |b| {
            b.iter(|| texts.iter().map(|text| text.decoded_len()).sum::<usize>());
        });
    }
}

fn metrics_page(c: &mut Criterion) {
    const SERIES: [&str; 5] = [
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:lora_requests_info",
        "vllm:cache_config_info",
    ];
    let specs: Vec<SeriesSpec> = SERIES.iter().map(|series| series.parse().unwrap()).collect();
    let scan = PageScan::new(&specs);
    let mut group = c.benchmark_group("metrics-page");
    group.throughput(Throughput::Bytes(PAGE.len() as u64));
    group.bench_function("vllm-58KB", |b| {
        b.iter(|| black_box(scan.scan(black_box(PAGE.as_bytes()))))
    });
}

fn event(n: u64) -> String {
    format!(
        "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
         \"model\":\"llama-3.1-8b\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\" word{n}\"}},\
         \"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
    )
}

const USAGE: &str = "data: {\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\
    \"model\":\"llama-3.1-8b\",\"choices\":[],\"usage\":{\"prompt_tokens\":256,\"total_tokens\":320,\
    \"completion_tokens\":64,\"prompt_tokens_details\":{\"cached_tokens\":192}}}\n\ndata: [DONE]\n\n";

fn response_tail(c: &mut Criterion) {
    let mut group = c.benchmark_group("response-tail");
    let events: String = (0..64).map(event).collect();
    let one = event(7);
    let streams: [(&str, Vec<&str>); 3] = [
        ("one-event", vec![&one]),
        ("64-events-and-usage", vec![&events, USAGE]),
        ("usage-split-in-two", vec![&one, &USAGE[..150], &USAGE[150..]]),
    ];
    for (name, pieces) in streams {
        group.throughput(Throughput::Bytes(pieces.iter().map(|piece| piece.len() as u64).sum()));
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut scan = ResponseScan::new(Dialect::OpenAi, true);
                for piece in &pieces {
                    scan.push(black_box(piece.as_bytes()));
                }
                scan.end();
                black_box(scan.usage())
            });
        });
    }
}

/// Short: figures are compared by eye, within one run.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(30)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(700))
}

criterion_group! {
    name = benches;
    config = settings();
    targets = body_scan, text_decode, metrics_page, response_tail
}
criterion_main!(benches);
