//! The nearest valid name to one that is not.

/// Longer names are not compared: a typing mistake in a short name is what this is for, and the
/// cost grows with the square of the length.
const MAX_NAME_CHARS: usize = 64;
/// At most so many candidates are looked at.
const MAX_CANDIDATES: usize = 512;
/// A shorter name is not looked for inside others.
const MIN_PART_CHARS: usize = 4;

/// The candidate that `wanted` was most likely meant to be: the one with the fewest typing
/// mistakes, at most a third of its letters, or else the only one that contains it.
/// Of equally near ones the first wins.
pub fn nearest<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let fold = |name: &str| name.chars().flat_map(char::to_lowercase).collect::<Vec<_>>();
    let letters = fold(wanted.get(..MAX_NAME_CHARS * 4).unwrap_or(wanted));
    if letters.is_empty() || letters.len() > MAX_NAME_CHARS {
        return None;
    }
    // A name of one letter has no mistake that leaves anything of it.
    let mut limit = (letters.len() / 3).max(1).min(letters.len() - 1);
    let mut best = None;
    let mut containing = Vec::new();
    let lower = wanted.to_lowercase();
    for candidate in candidates.into_iter().take(MAX_CANDIDATES) {
        let other = fold(candidate);
        if other.len() > MAX_NAME_CHARS {
            continue;
        }
        if let Some(distance) = distance(&letters, &other, limit)
            && (best.is_none() || distance < limit)
        {
            limit = distance;
            best = Some(candidate);
        }
        let folded: String = other.iter().collect();
        let contains = folded.contains(&lower) || lower.contains(&folded);
        if contains && letters.len().min(other.len()) >= MIN_PART_CHARS {
            containing.push(candidate);
        }
    }
    match (best, containing.as_slice()) {
        (None, [only]) => Some(only),
        _ => best,
    }
}

/// `did you mean `x`?`, or nothing.
pub fn did_you_mean<'a>(
    wanted: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    nearest(wanted, candidates).map(|name| format!("did you mean `{name}`?"))
}

/// Damerau-Levenshtein distance (insert, delete, replace, swap of neighbours) if it is at most
/// `limit`.
fn distance(a: &[char], b: &[char], limit: usize) -> Option<usize> {
    if a.len().abs_diff(b.len()) > limit {
        return None;
    }
    let mut before_last: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    let mut last_a = None;
    for (i, &ca) in a.iter().enumerate() {
        let mut row = Vec::with_capacity(b.len() + 1);
        row.push(i + 1);
        let mut last_b = None;
        for (j, (&cb, pair)) in b.iter().zip(last.windows(2)).enumerate() {
            let &[diagonal, above] = pair else { continue };
            let left = row.last().copied().unwrap_or(usize::MAX - 1);
            let mut cost = (diagonal + usize::from(ca != cb)).min(above + 1).min(left + 1);
            if last_a == Some(cb) && last_b == Some(ca) {
                let swapped = j.checked_sub(1).and_then(|j| before_last.get(j));
                cost = cost.min(swapped.map_or(usize::MAX, |swapped| swapped + 1));
            }
            row.push(cost);
            last_b = Some(cb);
        }
        if row.iter().all(|&cost| cost > limit) {
            return None;
        }
        before_last = std::mem::replace(&mut last, row);
        last_a = Some(ca);
    }
    last.last().copied().filter(|&cost| cost <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_the_name_with_the_fewest_mistakes() {
        let names = ["queue-scorer", "kv-cache-utilization-scorer", "lora-affinity-scorer", "on"];
        for (wanted, expected) in [
            ("queue-scorr", Some("queue-scorer")),
            ("qeuue-scorer", Some("queue-scorer")),
            ("Queue-Scorer", Some("queue-scorer")),
            ("kv-cache-utilisation-scorer", Some("kv-cache-utilization-scorer")),
            ("queue", Some("queue-scorer")),
            ("no", Some("on")),
            ("the-queue-scorer-of-mine", Some("queue-scorer")),
            ("scorer", None),
            ("", None),
            ("zzz", None),
            ("x", None),
            ("o", None),
        ] {
            assert_eq!(nearest(wanted, names), expected, "{wanted}");
        }
        assert_eq!(nearest(&"a".repeat(100_000), names), None);
    }

    #[test]
    fn distance_counts_a_swap_as_one_mistake() {
        let d = |a: &str, b: &str| {
            distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>(), 9)
        };
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("ab", "ba", 1),
            ("abc", "ab", 1),
            ("abc", "xabc", 1),
            ("kitten", "sitting", 3),
            ("ca", "abc", 3),
        ] {
            assert_eq!(d(a, b), Some(expected), "{a} {b}");
        }
    }
}
