//! The search for a profile: from a first guess to the one under which the engine model, playing the recorded
//! arrivals, comes closest to the recorded times.
//!
//! What is minimised is Huber's loss of the logarithms of simulated over recorded times, for first tokens and for
//! the tokens after them, each in units of its usual deviation. Costs move together by damped Gauss–Newton steps
//! on finite differences, since they are far from independent, and then one by one; capacities, which the loss
//! steps over, are tried one by one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    candidate::{Candidate, Fixed},
    load::N_COSTS,
    play::{Played, play},
    samples::Sample,
    solve::{Costs, HUBER, Prior, huber_weight, linear, scale_of},
};

/// Log deviation of what never ended.
const NEVER: f64 = 3.0;
/// Added to first-token times before they are compared, in seconds: nobody cares for less.
const GRACE_S: f64 = 1e-3;
/// Deviations are never taken for smaller than this.
const MIN_SCALE: f64 = 0.02;
/// Relative step of finite differences: wide enough to see past the jumps of a single schedule.
const PROBE: f64 = 0.05;
/// A capacity is taken if it makes the loss smaller by this share, and does so all through the record: by so many
/// standard errors over so many stretches of it. Chance makes the loss a little smaller too.
const CLEAR: f64 = 0.04;
const CLEAR_ERRORS: f64 = 2.0;
const N_STRETCHES: usize = 16;
/// Rounds of damped steps, from each first guess and then each time after capacities were tried.
const FIRST_ROUNDS: usize = 3;
const ROUNDS: [usize; 2] = [3, 2];
/// Tries of a damped step.
const DAMPINGS: usize = 4;
/// Steps of the search one by one.
const POLISH: [f64; 2] = [0.05, 0.02];
/// Tokens of a step that are tried.
const BATCHED: [u32; 6] = [1024, 2048, 4096, 8192, 16_384, 32_768];
/// Numbers of sequences that are tried, relative to the most that were seen at once. Times that are a little
/// off let requests overlap that did not, so the truth may be well below.
const SEQS: [f64; 6] = [1.0, 0.85, 0.7, 0.6, 0.5, 0.4];
/// Around the best of them.
const NEAR_SEQS: [i32; 4] = [-2, -1, 1, 2];
/// Sizes of the cache that are tried, relative to the best so far: far and near, and nearer once costs are known.
const CACHE_SIZES: [&[&[f64]]; 2] = [
    &[&[0.06, 0.12, 0.25, 0.4, 0.6, 1.6, 2.5, 4.0, 8.0], &[0.8, 0.9, 1.1, 1.25]],
    &[&[0.93, 0.97, 1.03, 1.07]],
];
/// A size of the cache is told apart from others by this share of prompt tokens that they mistake more.
const CLEARLY_CACHED: f64 = 0.005;

/// Plays of all samples that [`Search::run`] does at most; what the caller bounds its time by.
pub(super) const MAX_PLAYS: usize = 240;

/// The samples of one endpoint that a search plays.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) samples: Vec<Sample>,
    /// Of these, the first ones only fill the cache.
    pub(super) n_warm: usize,
}

/// The search for one kind of server.
pub(super) struct Search<'a> {
    pub(super) windows: &'a [Window],
    pub(super) fixed: Fixed,
    pub(super) prior: Prior,
    /// Most requests that decoded at once.
    pub(super) most_at_once: u32,
    /// Whether the record says what was cached.
    pub(super) knows_cached: bool,
    /// Counts requests that were played.
    pub(super) n_played: &'a AtomicU64,
}

/// Where a search ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) candidate: Candidate,
    pub(super) tells_seqs: bool,
    pub(super) tells_batched: bool,
    pub(super) tells_cache: bool,
}

/// Deviations of one candidate, in an order that is the same for all.
struct Deviations {
    /// Of first tokens, and of what comes after them.
    logs: [Vec<f64>; 2],
    /// Share of prompt tokens that were wrongly taken for cached or not cached.
    mistaken: f64,
}

/// The usual deviation of first tokens, and of what comes after them.
type Scales = [f64; 2];

// === impl Search ===

