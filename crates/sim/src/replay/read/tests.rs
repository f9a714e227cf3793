use std::time::Duration;

use super::{jsonl::reblocked, *};
use crate::replay::trace::Observed;

fn read_text(text: &str) -> Result<Trace, String> {
    read("t.x", text.as_bytes(), None, usize::MAX).map_err(|error| error.to_string())
}

fn check_fault(text: &str, said: &str) {
    let fault = read_text(text).err().unwrap_or_else(|| panic!("{text} is taken"));
    assert!(fault.contains(said), "{said:?} is missing in {fault:?}");
}

fn at(seconds: f64) -> Start {
    Start::At(Stamp::from_nanos((seconds * 1e9) as u64))
}

#[test]
fn mooncake() {
    let trace = read_text(
        "{\"timestamp\": 3000, \"input_length\": 1500, \"output_length\": 7, \"hash_ids\": [5, 6, 9]}\n\n\
         {\"timestamp\": 27, \"input_length\": 1024, \"output_length\": 3, \"hash_ids\": [5, 6], \"more\": 1}\n",
    )
    .unwrap();
    assert_eq!(trace.block_tokens, 512);
    let [first, second] = &trace.requests[..] else { panic!("{trace:?}") };
    assert_eq!((first.start, &*first.chain), (at(0.027), &[5, 6][..]), "in order of time");
    assert_eq!((second.start, &*second.chain), (at(3.0), &[5, 6][..]), "full blocks only");
    assert_eq!((second.prompt_tokens, second.output_tokens), (1500, 7));
}

#[test]
fn azure() {
    let trace = read_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n\
         2023-11-16 18:15:50.9951690,396,109\r\n",
    )
    .unwrap();
    assert_eq!(trace.block_tokens, 16);
    let [first, second] = &trace.requests[..] else { panic!("{trace:?}") };
    assert_eq!((first.start, second.start), (at(0.0), at(4.314_579)));
    assert_eq!((first.prompt_tokens, first.output_tokens), (374, 44));
    let n_blocks = (374 + 44) / 16;
    assert_eq!((first.chain.len(), second.chain.first()), (n_blocks, Some(&(n_blocks as u64))));
}

#[test]
fn own_lines() {
    let trace = read_text(
        "{\"llm-d-router-trace\": 1, \"block_tokens\": 64}\n\
         {\"at\": 0.25, \"prompt_tokens\": 300, \"output_tokens\": 80, \"blocks\": [1, 18446744073709551615], \"session\": \"a\", \"tenant\": \"x\"}\n\
         {\"at\": 0.25, \"prompt_tokens\": 9, \"priority\": -1, \"lora\": \"sql\", \"tenant\": \"x\"}\n\
         {\"after\": 0, \"think\": 4.5, \"prompt_tokens\": 420, \"output_tokens\": 60, \"session\": \"a\"}\n",
    )
    .unwrap();
    assert_eq!((trace.block_tokens, trace.check()), (64, Ok(())));
    let [first, second, third] = &trace.requests[..] else { panic!("{trace:?}") };
    assert_eq!((first.start, &*first.chain), (at(0.25), &[1, u64::MAX][..]));
    assert_eq!(
        (second.priority, second.lora.as_deref(), second.output_tokens),
        (-1, Some("sql"), 0)
    );
    assert!(Arc::ptr_eq(first.tenant.as_ref().unwrap(), second.tenant.as_ref().unwrap()));
    assert_eq!(third.start, Start::After { request: 0, think: Duration::from_millis(4500) });
}

#[test]
fn what_a_request_asks_for_of_its_answer() {
    let row = |more: &str| format!("{{\"at\": 0, \"prompt_tokens\": 9{more}}}\n");
    let asked = row(", \"stream\": false, \"max_tokens\": 64");
    let rows = [row(""), row(", \"stream\": true"), asked].concat();
    let header = "{\"llm-d-router-trace\": 1, \"block_tokens\": 64}\n";
    for text in [format!("{header}{rows}"), recorded(&rows)] {
        let trace = read_text(&text).unwrap();
        let read = trace.requests.iter().map(|one| (one.streams, one.max_output_tokens));
        let read: Vec<_> = read.collect();
        assert_eq!(read, [(true, None), (true, None), (false, Some(64))]);
    }
    let most = u64::from(MAX_TOKENS) + 1;
    check_fault(&recorded(&row(&format!(", \"max_tokens\": {most}"))), "`max_tokens` is 16777217");
    // Who recorded nothing of it must know what is played.
    for (version, n_notes) in [(1, 1), (2, 1), (3, 0)] {
        let newest = recorded(&(row("") + CLOSED));
        let text = newest.replacen(&VERSION.to_string(), &version.to_string(), 1);
        let (_, notes) = noted(&text, usize::MAX);
        assert_eq!(notes.len(), n_notes, "{notes:?}");
        assert!(notes.iter().all(|note| note.contains("which requests streamed")), "{notes:?}");
    }
}

