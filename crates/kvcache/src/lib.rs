//! What model servers probably have in their prefix caches: block hashing and the prefix index.
//!
//! A prompt is cut into blocks of a fixed number of tokens; each block's hash covers the block and all that
//! comes before it ([`BlockHasher`]), so equal hashes mean equal prefixes. The router remembers which prompts
//! it sent where ([`PrefixIndex`]) and asks, for the next prompt, how many leading blocks each endpoint has
//! seen. The index is approximate: it follows the router's own requests, never the model server.
//!
//! This crate knows nothing of requests, scores or configuration, does no I/O and never reads a clock.
//! Block size, capacities and the seed are handed in.
//!
//! Main types: [`BlockHash`], [`BlockHasher`], [`PromptBlocks`], [`PrefixIndex`], [`MatchCounts`].
//!
//! ```
//! use router_core::EndpointIndex;
//! use router_kvcache::{BlockHasher, IndexConfig, MatchCounts, PrefixIndex};
//!
//! let mut hasher = BlockHasher::new("llama", "", 256, 2048);
//! hasher.push("a long prompt ".repeat(100).as_bytes());
//! let prompt = hasher.finish();
//!
//! let index = PrefixIndex::new(IndexConfig::default());
//! let endpoint = EndpointIndex { slot: 3, generation: 0 };
//! let inserted = index.insert(endpoint, &prompt.hashes, 4);
//!
//! let mut counts = MatchCounts::new(8);
//! index.add_matches(&prompt.hashes, &mut counts);
//! assert_eq!(counts.get(endpoint), prompt.hashes.len() as u32);
//!
//! // Once the request has ended, other prompts may take its place.
//! index.release(&prompt.hashes, inserted, 0);
//! ```

mod fuzz;
mod hash;
mod index;

pub use fuzz::fuzz_index;
pub use hash::{BYTES_PER_TOKEN, BlockHash, BlockHasher, PromptBlocks};
pub use index::{EndpointDump, IndexConfig, IndexDump, Inserted, MatchCounts, PrefixIndex, Run};
