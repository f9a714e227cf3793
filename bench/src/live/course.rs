//! The live run: programs are started, requests are sent, programs are ended.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use router_rt::Tasks;
use router_sim::replay::policy::Preset;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::LiveArgs;
use super::client::{self, Progress};
use super::measured::{self, Lateness, LiveRun};
use super::stretch::Stretch;
use super::world::{Programs, World};
use crate::procfs;

/// Between the last program's start and the first request: scrapes begin, connections are made.
const SETTLE: Duration = Duration::from_secs(2);
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// All configurations live.
#[derive(Clone, Debug, Serialize)]
pub struct Live {
    pub runs: Vec<LiveRun>,
    /// From the first request to the last answer, of all runs together.
    pub seconds: f64,
    /// CPU time of the client, in seconds.
    pub client_cpu_seconds: f64,
    /// Share of all cores that anything on the machine used meanwhile.
    pub machine_busy: f64,
}

/// Plays the stretch under every preset; ends everything on SIGINT and SIGTERM.
pub(super) async fn live(
    args: &LiveArgs,
    programs: &Programs,
    stretch: &Stretch,
    presets: &[&Preset],
) -> Result<Live> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Programs end when what started them is dropped.
    tokio::select! {
        biased;
        _ = interrupt.recv() => bail!("interrupted"),
        _ = terminate.recv() => bail!("terminated"),
        live = Box::pin(uninterrupted(args, programs, stretch, presets)) => live,
    }
}

async fn uninterrupted(
    args: &LiveArgs,
    programs: &Programs,
    stretch: &Stretch,
    presets: &[&Preset],
) -> Result<Live> {
    let folder = tempfile::tempdir().context("a folder for documents and logs")?;
    let mut live =
        Live { runs: Vec::new(), seconds: 0.0, client_cpu_seconds: 0.0, machine_busy: 0.0 };
    let at_once = if args.one_by_one { 1 } else { presets.len().max(1) };
    for presets in presets.chunks(at_once) {
        let mut worlds = Vec::with_capacity(presets.len());
        for preset in presets {
            say(&format!("starting servers, picker and Envoy for {}", preset.name));
            worlds.push(start(args, programs, preset, folder.path()).await?);
        }
        let turn = turn(args, stretch, presets, &worlds).await?;
        live.runs.extend(turn.runs);
        live.client_cpu_seconds += turn.client_cpu_seconds;
        live.machine_busy =
            weighted([live.machine_busy, turn.machine_busy], [live.seconds, turn.seconds]);
        live.seconds += turn.seconds;
    }
    Ok(live)
}

async fn start(
    args: &LiveArgs,
    programs: &Programs,
    preset: &Preset,
    folder: &Path,
) -> Result<World> {
    let folder = folder.join(preset.name);
    fs::create_dir_all(&folder)?;
    let world = World::start(programs, args.servers, preset.document, &folder).await;
    world.with_context(|| format!("starting {}", preset.name))
}

/// Some configurations side by side.
async fn turn(
    args: &LiveArgs,
    stretch: &Stretch,
    presets: &[&Preset],
    worlds: &[World],
) -> Result<Live> {
    let start = Instant::now() + SETTLE;
    let progress: Vec<Arc<Progress>> = presets.iter().map(|_| Arc::default()).collect();
    let reporter = Tasks::new();
    let names = presets.iter().map(|preset| preset.name).collect();
    reporter.spawn_cancellable("progress", report_progress(names, progress.clone(), start));
    let before: Vec<_> = worlds.iter().map(World::cpu_times).collect();
    let (busy_before, client_before) = (busy_ticks(), own_cpu());
    let plays = worlds
        .iter()
        .zip(&progress)
        .map(|(world, progress)| client::play(stretch, &world.target, start, Arc::clone(progress)));
    let courses = try_join_all(plays).await;
    reporter.cancel();
    let courses = courses?;
    let seconds = start.elapsed().as_secs_f64();
    let (busy_after, client_after) = (busy_ticks(), own_cpu());
    let mut runs = Vec::with_capacity(worlds.len());
    for (((preset, world), before), courses) in presets.iter().zip(worlds).zip(before).zip(courses)
    {
        let summary = measured::summary(stretch, &courses, args.servers);
        let accepted = measured::accepted(stretch, &courses);
        // Servers that answered nothing have no mean; the failures say why.
        let at_servers = world.mean_ttft_at_servers().await.unwrap_or(f64::NAN);
        runs.push(LiveRun {
            configuration: preset.name.to_owned(),
            failures: measured::failures(&courses),
            lateness: Lateness::of(courses.iter().map(|course| course.lateness)),
            accepted_after: Lateness::of(
                stretch.arrivals().zip(&accepted).map(|(due, at)| at.saturating_sub(due)),
            ),
            ttft_outside_servers: summary.ttft.mean - at_servers,
            cpu_seconds: world.cpu_times().since(before),
            accepted,
            summary,
        });
    }
    let all = busy_after.1.saturating_sub(busy_before.1).max(1) as f64;
    Ok(Live {
        runs,
        seconds,
        client_cpu_seconds: client_after - client_before,
        machine_busy: busy_after.0.saturating_sub(busy_before.0) as f64 / all,
    })
}

async fn report_progress(names: Vec<&'static str>, progress: Vec<Arc<Progress>>, start: Instant) {
    loop {
        sleep(REPORT_EVERY).await;
        let seconds = start.elapsed().as_secs();
        let each = names.iter().zip(&progress).map(|(name, progress)| {
            let of = |n: &std::sync::atomic::AtomicUsize| n.load(Ordering::Relaxed);
            let (sent, ended) = (of(&progress.n_sent), of(&progress.n_ended));
            let (flying, failed) = (sent.saturating_sub(ended), of(&progress.n_failed));
            format!("{name}: {sent} sent, {flying} in flight, {failed} failed")
        });
        let each: Vec<String> = each.collect();
        say(&format!("{:02}:{:02}  {}", seconds / 60, seconds % 60, each.join("; ")));
    }
}

/// A line to whoever waits; the report alone goes to standard output.
pub(super) fn say(line: &str) {
    // Nobody may be listening.
    writeln!(std::io::stderr(), "{line}").ok();
}

fn own_cpu() -> f64 {
    procfs::usage(std::process::id()).map_or(0.0, |usage| usage.cpu_s)
}

/// What all cores have worked so far, and how much time they have had, in ticks.
fn busy_ticks() -> (u64, u64) {
    fs::read_to_string("/proc/stat").map_or((0, 0), |stat| ticks_of(&stat))
}

fn ticks_of(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; guest time is in user time already.
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).take(8).filter_map(|tick| tick.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}

fn weighted(values: [f64; 2], weights: [f64; 2]) -> f64 {
    let sum: f64 = weights.iter().sum();
    let parts = values.iter().zip(weights).map(|(value, weight)| value * weight);
    if sum > 0.0 { parts.sum::<f64>() / sum } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_what_is_neither_idle_nor_waiting() {
        let stat = "cpu  10 1 5 80 4 1 1 2 7 0\ncpu0 1 1 1 1\n";
        assert_eq!(ticks_of(stat), (20, 104));
        assert_eq!(ticks_of(""), (0, 0));
        assert_eq!(weighted([0.0, 0.5], [0.0, 3.0]), 0.5);
        assert_eq!(weighted([0.25, 0.5], [1.0, 3.0]), 0.4375);
    }
}