#[test]
fn what_a_live_run_showed() {
    let trace = read_text(
        "{\"llm-d-router-trace\": 1, \"block_tokens\": 64}\n\
         {\"at\": 0, \"prompt_tokens\": 1200, \"observed\": {\"endpoint\": \"ns/a\", \"dispatched\": 0.25, \"ttft\": 0.31, \"e2e\": 4.2, \"prompt_tokens\": 1000, \"cached_tokens\": 1000, \"status\": 200}}\n\
         {\"at\": 1, \"prompt_tokens\": 9, \"observed\": {\"endpoint\": \"ns/a\", \"e2e\": 0.5, \"status\": 503}}\n",
    )
    .unwrap();
    let endpoint: Arc<str> = "ns/a".into();
    let whole = Observed {
        endpoint: Arc::clone(&endpoint),
        dispatched: Some(Duration::from_millis(250)),
        ttft: Some(Duration::from_millis(310)),
        e2e: Duration::from_millis(4200),
        prompt_tokens: Some(1000),
        cached_tokens: Some(1000),
        status: 200,
    };
    let e2e = Duration::from_millis(500);
    let failed = Observed {
        endpoint,
        dispatched: None,
        ttft: None,
        e2e,
        prompt_tokens: None,
        cached_tokens: None,
        status: 503,
    };
    let [first, second] = &trace.requests[..] else { panic!("{trace:?}") };
    assert_eq!(first.observed.as_deref(), Some(&whole));
    assert_eq!(second.observed.as_deref(), Some(&failed));
}

/// The first line of a recording, and these after it.
fn recorded(lines: &str) -> String {
    format!(
        "{{\"llm-d-router-trace\": {VERSION}, \"block_tokens\": 64, \"recorded\": {{\"version\": \"1\"}}}}\n{lines}"
    )
}

const CLOSED: &str =
    "{\"end\": {\"why\": \"stopped\", \"requests\": 1, \"dropped\": 0, \"under_way\": 0}}\n";
const TWO_ENDS: &str = "{\"input\": {\"gap\": {\"lines\": 1}}, \"t\": 5}\n\
    {\"at\": 7.5, \"prompt_tokens\": 64, \"blocks\": [2], \"model\": \"m\"}\n\
    {\"at\": 7.25, \"prompt_tokens\": 256, \"block_tokens\": 128, \"blocks\": [1, 2]}\n";

fn noted(text: &str, limit: usize) -> (Trace, Vec<String>) {
    let mut notes = Vec::new();
    let mut note = |text: &str| notes.push(text.to_owned());
    let trace = read_noting("t", text.as_bytes(), None, limit, &mut note).unwrap();
    (trace, notes)
}

#[test]
fn a_recording_is_put_into_the_order_of_arrivals() {
    let end =
        "{\"end\": {\"why\": \"stopped\", \"requests\": 2, \"dropped\": 0, \"under_way\": 0}}\n";
    let (trace, notes) = noted(&recorded(&format!("{TWO_ENDS}{end}")), usize::MAX);
    assert_eq!((notes, trace.check()), (vec![], Ok(())));
    let [first, second] = &trace.requests[..] else { panic!("{trace:?}") };
    assert_eq!((first.start, second.start), (at(0.0), at(0.25)), "time begins with the first");
    assert_eq!(
        (first.chain.len(), &*second.chain),
        (4, &[2][..]),
        "two blocks of 64 for one of 128"
    );
    assert_eq!(noted(&recorded(&format!("{TWO_ENDS}{end}")), 1).0.requests, trace.requests[..1]);
}

