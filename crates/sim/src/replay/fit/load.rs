//! What else an endpoint did while a request was there, and the equations that follow from it.
//!
//! A request's tokens after the first come one a step, and a step takes its fixed cost, something for each
//! sequence and each token of context that decodes in it, and the prompts that are computed in it. The sum over
//! all steps of a request is therefore linear in the costs, with factors that the record knows: how many
//! requests were decoding meanwhile, how long their contexts were, and which prompts came to their first token.
//! A prompt that was alone with its endpoint gives another equation.

use super::{
    samples::{MIN_SECONDS, Sample},
    solve::quantile,
};

/// Costs in the order of equations: step, sequence, context token, prompt, prompt token, pair.
pub(super) const N_COSTS: usize = 6;

/// `factors · costs = seconds`, about one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Equation {
    pub(super) factors: [f64; N_COSTS],
    pub(super) seconds: f64,
    pub(super) what: What,
}

/// What an equation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Tokens after the first.
    Decode,
    /// The first token of a prompt that was alone.
    Prefill,
}

/// What happened at an endpoint over time.
#[derive(Debug, Default)]
pub(super) struct Course {
    /// Where the number of decoding requests changes, in the order of time.
    knots: Vec<Knot>,
    prompts: Vec<Prompt>,
}

/// The state from a moment on, until the next knot.
#[derive(Clone, Copy, Debug, Default)]
struct Knot {
    at: f64,
    n_decoding: f64,
    /// Tokens of context of those that decode: `context + growth · time`.
    context: f64,
    growth: f64,
    /// Request seconds and token seconds from the start up to here.
    sum_decoding: f64,
    sum_context: f64,
}

/// Prompts computed up to a first token.
#[derive(Clone, Copy, Debug, Default)]
struct Prompt {
    at: f64,
    sum: f64,
    sum_tokens: f64,
    sum_pairs: f64,
}

// === impl Course ===

impl Course {
    pub(super) fn of(samples: &[Sample]) -> Self {
        let mut changes: Vec<(f64, f64, f64, f64)> = Vec::new();
        let mut prompts: Vec<Prompt> = Vec::new();
        let per_token = |sample: &Sample| sample.decode().map(|(n_gaps, seconds)| seconds / n_gaps);
        let per_token = quantile(samples.iter().filter_map(per_token).collect(), 0.5);
        for sample in samples {
            // Answers that were not streamed were generated all the same, and about as fast as others.
            let guess = || sample.ends() - per_token.unwrap_or(0.0) * f64::from(sample.output);
            let first = sample.first_token().unwrap_or_else(|| guess().max(sample.begins()));
            prompts.push(Prompt {
                at: first,
                sum: 1.0,
                sum_tokens: sample.computed(),
                sum_pairs: sample.pairs(),
            });
            let n_gaps = f64::from(sample.output.saturating_sub(1));
            let seconds = sample.ends() - first;
            if n_gaps > 0.0 && seconds >= MIN_SECONDS {
                let growth = n_gaps / seconds;
                let context = f64::from(sample.prompt) - growth * first;
                changes.push((first, 1.0, context, growth));
                changes.push((sample.ends(), -1.0, -context, -growth));
            }
        }
        changes.sort_by(|a, b| a.0.total_cmp(&b.0));
        prompts.sort_by(|a, b| a.at.total_cmp(&b.at));
        let mut knots: Vec<Knot> = Vec::with_capacity(changes.len());
        let mut last = Knot::default();
        for (at, requests, context, growth) in changes {
            let (sum_decoding, sum_context) = last.sums_at(at);
            last = Knot {
                at,
                n_decoding: last.n_decoding + requests,
                context: last.context + context,
                growth: last.growth + growth,
                sum_decoding,
                sum_context,
            };
            knots.push(last);
        }
        let mut sums = Prompt::default();
        for prompt in &mut prompts {
            sums = Prompt {
                at: prompt.at,
                sum: sums.sum + prompt.sum,
                sum_tokens: sums.sum_tokens + prompt.sum_tokens,
                sum_pairs: sums.sum_pairs + prompt.sum_pairs,
            };
            *prompt = sums;
        }
        Self { knots, prompts }
    }

    /// How many requests decoded at a moment, and the tokens of their contexts.
    fn state_at(&self, at: f64) -> (f64, f64) {
        let nth = self.knots.partition_point(|knot| knot.at <= at);
        let knot = nth.checked_sub(1).and_then(|nth| self.knots.get(nth));
        knot.map_or((0.0, 0.0), |knot| {
            (knot.n_decoding, (knot.context + knot.growth * at).max(0.0))
        })
    }

