//! How old what an endpoint holds is, where nobody says how much its cache holds.
//!
//! Such an endpoint's blocks are remembered up to a limit that is far above what its cache may hold, and those beyond
//! what it is believed to hold are taken for gone: the ones used least recently, as in the engine. What is believed
//! may change at any time, and a prefix that is said to be gone and is found all the same is still known.
//!
//! Time is counted in ends of use. Each puts a run of blocks at the newest end of the holder's list and gives it the
//! next stamp; a block's depth, the number of blocks that are newer or in use, is then a sum over stamps.

use std::collections::BTreeMap;

/// Stamps, at least, before they are counted anew.
const MIN_STAMPS: usize = if cfg!(test) { 8 } else { 1024 };

/// Blocks that no request uses, by the stamp of their last use.
#[derive(Debug, Default)]
pub(super) struct Ages {
    /// Blocks that the endpoint is believed to hold.
    believed: usize,
    /// By stamp, oldest first.
    counts: Vec<u32>,
    n_blocks: usize,
    /// Runs with older stamps than this are gone.
    gone: usize,
    /// Of the run with that stamp, so many blocks from its end are gone, too.
    cut: u32,
    n_gone: usize,
    /// Stamps at which they are counted anew.
    limit: usize,
}

/// A run of a prompt's blocks whose depths follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Blocks of the prompt before it.
    pub start: usize,
    pub n_blocks: usize,
    /// Blocks that are newer than its first, or in use.
    pub depth: usize,
}

impl Ages {
    pub(super) fn new(believed: usize) -> Self {
        Self { believed, limit: MIN_STAMPS, ..Self::default() }
    }

    pub(super) fn believed(&self) -> usize {
        self.believed
    }

    pub(super) fn n_blocks(&self) -> usize {
        self.n_blocks
    }

    /// Gives the newest run its stamp.
    pub(super) fn push(&mut self, n_blocks: u32) -> u32 {
        self.counts.push(n_blocks);
        self.n_blocks += n_blocks as usize;
        (self.counts.len() - 1) as u32
    }

    /// The first blocks of a run are used by a request. Those that were gone are there again.
    pub(super) fn take(&mut self, stamp: u32, n_blocks: u32) {
        let n_left = self.remove(stamp, n_blocks);
        let n_back = match stamp as usize {
            at if at < self.gone => n_blocks,
            at if at == self.gone => self.cut.saturating_sub(n_left),
            _ => 0,
        };
        self.bring_back(stamp, n_back);
    }

    /// The last blocks of a run are not remembered any more.
    pub(super) fn forget(&mut self, stamp: u32, n_blocks: u32) {
        self.remove(stamp, n_blocks);
        let n_gone = match stamp as usize {
            at if at < self.gone => n_blocks,
            at if at == self.gone => self.cut.min(n_blocks),
            _ => 0,
        };
        self.bring_back(stamp, n_gone);
    }

    /// So many blocks of a run are not counted as gone any more.
    fn bring_back(&mut self, stamp: u32, n_blocks: u32) {
        self.n_gone = self.n_gone.saturating_sub(n_blocks as usize);
        if stamp as usize == self.gone {
            self.cut = self.cut.saturating_sub(n_blocks);
        }
    }

    /// Gives the run's blocks that are left.
    fn remove(&mut self, stamp: u32, n_blocks: u32) -> u32 {
        let Some(count) = self.counts.get_mut(stamp as usize) else { return 0 };
        *count = count.saturating_sub(n_blocks);
        self.n_blocks = self.n_blocks.saturating_sub(n_blocks as usize);
        *count
    }

    /// Takes the oldest for gone until the rest fits beside `n_in_use` blocks that are or will be in use.
    pub(super) fn settle(&mut self, n_in_use: usize) {
        while let Some(&count) = self.counts.get(self.gone) {
            let n_over = (n_in_use + self.n_blocks - self.n_gone).saturating_sub(self.believed);
            if n_over == 0 {
                return;
            }
            let n_more = (count - self.cut).min(u32::try_from(n_over).unwrap_or(u32::MAX));
            self.n_gone += n_more as usize;
            self.cut += n_more;
            if self.cut == count {
                (self.gone, self.cut) = (self.gone + 1, 0);
            }
        }
    }

