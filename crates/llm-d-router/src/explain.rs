//! `llm-d-router config explain`: one decision, with its reasons, on a laptop.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use router_engine::{
    DecisionRecord, Router, RouterEnv, Settings, resources::Warning, settings::DecisionSettings,
};
use router_framework::{
    Registry, RequestHead, SubsetHint,
    document::{Diagnostics, Options},
};

use crate::{
    cli::{ExplainArgs, UsageError},
    config_command::plugin_env,
    configuration::{self, Source, read_file},
    process, running,
};

mod endpoints;

/// How often it is looked whether the request waits.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
const MAX_REQUEST_BYTES: u64 = 64 << 20;

pub(crate) fn run(args: &ExplainArgs, registry: &Registry) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let record = runtime.block_on(decide(args, registry))?;
    if args.json {
        process::say(&serde_json::to_string_pretty(&*record)?)
    } else {
        process::say(&text(&record))
    }
}

async fn decide(args: &ExplainArgs, registry: &Registry) -> anyhow::Result<Arc<DecisionRecord>> {
    if !args.path.starts_with('/') {
        return Err(UsageError(format!("--path {}: a path begins with a slash", args.path)).into());
    }
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
    let mut listed = endpoints::read(&args.endpoints)?;
    if let Some(path) = &args.resources {
        let mut warn = |warning: &Warning| process::complain(&warning.to_string());
        let resources = running::read_resources(path, args.pool.pool(), &mut warn)?;
        resources.hand_to(router.datastore());
        if let Some(pool) = &resources.pool {
            listed.retain(|listed| pool.selects(&listed.spec.labels));
        }
    }
    endpoints::set(&router, listed);
    let body = read_file(&args.request, MAX_REQUEST_BYTES)?;
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
    let decided = tokio::select! {
        biased;
        decided = decision => decided,
        why = waits(&router) => anyhow::bail!("the request waits in flow control: {why}"),
    };
    if let (Err(rejection), true) = (&decided, router.decisions().records().is_empty()) {
        return Err(
            UsageError(format!("the request is refused before any decision: {rejection}")).into()
        );
    }
    router.decisions().records().into_iter().next().context("nothing was decided")
}

/// Why the request waits for its turn, as soon as it does.
async fn waits(router: &Router) -> String {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let Some(flow) = router.flow().filter(|flow| flow.n_waiting() > 0) else { continue };
        let page = flow.debug_page();
        let bands = page["bands"].as_array().into_iter().flatten();
        let flows = bands.filter_map(|band| band["flows"].as_array()).flatten();
        let whys = flows.filter_map(|flow| flow["head"]["waitsBecause"].as_str());
        return whys.map(str::to_owned).next().unwrap_or_default();
    }
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

/// A record as text for people.
fn text(record: &DecisionRecord) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _writing_to_a_string_cannot_fail = writeln!(out, "{text}");
    };
    let model = match (record.model.as_str(), record.target_model.as_str()) {
        ("", _) => "no model".to_owned(),
        (model, target) if model == target => format!("model {model}"),
        (model, target) => format!("model {model}, sent as {target}"),
    };
    let tokens =
        record.n_prompt_tokens.map_or_else(String::new, |n| format!(", prompt tokens {n}"));
    line(format_args!("{model}{tokens}, priority {}", record.priority));
    let screened = record
        .n_screened
        .map_or_else(String::new, |n_screened| format!(", {n_screened} after screening"));
    line(format_args!(
        "endpoints: {} in the pool, {} candidates{screened}",
        record.n_endpoints, record.n_candidates
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
