//! The proxy's restriction of the candidates (`spec/request-path.md` §1.6).
//!
//! Differs from the Go implementation where an entry has a port: it then allows that port only, so that
//! data-parallel ranks behind one address can be told apart (defect A-33 of `spec/scheduling.md`).

use std::sync::Arc;

use router_core::{Candidates, Endpoint, PoolSnapshot};
use router_flow::SubsetId;
use router_framework::SubsetHint;

/// Entries of a restriction that flow control judges by its endpoints alone, and their bytes. A longer one is
/// nearly the pool, and is judged as the pool.
const MAX_ENTRIES: usize = 1_000;
const MAX_BYTES: usize = 64 * 1024;

/// The candidates that `hint` leaves.
pub(crate) fn candidates(snapshot: Arc<PoolSnapshot>, hint: &SubsetHint) -> Candidates {
    match hint {
        SubsetHint::All => Candidates::all(snapshot),
        SubsetHint::Only(entries) => Candidates::filtered(snapshot, |endpoint| {
            entries.iter().any(|entry| allows(entry, endpoint))
        }),
    }
}

/// The restriction as flow control knows it.
pub(crate) enum Restriction {
    /// None.
    None,
    /// One that is too long.
    TooLong,
    To(SubsetId),
}

impl Restriction {
    pub(crate) fn of(hint: &SubsetHint) -> Self {
        let SubsetHint::Only(entries) = hint else { return Self::None };
        if entries.len() > MAX_ENTRIES || entries.iter().map(String::len).sum::<usize>() > MAX_BYTES
        {
            return Self::TooLong;
        }
        Self::To(SubsetId::new(entries.iter().map(|entry| canonical(entry))))
    }
}

/// Whether the restriction allows the endpoint.
pub(crate) fn has(subset: &SubsetId, endpoint: &Endpoint) -> bool {
    let has = |name: &str| subset.names().binary_search_by(|known| (**known).cmp(name)).is_ok();
    has(endpoint.authority()) || has(&endpoint.spec().address)
}

/// An entry in the only form that it is compared in.
fn canonical(entry: &str) -> &str {
    let entry = entry.trim();
    let bare = bare_address(entry);
    if bare.is_empty() { entry } else { bare }
}

fn allows(entry: &str, endpoint: &Endpoint) -> bool {
    let entry = entry.trim();
    entry == endpoint.authority() || bare_address(entry) == &*endpoint.spec().address
}

/// The address of an entry without a port, without its brackets; an entry with a port has none.
fn bare_address(entry: &str) -> &str {
    if let Some(inside) = entry.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return inside;
    }
    let n_colons = entry.bytes().filter(|&byte| byte == b':').count();
    if n_colons == 1 || entry.starts_with('[') { "" } else { entry }
}

#[cfg(test)]
mod tests {
    use router_core::{EndpointSpec, Pool};

    use super::*;

    #[test]
    fn a33_ranks_behind_one_address_are_told_apart() {
        let pool = Pool::new(0);
        pool.replace(vec![
            EndpointSpec::new("d", "rank-0", "10.0.0.1", 8000),
            EndpointSpec::new("d", "rank-1", "10.0.0.1", 8001),
            EndpointSpec::new("d", "six", "fd00::1", 8000),
        ]);
        let check = |entries: &[&str], names: &[&str]| {
            let hint = SubsetHint::Only(entries.iter().map(|entry| (*entry).to_owned()).collect());
            let kept = candidates(pool.snapshot(), &hint);
            let kept: Vec<_> =
                kept.iter().map(|(_, endpoint)| endpoint.name().to_owned()).collect();
            assert_eq!(kept, names, "{entries:?}");
            // Flow control sees the same.
            let Restriction::To(subset) = Restriction::of(&hint) else { panic!("{hint:?}") };
            let snapshot = pool.snapshot();
            let allowed = snapshot.endpoints().iter().filter(|endpoint| has(&subset, endpoint));
            let allowed: Vec<_> = allowed.map(|endpoint| endpoint.name().to_owned()).collect();
            assert_eq!(allowed, names, "{entries:?}");
        };
        check(&["10.0.0.1:8001"], &["rank-1"]);
        check(&["10.0.0.1"], &["rank-0", "rank-1"]);
        check(&["[fd00::1]:8000"], &["six"]);
        check(&["[fd00::1]"], &["six"]);
        check(&["fd00::1"], &["six"]);
        check(&[], &[]);
        check(&["10.0.0.9:8000", ""], &[]);
        assert_eq!(candidates(pool.snapshot(), &SubsetHint::All).len(), 3);
    }

    #[test]
    fn one_restriction_has_one_name() {
        let of = |entries: &[&str]| {
            let entries = entries.iter().map(|entry| (*entry).to_owned()).collect();
            Restriction::of(&SubsetHint::Only(entries))
        };
        let name = |entries| match of(entries) {
            Restriction::To(subset) => subset,
            _ => panic!("{entries:?}"),
        };
        assert_eq!(name(&["b:1", "[fd00::1]", "a"]), name(&["a ", "fd00::1", "b:1", "a"]));
        assert_ne!(name(&["b:1"]), name(&["b"]));
        let many = vec!["a"; MAX_ENTRIES + 1];
        assert!(matches!(of(&many), Restriction::TooLong));
        assert!(matches!(of(&["a".repeat(MAX_BYTES + 1).as_str()]), Restriction::TooLong));
        assert!(matches!(Restriction::of(&SubsetHint::All), Restriction::None));
    }
}
