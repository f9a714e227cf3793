//! A bounded set of label combinations, each with what is kept for it.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
};

use hashbrown::{Equivalent, HashMap};

use crate::metrics::OTHER;

/// Fairness id of requests that name none.
pub const DEFAULT_FLOW: &str = "default-flow";

/// The labels of most families, as they are shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) model: Box<str>,
    pub(super) target_model: Box<str>,
    pub(super) fairness_id: Box<str>,
    pub(super) priority: i32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct KeyRef<'a> {
    pub(super) model: &'a str,
    pub(super) target_model: &'a str,
    pub(super) fairness_id: &'a str,
    pub(super) priority: i32,
    /// Model servers' pages vouch for the models, rather than clients' requests.
    pub(super) has_sure_models: bool,
}

/// How much there may be of a set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) max_combinations: usize,
    /// Bytes of all labels' values as a page has them.
    pub(super) max_bytes: usize,
}

/// What there is for each combination.
///
/// Combinations that clients can make up (fairness ids, models that only requests vouch for) get three
/// quarters of the room. What finds no room is counted without its fairness id, and if that has no room
/// either, as `other` in all.
#[derive(Debug)]
pub(super) struct Combinations<T> {
    bounds: Bounds,
    n_bytes: usize,
    by_key: HashMap<Key, Arc<T>>,
}

// === impl Combinations ===

impl<T> Combinations<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, n_bytes: 0, by_key: HashMap::new() }
    }

    /// What there is for just this combination.
    pub(super) fn get(&self, key: &KeyRef<'_>) -> Option<&Arc<T>> {
        self.by_key.get(key)
    }

    /// What there is for the combination; else the one that it must be made for.
    pub(super) fn find<'a>(&self, key: KeyRef<'a>) -> Result<&Arc<T>, KeyRef<'a>> {
        for candidate in [key, KeyRef { fairness_id: OTHER, ..key }] {
            if let Some(found) = self.by_key.get(&candidate) {
                return Ok(found);
            }
            if self.has_room(&candidate) {
                return Err(candidate);
            }
        }
        self.by_key.get(&KeyRef::OVERFLOW).ok_or(KeyRef::OVERFLOW)
    }

    /// What there is for the combination, made where it is missing.
    pub(super) fn get_or_make(&mut self, key: KeyRef<'_>, make: impl FnOnce(&Key) -> T) -> Arc<T> {
        let missing = match self.find(key) {
            Ok(found) => return Arc::clone(found),
            Err(missing) => missing,
        };
        self.n_bytes += missing.n_bytes();
        let key = Key::from(&missing);
        let made = Arc::new(make(&key));
        self.by_key.insert(key, Arc::clone(&made));
        made
    }

    fn has_room(&self, key: &KeyRef<'_>) -> bool {
        let Bounds { max_combinations, max_bytes } = self.bounds;
        let share = |all: usize| if key.is_sure() { all } else { all / 4 * 3 };
        self.by_key.len() < share(max_combinations)
            && self.n_bytes + key.n_bytes() <= share(max_bytes)
    }
}

// === impl Key ===

impl KeyRef<'_> {
    const OVERFLOW: KeyRef<'static> = KeyRef {
        model: OTHER,
        target_model: OTHER,
        fairness_id: OTHER,
        priority: 0,
        has_sure_models: true,
    };

    /// No client can make up more of these.
    fn is_sure(&self) -> bool {
        self.has_sure_models && matches!(self.fairness_id, "" | OTHER | DEFAULT_FLOW)
    }

    fn n_bytes(&self) -> usize {
        let texts = [self.model, self.target_model, self.fairness_id];
        // These two have a backslash before them on the page.
        let escapes = |text: &str| text.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count();
        texts.into_iter().map(|text| text.len() + escapes(text)).sum()
    }
}

impl From<&KeyRef<'_>> for Key {
    fn from(key: &KeyRef<'_>) -> Self {
        Self {
            model: key.model.into(),
            target_model: key.target_model.into(),
            fairness_id: key.fairness_id.into(),
            priority: key.priority,
        }
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Self { model, target_model, fairness_id, priority } = self;
        (&**model, &**target_model, &**fairness_id, *priority).hash(state);
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.model, self.target_model, self.fairness_id, self.priority).hash(state);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        self.priority == key.priority
            && *self.model == *key.model
            && *self.target_model == *key.target_model
            && *self.fairness_id == *key.fairness_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(all: &mut Combinations<String>, model: &str, flow: &str, sure: bool) -> String {
        let key = KeyRef {
            model,
            target_model: model,
            fairness_id: flow,
            priority: 0,
            has_sure_models: sure,
        };
        all.get_or_make(key, |key| format!("{} {}", key.model, key.fairness_id)).to_string()
    }

    #[test]
    fn what_finds_no_room_loses_its_fairness_id_first() {
        let mut all = Combinations::new(Bounds { max_combinations: 8, max_bytes: 1_000 });
        for n in 0..6 {
            let flow = format!("tenant-{n}");
            assert_eq!(shown(&mut all, "m", &flow, true), format!("m {flow}"));
        }
        for n in 6..100 {
            assert_eq!(shown(&mut all, "m", &format!("tenant-{n}"), true), "m other");
        }
        assert_eq!(shown(&mut all, "n", DEFAULT_FLOW, true), "n default-flow");
        assert_eq!(shown(&mut all, "m", "tenant-5", true), "m tenant-5");
        assert_eq!(shown(&mut all, "o", "tenant-5", true), "other other");
        assert_eq!(all.by_key.len(), 9, "one more than the bound: all other");
    }

    #[test]
    fn made_up_models_leave_room_for_sure_ones() {
        let mut all = Combinations::new(Bounds { max_combinations: 8, max_bytes: 1_000 });
        for n in 0..6 {
            let model = format!("made-up-{n}");
            assert_eq!(
                shown(&mut all, &model, DEFAULT_FLOW, false),
                format!("{model} default-flow")
            );
        }
        assert_eq!(shown(&mut all, "made-up-6", DEFAULT_FLOW, false), "other other");
        assert_eq!(shown(&mut all, "sure", DEFAULT_FLOW, true), "sure default-flow");
    }

    #[test]
    fn long_names_count_for_what_they_are() {
        let mut all = Combinations::new(Bounds { max_combinations: 100, max_bytes: 1_000 });
        let long = "\"".repeat(200);
        assert_eq!(shown(&mut all, &long, DEFAULT_FLOW, true), format!("{long} default-flow"));
        assert_eq!(shown(&mut all, &long, "t", true), "other other");
        assert_eq!(shown(&mut all, "m", DEFAULT_FLOW, true), "m default-flow");
    }
}