impl Search<'_> {
    /// From the best of some first guesses.
    pub(super) fn run(&self, guesses: &[Costs], kv_blocks: u32) -> Found {
        let starts: Vec<Found> =
            guesses.iter().map(|costs| self.start(Candidate::new(*costs, kv_blocks))).collect();
        // Scales of one for all, or a guess that is far from everything would look good by its own.
        let scales = starts.iter().map(|start| self.deviations(&start.candidate).scales());
        let scales = scales.fold([f64::INFINITY; 2], |least, scales| {
            [least[0].min(scales[0]), least[1].min(scales[1])]
        });
        let losses = starts.iter().map(|start| self.loss(&start.candidate, scales));
        let best = losses.zip(&starts).min_by(|one, other| one.0.total_cmp(&other.0));
        let mut found = match best {
            Some((_, start)) => *start,
            None => Found::at(Candidate::new(self.prior.mean, kv_blocks)),
        };
        for (rounds, sizes) in ROUNDS.into_iter().zip(CACHE_SIZES) {
            let scales = self.deviations(&found.candidate).scales();
            self.choose_seqs(&mut found, scales);
            // Smaller chunks look much like dearer tokens, so costs came first.
            self.choose_batched(&mut found, scales);
            self.choose_cache(&mut found, scales, sizes);
            let scales = self.deviations(&found.candidate).scales();
            self.descend(&mut found, scales, rounds);
        }
        let scales = self.deviations(&found.candidate).scales();
        self.polish(&mut found.candidate, scales);
        found
    }

    fn start(&self, first: Candidate) -> Found {
        let least = first.max_num_seqs.max(self.most_at_once).min(1 << 16);
        let mut found = Found::at(first.with_seqs(least));
        let scales = self.deviations(&found.candidate).scales();
        self.choose_seqs(&mut found, scales);
        let scales = self.deviations(&found.candidate).scales();
        self.descend(&mut found, scales, FIRST_ROUNDS);
        found
    }

    /// Is the number of sequences bounded by what was seen at once?
    fn choose_seqs(&self, found: &mut Found, scales: Scales) {
        if self.most_at_once < 2 {
            return;
        }
        if !found.tells_seqs {
            let seqs = |factor: f64| (f64::from(self.most_at_once) * factor).round() as u32;
            let tried = SEQS.map(|factor| seqs(factor).max(1));
            let here = found.candidate;
            let tried = tried.into_iter().map(|seqs| here.with_seqs(seqs)).collect();
            let best = self.clearly_best(here, tried, scales).0;
            found.tells_seqs = best != found.candidate;
            found.candidate = best;
        }
        if !found.tells_seqs {
            return;
        }
        let mut least = self.loss(&found.candidate, scales);
        let here = found.candidate.max_num_seqs;
        for step in NEAR_SEQS {
            let max_num_seqs = here.saturating_add_signed(step).max(1);
            let candidate = found.candidate.with_seqs(max_num_seqs);
            let loss = self.loss(&candidate, scales);
            if loss < least {
                (found.candidate, least) = (candidate, loss);
            }
        }
    }

    fn choose_batched(&self, found: &mut Found, scales: Scales) {
        let here = found.candidate;
        let others = BATCHED
            .into_iter()
            .filter(|max_batched| *max_batched != here.max_batched)
            .map(|max_batched| here.with_batched(max_batched))
            .collect();
        let (best, worse) = self.clearly_best(here, others, scales);
        // That smaller steps would be worse only says that steps are no smaller.
        let is_told = |side: &dyn Fn(u32) -> bool| worse.iter().any(|one| side(one.max_batched));
        let is_between = is_told(&|other| other < here.max_batched)
            && is_told(&|other| other > here.max_batched);
        found.tells_batched |= is_between || best != here;
        found.candidate = best;
    }

    /// The best of some candidates if it is clearly better than `here`, else `here`; and those that are clearly
    /// worse than `here`.
    fn clearly_best(
        &self,
        here: Candidate,
        others: Vec<Candidate>,
        scales: Scales,
    ) -> (Candidate, Vec<Candidate>) {
        let now = self.deviations(&here);
        let (mut best, mut least, mut worse) = (here, now.loss(scales), Vec::new());
        for candidate in others {
            let tried = self.deviations(&candidate);
            let loss = tried.loss(scales);
            if now.is_clearly_better_than(&tried, scales) {
                worse.push(candidate);
            }
            if loss < least && tried.is_clearly_better_than(&now, scales) {
                (best, least) = (candidate, loss);
            }
        }
        (best, worse)
    }

    /// By what was cached, or by the times alone where the record does not say.
    fn choose_cache(&self, found: &mut Found, scales: Scales, sizes: &[&[f64]]) {
        let measure = |candidate: &Candidate| {
            let deviations = self.deviations(candidate);
            if self.knows_cached { deviations.mistaken } else { deviations.loss(scales) }
        };
        let mut least = measure(&found.candidate);
        let clear = if self.knows_cached { CLEARLY_CACHED } else { least * CLEAR };
        for factors in sizes {
            let start = found.candidate;
            for factor in *factors {
                let kv_blocks = (f64::from(start.kv_blocks) * factor).round().max(1.0) as u32;
                let candidate = Candidate { kv_blocks, ..start };
                let value = measure(&candidate);
                // A larger cache that is clearly worse, or than which this one is clearly better.
                found.tells_cache |= *factor > 1.0 && value > least + clear;
                found.tells_cache |= *factor < 1.0 && value < least - clear;
                if value < least - if found.tells_cache { 0.0 } else { clear } {
                    (found.candidate, least) = (candidate, value);
                }
            }
        }
    }

    /// Damped Gauss–Newton steps on all costs.
    fn descend(&self, found: &mut Found, scales: Scales, rounds: usize) {
        let mut damping = 0.01;
        let mut deviations = self.deviations(&found.candidate);
        let mut loss = deviations.loss(scales) + self.tension(&found.candidate);
        for _ in 0..rounds {
            let (matrix, right) = self.normal_equations(&found.candidate, &deviations, scales);
            let mut improved = false;
            for _ in 0..DAMPINGS {
                let Some(step) = self.step(&matrix, &right, damping) else { break };
                let mut costs = found.candidate.costs;
                for (cost, (step, spread)) in
                    costs.iter_mut().zip(step.iter().zip(&self.prior.spread))
                {
                    // A single step at most doubles or halves a cost.
                    let reach = cost.max(0.5 * spread);
                    *cost = (*cost + (step * spread).clamp(-0.5 * reach, reach)).max(0.0);
                }
                let candidate = Candidate { costs, ..found.candidate };
                let tried = self.deviations(&candidate);
                let tried_loss = tried.loss(scales) + self.tension(&candidate);
                if tried_loss < loss {
                    improved = tried_loss < loss * (1.0 - 1e-3);
                    (found.candidate, deviations, loss) = (candidate, tried, tried_loss);
                    damping = (damping / 4.0).max(1e-4);
                    break;
                }
                damping *= 6.0;
            }
            if !improved {
                break;
            }
        }
    }

    /// One cost at a time, up and down.
    fn polish(&self, candidate: &mut Candidate, scales: Scales) {
        let mut least = self.loss(candidate, scales) + self.tension(candidate);
        for width in POLISH {
            for at in 0..N_COSTS {
                for sign in [1.0, -1.0] {
                    let mut tried = *candidate;
                    let reach = tried.costs[at].max(0.2 * self.prior.spread[at]);
                    tried.costs[at] = (tried.costs[at] + sign * width * reach).max(0.0);
                    let loss = self.loss(&tried, scales) + self.tension(&tried);
                    if loss < least {
                        (*candidate, least) = (tried, loss);
                        break;
                    }
                }
            }
        }
    }

    /// Of the loss around a candidate, in units of the prior's spreads.
    fn normal_equations(
        &self,
        candidate: &Candidate,
        here: &Deviations,
        scales: Scales,
    ) -> (Vec<Vec<f64>>, Vec<f64>) {
        let slopes: Vec<[Vec<f64>; 2]> = (0..N_COSTS)
            .map(|at| {
                let reach = candidate.costs[at].max(0.2 * self.prior.spread[at]);
                let mut probe = *candidate;
                probe.costs[at] += PROBE * reach;
                let there = self.deviations(&probe);
                let width = PROBE * reach / self.prior.spread[at];
                let slope = |part: usize| -> Vec<f64> {
                    let pairs = there.logs[part].iter().zip(&here.logs[part]);
                    pairs.map(|(there, here)| (there - here) / width / scales[part]).collect()
                };
                [slope(0), slope(1)]
            })
            .collect();
        let mut matrix = vec![vec![0.0; N_COSTS]; N_COSTS];
        let mut right = vec![0.0; N_COSTS];
        for part in 0..2 {
            for (nth, log) in here.logs[part].iter().enumerate() {
                let residual = log / scales[part];
                let weight = huber_weight(residual);
                for row in 0..N_COSTS {
                    // A jump from never to sometime is no slope.
                    let slope = slopes[row][part][nth];
                    right[row] -= weight * slope * residual;
                    for column in 0..N_COSTS {
                        matrix[row][column] += weight * slope * slopes[column][part][nth];
                    }
                }
            }
        }
        for at in 0..N_COSTS {
            matrix[at][at] += 1.0;
            right[at] -= (candidate.costs[at] - self.prior.mean[at]) / self.prior.spread[at];
        }
        (matrix, right)
    }

    fn step(&self, matrix: &[Vec<f64>], right: &[f64], damping: f64) -> Option<Vec<f64>> {
        let mut damped = matrix.to_vec();
        for (at, row) in damped.iter_mut().enumerate() {
            row[at] *= 1.0 + damping;
        }
        linear(damped, right.to_vec()).filter(|step| step.iter().all(|value| value.is_finite()))
    }

    fn loss(&self, candidate: &Candidate, scales: Scales) -> f64 {
        self.deviations(candidate).loss(scales)
    }

    /// What the prior adds to the loss.
    fn tension(&self, candidate: &Candidate) -> f64 {
        let prior = self.prior.mean.iter().zip(&self.prior.spread);
        let off = candidate.costs.iter().zip(prior);
        off.map(|(cost, (mean, spread))| ((cost - mean) / spread).powi(2) / 2.0).sum()
    }

    fn deviations(&self, candidate: &Candidate) -> Deviations {
        let profile = candidate.played(&self.fixed);
        let mut deviations = Deviations { logs: [Vec::new(), Vec::new()], mistaken: 0.0 };
        let (mut wrong, mut all) = (0.0, 0.0);
        for window in self.windows {
            let samples = &window.samples;
            // A profile that cannot run is as wrong as one that never comes to an end.
            let played = play(&profile, samples).unwrap_or_else(|_| vec![None; samples.len()]);
            self.n_played.fetch_add(samples.len() as u64, Ordering::Relaxed);
            for (sample, played) in samples.iter().zip(&played).skip(window.n_warm) {
                if !sample.is_foreseeable {
                    continue;
                }
                deviations.note(sample, played.as_ref());
                if let Some(cached) = sample.cached {
                    let found = played.map_or(0, |played| played.cached);
                    wrong += f64::from(cached.abs_diff(found));
                    all += f64::from(sample.prompt);
                }
            }
        }
        deviations.mistaken = if all > 0.0 { wrong / all } else { 0.0 };
        deviations
    }
}

