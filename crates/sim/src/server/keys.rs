//! Unknown configuration keys, each with the nearest known one.
//!
//! What is known is what the default document has: a key is known when the default, written out, shows it.

use std::fmt;

use serde_json::{Map, Value};

/// A key that nothing reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// Where it stands, with dots between levels.
    pub path: String,
    /// The known key that is most like it.
    pub nearest: String,
}

/// All keys of `given` that `known` does not show. An object that is empty in `known` takes any key.
pub(crate) fn unknown_keys(
    given: &Map<String, Value>,
    known: &Map<String, Value>,
) -> Vec<UnknownKey> {
    let mut found = Vec::new();
    collect(given, known, "", &mut found);
    found
}

fn collect(
    given: &Map<String, Value>,
    known: &Map<String, Value>,
    prefix: &str,
    found: &mut Vec<UnknownKey>,
) {
    for (key, value) in given {
        let path = format!("{prefix}{key}");
        match (known.get(key), value) {
            (None, _) => {
                let nearest = known
                    .keys()
                    .min_by_key(|known| (distance(known, key), known.len().abs_diff(key.len())));
                found.push(UnknownKey { path, nearest: nearest.cloned().unwrap_or_default() });
            }
            (Some(Value::Object(known)), Value::Object(given)) if !known.is_empty() => {
                collect(given, known, &format!("{path}."), found);
            }
            (Some(_), _) => {}
        }
    }
}

/// Edits between two words: a letter more, less or other, or two neighbours swapped.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for (i, char_a) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, char_b) in b.iter().enumerate() {
            let at = |up: usize, left: usize| {
                let above = rows.len().checked_sub(up).and_then(|nth| rows.get(nth));
                above.and_then(|row| row.get((j + 1).checked_sub(left)?)).copied()
            };
            let before = row.last().map_or(usize::MAX, |left| left + 1);
            let mut best = at(1, 0).map_or(before, |above| before.min(above + 1));
            best = at(1, 1).map_or(best, |corner| best.min(corner + usize::from(char_a != char_b)));
            let swapped =
                i > 0 && j > 0 && a.get(i - 1) == Some(char_b) && b.get(j - 1) == Some(char_a);
            if let Some(corner) = at(2, 2).filter(|_| swapped) {
                best = best.min(corner + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows.last().and_then(|row| row.last()).copied().unwrap_or(0)
}

impl fmt::Display for UnknownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unknown key `{}`; the nearest is `{}`", self.path, self.nearest)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "", 3),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("ab", "ba", 1),
            ("ca", "abc", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn every_unknown_key_is_named_with_its_nearest() {
        let known =
            json!({"port": 1, "max-num-seqs": 2, "inner": {"rate": 1, "mode": 2}, "any": {}});
        let given = json!({"prot": 1, "inner": {"rat": 1, "mode": 1}, "any": {"x": 1}, "port": 1});
        let found = unknown_keys(given.as_object().unwrap(), known.as_object().unwrap());
        let found: Vec<_> =
            found.iter().map(|key| (key.path.as_str(), key.nearest.as_str())).collect();
        assert_eq!(found, [("prot", "port"), ("inner.rat", "rate")]);
    }
}
