//! Buffers that pages are read into, reused across targets: memory grows with the pages that are
//! read at a time, not with the number of endpoints.

use std::{fmt, mem, ops::Deref, ops::Range, sync::Arc};

use parking_lot::Mutex;

/// A page. Its buffer is reused once this is dropped.
pub struct Page {
    pub(super) bytes: Vec<u8>,
    pub(super) body: Range<usize>,
    home: Arc<Buffers>,
}

#[derive(Debug)]
pub(super) struct Buffers {
    max_kept: usize,
    kept: Mutex<Vec<Vec<u8>>>,
}

/// A buffer that has grown beyond this by one huge page is not kept.
const MAX_KEPT_BYTES: usize = 1 << 20;

impl Buffers {
    pub(super) fn new(max_kept: usize) -> Self {
        Self { max_kept, kept: Mutex::default() }
    }

    pub(super) fn take(self: &Arc<Self>) -> Page {
        let bytes = self.kept.lock().pop().unwrap_or_default();
        Page { bytes, body: 0..0, home: Arc::clone(self) }
    }
}

impl Deref for Page {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.body.clone()).unwrap_or_default()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let mut bytes = mem::take(&mut self.bytes);
        bytes.clear();
        let mut kept = self.home.kept.lock();
        if kept.len() < self.home.max_kept && bytes.capacity() <= MAX_KEPT_BYTES {
            kept.push(bytes);
        }
    }
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("n_bytes", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Buffers {
    /// Bytes of kept buffers that are larger than `limit`.
    pub(super) fn n_kept_bytes_over(&self, limit: usize) -> usize {
        self.kept.lock().iter().map(Vec::capacity).filter(|capacity| *capacity > limit).sum()
    }
}
