//! How long answers are at least, by those that are under way.
//!
//! Of answers that differ in length the short ones end first: where one in five has 8,000 tokens and the others ten, all
//! that have ended are short for minutes. What answers have written until now, those under way included, divided by
//! their number, is less than their mean, and comes to it as they end. An answer is forgotten by when it began: by when
//! it was written, long ones would count for more.

use std::time::Duration;

use router_core::Stamp;

use super::{
    cost::SEQUENCE_TOKENS,
    ledger::Totals,
    speed::{MOST_TOKENS, Speed},
};

/// Answers that began so long ago count 1/e.
const MEMORY: Duration = Duration::from_mins(5);
/// The most prefill that is still taken off, in seconds: no more than the longest prompts take, whatever is believed of
/// the rate.
const MAX_OWED: f64 = 10.0;
/// Where fewer answers than this are remembered, they say nothing.
const MIN_ANSWERS: f64 = 0.5;

/// What the answers under way on one endpoint write, as far as they show when they begin.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Writing {
    at: Stamp,
    totals: Totals,
    /// Tokens that an answer has got that has been under way since the beginning.
    per_answer: f64,
    /// Seconds of prefill that are known of, but had not passed when they were.
    owed: f64,
    /// Answers under way, by when they began.
    weight: f64,
}

/// An answer's place in a [`Writing`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    at: Stamp,
    n_answers: f64,
    per_answer: f64,
}

/// Answers of all endpoints, by when they began.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnderWay {
    at: Stamp,
    n_tokens: f64,
    n_answers: f64,
}

/// Share of its weight that an answer has left after so long.
fn kept(since: Stamp, now: Stamp) -> f64 {
    (-now.since(since).as_secs_f64() / MEMORY.as_secs_f64()).exp()
}

impl Writing {
    /// Time has passed on the endpoint, up to these sums.
    fn pass(&mut self, now: Stamp, totals: Totals, speed: &Speed) -> f64 {
        let seconds = now.since(self.at).as_secs_f64();
        let before = std::mem::replace(&mut self.totals, totals);
        self.weight *= kept(self.at, now);
        self.at = self.at.max(now);
        // Between the steps of answers, prompts are computed; they are known when they are done.
        let prefills = (totals.computed - before.computed) * speed.prefill.per_unit + self.owed;
        self.owed = (prefills - seconds).clamp(0.0, MAX_OWED);
        let sequences = SEQUENCE_TOKENS * (totals.decoding - before.decoding);
        let attended = (totals.context - before.context + sequences) / seconds;
        let n_tokens = (seconds - prefills) / speed.step.at(attended);
        // Not so where no time has passed.
        if n_tokens > 0.0 && n_tokens.is_finite() {
            self.per_answer += n_tokens;
            self.weight * n_tokens
        } else {
            0.0
        }
    }

    /// So many answers begin. Also gives the tokens that the others have written since the last time, by when they
    /// began.
    pub(super) fn begin(
        &mut self,
        now: Stamp,
        n_answers: f64,
        totals: Totals,
        speed: &Speed,
    ) -> (Begun, f64) {
        let written = self.pass(now, totals, speed);
        self.weight += n_answers;
        (Begun { at: now, n_answers, per_answer: self.per_answer }, written)
    }

    /// They end, each of them with so many tokens; where nobody says, with as many as they must have had. Gives what
    /// [`Self::begin`] does, corrected by what is known now.
    pub(super) fn end(
        &mut self,
        now: Stamp,
        begun: &Begun,
        n_tokens: Option<f64>,
        totals: Totals,
        speed: &Speed,
    ) -> f64 {
        let written = self.pass(now, totals, speed);
        let weight = begun.n_answers * kept(begun.at, now);
        self.weight = (self.weight - weight).max(0.0);
        let guessed = self.per_answer - begun.per_answer;
        written + n_tokens.map_or(0.0, |n_tokens| weight * (n_tokens.min(MOST_TOKENS) - guessed))
    }
}

impl UnderWay {
    /// So many tokens were written, and so many answers have begun.
    pub(super) fn add(&mut self, now: Stamp, n_tokens: f64, n_answers: f64) {
        let kept = kept(self.at, now);
        self.at = self.at.max(now);
        self.n_tokens = (kept * self.n_tokens + n_tokens).max(0.0);
        self.n_answers = kept * self.n_answers + n_answers;
    }

