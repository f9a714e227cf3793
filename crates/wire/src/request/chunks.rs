//! The body so far, as the chunks it came in.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

/// A chunk below this is copied, so that a body that comes in single bytes costs no slice header for each of them.
const SMALL_CHUNK_BYTES: usize = 512;

/// Copied chunks are put together up to this size.
const GATHER_BYTES: usize = 16 * 1024;

/// Chunks with the offset at which each begins; gives parts of the whole as shared slices.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    list: Vec<(usize, Bytes)>,
    small: Vec<u8>,
    /// Bytes of small chunks that are in the list.
    n_copied: usize,
    len: usize,
}

impl Chunks {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes that are held besides the chunks that are shared.
    pub(super) fn held_bytes(&self) -> usize {
        self.list.capacity() * size_of::<(usize, Bytes)>() + self.small.capacity() + self.n_copied
    }

    pub(super) fn push(&mut self, chunk: &Bytes) {
        if chunk.len() < SMALL_CHUNK_BYTES {
            self.small.extend_from_slice(chunk);
            self.len += chunk.len();
            if self.small.len() >= GATHER_BYTES {
                self.close_small();
            }
        } else {
            self.close_small();
            self.list.push((self.len, chunk.clone()));
            self.len += chunk.len();
        }
    }

    /// Makes all that was pushed visible to [`Chunks::slices`].
    pub(super) fn close_small(&mut self) {
        if !self.small.is_empty() {
            let start = self.len - self.small.len();
            self.list.push((start, Bytes::copy_from_slice(&self.small)));
            self.n_copied += self.small.len();
            self.small.clear();
        }
    }

    /// The bytes of `range`, without a copy.
    pub(super) fn slices(&self, range: Range<usize>) -> SmallVec<[Bytes; 1]> {
        let first = self.list.partition_point(|(start, chunk)| start + chunk.len() <= range.start);
        let mut slices = SmallVec::new();
        for (start, chunk) in self.list.get(first..).unwrap_or_default() {
            if *start >= range.end {
                break;
            }
            let from = range.start.saturating_sub(*start);
            let to = chunk.len().min(range.end - start);
            if from < to {
                slices.push(chunk.slice(from..to));
            }
        }
        slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_of_any_chunks_is_what_was_pushed() {
        let whole: Vec<u8> = (0..4000u32).map(|i| (i % 251) as u8).collect();
        let mut chunks = Chunks::default();
        let mut rest = Bytes::from(whole.clone());
        for size in [1, 600, 3, 3, 512, 511, 1000, 1, 1369] {
            chunks.push(&rest.split_to(size));
        }
        chunks.close_small();
        assert_eq!((chunks.len(), rest.len()), (4000, 0));
        for (from, to) in
            [(0, 0), (0, 1), (0, 4000), (1, 601), (600, 608), (3999, 4000), (500, 3000)]
        {
            let joined: Vec<u8> = chunks.slices(from..to).iter().flatten().copied().collect();
            assert_eq!(joined, whole[from..to], "{from}..{to}");
        }
    }

    #[test]
    fn single_bytes_are_gathered() {
        let mut chunks = Chunks::default();
        for _ in 0..100_000 {
            chunks.push(&Bytes::from_static(b"x"));
        }
        chunks.close_small();
        assert!(chunks.list.len() <= 100_000 / GATHER_BYTES + 1);
    }
}
