use std::collections::BTreeMap;

use super::*;
use crate::replay::recording::{
    CauseInput, ConfigurationInput, DecisionInput, EndLine, EndedInput, Exact, FailedInput,
    FailureInput, HeadInput, Header, HealthInput, Input, InputLine, MemberInput, PageInput,
    PromptInput, RecordEnd, RecordedBy, ScrapeInput, SignalsInput, UsageInput, VERSION, Why,
};

const BY_QUEUE: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
";

const BY_LOAD: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: active-request-scorer
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: active-request-scorer
";

/// A recording, line by line.
struct Recording {
    text: String,
    t: u64,
}

impl Recording {
    /// Endpoints a, b, c, and a router that is configured so.
    fn of(document: &str) -> Self {
        let recorded = RecordedBy { version: "test".to_owned(), inputs: true };
        let header = Header { version: VERSION, block_tokens: 64, recorded: Some(recorded) };
        let text = serde_json::to_string(&header).unwrap() + "\n";
        let mut recording = Self { text, t: 0 };
        recording.add(Input::Configuration(Box::new(ConfigurationInput {
            name: "test.yaml".to_owned(),
            text: Some(document.to_owned()),
            seed: 1,
            refresh_interval: 50_000_000,
            staleness_threshold: 2_000_000_000,
            disable_subset_filter: false,
            health: HealthInput {
                enabled: true,
                base_ejection: 1_000_000_000,
                max_ejection: 30_000_000_000,
                failed_scrapes: 3,
                unavailable: 3,
            },
        })));
        let member = |name: &str| MemberInput {
            namespace: "d".to_owned(),
            name: name.to_owned(),
            address: "10.0.0.1".to_owned(),
            port: u16::from(name.as_bytes()[0]),
            labels: BTreeMap::new(),
            rank: 0,
        };
        recording.add(Input::Members(["a", "b", "c"].map(member).to_vec()));
        recording
    }

    /// A millisecond later.
    fn add(&mut self, input: Input) {
        self.t += 1_000_000;
        let line = InputLine { input, t: self.t, router: 0 };
        self.text += &(serde_json::to_string(&line).unwrap() + "\n");
    }

    fn scraped(&mut self, endpoint: &str, waiting: f64) {
        let signals = SignalsInput { waiting: Exact::of(waiting), ..SignalsInput::default() };
        let page = PageInput { at_its_port: true, fresh: true, signals: Some(signals), lora: None };
        let (endpoint, page) = (endpoint.to_owned(), Some(page));
        self.add(Input::Scrape(Box::new(ScrapeInput { endpoint, page, refused: None })));
    }

    fn decided(&mut self, id: u64, targets: &[&str]) {
        self.add(Input::Decision(Box::new(DecisionInput {
            scores: scores(targets),
            ..decision(id, targets)
        })));
    }

    /// Flow control refuses it.
    fn turned_away(&mut self, id: u64, reason: &str) {
        self.add(Input::Decision(Box::new(DecisionInput {
            refused: Some("ResourceExhausted".to_owned()),
            reason: Some(reason.to_owned()),
            by_flow_control: true,
            ..decision(id, &[])
        })));
    }

    fn ended(&mut self, id: u64) {
        self.add(Input::Head(HeadInput { id, status: 200, from_proxy: false, served: None }));
        self.add(Input::FirstByte { id });
        let usage = UsageInput { prompt: 10, completion: 2, cached: None, total: 12 };
        self.add(Input::Ended(EndedInput { id, cause: CauseInput::Natural, usage: Some(usage) }));
    }

    fn close(&mut self) {
        let why = Why::Stopped;
        let end = RecordEnd { why, requests: 0, inputs: 0, dropped: 0, under_way: 0 };
        self.text += &(serde_json::to_string(&EndLine { end }).unwrap() + "\n");
    }

    fn again(&self, configuration: Option<&str>) -> Result<Report, ReproduceError> {
        let configuration = configuration
            .map(|text| Configuration { name: "other".to_owned(), text: Some(text.to_owned()) });
        let registry = Registry::new(router_plugins::PLUGINS.iter().copied());
        let terms = Terms { configuration, registry, allow_experimental: true };
        reproduce("r.jsonl", self.text.as_bytes(), &terms)
    }
}

fn decision(id: u64, targets: &[&str]) -> DecisionInput {
    DecisionInput {
        id,
        model: "m".to_owned(),
        targets: targets.iter().map(|target| (*target).to_owned()).collect(),
        refused: targets.is_empty().then(|| "ServiceUnavailable".to_owned()),
        prompts: vec![PromptInput { tokens: 10, block_tokens: 64, blocks: vec![1] }],
        ..DecisionInput::default()
    }
}

