//! What an open request holds of the server's memory.
//!
//! Streams are opened and sent at most all but the last chunk of the body, so the server must keep
//! what it has read and cannot decide. The growth of its resident memory over the streams is what one
//! holds.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use router_rt::Tasks;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::stream::{queue, start};
use super::{Course, ExtProcArgs, Script};
use crate::procfs;

/// Memory is steady when it changes by less than this between two looks.
const STEADY_KIB: u64 = 256;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks in a row without change.
const N_STEADY_LOOKS: usize = 4;

/// What is sent on a stream before it is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sent {
    /// Not one message.
    Nothing,
    /// The request's headers.
    Headers,
    /// All but the last chunk of the body.
    Body,
}

/// What was found.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Held {
    pub n_streams: usize,
    /// Body bytes sent on each.
    pub sent: usize,
    pub before_mib: f64,
    pub after_mib: f64,
    /// Growth over streams, in KiB.
    pub kib_per_stream: f64,
}

/// Opens `n_streams` streams and looks at process `pid`; `limit` bounds each of the waits.
///
/// # Errors
/// A server that cannot be reached or does not read, a process that is not there, or memory that
/// never gets steady.
pub async fn measure(
    args: &ExtProcArgs,
    until: Sent,
    n_streams: usize,
    pid: u32,
    run_tag: u64,
    limit: Duration,
) -> Result<Held> {
    ensure!(n_streams > 0, "there must be at least one stream");
    let clients = args.connect().await?;
    let script = Script::new(args, run_tag)?;
    let before_kib = steady_rss_kib(pid, limit).await?;
    let tasks = Tasks::new();
    let mut senders = Vec::with_capacity(n_streams);
    let mut sent = 0;
    for stream_idx in 0..n_streams {
        let body = script.body(stream_idx as u64, Course::Whole);
        let mut messages = script.request(stream_idx as u64, &body, Course::Whole);
        messages.truncate(match until {
            Sent::Nothing => 0,
            Sent::Headers => 1,
            Sent::Body => messages.len() - 1,
        });
        sent = (messages.len().saturating_sub(1) * args.body_chunk).min(body.len());
        let (sender, receiver) = queue(messages, 1)?;
        let mut client = clients[stream_idx % clients.len()].clone();
        senders.push(sender);
        tasks.spawn_cancellable("held stream", async move {
            let mut answers = start(&mut client, receiver).await?;
            anyhow::Ok(answers.message().await?)
        });
    }
    let deadline = Instant::now() + limit;
    while senders.iter().any(|sender| sender.capacity() < sender.max_capacity()) {
        ensure!(Instant::now() < deadline, "the server does not read what is sent");
        sleep(LOOK_EVERY).await;
    }
    let after_kib = steady_rss_kib(pid, limit).await?;
    ensure!(tasks.n_running() == n_streams, "the server has ended streams that were to be held");
    tasks.shutdown(limit).await?;
    Ok(Held {
        n_streams,
        sent,
        before_mib: before_kib as f64 / 1024.0,
        after_mib: after_kib as f64 / 1024.0,
        kib_per_stream: after_kib.saturating_sub(before_kib) as f64 / n_streams as f64,
    })
}

async fn steady_rss_kib(pid: u32, limit: Duration) -> Result<u64> {
    let look = || procfs::usage(pid).map(|usage| usage.rss_kib).context("no such process");
    let deadline = Instant::now() + limit;
    let mut last = look()?;
    let mut n_steady = 0;
    while n_steady < N_STEADY_LOOKS {
        ensure!(Instant::now() < deadline, "the server's memory does not get steady");
        sleep(LOOK_EVERY).await;
        let now = look()?;
        n_steady = if now.abs_diff(last) < STEADY_KIB { n_steady + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}
