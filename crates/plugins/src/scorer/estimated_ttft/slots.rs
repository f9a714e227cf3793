//! How many answers an endpoint computes at once.
//!
//! Model servers bound that (`max-num-seqs`), and a request that finds no slot waits for an answer to end, however
//! short its prompt. Nothing in a response tells the two waits apart. But where slots lack, each answer that ends
//! makes place for one: for as long as requests wait, those under way stay as many as the slots. Where prompts are
//! what takes time, answers begin and end independently of each other, and their number goes up and down.
//! It does not where all answers are of one length: they then end in the order in which they began, and nothing is
//! believed.

use std::time::Duration;

use router_core::Stamp;

/// Learns the number of slots of one endpoint from the first tokens that come while others wait.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slots {
    /// The most answers that were under way.
    highest: f64,
    /// Of the latest first tokens, the share that came while (almost) as many were.
    full: f64,
    /// When as many were under way last.
    reached: Stamp,
    n_begun: u64,
    /// Of the latest answers that ended, the share that did in the order in which they had begun.
    in_order: f64,
}

/// First tokens that count for [`Slots::full`], and how many more for each answer under way: a number that goes up
/// and down takes about as many as there are answers to do so.
const N_COUNTED: f64 = 16.0;
const N_COUNTED_EACH: f64 = 0.125;
/// From this share on there is a bound: after one and a half times as many first tokens in a row.
const KNOWN: f64 = 0.8;
/// Fewer answers than the slots, as a share of these, that are under way while requests wait: several end in one
/// step, and their slots are taken in the next.
const SLACK: f64 = 1.0 / 32.0;
/// The same for few slots, in answers.
const MIN_SLACK: f64 = 1.0;
/// Share of the difference by which a number that is not reached is corrected.
const FALL: f64 = 0.01;
/// An answer ends in order if as many others have begun since it did as are under way, give or take this share.
const ORDER_SLACK: f64 = 0.2;
/// From this share on, answers are of one length. Of lengths that chance makes, one answer in six seems in order.
const ORDERED: f64 = 0.5;
/// Answers that count for that share.
const N_ORDERED: f64 = 32.0;
/// Fewer answers than this are no bound: so few stay the same by chance, and engines have more slots.
const MIN_BOUND: f64 = 8.0;
/// A number that was not reached for so long is forgotten: the model server may have been started anew.
const MEMORY: Duration = Duration::from_mins(5);

impl Slots {
    /// A first token came. `n_decoding` answers are under way then, and those of `n_waiting` are not yet.
    pub(super) fn note(&mut self, now: Stamp, n_decoding: f64, n_waiting: f64) {
        if n_decoding > self.highest || now.since(self.reached) > MEMORY {
            // Whatever it was taken for, it was no bound.
            (self.highest, self.full, self.reached) = (n_decoding, 0.0, now);
            return;
        }
        // With slots left for those that wait, they wait for something else.
        if n_waiting + n_decoding <= self.highest {
            return;
        }
        let below = self.highest - n_decoding;
        let is_full = below <= MIN_SLACK + SLACK * self.highest;
        let step = 1.0 / (N_COUNTED + N_COUNTED_EACH * self.highest);
        self.full += step * (f64::from(u8::from(is_full)) - self.full);
        if is_full {
            self.reached = now;
        } else {
            self.highest -= FALL * below;
        }
    }

