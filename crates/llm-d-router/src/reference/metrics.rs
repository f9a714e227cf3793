//! `docs/reference/metrics.md`, from the registry.

use std::fmt::Write;

use router_telemetry::{
    BUILD, RouterMetrics,
    metrics::{Description, Registry},
    router::{
        EstimateMetrics, ExtProcMetrics, FlowMetrics, InflightMetrics, PrefixIndexMetrics,
        ProgramAwareMetrics, RecordMetrics,
    },
};

use super::{cell, code, table};

/// When families exist, and what registers them.
const GROUPS: [(&str, fn(&Registry)); 8] = [
    ("Always", |registry| {
        RouterMetrics::new(registry, &BUILD).unwrap();
    }),
    ("With `--enable-grpc-stream-metrics`", |registry| {
        ExtProcMetrics::new(registry).unwrap();
    }),
    ("With `--record`", |registry| {
        RecordMetrics::new(registry).unwrap();
    }),
    ("With an `approx-prefix-cache-producer`", |registry| {
        PrefixIndexMetrics::new(registry, "name", "type").unwrap();
    }),
    ("With an `inflight-load-producer`", |registry| {
        InflightMetrics::new(registry).unwrap();
    }),
    ("With the feature gate `flowControl`", |registry| {
        FlowMetrics::new(registry).unwrap();
    }),
    ("With `program-aware-fairness`", |registry| {
        ProgramAwareMetrics::new(registry).unwrap();
    }),
    ("With an `estimated-ttft-scorer`, as where no document is given", |registry| {
        EstimateMetrics::new(registry, "name").unwrap();
    }),
];

fn names(labels: &[&str]) -> String {
    labels.iter().map(|label| code(label)).collect::<Vec<_>>().join(", ")
}

/// Families with their bucket sets; equal sets have one name.
fn rows(families: &[Description], sets: &mut Vec<Vec<f64>>) -> Vec<[String; 6]> {
    let row = |family: &Description| {
        let buckets = family.buckets.as_ref().map_or(String::new(), |buckets| {
            let bounds = buckets.bounds().to_vec();
            let at = sets.iter().position(|set| *set == bounds).unwrap_or_else(|| {
                sets.push(bounds);
                sets.len() - 1
            });
            format!("B{}", at + 1)
        });
        let twin = family.twin.as_ref().map_or(String::new(), |twin| {
            if twin.labels == sorted(&family.labels) {
                return code(twin.name);
            }
            let labels = names(&twin.labels);
            let labels = if labels.is_empty() { "no labels".to_owned() } else { labels };
            format!("{}, {labels}", code(twin.name))
        });
        [
            code(family.name),
            family.kind.to_owned(),
            names(&family.labels),
            buckets,
            cell(&family.help),
            twin,
        ]
    };
    families.iter().map(row).collect()
}

fn sorted<'a>(labels: &[&'a str]) -> Vec<&'a str> {
    let mut labels = labels.to_vec();
    labels.sort_unstable();
    labels
}

#[test]
fn reference_of_metrics_is_current() {
    let mut page = "# Metrics\n\n".to_owned();
    page += "`GET /metrics` on the metrics port, as classic text or as OpenMetrics by the `accept` header.\n";
    page += "The deprecated name of a family shows the same data, with the family's labels unless others are given; `--deprecated-metrics=false` leaves them out.\n";
    page += "Label values are bounded per family; what is beyond the bound is shown as `other`, and so are models that no model server has vouched for, by its metrics page or by a response below 400.\n";
    page += "Where there are many fairness ids, those beyond the first share histograms and errors with `other` as their fairness id.\n";
    page += "All families are alpha, as in the Go implementation: names may change with notice.\n";
    page += "Go lacks those about estimates, panics, recordings and reloads; of the latter, `what` is `configuration`, `endpoints`, `resources`, `certificate`, `metrics_certificate` or `api_keys`.\n";
    let mut sets = Vec::new();
    for (title, register) in GROUPS {
        let registry = Registry::default();
        register(&registry);
        let families = registry.describe();
        assert!(families.iter().all(|family| family.is_alpha), "{title}: say what is not alpha");
        let rows = rows(&families, &mut sets);
        let head = ["name", "type", "labels", "buckets", "meaning", "deprecated name"];
        write!(page, "\n## {title}\n\n{}", table(head, &rows)).unwrap();
    }
    page += "\n## Buckets\n\nUpper bounds; `+Inf` is always there too.\n\n";
    let bounds = |set: &Vec<f64>| set.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
    let rows: Vec<_> =
        sets.iter().enumerate().map(|(n, set)| [format!("B{}", n + 1), bounds(set)]).collect();
    page += &table(["set", "bounds"], &rows);
    super::check("metrics.md", "the registry", &page);
}
