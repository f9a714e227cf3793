//! `llm-d-router replay fit`: the servers of a recorded trace.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use router_rt::Offload;
use router_sim::replay::{
    fit::{self, Fit, Judgement, LeftOut, Options, Progress, Waits},
    trace::Trace,
};
use serde_json::{Map, Value, json};

use super::{
    count,
    outputs::{check_outputs, write},
    progress::{LOOK_INTERVAL, Shown},
    read_trace,
};
use crate::{
    app::No,
    cli::{FitArgs, UsageError},
    process,
};

/// Waits in the router from which on they are worth a line.
const LONG_WAIT: Duration = Duration::from_millis(10);

pub(crate) fn run(args: &FitArgs) -> anyhow::Result<()> {
    let outputs = std::iter::once(&args.out).chain(&args.json).map(PathBuf::as_path);
    check_outputs(&[&args.trace], &outputs.collect::<Vec<_>>())?;
    let trace = read_trace(&args.trace, None, args.limit.unwrap_or(usize::MAX))?;
    let options = Options { per_endpoint: args.per_endpoint };
    let (out, json) = (args.out.clone(), args.json.clone());
    process::block_on(async move {
        let fit = fitted(trace, options).await?;
        write(&out, &fit::to_yaml(&fit))?;
        if let Some(path) = json {
            write(&path, &(serde_json::to_string_pretty(&results(&fit))? + "\n"))?;
        }
        process::say(report(&fit, &out).trim_end())?;
        if fit.faults().is_empty() {
            return Ok(());
        }
        Err(No("the fit is not good enough to compare policies".to_owned()).into())
    })
}

/// Fits, and shows how far it is to people who wait for it.
async fn fitted(trace: Trace, options: Options) -> anyhow::Result<Fit> {
    let progress = Arc::new(Progress::default());
    let of_work = Arc::clone(&progress);
    let offload = Offload::pool(1);
    let mut work = std::pin::pin!(offload.run(move || fit::fit(&trace, options, &of_work)));
    let mut shown = Shown::on_stderr();
    let fit = loop {
        match tokio::time::timeout(LOOK_INTERVAL, &mut work).await {
            Ok(done) => break done?,
            Err(_not_yet) => {
                let (n_played, share) = played(&progress);
                shown.show(share, |_elapsed| line(n_played, share));
            }
        }
    };
    shown.clear();
    Ok(fit.map_err(UsageError::of)?)
}

/// Requests that were played, and their share of all that may have to be.
fn played(progress: &Progress) -> (u64, f64) {
    let n_planned = progress.n_planned.load(Ordering::Relaxed);
    let n_played = progress.n_played.load(Ordering::Relaxed);
    if n_planned == 0 {
        (0, 0.0)
    } else {
        (n_played, (n_played as f64 / n_planned as f64).min(0.99))
    }
}

fn line(n_played: u64, share: f64) -> String {
    if n_played == 0 {
        return "looking at the record".to_owned();
    }
    format!("fitting: {n_played} requests played, at most {:.0} % left", 100.0 * (1.0 - share))
}

/// What people read.
fn report(fit: &Fit, out: &Path) -> String {
    let n_fitted: usize = fit.endpoints.iter().map(|endpoint| endpoint.n_fitted).sum();
    let mut text = format!(
        "{} in {}: fitted to {n_fitted} requests of {:.0?}, judged by {} of the {:.0?} after it.\n",
        count(fit.endpoints.len(), "endpoint", "endpoints"),
        count(fit.kinds.len(), "kind", "kinds"),
        fit.length.saturating_sub(fit.judged),
        fit.overall.e2e.n,
        fit.judged,
    );
    text += &left_out(fit);
    text += "\n";
    text += &super::table::aligned(&profiles(fit), 1);
    text += "A * stands for what the record does not tell; the pool file says more.\n\n";
    text += &super::table::aligned(&errors(fit), 2);
    text += "Errors are shares of the recorded time: the median, the 90th percentile, and the median with its \
             sign.\n\n";
    let faults = fit.faults();
    if faults.is_empty() {
        text += "Good enough to compare policies.\n";
    } else {
        text += "Not good enough to compare policies:\n";
        text.extend(faults.iter().map(|fault| format!("- {fault}\n")));
    }
    text.extend(["The servers are in ", &out.display().to_string(), ".\n"]);
    text
}

