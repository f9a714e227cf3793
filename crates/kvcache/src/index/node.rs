//! What the trie is made of: segments (runs of blocks) and holds (one endpoint's part of a shared segment).

use smallvec::SmallVec;

use super::slab::Id;
use crate::BlockHash;

/// Blocks of a segment after its first; two lie inline, so short segments take no heap.
pub(super) type Tail = SmallVec<[BlockHash; 2]>;

/// The holders of a shared segment, ordered by holder.
pub(super) type Sharers = Vec<Sharer>;

/// Number of one registered endpoint; used again only when nothing refers to it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HolderId(pub(super) u16);

/// 28 bytes: most of what a one-block prompt costs. An owned segment is its own hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Node {
    #[default]
    Free,
    /// A segment with one holder, who holds all of it.
    Owned { segment: Segment, holder: HolderId, past: Past, links: Links },
    /// A segment with several holders, the longest of whom holds all of it.
    Shared { segment: Segment, sharers: Id<Sharers> },
    /// One holder's part of a shared segment.
    Hold { segment: Id<Node>, holder: HolderId, past: Past, links: Links },
}

/// Whether requests that used a hold were served, and what the last one's answer has left behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Past(u8);

/// A run of blocks without a branch inside for any one holder.
#[derive(Clone, Copy, Debug)]
pub(super) struct Segment {
    /// First block, in two halves so that a node is aligned to four bytes.
    first: [u32; 2],
    /// The other blocks; none for a single block.
    pub(super) tail: Id<Tail>,
    /// Next segment in the same bucket of the table.
    pub(super) next: Id<Node>,
}

/// Place in the holder's list from most to least recently used, or the number of requests under way that use
/// the hold: then it is in no list, since it cannot be evicted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    pub(super) newer: Id<Node>,
    pub(super) older: Id<Node>,
}

/// One holder of a shared segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharer {
    pub(super) holder: HolderId,
    /// How many of the segment's blocks it holds, from the first; at least one.
    pub(super) n_blocks: u32,
    pub(super) hold: Id<Node>,
}

/// What an owned segment and a hold have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct HoldView {
    pub(super) holder: HolderId,
    pub(super) past: Past,
    pub(super) links: Links,
}

impl Segment {
    pub(super) fn new(first: BlockHash, tail: Id<Tail>) -> Self {
        Self { first: [first.0 as u32, (first.0 >> 32) as u32], tail, next: Id::NONE }
    }

    pub(super) fn first(&self) -> BlockHash {
        let [low, high] = self.first;
        BlockHash(u64::from(high) << 32 | u64::from(low))
    }
}

impl Links {
    pub(super) const fn in_use(n_users: u32) -> Self {
        Self { newer: Id::MARK, older: Id::from_raw(n_users) }
    }

    /// Requests that use the hold; `None` when it is in the list.
    pub(super) fn n_users(self) -> Option<u32> {
        (self.newer == Id::MARK).then(|| self.older.raw())
    }
}

impl Past {
    /// No request that used it has been served yet.
    pub(super) const NONE: Self = Self(u8::MAX);
    pub(super) const SERVED: Self = Self(0);

    /// The last request that used it has ended. Its answer filled so many blocks behind the hold, of which no more
    /// are remembered than fit here: 16,256 tokens in blocks of 64.
    pub(super) fn answered(n_blocks: usize) -> Self {
        Self(u8::try_from(n_blocks).map_or(u8::MAX - 1, |n_blocks| n_blocks.min(u8::MAX - 1)))
    }

    /// One that used it has been served. What is in use has no answer behind it; where hashes have collided, it may
    /// not have been in use, and keeps what it has.
    pub(super) fn served(self) -> Self {
        if self == Self::NONE { Self::SERVED } else { self }
    }

    /// Blocks of an answer behind the hold's last one, which are as old as it is.
    pub(super) fn n_answer(self) -> u32 {
        if self == Self::NONE { 0 } else { u32::from(self.0) }
    }

    /// That of a part of the hold before its last block.
    pub(super) fn of_beginning(self) -> Self {
        if self == Self::NONE { self } else { Self::SERVED }
    }
}

impl Node {
    pub(super) fn segment(&self) -> Option<&Segment> {
        match self {
            Self::Owned { segment, .. } | Self::Shared { segment, .. } => Some(segment),
            Self::Free | Self::Hold { .. } => None,
        }
    }

    pub(super) fn segment_mut(&mut self) -> Option<&mut Segment> {
        match self {
            Self::Owned { segment, .. } | Self::Shared { segment, .. } => Some(segment),
            Self::Free | Self::Hold { .. } => None,
        }
    }

    pub(super) fn hold(&self) -> Option<HoldView> {
        match *self {
            Self::Owned { holder, past, links, .. } | Self::Hold { holder, past, links, .. } => {
                Some(HoldView { holder, past, links })
            }
            Self::Free | Self::Shared { .. } => None,
        }
    }

    pub(super) fn links_mut(&mut self) -> Option<&mut Links> {
        match self {
            Self::Owned { links, .. } | Self::Hold { links, .. } => Some(links),
            Self::Free | Self::Shared { .. } => None,
        }
    }

    pub(super) fn set_past(&mut self, new: Past) {
        match self {
            Self::Owned { past, .. } | Self::Hold { past, .. } => *past = new,
            Self::Free | Self::Shared { .. } => {}
        }
    }
}

const _: () = assert!(size_of::<Node>() == 28, "the budget of 32 bytes per block rests on this");