#[test]
fn what_one_sequence_cannot_stand_for_is_marked_and_can_be_left_out() {
    let row = |more: &str| format!("{{\"at\": 1, \"prompt_tokens\": 64{more}}}\n");
    let rows = [row(""), row(", \"prompts\": 3"), row(", \"prompts\": 2, \"answers\": 4")].concat();
    let (mut trace, _) = noted(&recorded(&rows), usize::MAX);
    let n_sequences: Vec<_> = trace.requests.iter().map(|one| one.n_sequences).collect();
    assert_eq!(n_sequences, [1, 3, 8]);
    assert_eq!((trace.leave_out_several(), trace.requests.len()), (2, 1));
    assert_eq!(trace.leave_out_several(), 0);
    let most = u64::MAX;
    let said = "`prompts` times `answers` is 0; it must be from 1 to 4294967295";
    check_fault(&recorded(&row(", \"prompts\": 0")), said);
    check_fault(
        &recorded(&row(&format!(", \"prompts\": {most}, \"answers\": 2"))),
        "times `answers` is 1844",
    );
    let own =
        format!("{{\"llm-d-router-trace\": 1, \"block_tokens\": 64}}\n{}", row(", \"answers\": 2"));
    check_fault(&own, "t.x:2: `prompts` and `answers` belong to recordings");
}

#[test]
fn a_recording_that_broke_off_is_read_to_its_last_whole_line() {
    let cut = "{\"at\": 8, \"prompt_tok";
    let (trace, notes) = noted(&recorded(&format!("{TWO_ENDS}{cut}")), usize::MAX);
    assert_eq!(trace.requests.len(), 2);
    let [cut_off, not_closed] = &notes[..] else { panic!("{notes:?}") };
    assert!(cut_off.contains("cut off") && not_closed.contains("not closed"));
    let dropped =
        "{\"end\": {\"why\": \"full\", \"requests\": 2, \"dropped\": 9, \"under_way\": 0}}\n";
    let noted_of = |end: &str| noted(&recorded(&format!("{TWO_ENDS}{end}")), usize::MAX).1;
    assert_eq!(noted_of(dropped), ["9 lines are missing: the router was busy"]);
    let one = dropped.replace('9', "1");
    assert_eq!(noted_of(&one), ["1 line is missing: the router was busy"]);
    // Within the file a broken line is an error.
    check_fault(&recorded(&format!("{cut}\n{TWO_ENDS}")), "t.x:2: EOF");
    check_fault(&recorded("{\"after\": 0, \"prompt_tokens\": 1}\n"), "no `after`");
}

#[test]
fn a_recording_that_is_not_whole_says_what_is_missing() {
    let end = "{\"end\": {\"why\": \"full\", \"requests\": 5, \"inputs\": 2, \"dropped\": 0, \"under_way\": 0}}\n";
    assert_eq!(
        noted(&recorded(&format!("{TWO_ENDS}{end}")), usize::MAX).1,
        [
            "3 requests are missing: its last line counts 5, and there are 2",
            "1 input is missing: its last line counts 2, and there is 1",
        ]
    );
    check_fault(&recorded(&recorded(TWO_ENDS)), "t.x:2: another recording begins here");
    let after = recorded(&format!("{end}{TWO_ENDS}"));
    check_fault(&after, "t.x:3: there is a line after the one with which the recording ends");
    let refused = "{\"at\": 7, \"prompt_tokens\": 9, \"refused\": {\"why\": \"rejected-saturated\", \"after\": 2.5, \"by_flow_control\": true}}\n";
    assert_eq!(noted(&recorded(refused), usize::MAX).0.requests.len(), 1);
}

