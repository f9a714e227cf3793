//! The patterns of names in Kubernetes, without a reader of regular expressions.

/// A form that a text may have to have.
#[derive(Clone, Copy)]
pub(super) struct Pattern {
    /// As a schema writes it.
    regex: &'static str,
    pub(super) fits: fn(&str) -> bool,
    /// What a text of this form is, with its article.
    pub(super) what: &'static str,
}

const KNOWN: [Pattern; 5] = [
    Pattern {
        regex: r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        fits: |text| text.is_empty() || is_subdomain(text),
        what: "an API group such as `inference.networking.k8s.io`",
    },
    Pattern {
        regex: r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
        fits: is_subdomain,
        what: "a name of small letters, digits, `-` and `.`, with a letter or digit at both ends of each part",
    },
    Pattern {
        regex: r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        fits: is_label,
        what: "a name of small letters, digits and `-`, with a letter or digit at both ends",
    },
    Pattern {
        regex: r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$",
        fits: |text| {
            text.starts_with(|c: char| c.is_ascii_alphabetic())
                && is_enclosed(text, |c| c.is_ascii_alphanumeric(), "-")
        },
        what: "a kind such as `InferencePool`",
    },
    Pattern {
        regex: r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$",
        fits: |text| text.is_empty() || is_enclosed(text, |c| c.is_ascii_alphanumeric(), "-_."),
        what: "a label's value: letters, digits, `-`, `_` and `.`, with a letter or digit at both ends",
    },
];

/// Whether texts are compared with this pattern of a schema; with others they are not.
pub fn knows(regex: &str) -> bool {
    find(regex).is_some()
}

pub(super) fn find(regex: &str) -> Option<&'static Pattern> {
    KNOWN.iter().find(|known| known.regex == regex)
}

fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn is_label(text: &str) -> bool {
    is_enclosed(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit(), "-")
}

/// Whether all is `is_end` or one of `inner`, and both ends are `is_end`.
fn is_enclosed(text: &str, is_end: fn(char) -> bool, inner: &str) -> bool {
    text.starts_with(is_end)
        && text.ends_with(is_end)
        && text.chars().all(|c| is_end(c) || inner.contains(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_as_their_pattern_says() {
        let check = |at: usize, fitting: &[&str], others: &[&str]| {
            let pattern = KNOWN[at];
            for text in fitting {
                assert!((pattern.fits)(text), "{text:?} is {}", pattern.what);
            }
            for text in others {
                assert!(!(pattern.fits)(text), "{text:?} is not {}", pattern.what);
            }
        };
        check(0, &["", "a", "a-b.c0.d", "0.x"], &["A", "-a", "a-", "a..b", ".a", "a.", "a_b", "é"]);
        check(1, &["a", "pool-1", "a.b"], &["", "Pool", "a.-b", "a b"]);
        check(2, &["default", "0"], &["", "a.b", "-", "a-"]);
        check(3, &["Service", "a-B", "x"], &["", "1a", "a-", "a.b"]);
        check(4, &["", "a", "A_b.c-1"], &["-a", "a_", ".", "a b", "a/b"]);
    }
}
