//! Requests that may go to some endpoints only, and how full those are.
//!
//! A proxy may restrict a request to a few endpoints, its *subset*. Such a request waits until these have
//! room, not the pool as a whole: for each subset in use there is a signal of its own, an account of what
//! came to its endpoints and went since, and a saturation, by which the band's ceiling is asked for. A
//! subset is in use while one of its requests waits or runs; nothing is kept of it after that. What came to
//! endpoints and went lately is remembered apart from that, because the account of a subset that comes into use
//! begins with it.
//!
//! What is let go counts against its own subset at once. Where it gets in the end is known when it is placed:
//! then it counts in every subset that has the endpoint. Until then it counts for another subset by the share
//! of all endpoints that this has, which is what it will take of them on average.

mod recent;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use router_core::{EndpointIndex, Stamp};

use self::recent::{Change, Recent, What};
use crate::{
    pool::{Load, OnTheWay, PoolSignal, PoolState},
    request::{Cost, fnv1a},
};

/// Moments of change that are remembered of a subset; far fewer than of the pool, since there may be many.
const MAX_STEPS: usize = 128;

/// The names of the endpoints that some requests are restricted to. Cheap to copy, to compare and to hash.
#[derive(Clone)]
pub struct SubsetId(Arc<Names>);

struct Names {
    hash: u64,
    /// In order, each once.
    names: Box<[Box<str>]>,
}

impl SubsetId {
    /// The subset of these names, in whatever order and however often they come.
    pub fn new<S: Into<Box<str>>>(names: impl IntoIterator<Item = S>) -> Self {
        let mut names: Vec<Box<str>> = names.into_iter().map(Into::into).collect();
        names.sort_unstable();
        names.dedup();
        let hash =
            names.iter().fold(0, |hash: u64, name| hash.rotate_left(5) ^ fnv1a(name.as_bytes()));
        Self(Arc::new(Names { hash, names: names.into() }))
    }

    /// In order, each once.
    pub fn names(&self) -> &[Box<str>] {
        &self.0.names
    }
}

impl PartialEq for SubsetId {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.hash == other.0.hash && self.0.names == other.0.names)
    }
}

impl Eq for SubsetId {}

impl Hash for SubsetId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

impl fmt::Debug for SubsetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.names.fmt(f)
    }
}

/// What is known of a subset at a moment.
#[derive(Clone, Debug)]
pub struct SubsetSignal {
    pub id: SubsetId,
    /// Of these endpoints alone.
    pub signal: PoolSignal,
    /// The endpoints, in order.
    pub endpoints: Arc<[EndpointIndex]>,
    /// How many they are of all endpoints of the pool, from 0 to 1.
    pub share: f64,
}

/// A subset in use.
#[derive(Clone, Debug)]
pub struct SubsetInUse {
    pub id: SubsetId,
    /// Requests of it that endpoints know of.
    pub n_placed: u64,
}

/// A subset's dense number while it is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SubsetKey(u32);

/// Stands for the whole pool.
pub(crate) const WHOLE: SubsetKey = SubsetKey(0);

impl SubsetKey {
    /// The key after this one.
    pub(crate) fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// How full some endpoints are, and how full they may be for whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Judged {
    pub(crate) saturation: f64,
    /// One per band, by its position; none before the first signal. They never rise.
    pub(crate) ceilings: Vec<f64>,
    /// When time alone may change the ceilings.
    pub(crate) reopens: Option<Stamp>,
}

impl Judged {
    /// Whether a request of the band at this position may go.
    pub(crate) fn has_room(&self, position: usize) -> bool {
        self.ceilings.get(position).is_some_and(|&ceiling| self.saturation < ceiling)
    }

    /// Whether nobody of so many bands may go at this saturation, which is known because nobody might at a
    /// lower one, and time alone changes nothing.
    pub(crate) fn stays_shut(&self, saturation: f64, n_bands: usize) -> bool {
        let is_shut = !self.ceilings.is_empty() && !self.has_room(0);
        is_shut
            && self.reopens.is_none()
            && self.ceilings.len() == n_bands
            && saturation >= self.saturation
    }
}

/// A subset in use.
pub(crate) struct Subset {
    pub(crate) id: SubsetId,
    load: Load,
    /// A signal of it has come.
    is_known: bool,
    /// When its last signal was taken, or when it came into use. A signal that was taken before comes too late:
    /// its account has forgotten what came and went since then.
    taken: Stamp,
    endpoints: Arc<[EndpointIndex]>,
    pub(crate) share: f64,
    on_the_way: OnTheWay,
    pub(crate) n_placed: u64,
    n_requests: u64,
    n_waiting: u64,
    pub(crate) judged: Judged,
}

