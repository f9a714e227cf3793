use proptest::prelude::*;

use super::*;
use crate::fuzz::fuzz_prometheus;

const UNDER_LOAD: &str = include_str!("../../../../testdata/wire/metrics-under-load.txt");
const LORA: &str = include_str!("../../../../testdata/wire/metrics-lora-waiting.txt");

fn specs(texts: &[&str]) -> Vec<SeriesSpec> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// The value of one series in a page.
fn check(spec: &str, page: &str, expected: Option<f64>) {
    let scan = PageScan::new(&specs(&[spec]));
    let value = scan.scan(page.as_bytes()).value(0);
    // The text tells NaN from nothing.
    assert_eq!(format!("{value:?}"), format!("{expected:?}"), "{spec} in {page:?}");
}

fn check_malformed(page: &str) {
    let found = PageScan::new(&specs(&["a"])).scan(page.as_bytes());
    assert_eq!((found.value(0), found.n_malformed), (None, 1), "{page:?}");
}

#[test]
fn a_page_of_vllm_is_read() {
    let wanted = specs(&[
        "vllm:num_requests_waiting",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:lora_requests_info",
        "vllm:cache_config_info",
    ]);
    let page = PageScan::new(&wanted).scan(UNDER_LOAD.as_bytes());
    let values: Vec<_> = (0..5).map(|i| page.value(i)).collect();
    assert_eq!(values, [Some(6.0), Some(4.0), Some(0.20512820512820518), None, Some(1.0)]);
    assert_eq!((page.n_malformed, page.is_open_metrics), (0, false));
    let cache = page.sample(4).unwrap();
    assert_eq!(cache.label_u64("block_size"), Some(32));
    assert_eq!(cache.label_u64("num_gpu_blocks"), Some(40));
    assert_eq!(cache.label_u64("engine"), Some(0));
    assert_eq!(cache.label_u64("cache_dtype"), None);
    assert_eq!(cache.label("no"), None);
}

#[test]
fn of_lora_series_the_newest_by_value_counts() {
    let wanted = specs(&["vllm:lora_requests_info"]).pop().unwrap().highest();
    let page = PageScan::new(&[wanted]).scan(LORA.as_bytes());
    let sample = page.sample(0).unwrap();
    assert_eq!(sample.label_list("running_lora_adapters"), ["loraB"]);
    assert_eq!(sample.label_list("waiting_lora_adapters"), ["loraB"]);
    assert_eq!(sample.label_u64("max_lora"), Some(1));
    assert!(sample.label_list("no").is_empty());
}

#[test]
fn names_must_be_whole() {
    check("a", "a 1\n", Some(1.0));
    check("a", "a 1", Some(1.0));
    check("a", "ab 1\na_b 1\nA 1\n_a 1\na:b 1\n", None);
    check("a", "# a 1\n#a 1\n", None);
    check("a", "", None);
    check("a", "a", None);
    check("a", "\n\n  a\t2 \n", Some(2.0));
    check("a", "a{} 3\r\n", Some(3.0));
    check("a", "a {x=\"1\"} 4", Some(4.0));
}

#[test]
fn values_are_given_as_they_are() {
    check("a", "a NaN", Some(f64::NAN));
    check("a", "a +Inf", Some(f64::INFINITY));
    check("a", "a -Inf", Some(f64::NEG_INFINITY));
    check("a", "a -1.5e-3", Some(-0.0015));
    check("a", "a 1.7952211701133788e+09", Some(1795221170.1133788));
}

#[test]
fn labels_select() {
    let page =
        "a{x=\"1\",y=\"2\"} 1\na{y=\"3\" , x=\"1\",} 2\na{x=\"}, \\\"q\\\" \\\\ \\n\"} 3\na 4\n";
    check("a{x=1}", page, Some(1.0));
    check("a{y=3,x=1}", page, Some(2.0));
    check("a{x=\"}, \\\"q\\\" \\\\ \\n\"}", page, Some(3.0));
    check("a{z=1}", page, None);
    check("a{}", page, Some(1.0));
}

#[test]
fn the_greatest_time_wins_and_of_equals_the_first() {
    check("a", "a{x=\"1\"} 1\na{x=\"2\"} 2\n", Some(1.0));
    check("a", "a{x=\"1\"} 1 10\na{x=\"2\"} 2 20\na{x=\"3\"} 3 20\na 4\n", Some(2.0));
    check("a", "a 1\na 2 5\n", Some(2.0));
    let highest = [specs(&["a"]).pop().unwrap().highest()];
    let scan = PageScan::new(&highest);
    let value = |page: &str| scan.scan(page.as_bytes()).value(0);
    assert_eq!(value("a NaN\na 1 9\na 3\na 2 10\n"), Some(3.0));
    assert_eq!(value("a 1\na NaN\n"), Some(1.0));
}

#[test]
fn malformed_lines_are_counted_and_passed_over() {
    for line in [
        "a x",
        "a{",
        "a{x} 1",
        "a{x=1} 1",
        "a{x=\"1\" 1",
        "a{x=\"1} 1",
        "a{=\"1\"} 1",
        "a{x=\"1\";} 1",
        "a{} ",
        "a{,} 1",
        "a 1 x",
        "a 1 2 3",
        "a 1_0",
        "a 0x10",
        "a{x=\"\\",
        "a \u{e9}",
    ] {
        check_malformed(line);
        check("a", &format!("{line}\na 7\n"), Some(7.0));
    }
    // What is not wanted is not looked at.
    let found = PageScan::new(&specs(&["a"])).scan(b"b{ x\nab{\n{\"a\"} 1\n\xff\xfe\n");
    assert_eq!((found.value(0), found.n_malformed), (None, 0));
}

