//! A request body as it is held until it can go on.

use bytes::Bytes;

/// A chunk below this is copied, so that a body that comes in single bytes costs neither a slice header nor
/// a message of its own for each of them.
const SMALL_CHUNK_BYTES: usize = 8 * 1024;

/// Copied chunks are put together up to this size.
const GATHER_BYTES: usize = 16 * 1024;

/// The chunks of a body in their order. What it holds is bounded by the lease on the body's bytes.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    chunks: Vec<Bytes>,
    small: Vec<u8>,
}

impl Gathered {
    pub(super) fn push(&mut self, chunk: &Bytes) {
        // A body that is one short chunk is the usual case, and it is not copied.
        let is_first = self.chunks.is_empty() && self.small.is_empty();
        if is_first || chunk.len() >= SMALL_CHUNK_BYTES {
            self.close_small();
            self.chunks.push(chunk.clone());
            return;
        }
        if self.small.len() + chunk.len() > GATHER_BYTES {
            self.close_small();
        }
        self.small.extend_from_slice(chunk);
    }

    fn close_small(&mut self) {
        if !self.small.is_empty() {
            self.chunks.push(Bytes::copy_from_slice(&self.small));
            self.small.clear();
        }
    }

    /// The whole body.
    pub(super) fn into_chunks(mut self) -> Vec<Bytes> {
        self.close_small();
        self.chunks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_what_was_pushed_in_few_chunks() {
        let check = |lengths: &[usize], expected: &[usize]| {
            let mut gathered = Gathered::default();
            let mut whole = Vec::new();
            for (at, &length) in lengths.iter().enumerate() {
                let chunk = Bytes::from(vec![at as u8; length]);
                gathered.push(&chunk);
                whole.extend_from_slice(&chunk);
            }
            let chunks = gathered.into_chunks();
            assert_eq!(chunks.concat(), whole);
            let lengths: Vec<_> = chunks.iter().map(Bytes::len).collect();
            assert_eq!(lengths, expected);
        };
        check(&[], &[]);
        check(&[5], &[5]);
        check(&[5, 6, 7], &[5, 13]);
        check(&[30_000, 3, 30_000, 4, 5], &[30_000, 3, 30_000, 9]);
        check(&[8_000; 5], &[8_000, 16_000, 16_000]);
        check(&vec![1; 40_000], &[1, 16_384, 16_384, 7_231]);
    }

    #[test]
    fn a_single_chunk_is_not_copied() {
        let chunk = Bytes::from_static(b"{}");
        let mut gathered = Gathered::default();
        gathered.push(&chunk);
        assert_eq!(gathered.into_chunks()[0].as_ptr(), chunk.as_ptr());
    }
}