/// What `queue-scorer` says of queues of which each is as much longer than the one before it.
fn scores(targets: &[&str]) -> Vec<(String, Exact)> {
    let last = targets.len().saturating_sub(1).max(1) as f64;
    let score = |nth: usize| Exact(1.0 - nth as f64 / last);
    targets.iter().enumerate().map(|(nth, name)| ((*name).to_owned(), score(nth))).collect()
}

/// Three decisions by queues that change.
fn by_queue() -> Recording {
    let mut recording = Recording::of(BY_QUEUE);
    for (endpoint, waiting) in [("d/a", 3.0), ("d/b", 1.0), ("d/c", 2.0)] {
        recording.scraped(endpoint, waiting);
    }
    recording.decided(1, &["d/b", "d/c", "d/a"]);
    recording.scraped("d/a", 0.0);
    recording.decided(2, &["d/a", "d/b", "d/c"]);
    recording.ended(1);
    recording.decided(3, &["d/a", "d/b", "d/c"]);
    recording
}

#[test]
fn what_was_decided_is_decided_again() {
    let mut recording = by_queue();
    recording.close();
    let report = recording.again(None).unwrap();
    assert_eq!(report, Report { n_decisions: 3, n_equal: 3, ..Report::default() });
}

#[test]
fn what_differs_is_shown_and_changes_nothing_that_comes_after_it() {
    let mut recording = by_queue();
    recording.decided(4, &["d/c", "d/a", "d/b"]);
    recording.decided(5, &[]);
    recording.decided(6, &["d/a", "d/c", "d/b"]);
    recording.decided(7, &["d/a", "d/b", "d/c"]);
    recording.close();
    let report = recording.again(None).unwrap();
    assert_eq!((report.n_decisions, report.n_equal, report.n_same_endpoint), (7, 4, 1));
    let [other, refused, order] = &report.differences[..] else { panic!("{report:?}") };
    assert_eq!((other.request, other.again.targets[0].as_str()), (4, "d/a"));
    assert_eq!(other.again.scores.first(), Some(&("d/a".to_owned(), 1.0)));
    assert_eq!(refused.recorded.refused.as_deref(), Some("ServiceUnavailable"));
    assert_eq!(order.recorded.targets[0], order.again.targets[0]);
}

#[test]
fn scores_are_compared_as_well() {
    let check = |more: f64, n_equal| {
        let mut recording = by_queue();
        let targets = ["d/a", "d/b", "d/c"];
        let mut other = decision(4, &targets);
        other.scores = scores(&targets);
        other.scores[1].1.0 += more;
        recording.add(Input::Decision(Box::new(other)));
        recording.close();
        let report = recording.again(None).unwrap();
        assert_eq!((report.n_equal, report.n_same_targets), (n_equal, 4 - n_equal), "{report:?}");
        // Another configuration is asked where the request goes, and nothing else.
        assert!(recording.again(Some(BY_QUEUE)).unwrap().is_equal());
    };
    check(0.0, 4);
    check(SCORE_TOLERANCE / 2.0, 4);
    check(2.0 * SCORE_TOLERANCE, 3);
    check(-1.0, 3);
}

#[test]
fn what_flow_control_refused_is_left_out() {
    let mut recording = by_queue();
    recording.turned_away(4, "rejected-saturated");
    recording.turned_away(5, "rejected-ttl-expired");
    recording.turned_away(6, "rejected-saturated");
    recording.decided(7, &["d/a", "d/b", "d/c"]);
    recording.close();
    let report = recording.again(None).unwrap();
    let refused = [("rejected-saturated", 2), ("rejected-ttl-expired", 1)];
    let refused = refused.map(|(reason, n)| (reason.to_owned(), n)).into();
    let expected = Report {
        n_decisions: 4,
        n_equal: 4,
        refused_by_flow_control: refused,
        ..Report::default()
    };
    assert_eq!(report, expected);
    // Reasons of a file that somebody made up are no more than so many.
    (0..50).for_each(|n| recording.turned_away(n, &format!("reason {n}")));
    let lines = recording.text.lines().filter(|line| !line.starts_with("{\"end\""));
    recording.text = lines.collect::<Vec<_>>().join("\n") + "\n";
    let report = recording.again(None).unwrap();
    assert_eq!(report.refused_by_flow_control.len(), MAX_REASONS + 1);
    assert_eq!(report.refused_by_flow_control["other reasons"], 50 - (MAX_REASONS as u64 - 2));
}