    /// The endpoint holds so many.
    pub(super) fn believe(&mut self, n_blocks: usize, n_in_use: usize) {
        let rises = n_blocks > self.believed;
        self.believed = n_blocks;
        while rises && self.n_gone > 0 {
            if self.cut == 0 {
                self.gone = self.gone.saturating_sub(1);
                self.cut = self.counts.get(self.gone).copied().unwrap_or(0);
            }
            let n_room = n_blocks.saturating_sub(n_in_use + self.n_blocks - self.n_gone);
            let n_back = self.cut.min(u32::try_from(n_room).unwrap_or(u32::MAX));
            self.cut -= n_back;
            self.n_gone -= n_back as usize;
            if n_room == n_back as usize {
                break;
            }
        }
        self.settle(n_in_use);
    }

    /// Whether nothing of the run with this stamp is gone.
    pub(super) fn is_there(&self, stamp: u32) -> bool {
        stamp as usize > self.gone || (stamp as usize == self.gone && self.cut == 0)
    }

    /// Of the run with this stamp, blocks from its beginning that are not gone.
    pub(super) fn n_kept(&self, stamp: u32) -> u32 {
        let at = stamp as usize;
        match self.counts.get(at) {
            Some(_) if at < self.gone => 0,
            Some(count) if at == self.gone => count - self.cut,
            count => count.copied().unwrap_or(0),
        }
    }

    pub(super) fn n_gone(&self) -> usize {
        self.n_gone
    }

    /// Blocks with stamps from `newer` down to that above `stamp`.
    pub(super) fn n_between(&self, stamp: u32, newer: usize) -> usize {
        let counts = self.counts.get(stamp as usize + 1..newer).unwrap_or_default();
        counts.iter().map(|count| *count as usize).sum()
    }

    pub(super) fn n_stamps(&self) -> usize {
        self.counts.len()
    }

    /// Whether stamps should be counted anew.
    pub(super) fn is_worn(&self) -> bool {
        self.counts.len() >= self.limit
    }

    /// The same ages with stamps without gaps; `runs` are their present stamps, oldest first, with the blocks of each
    /// hold, and `renamed` is told the new one of each.
    pub(super) fn renumbered(
        &self,
        runs: impl Iterator<Item = (u32, u32)>,
        mut renamed: impl FnMut(u32),
    ) -> Self {
        let mut new = Self::new(self.believed);
        let mut last = None;
        for (stamp, n_blocks) in runs {
            if last == Some(stamp) {
                if let Some(count) = new.counts.last_mut() {
                    *count += n_blocks;
                }
                new.n_blocks += n_blocks as usize;
            } else {
                new.push(n_blocks);
                match stamp as usize {
                    at if at < self.gone => new.gone += 1,
                    at if at == self.gone => new.cut = self.cut,
                    _ => {}
                }
            }
            last = Some(stamp);
            renamed((new.counts.len() - 1) as u32);
        }
        new.n_gone = self.n_gone;
        new.limit = MIN_STAMPS.max(2 * new.counts.len());
        new
    }

    pub(super) fn n_bytes(&self) -> usize {
        size_of::<Self>() + self.counts.capacity() * size_of::<u32>()
    }

    /// Runs that are not empty, for checks.
    pub(super) fn by_stamp(&self) -> BTreeMap<u32, u32> {
        (0..).zip(self.counts.iter().copied()).filter(|(_, count)| *count > 0).collect()
    }

    /// Says what is wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        let sum = |counts: &[u32]| counts.iter().map(|count| *count as usize).sum::<usize>();
        let gone = sum(self.counts.get(..self.gone).unwrap_or_default()) + self.cut as usize;
        let is_whole = sum(&self.counts) == self.n_blocks && gone == self.n_gone;
        if is_whole { Ok(()) } else { Err(format!("ages do not agree: {self:?}")) }
    }
}
