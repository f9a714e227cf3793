//! What is known of one endpoint: what is under way there, and how fast it is.
//!
//! Requests that begin and end write under a short lock; decisions read copies in plain atomic words. Words
//! read together may come from two writes that followed each other at once: each of them is true.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use router_core::{Signals, Stamp};
use router_telemetry::metrics::Gauge;

use super::{
    cost::{Job, Load, SEQUENCE_TOKENS},
    fit::Line,
    ledger::{Ledger, Place, Sent, Silent, Summary, Totals},
    slots::Slots,
    speed::{Hits, Learner, Pool, Prefill, Sample, Slowness, Speed},
};
use crate::signal::usable;

/// One endpoint's account.
#[derive(Debug, Default)]
pub(super) struct Account {
    book: Mutex<Book>,
    shown: [AtomicU64; N_SHOWN],
    /// Prefill rate and decode step on the metrics page, once something was learned.
    gauges: OnceLock<(Arc<Gauge>, Arc<Gauge>)>,
}

#[derive(Debug, Default)]
struct Book {
    ledger: Ledger,
    learner: Learner,
    /// When it learned last; the origin stands for never.
    learned_at: Stamp,
    /// Seconds that an effective token takes, as the last decision saw it.
    per_token: f64,
    peak: Peak,
    slots: Slots,
    /// Requests under way for each model.
    models: BTreeMap<u64, u32>,
    /// Seconds over effective tokens, as the last request that found a slot left them.
    prefill: Option<Line>,
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
    job: Job,
    /// Effective tokens that others had there to compute before it.
    ahead: f64,
    /// Answers that were there before it, under way or not.
    present: f64,
    /// Seconds of decode steps that were in the way of its first token when it came.
    decoding: f64,
    first_byte: Option<(Stamp, Totals)>,
    shows: bool,
    /// Other models were under way there, too.
    beside_others: bool,
    /// Its number among the answers that begun there, from 1.
    nth: u64,
}

/// A good answer that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// Tokens of all answers of the request, where the model server says.
    pub(super) n_tokens: Option<u64>,
    /// Tokens of the prompt, where it says.
    pub(super) prompt: Option<u64>,
    /// What was expected in its cache, and what was there, where it says.
    pub(super) hits: Option<Hits>,
}

