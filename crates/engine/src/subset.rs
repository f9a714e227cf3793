//! The proxy's restriction of the candidates (`spec/request-path.md` §1.6).
//!
//! Differs from the Go implementation where an entry has a port: it then allows that port only, so that
//! data-parallel ranks behind one address can be told apart (defect A-33 of `spec/scheduling.md`).

use std::sync::Arc;

use router_core::{Candidates, Endpoint, PoolSnapshot};
use router_framework::SubsetHint;

/// The candidates that `hint` leaves.
pub(crate) fn candidates(snapshot: Arc<PoolSnapshot>, hint: &SubsetHint) -> Candidates {
    match hint {
        SubsetHint::All => Candidates::all(snapshot),
        SubsetHint::Only(entries) => Candidates::filtered(snapshot, |endpoint| {
            entries.iter().any(|entry| allows(entry, endpoint))
        }),
    }
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
}
