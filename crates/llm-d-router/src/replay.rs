//! `llm-d-router replay`: a trace against the real router and simulated servers, in virtual time.

use std::{
    io::{BufReader, ErrorKind},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use router_framework::{
    Registry,
    document::{Diagnostics, GoDuration, Options as DocumentOptions, suggest::nearest},
};
use router_sim::replay::{
    policy,
    pool::Pool,
    read,
    run::{Configuration, DEFAULT_JITTER, MAX_ARRIVAL, Options},
    summary::Goals,
    trace::Trace,
    workload,
};

use self::{
    grid::{Grid, NamedPool, Requests},
    outputs::{check_outputs, write},
};
use crate::{
    cli::{ReplayArgs, ReplayCommand, UsageError},
    config_command::plugin_env,
    configuration::{self, Source, read_file},
    presets::{self, DEFAULT_NAME},
    process,
};

mod columns;
mod fit;
mod grid;
mod json;
mod missed;
mod outputs;
mod page;
mod progress;
mod reasons;
mod reproduce;
mod table;
mod traces;

const MAX_POOL_BYTES: u64 = 1 << 20;
/// How long a made-up workload goes on unless told otherwise.
const DEFAULT_DURATION: Duration = Duration::from_mins(15);

pub(crate) fn run(args: &ReplayArgs, mut registry: Registry) -> anyhow::Result<()> {
    if let Some(ReplayCommand::Fit(args)) = &args.command {
        return fit::run(args);
    }
    if args.list {
        return process::say(list(&registry).trim_end());
    }
    for def in policy::PLUGINS {
        if registry.get(def.plugin_type).is_none() {
            registry.add(**def);
        }
    }
    if let Some(recording) = &args.reproduce {
        return reproduce_decisions(args, recording, registry);
    }
    flags_that_say_nothing(args)?;
    let inputs = args.trace.iter().chain(&args.pool).map(PathBuf::as_path);
    let inputs = inputs.chain(args.config.iter().flat_map(|text| names(text)).map(Path::new));
    let outputs: Vec<&Path> = args.html.iter().chain(&args.json).map(PathBuf::as_path).collect();
    check_outputs(&inputs.collect::<Vec<_>>(), &outputs)?;
    let grid = grid(args, registry)?;
    let jobs = args
        .jobs
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get));
    let (json, html) = (args.json.clone(), args.html.clone());
    process::block_on(async move {
        let results = grid::play(&grid, jobs).await?;
        // Hours may have gone into them: what can be written is, whatever becomes of the rest.
        let told = process::say(table::of(&grid, &results).trim_end());
        let write_json = |path: PathBuf| -> anyhow::Result<()> {
            let text = serde_json::to_string_pretty(&json::of(&grid, &results))? + "\n";
            Ok(write(&path, &text)?)
        };
        let write_page = |path: PathBuf| -> anyhow::Result<()> {
            Ok(write(&path, &page::of(&grid, &results)?)?)
        };
        let has_json = json.map_or(Ok(()), write_json);
        let has_page = html.map_or(Ok(()), write_page);
        let mut failures = [told, has_json, has_page].into_iter().filter_map(Result::err);
        let first = failures.next();
        failures.for_each(|error| process::complain(&format!("error: {error:#}")));
        first.map_or(Ok(()), Err)
    })
}

/// Refuses what would be passed over in silence: who gives a flag expects it to change something.
fn flags_that_say_nothing(args: &ReplayArgs) -> Result<(), UsageError> {
    let (is_trace, is_workload) = (args.trace.is_some(), args.workload.is_some());
    let refusals = [
        (
            is_trace && args.duration.is_some(),
            "--duration is for a --workload; of a trace, --limit N plays the first requests",
        ),
        (
            is_workload && args.jitter.is_some(),
            "--jitter is for a --trace; leave it out, for every seed draws the arrivals of a workload anew",
        ),
        (is_workload && args.format.is_some(), "--format is for a --trace; leave it out"),
    ];
    match refusals.into_iter().find(|(is_given, _)| *is_given) {
        Some((_, why)) => Err(UsageError(why.to_owned())),
        None => Ok(()),
    }
}

fn reproduce_decisions(
    args: &ReplayArgs,
    recording: &Path,
    registry: Registry,
) -> anyhow::Result<()> {
    let given: Vec<&str> = args.config.iter().flat_map(|text| names(text)).collect();
    let configuration = match given[..] {
        [] => None,
        [name] => {
            let configuration = named_configuration(name)?;
            check(&configuration, &registry, args.allow_experimental_plugins)?;
            Some(configuration)
        }
        [_, _, ..] => {
            let message = format!("takes one configuration, not {}", given.join(" and "));
            return Err(UsageError::at("--reproduce", message).into());
        }
    };
    reproduce::run(recording, configuration, registry, args.allow_experimental_plugins)
}