impl Subset {
    /// How full it is, once a signal of it has come.
    pub(crate) fn saturation(&self, pool: &PoolState) -> Option<f64> {
        let others = pool.on_the_way().without(&self.on_the_way);
        let saturation = || self.load.saturation(&self.on_the_way, Some((&others, self.share)));
        self.is_known.then(saturation)
    }

    /// Whether it is known to have no endpoints.
    pub(crate) fn is_empty(&self) -> bool {
        self.is_known && !self.load.signal().has_endpoints
    }

    pub(crate) fn has(&self, endpoint: EndpointIndex) -> bool {
        self.endpoints.binary_search(&endpoint).is_ok()
    }

    fn in_use(&self) -> SubsetInUse {
        SubsetInUse { id: self.id.clone(), n_placed: self.n_placed }
    }
}

/// All subsets in use, and what was said of the whole pool.
pub(crate) struct Subsets {
    max: usize,
    pub(crate) whole: Judged,
    /// By key; the first place stays free.
    known: Vec<Option<Subset>>,
    free: Vec<u32>,
    by_id: HashMap<SubsetId, SubsetKey>,
    recent: Recent,
    waiting: BTreeSet<SubsetKey>,
    /// Of these, the ones that had room for somebody when all were judged last.
    pub(crate) open: Vec<SubsetKey>,
    /// Subsets of which no signal has come yet.
    n_unknown: usize,
    /// Requests that were taken for such as may go anywhere, because too many subsets were in use.
    pub(crate) n_unjudged: u64,
}

