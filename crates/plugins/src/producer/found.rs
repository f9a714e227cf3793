//! What an answer says of the prefix cache.

use router_framework::Usage;

/// Prompt tokens that the model server had cached, if it says so, in tokens of which the prompt has so many here:
/// text is estimated by its length, and the server counts its own.
pub(crate) fn found_tokens(usage: &Usage, prompt: f64) -> Option<f64> {
    let found = usage.cached_tokens? as f64;
    Some(if usage.prompt_tokens == 0 { found } else { found * prompt / usage.prompt_tokens as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_tokens_are_in_the_tokens_that_were_expected() {
        let usage = |prompt_tokens, cached_tokens| Usage {
            prompt_tokens,
            cached_tokens,
            ..Usage::default()
        };
        // Four bytes a token here, and a little more at the server.
        assert_eq!(found_tokens(&usage(8_000, Some(7_800)), 9_600.0), Some(9_360.0));
        assert_eq!(found_tokens(&usage(0, Some(70)), 9_600.0), Some(70.0));
        assert_eq!(found_tokens(&usage(8_000, None), 9_600.0), None);
    }
}
