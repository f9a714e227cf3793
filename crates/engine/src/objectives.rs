//! Which priority a request has that names an objective.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The objectives of the pool by name, each with its priority where it says one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objectives(BTreeMap<Arc<str>, Option<i32>>);

impl Objectives {
    /// The priority of the objective with this name; 0 when there is none, or where it says none.
    pub fn priority(&self, name: &str) -> i32 {
        self.0.get(name).copied().flatten().unwrap_or_default()
    }

    /// All priorities that objectives say themselves, each once.
    pub fn priorities(&self) -> Vec<i32> {
        let priorities: BTreeSet<i32> = self.0.values().copied().flatten().collect();
        priorities.into_iter().collect()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Of two with one name the later counts.
impl<N: Into<Arc<str>>> FromIterator<(N, Option<i32>)> for Objectives {
    fn from_iter<T: IntoIterator<Item = (N, Option<i32>)>>(objectives: T) -> Self {
        Self(objectives.into_iter().map(|(name, priority)| (name.into(), priority)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objective_without_a_priority_counts_as_zero() {
        let all = [("critical", Some(100)), ("batch", Some(-10)), ("plain", None)];
        let objectives: Objectives = all.into_iter().collect();
        assert_eq!(objectives.len(), 3);
        for (name, priority) in [("critical", 100), ("batch", -10), ("plain", 0), ("unknown", 0)] {
            assert_eq!(objectives.priority(name), priority, "{name}");
        }
        assert_eq!(objectives.priorities(), [-10, 100]);
    }
}
