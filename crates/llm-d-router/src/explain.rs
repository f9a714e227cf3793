//! `llm-d-router config explain`: one decision, with its reasons, on a laptop.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use router_core::{EndpointSpec, Signals};
use router_engine::{DecisionRecord, Router, RouterEnv, Settings, settings::DecisionSettings};
use router_framework::{
    EndpointSink, Registry, RequestHead, SubsetHint,
    document::{
        Diagnostics, Options,
        tree::{self, Node},
    },
};

use crate::{
    cli::{ExplainArgs, UsageError},
    config_command::plugin_env,
    configuration::{self, Faulty, Source},
    process,
};

const MAX_FILE_BYTES: u64 = 64 << 20;

pub(crate) fn run(args: &ExplainArgs, registry: &Registry) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = runtime.block_on(decide(args, registry))?;
    if args.json {
        process::say(&serde_json::to_string_pretty(&*record)?);
    } else {
        process::say(&text(&record));
    }
    Ok(())
}

async fn decide(args: &ExplainArgs, registry: &Registry) -> anyhow::Result<Arc<DecisionRecord>> {
    let source =
        args.config.as_deref().map_or_else(|| Ok(Source::built_in()), Source::from_file)?;
    let mut warn = |diagnostics: &Diagnostics| {
        process::complain(diagnostics.render(configuration::style()).trim_end());
    };
    let options = Options { allow_experimental: args.allow_experimental_plugins };
    let mut document = configuration::read(&source, registry, options, &mut warn)?;
    let env = plugin_env(args.seed)?;
    let loaded = configuration::load(&mut document, registry, &env, &mut warn)?;
    let decisions = DecisionSettings { sampling: 1.0, capacity: 1 };
    let settings = Settings { seed: args.seed, decisions, ..Settings::default() };
    let router = Router::new(
        loaded,
        RouterEnv { clock: env.clock, metrics: Arc::clone(&env.metrics), settings },
    );
    set_endpoints(&router, &args.endpoints)?;
    let body = router_rt::read_file_bounded(&args.request, MAX_FILE_BYTES)
        .with_context(|| format!("cannot read the request {}", args.request.display()))?;
    let head = RequestHead {
        method: Method::POST,
        path_and_query: args.path.as_str().into(),
        headers: headers(&args.header)?,
        subset: SubsetHint::All,
        end_of_stream: false,
        received: router.clock().now(),
    };
    let (mut feed, decision) = router.begin(head);
    feed.push(&Bytes::from(body));
    feed.end();
    let decided = decision.await;
    if let (Err(rejection), true) = (&decided, router.decisions().records().is_empty()) {
        return Err(
            UsageError(format!("the request is refused before any decision: {rejection}")).into()
        );
    }
    router.decisions().records().into_iter().next().context("nothing was decided")
}

fn headers(lines: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for line in lines {
        let usage = || UsageError(format!("--header {line:?}: expected `name: value`"));
        let (name, value) = line.split_once(':').ok_or_else(usage)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| usage())?;
        let value = HeaderValue::from_str(value.trim()).map_err(|_| usage())?;
        headers.append(name, value);
    }
    Ok(headers)
}