#[test]
fn open_metrics_pages_are_read() {
    let page = "# TYPE a counter\na_total{x=\"1\"} 5 1.5 # {id=\"z\"} 0.5 1\na_created 9\n# TYPE b gauge\nb 1 2.5\n# EOF\n";
    check("a", page, Some(5.0));
    check("a_total", page, Some(5.0));
    check("b", page, Some(1.0));
    check("a", "a_total 5\n", None);
    check("a", "# TYPE a gauge\na_total 5\n", None);
    let found = PageScan::new(&specs(&["a"])).scan(page.as_bytes());
    assert!(found.is_open_metrics);
    assert_eq!(found.sample(0).unwrap().timestamp, Some(1.5));
}

#[test]
fn histograms_and_summaries_are_ignored() {
    check("a", "# TYPE a summary\na{quantile=\"0.5\"} 1\na_sum 2\n", None);
    check("a", "# TYPE a histogram\na 1\n", None);
    check("a", "# TYPE ab histogram\n# TYPE a untyped\na 1\n", Some(1.0));
    check("a", "# HELP a histogram\n# TYPE a\na 1\n", Some(1.0));
}

#[test]
fn specs_are_read() {
    let check = |text: &str, shown: &str| {
        let spec: SeriesSpec = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(spec.to_string(), shown);
    };
    check("a", "a");
    check(" vllm:x_1 ", "vllm:x_1");
    check("a{}", "a");
    check("a { b = c , d=\"e f\" }", "a{b=\"c\",d=\"e f\"}");
    check("a{b=c d,}", "a{b=\"c d\"}");
    check("a{b=}", "a{b=\"\"}");
    check(r#"a{b="x,}\"\\\n"}"#, r#"a{b="x,}\"\\\n"}"#);
}

#[test]
fn bad_specs_are_refused() {
    let check = |text: &str, message: &str| {
        let error = text.parse::<SeriesSpec>().unwrap_err();
        assert_eq!(error.to_string(), message, "{text}");
    };
    check("", "metric spec has no name");
    check("{a=b}", "metric spec has no name");
    check("a b", "invalid metric name 'a b'");
    check("1a", "invalid metric name '1a'");
    check("a-b{c=d}", "invalid metric name 'a-b'");
    check("a{b=c", "metric spec must end with '}' after its labels");
    check("a{b=\"c}", "metric spec must end with '}' after its labels");
    check("a{b=c}x", "metric spec must end with '}' after its labels");
    check("a{", "metric spec must end with '}' after its labels");
    check("a{b}", "invalid label 'b', expected name=value");
    check("a{=c}", "invalid label '=c', expected name=value");
    check("a{b:c=d}", "invalid label 'b:c=d', expected name=value");
    check("a{b=\"c\"d=e}", "invalid label 'b=\"c\"d=e', expected name=value");
    check("a{,b=c}", "invalid label '', expected name=value");
    check("a{b=c,b=d}", "duplicate label 'b'");
}

/// Reads a page line by line, the slow and plain way.
fn slowly<'p>(page: &'p str, name: &str, label: Option<(&str, &str)>) -> Option<&'p str> {
    let mut best: Option<(&str, f64)> = None;
    for line in page.lines() {
        let Some(rest) = line.strip_prefix(name) else { continue };
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => rest.split_once("} ").unwrap(),
            None => match rest.strip_prefix(' ') {
                Some(rest) => ("", rest),
                None => continue,
            },
        };
        let has = |(key, value): (&str, &str)| {
            labels.split(',').any(|pair| pair == format!("{key}=\"{value}\""))
        };
        if !label.is_none_or(has) {
            continue;
        }
        let (value, time) = match rest.split_once(' ') {
            Some((value, time)) => (value, time.parse().unwrap()),
            None => (rest, 0.0),
        };
        if best.is_none_or(|(_, old)| time > old) {
            best = Some((value, time));
        }
    }
    best.map(|(value, _)| value)
}

fn pages() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "ab", "abc", "a_total", "x:y", "x:z"]);
    let label = prop::sample::select(vec!["", "{k=\"1\"}", "{k=\"2\",l=\"1\"}", "{l=\"a b\"}"]);
    let value = prop::sample::select(vec!["1", "2.5", "-3", "1e3"]);
    let time = prop::sample::select(vec!["", " 1", " 2", " 3"]);
    let line = (name, label, value, time).prop_map(|(n, l, v, t)| format!("{n}{l} {v}{t}"));
    let line =
        prop_oneof![5 => line, 1 => Just("# HELP a text".to_owned()), 1 => Just(String::new())];
    prop::collection::vec(line, 0..20).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn series_are_what_a_slow_reader_finds(page in pages()) {
        let wanted = specs(&["a", "ab{k=1}", "abc{l=1}", "x:y", "x:z{k=2}", "a_total"]);
        let found = PageScan::new(&wanted).scan(page.as_bytes());
        for (i, spec) in wanted.iter().enumerate() {
            let expected = slowly(&page, spec.name(), spec.labels().next());
            let expected = expected.map(|text| text.parse::<f64>().unwrap());
            prop_assert_eq!(found.value(i), expected, "{} in {}", spec, page);
        }
        prop_assert_eq!(found.n_malformed, 0);
        fuzz_prometheus(page.as_bytes());
    }

    #[test]
    fn noise_is_survived(page in "([a{}x=\"\\\\, #_\n\r\t1.eN-]|# TYPE a |counter|a_total|\\PC){0,60}") {
        fuzz_prometheus(page.as_bytes());
    }
}