    /// How many requests decoded between two moments, on average, and the tokens of their contexts.
    fn means(&self, from: f64, to: f64) -> (f64, f64) {
        let length = to - from;
        if length <= 0.0 {
            return self.state_at(from);
        }
        let sums = |at: f64| {
            let nth = self.knots.partition_point(|knot| knot.at <= at);
            let knot = nth.checked_sub(1).and_then(|nth| self.knots.get(nth));
            knot.map_or((0.0, 0.0), |knot| knot.sums_at(at))
        };
        let (a, b) = (sums(from), sums(to));
        (((b.0 - a.0) / length).max(0.0), ((b.1 - a.1) / length).max(0.0))
    }

    /// The prompts whose first token came after `from` and up to `to`: their number, tokens and pairs.
    fn prompts(&self, from: f64, to: f64) -> (f64, f64, f64) {
        let sums = |at: f64| {
            let nth = self.prompts.partition_point(|prompt| prompt.at <= at);
            nth.checked_sub(1).and_then(|nth| self.prompts.get(nth)).copied().unwrap_or_default()
        };
        let (a, b) = (sums(from), sums(to));
        (b.sum - a.sum, b.sum_tokens - a.sum_tokens, b.sum_pairs - a.sum_pairs)
    }

    /// The most requests that decoded at once for at least `share` of the time in which any did.
    pub(super) fn most_at_once(&self, share: f64) -> u32 {
        let mut spans: Vec<(f64, f64)> = self
            .knots
            .windows(2)
            .filter_map(|pair| match pair {
                [a, b] if a.n_decoding > 0.5 => Some((a.n_decoding.round(), b.at - a.at)),
                _ => None,
            })
            .collect();
        spans.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut left = share * spans.iter().map(|span| span.1).sum::<f64>();
        let found = spans.iter().find(|span| {
            left -= span.1;
            left <= 0.0
        });
        found.map_or(0, |span| span.0 as u32)
    }
}

impl Knot {
    fn sums_at(&self, at: f64) -> (f64, f64) {
        let length = at - self.at;
        let mean_context = self.context + self.growth * f64::midpoint(self.at, at);
        (self.sum_decoding + self.n_decoding * length, self.sum_context + mean_context * length)
    }
}

/// The equations of one endpoint's requests. `max_batched` tokens of a prompt fit into a step.
pub(super) fn equations(samples: &[Sample], course: &Course, max_batched: u32) -> Vec<Equation> {
    let mut equations = Vec::new();
    let mut latest_first_token = f64::NEG_INFINITY;
    for (nth, sample) in samples.iter().enumerate() {
        let Some(first) = sample.first_token() else {
            // Nothing is known of when its prompt was computed.
            latest_first_token = latest_first_token.max(sample.ends());
            continue;
        };
        if let Some((n_gaps, seconds)) = sample.decode().filter(|_| sample.end_is_fitted) {
            equations.push(decode(sample, course, first, n_gaps, seconds));
        }
        let next = samples.get(nth + 1).map_or(f64::INFINITY, Sample::begins);
        let is_alone = latest_first_token <= sample.begins() && next >= first;
        if is_alone && sample.first_is_fitted && sample.adapter.is_none() {
            equations.push(prefill(sample, course, sample.ttft.unwrap_or(sample.e2e), max_batched));
        }
        latest_first_token = latest_first_token.max(first);
    }
    equations
}

fn decode(sample: &Sample, course: &Course, first: f64, n_gaps: f64, seconds: f64) -> Equation {
    let (n_decoding, context) = course.means(first, sample.ends());
    let (prompts, tokens, pairs) = course.prompts(first, sample.ends());
    Equation {
        factors: [n_gaps, n_gaps * n_decoding, n_gaps * context, prompts, tokens, pairs],
        seconds,
        what: What::Decode,
    }
}

fn prefill(sample: &Sample, course: &Course, seconds: f64, max_batched: u32) -> Equation {
    let (n_decoding, context) = course.state_at(sample.begins());
    let computed = sample.computed();
    // Whoever comes in the middle of a step waits for the half of it, on average.
    let waits = if n_decoding > 0.5 { 0.5 } else { 0.0 };
    let n_steps = waits + (computed / f64::from(max_batched.max(1))).ceil();
    Equation {
        factors: [n_steps, n_steps * n_decoding, n_steps * context, 1.0, computed, sample.pairs()],
        seconds,
        what: What::Prefill,
    }
}
