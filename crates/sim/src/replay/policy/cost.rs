//! What policies that look for the lowest cost share.

use router_framework::{PromptInput, RequestCx, keys::PromptBlocks};

/// Turns costs into scores: the lowest gets 1, the highest 0, all get 1 where all are equal. Order and ties of
/// the costs stay, and NaN does.
pub(super) fn lowest_is_best(values: &mut [f64]) {
    // Both folds ignore NaN.
    let min = values.iter().copied().fold(f64::INFINITY, f64::min);
    let max = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    for value in values.iter_mut().filter(|value| !value.is_nan()) {
        *value = if max > min { (max - *value) / (max - min) } else { 1.0 };
    }
}

/// The lowest of some numbers; infinite where there is none.
pub(super) fn lowest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::INFINITY, f64::min)
}

/// The request's blocks; replay hands prompts over as blocks.
pub(super) fn blocks<'a>(cx: &RequestCx<'a>) -> Option<&'a PromptBlocks> {
    match &cx.request.parsed.prompts {
        PromptInput::Blocks(blocks) => Some(blocks),
        PromptInput::Empty | PromptInput::Prompts(_) | PromptInput::Batch(_) => None,
    }
}