#[test]
fn a_last_line_that_was_cut_off_is_left_out_of_any_trace() {
    let check = |whole: &str, last: &str| {
        for n_bytes in 1..last.len() {
            let (trace, notes) = noted(&format!("{whole}{}", &last[..n_bytes]), usize::MAX);
            let was_cut = notes == [CUT_OFF];
            // A number that lost digits is one too.
            let is_told = was_cut || last[..n_bytes].matches(',').count() == 2;
            assert_eq!(
                (is_told, trace.requests.len()),
                (true, 2 - usize::from(was_cut)),
                "{n_bytes}"
            );
        }
        let (trace, notes) = noted(&format!("{whole}{last}"), usize::MAX);
        assert_eq!((trace.requests.len(), notes.len()), (2, 0), "only its end is missing");
    };
    let own = "{\"at\": 8, \"prompt_tokens\": 10}";
    check(&format!("{{\"llm-d-router-trace\": 1, \"block_tokens\": 64}}\n{own}\n"), own);
    let mooncake = "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}";
    for n_bytes in 1..mooncake.len() {
        let cut = format!("{mooncake}\n{}", &mooncake[..n_bytes]);
        let (trace, notes) = noted(&cut, usize::MAX);
        assert_eq!((trace.requests.len(), notes), (1, vec![CUT_OFF.to_owned()]), "{cut}");
    }
    let row = "2023-11-16 18:15:46,374,44";
    check(&format!("TIMESTAMP,ContextTokens,GeneratedTokens\n{row}\n"), row);
    // What is no beginning of a line is wrong, wherever it stands.
    check_fault(&format!("{mooncake}\nhello"), "t.x:2: a line must be a JSON object");
    check_fault(&format!("{mooncake}\n{{\"timestamp\":0}}"), "t.x:2: missing field");
}

#[test]
fn a_byte_order_mark_is_passed_over() {
    let mooncake = "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}\n";
    let csv = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,374,44\n";
    let own =
        "{\"llm-d-router-trace\": 1, \"block_tokens\": 64}\n{\"at\": 8, \"prompt_tokens\": 10}\n";
    for text in [mooncake, csv, own, "\n"] {
        assert_eq!(read_text(&format!("\u{feff}{text}")), read_text(text), "{text}");
    }
    check_fault(&format!("{mooncake}\u{feff}{mooncake}"), "t.x:2: a line must be a JSON object");
}

#[test]
fn what_a_trace_names_is_bounded() {
    let read = |row: &dyn Fn(usize) -> String, n_rows: usize| {
        let rows: String = (0..n_rows).map(row).collect();
        read_text(&format!("{{\"llm-d-router-trace\": 1, \"block_tokens\": 64}}\n{rows}"))
    };
    let priority = |n| format!("{{\"at\": 0, \"prompt_tokens\": 1, \"priority\": {n}}}\n");
    assert_eq!(read(&priority, MAX_PRIORITIES).unwrap().requests.len(), MAX_PRIORITIES);
    let fault = read(&priority, MAX_PRIORITIES + 1).unwrap_err();
    assert_eq!(fault, "t.x:1002: the trace has more than 1000 priorities up to here");
    let lora = |n| format!("{{\"at\": 0, \"prompt_tokens\": 1, \"lora\": \"{n}\"}}\n");
    let fault = read(&lora, MAX_ADAPTERS + 1).unwrap_err();
    assert_eq!(fault, "t.x:10002: the trace has more than 10000 adapters up to here");
    let mut rows = Rows { n_name_bytes: MAX_NAMES_BYTES - 4, ..Rows::default() };
    let mut name = |name| rows.name("tenant", name);
    assert_eq!([name("four"), name("four")].map(|name| &*name.unwrap() == "four"), [true; 2]);
    let fault = name("5").unwrap_err();
    assert!(fault.to_string().contains("names in the trace have more than"), "{fault}");
}

#[test]
fn sessions_take_no_room() {
    let text = "{\"llm-d-router-trace\": 1, \"block_tokens\": 64}\n\
        {\"at\": 0, \"prompt_tokens\": 1, \"session\": \"a\"}\n";
    let mut lines = Lines { input: text.as_bytes(), line: Vec::new(), at: 0 };
    let mut rows = Rows { n_name_bytes: MAX_NAMES_BYTES, limit: 9, ..Rows::default() };
    assert!(lines.next().unwrap());
    jsonl::read(&mut lines, &mut rows).unwrap();
    assert_eq!(rows.trace.requests.len(), 1);
}

