//! The endpoints that one request may go to, and values about each of them.

use std::{fmt, sync::Arc};

use crate::{endpoint::Endpoint, pool::PoolSnapshot};

/// Place of an endpoint in a request's list of candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub u32);

impl Position {
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The candidates of one request: positions in one pool snapshot. Nothing is cloned per endpoint.
#[derive(Clone)]
pub struct Candidates {
    snapshot: Arc<PoolSnapshot>,
    /// Place in the snapshot, by position.
    members: Vec<u32>,
}

impl Candidates {
    /// All endpoints of the snapshot.
    pub fn all(snapshot: Arc<PoolSnapshot>) -> Self {
        let members = (0..snapshot.len() as u32).collect();
        Self { snapshot, members }
    }

    /// Those endpoints of the snapshot for which `keep` says yes, in the snapshot's order.
    pub fn filtered(snapshot: Arc<PoolSnapshot>, keep: impl Fn(&Endpoint) -> bool) -> Self {
        let members =
            (0u32..).zip(snapshot.endpoints()).filter(|(_, e)| keep(e)).map(|(at, _)| at).collect();
        Self { snapshot, members }
    }

    /// Drops the candidates for which `keep` says no; later positions move up.
    pub fn retain(&mut self, mut keep: impl FnMut(Position, &Endpoint) -> bool) {
        let snapshot = &self.snapshot;
        let mut position = 0;
        self.members.retain(|&at| {
            let here = Position(position);
            position += 1;
            snapshot.endpoints().get(at as usize).is_some_and(|endpoint| keep(here, endpoint))
        });
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn snapshot(&self) -> &Arc<PoolSnapshot> {
        &self.snapshot
    }

    /// The one way from a position to its endpoint.
    pub fn get(&self, position: Position) -> Option<&Arc<Endpoint>> {
        self.members
            .get(position.index())
            .and_then(|&at| self.snapshot.endpoints().get(at as usize))
    }

    pub fn iter(&self) -> impl Iterator<Item = (Position, &Arc<Endpoint>)> {
        let endpoints = self.snapshot.endpoints();
        (0u32..).map(Position).zip(self.members.iter().filter_map(|&at| endpoints.get(at as usize)))
    }

    pub fn positions(&self) -> impl Iterator<Item = Position> + use<> {
        (0..self.members.len() as u32).map(Position)
    }

    pub fn position_of(&self, endpoint: &Endpoint) -> Option<Position> {
        self.iter().find(|(_, candidate)| candidate.is_same(endpoint)).map(|(position, _)| position)
    }
}

impl fmt::Debug for Candidates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|(_, endpoint)| endpoint)).finish()
    }
}

/// One value per candidate, in the order of their positions.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Column<T>(Vec<T>);

impl<T> Column<T> {
    /// A column with `value` for every candidate.
    pub fn filled(n_candidates: usize, value: T) -> Self
    where
        T: Clone,
    {
        Self(vec![value; n_candidates])
    }

    pub fn get(&self, position: Position) -> Option<&T> {
        self.0.get(position.index())
    }

    pub fn get_mut(&mut self, position: Position) -> Option<&mut T> {
        self.0.get_mut(position.index())
    }

    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<T> FromIterator<T> for Column<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{endpoint::EndpointSpec, pool::Pool};

    #[test]
    fn positions_follow_what_is_kept() {
        let pool = Pool::new(0);
        pool.replace(
            (1..=4).map(|n| EndpointSpec::new("d", &format!("e{n}"), "10.0.0.1", n)).collect(),
        );
        let mut candidates =
            Candidates::filtered(pool.snapshot(), |endpoint| endpoint.spec().port != 2);
        assert_eq!(candidates.get(Position(1)).unwrap().name(), "e3");
        candidates.retain(|position, _| position != Position(0));
        let names: Vec<_> =
            candidates.iter().map(|(_, endpoint)| endpoint.name().to_owned()).collect();
        assert_eq!(names, ["e3", "e4"]);
        assert!(candidates.get(Position(2)).is_none());
        let e4 = pool.snapshot().by_id("d/e4").unwrap().clone();
        assert_eq!(candidates.position_of(&e4), Some(Position(1)));
    }
}
