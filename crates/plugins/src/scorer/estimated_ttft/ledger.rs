//! What this router has under way on one endpoint, in the order in which it was sent there.

use std::collections::VecDeque;

use router_core::Stamp;

/// The requests under way on one endpoint.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    next_key: u64,
    /// Requests whose prompts are still to be computed, oldest first. Holds one entry per live lease.
    waiting: VecDeque<Waiting>,
    /// Sum over `waiting`.
    pending: f64,
    /// Since when the first of them is at work, as far as can be seen.
    since: Stamp,
    n_decoding: u32,
    context: f64,
    totals: Totals,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    key: u64,
    /// Effective tokens.
    tokens: f64,
    /// Tokens that it will attend to as it decodes.
    context: f64,
    /// Whether its first byte shows that its prompt has been computed.
    shows: bool,
}

/// Sums over the past, of which differences say what happened in between.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    at: Stamp,
    /// Decoding requests × seconds.
    pub(super) decoding: f64,
    /// Attended tokens × seconds.
    pub(super) context: f64,
    /// Effective tokens of prompts that were computed.
    pub(super) computed: f64,
}

/// One request's place in a [`Ledger`]. It must be given back with [`Ledger::end`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    key: u64,
    tokens: f64,
    context: f64,
    decodes: bool,
}

/// What decisions read of a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub(super) pending: f64,
    /// Of `pending`, what may have been done since then although nothing has shown it.
    pub(super) creditable: f64,
    pub(super) since: Stamp,
    pub(super) n_waiting: f64,
    pub(super) n_decoding: f64,
    pub(super) context: f64,
}

impl Ledger {
    /// A request is sent there.
    pub(super) fn take(&mut self, now: Stamp, tokens: f64, context: f64, shows: bool) -> Place {
        self.advance(now);
        if self.waiting.is_empty() {
            self.since = now;
        }
        let key = self.next_key;
        self.next_key += 1;
        self.waiting.push_back(Waiting { key, tokens, context, shows });
        self.pending += tokens;
        Place { key, tokens, context, decodes: false }
    }

    /// Its first byte came. What was sent earlier and shows nothing until its end has been computed, too:
    /// model servers take prompts in the order in which they come.
    pub(super) fn first_byte(&mut self, now: Stamp, place: &mut Place) {
        self.advance(now);
        let Some(at) = self.position(place.key) else { return };
        self.since = now;
        let mut nth = 0;
        let (pending, decoding) = (&mut self.pending, &mut self.n_decoding);
        let (context, computed) = (&mut self.context, &mut self.totals.computed);
        self.waiting.retain(|waiting| {
            let is_it = nth == at;
            let stays = nth > at || (nth < at && waiting.shows);
            nth += 1;
            if !stays {
                *pending -= waiting.tokens;
                *computed += waiting.tokens;
                *context += waiting.context;
                *decoding += 1;
            }
            debug_assert!(!is_it || !stays, "the request itself goes");
            stays
        });
        place.decodes = true;
        self.settle();
    }

    /// It ended, whatever ended it.
    pub(super) fn end(&mut self, now: Stamp, place: &Place) {
        self.advance(now);
        match self.position(place.key) {
            Some(at) => {
                self.waiting.remove(at);
                self.pending -= place.tokens;
                if at == 0 {
                    self.since = now;
                }
            }
            None => {
                self.n_decoding = self.n_decoding.saturating_sub(1);
                self.context -= place.context;
            }
        }
        self.settle();
    }

    /// Sums up to `now`.
    pub(super) fn totals(&mut self, now: Stamp) -> Totals {
        self.advance(now);
        self.totals
    }

    pub(super) fn summary(&self) -> Summary {
        let shown = self.waiting.iter().position(|waiting| waiting.shows);
        let n_creditable = shown.map_or(self.waiting.len(), |at| at + 1);
        let creditable = self.waiting.iter().take(n_creditable).map(|waiting| waiting.tokens);
        Summary {
            pending: self.pending,
            creditable: creditable.sum(),
            since: self.since,
            n_waiting: self.waiting.len() as f64,
            n_decoding: f64::from(self.n_decoding),
            context: self.context,
        }
    }

    fn position(&self, key: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&key, |waiting| waiting.key).ok()
    }

    fn advance(&mut self, now: Stamp) {
        let seconds = now.since(self.totals.at).as_secs_f64();
        self.totals.at = self.totals.at.max(now);
        self.totals.decoding += f64::from(self.n_decoding) * seconds;
        self.totals.context += self.context * seconds;
    }

    /// Sums of nothing are nothing: what rounding left does not add up over the years.
    fn settle(&mut self) {
        if self.waiting.is_empty() {
            self.pending = 0.0;
        }
        if self.n_decoding == 0 {
            self.context = 0.0;
        }
    }
}

impl Summary {
    /// Work still to be done, with what must have been done since the last sign of life, at so many seconds
    /// per token.
    pub(super) fn pending_at(&self, now: Stamp, per_token: f64) -> f64 {
        let done = now.since(self.since).as_secs_f64() / per_token;
        (self.pending - done.min(self.creditable)).max(0.0)
    }
}
