use std::{collections::BTreeMap, sync::Arc, thread};

use proptest::{prelude::Strategy, prop_assert_eq, proptest};

use super::*;

/// A page read back: samples by name and labels. Panics on anything that is not a page.
pub(crate) fn parse(page: &str) -> BTreeMap<(String, Vec<(String, String)>), f64> {
    let mut samples = BTreeMap::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match series.split_once('{') {
            None => (series, Vec::new()),
            Some((name, labels)) => (name, parse_labels(labels)),
        };
        let value = match value {
            "+Inf" => f64::INFINITY,
            other => other.parse().unwrap(),
        };
        let repeated = samples.insert((name.to_owned(), labels), value);
        assert!(repeated.is_none(), "a series twice: {line}");
    }
    samples
}

fn parse_labels(text: &str) -> Vec<(String, String)> {
    let mut labels = Vec::new();
    let mut rest = text;
    while rest != "}" {
        let (name, after) = rest.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = loop {
            match characters.next().unwrap() {
                (end, '"') => break end,
                (_, '\\') => match characters.next().unwrap().1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &after[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
    labels
}

fn value(page: &str, line: &str) -> Option<String> {
    page.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(' ')).map(str::to_owned)
}

fn check_page(registry: &Registry, format: Format, expected: &str) {
    assert_eq!(registry.encode(format), expected);
}

fn small_registry() -> Registry {
    let registry = Registry::default();
    let requests =
        registry.counter(Def::alpha("req_total", "Requests.", ["zone", "kind"])).unwrap();
    requests.with(["b", "x"]).add(2);
    requests.with(["a", "y"]).inc();
    registry.gauge(Def::new("depth", "Depth\nof \"it\" \\.", [])).unwrap().with([]).set(-1.5);
    let buckets = Buckets::new([0.5, 1.0, 1_048_576.0]);
    let sizes = registry.histogram(Def::new("size", "Sizes.", ["k"]), &buckets).unwrap();
    for size in [0.5, 0.6, 2.0, 1e9] {
        sizes.with(["v"]).observe(size);
    }
    registry.counter(Def::new("unused_total", "No series, so not shown.", ["k"])).unwrap();
    registry
}

#[test]
fn classic_text_is_laid_out_as_go_does() {
    check_page(
        &small_registry(),
        Format::Text,
        "# HELP depth Depth\\nof \"it\" \\\\.\n\
         # TYPE depth gauge\n\
         depth -1.5\n\
         # HELP req_total [ALPHA] Requests.\n\
         # TYPE req_total counter\n\
         req_total{kind=\"x\",zone=\"b\"} 2\n\
         req_total{kind=\"y\",zone=\"a\"} 1\n\
         # HELP size Sizes.\n\
         # TYPE size histogram\n\
         size_bucket{k=\"v\",le=\"0.5\"} 1\n\
         size_bucket{k=\"v\",le=\"1\"} 2\n\
         size_bucket{k=\"v\",le=\"1.048576e+06\"} 3\n\
         size_bucket{k=\"v\",le=\"+Inf\"} 4\n\
         size_sum{k=\"v\"} 1.0000000031e+09\n\
         size_count{k=\"v\"} 4\n",
    );
}

#[test]
fn open_metrics_is_laid_out_as_go_does() {
    check_page(
        &small_registry(),
        Format::OpenMetrics,
        "# HELP depth Depth\\nof \\\"it\\\" \\\\.\n\
         # TYPE depth gauge\n\
         depth -1.5\n\
         # HELP req [ALPHA] Requests.\n\
         # TYPE req counter\n\
         req_total{kind=\"x\",zone=\"b\"} 2.0\n\
         req_total{kind=\"y\",zone=\"a\"} 1.0\n\
         # HELP size Sizes.\n\
         # TYPE size histogram\n\
         size_bucket{k=\"v\",le=\"0.5\"} 1\n\
         size_bucket{k=\"v\",le=\"1.0\"} 2\n\
         size_bucket{k=\"v\",le=\"1.048576e+06\"} 3\n\
         size_bucket{k=\"v\",le=\"+Inf\"} 4\n\
         size_sum{k=\"v\"} 1.0000000031e+09\n\
         size_count{k=\"v\"} 4\n\
         # EOF\n",
    );
}

#[test]
fn the_format_follows_the_accept_header() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.75,\
                      application/openmetrics-text;version=0.0.1;q=0.5,\
                      text/plain;version=0.0.4;q=0.25,*/*;q=0.1";
    for (accept, format) in [
        (None, Format::Text),
        (Some(""), Format::Text),
        (Some("*/*"), Format::Text),
        (Some("text/html"), Format::Text),
        (Some(prometheus), Format::OpenMetrics),
        (Some("application/openmetrics-text"), Format::OpenMetrics),
        (Some("application/openmetrics-text; version=2.0.0"), Format::Text),
        (Some("text/plain;q=0.9, application/openmetrics-text;q=0.1"), Format::Text),
        (Some("application/openmetrics-text;q=0"), Format::Text),
        (Some(";;,=,q=x"), Format::Text),
    ] {
        assert_eq!(Format::negotiate(accept), format, "{accept:?}");
    }
}

#[test]
fn twins_show_sums_of_what_they_leave_out() {
    let registry = Registry::default();
    let total = registry
        .counter(
            Def::alpha("new_total", "Requests.", ["model", "tenant", "host"])
                .twin(Twin::new("old_total", &["model"]).renamed("pod", "host")),
        )
        .unwrap();
    total.with(["m", "a", "h1"]).add(1);
    total.with(["m", "b", "h1"]).add(10);
    total.with(["m", "b", "h2"]).add(100);
    let times = registry
        .histogram(
            Def::alpha("new_seconds", "Times.", ["tenant"]).twin(Twin::new("old_seconds", &[])),
            &Buckets::new([1.0]),
        )
        .unwrap();
    times.with(["a"]).observe(0.5);
    times.with(["b"]).observe(2.0);
    let page = registry.encode(Format::Text);
    assert_eq!(value(&page, "old_total{model=\"m\",pod=\"h1\"}").as_deref(), Some("11"));
    assert_eq!(value(&page, "old_total{model=\"m\",pod=\"h2\"}").as_deref(), Some("100"));
    assert_eq!(value(&page, "old_seconds_bucket{le=\"1\"}").as_deref(), Some("1"));
    assert_eq!(value(&page, "old_seconds_count").as_deref(), Some("2"));
    assert_eq!(value(&page, "old_seconds_sum").as_deref(), Some("2.5"));
    assert!(
        page.contains("# HELP old_total [ALPHA] [Deprecated: Use new_total instead] Requests.")
    );

    let without = Registry::new(RegistryOptions { deprecated_twins: false });
    without.gauge(Def::new("new", "G.", []).twin(Twin::new("old", &[]))).unwrap();
    assert!(!without.encode(Format::Text).contains("old"));
}

#[test]
fn removed_series_leave_the_page_and_make_room() {
    let registry = Registry::default();
    let limits = Limits { max_values_per_label: 2, max_series: 10, ..Limits::default() };
    let gauge = registry.gauge(Def::new("g", "G.", ["endpoint"]).limits(limits)).unwrap();
    let kept = gauge.with(["a"]);
    gauge.with(["b"]).set(1.0);
    gauge.with(["c"]).set(7.0);
    assert!(registry.encode(Format::Text).contains("g{endpoint=\"other\"} 7\n"));
    assert!(gauge.remove(["b"]));
    assert!(!gauge.remove(["b"]));
    gauge.with(["c"]).set(3.0);
    let page = registry.encode(Format::Text);
    assert!(page.contains("g{endpoint=\"c\"} 3\n") && !page.contains("\"b\""), "{page}");
    gauge.retain(|[endpoint]| endpoint == "a");
    kept.set(9.0);
    check_page(&registry, Format::Text, "# HELP g G.\n# TYPE g gauge\ng{endpoint=\"a\"} 9\n");
}

#[test]
fn a_family_cannot_grow_beyond_its_bounds() {
    let registry = Registry::default();
    let limits = Limits { max_values_per_label: 100, max_series: 50, ..Limits::default() };
    let family = registry.counter(Def::new("n_total", "N.", ["a", "b"]).limits(limits)).unwrap();
    for a in 0..60 {
        for b in 0..60 {
            family.with([&a.to_string(), &b.to_string()]).inc();
        }
    }
    assert_eq!(family.n_series(), 51, "fifty and the one that takes the rest");
    let total: f64 = parse(&registry.encode(Format::Text)).values().sum();
    assert_eq!(total, 3600.0, "nothing is lost");
    let long = "x".repeat(100_000);
    family.with([&long, "b"]).inc();
    assert!(registry.encode(Format::Text).len() < 10_000);
}

#[test]
fn a_family_of_long_values_holds_fewer_series() {
    let registry = Registry::default();
    let limits = Limits { max_label_bytes: 1_000, ..Limits::default() };
    let family = registry.counter(Def::new("n_total", "N.", ["a"]).limits(limits)).unwrap();
    for n in 0..100 {
        family.with([&format!("{n:0100}")]).inc();
    }
    assert_eq!(family.n_series(), 11, "ten and the one that takes the rest");
    assert_eq!(family.get(["other"]).unwrap().get(), 90);
    family.retain(|[a]| a == "other");
    family.with([&"x".repeat(900)]).inc();
    assert_eq!(family.n_series(), 2, "what goes makes room");
}

#[test]
fn gauges_of_a_scrape_replace_those_of_the_last() {
    let registry = Registry::default();
    let family = registry.gauge(Def::new("queue", "Q.", ["endpoint"])).unwrap();
    let endpoints = Arc::new(parking_lot::Mutex::new(vec!["a", "b"]));
    let hook = {
        let (family, endpoints) = (family.clone(), Arc::clone(&endpoints));
        registry.on_scrape(move || {
            let endpoints = endpoints.lock().clone();
            family.replace(endpoints.iter().map(|name| ([*name], 1.0)));
        })
    };
    assert_eq!(parse(&registry.encode(Format::Text)).len(), 2);
    *endpoints.lock() = vec!["c"];
    let page = registry.encode(Format::Text);
    assert_eq!(parse(&page).len(), 1);
    assert!(page.contains("queue{endpoint=\"c\"} 1"));
    drop(hook);
    *endpoints.lock() = vec![];
    assert!(registry.encode(Format::Text).contains("queue{endpoint=\"c\"} 1"), "the hook is off");
}

#[test]
fn registering_the_same_again_shares_and_another_shape_fails() {
    let registry = Registry::default();
    let def = || Def::new("x_total", "X.", ["a"]);
    registry.counter(def()).unwrap().with(["v"]).inc();
    registry.counter(def()).unwrap().with(["v"]).inc();
    assert!(registry.encode(Format::Text).contains("x_total{a=\"v\"} 2\n"));
    let conflict = RegisterError::Conflict { name: "x_total" };
    assert_eq!(registry.gauge(def()).unwrap_err(), conflict);
    assert_eq!(registry.counter(Def::new("x_total", "X.", ["b"])).unwrap_err(), conflict);
    let twin = Def::new("y", "Y.", []).twin(Twin::new("x_total", &[]));
    assert_eq!(registry.gauge(twin).unwrap_err(), conflict);
    let buckets = [Buckets::new([1.0]), Buckets::new([2.0])];
    registry.histogram(Def::new("h", "H.", []), &buckets[0]).unwrap();
    assert!(registry.histogram(Def::new("h", "H.", []), &buckets[1]).is_err());
}

#[test]
fn names_that_would_break_the_page_are_refused() {
    let registry = Registry::default();
    for name in ["", "1a", "a-b", "a b", "a\n", "é"] {
        let name: &'static str = name;
        assert_eq!(
            registry.gauge(Def::new(name, "", [])).unwrap_err(),
            RegisterError::BadName { name }
        );
        assert!(registry.gauge(Def::new("ok", "", [name])).is_err());
    }
    assert!(registry.gauge(Def::new("ok", "", ["a", "a"])).is_err());
    assert!(registry.gauge(Def::new("ok", "", ["le"])).is_err());
    let twin = Def::new("ok", "", ["a"]).twin(Twin::new("old", &["b"]));
    let error = RegisterError::UnknownLabel { twin: "old", label: "b" };
    assert_eq!(registry.gauge(twin).unwrap_err(), error);
}

#[test]
fn odd_observations_do_no_harm() {
    let registry = Registry::default();
    let buckets = Buckets::new([f64::NAN, 2.0, 1.0, f64::INFINITY]);
    assert_eq!(buckets.bounds(), [1.0, 2.0]);
    let histogram = registry.histogram(Def::new("h", "H.", []), &buckets).unwrap().with([]);
    histogram.observe(f64::NAN);
    histogram.observe(-1.0);
    histogram.observe(f64::INFINITY);
    assert_eq!(histogram.count(), 2);
    let page = registry.encode(Format::Text);
    assert_eq!(value(&page, "h_bucket{le=\"1\"}").as_deref(), Some("1"));
    assert_eq!(value(&page, "h_count").as_deref(), Some("2"));
}

#[test]
fn many_threads_lose_no_count_while_pages_are_written() {
    const N_THREADS: usize = 4;
    const N_EACH: usize = 5_000;
    let registry = Registry::default();
    let counter = registry
        .counter(Def::new("c_total", "C.", ["k"]).twin(Twin::new("old_total", &[])))
        .unwrap();
    let histogram =
        registry.histogram(Def::new("h", "H.", []), &Buckets::new([0.5])).unwrap().with([]);
    let gauge = registry.gauge(Def::new("g", "G.", [])).unwrap().with([]);
    thread::scope(|scope| {
        for thread in 0..N_THREADS {
            let (counter, histogram, gauge) = (&counter, &histogram, &gauge);
            scope.spawn(move || {
                for round in 0..N_EACH {
                    counter.with([["a", "b", "c"][(round + thread) % 3]]).inc();
                    histogram.observe(1.0);
                    gauge.inc();
                    gauge.dec();
                }
            });
        }
        for _ in 0..50 {
            let page = registry.encode(Format::Text);
            let in_bucket = value(&page, "h_bucket{le=\"+Inf\"}");
            assert_eq!(in_bucket, value(&page, "h_count"), "a page never contradicts itself");
        }
    });
    let page = registry.encode(Format::Text);
    let expected = (N_THREADS * N_EACH) as f64;
    assert_eq!(value(&page, "old_total").unwrap().parse(), Ok(expected));
    assert_eq!(histogram.count(), expected as u64);
    assert_eq!(histogram.sum(), expected);
    assert_eq!(gauge.get(), 0.0);
}

proptest! {
    #[test]
    fn whatever_labels_hold_the_page_reads_back(
        entries in proptest::collection::btree_map(
            ("[\\PC\n\\\\\"{}=, #]{0,12}", "\\PC{0,6}").prop_map(|pair| pair),
            0_u32..1000,
            0..20,
        ),
    ) {
        let registry = Registry::default();
        let family = registry
            .counter(Def::new("c_total", "C.", ["b", "a"]).twin(Twin::new("t_total", &["b"])))
            .unwrap();
        for ((b, a), count) in &entries {
            family.with([b, a]).add(u64::from(*count));
        }
        let samples = parse(&registry.encode(Format::Text));
        for ((b, a), count) in &entries {
            let labels = vec![("a".to_owned(), a.clone()), ("b".to_owned(), b.clone())];
            prop_assert_eq!(samples[&("c_total".to_owned(), labels)], f64::from(*count));
            let sum: u32 = entries.iter().filter(|((other, _), _)| other == b).map(|(_, n)| n).sum();
            let labels = vec![("b".to_owned(), b.clone())];
            prop_assert_eq!(samples[&("t_total".to_owned(), labels)], f64::from(sum));
        }
        let n_twins = entries.keys().map(|(b, _)| b).collect::<std::collections::BTreeSet<_>>().len();
        prop_assert_eq!(samples.len(), entries.len() + n_twins);
        parse(&registry.encode(Format::OpenMetrics));
    }
}

#[test]
fn a_description_shows_what_the_page_shows_only_with_series() {
    let registry = Registry::default();
    let def = Def::alpha("took_seconds", "Time.", ["b", "a"]);
    let def = def.twin(Twin::new("old_seconds", &["b"]).renamed("z", "a"));
    registry.histogram(def, &Buckets::new([0.5, 1.0])).unwrap();
    registry.gauge(Def::new("up", "Whether.", [])).unwrap();
    let [took, up] = registry.describe().try_into().unwrap();
    assert_eq!((took.name, took.kind, took.is_alpha), ("took_seconds", "histogram", true));
    assert_eq!((&*took.help, &*took.labels), ("Time.", &["b", "a"][..]));
    assert_eq!(took.buckets, Some(Buckets::new([0.5, 1.0])));
    let twin = took.twin.unwrap();
    assert_eq!((twin.name, &*twin.labels), ("old_seconds", &["b", "z"][..]));
    assert_eq!((up.name, up.kind, up.is_alpha), ("up", "gauge", false));
    assert_eq!((up.buckets, up.twin), (None, None));
}
