//! How fast endpoints are, learned from the answers that go by.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::{
    claims::Claims,
    cost::{cacheable, effective_tokens},
    fit::{Factor, Fit, Line},
};

/// How fast an endpoint computes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Speed {
    /// Seconds to a first token over effective tokens that are computed until then.
    pub(super) prefill: Line,
    /// Seconds of one decode step over tokens that are attended to.
    pub(super) step: Line,
}

/// What one answer showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) prefill: Option<Prefill>,
    /// Tokens attended to per step, and the seconds of a step.
    pub(super) step: Option<(f64, f64)>,
    /// Tokens of the answer.
    pub(super) output: Option<f64>,
    pub(super) hits: Option<Hits>,
    /// Tokens of the prompt as they were counted here, and as the model server counted them. Above 0.
    pub(super) claim: Option<(f64, f64)>,
}

/// Prompt tokens that are expected in an endpoint's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Expected {
    /// Tokens of blocks that are known.
    pub(super) tokens: f64,
    /// No candidate has more of this prompt, and this one has some of it.
    pub(super) is_most: bool,
}

/// What was expected in the cache, and the prompt tokens that were there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hits {
    pub(super) expected: Expected,
    pub(super) found: f64,
}

/// What a first token showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Prefill {
    /// Effective tokens of others that had to be computed before.
    pub(super) ahead: f64,
    /// Tokens of the prompt, and those of them that were in the cache; where nobody says, that were expected there.
    pub(super) prompt: f64,
    pub(super) cached: f64,
    /// Seconds that passed, without those of decode steps.
    pub(super) seconds: f64,
    /// Other models were under way there. They are adapters then, and it may have waited for the place of one.
    pub(super) beside_others: bool,
}

impl Prefill {
    /// Effective tokens that had to be computed.
    pub(super) fn work(&self) -> f64 {
        self.ahead + self.own()
    }

    /// The request's own part of them.
    pub(super) fn own(&self) -> f64 {
        effective_tokens(self.prompt, self.cached)
    }

    /// Share that counts of what it took longer than expected.
    fn above(&self) -> f64 {
        if self.beside_others { ABOVE_BESIDE_OTHERS } else { 1.0 }
    }
}

/// What a request makes the endpoint do that it is sent to. Tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    pub(super) prompt: f64,
    /// Effective ones that are computed.
    pub(super) uncached: f64,
    /// That take room in its cache, those of the expected answer among them.
    pub(super) stored: f64,
    /// That were computed before and are in no cache any more.
    pub(super) lost: f64,
}

/// How many times as slow as the pool an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Slowness {
    pub(super) prefill: f64,
    pub(super) step: f64,
}

/// The slowness of one endpoint, being learned.
#[derive(Clone, Debug, Default)]
pub(super) struct Learner {
    prefill: Factor,
    step: Factor,
}

/// What all endpoints have in common. Endpoints of several kinds are mixed in its speed; each has its slowness.
#[derive(Debug)]
pub(super) struct Pool {
    learned: Mutex<Common>,
    /// Copies for decisions: both lines, then what is typical, but for `busy`.
    shown: [AtomicU64; N_SHOWN],
    /// Of the endpoints that the last requests could go to, the share that had prompts to compute; a number's bits.
    busy: AtomicU64,
    /// Requests that came.
    n_came: AtomicU32,
}

#[derive(Debug)]
struct Common {
    prefill: Fit,
    step: Fit,
    output: Mean,
    prompt: Mean,
    uncached: Mean,
    /// Tokens that were found in caches, of those that were expected there.
    hits: Share,
    beyond: Mean,
    /// Tokens that were computed before and are in no cache any more, of those that took room in one.
    lost: Share,
    claims: Claims,
}

/// Tokens, and those of them that are of a kind, both forgetting.
#[derive(Clone, Copy, Debug)]
struct Share {
    part: f64,
    all: f64,
}

/// Means over requests. Tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Typical {
    pub(super) output: f64,
    pub(super) prompt: f64,
    /// Effective tokens that a prompt makes an endpoint compute.
    pub(super) uncached: f64,
    /// Share of the expected cache hits that were hits. 1 where model servers do not tell.
    pub(super) hits: f64,
    /// Tokens that an endpoint has beyond those expected, if it has most of a prompt. The last answer of a conversation
    /// is in the cache, and nobody but the model server knows its tokens.
    pub(super) beyond: f64,
    /// Of the tokens that take room in caches, the share that had been there and was pushed out.
    pub(super) lost: f64,
    /// Share of the endpoints that have prompts to compute.
    pub(super) busy: f64,
}

