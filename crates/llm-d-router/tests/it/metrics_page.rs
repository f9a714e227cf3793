//! The metrics page has what dashboards were written against: names, types, labels and buckets of the Go
//! endpoint picker, deprecated twins included.

use std::collections::{BTreeMap, BTreeSet};

use http::{HeaderMap, HeaderValue, StatusCode, header::CONTENT_TYPE};
use router_engine::ResponseHead;
use router_framework::EndCause;
use router_telemetry::router::ExtProcMetrics;
use router_testkit::router::{RouterBuilder, TestRouter, head, with_header};

use crate::testdata;

/// The Go page's configuration: the preset that runs where none is given, with flow control.
const CONFIG: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [flowControl]
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
";

/// One family of a page.
#[derive(Debug, Default, PartialEq, Eq)]
struct Family {
    kind: String,
    /// Names of the labels of its series, `le` left out.
    labels: BTreeSet<BTreeSet<String>>,
    /// Upper bounds in the order of the page, of one series.
    buckets: Vec<String>,
}

/// A series: its name, its labels.
type Series<'a> = (&'a str, Vec<(&'a str, &'a str)>);

/// Reads a line such as `name{a="b",c="d"} 1`. No label value of these pages holds a quote.
fn series(line: &str) -> Option<Series<'_>> {
    let (series, _value) = line.rsplit_once(' ')?;
    let Some((name, labels)) = series.split_once('{') else { return Some((series, Vec::new())) };
    let mut rest = labels.strip_suffix('}')?;
    let mut labels = Vec::new();
    while let Some((label, after)) = rest.split_once("=\"") {
        let (value, after) = after.split_once('"')?;
        labels.push((label, value));
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Some((name, labels))
}

fn families(page: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            families.entry(name.to_owned()).or_default().kind = kind.to_owned();
        }
    }
    for (name, labels) in page.lines().filter(|line| !line.starts_with('#')).filter_map(series) {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|suffix| {
                name.strip_suffix(suffix).filter(|base| families.contains_key(*base))
            })
            .unwrap_or(name);
        let Some(family) = families.get_mut(base) else { panic!("{name} has no type") };
        let names: BTreeSet<String> =
            labels.iter().map(|(label, _)| (*label).to_owned()).filter(|l| l != "le").collect();
        family.labels.insert(names);
        if let Some((_, bound)) = labels.iter().find(|(label, _)| *label == "le")
            && !family.buckets.iter().any(|have| have == bound)
        {
            family.buckets.push((*bound).to_owned());
        }
    }
    families
}

/// Where plugins were called, by extension point, type and name.
fn plugin_calls(page: &str) -> BTreeSet<Vec<(String, String)>> {
    let calls = page
        .lines()
        .filter_map(series)
        .filter(|(name, _)| *name == "llm_d_epp_plugin_duration_seconds_count");
    calls
        .map(|(_, mut labels)| {
            labels.sort_unstable();
            labels.into_iter().map(|(l, v)| (l.to_owned(), v.to_owned())).collect()
        })
        .collect()
}

async fn answered(world: &TestRouter, content_type: &'static str, body: &'static str) {
    let chat = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"a prompt of several words"}]}"#;
    let request = with_header(head("/v1/chat/completions"), "x-request-id", "1");
    let mut exchange = world.decide(request, chat).await.unwrap().exchange;
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(content_type))]);
    let status = StatusCode::OK;
    exchange.on_headers(&ResponseHead {
        status,
        headers: &headers,
        served: None,
        from_proxy: false,
    });
    for piece in body.split_inclusive("\n\n") {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        exchange.on_chunk(piece.into());
    }
    exchange.end(EndCause::Natural);
}

/// A router after what the Go page was scraped after: answers of both kinds, and a bad request.
async fn world() -> (TestRouter, ExtProcMetrics) {
    let world = RouterBuilder::new(CONFIG).endpoints(2).build();
    let streams = ExtProcMetrics::new(&world.metrics).unwrap();
    streams.streams.with(["OK"]).inc();
    for at in 0..2 {
        world.publish(at, |signals| {
            (signals.waiting, signals.running, signals.kv_usage) = (at as f64, 1.0, 0.25);
        });
    }
    answered(&world, "text/event-stream", "data: {\"choices\":[]}\n\ndata: {\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4}}\n\n").await;
    answered(&world, "application/json", "{\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":4,\"prompt_tokens_details\":{\"cached_tokens\":3}}}").await;
    world.decide(head("/v1/chat/completions"), "{").await.unwrap_err();
    world.publish_pool_metrics();
    (world, streams)
}

#[tokio::test(start_paused = true)]
async fn every_family_of_go_that_is_built_looks_the_same() {
    let (world, _streams) = world().await;
    let (go, ours) = (families(&testdata::text("go/epp-metrics.txt")), families(&world.page()));
    let mut n_compared = 0;
    for (name, family) in &go {
        n_compared += 1;
        let Some(have) = ours.get(name) else { panic!("{name} is missing") };
        assert_eq!(have, family, "{name}");
    }
    assert_eq!(n_compared, 69);
}

#[tokio::test(start_paused = true)]
async fn plugins_are_timed_where_go_times_them() {
    let (world, _streams) = world().await;
    let (go, ours) =
        (plugin_calls(&testdata::text("go/epp-metrics.txt")), plugin_calls(&world.page()));
    assert_eq!(go.len(), 11);
    let missing: Vec<_> = go.difference(&ours).collect();
    assert!(missing.is_empty(), "{missing:#?}");
}
