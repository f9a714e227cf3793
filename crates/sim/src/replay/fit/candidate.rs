//! A profile as the search sees it: costs in seconds, capacities in blocks of the trace.

use super::{
    load::N_COSTS,
    solve::{Costs, Prior},
};
use crate::model::Profile;

/// KV blocks of one engine, at most.
const MAX_BLOCKS: u64 = 1 << 22;
/// Tokens of a block in profiles that are written.
const WRITTEN_BLOCK: u32 = 16;
const MICROS: f64 = 1e6;
/// A prompt's fixed cost is zero by default; it may well be this, in seconds.
const PROMPT_SPREAD_S: f64 = 2e-3;
/// What one standard deviation off the prior weighs in the first guess: as much as an equation that is off by a
/// tenth.
const PRIOR_WEIGHT: f64 = 0.01;

/// Keys of the costs, in their order.
pub(super) const COST_KEYS: [&str; N_COSTS] = [
    "step-base-us",
    "decode-seq-us",
    "decode-context-token-us",
    "prefill-base-us",
    "prefill-token-us",
    "prefill-context-token-us",
];

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Candidate {
    pub(super) costs: Costs,
    /// In blocks of the trace.
    pub(super) kv_blocks: u32,
    pub(super) max_num_seqs: u32,
    pub(super) max_batched: u32,
    pub(super) has_caching: bool,
}

/// What all candidates of a kind share, because the record says it or nothing does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fixed {
    pub(super) block_tokens: u32,
    pub(super) max_model_len: u32,
    pub(super) max_loras: u32,
}

impl Candidate {
    /// The default profile with costs of its own, and a cache in blocks of the trace.
    pub(super) fn new(costs: Costs, kv_blocks: u32) -> Self {
        let Profile { max_num_seqs, max_num_batched_tokens, enable_prefix_caching, .. } =
            Profile::default();
        Self {
            costs,
            kv_blocks,
            max_num_seqs,
            max_batched: max_num_batched_tokens,
            has_caching: enable_prefix_caching,
        }
    }

    pub(super) fn with_seqs(self, max_num_seqs: u32) -> Self {
        Self { max_num_seqs, ..self }
    }

    pub(super) fn with_batched(self, max_batched: u32) -> Self {
        Self { max_batched, ..self }
    }

    /// What the engine model plays: in blocks of the trace.
    pub(super) fn played(&self, fixed: &Fixed) -> Profile {
        Profile {
            block_size: fixed.block_tokens,
            kv_cache_size: self.kv_blocks.clamp(1, MAX_BLOCKS as u32),
            ..self.profile(fixed)
        }
    }

    /// What is written to a pool file: with the usual blocks.
    pub(super) fn written(&self, fixed: &Fixed) -> Profile {
        let n_tokens = u64::from(self.kv_blocks) * u64::from(fixed.block_tokens);
        let mut block_size = WRITTEN_BLOCK;
        while n_tokens / u64::from(block_size) > MAX_BLOCKS {
            block_size *= 2;
        }
        let kv_cache_size = (n_tokens / u64::from(block_size)).max(1) as u32;
        let mut profile = Profile { block_size, kv_cache_size, ..self.profile(fixed) };
        for cost in [
            &mut profile.step_base_us,
            &mut profile.decode_seq_us,
            &mut profile.decode_context_token_us,
            &mut profile.prefill_base_us,
            &mut profile.prefill_token_us,
            &mut profile.prefill_context_token_us,
        ] {
            *cost = rounded(*cost);
        }
        profile
    }

    fn profile(&self, fixed: &Fixed) -> Profile {
        let [step, seq, context, prompt, token, pair] = self.costs.map(|cost| cost * MICROS);
        let default = Profile::default();
        Profile {
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_batched,
            max_model_len: fixed.max_model_len,
            max_loras: fixed.max_loras,
            enable_prefix_caching: self.has_caching,
            step_base_us: step,
            decode_seq_us: seq,
            decode_context_token_us: context,
            prefill_base_us: prompt,
            prefill_token_us: token,
            prefill_context_token_us: pair,
            ..default
        }
    }
}

/// Four digits: more than any record can tell.
fn rounded(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 0.0;
    }
    let unit = 10_f64.powf(value.log10().floor() - 3.0);
    // Dividing by a whole number where possible keeps the written form short.
    if unit < 1.0 {
        let scale = (1.0 / unit).round();
        (value * scale).round() / scale
    } else {
        (value / unit).round() * unit
    }
}

/// The costs of the default profile, so many times.
pub(super) fn prior(slowness: f64) -> Prior {
    let default = Profile::default();
    let micros = [
        default.step_base_us,
        default.decode_seq_us,
        default.decode_context_token_us,
        default.prefill_base_us,
        default.prefill_token_us,
        default.prefill_context_token_us,
    ];
    let mean = micros.map(|micros| micros * slowness / MICROS);
    let spread = mean.map(|mean| if mean > 0.0 { mean } else { PROMPT_SPREAD_S * slowness });
    Prior { mean, spread, weight: PRIOR_WEIGHT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_digits_are_enough() {
        for (value, expected) in [
            (7512.34, 7512.0),
            (0.043_216_7, 0.04322),
            (0.0, 0.0),
            (123_456.0, 123_500.0),
            (-1.0, 0.0),
        ] {
            assert_eq!(rounded(value), expected);
        }
    }

    #[test]
    fn a_cache_keeps_its_tokens_in_any_blocks() {
        let fixed = Fixed { block_tokens: 64, max_model_len: 1 << 17, max_loras: 1 };
        let candidate = Candidate::new(prior(1.0).mean, 2_500);
        assert_eq!(candidate.played(&fixed).kv_cache_size, 2_500);
        assert_eq!(candidate.written(&fixed).kv_cache_size, 10_000);
        let written = candidate.written(&fixed);
        let costs = |profile: &Profile| (profile.step_base_us, profile.decode_context_token_us);
        assert_eq!(costs(&written), costs(&Profile::default()));
        let huge = Candidate { kv_blocks: u32::MAX, ..candidate }.written(&fixed);
        assert!(huge.validate().is_ok(), "{huge:?}");
    }
}