/// Puts the endpoints of the file into the pool, with the signals that it gives for them. Those without
/// any count as never scraped.
fn set_endpoints(router: &Router, path: &Path) -> anyhow::Result<()> {
    let bytes = router_rt::read_file_bounded(path, MAX_FILE_BYTES)
        .with_context(|| format!("cannot read the endpoints {}", path.display()))?;
    let (root, mut diagnostics) = tree::parse(&path.display().to_string(), &bytes);
    let entries = root.as_ref().and_then(|root| root.get("endpoints")).and_then(Node::as_list);
    let Some(entries) = entries else {
        let found = diagnostics.render(configuration::style());
        return Err(Faulty(format!("expected a list `endpoints`\n{}", found.trim_end())).into());
    };
    let mut specs = Vec::with_capacity(entries.len());
    let mut signals = Vec::with_capacity(entries.len());
    for (n, entry) in entries.iter().enumerate() {
        match endpoint(entry) {
            Some(spec) => {
                signals.push((
                    format!("{}/{}", spec.namespace, spec.name),
                    read_signals(entry, router),
                ));
                specs.push(spec);
            }
            None => diagnostics.error(
                entry.span,
                format!("endpoints[{n}]"),
                "an endpoint needs name, address and port",
                || None,
            ),
        }
    }
    if diagnostics.has_errors() {
        return Err(Faulty(diagnostics.render(configuration::style()).trim_end().to_owned()).into());
    }
    router.datastore().replace(specs);
    let snapshot = router.datastore().snapshot();
    for (id, signals) in signals {
        if let (Some(endpoint), Some(signals)) = (snapshot.by_id(&id), signals) {
            endpoint.signal_cell().store(signals);
        }
    }
    Ok(())
}

fn endpoint(entry: &Node) -> Option<EndpointSpec> {
    let text = |key: &str| entry.get(key).and_then(Node::as_str);
    let port = entry.get("port")?;
    let port = port
        .as_i64()
        .and_then(|port| u16::try_from(port).ok())
        .or_else(|| port.as_str()?.parse().ok())?;
    let spec = EndpointSpec::new(
        text("namespace").unwrap_or("default"),
        text("name")?,
        text("address")?,
        port,
    );
    let labels = entry.get("labels").and_then(Node::as_map);
    let labels = labels.into_iter().flat_map(|map| map.entries());
    Some(spec.with_labels(
        labels.filter_map(|label| Some((label.key.clone(), label.value.as_str()?.to_owned()))),
    ))
}

fn read_signals(entry: &Node, router: &Router) -> Option<Signals> {
    let given = entry.get("signals")?;
    let number = |key: &str| given.get(key).and_then(Node::as_f64).unwrap_or(f64::NAN);
    Some(Signals {
        waiting: number("waiting"),
        running: number("running"),
        kv_usage: number("kvUsage"),
        block_size: number("blockSize"),
        n_blocks: number("numBlocks"),
        // The clock's origin means "never".
        scraped_at: router.clock().now() + std::time::Duration::from_nanos(1),
    })
}

/// A record as text for people.
fn text(record: &DecisionRecord) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _writing_to_a_string_cannot_fail = writeln!(out, "{text}");
    };
    line(format_args!(
        "model {:?} as {:?}, priority {}",
        record.model, record.target_model, record.priority
    ));
    line(format_args!(
        "endpoints: {} in the pool, {} candidates, {} after screening",
        record.n_endpoints, record.n_candidates, record.n_screened
    ));
    for failed in &record.failed_producers {
        line(format_args!("no data: {failed}"));
    }
    for profile in &record.profiles {
        line(format_args!("profile {}:", profile.profile));
        for filter in &profile.filters {
            line(format_args!("  filter {}: {} → {}", filter.filter, filter.n_in, filter.n_out));
        }
        for candidate in &profile.candidates {
            line(format_args!(
                "  {} ({}) total {:.4}",
                candidate.endpoint, candidate.address, candidate.total
            ));
            for score in &candidate.scores {
                let raw =
                    score.raw.map_or_else(|| "no opinion".to_owned(), |raw| format!("{raw:.4}"));
                line(format_args!(
                    "    {:<32} {raw:>10}  counts {:.4}",
                    score.scorer, score.weighted
                ));
            }
        }
        line(format_args!("  {} ranks: {}", profile.picker, profile.picked.join(", ")));
    }
    match &record.rejection {
        Some(rejection) => line(format_args!("refused: {rejection}")),
        None => line(format_args!(
            "goes to {}: {}",
            record.targets.first().map_or("", String::as_str),
            record.reason
        )),
    }
    out.trim_end().to_owned()
}