/// All that is to be played, with every file read and every document checked.
fn grid(args: &ReplayArgs, registry: Registry) -> anyhow::Result<Grid> {
    let configurations: Vec<Configuration> = if args.config.is_empty() {
        vec![Configuration { name: DEFAULT_NAME.to_owned(), text: None }]
    } else {
        let names = args.config.iter().flat_map(|text| names(text)).collect();
        let names = once("--config", names, presets::are_same, |name| (*name).to_owned());
        names.into_iter().map(named_configuration).collect::<Result<_, _>>()?
    };
    for configuration in &configurations {
        check(configuration, &registry, args.allow_experimental_plugins)?;
    }
    let pools = pools(args)?;
    let goals = Goals {
        ttft: goal("--goal-ttft", args.goal_ttft)?,
        tpot: goal("--goal-tpot", args.goal_tpot)?,
    };
    let options = Options {
        speed: 1.0,
        jitter: args.jitter.map_or(Ok(DEFAULT_JITTER), |jitter| length("--jitter", jitter))?,
        allow_experimental: args.allow_experimental_plugins,
    };
    let seeds = (0..u64::from(args.seeds)).map(|nth| args.seed.wrapping_add(nth)).collect();
    Ok(Grid {
        requests: requests(args)?,
        configurations,
        loads: once("--load", args.load.clone(), f64::eq, f64::to_string),
        pools,
        seeds,
        goals,
        options,
        registry,
    })
}

/// The names in one `--config`: a list with commas, unless there is a file of that name.
fn names(text: &str) -> Vec<&str> {
    if may_be_file(text) {
        return vec![text];
    }
    let names: Vec<&str> = text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.is_empty() { vec![text] } else { names }
}

/// Whether there is such a file, or it is there and cannot be seen. A list may be longer than a name can be.
fn may_be_file(name: &str) -> bool {
    let is_there = Path::new(name).try_exists();
    is_there.unwrap_or_else(|error| error.kind() != ErrorKind::InvalidFilename)
}

/// What is given, each once: the same twice would be two equal lines.
fn once<T>(
    flag: &str,
    given: Vec<T>,
    are_same: impl Fn(&T, &T) -> bool,
    shown: impl Fn(&T) -> String,
) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(given.len());
    for one in given {
        let Some(same) = kept.iter().find(|known| are_same(known, &one)) else {
            kept.push(one);
            continue;
        };
        let (one, same) = (shown(&one), shown(same));
        let is = if one == same {
            "is given more than once".to_owned()
        } else {
            format!("is the same as {same}")
        };
        process::complain(&format!("{flag} {one} {is}; it is played once"));
    }
    kept
}

/// A preset by its name, or a document from a file.
fn named_configuration(name: &str) -> anyhow::Result<Configuration> {
    let text = if name == DEFAULT_NAME {
        None
    } else if let Some(preset) = presets::named(name) {
        Some(preset.document.to_owned())
    } else {
        let path = Path::new(name);
        // Who gives a path means a file.
        if !may_be_file(name) && path.components().count() < 2 && path.extension().is_none() {
            let hint = presets::hint(name, "--list shows the presets");
            let message =
                format!("--config {name:?}: there is no such preset and no such file; {hint}");
            return Err(UsageError(message).into());
        }
        let bytes = read_file(path, configuration::MAX_DOCUMENT_BYTES)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| UsageError(format!("{name}: the document is not valid UTF-8")))?;
        Some(text)
    };
    Ok(Configuration { name: name.to_owned(), text })
}

/// Shows everything that is wrong with a document before anything is played.
fn check(
    configuration: &Configuration,
    registry: &Registry,
    allow_experimental: bool,
) -> anyhow::Result<()> {
    let source = Source {
        name: configuration.name.clone(),
        text: configuration.text.clone().map(String::into_bytes),
    };
    let mut warn = |diagnostics: &Diagnostics| {
        process::complain(diagnostics.render(configuration::style()).trim_end());
    };
    let options = DocumentOptions { allow_experimental };
    let mut document = configuration::read(&source, registry, options, &mut warn)?;
    configuration::load(&mut document, registry, &plugin_env(0)?, &mut warn)?;
    Ok(())
}

