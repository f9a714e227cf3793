//! What this router has under way on one endpoint, in the order in which it was sent there.

use std::{collections::VecDeque, time::Duration};

use router_core::Stamp;

/// The requests under way on one endpoint.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    next_key: u64,
    /// Requests whose prompts are still to be computed, oldest first. Holds one entry per live lease.
    waiting: VecDeque<Waiting>,
    /// Sum over `waiting`.
    pending: f64,
    /// Answers of `waiting`.
    n_waiting: u64,
    /// Since when the first of them is at work, as far as can be seen.
    since: Stamp,
    /// Answers under way.
    n_decoding: u64,
    context: f64,
    totals: Totals,
}

/// A request that is sent there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Effective tokens to compute.
    pub(super) tokens: f64,
    /// Tokens that its answers attend to as they decode, together.
    pub(super) context: f64,
    pub(super) n_answers: u32,
    /// Whether its first byte shows that its prompt has been computed: its answer is streamed.
    pub(super) shows: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    key: u64,
    sent: Sent,
}

/// Sums over the past, of which differences say what happened in between.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Totals {
    at: Stamp,
    /// Decoding answers × seconds.
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
    sent: Sent,
}

/// What decisions read of a ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub(super) pending: f64,
    /// Whole prompts that are not known to be done.
    pub(super) leased: f64,
    /// Of `pending`, what may have been done since then although nothing has shown it.
    pub(super) creditable: f64,
    pub(super) since: Stamp,
    /// Answers.
    pub(super) n_waiting: f64,
    pub(super) n_decoding: f64,
    pub(super) context: f64,
    /// The oldest of those that wait, as far as they show nothing before their end.
    pub(super) silent: Silent,
}

/// Requests that begin to decode unseen.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Silent {
    pub(super) tokens: f64,
    pub(super) n_answers: f64,
    pub(super) context: f64,
}

impl Ledger {
    /// A request is sent there.
    pub(super) fn take(&mut self, now: Stamp, sent: Sent) -> Place {
        self.advance(now);
        if self.waiting.is_empty() {
            self.since = now;
        }
        let key = self.next_key;
        self.next_key += 1;
        self.waiting.push_back(Waiting { key, sent });
        self.pending += sent.tokens;
        self.n_waiting += u64::from(sent.n_answers);
        Place { key, sent }
    }

    /// Its first byte came. What was sent earlier and shows nothing until its end has been computed, too:
    /// model servers take prompts in the order in which they come.
    pub(super) fn first_byte(&mut self, now: Stamp, place: &Place) {
        self.advance(now);
        let Some(at) = self.position(place.key) else { return };
        self.since = now;
        let mut nth = 0;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|waiting| {
            let is_it = nth == at;
            let stays = nth > at || (nth < at && waiting.sent.shows);
            nth += 1;
            if !stays {
                self.decodes(&waiting.sent);
            }
            debug_assert!(!is_it || !stays, "the request itself goes");
            stays
        });
        self.waiting = waiting;
        self.settle();
    }

    /// Time has passed, at so many seconds per effective token: the oldest requests, which show nothing until
    /// their end, begin to decode when their prompts must have been computed.
    pub(super) fn pass(&mut self, now: Stamp, per_token: f64) {
        self.advance(now);
        while let Some(Waiting { sent, .. }) = self.waiting.front().copied() {
            let seconds = sent.tokens * per_token;
            // False for what is no number.
            let is_done = seconds <= now.since(self.since).as_secs_f64();
            if sent.shows || !is_done {
                break;
            }
            self.waiting.pop_front();
            self.since = self.since + Duration::try_from_secs_f64(seconds).unwrap_or_default();
            self.decodes(&sent);
        }
        self.settle();
    }

    /// Its prompt has been computed.
    fn decodes(&mut self, sent: &Sent) {
        self.pending -= sent.tokens;
        self.n_waiting = self.n_waiting.saturating_sub(u64::from(sent.n_answers));
        self.totals.computed += sent.tokens;
        self.context += sent.context;
        self.n_decoding += u64::from(sent.n_answers);
    }

    /// It ended, whatever ended it.
    pub(super) fn end(&mut self, now: Stamp, place: &Place) {
        self.advance(now);
        match self.position(place.key) {
            Some(at) => {
                self.waiting.remove(at);
                self.pending -= place.sent.tokens;
                self.n_waiting = self.n_waiting.saturating_sub(u64::from(place.sent.n_answers));
                if at == 0 {
                    self.since = now;
                }
            }
            None => {
                let n_answers = u64::from(place.sent.n_answers);
                self.n_decoding = self.n_decoding.saturating_sub(n_answers);
                self.context -= place.sent.context;
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
        let shown = self.waiting.iter().position(|waiting| waiting.sent.shows);
        let n_silent = shown.unwrap_or(self.waiting.len());
        let mut silent = Silent::default();
        for Waiting { sent, .. } in self.waiting.iter().take(n_silent) {
            silent.tokens += sent.tokens;
            silent.n_answers += f64::from(sent.n_answers);
            silent.context += sent.context;
        }
        let first_shown = self.waiting.get(n_silent).map_or(0.0, |waiting| waiting.sent.tokens);
        Summary {
            pending: self.pending,
            leased: self.pending,
            creditable: silent.tokens + first_shown,
            since: self.since,
            n_waiting: self.n_waiting as f64,
            n_decoding: self.n_decoding as f64,
            context: self.context,
            silent,
        }
    }

    fn position(&self, key: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&key, |waiting| waiting.key).ok()
    }

    fn advance(&mut self, now: Stamp) {
        let seconds = now.since(self.totals.at).as_secs_f64();
        self.totals.at = self.totals.at.max(now);
        self.totals.decoding += self.n_decoding as f64 * seconds;
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
    /// As it is later, at so many seconds per effective token: without the work that must have been done since
    /// the last sign of life, and with its part of the silent answers under way.
    pub(super) fn at(self, now: Stamp, per_token: f64) -> Self {
        let done = now.since(self.since).as_secs_f64() / per_token;
        let pending = (self.pending - done.min(self.creditable)).max(0.0);
        let Silent { tokens, n_answers, context } = self.silent;
        if n_answers == 0.0 {
            return Self { pending, ..self };
        }
        // Of several, one after the other; in between, a part of each is near enough.
        let share = if done < tokens { done / tokens } else { 1.0 };
        Self {
            pending,
            leased: (self.leased - share * tokens).max(0.0),
            n_waiting: (self.n_waiting - share * n_answers).max(0.0),
            n_decoding: self.n_decoding + share * n_answers,
            context: self.context + share * context,
            ..self
        }
    }
}
