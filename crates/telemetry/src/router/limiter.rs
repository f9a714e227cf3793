//! Bounds on names that clients choose, before they become label values.

use std::collections::HashSet;

use parking_lot::RwLock;

use crate::metrics::OTHER;

/// Decides which names are shown as they are and which as [`OTHER`].
///
/// Pinned names (models that an endpoint or a rewrite knows) are always shown. Other names are
/// shown first come, first served, but only while nothing is pinned: once the router knows which
/// models exist, invented ones cannot take room. A name that is shown once is shown for good, so
/// that series do not move.
#[derive(Debug)]
pub struct NameLimiter {
    max_names: usize,
    names: RwLock<Names>,
}

#[derive(Debug, Default)]
struct Names {
    pinned: HashSet<Box<str>>,
    first_come: HashSet<Box<str>>,
}

/// A name longer than this is never shown: no model or tenant is called so.
const MAX_NAME_BYTES: usize = 512;

/// Whether a name may stand on the page. Prometheus gives up on the whole page at a NUL within a label, so
/// one request could end all monitoring; other control characters break what reads it by lines.
fn is_showable(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && !name.contains(char::is_control)
}

impl NameLimiter {
    /// Room for `max_names` pinned names and as many that came first.
    pub fn new(max_names: usize) -> Self {
        Self { max_names, names: RwLock::default() }
    }

    /// The name as it is shown. The empty name is always shown: it means "none".
    pub fn show<'a>(&self, name: &'a str) -> &'a str {
        if name.is_empty() {
            return name;
        }
        if !is_showable(name) {
            return OTHER;
        }
        {
            let names = self.names.read();
            if names.shows(name) {
                return name;
            }
            if !names.has_room(self.max_names) {
                return OTHER;
            }
        }
        let mut names = self.names.write();
        if !names.has_room(self.max_names) {
            return if names.shows(name) { name } else { OTHER };
        }
        names.first_come.insert(name.into());
        name
    }

    /// Makes a name shown for good. False when there is no room left.
    pub fn pin(&self, name: &str) -> bool {
        if self.names.read().pinned.contains(name) {
            return true;
        }
        let mut names = self.names.write();
        if name.is_empty() || !is_showable(name) || names.pinned.len() >= self.max_names {
            return false;
        }
        names.pinned.insert(name.into());
        true
    }
}

impl Names {
    fn shows(&self, name: &str) -> bool {
        self.pinned.contains(name) || self.first_come.contains(name)
    }

    fn has_room(&self, max_names: usize) -> bool {
        self.pinned.is_empty() && self.first_come.len() < max_names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_known_names_the_first_are_shown() {
        let limiter = NameLimiter::new(2);
        assert_eq!(limiter.show("a"), "a");
        assert_eq!(limiter.show("b"), "b");
        assert_eq!(limiter.show("c"), OTHER);
        assert_eq!(limiter.show("a"), "a");
        assert_eq!(limiter.show(""), "");
    }

    #[test]
    fn once_names_are_known_invented_ones_take_no_room() {
        let limiter = NameLimiter::new(3);
        assert_eq!(limiter.show("early"), "early");
        assert!(limiter.pin("llama"));
        assert_eq!(limiter.show("llama"), "llama");
        assert_eq!(limiter.show("invented"), OTHER);
        assert_eq!(limiter.show("early"), "early", "what was shown stays shown");
    }

    #[test]
    fn known_names_find_room_after_invented_ones_filled_theirs() {
        let limiter = NameLimiter::new(2);
        for name in ["x", "y", "z"] {
            limiter.show(name);
        }
        assert!(limiter.pin("llama"));
        assert_eq!(limiter.show("llama"), "llama");
        assert!(limiter.pin("qwen"));
        assert!(!limiter.pin("too-many"));
        assert_eq!(limiter.show("too-many"), OTHER);
    }

    #[test]
    fn names_that_break_the_page_are_not_shown() {
        let limiter = NameLimiter::new(8);
        for name in ["sim\0model", "a\r\nx: y", "tab\t", "next\u{85}line"] {
            assert_eq!(limiter.show(name), OTHER, "{name:?}");
            assert!(!limiter.pin(name), "{name:?}");
        }
        assert_eq!(limiter.show("模型/v1"), "模型/v1");
    }

    #[test]
    fn absurdly_long_names_are_not_shown() {
        let limiter = NameLimiter::new(2);
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        assert_eq!(limiter.show(&long), OTHER);
        assert!(!limiter.pin(&long));
    }
}