#[test]
fn an_older_recording_does_not_mark_what_flow_control_refused() {
    let mut recording = by_queue();
    recording.decided(4, &[]);
    recording.close();
    let first = |version: u64| format!("{{\"llm-d-router-trace\":{version},");
    let older = Recording { text: recording.text.replace(&first(VERSION), &first(1)), t: 0 };
    let notes = |recording: &Recording| recording.again(None).unwrap().notes;
    assert_eq!(notes(&recording), Vec::<String>::new());
    let notes = notes(&older);
    assert!(notes.len() == 1 && notes[0].contains("an older router"), "{notes:?}");
    let newer =
        Recording { text: recording.text.replace(&first(VERSION), &first(VERSION + 1)), t: 0 };
    let error = newer.again(None).unwrap_err().to_string();
    assert_eq!(error, "r.jsonl:1: this is version 4 of the format; this llm-d-router reads 1 to 3");
}

#[test]
fn another_configuration_decides_about_what_really_went_on() {
    // By queue all go to `a`; by load none would have gone where one is under way already.
    let mut recording = Recording::of(BY_QUEUE);
    for (endpoint, waiting) in [("d/a", 0.0), ("d/b", 1.0), ("d/c", 2.0)] {
        recording.scraped(endpoint, waiting);
    }
    for id in 1..=3 {
        recording.decided(id, &["d/a", "d/b", "d/c"]);
    }
    recording.close();
    assert!(recording.again(None).unwrap().is_equal());
    let report = recording.again(Some(BY_LOAD)).unwrap();
    let later = report.differences.iter().filter(|difference| difference.request > 1);
    let firsts: Vec<_> = later.map(|difference| difference.again.targets[0].as_str()).collect();
    assert!(firsts.len() == 2 && !firsts.contains(&"d/a"), "{report:?}");
}

#[test]
fn failures_take_an_endpoint_out_as_they_did() {
    let mut recording = by_queue();
    let what = FailureInput::Unreachable;
    recording.add(Input::Failed(FailedInput { id: 3, what, next: Some("d/b".to_owned()) }));
    recording.decided(4, &["d/b", "d/c"]);
    recording.scraped("d/a", 0.0);
    recording.decided(5, &["d/a", "d/b", "d/c"]);
    recording.close();
    let report = recording.again(None).unwrap();
    assert!(report.is_equal(), "{report:?}");
}

#[test]
fn what_is_not_whole_is_told() {
    let mut recording = by_queue();
    recording.add(Input::Gap { lines: 7 });
    recording.text += "{\"input\":{\"first_by";
    let report = recording.again(None).unwrap();
    assert_eq!((report.n_lines_missing, report.n_equal), (7, 3));
    let [cut_off, not_closed] = &report.notes[..] else { panic!("{report:?}") };
    assert!(cut_off.contains("cut off") && not_closed.contains("not closed"));

    let mut recording = by_queue();
    recording.text += "{\"end\":{\"why\":\"stopped\",\"requests\":4,\"inputs\":90,\"dropped\":0,\"under_way\":0}}\n";
    let [requests, inputs] = &recording.again(None).unwrap().notes[..] else { panic!() };
    assert_eq!(requests, "4 requests are missing: its last line counts 4, and there are 0");
    assert!(inputs.contains("inputs are missing: its last line counts 90"), "{inputs}");
}

#[test]
fn what_cannot_be_made_again_says_why() {
    let check = |text: String, said: &str| {
        let error = Recording { text, t: 0 }.again(None).unwrap_err().to_string();
        assert!(error.contains(said), "{said:?} is missing in {error:?}");
    };
    let header =
        |recorded: &str| format!("{{\"llm-d-router-trace\":1,\"block_tokens\":64{recorded}}}\n");
    check(String::new(), "r.jsonl: there is no request in it");
    check(header(""), "r.jsonl:1: this is no recording of live traffic");
    check(header(",\"recorded\":{\"version\":\"1\"}"), "--record-inputs makes one that has");
    let with_inputs = header(",\"recorded\":{\"version\":\"1\",\"inputs\":true}");
    let line = |line: &str| format!("{with_inputs}{line}\n");
    check(
        line("{\"input\":{\"first_byte\":{\"id\":1}},\"t\":1}"),
        "r.jsonl:2: nothing says how router 0",
    );
    check(
        line("{\"input\":{\"first_byte\":{\"id\":1}},\"t\":99999999999999999}"),
        "r.jsonl:2: `t` is 99",
    );
    check(line("{\"input\":{\"nonsense\":1},\"t\":1}"), "r.jsonl:2: unknown variant `nonsense`");
    check(Recording::of("kind: Nonsense").text, "test.yaml:1:7");
    let mut whole = by_queue();
    check(whole.text.clone() + "garbage\n", "r.jsonl:14: a line must be a JSON object");
    check(whole.text.clone() + "{\"at\":1}\n", "r.jsonl:14: missing field `prompt_tokens`");
    check(whole.text.clone() + &by_queue().text, "r.jsonl:14: another recording begins here");
    whole.close();
    check(
        whole.text.clone() + "{\"at\":1,\"prompt_tokens\":1}\n",
        "r.jsonl:15: there is a line after",
    );
}
