//! What an engine can hold and how long its steps take.

use serde::{Deserialize, Serialize};

use super::clock::{self, Picos};

/// The largest number of KV blocks of one engine: bounds the memory of the block table (about 100 MB).
const MAX_BLOCKS: u32 = 1 << 22;
/// The longest single cost that a profile may name, in microseconds (1,000 s).
const MAX_COST_US: f64 = 1e9;
/// A larger relative deviation would make the clamped noise visibly skewed.
const MAX_NOISE: f64 = 0.3;

/// Capacity and costs of one engine. The default is a model of 8 billion parameters in 16 bit on one H100: about
/// 15,000 prompt tokens a second, 7.5 ms for a decode step of one short sequence, KV room for 400,000 tokens.
///
/// A step with `d` decoding sequences and some prompt chunks takes
///
/// ```text
///   step-base
/// + d · decode-seq + decode-context-token · (tokens that the d sequences attend to)
/// + Σ chunks ( n · prefill-token + prefill-context-token · (pairs of chunk token and earlier token) )
/// + prefill-base for each prompt that begins + lora-load for each adapter that is not resident
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Profile {
    /// Sequences that may be in the batch at once. Default 256.
    pub max_num_seqs: u32,
    /// Tokens that one step may compute; longer prompts are cut into chunks. Default 8192.
    pub max_num_batched_tokens: u32,
    /// Requests that may wait; the next one is refused (HTTP 429). Default 1000.
    pub max_waiting_queue_length: u32,
    /// Longest prompt with its output, in tokens. Default 131072.
    pub max_model_len: u32,
    /// Tokens per KV block. Default 16.
    pub block_size: u32,
    /// KV blocks in all. Default 25000.
    pub kv_cache_size: u32,
    /// Whether full blocks can be found again by later prompts. Default true.
    pub enable_prefix_caching: bool,
    /// LoRA adapters that one batch may mix, and that stay resident. 0 refuses LoRA requests. Default 1.
    pub max_loras: u32,
    /// Fixed cost of a step (weights are read once), in microseconds. Default 7500.
    pub step_base_us: f64,
    /// Cost per decoding sequence and step, in microseconds. Default 15.
    pub decode_seq_us: f64,
    /// Cost per token of context of a decoding sequence and step, in microseconds. Default 0.043.
    pub decode_context_token_us: f64,
    /// Fixed cost per prompt, paid in its first chunk, in microseconds. Default 0.
    pub prefill_base_us: f64,
    /// Cost per computed prompt token, in microseconds. Default 60.
    pub prefill_token_us: f64,
    /// Cost per pair of a computed prompt token and an earlier token, in microseconds. Default 0.0013.
    pub prefill_context_token_us: f64,
    /// Cost of bringing an adapter in that is not resident, in microseconds. Default 20000.
    pub lora_load_us: f64,
    /// Relative standard deviation of the length of a step, 0 to 0.3; the factor stays within 0.3 and 1.7. With
    /// noise every step is taken by itself, which makes long replays slower. Default 0.
    pub step_noise: f64,
    /// Factor on every cost: 0.1 is an engine ten times as fast, 0 one that answers at once. Default 1.
    pub time_factor: f64,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            max_num_seqs: 256,
            max_num_batched_tokens: 8192,
            max_waiting_queue_length: 1000,
            max_model_len: 131_072,
            block_size: 16,
            kv_cache_size: 25_000,
            enable_prefix_caching: true,
            max_loras: 1,
            step_base_us: 7_500.0,
            decode_seq_us: 15.0,
            decode_context_token_us: 0.043,
            prefill_base_us: 0.0,
            prefill_token_us: 60.0,
            prefill_context_token_us: 0.0013,
            lora_load_us: 20_000.0,
            step_noise: 0.0,
            time_factor: 1.0,
        }
    }
}