#[test]
fn what_goes_beyond_the_most_requests_is_noted() {
    let line = "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}\n";
    let read = |n_lines, limit| {
        let text = line.repeat(n_lines);
        let mut lines = Lines { input: text.as_bytes(), line: Vec::new(), at: 0 };
        let mut notes = Vec::new();
        let mut note = |text: &str| notes.push(text.to_owned());
        let trace = read_lines(&mut lines, None, limit, 3, &mut note).unwrap();
        (trace.requests.len(), notes.concat())
    };
    assert_eq!(read(3, usize::MAX), (3, String::new()));
    assert_eq!(read(4, 3), (3, String::new()), "no more were asked for");
    let told = "only its first 3 requests were read: more are too many";
    assert_eq!(read(4, usize::MAX), (3, told.to_owned()));
}

#[test]
fn blocks_of_another_size_keep_what_they_have_in_common() {
    let prefix = |a: &[u64], b: &[u64]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let check = |from, to, expected: usize| {
        let ids = |last: u64| reblocked(vec![1, 2, 3, 4, 5, 6, last, last + 10], from, to);
        assert_eq!(prefix(&ids(7), &ids(9)), expected, "{from} to {to}");
    };
    check(64, 64, 6);
    check(64, 128, 3);
    check(64, 192, 2);
    check(128, 64, 12);
    check(96, 64, 0);
}

#[test]
fn a_limit_ends_the_reading() {
    let text =
        "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}\n".repeat(10);
    let trace = read("t", text.as_bytes(), Some(Format::Mooncake), 4).unwrap();
    assert_eq!(trace.requests.len(), 4);
}

#[test]
fn faults_name_file_and_line() {
    let good = "{\"timestamp\":0,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}\n";
    check_fault("", "t.x: there is no request");
    check_fault("\n\n", "t.x: there is no request");
    check_fault("hello\n", "t.x: this is no trace that is known");
    check_fault(
        &format!("{good}\n{{\"timestamp\": 1}}\n"),
        "t.x:3: missing field `input_length` (column 16)",
    );
    check_fault(&format!("{good}{{\n"), "t.x:2: EOF while parsing");
    check_fault(&format!("{good}\0\0\0\n"), "t.x:2: a line must be a JSON object");
    for line in ["[]", "[0, 1, 1, []]", "3", "null"] {
        check_fault(&format!("{good}{line}\n"), "t.x:2: a line must be a JSON object");
    }
    check_fault(
        "{\"timestamp\":0,\"input_length\":512,\"output_length\":1,\"hash_ids\":[1,2]}",
        "t.x:1: the number of `hash_ids` is 2; it must be from 0 to 1",
    );
    check_fault(
        "{\"timestamp\":-1,\"input_length\":1,\"output_length\":1,\"hash_ids\":[]}",
        "t.x:1: `timestamp` is -1; it must be from 0 to 31622400000 milliseconds",
    );
    check_fault(
        "{\"timestamp\":0,\"input_length\":99999999,\"output_length\":1,\"hash_ids\":[]}",
        "t.x:1: the prompt's length is 99999999; it must be from 0 to 16777216",
    );
    let csv = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
    check_fault(csv, "t.x: there is no request");
    check_fault("TIMESTAMP,Tokens\n", "t.x:1: expected the columns");
    check_fault(&format!("{csv}2023-11-16 18:15:46,1\n"), "t.x:2: expected three fields");
    check_fault(&format!("{csv}yesterday,1,1\n"), "t.x:2: \"yesterday\" is no time");
    check_fault(&format!("{csv}2023-11-16 18:15:46,-1,1\n"), "t.x:2: ContextTokens is \"-1\"");
    check_fault(
        &format!("{csv}2023-11-16 18:15:46,1,1\n2023-11-16 18:15:45,1,1\n"),
        "t.x:3: the time is before that of the first request",
    );
}