impl Subsets {
    pub(crate) fn new(max: usize) -> Self {
        Self {
            max,
            whole: Judged::default(),
            known: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            recent: Recent::default(),
            waiting: BTreeSet::new(),
            open: Vec::new(),
            n_unknown: 0,
            n_unjudged: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn get(&self, key: SubsetKey) -> Option<&Subset> {
        self.known.get(key.0 as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, key: SubsetKey) -> Option<&mut Subset> {
        self.known.get_mut(key.0 as usize)?.as_mut()
    }

    pub(crate) fn find(&self, id: &SubsetId) -> Option<&Subset> {
        self.get(*self.by_id.get(id)?)
    }

    /// Subsets that somebody waits for.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = SubsetKey> {
        self.waiting.iter().copied()
    }

    pub(crate) fn lack_signals(&self) -> bool {
        self.n_unknown > 0
    }

    pub(crate) fn anybody_waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn judged(&self, key: SubsetKey) -> Option<&Judged> {
        if key == WHOLE { Some(&self.whole) } else { Some(&self.get(key)?.judged) }
    }

    /// Whether a request of the subset, and of the band at this position, may go.
    pub(crate) fn has_room(&self, key: SubsetKey, position: usize) -> bool {
        self.judged(key).is_some_and(|judged| judged.has_room(position))
    }

    pub(crate) fn in_use(&self) -> impl Iterator<Item = SubsetInUse> {
        self.known.iter().flatten().map(Subset::in_use)
    }

    /// Those of which no signal has come yet.
    pub(crate) fn unknown(&self) -> impl Iterator<Item = SubsetInUse> {
        let in_use = self.known.iter().flatten();
        in_use.filter(|subset| !subset.is_known).map(Subset::in_use)
    }

    pub(crate) fn is_unknown(&self, id: &SubsetId) -> bool {
        self.find(id).is_some_and(|subset| !subset.is_known)
    }

    /// A request of the subset waits from now on.
    pub(crate) fn enter(&mut self, now: Stamp, id: Option<&SubsetId>) -> SubsetKey {
        let Some(id) = id else { return WHOLE };
        let key = match self.by_id.get(id) {
            Some(&key) => key,
            None if self.by_id.len() >= self.max => {
                self.n_unjudged += 1;
                return WHOLE;
            }
            None => self.add(now, id),
        };
        if let Some(subset) = self.get_mut(key) {
            subset.n_requests += 1;
            subset.n_waiting += 1;
        }
        self.waiting.insert(key);
        key
    }

    fn add(&mut self, now: Stamp, id: &SubsetId) -> SubsetKey {
        let subset = Subset {
            id: id.clone(),
            load: Load::new(MAX_STEPS),
            is_known: false,
            taken: now,
            endpoints: Arc::default(),
            share: 0.0,
            on_the_way: OnTheWay::default(),
            n_placed: 0,
            n_requests: 0,
            n_waiting: 0,
            judged: Judged::default(),
        };
        if self.known.is_empty() {
            self.known.push(None);
        }
        let key = SubsetKey(self.free.pop().unwrap_or(self.known.len() as u32));
        match self.known.get_mut(key.0 as usize) {
            Some(place) => *place = Some(subset),
            None => self.known.push(Some(subset)),
        }
        self.by_id.insert(id.clone(), key);
        self.n_unknown += 1;
        key
    }

    /// One of its requests does not wait any more.
    pub(crate) fn stop_waiting(&mut self, key: SubsetKey) {
        let Some(subset) = self.get_mut(key) else { return };
        subset.n_waiting -= 1;
        if subset.n_waiting == 0 {
            self.waiting.remove(&key);
        }
    }

    /// One of its requests is gone, which does not wait.
    pub(crate) fn leave(&mut self, key: SubsetKey) {
        let Some(subset) = self.get_mut(key) else { return };
        subset.n_requests -= 1;
        if subset.n_requests > 0 {
            return;
        }
        if let Some(gone) = self.known.get_mut(key.0 as usize).and_then(Option::take) {
            self.by_id.remove(&gone.id);
            self.free.push(key.0);
            self.n_unknown -= usize::from(!gone.is_known);
        }
    }

    /// What is known of a subset has changed, which was looked at when `taken` says. One that is not in use is of
    /// no interest.
    pub(crate) fn set_signal(&mut self, now: Stamp, taken: Stamp, signal: SubsetSignal) {
        let Some(&key) = self.by_id.get(&signal.id) else { return };
        let place = self.known.get_mut(key.0 as usize).and_then(Option::as_mut);
        let Some(subset) = place.filter(|subset| subset.taken <= taken) else { return };
        subset.taken = taken;
        let was_known = std::mem::replace(&mut subset.is_known, true);
        subset.load.set_signal(now, signal.signal);
        subset.endpoints = signal.endpoints;
        subset.share = if signal.share.is_finite() { signal.share.clamp(0.0, 1.0) } else { 1.0 };
        if !was_known {
            self.n_unknown -= 1;
            let since = self.recent.since(subset.load.signal().as_of);
            let changes =
                since.filter(|change| subset.endpoints.binary_search(&change.endpoint).is_ok());
            changes.for_each(|change| change.note_in(&mut subset.load));
        }
    }

    /// The pool's signal shows what came and went up to here, and so will every signal that is taken later.
    pub(crate) fn settle(&mut self, as_of: Stamp) {
        self.recent.settle(as_of);
    }

    pub(crate) fn dispatched(&mut self, key: SubsetKey, cost: &Cost) {
        if let Some(subset) = self.get_mut(key) {
            subset.on_the_way.add(cost);
        }
    }

    pub(crate) fn placed(
        &mut self,
        now: Stamp,
        key: SubsetKey,
        endpoint: Option<EndpointIndex>,
        cost: &Cost,
    ) {
        if let Some(subset) = self.get_mut(key) {
            subset.on_the_way.remove(cost);
            subset.n_placed += 1;
        }
        self.note(now, What::Placed, endpoint, cost);
    }

    pub(crate) fn prefilled(&mut self, now: Stamp, endpoint: Option<EndpointIndex>, cost: &Cost) {
        self.note(now, What::Prefilled, endpoint, cost);
    }

    pub(crate) fn unplaced_ended(&mut self, key: SubsetKey, cost: &Cost) {
        if let Some(subset) = self.get_mut(key) {
            subset.on_the_way.remove(cost);
        }
    }

    pub(crate) fn ended(
        &mut self,
        now: Stamp,
        key: SubsetKey,
        endpoint: Option<EndpointIndex>,
        cost: &Cost,
    ) {
        if let Some(subset) = self.get_mut(key) {
            subset.n_placed -= 1;
        }
        self.note(now, What::Ended, endpoint, cost);
    }

    /// Something came to an endpoint or went, which counts in all subsets that have it.
    fn note(&mut self, at: Stamp, what: What, endpoint: Option<EndpointIndex>, cost: &Cost) {
        let Some(endpoint) = endpoint else { return };
        let change = Change { at, what, endpoint, cost: *cost };
        let known = self.known.iter_mut().flatten().filter(|subset| subset.has(endpoint));
        known.for_each(|subset| change.note_in(&mut subset.load));
        self.recent.note(change);
    }
}
