//! Telling HTTP/1 from HTTP/2 by the first bytes, and giving these bytes back to the reader.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::activity::Activity;

/// A stream that reads bytes already taken from it once more, and notes what comes in and whether it takes
/// what goes out.
#[derive(Debug)]
pub(super) struct Watched<T> {
    inner: T,
    taken: [u8; PREFACE.len()],
    n_taken: usize,
    n_given_back: usize,
    activity: Arc<Activity>,
}

/// What every HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl<T: AsyncRead + Unpin> Watched<T> {
    pub(super) fn new(inner: T, activity: Arc<Activity>) -> Self {
        Self { inner, taken: [0; PREFACE.len()], n_taken: 0, n_given_back: 0, activity }
    }

    /// Reads as much as it takes to know; nothing is lost.
    pub(super) async fn is_http2(&mut self) -> io::Result<bool> {
        loop {
            let taken = self.taken.get(..self.n_taken).unwrap_or_default();
            if !PREFACE.starts_with(taken) {
                return Ok(false);
            }
            let Some(free) = self.taken.get_mut(self.n_taken..).filter(|free| !free.is_empty())
            else {
                return Ok(true);
            };
            let n_read = self.inner.read(free).await?;
            if n_read == 0 {
                return Ok(false);
            }
            self.n_taken += n_read;
            self.activity.on_read();
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.n_given_back < self.n_taken {
            let n = buf.remaining().min(self.n_taken - self.n_given_back);
            let end = self.n_given_back + n;
            buf.put_slice(self.taken.get(self.n_given_back..end).unwrap_or_default());
            self.n_given_back = end;
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.on_read();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.activity.on_write(polled.is_pending());
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.activity.on_write(polled.is_pending());
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.activity.on_write(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use router_rt::Clock;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Sends `parts` one by one and returns the verdict and what a reader gets afterwards.
    async fn check(parts: &[&[u8]]) -> (bool, Vec<u8>) {
        let (mut client, server) = tokio::io::duplex(64);
        let activity = Arc::new(Activity::new(Clock::new()));
        let mut watched = Watched::new(server, activity);
        let send = async {
            for part in parts {
                client.write_all(part).await.unwrap();
                tokio::task::yield_now().await;
            }
            drop(client);
        };
        let receive = async {
            let verdict = watched.is_http2().await.unwrap();
            let mut all = Vec::new();
            watched.read_to_end(&mut all).await.unwrap();
            (verdict, all)
        };
        let (outcome, ()) = tokio::join!(receive, send);
        outcome
    }

    #[tokio::test]
    async fn the_preface_is_known_however_it_is_cut() {
        for cut in 0..PREFACE.len() {
            let (head, tail) = PREFACE.split_at(cut);
            let (verdict, all) = check(&[head, tail, b"frames"]).await;
            assert!(verdict, "cut at {cut}");
            assert_eq!(all, [PREFACE.as_slice(), b"frames"].concat());
        }
    }

    #[tokio::test]
    async fn anything_else_is_http1_and_arrives_whole() {
        for text in ["", "P", "PRI", "PRI * HTTP/1.1\r\n\r\n", "POST / HTTP/1.1\r\n\r\n", "\0"] {
            let (verdict, all) = check(&[text.as_bytes()]).await;
            assert!(!verdict, "{text:?}");
            assert_eq!(all, text.as_bytes());
        }
    }
}
