//! What is known of one endpoint: what is under way there, and how fast it is.
//!
//! Requests that begin and end write under a short lock; decisions read copies in plain atomic words. Words
//! read together may come from two writes that followed each other at once: each of them is true.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use router_core::{Signals, Stamp};

use super::{
    cost::{Load, SEQUENCE_TOKENS},
    ledger::{Ledger, Place, Summary, Totals},
    speed::{Learner, Pool, Sample, Slowness, Speed},
};
use crate::signal::usable;

/// One endpoint's account.
#[derive(Debug, Default)]
pub(super) struct Account {
    book: Mutex<Book>,
    shown: [AtomicU64; N_SHOWN],
}

#[derive(Debug, Default)]
struct Book {
    ledger: Ledger,
    learner: Learner,
    /// When it learned last; the origin stands for never.
    learned_at: Stamp,
    peak: Peak,
}

/// The most requests that were under way in one second, and in the one before.
#[derive(Clone, Copy, Debug, Default)]
struct Peak {
    second: u64,
    highest: f64,
    before: f64,
    last: f64,
}

/// A request's entry in an [`Account`], which it leaves by [`Account::end`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    place: Place,
    taken: Stamp,
    /// Effective tokens before its first token, its own included.
    work: f64,
    /// Length of a decode step when it came.
    step: f64,
    first_byte: Option<(Stamp, Totals)>,
    shows: bool,
}

/// What a request brings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) now: Stamp,
    /// Effective tokens to compute.
    pub(super) tokens: f64,
    /// Tokens that it attends to as it decodes.
    pub(super) context: f64,
    /// Whether its first byte shows that its prompt has been computed: its answer is streamed.
    pub(super) shows: bool,
}

/// A good answer that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// Tokens, where the model server says.
    pub(super) n_tokens: Option<u64>,
    /// Prompt tokens that were expected in its cache, and those that were there, where it says.
    pub(super) hits: Option<(f64, f64)>,
}

/// Words of [`Account::shown`].
const N_SHOWN: usize = 12;

/// Signals up to this age correct what is known here: they can be compared with what was under way in the last
/// one or two seconds. Older ones say nothing that is not known better.
pub(super) const MAX_SIGNAL_AGE: Duration = Duration::from_secs(1);

/// Below this share of prefills in its time, the decoding of an answer says something about decode steps.
const MAX_PREFILL_SHARE: f64 = 0.5;

/// Fewer decode steps than this say little about their length: answers also begin and end.
const MIN_STEPS: f64 = 8.0;

/// Without new answers, what was learned of an endpoint has lost half of its weight against the pool's mean
/// after this time, so that one that was slow once is tried again.
const HALF_TRUST_SECONDS: f64 = 300.0;

impl Account {
    /// A request is sent here. `load` is what the decision saw.
    pub(super) fn take(&self, arrival: Arrival, load: &Load) -> Entry {
        let Arrival { now, tokens, context, shows } = arrival;
        let mut book = self.book.lock();
        let place = book.ledger.take(now, tokens, context, shows);
        self.publish(&mut book, now);
        let work = load.pending + tokens;
        Entry { place, taken: now, work, step: load.step(), first_byte: None, shows }
    }

    pub(super) fn first_byte(&self, now: Stamp, entry: &mut Entry) {
        let mut book = self.book.lock();
        book.ledger.first_byte(now, &mut entry.place);
        entry.first_byte = Some((now, book.ledger.totals(now)));
        self.publish(&mut book, now);
    }

    /// Takes the request out, and learns from a good answer: gives what is known then.
    pub(super) fn end(
        &self,
        now: Stamp,
        entry: &Entry,
        answer: Option<Answer>,
        pool: &Pool,
    ) -> Option<Speed> {
        let sample = {
            let mut book = self.book.lock();
            let totals = book.ledger.totals(now);
            book.ledger.end(now, &entry.place);
            let speed = pool.speed().times(book.learner.slowness());
            self.publish(&mut book, now);
            entry.sample(now, answer?, totals, &speed)
        };
        // What the endpoint has in common with the others is learned first, and what is left is its own.
        let common = pool.observe(&sample);
        let mut book = self.book.lock();
        book.learner.observe(&sample, &common);
        book.learned_at = now.max(Stamp::from_nanos(1));
        self.publish(&mut book, now);
        Some(common.times(book.learner.slowness()))
    }

    /// Effective tokens of prompts that are leased here.
    pub(super) fn leased(&self) -> f64 {
        self.shown.first().map_or(0.0, |word| f64::from_bits(word.load(Relaxed)))
    }

