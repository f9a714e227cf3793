//! Recording of live traffic: an anonymised trace that `replay` plays, and on demand all that decisions depend on.
//!
//! The engine puts what happens into a bounded queue ([`router_engine::record`]). One task takes it out, makes
//! lines of it in which nothing can be recognised ([`anonymous`], [`lines`]), and writes them to a bounded file
//! ([`file`]), away from the threads that serve requests. What stood there before is kept ([`earlier`]).

mod anonymous;
mod earlier;
mod file;
mod lines;

use std::{path::PathBuf, time::Duration};

use router_engine::{Recorder, record::Queued};
use router_rt::{Clock, Offload, Task, Tasks};
use router_sim::replay::recording::{Header, RecordedBy, VERSION, Why};
use router_telemetry::router::RecordMetrics;
use tokio::sync::{mpsc, oneshot};

use self::{
    anonymous::Anonymous,
    file::{RecordFile, Written},
    lines::{BLOCK_TOKENS, Lines},
};
use crate::{
    cli::{RecordFlags, UsageError, bytes},
    origin::BUILD,
};

/// Entries that are written at once.
const BATCH: usize = 1024;
/// How long entries are gathered after some were written, so that a busy router writes many at once.
const GATHER: Duration = Duration::from_millis(100);
/// How long requests that were cut may take to say so.
const CUT_DEADLINE: Duration = Duration::from_secs(1);

/// What is recorded, from the first configuration on. It is written when the router serves: a start that fails
/// leaves no file, and what was recorded before stays where it is.
pub(crate) struct Prepared {
    path: PathBuf,
    overwrites: bool,
    max_bytes: u64,
    header: Header,
    lines: Lines,
    metrics: RecordMetrics,
    recorder: Recorder,
    queue: mpsc::Receiver<Queued>,
}

/// A recording under way.
pub(crate) struct Recording {
    recorder: Recorder,
    stop: oneshot::Sender<()>,
    writing: Task<()>,
}

/// What writes entries.
struct Writer {
    file: RecordFile,
    lines: Lines,
    metrics: RecordMetrics,
    recorder: Recorder,
    n_dropped: u64,
    path: PathBuf,
}

// === impl Prepared ===

