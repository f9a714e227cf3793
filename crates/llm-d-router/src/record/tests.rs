use std::{os::unix::fs::PermissionsExt, path::Path};

use clap::Parser;
use router_core::{DropReason, EndpointSpec, ErrorCode, Stamp};
use router_engine::record::{Ended, Entry, Event, Refusal, Refused, RequestNote};
use router_framework::EndCause;
use router_framework::keys::{HashedPrompts, PromptBlocks};
use router_kvcache::BlockHash;
use router_sim::replay::{read, recording::EndLine, trace::Start};
use std::sync::Arc;

use router_telemetry::metrics::Counter;
use serde_json::Value;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: RecordFlags,
}

fn flags(path: &Path, more: &[&str]) -> RecordFlags {
    let path = path.display().to_string();
    let args = ["x", "--record", &path].into_iter().chain(more.iter().copied());
    Line::try_parse_from(args).unwrap_or_else(|error| panic!("{error}")).flags
}

fn start(path: &Path, more: &[&str]) -> anyhow::Result<Recording> {
    let registry = router_telemetry::Registry::default();
    let prepared = Prepared::of(&flags(path, more), &registry, Clock::new())?;
    prepared.unwrap().begin(&Tasks::new())
}

fn request(n: u64) -> RequestNote {
    let hashes = (0..3).map(BlockHash).collect();
    let prompts = vec![PromptBlocks { block_tokens: 64, hashes, n_tokens: 150 }];
    RequestNote {
        id: n,
        received: Stamp::from_nanos(n * 1_000_000),
        n_prompt_tokens: 150,
        blocks: Some(Arc::new(HashedPrompts { prompts })),
        model: "a-secret-model".into(),
        fairness_id: Some("a-secret-tenant".into()),
        priority: -1,
        streams: true,
        n_prompts: 1,
        n_answers: None,
        max_output_tokens: None,
    }
}

fn refused(request: RequestNote) -> Event {
    let refusal = Refusal {
        code: ErrorCode::ResourceExhausted,
        reason: Some(DropReason::TtlExpired),
        by_flow_control: true,
    };
    Event::Refused(Box::new(Refused { request: Arc::new(request), refusal }))
}

fn lines(n_requests: u64, has_inputs: bool, keeps_names: bool) -> Lines {
    let mut lines = Lines::new(Anonymous::new(keeps_names), has_inputs);
    for n in 0..n_requests {
        let event = refused(request(n));
        lines.add(&Entry { router: 0, at: Stamp::from_nanos(n * 1_000_000), event });
    }
    lines
}

#[tokio::test]
async fn a_recording_is_its_owners_alone_and_what_was_there_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.jsonl");
    let recording = start(&path, &[]).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    recording.finish().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let Some(last) = text.lines().last() else { panic!("{text}") };
    let end: EndLine = serde_json::from_str(last).unwrap();
    assert_eq!((end.end.why, end.end.requests), (Why::Stopped, 0));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let kept = |number: u32| folder.path().join(format!("r.jsonl.{number}"));
    start(&path, &["--record-inputs"]).unwrap().finish().await;
    assert_eq!(read(&kept(1)), text);
    assert_ne!(read(&path), text);
    let before_last = read(&path);
    start(&path, &[]).unwrap().finish().await;
    assert_eq!((read(&kept(1)), read(&kept(2))), (text.clone(), before_last));
    start(&path, &["--record-overwrite", "--record-inputs"]).unwrap().finish().await;
    assert_ne!(read(&path), text);
    assert!(!kept(3).try_exists().unwrap(), "it was to be replaced");
}

#[tokio::test]
async fn a_start_that_fails_leaves_everything_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.jsonl");
    std::fs::write(&path, "earlier").unwrap();
    let n_files = || std::fs::read_dir(folder.path()).unwrap().count();
    let fails = |path: &Path, more: &[&str], said: &str| {
        let error = start(path, more).err().unwrap().to_string();
        assert!(error.starts_with("--record ") && error.contains(said), "{error}");
    };
    fails(&path, &["--record-max-bytes=300"], "no room");
    fails(&path, &["--record-max-bytes=300", "--record-overwrite"], "no room");
    fails(&folder.path().join("new"), &["--record-max-bytes=300"], "no room");
    fails(&folder.path().join("no/such"), &[], "No such file");
    fails(folder.path(), &[], "not a file");
    assert_eq!((n_files(), std::fs::read_to_string(&path).unwrap().as_str()), (1, "earlier"));
    let socket = folder.path().join("socket");
    let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fails(&socket, &["--record-overwrite"], "not a file");
    assert!(socket.try_exists().unwrap());
    // Nothing is there before the router serves.
    let prepared = |flags: &RecordFlags| {
        Prepared::of(flags, &router_telemetry::Registry::default(), Clock::new()).unwrap()
    };
    drop(prepared(&flags(&path, &[])));
    drop(prepared(&flags(&folder.path().join("other"), &[])));
    assert_eq!((n_files(), std::fs::read_to_string(&path).unwrap().as_str()), (2, "earlier"));
}