    /// Read by decisions: takes no lock.
    pub(super) fn load(&self, now: Stamp, common: &Speed) -> Load {
        let word = |at: usize| self.shown.get(at).map_or(0, |word| word.load(Relaxed));
        let number = |at: usize| f64::from_bits(word(at));
        let summary = Summary {
            pending: number(0),
            creditable: number(1),
            since: Stamp::from_nanos(word(2)),
            n_waiting: number(3),
            n_decoding: number(4),
            context: number(5),
        };
        // 0 until something was learned.
        let learned_at = word(8);
        let slowness = if learned_at == 0 {
            Slowness::NONE
        } else {
            let age = now.since(Stamp::from_nanos(learned_at)).as_secs_f64();
            let learned = Slowness { prefill: number(6), step: number(7) };
            learned.fade(age / (age + HALF_TRUST_SECONDS))
        };
        let speed = common.times(slowness);
        Load {
            pending: summary.pending_at(now, speed.prefill.per_unit),
            n_waiting: summary.n_waiting,
            n_decoding: summary.n_decoding,
            context: summary.context,
            prefill: speed.prefill,
            per_token: common.prefill.per_unit,
            step: speed.step,
        }
    }

    /// Requests that the endpoint has beyond those of this router: what the model server shows more than was
    /// ever under way here in the last one or two seconds. 0 for signals that are older.
    pub(super) fn foreign(&self, now: Stamp, signals: &Signals) -> f64 {
        let there = usable(signals.waiting) + usable(signals.running);
        if now.since(signals.scraped_at) > MAX_SIGNAL_AGE {
            return 0.0;
        }
        let word = |at: usize| self.shown.get(at).map_or(0, |word| word.load(Relaxed));
        let number = |at: usize| f64::from_bits(word(at));
        let under_way = number(3) + number(4);
        let here = match second(now).saturating_sub(word(9)) {
            0 => number(10).max(number(11)),
            1 => number(10),
            _ => under_way,
        };
        // 0 where the server does not tell both.
        (there - here).max(0.0)
    }

    fn publish(&self, book: &mut Book, now: Stamp) {
        let summary = book.ledger.summary();
        book.peak.note(now, summary.n_waiting + summary.n_decoding);
        let slowness = book.learner.slowness();
        let words = [
            summary.pending.to_bits(),
            summary.creditable.to_bits(),
            summary.since.as_nanos(),
            summary.n_waiting.to_bits(),
            summary.n_decoding.to_bits(),
            summary.context.to_bits(),
            slowness.prefill.to_bits(),
            slowness.step.to_bits(),
            book.learned_at.as_nanos(),
            book.peak.second,
            book.peak.highest.to_bits(),
            book.peak.before.to_bits(),
        ];
        for (shown, word) in self.shown.iter().zip(words) {
            shown.store(word, Relaxed);
        }
    }
}

impl Peak {
    fn note(&mut self, now: Stamp, under_way: f64) {
        let second = second(now);
        match second.saturating_sub(self.second) {
            0 => self.highest = self.highest.max(under_way),
            // What was under way when the second began counts for it, too.
            1 => (self.before, self.highest) = (self.highest, self.last.max(under_way)),
            _ => (self.before, self.highest) = (self.last, self.last.max(under_way)),
        }
        (self.second, self.last) = (second.max(self.second), under_way);
    }
}

impl Entry {
    /// What a good answer showed.
    fn sample(&self, now: Stamp, answer: Answer, totals: Totals, speed: &Speed) -> Sample {
        let output = answer.n_tokens.map(|n_tokens| n_tokens as f64);
        let mut sample = Sample { output, hits: answer.hits, ..Sample::default() };
        let Some((first_byte, before)) = self.first_byte.filter(|_| self.shows) else {
            return sample;
        };
        let waited = first_byte.since(self.taken).as_secs_f64();
        sample.prefill = Some((self.work, waited - self.step));
        let took = now.since(first_byte).as_secs_f64();
        if took <= 0.0 {
            return sample;
        }
        let sequences = SEQUENCE_TOKENS * (totals.decoding - before.decoding);
        let attended = (totals.context - before.context + sequences) / took;
        let prefills = (totals.computed - before.computed) * speed.prefill.per_unit;
        let decoding = (took - prefills).max(0.0);
        match output.map(|n_tokens| n_tokens - 1.0) {
            Some(n_steps) if n_steps >= MIN_STEPS && prefills < MAX_PREFILL_SHARE * took => {
                sample.step = Some((attended, decoding / n_steps));
            }
            Some(_) => {}
            // Without a word from the server, what it wrote is guessed from the time that it took.
            None => sample.output = Some(1.0 + decoding / speed.step.at(attended)),
        }
        sample
    }
}

fn second(now: Stamp) -> u64 {
    now.as_nanos() / 1_000_000_000
}
