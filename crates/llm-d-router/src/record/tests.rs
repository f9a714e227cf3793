use std::{os::unix::fs::PermissionsExt, path::Path};

use clap::Parser;
use router_core::{EndpointSpec, Stamp};
use router_engine::record::{Event, RequestNote};
use router_framework::keys::{HashedPrompts, PromptBlocks};
use router_kvcache::BlockHash;
use router_sim::replay::{read, recording::EndLine};
use std::sync::Arc;

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
    let started = Recording::start(&flags(path, more), &registry, Clock::new(), &Tasks::new())?;
    Ok(started.unwrap())
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
        max_output_tokens: None,
    }
}

fn lines(n_requests: u64, has_inputs: bool, keeps_names: bool) -> Lines {
    let mut lines = Lines::new(Anonymous::new(keeps_names), has_inputs);
    for n in 0..n_requests {
        let event = Event::Refused(Arc::new(request(n)));
        lines.add(&Entry { router: 0, at: Stamp::from_nanos(n * 1_000_000), event });
    }
    lines
}

#[tokio::test]
async fn a_recording_is_its_owners_alone_and_replaces_nothing_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.jsonl");
    let recording = start(&path, &[]).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    recording.finish().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let Some(last) = text.lines().last() else { panic!("{text}") };
    let end: EndLine = serde_json::from_str(last).unwrap();
    assert_eq!((end.end.why, end.end.requests), (Why::Stopped, 0));
    let refused = start(&path, &[]).err().unwrap().to_string();
    assert!(refused.contains("give --record-overwrite"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    start(&path, &["--record-overwrite", "--record-inputs"]).unwrap().finish().await;
    assert_ne!(std::fs::read_to_string(&path).unwrap(), text);
    let socket = folder.path().join("socket");
    let _listens = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let special = start(&socket, &["--record-overwrite"]).err().unwrap().to_string();
    assert!(special.contains("not a file") && socket.try_exists().unwrap(), "{special}");
    let tiny = start(&folder.path().join("t"), &["--record-max-bytes=300"]).err().unwrap();
    assert!(tiny.to_string().contains("no room"), "{tiny}");
    let nowhere = start(&folder.path().join("no/such"), &[]).err().unwrap();
    assert!(nowhere.to_string().starts_with("--record "), "{nowhere}");
}

#[tokio::test]
async fn a_full_file_is_closed_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.jsonl");
    let recording = start(&path, &["--record-inputs", "--record-max-bytes=4Ki"]).unwrap();
    let record = recording.recorder().router();
    // Half a megabyte, were there room for it.
    for _ in 0..1_000 {
        record.configured(&"x".repeat(500), None, &router_engine::Settings::default());
    }
    recording.finish().await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.len() > 2_000 && text.len() <= 4_096, "{}", text.len());
    let end: EndLine = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(end.end.why, Why::Full);
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