    /// Tokens that an answer has on average, at least. 0 where nothing is known.
    pub(super) fn at_least(&self) -> f64 {
        if self.n_answers < MIN_ANSWERS { 0.0 } else { self.n_tokens / self.n_answers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scorer::estimated_ttft::fit::Line;

    const PER_TOKEN: f64 = 1.0 / 15_000.0;
    /// 40 tokens a second, whatever is attended to.
    const STEP: f64 = 0.025;
    const SPEED: Speed = Speed {
        prefill: Line { base: 0.0, per_unit: PER_TOKEN },
        step: Line { base: STEP, per_unit: 0.0 },
    };

    fn at(seconds: f64) -> Stamp {
        Stamp::ORIGIN + Duration::from_secs_f64(seconds)
    }

    /// `n_each` answers a second on one endpoint, the nth of them with as many tokens as `length` says, that is so many
    /// times as slow as it is believed to be; gives the bound each second.
    fn bounds(n_seconds: u64, n_each: u64, slow: f64, length: impl Fn(u64) -> f64) -> Vec<f64> {
        let mut events: Vec<(f64, u64, bool)> = Vec::new();
        for nth in 0..n_seconds * n_each {
            let begun = nth as f64 / n_each as f64;
            events.extend([(begun, nth, true), (begun + slow * STEP * length(nth), nth, false)]);
        }
        events.sort_by(|(one, ..), (other, ..)| one.total_cmp(other));
        let (mut writing, mut under_way) = (Writing::default(), UnderWay::default());
        let (mut begun, mut bounds) = (Vec::new(), Vec::new());
        for (seconds, nth, begins) in events {
            if seconds >= n_seconds as f64 {
                break;
            }
            let (now, totals) = (at(seconds), Totals::default());
            if begins {
                let (place, n_tokens) = writing.begin(now, 1.0, totals, &SPEED);
                begun.push(place);
                under_way.add(now, n_tokens, 1.0);
            } else {
                let place = &begun[nth as usize];
                let n_tokens = writing.end(now, place, Some(length(nth)), totals, &SPEED);
                under_way.add(now, n_tokens, 0.0);
            }
            if seconds as usize >= bounds.len() {
                bounds.push(under_way.at_least());
            }
        }
        bounds
    }

    #[test]
    fn long_answers_are_seen_before_they_end() {
        let mean = 0.8 * 10.0 + 0.2 * 8_000.0;
        let found = bounds(1_800, 5, 1.0, |nth| if nth % 5 == 0 { 8_000.0 } else { 10.0 });
        // The first of them ends after 200 s.
        assert!(found[30] > 0.05 * mean && found[150] > 0.25 * mean, "{found:?}");
        let last = found.last().unwrap();
        assert!((0.5 * mean..mean).contains(last), "{last}");
    }

    #[test]
    fn it_is_never_more_than_answers_have() {
        // Some are under way for longer than anything is remembered.
        let mean: f64 = 0.99 * 10.0 + 0.01 * 60_000.0;
        for found in [
            bounds(60, 10, 1.0, |_| 400.0),
            bounds(3_600, 5, 1.0, |nth| if nth % 100 == 0 { 60_000.0 } else { 10.0 }),
        ] {
            let highest = found.iter().copied().fold(0.0, f64::max);
            assert!(highest <= mean.max(400.0) * 1.001, "{highest}");
            assert!(found.last().unwrap() > &100.0, "{:?}", found.last());
        }
    }

    #[test]
    fn what_is_guessed_too_high_is_corrected_at_the_end() {
        let found = bounds(120, 10, 3.0, |_| 100.0);
        // Of the last 7.5 s, three times as much is believed.
        assert!((90.0..125.0).contains(found.last().unwrap()), "{found:?}");
    }

    #[test]
    fn nothing_is_written_while_prompts_are_computed() {
        let mut writing = Writing::default();
        let computed = |tokens: f64| {
            let mut totals = Totals::default();
            totals.computed = tokens;
            totals
        };
        let (first, _) = writing.begin(at(1.0), 1.0, computed(0.0), &SPEED);
        // Six seconds of prefill, that are known of when they have passed.
        let (_, written) = writing.begin(at(3.0), 1.0, computed(0.0), &SPEED);
        assert!((written - 80.0).abs() < 1.0, "{written}");
        let (_, written) = writing.begin(at(7.0), 1.0, computed(6.0 / PER_TOKEN), &SPEED);
        assert_eq!(written, 0.0);
        let written = writing.end(at(10.0), &first, None, computed(6.0 / PER_TOKEN), &SPEED);
        // Of three seconds two were owed, and the last one is for three answers.
        assert!((written - 3.0 * 40.0).abs() < 3.0, "{written}");
    }

    #[test]
    fn absurd_numbers_leave_one() {
        let (mut writing, mut under_way) = (Writing::default(), UnderWay::default());
        assert_eq!(under_way.at_least(), 0.0);
        let mut absurd = Totals::default();
        (absurd.decoding, absurd.context, absurd.computed) = (1e300, f64::NAN, 1e300);
        for (speed, totals) in [(SPEED, absurd), (Speed::default(), Totals::default())] {
            let (begun, n_tokens) = writing.begin(at(1.0), 3.0, totals, &speed);
            under_way.add(at(1.0), n_tokens, 3.0);
            let n_tokens = writing.end(at(0.0), &begun, Some(1e300), totals, &speed);
            under_way.add(at(0.0), n_tokens, 0.0);
            assert!((0.0..=MOST_TOKENS).contains(&under_way.at_least()), "{under_way:?}");
        }
        under_way.add(Stamp::from_nanos(u64::MAX), 0.0, 0.0);
        assert_eq!(under_way.at_least(), 0.0, "that was long ago");
    }
}