// === impl Found ===

impl Found {
    fn at(candidate: Candidate) -> Self {
        Self { candidate, tells_seqs: false, tells_batched: false, tells_cache: false }
    }
}

// === impl Deviations ===

impl Deviations {
    fn note(&mut self, sample: &Sample, played: Option<&Played>) {
        let ratio = |played: f64, seen: f64| ((played + GRACE_S) / (seen + GRACE_S)).ln();
        if let Some(seen) = sample.ttft.filter(|_| sample.first_is_fitted) {
            self.logs[0].push(played.map_or(NEVER, |played| ratio(played.ttft, seen)));
        }
        if !sample.end_is_fitted {
            return;
        }
        // By themselves, tokens are shorter than any grace.
        let after = match sample.decode() {
            Some((_, seen)) => {
                played.map(|played| ((played.e2e - played.ttft).max(1e-6) / seen).ln())
            }
            None if sample.ttft.is_none() => played.map(|played| ratio(played.e2e, sample.e2e)),
            None => return,
        };
        self.logs[1].push(after.unwrap_or(NEVER));
    }

    fn scales(&self) -> Scales {
        [0, 1].map(|part| scale_of(self.logs[part].iter().copied()).max(MIN_SCALE))
    }

    fn loss(&self, scales: Scales) -> f64 {
        self.losses(scales).sum()
    }

    /// Of each deviation.
    fn losses(&self, scales: Scales) -> impl Iterator<Item = f64> {
        let of_part =
            move |part: usize| self.logs[part].iter().map(move |log| huber(log / scales[part]));
        of_part(0).chain(of_part(1))
    }

    fn is_clearly_better_than(&self, other: &Self, scales: Scales) -> bool {
        let gains: Vec<f64> =
            other.losses(scales).zip(self.losses(scales)).map(|(other, own)| other - own).collect();
        let gain: f64 = gains.iter().sum();
        if gain <= CLEAR * other.loss(scales) {
            return false;
        }
        let stretches: Vec<f64> = gains
            .chunks(gains.len().div_ceil(N_STRETCHES).max(1))
            .map(|stretch| stretch.iter().sum())
            .collect();
        let n = stretches.len() as f64;
        let mean = gain / n;
        let variance = stretches.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / n;
        mean > CLEAR_ERRORS * (variance / n).sqrt()
    }
}

fn huber(deviation: f64) -> f64 {
    let size = deviation.abs();
    if size <= HUBER { size * size / 2.0 } else { HUBER * (size - HUBER / 2.0) }
}