#[tokio::test]
async fn a_full_file_is_closed_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.jsonl");
    let recording = start(&path, &["--record-inputs", "--record-max-bytes=4Ki"]).unwrap();
    let record = recording.recorder.router();
    // Half a megabyte, were there room for it.
    for _ in 0..1_000 {
        record.configured(&"x".repeat(500), None, &router_engine::Settings::default());
    }
    recording.finish().await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.len() > 2_000 && text.len() <= 4_096, "{}", text.len());
    let end: EndLine = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(end.end.why, Why::Full);
    assert_eq!(end.end.inputs, text.lines().count() as u64 - 2, "all but the first and the last");
}

#[test]
fn what_is_written_plays_and_nothing_in_it_can_be_recognised() {
    let lines = lines(20, true, false);
    let text = String::from_utf8(lines.made().to_vec()).unwrap();
    assert!(!text.contains("secret"), "{text}");
    for hash in 0..3 {
        assert!(!text.contains(&format!("[{hash},")), "{text}");
    }
    let header =
        "{\"llm-d-router-trace\":1,\"block_tokens\":64,\"recorded\":{\"version\":\"1\"}}\n";
    let trace = read::read("r", format!("{header}{text}").as_bytes(), None, usize::MAX).unwrap();
    assert_eq!(trace.requests.len(), 20);
    let [first, second, ..] = &trace.requests[..] else { panic!("{trace:?}") };
    assert_eq!((first.chain.len(), first.prompt_tokens, first.priority), (2, 150, -1));
    assert_eq!((&first.chain, &first.tenant), (&second.chain, &second.tenant));
    assert!(first.lora.is_none(), "a model is no adapter unless a server says so");
}

#[test]
fn names_are_written_on_demand() {
    let text = String::from_utf8(lines(1, false, true).made().to_vec()).unwrap();
    assert!(text.contains("\"a-secret-model\"") && text.contains("\"a-secret-tenant\""), "{text}");
}

#[test]
fn equal_scrapes_are_written_in_short_until_lines_are_missing() {
    let mut lines = Lines::new(Anonymous::new(false), true);
    let pool = router_core::Pool::new(0);
    pool.replace(vec![EndpointSpec::new("d", "a", "10.0.0.1", 1)]);
    let endpoint = pool.snapshot().endpoints()[0].clone();
    let scrape = |at: u64, waiting: f64, lines: &mut Lines| {
        let at = Stamp::from_nanos(at);
        endpoint.signal_cell().update(|signals| {
            signals.waiting = waiting;
            signals.scraped_at = at;
        });
        let scrape = router_engine::record::ScrapeNote::Page { at_its_port: true };
        let (signals, lora) = (endpoint.signals(), Some(endpoint.lora().clone()));
        let event = Event::Scraped { endpoint: endpoint.id().clone(), scrape, signals, lora };
        lines.clear();
        lines.add(&Entry { router: 0, at, event });
        String::from_utf8(lines.made().to_vec()).unwrap()
    };
    let whole = scrape(5, 1.0, &mut lines);
    assert_eq!(
        whole,
        "{\"input\":{\"scrape\":{\"endpoint\":\"d/a\",\"page\":{\"at_its_port\":true,\"fresh\":true,\
         \"signals\":{\"waiting\":1.0}}}},\"t\":5}\n"
    );
    assert!(!scrape(6, 1.0, &mut lines).contains("signals"));
    assert!(scrape(7, 2.0, &mut lines).contains("\"waiting\":2.0"));
    lines.gap(3);
    assert!(scrape(8, 2.0, &mut lines).contains("\"waiting\":2.0"));
}

/// The row of a request that was answered after so many events.
fn answered(request: RequestNote, n_events: u64) -> Value {
    let ended = Ended {
        request: Arc::new(request),
        endpoint: Some("d/a".into()),
        cause: EndCause::Natural,
        status: Some(http::StatusCode::OK),
        dispatched: Stamp::from_nanos(3_000_000),
        first_byte: Some(Stamp::from_nanos(9_000_000)),
        usage: None,
        n_events,
        is_adapter: false,
    };
    let mut lines = Lines::new(Anonymous::new(false), false);
    let event = Event::Ended(Box::new(ended));
    lines.add(&Entry { router: 0, at: Stamp::from_nanos(10_000_000), event });
    serde_json::from_slice(lines.made()).unwrap()
}

#[test]
fn an_answer_that_comes_as_a_whole_has_no_first_token() {
    let ttft = |streams, n_events| {
        let row = answered(RequestNote { streams, ..request(1) }, n_events);
        let observed = &row["observed"];
        assert!(observed["e2e"] == 0.009 && observed["dispatched"] == 0.002, "{row}");
        row["observed"]["ttft"].as_f64()
    };
    assert_eq!(ttft(true, 5), Some(0.008));
    assert_eq!(ttft(false, 0), None);
    // Nobody read what the client asked for, and it came in events.
    assert_eq!(ttft(false, 5), Some(0.008));
}