fn requests(args: &ReplayArgs) -> anyhow::Result<Requests> {
    let limit = args.limit.unwrap_or(usize::MAX);
    if let Some(name) = &args.workload {
        if !workload::WORKLOADS.iter().any(|workload| workload.name == name) {
            let near = nearest(name, workload::WORKLOADS.iter().map(|workload| workload.name));
            let help = near.map_or_else(
                || "--list shows them".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            let message = format!("--workload {name}: there is no such workload; {help}");
            return Err(UsageError(message).into());
        }
        let duration = args
            .duration
            .map_or(Ok(DEFAULT_DURATION), |duration| length("--duration", duration))?;
        if duration.is_zero() || duration > MAX_ARRIVAL {
            let most = MAX_ARRIVAL.as_secs() / 3_600;
            let message = format!("must be more than 0 and at most {most}h");
            return Err(UsageError::at("--duration", &message).into());
        }
        return Ok(Requests::Workload { name: name.clone(), duration, limit });
    }
    let path = args.trace.as_deref().unwrap_or(Path::new(""));
    let name = path.display().to_string();
    let mut trace = read_trace(path, args.format, limit)?;
    let n_several = trace.leave_out_several();
    if n_several > 0 {
        let n_all = n_several + trace.requests.len();
        let message = format!(
            "{name}: {n_several} of {n_all} requests have several prompts or answers and were left out: one \
             sequence cannot stand for them"
        );
        if trace.requests.is_empty() {
            return Err(UsageError(message).into());
        }
        process::complain(&message);
    }
    let n_failed = trace.n_failed();
    if n_failed > 0 {
        process::complain(&format!(
            "{name}: {n_failed} of {} requests got no whole answer when they were recorded; they are played like the \
             others, with as much of it as came",
            trace.requests.len()
        ));
    }
    Ok(Requests::Trace { name, trace: Arc::new(trace) })
}

fn read_trace(path: &Path, format: Option<read::Format>, limit: usize) -> anyhow::Result<Trace> {
    let name = path.display().to_string();
    let file = std::fs::File::open(path)
        .map_err(|error| UsageError(format!("cannot read {name}: {error}")))?;
    let mut note = |note: &str| process::complain(&format!("{name}: {note}"));
    let trace = read::read_noting(&name, BufReader::new(file), format, limit, &mut note);
    Ok(trace.map_err(UsageError::of)?)
}

fn pools(args: &ReplayArgs) -> anyhow::Result<Vec<NamedPool>> {
    let mut pools = Vec::new();
    let shown = |path: &PathBuf| path.display().to_string();
    for path in once("--pool", args.pool.clone(), PathBuf::eq, shown) {
        let name = shown(&path);
        let text = read_file(&path, MAX_POOL_BYTES)?;
        let pool = Pool::parse(&name, &text).map_err(|error| {
            let shown = error.0.render(configuration::style());
            configuration::Faulty(format!("the pool cannot be used\n{}", shown.trim_end()))
        })?;
        pools.push((name, pool));
    }
    if pools.is_empty() {
        let n_servers = args.servers;
        pools.push((format!("{n_servers} servers"), Pool::uniform(usize::from(n_servers))));
    }
    pools
        .into_iter()
        .map(|(name, mut pool)| {
            if args.no_metrics {
                pool.scrape.interval = None;
            }
            if let Some(interval) = args.scrape_interval {
                pool.scrape.interval = Some(length("--scrape-interval", interval)?);
            }
            if let Some(delay) = args.scrape_delay {
                if pool.scrape.interval.is_none() {
                    let message = format!(
                        "--scrape-delay is for servers that are scraped, and those of {name} never are; add \
                         --scrape-interval, or leave it out"
                    );
                    return Err(UsageError(message).into());
                }
                pool.scrape.delay = length("--scrape-delay", delay)?;
            }
            // What the file says was looked at when it was read.
            let of_flags = |message| UsageError(format!("--scrape-interval, --scrape-delay: {message}"));
            pool.scrape.check().map_err(of_flags)?;
            Ok(NamedPool { name, pool: Arc::new(pool) })
        })
        .collect()
}

/// A length of time that a flag names.
fn length(flag: &str, duration: GoDuration) -> Result<Duration, UsageError> {
    duration.to_std().ok_or_else(|| UsageError::at(flag, "must not be negative"))
}

/// A length of time that can be met.
fn goal(flag: &str, duration: GoDuration) -> Result<Duration, UsageError> {
    let goal = length(flag, duration)?;
    if goal.is_zero() { Err(UsageError::at(flag, "must be more than 0")) } else { Ok(goal) }
}

/// `1 endpoint`, `3 endpoints`.
fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// What `--list` shows.
fn list(registry: &Registry) -> String {
    let mut text = "Presets, for --config:\n".to_owned();
    text += &presets::listed(registry);
    text += "\nWorkloads, for --workload:\n";
    let line =
        |workload: &workload::Workload| format!("  {:<16} {}\n", workload.name, workload.about);
    text.extend(workload::WORKLOADS.iter().map(line));
    text
}
