//! A limit on how long the other side of a connection may take nothing.

use std::{
    error::Error,
    future::Future,
    io, iter,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// As long as other limits on what moves no more: it ends what hangs, and no slow reader comes near it.
pub(crate) const DEFAULT_STALL_TIMEOUT: Duration = Duration::from_hours(1);

/// A stream whose writes fail once the other side has taken no byte for the limit.
///
/// Its place is around the socket, below TLS, where every byte that leaves counts. A slow reader is not
/// cut: whatever the socket takes starts the time anew. The kernel may gather up to a third of its send
/// buffer before it takes more, so a limit of seconds would be too short for slow readers.
#[derive(Debug)]
pub(crate) struct WriteLimit<T> {
    inner: T,
    limit: Duration,
    /// Runs while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
}

/// What an [`io::Error`] of a [`WriteLimit`] carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer took nothing for {limit:?}")]
pub(crate) struct Stalled {
    pub(crate) limit: Duration,
}

// === impl WriteLimit ===

impl<T> WriteLimit<T> {
    pub(crate) fn new(inner: T, limit: Duration) -> Self {
        Self { inner, limit, timer: None }
    }

    fn bound(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.timer = None;
            return written;
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, Stalled { limit })))
    }
}

// === impl Stalled ===

impl Stalled {
    /// Finds it among the causes of an error.
    pub(crate) fn behind(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut causes = iter::successors(Some(error), |error| (*error).source());
        causes.find_map(|error| {
            let error = error.downcast_ref::<io::Error>()?.get_ref()?;
            error.downcast_ref().copied()
        })
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WriteLimit<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

/// A socket waits in writes alone: flushing and shutting down are immediate.
impl<T: AsyncWrite + Unpin> AsyncWrite for WriteLimit<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.bound(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.bound(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use router_rt::Tasks;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };

    use super::*;

    const LIMIT: Duration = Duration::from_mins(1);

    #[tokio::test(start_paused = true)]
    async fn a_write_that_nobody_takes_fails_at_the_limit() {
        let start = Instant::now();
        let (writer, _reader) = tokio::io::duplex(4);
        let mut writer = WriteLimit::new(writer, LIMIT);
        writer.write_all(b"1234").await.unwrap();
        let error = writer.write_all(b"5").await.unwrap_err();
        assert_eq!((error.kind(), start.elapsed()), (io::ErrorKind::TimedOut, LIMIT));
        assert_eq!(Stalled::behind(&error), Some(Stalled { limit: LIMIT }));
        assert_eq!(Stalled::behind(&io::Error::from(io::ErrorKind::TimedOut)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_is_enough() {
        let start = Instant::now();
        let (writer, mut reader) = tokio::io::duplex(1);
        let mut writer = WriteLimit::new(writer, LIMIT);
        let tasks = Tasks::new();
        let writing = tasks.spawn("writer", async move { writer.write_all(&[7; 60]).await });
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(59)).await;
            assert_eq!(reader.read_u8().await.unwrap(), 7);
        }
        writing.join().await.unwrap().unwrap();
        assert!(start.elapsed() > 50 * LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_between_writes_counts_for_nothing() {
        let (writer, _reader) = tokio::io::duplex(2);
        let mut writer = WriteLimit::new(writer, LIMIT);
        for _ in 0..2 {
            tokio::time::sleep(2 * LIMIT).await;
            writer.write_all(b"1").await.unwrap();
        }
    }
}
