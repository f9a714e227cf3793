//! What a connection writes in one turn leaves in one system call.
//!
//! HTTP/2 gives every frame above 256 bytes to the socket by itself, so that a connection with many
//! streams spends most of its time in the kernel, on packets of a few hundred bytes. A [`Corked`] stream
//! keeps small writes back; whoever polls the connection sends them afterwards through its [`Cork`].

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are kept back at most; a longer write goes out at once, with what was kept.
const MAX_KEPT_BYTES: usize = 16 * 1024;

/// Slices of a long write that leave together with what was kept.
const MAX_SLICES: usize = 16;

/// The stream as the connection has it.
#[derive(Debug)]
pub(super) struct Corked<T>(Arc<Mutex<Kept<T>>>);

/// Sends what a [`Corked`] stream keeps.
#[derive(Debug)]
pub(super) struct Cork<T>(Arc<Mutex<Kept<T>>>);

#[derive(Debug)]
struct Kept<T> {
    inner: T,
    bytes: Vec<u8>,
    n_sent: usize,
    /// Something was written since the last flush of `inner`.
    dirty: bool,
    /// What went wrong while nobody was writing.
    broken: Option<io::Error>,
}

/// Puts a cork on a stream. Both halves belong to the same task, so the lock between them is never waited
/// for.
pub(super) fn cork<T>(inner: T) -> (Corked<T>, Cork<T>) {
    let kept = Kept { inner, bytes: Vec::new(), n_sent: 0, dirty: false, broken: None };
    let kept = Arc::new(Mutex::new(kept));
    (Corked(Arc::clone(&kept)), Cork(kept))
}

// === impl Cork ===

impl<T: AsyncWrite + Unpin> Cork<T> {
    /// Sends what was kept. What the socket does not take now goes out in a later turn: the task is woken.
    /// An error is given to the next write.
    pub(super) fn send(&self, cx: &mut Context<'_>) {
        let mut kept = self.0.lock();
        if !kept.dirty {
            return;
        }
        if let Poll::Ready(Err(error)) = kept.poll_flush(cx) {
            kept.broken = Some(error);
            kept.forget();
            cx.waker().wake_by_ref();
        }
    }
}

// === impl Kept ===

impl<T: AsyncWrite + Unpin> Kept<T> {
    fn has_room(&self, n_bytes: usize) -> bool {
        self.broken.is_none() && self.bytes.len() + n_bytes <= MAX_KEPT_BYTES
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(MAX_KEPT_BYTES);
        }
        self.bytes.extend_from_slice(bytes);
        self.dirty = true;
    }

    /// Nothing is kept any more; an idle connection keeps no buffer either.
    fn forget(&mut self) {
        self.bytes = Vec::new();
        self.n_sent = 0;
        self.dirty = false;
    }

    /// Writes what was kept and then `slices`; gives how many bytes of the latter were taken.
    fn poll_write_through(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        loop {
            let unsent = self.bytes.get(self.n_sent..).unwrap_or_default();
            let n_unsent = unsent.len();
            let inner = Pin::new(&mut self.inner);
            let n_written = if n_unsent == 0 {
                ready!(inner.poll_write_vectored(cx, slices))?
            } else if !inner.is_write_vectored() {
                ready!(inner.poll_write(cx, unsent))?
            } else {
                let mut all = [IoSlice::new(&[]); MAX_SLICES];
                let given = std::iter::once(IoSlice::new(unsent)).chain(slices.iter().copied());
                all.iter_mut().zip(given).for_each(|(place, slice)| *place = slice);
                let n_slices = MAX_SLICES.min(1 + slices.len());
                ready!(inner.poll_write_vectored(cx, all.get(..n_slices).unwrap_or_default()))?
            };
            if n_written == 0 && (n_unsent > 0 || slices.iter().any(|slice| !slice.is_empty())) {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.dirty = true;
            if n_written < n_unsent {
                self.n_sent += n_written;
                continue;
            }
            self.bytes.clear();
            self.n_sent = 0;
            let n_taken = n_written - n_unsent;
            if n_taken > 0 || slices.iter().all(|slice| slice.is_empty()) {
                return Poll::Ready(Ok(n_taken));
            }
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.n_sent < self.bytes.len() {
            ready!(self.poll_write_through(cx, &[]))?;
        }
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        self.forget();
        Poll::Ready(Ok(()))
    }
}

// === impl Corked ===

impl<T: AsyncRead + Unpin> AsyncRead for Corked<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().inner).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut kept = self.0.lock();
        let n_bytes = slices.iter().map(|slice| slice.len()).sum();
        if kept.has_room(n_bytes) {
            slices.iter().for_each(|slice| kept.keep(slice));
            return Poll::Ready(Ok(n_bytes));
        }
        kept.poll_write_through(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        // Many slices are one write here, whatever the inner stream does.
        true
    }

    /// The flush that counts is [`Cork::send`]'s.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0.lock().broken.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut kept = self.0.lock();
        ready!(kept.poll_flush(cx))?;
        Pin::new(&mut kept.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