#[test]
fn what_a_request_asks_for_of_its_answer_is_told_where_it_is_not_usual() {
    let told = |streams, max_output_tokens, n_events| {
        let row = answered(RequestNote { streams, max_output_tokens, ..request(1) }, n_events);
        (row["stream"].as_bool(), row["max_tokens"].as_u64())
    };
    assert_eq!(told(true, None, 5), (None, None));
    assert_eq!(told(false, Some(64), 0), (Some(false), Some(64)));
    assert_eq!(told(false, Some(u64::MAX), 5), (None, Some(u64::from(read::MAX_TOKENS))));
    let mut lines = Lines::new(Anonymous::new(false), false);
    let event = refused(RequestNote { streams: false, ..request(3) });
    lines.add(&Entry { router: 0, at: Stamp::from_nanos(8_000_000), event });
    let row: Value = serde_json::from_slice(lines.made()).unwrap();
    assert_eq!(row["stream"], false);
}

#[test]
fn what_was_refused_says_why_and_when() {
    let mut lines = Lines::new(Anonymous::new(false), false);
    lines.add(&Entry { router: 0, at: Stamp::from_nanos(8_000_000), event: refused(request(3)) });
    let row: Value = serde_json::from_slice(lines.made()).unwrap();
    let expected = serde_json::json!(
        {"why": "rejected-ttl-expired", "after": 0.005, "by_flow_control": true}
    );
    assert_eq!((&row["refused"], &row["observed"]), (&expected, &Value::Null));
}

#[test]
fn several_prompts_and_answers_are_told() {
    let told = |n_prompts, n_answers| {
        let row = answered(RequestNote { n_prompts, n_answers, ..request(1) }, 5);
        (row["prompts"].as_u64(), row["answers"].as_u64())
    };
    assert_eq!(told(1, None), (None, None));
    assert_eq!(told(0, Some(1)), (None, None));
    assert_eq!(told(3, Some(4)), (Some(3), Some(4)));
    let most = u64::from(u16::MAX);
    assert_eq!(told(usize::MAX, Some(u64::MAX)), (Some(most), Some(most)));
}

fn small_file(path: &Path, max_bytes: u64) -> RecordFile {
    let header = Header { version: VERSION, block_tokens: 64, recorded: None };
    RecordFile::create(path, false, max_bytes, &header).unwrap().0
}

/// Requests of the file, each by its time.
fn read_times(path: &Path) -> Vec<f64> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(!text.contains('\0'), "holes: {text:?}");
    let trace = read::read("r", text.as_bytes(), None, usize::MAX).unwrap();
    let at = |start| match start {
        Start::At(at) => at.as_secs_f64(),
        Start::After { .. } => panic!("recorded"),
    };
    trace.requests.iter().map(|request| at(request.start)).collect()
}

#[test]
fn a_file_that_is_cut_from_outside_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.jsonl");
    let mut file = small_file(&path, 1 << 20);
    let written = Counter::default();
    let put = |file: &mut RecordFile, n_requests| {
        let mut made = lines(n_requests, false, false);
        assert_eq!(file.write(&mut made, &written).unwrap(), Written::Whole);
        file.flush().unwrap();
    };
    put(&mut file, 3);
    assert_eq!(read_times(&path), [0.0, 0.001, 0.002]);
    let before = file.n_bytes();
    for n_left in [0, 10] {
        // What `copytruncate` of logrotate does, and what is left when lines come in between.
        let other = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        other.set_len(n_left).unwrap();
        put(&mut file, 2);
        assert_eq!(read_times(&path), [0.0, 0.001], "{n_left} bytes were left");
        let length = std::fs::metadata(&path).unwrap().len();
        assert!(length == file.n_bytes() && length < before, "{length}");
    }
    // What it counts at its end is what is in it.
    file.close(Why::Stopped, 0, 0).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let end: EndLine = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!((end.end.requests, text.lines().count()), (2, 4));
}

#[test]
fn lines_go_to_the_file_as_a_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.jsonl");
    let mut file = small_file(&path, 64 << 20);
    let written = Counter::default();
    let mut n_bytes = Vec::new();
    // Each time several times as much as is kept before it is written.
    for _ in 0..20 {
        let mut made = lines(4_000, false, false);
        file.write(&mut made, &written).unwrap();
        let text = std::fs::read(&path).unwrap();
        assert_eq!(text.last(), Some(&b'\n'), "no line is in two writes");
        n_bytes.push(text.len());
    }
    assert!(n_bytes.is_sorted() && n_bytes[0] > 256 << 10, "{n_bytes:?}");
}