impl Prepared {
    /// `None` where the flags ask for no recording.
    pub(crate) fn of(
        flags: &RecordFlags,
        registry: &router_telemetry::Registry,
        clock: Clock,
    ) -> anyhow::Result<Option<Self>> {
        let Some(path) = &flags.record else { return Ok(None) };
        let header = Header {
            version: VERSION,
            block_tokens: u64::from(BLOCK_TOKENS),
            recorded: Some(RecordedBy {
                version: match BUILD.commit {
                    "" => BUILD.version.to_owned(),
                    commit => format!("{} ({commit})", BUILD.version),
                },
                inputs: flags.record_inputs,
            }),
        };
        let (recorder, queue) = Recorder::new(clock, flags.record_inputs);
        Ok(Some(Self {
            path: path.clone(),
            overwrites: flags.record_overwrite,
            max_bytes: bytes("--record-max-bytes", &flags.record_max_bytes)? as u64,
            header,
            lines: Lines::new(Anonymous::new(flags.record_names), flags.record_inputs),
            metrics: RecordMetrics::new(registry)?,
            recorder,
            queue,
        }))
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// Makes the file and begins to write.
    pub(crate) fn begin(self, tasks: &Tasks) -> anyhow::Result<Recording> {
        let Self { path, overwrites, max_bytes, header, lines, metrics, recorder, queue } = self;
        let created = RecordFile::create(&path, overwrites, max_bytes, &header);
        let (file, earlier) =
            created.map_err(|error| UsageError(format!("--record {}: {error}", path.display())))?;
        if let Some(earlier) = earlier {
            tracing::info!(
                file = %path.display(),
                earlier = %earlier.display(),
                "the earlier recording is kept under another name"
            );
        }
        metrics.is_recording.set(1.0);
        metrics.bytes.set(file.n_bytes() as f64);
        let inputs = header.recorded.is_some_and(|recorded| recorded.inputs);
        tracing::info!(file = %path.display(), inputs, "recording live traffic");
        let recorded = recorder.clone();
        let writer = Writer { file, lines, metrics, recorder: recorded, n_dropped: 0, path };
        let (stop, stopped) = oneshot::channel();
        let writing = tasks.spawn("recording", write(writer, queue, stopped));
        Ok(Recording { recorder, stop, writing })
    }
}

// === impl Recording ===

impl Recording {
    /// Writes what there is, closes the file, and forgets what names and blocks were.
    pub(crate) async fn finish(self) {
        let all_ended = async {
            while self.recorder.n_under_way() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ended_or_late = tokio::time::timeout(CUT_DEADLINE, all_ended).await;
        let _it_may_have_ended = self.stop.send(());
        let _a_panic_is_logged = self.writing.join().await;
    }
}

/// Writes until it is told to stop, or cannot go on.
async fn write(
    mut writer: Writer,
    mut queue: mpsc::Receiver<Queued>,
    mut stopped: oneshot::Receiver<()>,
) {
    let offload = Offload::pool(1);
    let mut batch = Vec::with_capacity(BATCH);
    let mut is_stopped = false;
    loop {
        if is_stopped {
            // What is in the queue comes out all the same.
            queue.close();
        }
        let n_taken = tokio::select! {
            biased;
            _ = &mut stopped, if !is_stopped => {
                is_stopped = true;
                continue;
            }
            n_taken = queue.recv_many(&mut batch, BATCH) => n_taken,
        };
        let work = move || {
            let goes_on = writer.take(&mut batch, n_taken == 0);
            (writer, batch, goes_on)
        };
        let goes_on;
        (writer, batch, goes_on) = match offload.run(work).await {
            Ok(done) => done,
            Err(error) => return tracing::error!(%error, "the recording has ended"),
        };
        if !goes_on {
            writer.recorder.close();
            writer.metrics.is_recording.set(0.0);
            return;
        }
        if n_taken < BATCH && !is_stopped {
            tokio::select! {
                biased;
                _ = &mut stopped => is_stopped = true,
                () = tokio::time::sleep(GATHER) => {}
            }
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Writes entries, or closes the file. False when nothing more is to be written.
    fn take(&mut self, batch: &mut Vec<Queued>, is_last: bool) -> bool {
        let written = self.write(batch).and_then(|written| match written {
            Written::Whole if is_last => self.close(Why::Stopped).map(|()| false),
            Written::Whole => self.file.flush().map(|()| true),
            Written::Full => {
                self.close(Why::Full)?;
                tracing::warn!(file = %self.path.display(), "the recording is as long as --record-max-bytes says and has ended");
                Ok(false)
            }
        });
        self.metrics.bytes.set(self.file.n_bytes() as f64);
        written.unwrap_or_else(|error| {
            tracing::error!(file = %self.path.display(), %error, "the recording has ended");
            false
        })
    }

    fn write(&mut self, batch: &mut Vec<Queued>) -> std::io::Result<Written> {
        let n_dropped = self.recorder.n_dropped();
        let n_more = n_dropped - std::mem::replace(&mut self.n_dropped, n_dropped);
        if n_more > 0 {
            self.metrics.dropped.add(n_more);
            tracing::warn!(n_more, "the recording lacks lines: the writer was busy");
            // They are missing after this, somewhere within a queue's length.
            self.lines.gap(n_more);
        }
        for queued in batch.drain(..) {
            self.lines.add(&queued.entry);
            if let Written::Full = self.file.write(&mut self.lines, &self.metrics.written)? {
                return Ok(Written::Full);
            }
        }
        Ok(Written::Whole)
    }

    fn close(&mut self, why: Why) -> std::io::Result<()> {
        let (dropped, under_way) = (self.recorder.n_dropped(), self.recorder.n_under_way());
        self.file.close(why, dropped, under_way)
    }
}

#[cfg(test)]
mod tests;
