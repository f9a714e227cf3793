use std::{collections::VecDeque, future::poll_fn};

use proptest::prelude::*;

use super::*;

/// A stream that takes so many bytes per write, 0 for "not now", and then everything.
#[derive(Default)]
struct Slow {
    takes: VecDeque<usize>,
    vectored: bool,
    received: Vec<u8>,
    n_writes: usize,
    n_flushed: usize,
    fails: bool,
}

impl AsyncWrite for Slow {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.fails {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut left = match self.takes.pop_front() {
            Some(0) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            takes => takes.unwrap_or(usize::MAX),
        };
        self.n_writes += 1;
        let n_slices = if self.vectored { slices.len() } else { 1 };
        let mut n_taken = 0;
        for slice in slices.iter().filter(|slice| !slice.is_empty()).take(n_slices) {
            let n = slice.len().min(left);
            self.received.extend_from_slice(&slice[..n]);
            left -= n;
            n_taken += n;
        }
        Poll::Ready(Ok(n_taken))
    }

    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.n_flushed = self.received.len();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Slow {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Writes and flushes as a connection does, all in one turn, then sends until nothing is kept.
async fn turn(corked: &mut Corked<Slow>, cork: &Cork<Slow>, parts: &[&[u8]]) -> io::Result<()> {
    use tokio::io::AsyncWriteExt;
    for part in parts {
        corked.write_all(part).await?;
        corked.flush().await?;
    }
    poll_fn(|cx| {
        cork.send(cx);
        if cork.0.lock().dirty { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn small_writes_of_a_turn_are_one() {
    let (mut corked, cork) = cork(Slow { vectored: true, ..Slow::default() });
    turn(&mut corked, &cork, &[b"head", b"data", &[7; 1_300]]).await.unwrap();
    assert_eq!(corked.0.lock().inner.n_writes, 1);
    turn(&mut corked, &cork, &[b"more"]).await.unwrap();
    let kept = corked.0.lock();
    assert_eq!((kept.inner.n_writes, kept.inner.n_flushed), (2, 1_312));
    assert_eq!(kept.bytes.capacity(), 0, "an idle connection keeps no buffer");
}

#[tokio::test]
async fn a_long_write_takes_along_what_was_kept() {
    let (mut corked, cork) = cork(Slow { vectored: true, ..Slow::default() });
    turn(&mut corked, &cork, &[b"head", &[7; MAX_KEPT_BYTES], b"tail"]).await.unwrap();
    let kept = corked.0.lock();
    assert_eq!((kept.inner.n_writes, kept.inner.received.len()), (2, MAX_KEPT_BYTES + 8));
}

#[tokio::test]
async fn shutting_down_sends_what_was_kept() {
    use tokio::io::AsyncWriteExt;
    let (mut corked, _cork) = cork(Slow::default());
    corked.write_all(b"goodbye").await.unwrap();
    corked.shutdown().await.unwrap();
    assert_eq!(corked.0.lock().inner.received, b"goodbye");
}

#[tokio::test]
async fn an_error_of_a_send_reaches_the_next_write() {
    let (mut corked, cork) = cork(Slow { fails: true, ..Slow::default() });
    turn(&mut corked, &cork, &[b"lost"]).await.unwrap();
    let error = turn(&mut corked, &cork, &[b"more"]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

proptest! {
    #[test]
    fn every_byte_arrives_once_and_in_order(
        lengths in prop::collection::vec(0usize..20_000, 0..8),
        takes in prop::collection::vec(0usize..9_000, 0..20),
        vectored: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let whole: Vec<u8> = (0..lengths.iter().sum()).map(|n: usize| (n % 251) as u8).collect();
        let mut rest = whole.as_slice();
        let parts: Vec<&[u8]> =
            lengths.iter().map(|&n| rest.split_off(..n).unwrap_or_default()).collect();
        let (mut corked, cork) = cork(Slow { takes: takes.into(), vectored, ..Slow::default() });
        runtime.block_on(turn(&mut corked, &cork, &parts)).unwrap();
        let kept = corked.0.lock();
        prop_assert_eq!(&kept.inner.received, &whole);
        prop_assert_eq!(kept.inner.n_flushed, whole.len());
    }
}