/// What makes a profile unusable.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    #[error("`{field}` is {value}; it must be at least 1")]
    Zero { field: &'static str, value: u32 },
    #[error("`{field}` is {value}; it must be at most {max}")]
    TooLarge { field: &'static str, value: u32, max: u32 },
    #[error("`{field}` is {value}; it must be a number from 0 to {max}")]
    OutOfRange { field: &'static str, value: f64, max: f64 },
}

impl Profile {
    /// The default profile with every cost at zero: for tests of function, not of load.
    pub fn instant() -> Self {
        Self { time_factor: 0.0, ..Self::default() }
    }

    /// Keys of the costs, as documents have them.
    pub const COST_KEYS: [&'static str; 9] = [
        "step-base-us",
        "decode-seq-us",
        "decode-context-token-us",
        "prefill-base-us",
        "prefill-token-us",
        "prefill-context-token-us",
        "lora-load-us",
        "step-noise",
        "time-factor",
    ];

    pub(crate) fn take_costs(&mut self, from: &Self) {
        self.step_base_us = from.step_base_us;
        self.decode_seq_us = from.decode_seq_us;
        self.decode_context_token_us = from.decode_context_token_us;
        self.prefill_base_us = from.prefill_base_us;
        self.prefill_token_us = from.prefill_token_us;
        self.prefill_context_token_us = from.prefill_context_token_us;
        self.lora_load_us = from.lora_load_us;
        self.step_noise = from.step_noise;
        self.time_factor = from.time_factor;
    }

    /// Whether the engine can run with this profile.
    pub fn validate(&self) -> Result<(), ProfileError> {
        for (field, value, max) in [
            ("max-num-seqs", self.max_num_seqs, 1 << 16),
            ("max-num-batched-tokens", self.max_num_batched_tokens, 1 << 24),
            ("max-waiting-queue-length", self.max_waiting_queue_length.max(1), 1 << 20),
            ("max-model-len", self.max_model_len, 1 << 26),
            ("block-size", self.block_size, 1 << 16),
            ("kv-cache-size", self.kv_cache_size, MAX_BLOCKS),
            ("max-loras", self.max_loras.max(1), 1 << 12),
        ] {
            if value == 0 {
                return Err(ProfileError::Zero { field, value });
            }
            if value > max {
                return Err(ProfileError::TooLarge { field, value, max });
            }
        }
        for (field, value, max) in [
            ("step-base-us", self.step_base_us, MAX_COST_US),
            ("decode-seq-us", self.decode_seq_us, MAX_COST_US),
            ("decode-context-token-us", self.decode_context_token_us, MAX_COST_US),
            ("prefill-base-us", self.prefill_base_us, MAX_COST_US),
            ("prefill-token-us", self.prefill_token_us, MAX_COST_US),
            ("prefill-context-token-us", self.prefill_context_token_us, MAX_COST_US),
            ("lora-load-us", self.lora_load_us, MAX_COST_US),
            ("step-noise", self.step_noise, MAX_NOISE),
            ("time-factor", self.time_factor, 1e6),
        ] {
            if !(0.0..=max).contains(&value) {
                return Err(ProfileError::OutOfRange { field, value, max });
            }
        }
        Ok(())
    }
}

/// The costs of a profile as integers.
#[derive(Clone, Debug)]
pub(crate) struct Costs {
    pub(crate) step_base: Picos,
    pub(crate) decode_seq: Picos,
    pub(crate) decode_context_token: Picos,
    pub(crate) prefill_base: Picos,
    pub(crate) prefill_token: Picos,
    pub(crate) prefill_context_token: Picos,
    pub(crate) lora_load: Picos,
}

impl Costs {
    pub(crate) fn of(profile: &Profile) -> Self {
        let picos = |micros: f64| clock::from_micros(micros * profile.time_factor);
        Self {
            step_base: picos(profile.step_base_us),
            decode_seq: picos(profile.decode_seq_us),
            decode_context_token: picos(profile.decode_context_token_us),
            prefill_base: picos(profile.prefill_base_us),
            prefill_token: picos(profile.prefill_token_us),
            prefill_context_token: picos(profile.prefill_context_token_us),
            lora_load: picos(profile.lora_load_us),
        }
    }
}
