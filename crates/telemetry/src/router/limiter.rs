//! Bounds on names that clients choose, before they become label values.

use std::collections::{HashMap, HashSet};

use parking_lot::RwLock;

use crate::metrics::OTHER;

/// Who vouches for the name of a model, the strongest first. Each has room of its own, so that what one
/// lets in cannot crowd out what a stronger one says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KnownBy {
    /// A rewrite of the operator's names it, on either side.
    Configured,
    /// A model server's metrics page names it.
    Page,
    /// A model server has answered a request for it with a status below 400. Servers that take any name
    /// vouch for any name.
    Response,
    /// A request that was served for another name asked for it: who rewrites names knows it.
    Rewrite,
}

/// Models that the router knows. A name that is known stays known, so that series do not move.
#[derive(Debug)]
pub struct KnownModels {
    names: RwLock<Vouched>,
}

#[derive(Debug, Default)]
struct Vouched {
    names: HashMap<Box<str>, KnownBy>,
    /// Names by who vouches for them.
    n_names: HashMap<KnownBy, usize>,
}

/// Shows the first names that come, for labels whose values nobody can vouch for.
#[derive(Debug)]
pub struct FirstNames {
    max_names: usize,
    names: RwLock<HashSet<Box<str>>>,
}

/// A name longer than this is never shown: no model or tenant is called so.
const MAX_NAME_BYTES: usize = 256;

/// Whether a name may stand on the page. Prometheus gives up on the whole page at a NUL within a label, so
/// one request could end all monitoring; other control characters break what reads it by lines.
fn is_showable(name: &str) -> bool {
    name.len() <= MAX_NAME_BYTES && !name.contains(char::is_control)
}

// === impl KnownBy ===

impl KnownBy {
    /// Names of rewrites are never folded, as in Go; so many are allowed at once, and those of rewrites that are
    /// gone count too. Models that pages or responses vouch for are as many as Go shows. Clients can send the
    /// header that rewrites, so few names come in by it.
    const fn max_names(self) -> usize {
        match self {
            Self::Configured => 10_000,
            Self::Page | Self::Response => 1_000,
            Self::Rewrite => 32,
        }
    }
}

// === impl KnownModels ===

impl KnownModels {
    pub fn new() -> Self {
        Self { names: RwLock::default() }
    }

    /// Who vouches for this name.
    pub fn known_by(&self, name: &str) -> Option<KnownBy> {
        self.names.read().names.get(name).copied()
    }

    /// Makes a name known for good. False where there is no room for another, or where the name cannot stand
    /// on a page.
    pub fn learn(&self, name: &str, by: KnownBy) -> bool {
        let is_known = |known: Option<&KnownBy>| known.is_some_and(|known| *known <= by);
        if is_known(self.names.read().names.get(name)) {
            return true;
        }
        if name.is_empty() || !is_showable(name) {
            return false;
        }
        let mut vouched = self.names.write();
        let Vouched { names, n_names } = &mut *vouched;
        let known = names.get(name).copied();
        if is_known(known.as_ref()) {
            return true;
        }
        let n_of_kind = n_names.entry(by).or_default();
        if *n_of_kind >= by.max_names() {
            return known.is_some();
        }
        *n_of_kind += 1;
        names.insert(name.into(), by);
        if let Some(n_of_weaker) = known.and_then(|weaker| n_names.get_mut(&weaker)) {
            *n_of_weaker = n_of_weaker.saturating_sub(1);
        }
        true
    }
}

impl Default for KnownModels {
    fn default() -> Self {
        Self::new()
    }
}

// === impl FirstNames ===

impl FirstNames {
    /// Room for `max_names`.
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
            if names.contains(name) {
                return name;
            }
            if names.len() >= self.max_names {
                return OTHER;
            }
        }
        let mut names = self.names.write();
        if names.len() >= self.max_names && !names.contains(name) {
            return OTHER;
        }
        names.insert(name.into());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_names_are_shown() {
        let names = FirstNames::new(2);
        assert_eq!(names.show("a"), "a");
        assert_eq!(names.show("b"), "b");
        assert_eq!(names.show("c"), OTHER);
        assert_eq!(names.show("a"), "a");
        assert_eq!(names.show(""), "");
    }

    #[test]
    fn models_are_known_by_the_strongest_that_vouches() {
        let models = KnownModels::new();
        let check = |by, expected| {
            assert!(models.learn("llama", by));
            assert_eq!(models.known_by("llama"), Some(expected));
        };
        assert_eq!(models.known_by("llama"), None);
        check(KnownBy::Rewrite, KnownBy::Rewrite);
        check(KnownBy::Response, KnownBy::Response);
        check(KnownBy::Page, KnownBy::Page);
        check(KnownBy::Response, KnownBy::Page);
        assert!(!models.learn("", KnownBy::Page));
    }

    #[test]
    fn what_one_lets_in_takes_no_room_from_another() {
        let models = KnownModels::new();
        for by in [KnownBy::Rewrite, KnownBy::Response, KnownBy::Page, KnownBy::Configured] {
            let n_learnt = (0..11_000).filter(|n| models.learn(&format!("{by:?}-{n}"), by)).count();
            assert_eq!(n_learnt, by.max_names(), "{by:?}");
        }
        assert!(models.learn("Response-0", KnownBy::Page), "known, though pages have no room left");
        assert_eq!(models.known_by("Response-0"), Some(KnownBy::Response));
    }

    #[test]
    fn names_that_break_the_page_are_not_shown() {
        let (names, models) = (FirstNames::new(8), KnownModels::new());
        let long = "x".repeat(MAX_NAME_BYTES + 1);
        for name in ["sim\0model", "a\r\nx: y", "tab\t", "next\u{85}line", &long] {
            assert_eq!(names.show(name), OTHER, "{name:?}");
            assert!(!models.learn(name, KnownBy::Page), "{name:?}");
        }
        assert_eq!(names.show("模型/v1"), "模型/v1");
    }
}
