//! A request body as it is held until it can go on.

use bytes::Bytes;

/// Bytes of a block that is full. One fits into a reply.
const BLOCK_BYTES: usize = 32 * 1024;

/// The first room of a block; it doubles as the body comes.
const MIN_BLOCK_BYTES: usize = 1024;

/// The bytes of a body in their order, copied into blocks of one size.
///
/// A slice of a message would keep all that was read from the connection with it, and chunks of any size would
/// cost a slice, a reply and a corner of an allocation each. What is held is bounded by the lease on the body.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    blocks: Vec<Bytes>,
    /// The block that is not full.
    open: Vec<u8>,
}

impl Gathered {
    /// Takes the next bytes, and shows every block that they fill.
    pub(super) fn push(&mut self, mut chunk: &[u8], mut on_block: impl FnMut(&Bytes)) {
        while !chunk.is_empty() {
            let (now, later) = chunk.split_at(chunk.len().min(BLOCK_BYTES - self.open.len()));
            self.append(now);
            chunk = later;
            if self.open.len() == BLOCK_BYTES {
                self.close(&mut on_block);
            }
        }
    }

    /// The body has ended: shows the block that is not full, if there is one.
    pub(super) fn end(&mut self, mut on_block: impl FnMut(&Bytes)) {
        if !self.open.is_empty() {
            self.close(&mut on_block);
        }
    }

    /// The blocks that are closed.
    pub(super) fn into_blocks(self) -> Vec<Bytes> {
        self.blocks
    }

    fn append(&mut self, more: &[u8]) {
        let n_bytes = self.open.len() + more.len();
        if self.open.capacity() < n_bytes {
            let wanted = n_bytes.max(2 * self.open.capacity()).max(MIN_BLOCK_BYTES);
            self.open.reserve_exact(wanted.min(BLOCK_BYTES) - self.open.len());
        }
        self.open.extend_from_slice(more);
    }

    fn close(&mut self, on_block: &mut impl FnMut(&Bytes)) {
        let block = Bytes::from(std::mem::take(&mut self.open));
        on_block(&block);
        self.blocks.push(block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory of the block that is not full and of the others.
    fn held_bytes(gathered: &Gathered) -> usize {
        gathered.open.capacity() + gathered.blocks.iter().map(Bytes::len).sum::<usize>()
    }

    #[test]
    fn a_body_is_what_was_pushed_in_full_blocks() {
        let check = |lengths: &[usize], expected: &[usize]| {
            let (mut gathered, mut whole, mut shown) =
                (Gathered::default(), Vec::new(), Vec::new());
            for (at, &length) in lengths.iter().enumerate() {
                let chunk = vec![at as u8; length];
                gathered.push(&chunk, |block| shown.push(block.clone()));
                whole.extend_from_slice(&chunk);
                let slack = held_bytes(&gathered) - whole.len();
                assert!(slack <= whole.len().max(MIN_BLOCK_BYTES), "{slack} over {}", whole.len());
                assert!(slack < BLOCK_BYTES);
            }
            gathered.end(|block| shown.push(block.clone()));
            let blocks = gathered.into_blocks();
            assert_eq!(blocks, shown);
            assert_eq!(blocks.concat(), whole);
            assert_eq!(blocks.iter().map(Bytes::len).collect::<Vec<_>>(), expected);
        };
        check(&[], &[]);
        check(&[5], &[5]);
        check(&[5, 0, 7], &[12]);
        check(&[30_000, 3, 30_000, 4], &[32_768, 27_239]);
        check(&[100_000], &[32_768, 32_768, 32_768, 1_696]);
        check(&[32_768, 1], &[32_768, 1]);
        check(&vec![1; 40_000], &[32_768, 7_232]);
    }

    #[test]
    fn a_block_does_not_keep_the_message_that_it_came_in() {
        let read = Bytes::from(vec![b'x'; 60_000]);
        let mut gathered = Gathered::default();
        gathered.push(&read.slice(100..200), |_| {});
        gathered.push(&read.slice(10_000..50_000), |_| {});
        assert!(read.is_unique());
    }
}