fn left_out(fit: &Fit) -> String {
    let LeftOut { not_observed, no_arrival, failed, several, no_first_token } = fit.left_out;
    let parts = [
        (not_observed, "of which nothing was recorded"),
        (no_arrival, "that waited for one of which nothing was recorded"),
        (failed, "that were refused or failed"),
        (several, "with several prompts or answers"),
        (fit.overall.n_unforeseen, "that found cached what the record does not know"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    let mut text =
        if parts.is_empty() { String::new() } else { format!("Left out: {}.\n", parts.join(", ")) };
    if no_first_token > 0 {
        text += &count(no_first_token, "answer", "answers");
        text += " came all at once, as those that are not streamed do: when the first token was there is not known, \
                 and only the end counts.\n";
    }
    let Waits { median, most, n_unknown } = fit.waits;
    let waited = (most >= LONG_WAIT).then(|| {
        format!(
            "Requests waited {median:.1?} in the router on the median and {most:.1?} at most; times count from \
             after that.\n"
        )
    });
    let unknown = (n_unknown > 0).then(|| {
        format!(
            "The record does not tell of {} how long the router kept it: that counts as time of its endpoint.\n",
            count(n_unknown, "request", "requests")
        )
    });
    text.extend(waited.into_iter().chain(unknown));
    text
}

/// The profiles, in units for people.
fn profiles(fit: &Fit) -> Vec<Vec<String>> {
    let titles = [
        "kind",
        "endpoints",
        "step ms",
        "sequence us",
        "context token ns",
        "prompt us",
        "prompt token us",
        "pair ns",
        "cache tokens",
        "sequences",
        "step tokens",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for kind in &fit.kinds {
        let profile = &kind.profile;
        let star = |key: &str| {
            let origin = kind.origins.iter().find(|(known, _)| *known == key);
            let is_told = |(_, origin): &(_, fit::Origin)| {
                matches!(origin, fit::Origin::Record { .. } | fit::Origin::AtLeast)
            };
            if origin.is_some_and(is_told) { "" } else { "*" }
        };
        let mut row = vec![kind.name.clone(), kind.endpoints.len().to_string()];
        for (key, value, factor) in [
            ("step-base-us", profile.step_base_us, 1e-3),
            ("decode-seq-us", profile.decode_seq_us, 1.0),
            ("decode-context-token-us", profile.decode_context_token_us, 1e3),
            ("prefill-base-us", profile.prefill_base_us, 1.0),
            ("prefill-token-us", profile.prefill_token_us, 1.0),
            ("prefill-context-token-us", profile.prefill_context_token_us, 1e3),
        ] {
            row.push(format!("{:.2}{}", value * factor, star(key)));
        }
        let tokens = u64::from(profile.kv_cache_size) * u64::from(profile.block_size);
        row.push(format!("{tokens}{}", star("kv-cache-size")));
        row.push(format!("{}{}", profile.max_num_seqs, star("max-num-seqs")));
        row.push(format!("{}{}", profile.max_num_batched_tokens, star("max-num-batched-tokens")));
        rows.push(row);
    }
    rows
}

/// The errors of each endpoint and of all.
fn errors(fit: &Fit) -> Vec<Vec<String>> {
    let titles = [
        "endpoint",
        "kind",
        "fitted to",
        "judged by",
        "TTFT p50 %",
        "p90 %",
        "bias %",
        "R2",
        "E2E p50 %",
        "p90 %",
        "bias %",
        "R2",
        "cached %",
        "simulated %",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    let mut add = |name: &str, kind: &str, n_fitted: usize, judgement: &Judgement| {
        let percent = |value: f64| format!("{:.1}", 100.0 * value);
        let mut row = vec![name.to_owned(), kind.to_owned(), n_fitted.to_string()];
        row.push(judgement.e2e.n.to_string());
        for errors in [&judgement.ttft, &judgement.e2e] {
            row.extend([
                percent(errors.median),
                percent(errors.p90),
                format!("{:+.1}", 100.0 * errors.bias),
                format!("{:.2}", errors.r2),
            ]);
        }
        match judgement.cached {
            Some((seen, played)) => row.extend([percent(seen), percent(played)]),
            None => row.extend(["-", "-"].map(str::to_owned)),
        }
        rows.push(row);
    };
    let mut n_fitted = 0;
    for endpoint in &fit.endpoints {
        let kind = fit.kinds.get(endpoint.kind).map_or("", |kind| &kind.name);
        add(&endpoint.name, kind, endpoint.n_fitted, &endpoint.judgement);
        n_fitted += endpoint.n_fitted;
    }
    if fit.endpoints.len() > 1 {
        add("all", "", n_fitted, &fit.overall);
    }
    rows
}

/// What programs read.
fn results(fit: &Fit) -> Value {
    let kinds: Vec<Value> = fit
        .kinds
        .iter()
        .map(|kind| {
            let origins: Map<String, Value> = kind
                .origins
                .iter()
                .map(|(key, origin)| ((*key).to_owned(), json!(origin)))
                .collect();
            let endpoints: Vec<&str> = kind.endpoints.iter().map(|name| &**name).collect();
            json!({
                "name": kind.name,
                "endpoints": endpoints,
                "profile": kind.profile,
                "origins": origins,
            })
        })
        .collect();
    let endpoints: Vec<Value> = fit
        .endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "name": &*endpoint.name,
                "kind": fit.kinds.get(endpoint.kind).map(|kind| &kind.name),
                "n_requests": endpoint.n_requests,
                "n_fitted": endpoint.n_fitted,
                "judgement": endpoint.judgement,
            })
        })
        .collect();
    json!({
        "seconds": fit.length.as_secs_f64(),
        "seconds_judged": fit.judged.as_secs_f64(),
        "left_out": fit.left_out,
        "waits": {
            "median": fit.waits.median.as_secs_f64(),
            "most": fit.waits.most.as_secs_f64(),
            "n_unknown": fit.waits.n_unknown,
        },
        "token_ratio": fit.token_ratio,
        "kinds": kinds,
        "endpoints": endpoints,
        "overall": fit.overall,
        "faults": fit.faults(),
        "good_enough": fit.faults().is_empty(),
    })
}
