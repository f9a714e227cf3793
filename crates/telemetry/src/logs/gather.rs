//! Lines of the access log, gathered so that a busy proxy writes many at once.
//!
//! Every other line goes out as it is written, after what was gathered before it.

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::Metadata;
use tracing_subscriber::fmt::MakeWriter;

/// The target of access log lines.
pub const ACCESS: &str = "router_proxy::access";

/// Lines wait until they are this many bytes.
const ENOUGH: usize = 16 << 10;
/// Or as long as this.
const WAIT: Duration = Duration::from_millis(100);

/// Lines on their way to `W`.
#[derive(Debug)]
pub(crate) struct Lines<W>(Arc<Shared<W>>);

#[derive(Debug)]
struct Shared<W> {
    inner: Mutex<Inner<W>>,
    first: Notify,
}

#[derive(Debug)]
struct Inner<W> {
    writer: W,
    lines: Vec<u8>,
    /// Somebody writes what is gathered in time.
    is_followed: bool,
}

/// Writes one line.
#[derive(Debug)]
pub(crate) struct Line<'a, W> {
    shared: &'a Shared<W>,
    may_wait: bool,
}

// === impl Lines ===

impl<W: Write> Lines<W> {
    pub(crate) fn new(writer: W) -> Self {
        let inner = Inner { writer, lines: Vec::new(), is_followed: false };
        Self(Arc::new(Shared { inner: Mutex::new(inner), first: Notify::new() }))
    }

    /// Writes what was gathered, as long as it is polled; nothing is gathered while it is not.
    pub(crate) async fn follow(self) {
        self.0.inner.lock().is_followed = true;
        let _followed = Followed(&self);
        loop {
            self.0.first.notified().await;
            tokio::time::sleep(WAIT).await;
            self.flush();
        }
    }

    /// Writes what was gathered. A writer that fails loses it: there is nobody to tell.
    pub(crate) fn flush(&self) {
        let _nobody_to_tell = self.0.inner.lock().flush();
    }
}

/// Ends the gathering when it is dropped.
struct Followed<'a, W: Write>(&'a Lines<W>);

impl<W: Write> Drop for Followed<'_, W> {
    fn drop(&mut self) {
        self.0.0.inner.lock().is_followed = false;
        self.0.flush();
    }
}

impl<W> Clone for Lines<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<'a, W: Write + 'a> MakeWriter<'a> for Lines<W> {
    type Writer = Line<'a, W>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { shared: &self.0, may_wait: false }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Self::Writer {
        Line { shared: &self.0, may_wait: metadata.target() == ACCESS }
    }
}

// === impl Line ===

impl<W: Write> Write for Line<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut inner = self.shared.inner.lock();
        if !(self.may_wait && inner.is_followed) {
            inner.flush()?;
            inner.writer.write_all(line)?;
            return Ok(line.len());
        }
        if inner.lines.is_empty() {
            self.shared.first.notify_one();
        }
        inner.lines.extend_from_slice(line);
        if inner.lines.len() >= ENOUGH {
            inner.flush()?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// === impl Inner ===

impl<W: Write> Inner<W> {
    fn flush(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let written = self.writer.write_all(&self.lines);
        self.lines.clear();
        // One line with a long path is no reason to keep its room.
        self.lines.shrink_to(2 * ENOUGH);
        written
    }
}

#[cfg(test)]
mod tests {
    use tracing::Subscriber;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::logs::{LogOptions, layer};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().push(bytes.to_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        /// Lines of each write.
        fn writes(&self) -> Vec<usize> {
            let count = |write: &Vec<u8>| String::from_utf8_lossy(write).lines().count();
            self.0.lock().iter().map(count).collect()
        }
    }

    fn subscriber(lines: &Lines<Captured>) -> impl Subscriber + Send + Sync + 'static {
        tracing_subscriber::registry().with(layer(&LogOptions::default(), lines.clone()))
    }

    fn access() {
        tracing::info!(target: "router_proxy::access", "request");
    }

    #[tokio::test(start_paused = true)]
    async fn access_lines_go_out_together_and_soon() {
        let captured = Captured::default();
        let lines = Lines::new(captured.clone());
        let _logs = tracing::subscriber::set_default(subscriber(&lines));
        access();
        assert_eq!(captured.writes(), [1], "nobody follows yet");
        let mut following = Box::pin(lines.follow());
        let soon = tokio::time::timeout(Duration::from_millis(1), &mut following);
        soon.await.unwrap_err();
        access();
        access();
        assert_eq!(captured.writes(), [1]);
        tokio::time::timeout(2 * WAIT, &mut following).await.unwrap_err();
        assert_eq!(captured.writes(), [1, 2]);
        access();
        tracing::info!(target: "router_engine", "another");
        assert_eq!(captured.writes(), [1, 2, 1, 1], "in their order");
        access();
        drop(following);
        assert_eq!(captured.writes(), [1, 2, 1, 1, 1]);
        access();
        assert_eq!(captured.writes(), [1, 2, 1, 1, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_enough_is_gathered() {
        let captured = Captured::default();
        let lines = Lines::new(captured.clone());
        let _logs = tracing::subscriber::set_default(subscriber(&lines));
        let mut following = Box::pin(lines.follow());
        let soon = tokio::time::timeout(Duration::from_millis(1), &mut following);
        soon.await.unwrap_err();
        (0..1_000).for_each(|_| access());
        let writes = captured.writes();
        assert!(writes.len() > 2 && writes.iter().all(|n| *n < 500), "{writes:?}");
    }
}