/// A mean that forgets: about the last hundred values count.
#[derive(Clone, Copy, Debug)]
struct Mean {
    value: f64,
    n: u32,
}

const N_SHOWN: usize = 10;
/// What the prior of a [`Share`] weighs as much as. Tokens.
const SHARE_PRIOR: f64 = 50_000.0;
/// Share of the past that is left in a [`Share`] after one more request.
const SHARE_KEEP: f64 = 0.99;
/// Share of the endpoints that are busy where nothing is known of requests.
const FIRST_BUSY: f64 = 0.5;
/// Share of one request in [`Pool::busy`], once there were many.
const BUSY_STEP: f64 = 0.005;
/// What counts of a time to a first token that is longer than expected, where it may be a wait for an adapter: it would
/// be taken for the prefill rate, and one in eleven requests for 30 adapters on servers with room for one each would miss
/// its goals by that.
const ABOVE_BESIDE_OTHERS: f64 = 0.25;
/// What a request made new where nothing is known of requests. Tokens.
const FIRST_PROMPT: f64 = 1_000.0;
/// Share of a new value in a [`Mean`], once there are many.
const MEAN_STEP: f64 = 0.01;
/// Values that the prior of a mean weighs as much as.
const MEAN_PRIOR: f64 = 8.0;
/// A value counts for at most this many times the mean, or this many tokens where that is more: of answers of which one
/// in twenty has thousands of tokens, those are what most of the tokens are in, and few models take longer prompts.
const MEAN_CLIP: f64 = 16.0;
const MOST_TOKENS: f64 = 131_072.0;
/// So many answers of the mean length are the most that is found beyond what was expected.
const BEYOND_CLIP: f64 = 4.0;

impl Speed {
    pub(super) fn times(&self, slowness: Slowness) -> Self {
        let Slowness { prefill, step } = slowness;
        Self { prefill: self.prefill.times(prefill), step: self.step.times(step) }
    }
}

impl Typical {
    /// Tokens of a prompt of so many that are believed to be in a cache.
    pub(super) fn believed(&self, expected: Expected, prompt: f64) -> f64 {
        let beyond = if expected.is_most { self.beyond } else { 0.0 };
        cacheable(expected.tokens * self.hits + beyond, prompt)
    }
}

impl Slowness {
    /// As slow as the others.
    pub(super) const NONE: Self = Self { prefill: 1.0, step: 1.0 };

    /// What is left of it when this share of its weight has gone.
    pub(super) fn fade(self, share: f64) -> Self {
        let fade = |factor: f64| factor.powf(1.0 - share);
        Self { prefill: fade(self.prefill), step: fade(self.step) }
    }
}

impl Learner {
    pub(super) fn observe(&mut self, sample: &Sample, pool: &Speed) {
        if let Some(prefill) = sample.prefill {
            let expected = pool.prefill.at(prefill.work());
            self.prefill.observe(expected, prefill.seconds, prefill.above());
        }
        if let Some((work, seconds)) = sample.step {
            self.step.observe(pool.step.at(work), seconds, 1.0);
        }
    }

    pub(super) fn slowness(&self) -> Slowness {
        Slowness { prefill: self.prefill.value(), step: self.step.value() }
    }
}

impl Mean {
    fn add(&mut self, value: f64) {
        if !(value.is_finite() && value >= 0.0) {
            return;
        }
        self.n = self.n.saturating_add(1);
        let step = (1.0 / (f64::from(self.n) + MEAN_PRIOR)).max(MEAN_STEP);
        self.value += step * (value.min((MEAN_CLIP * self.value).max(MOST_TOKENS)) - self.value);
    }
}

impl Share {
    const fn new(share: f64) -> Self {
        Self { part: share * SHARE_PRIOR, all: SHARE_PRIOR }
    }

    fn add(&mut self, part: f64, all: f64) {
        if all > 0.0 && all.is_finite() {
            self.all = SHARE_KEEP * self.all + all;
            self.part = SHARE_KEEP * self.part + part.clamp(0.0, all);
        }
    }

