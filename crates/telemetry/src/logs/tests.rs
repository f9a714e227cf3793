use std::sync::Arc;

use parking_lot::Mutex;
use tracing_subscriber::layer::SubscriberExt;

use serde_json::{Map, Value};

use super::*;

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `log` writes, under these options.
fn captured(options: LogOptions, log: impl FnOnce()) -> String {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::registry().with(layer(&options, move || writer.clone()));
    tracing::subscriber::with_default(subscriber, log);
    let bytes = captured.0.lock().clone();
    String::from_utf8(bytes).unwrap()
}

fn json_lines(text: &str) -> Vec<Map<String, Value>> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_json_line_has_its_keys_in_order_and_its_fields() {
    let text = captured(LogOptions::default(), || {
        tracing::info!(target: "router_engine", endpoint = "10.0.0.1:8000", n = 3, ok = true, "picked");
    });
    let lines = json_lines(&text);
    let keys: Vec<&str> = lines[0].keys().map(String::as_str).collect();
    assert_eq!(keys, ["level", "ts", "logger", "caller", "msg", "endpoint", "n", "ok"]);
    assert_eq!(lines[0]["level"], "info");
    assert_eq!(lines[0]["logger"], "router_engine");
    assert_eq!(lines[0]["msg"], "picked");
    assert!(lines[0]["ts"].as_f64().unwrap() > 1.6e9);
    let caller = lines[0]["caller"].as_str().unwrap();
    let (file, line) = caller.rsplit_once(':').unwrap();
    assert_eq!((file, line.parse::<u32>().is_ok()), (file!(), true), "{caller}");
}

#[test]
fn callers_name_no_folder_of_the_machine() {
    let check = |file, expected| assert_eq!(short(file), expected);
    check("crates/engine/src/decide.rs", "crates/engine/src/decide.rs");
    check("/cargo/registry/src/index-1/h2-0.4/src/codec/framed.rs", "h2-0.4/src/codec/framed.rs");
    check("/build/checkout/crates/net/src/lib.rs", "net/src/lib.rs");
    check("C:\\cargo\\h2-0.4\\src\\lib.rs", "h2-0.4\\src\\lib.rs");
    check("/odd.rs", "/odd.rs");
    check("", "");
}

#[test]
fn span_fields_come_along_and_the_event_wins() {
    let text = captured(LogOptions::default(), || {
        let outer =
            tracing::info_span!(target: "router_x", "request", "x-request-id" = "r1", model = "m");
        let _outer = outer.enter();
        let inner =
            tracing::info_span!(target: "router_x", "attempt", endpoint = tracing::field::Empty);
        let _inner = inner.enter();
        inner.record("endpoint", "e1");
        tracing::warn!(target: "router_x", model = "other", "moved on");
    });
    let line = &json_lines(&text)[0];
    assert_eq!(line["x-request-id"], "r1");
    assert_eq!(line["endpoint"], "e1");
    assert_eq!(line["model"], "other");
    assert_eq!(text.matches("\"model\"").count(), 1);
}

#[test]
fn hostile_values_cannot_break_a_line_or_take_its_keys() {
    let text = captured(LogOptions::default(), || {
        let hostile = "a\"}\n{\"level\":\"fatal\u{0}\u{1b}[31m";
        tracing::info!(target: "router_x", model = hostile, msg = "mine", level = 7, caller = "me", "{hostile}");
        tracing::info!(target: "router_x", nan = f64::NAN, "second");
    });
    let lines = json_lines(&text);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["level"], "info");
    assert_eq!(lines[0]["level_"], 7);
    assert_eq!(lines[0]["msg_"], "mine");
    assert_eq!(lines[0]["caller_"], "me");
    assert_eq!(lines[0]["model"], lines[0]["msg"]);
    assert_eq!(lines[1]["nan"], "NaN");
}

#[test]
fn others_are_kept_quiet() {
    let options = LogOptions { level: LevelFilter::TRACE, ..LogOptions::default() };
    let text = captured(options, || {
        tracing::trace!(target: "router_net::server", "ours");
        tracing::info!(target: "h2::codec", "theirs");
        tracing::warn!(target: "hyper", "their warning");
    });
    let messages: Vec<Value> = json_lines(&text).iter().map(|line| line["msg"].clone()).collect();
    assert_eq!(messages, ["ours", "their warning"]);
}

#[test]
fn human_lines_have_no_colour_away_from_a_terminal() {
    let options = LogOptions { format: LogFormat::Human, ..LogOptions::default() };
    let text = captured(options, || tracing::info!(target: "router_x", n = 1, "hello"));
    // The tests' standard error may be a terminal; then colours are right.
    if !io::stderr().is_terminal() {
        assert!(text.contains("INFO router_x: hello n=1") && !text.contains('\u{1b}'), "{text}");
    }
}

#[test]
fn levels_by_go_flags() {
    for (verbosity, level) in [
        (-1, LevelFilter::INFO),
        (0, LevelFilter::INFO),
        (3, LevelFilter::INFO),
        (4, LevelFilter::DEBUG),
        (5, LevelFilter::TRACE),
        (99, LevelFilter::TRACE),
    ] {
        assert_eq!(LogOptions::level_of_verbosity(verbosity), level);
    }
    assert_eq!(LogOptions::level_of_zap("error"), Ok(LevelFilter::ERROR));
    assert_eq!(LogOptions::level_of_zap("Debug"), Ok(LevelFilter::DEBUG));
    assert_eq!(LogOptions::level_of_zap("5"), Ok(LevelFilter::TRACE));
    assert_eq!(LogOptions::level_of_zap("0"), Err(LogError::UnknownLevel("0".to_owned())));
    assert_eq!("json".parse(), Ok(LogFormat::Json));
    assert_eq!("console".parse(), Ok(LogFormat::Human));
    assert!("xml".parse::<LogFormat>().is_err());
}
