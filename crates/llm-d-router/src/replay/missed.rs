//! Events of pools that no run came to.

use std::time::Duration;

use router_core::Stamp;

use super::{grid::NamedPool, page::length};

/// What to say of a pool whose events come later than the longest of its runs took.
pub(super) fn note(pool: &NamedPool, longest: Duration) -> Option<String> {
    let NamedPool { name, pool } = pool;
    let end = Stamp::ORIGIN + longest;
    let mut missed = pool.events.iter().filter(|event| event.at > end);
    let first = missed.next()?;
    let server = pool.servers.get(first.server).map_or("", |server| &*server.name);
    let more = match missed.count() {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    Some(format!(
        "{name}: the event of {server} at {}{more} never happened: all requests had ended after {}",
        length(first.at.since(Stamp::ORIGIN)),
        length(longest)
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use router_sim::replay::pool::Pool;

    use super::*;

    #[test]
    fn what_comes_after_the_end_is_named() {
        let text =
            b"servers: [{name: a, count: 3}]\nevents:\n- {at: 10m, server: a-0, do: leave}\n\
                     - {at: 20m, server: a-1, do: restart}\n- {at: 1h, server: a, do: restart}\n";
        let pool = Arc::new(Pool::parse("pool.yaml", text).unwrap());
        let pool = NamedPool { name: "pool.yaml".to_owned(), pool };
        let minutes = |n| note(&pool, Duration::from_mins(n));
        assert_eq!(minutes(60), None);
        let said = "pool.yaml: the event of a-0 at 60 min and 2 more never happened: all requests had ended after 59 min";
        assert_eq!(minutes(59).as_deref(), Some(said));
        assert!(minutes(10).is_some_and(|said| said.contains("a-1 at 20 min and 3 more never")));
    }
}