    fn value(self) -> f64 {
        self.part / self.all
    }
}

impl Pool {
    pub(super) fn new(start: Speed, output: f64) -> Self {
        let mean = |value| Mean { value, n: 0 };
        let learned = Common {
            prefill: Fit::new(start.prefill),
            step: Fit::new(start.step),
            output: mean(output),
            prompt: mean(FIRST_PROMPT),
            uncached: mean(FIRST_PROMPT),
            hits: Share::new(1.0),
            beyond: mean(0.0),
            lost: Share::new(0.0),
            claims: Claims::default(),
        };
        let pool = Self {
            learned: Mutex::new(learned),
            shown: Default::default(),
            busy: AtomicU64::new(FIRST_BUSY.to_bits()),
            n_came: AtomicU32::new(0),
        };
        pool.publish(&pool.learned.lock());
        pool
    }

    pub(super) fn speed(&self) -> Speed {
        let [base, per_unit, step_base, step_per_unit, ..] = self.words();
        Speed {
            prefill: Line { base, per_unit },
            step: Line { base: step_base, per_unit: step_per_unit },
        }
    }

    pub(super) fn typical(&self) -> Typical {
        let [.., output, prompt, uncached, hits, beyond, lost] = self.words();
        let busy = f64::from_bits(self.busy.load(Relaxed));
        Typical { output, prompt, uncached, hits, beyond, lost, busy }
    }

    /// A request came when this share of the endpoints that it could go to had prompts to compute. Takes no lock: of
    /// two that come at once, one may be lost.
    pub(super) fn came(&self, busy: f64) {
        let n_came = self.n_came.load(Relaxed).saturating_add(1);
        self.n_came.store(n_came, Relaxed);
        let step = (1.0 / (f64::from(n_came) + MEAN_PRIOR)).max(BUSY_STEP);
        let before = f64::from_bits(self.busy.load(Relaxed));
        self.busy.store((before + step * (busy - before)).to_bits(), Relaxed);
    }

    /// A request was sent somewhere.
    pub(super) fn sent(&self, demand: Demand) {
        let mut learned = self.learned.lock();
        learned.prompt.add(demand.prompt);
        learned.uncached.add(demand.uncached);
        learned.lost.add(demand.lost, demand.stored);
        self.publish(&learned);
    }

    /// Takes in what an answer showed. Gives the speed that is known then, and as much of the sample as is
    /// believed.
    pub(super) fn observe(&self, sample: &Sample) -> (Speed, Sample) {
        let mut learned = self.learned.lock();
        let mut sample = *sample;
        if let Some(claim) = sample.claim {
            learned.claims.add(claim);
        }
        sample.prefill =
            sample.prefill.and_then(|prefill| learned.claims.weigh(prefill, sample.claim));
        if let Some(prefill) = sample.prefill {
            learned.prefill.observe(prefill.work(), prefill.seconds, prefill.above());
        }
        if let Some((work, seconds)) = sample.step {
            learned.step.observe(work, seconds, 1.0);
        }
        if let Some(output) = sample.output {
            learned.output.add(output);
        }
        if let Some(hits) = sample.hits {
            learned.hits.add(hits.found, hits.expected.tokens);
            if hits.expected.is_most {
                // More is no answer, but a prompt that was cached before anything was known.
                let most = BEYOND_CLIP * learned.output.value;
                learned.beyond.add((hits.found - hits.expected.tokens).clamp(0.0, most));
            }
        }
        (self.publish(&learned), sample)
    }

    fn publish(&self, learned: &Common) -> Speed {
        let Line { base, per_unit } = learned.prefill.line();
        let step = learned.step.line();
        let words = [
            base,
            per_unit,
            step.base,
            step.per_unit,
            learned.output.value,
            learned.prompt.value,
            learned.uncached.value,
            learned.hits.value(),
            learned.beyond.value,
            learned.lost.value(),
        ];
        for (word, value) in self.shown.iter().zip(words) {
            word.store(value.to_bits(), Relaxed);
        }
        Speed { prefill: Line { base, per_unit }, step }
    }

    fn words(&self) -> [f64; N_SHOWN] {
        self.shown.each_ref().map(|word| f64::from_bits(word.load(Relaxed)))
    }
}