/// Words of [`Account::shown`].
const N_SHOWN: usize = 16;

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
    /// A request is sent here. `load` is what the decision saw; `shows` says whether its first byte shows that
    /// its prompt has been computed.
    pub(super) fn take(&self, now: Stamp, job: &Job, shows: bool, load: &Load) -> Entry {
        let sent = Sent {
            tokens: job.effective_tokens(),
            context: job.context(),
            n_answers: job.n_answers,
            shows,
        };
        let mut book = self.book.lock();
        book.per_token = load.prefill.per_unit;
        let per_token = book.per_token;
        book.ledger.pass(now, per_token);
        let place = book.ledger.take(now, sent);
        *book.models.entry(job.model).or_default() += 1;
        let beside_others = book.models.len() > 1;
        self.publish(&mut book, now);
        let (ahead, decoding) = (load.pending, load.decoding());
        let present = load.n_waiting + load.n_decoding;
        Entry {
            place,
            taken: now,
            job: *job,
            ahead,
            present,
            decoding,
            first_byte: None,
            shows,
            beside_others,
            nth: 0,
        }
    }

    pub(super) fn first_byte(&self, now: Stamp, entry: &mut Entry) {
        let mut book = self.book.lock();
        let per_token = book.per_token;
        book.ledger.pass(now, per_token);
        book.ledger.first_byte(now, &entry.place);
        entry.first_byte = Some((now, book.ledger.totals(now)));
        if entry.shows {
            let Summary { n_decoding, n_waiting, .. } = book.ledger.summary();
            entry.nth = book.slots.begin();
            book.slots.note(now, n_decoding, n_waiting);
        }
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
        let (sample, found_slot) = {
            let mut book = self.book.lock();
            let per_token = book.per_token;
            book.ledger.pass(now, per_token);
            let totals = book.ledger.totals(now);
            if entry.nth > 0 {
                let n_decoding = book.ledger.summary().n_decoding;
                book.slots.end(entry.nth, n_decoding);
            }
            book.ledger.end(now, &entry.place);
            book.leave(entry.job.model);
            let speed = pool.speed().times(book.learner.slowness());
            self.publish(&mut book, now);
            let found_slot = entry.present < book.slots.bound();
            let known = book.prefill.filter(|_| !found_slot);
            (entry.sample(now, answer?, totals, &speed, known), found_slot)
        };
        // What the endpoint has in common with the others is learned first, and what is left is its own.
        let (common, sample) = pool.observe(&sample);
        let mut book = self.book.lock();
        book.learner.observe(&sample, &common);
        if found_slot {
            book.prefill = Some(common.times(book.learner.slowness()).prefill);
        }
        book.learned_at = now.max(Stamp::from_nanos(1));
        self.publish(&mut book, now);
        Some(common.times(book.learner.slowness()))
    }

    /// Puts what was learned on the metrics page; `gauges` finds the endpoint's place there.
    pub(super) fn show(&self, speed: &Speed, gauges: impl FnOnce() -> (Arc<Gauge>, Arc<Gauge>)) {
        let (rate, step) = self.gauges.get_or_init(gauges);
        rate.set(1.0 / speed.prefill.per_unit);
        step.set(speed.step.base);
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
            leased: number(0),
            creditable: number(1),
            since: Stamp::from_nanos(word(2)),
            n_waiting: number(3),
            n_decoding: number(4),
            context: number(5),
            silent: Silent { tokens: number(12), n_answers: number(13), context: number(14) },
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
        // 0 until there was a request.
        let slots = Some(number(15)).filter(|slots| *slots > 0.0).unwrap_or(f64::INFINITY);
        let summary = summary.at(now, speed.prefill.per_unit);
        Load {
            pending: summary.pending,
            leased: summary.leased,
            n_waiting: summary.n_waiting,
            n_decoding: summary.n_decoding,
            context: summary.context,
            slots,
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
            summary.silent.tokens.to_bits(),
            summary.silent.n_answers.to_bits(),
            summary.silent.context.to_bits(),
            book.slots.bound().to_bits(),
        ];
        for (shown, word) in self.shown.iter().zip(words) {
            shown.store(word, Relaxed);
        }
    }
}

impl Book {
    /// One request fewer is under way for the model.
    fn leave(&mut self, model: u64) {
        let Some(n_requests) = self.models.get_mut(&model) else { return };
        *n_requests = n_requests.saturating_sub(1);
        if *n_requests == 0 {
            self.models.remove(&model);
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
    /// What a good answer showed. `known` is given where it found no slot and waited for another answer to end: that
    /// is no time of prefill.
    fn sample(
        &self,
        now: Stamp,
        answer: Answer,
        totals: Totals,
        speed: &Speed,
        known: Option<Line>,
    ) -> Sample {
        // Answers of one request decode side by side. Where they differ in length, the longest sets the time, and a
        // step looks longer than it is by as much as that is longer than the mean.
        let n_answers = f64::from(self.job.n_answers);
        let output = answer.n_tokens.map(|n_tokens| n_tokens as f64 / n_answers);
        let prompt = answer.prompt.filter(|prompt| *prompt > 0).map(|prompt| prompt as f64);
        let claim = prompt.map(|prompt| (self.job.prompt, prompt));
        let mut sample = Sample { output, hits: answer.hits, claim, ..Sample::default() };
        let Some((first_byte, before)) = self.first_byte.filter(|_| self.shows) else {
            return sample;
        };
        let waited = first_byte.since(self.taken).as_secs_f64();
        let (ahead, seconds) = (self.ahead, waited - self.decoding);
        let prompt = self.job.prompt;
        let cached = answer.hits.map_or(self.job.cached, |hits| hits.found);
        let beside_others = self.beside_others;
        let mut prefill = Prefill { ahead, prompt, cached, seconds, beside_others };
        if let Some(known) = known {
            // Left out, it would follow whatever others teach the pool.
            prefill.seconds = known.at(prefill.work());
        }
        sample.prefill = Some(prefill);
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