    /// An answer begins; gives its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.n_begun += 1;
        self.n_begun
    }

    /// That answer ends, one of `n_decoding`.
    pub(super) fn end(&mut self, nth: u64, n_decoding: f64) {
        let (n_younger, n_others) = (self.n_begun.saturating_sub(nth) as f64, n_decoding - 1.0);
        let is_in_order = (n_younger - n_others).abs() <= ORDER_SLACK * n_others;
        self.in_order += (f64::from(u8::from(is_in_order)) - self.in_order) / N_ORDERED;
    }

    /// Infinite while no bound is known.
    pub(super) fn bound(&self) -> f64 {
        let is_known = self.full > KNOWN && self.in_order < ORDERED && self.highest >= MIN_BOUND;
        if is_known { self.highest } else { f64::INFINITY }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use router_rt::Rng;

    use super::*;

    /// An endpoint in steps of 50 ms: answers end by chance, at most `n_slots` are computed at once, and of those
    /// that wait at most so many prompts are computed in a step.
    struct Server {
        n_slots: u64,
        n_prompts: u64,
        n_arrivals: f64,
        decoding: Vec<u64>,
        n_waiting: u64,
        now: Stamp,
        rng: Rng,
    }

    impl Server {
        fn new(n_slots: u64, n_prompts: u64, n_arrivals: f64) -> Self {
            let (decoding, n_waiting, now) = (Vec::new(), 0, Stamp::from_nanos(1));
            let rng = Rng::seeded(n_slots + n_prompts);
            Self { n_slots, n_prompts, n_arrivals, decoding, n_waiting, now, rng }
        }

        /// The share of the time in which `slots` has a bound, and the last one.
        fn play(&mut self, slots: &mut Slots, n_steps: usize) -> (f64, f64) {
            let mut n_known = 0;
            for _ in 0..n_steps {
                self.now = self.now + Duration::from_millis(50);
                let n_free = self.n_slots.saturating_sub(self.decoding.len() as u64);
                for _ in 0..self.n_waiting.min(self.n_prompts).min(n_free) {
                    self.n_waiting -= 1;
                    self.decoding.push(slots.begin());
                    slots.note(self.now, self.decoding.len() as f64, self.n_waiting as f64);
                }
                let (rng, n_decoding) = (&mut self.rng, self.decoding.len());
                for nth in self.decoding.extract_if(.., |_| rng.chance(0.01)) {
                    slots.end(nth, n_decoding as f64);
                }
                self.n_waiting +=
                    (0..100).filter(|_| self.rng.chance(self.n_arrivals / 100.0)).count() as u64;
                n_known += usize::from(slots.bound().is_finite());
            }
            (n_known as f64 / n_steps as f64, slots.bound())
        }
    }

    #[test]
    fn slots_are_learned_where_they_are_what_lacks() {
        for n_slots in [8, 32, 256] {
            let mut slots = Slots::default();
            let n_arrivals = 0.012 * n_slots as f64;
            Server::new(n_slots, 100, n_arrivals).play(&mut slots, 2_000);
            assert_eq!(slots.bound(), n_slots as f64);
        }
    }

    #[test]
    fn where_prompts_are_what_takes_time_no_bound_is_seen() {
        for (n_prompts, n_arrivals) in [(1, 1.1), (2, 2.2), (2, 1.95)] {
            let mut slots = Slots::default();
            let (known, bound) =
                Server::new(1 << 20, n_prompts, n_arrivals).play(&mut slots, 20_000);
            assert!(known < 0.05, "{n_prompts} {n_arrivals}: {known}, {bound}");
        }
    }

    #[test]
    fn answers_of_one_length_are_no_bound() {
        for n_answers in [1, 2, 3, 28, 200] {
            let (mut slots, mut under_way) = (Slots::default(), VecDeque::new());
            for at in 1..2_000 {
                if under_way.len() == n_answers {
                    slots.end(under_way.pop_front().unwrap(), n_answers as f64);
                }
                under_way.push_back(slots.begin());
                let now = Stamp::from_nanos(1) + Duration::from_millis(250) * at;
                slots.note(now, under_way.len() as f64, 10.0);
            }
            assert_eq!(slots.bound(), f64::INFINITY, "{n_answers}");
        }
    }

    #[test]
    fn where_nothing_lacks_no_bound_is_seen() {
        let (known, _) = Server::new(256, 100, 1.0).play(&mut Slots::default(), 20_000);
        assert_eq!(known, 0.0);
    }

    #[test]
    fn a_bound_that_is_none_goes_when_it_is_passed_and_one_that_fell_is_found() {
        let mut slots = Slots::default();
        let mut server = Server::new(64, 100, 0.8);
        assert_eq!(server.play(&mut slots, 2_000).1, 64.0);
        server.n_slots = 128;
        server.n_arrivals = 1.0;
        assert_eq!(server.play(&mut slots, 2_000).1, 128.0);
        let mut server = Server { now: server.now, ..Server::new(32, 100, 0.4) };
        let (_, bound) = server.play(&mut slots, 10_000);
        assert!((bound - 32.0).abs() < 1.0, "{bound}");
    }
}
