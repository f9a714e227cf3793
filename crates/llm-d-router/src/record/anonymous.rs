//! What stands in a recording for names and for text.
//!
//! Both are hashed under a key that is made at random for one recording, never written, and gone with its end:
//! equal names and equal prefixes stay equal within one recording, and nobody can look up from outside what they
//! were, not even by hashing guesses.

use std::hash::{BuildHasher, RandomState};

use router_kvcache::BlockHash;
use router_sim::replay::read::MAX_NAME_BYTES;

/// Bits that are dropped from a hash. What is left are numbers that JSON readers in any language keep whole, and
/// enough to tell apart the blocks that may follow one another.
const DROPPED_BITS: u32 = 16;

/// The key, and what it is not used for.
pub(super) struct Anonymous {
    /// The standard library's keyed hash, whose key comes from the system.
    key: RandomState,
    keeps_names: bool,
}

/// What a name belongs to; the same name in two places is two names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// Models and adapters.
    Model,
    Tenant,
}

impl Anonymous {
    pub(super) fn new(keeps_names: bool) -> Self {
        Self { key: RandomState::new(), keeps_names }
    }

    pub(super) fn block(&self, block: BlockHash) -> u64 {
        self.key.hash_one(("block", block.0)) >> DROPPED_BITS
    }

    pub(super) fn name(&self, kind: Kind, name: &str) -> String {
        let can_stay = (1..=MAX_NAME_BYTES).contains(&name.len())
            && !name.chars().any(char::is_control)
            && name.is_ascii();
        if self.keeps_names && can_stay {
            return name.to_owned();
        }
        let prefix = match kind {
            Kind::Model => "model",
            Kind::Tenant => "tenant",
        };
        format!("{prefix}-{:012x}", self.key.hash_one((kind, name)) >> DROPPED_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_things_are_equal_within_one_recording_only() {
        let (one, other) = (Anonymous::new(false), Anonymous::new(false));
        let name = |of: &Anonymous, kind| of.name(kind, "llama");
        assert_eq!(name(&one, Kind::Model), name(&one, Kind::Model));
        assert_ne!(name(&one, Kind::Model), name(&other, Kind::Model));
        assert_ne!(
            name(&one, Kind::Model)["model-".len()..],
            name(&one, Kind::Tenant)["tenant-".len()..]
        );
        let block = BlockHash(7);
        assert_eq!(one.block(block), one.block(block));
        assert_ne!(one.block(block), other.block(block));
        assert!((0..1000).all(|n| one.block(BlockHash(n)) < 1 << 48));
    }

    #[test]
    fn names_stay_where_they_may_and_can_be_read_again() {
        let kept = Anonymous::new(true);
        assert_eq!(kept.name(Kind::Model, "llama"), "llama");
        for hostile in ["", "a\nb", &"x".repeat(MAX_NAME_BYTES + 1), "é"] {
            let name = kept.name(Kind::Tenant, hostile);
            assert!(name.starts_with("tenant-"), "{name}");
        }
    }
}