#[test]
fn faults_of_own_lines() {
    let check = |rows: &str, said: &str| {
        let header = "{\"llm-d-router-trace\": 1, \"block_tokens\": 16}\n";
        check_fault(&format!("{header}{rows}"), said);
    };
    check(
        "{\"at\": 0, \"promt_tokens\": 1}",
        "t.x:2: unknown field `promt_tokens`, expected one of",
    );
    check("[]", "t.x:2: a line must be a JSON object");
    check("{\"prompt_tokens\": 1}", "t.x:2: a request needs `at` or `after`");
    check("{\"at\": 0, \"after\": 0, \"prompt_tokens\": 1}", "either `at` or `after`");
    check("{\"after\": 0, \"prompt_tokens\": 1}", "the first request cannot wait");
    check("{\"at\": 0, \"think\": 1, \"prompt_tokens\": 1}", "`think` belongs to `after`");
    check(
        "{\"at\": 5, \"prompt_tokens\": 1}\n{\"at\": 4, \"prompt_tokens\": 1}",
        "t.x:3: `at` goes back",
    );
    check(
        "{\"at\": 5, \"prompt_tokens\": 1}\n{\"after\": 1, \"prompt_tokens\": 1}",
        "t.x:3: `after` is 1; it must be from 0 to 0",
    );
    check(
        "{\"at\": 0, \"prompt_tokens\": 31, \"blocks\": [1, 2]}",
        "the number of `blocks` is 2; it must be from 0 to 1",
    );
    check(
        "{\"at\": 0, \"prompt_tokens\": 1, \"tenant\": \"\"}",
        "tenant is \"\"; it must be a name",
    );
    check("{\"at\": 0, \"prompt_tokens\": 1, \"lora\": \"a\\nb\"}", "lora is \"a\\nb\"");
    let row = |field: &str, said: &str| {
        check(&format!("{{\"tenant\": \"a:b\", {field}, \"at\": 0}}"), &format!("t.x:2: {said}"));
    };
    row(
        "\"prompt_tokens\": -3",
        "`prompt_tokens`: invalid value: integer `-3`, expected a whole number from 0 to 4294967295 (column 37)",
    );
    row(
        "\"priority\": 1.5",
        "`priority`: invalid type: floating point `1.5`, expected a whole number from -2147483648 to 2147483647",
    );
    row(
        "\"blocks\": [1, -2]",
        "`blocks`: invalid value: integer `-2`, expected a whole number from 0",
    );
    row("\"session\": {\"x\": 1}", "`session`: invalid type: map, expected a string");
    row("\"lora\": \"x\"", "missing field `prompt_tokens`");
    let observed = |fields: &str, said: &str| {
        check(&format!("{{\"at\": 0, \"prompt_tokens\": 9, \"observed\": {{{fields}}}}}"), said);
    };
    observed("\"endpoint\": \"a\", \"status\": 200", "missing field `e2e`");
    observed("\"endpoint\": \"a\", \"e2e\": -1, \"status\": 200", "`e2e` is -1; it must be");
    observed("\"endpoint\": \"\", \"e2e\": 1, \"status\": 200", "`endpoint` is \"\"");
    observed("\"endpoint\": \"a\", \"e2e\": 1, \"status\": 20", "`status` is 20; it must be");
    observed(
        "\"endpoint\": \"a\", \"e2e\": 1, \"ttft\": 2, \"status\": 200",
        "`ttft` is longer than `e2e`",
    );
    observed(
        "\"endpoint\": \"a\", \"e2e\": 1, \"ttft\": 0.5, \"dispatched\": 0.6, \"status\": 200",
        "`dispatched` comes after the answer",
    );
    observed(
        "\"endpoint\": \"a\", \"e2e\": 1, \"prompt_tokens\": 9, \"cached_tokens\": 10, \"status\": 200",
        "the number of tokens in `observed` is 10; it must be from 0 to 9",
    );
    observed("\"endpoint\": \"a\", \"e2e\": 1, \"status\": 200, \"x\": 1", "unknown field `x`");
    check_fault(
        "{\"llm-d-router-trace\": 4, \"block_tokens\": 16}\n",
        "t.x:1: this is version 4 of the format; this llm-d-router reads 1 to 3",
    );
}

#[test]
fn a_line_without_end_is_not_kept_in_memory() {
    struct Endless;
    impl io::Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(b' ');
            Ok(buffer.len())
        }
    }
    let error = read("endless", io::BufReader::new(Endless), None, 1).err().unwrap();
    assert_eq!(error.to_string(), "endless:1: the line is longer than 16777216 bytes");
}

#[test]
fn hostile_bytes_are_refused_or_playable() {
    for choice in 0..4 {
        for rest in
            [&b"\xff\xfe"[..], b"{\"hash_ids\"", b"TIMESTAMP\n\xff", b"servers: [{name: a}]"]
        {
            fuzz_traces(&[&[choice], rest].concat());
        }
    }
}
