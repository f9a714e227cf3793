//! What a request costs on one endpoint, in seconds.

use super::{
    fit::Line,
    speed::{Speed, Typical},
};

/// A request as the formula sees it, on one endpoint. Tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    /// The whole prompt.
    pub(super) prompt: f64,
    /// Of it, what the endpoint has cached.
    pub(super) cached: f64,
    /// Expected length of an answer.
    pub(super) output: f64,
    /// Answers that decode at once.
    pub(super) n_answers: u32,
    /// How many of them attend to each of the prompt's tokens.
    pub(super) n_copies: u32,
    /// Of the prompt, what the endpoint that has most of it has cached.
    pub(super) cached_best: f64,
    /// Requests that will soon have use of another copy of that.
    pub(super) reuses: f64,
    /// Which model it asks for: equal numbers for equal names.
    pub(super) model: u64,
}

/// What is known of one endpoint at the moment of the decision.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    /// Work that is leased there and has not been done yet, in effective tokens.
    pub(super) pending: f64,
    /// The same with all of a prompt that is being computed.
    pub(super) leased: f64,
    /// Answers of requests whose prompt is not computed yet.
    pub(super) n_waiting: f64,
    /// Answers that are under way.
    pub(super) n_decoding: f64,
    /// Tokens that these attend to.
    pub(super) context: f64,
    /// Answers that it computes at once; infinite while no bound is known.
    pub(super) slots: f64,
    /// Seconds over effective tokens.
    pub(super) prefill: Line,
    /// Seconds that an effective token takes in the pool.
    pub(super) per_token: f64,
    /// Seconds of a decode step over attended tokens.
    pub(super) step: Line,
}

/// How fast answers are written on some endpoints.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// Under way.
    n_decoding: f64,
    /// Tokens of them together, in a second.
    per_second: f64,
}

/// A prediction in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    /// To this request's first token.
    pub(super) first_token: f64,
    /// What it adds to all others there.
    pub(super) imposed: f64,
}

/// Earlier tokens at which attending to them costs as much as everything else about a token. It follows from
/// the shape of a model alone and differs little between models: about 30,000 for 8 billion parameters, 53,000
/// for 70 billion, by arithmetic operations.
pub(super) const ATTENTION_TOKENS: f64 = 46_000.0;

/// What a decoding sequence costs by itself, as attended tokens.
pub(super) const SEQUENCE_TOKENS: f64 = 350.0;

/// As many of these tokens as a prompt of so many can have cached: the last one is always computed.
pub(super) fn cacheable(tokens: f64, prompt: f64) -> f64 {
    tokens.min(prompt - 1.0).max(0.0)
}

/// Prompt tokens that must be computed, each counted by what it attends to.
pub(super) fn effective_tokens(prompt: f64, cached: f64) -> f64 {
    let cached = cached.clamp(0.0, prompt);
    let new = prompt - cached;
    new * (1.0 + (cached + new / 2.0) / ATTENTION_TOKENS)
}

/// What a second of delay counts for a request whose answer is under way and comes in time: it is spread over the
/// answer, while a request that waits has nothing else yet. By the usual goals, 5 s to a first token and 100 ms for
/// each other one, it is 0.2 of a second at 250 tokens. Up to 0.5 keeps servers better from being overrun past
/// capacity, and costs up to a tenth of the first tokens' time below it (`cargo xtask matrix`).
const DECODING_DELAY: f64 = 0.3;
/// Seconds of a decode step up to which answers come in time, by the usual goal. Where steps are longer it counts for
/// more, by the square: otherwise a prefix that takes 6 s to compute stays on one endpoint until steps there are a
/// third of a second long.
const STEP_GOAL: f64 = 0.1;

/// Requests yet to come that find the endpoint busy with this one, where all endpoints always are; elsewhere as many
/// fewer as endpoints are busy less. Without them a conversation moves whenever its endpoint is busy for a moment, and
/// has all of its tokens computed once more. Were they as many however little there is to do, conversations would
/// gather where others began like them: at a tenth of the load and with caches of 64,000 tokens, TTFT p90 of agents is
/// two thirds longer by that.
pub(super) const COMING: f64 = 16.0;

/// Share of the endpoints that are taken to be busy at least, for what many requests begin with: a prefix that gets hot
/// would spread over 22 idle endpoints where it needs 13.
const HOT_BUSY: f64 = 0.5;

/// Share of what goes into caches that was pushed out of them before, from which on no copy is an investment.
pub(super) const MAX_LOST: f64 = 0.25;

/// Share of its time that an endpoint can be busy with one beginning, such that others find it free and a burst of
/// requests is done soon: they come at random. At 0.65 documents that become hot suddenly meet 5 % fewer goals.
const BUSY: f64 = 0.5;

/// Answers under way are longer than expected where they have so many times as many tokens already: as many as expected
/// would be usual where lengths are exponential, and half where all are alike.
const LONG: f64 = 2.0;

impl Job {
    /// Tokens of the prompt that must be computed, by what they attend to.
    pub(super) fn effective_tokens(&self) -> f64 {
        effective_tokens(self.prompt, self.cached)
    }

    /// Tokens that its answers attend to on the mean, together.
    pub(super) fn context(&self) -> f64 {
        let outputs = f64::from(self.n_answers) * self.output;
        f64::from(self.n_copies) * self.prompt + outputs / 2.0
    }

    /// Share of the work for its prompt that is done for this request alone, 0 to 1.
    fn own_share(&self) -> f64 {
        let missing = (self.prompt - self.cached).max(1.0);
        let copied = (self.cached_best - self.cached).clamp(0.0, missing) / missing;
        1.0 - copied * self.reuses / (1.0 + self.reuses)
    }

    /// Endpoints that should have the prompt's beginning, where so many requests a second come for it: fewer would be
    /// busy with them for too much of their time. Each takes what its own part of the prompt does, and what its answer
    /// adds to the steps of others. Not rounded.
    ///
    /// Answers to them are written at `written` tokens a second at least: where few answers are very long, those that
    /// have ended say for minutes that all are short.
    pub(super) fn n_needed(&self, per_second: f64, written: f64, pool: &Speed) -> f64 {
        let own = effective_tokens(self.prompt, self.cached_best) * pool.prefill.per_unit;
        let n_answers = f64::from(self.n_answers);
        let attended = (self.context() / n_answers + SEQUENCE_TOKENS) * pool.step.per_unit;
        let written = written.max(per_second * n_answers * self.output);
        (per_second * own + written * attended) / BUSY
    }

    /// What it costs on an endpoint that does not have the prompt's beginning and should: that is `copy` seconds, less
    /// what those to come save, who would pay `with_copy` there instead of `elsewhere`.
    pub(super) fn invested(&self, copy: f64, with_copy: f64, elsewhere: f64) -> f64 {
        let saved = self.reuses * (elsewhere - with_copy).max(0.0);
        if saved > 0.0 { (copy - saved).max(with_copy.min(copy)) } else { copy }
    }
}

impl Pace {
    pub(super) fn add(&mut self, load: &Load) {
        self.n_decoding += load.n_decoding;
        self.per_second += load.n_decoding / load.step();
    }

    /// Tokens a second of so many of the answers there, which began `age` seconds ago on the mean, if they are longer
    /// than was `expected`: until then the rate at which they come says it better, since where a server was overrun
    /// more is written for a while. Less two deviations: how many there are at once is by chance, and a copy that is
    /// made is not taken back.
    pub(super) fn written(&self, n_decoding: f64, age: f64, expected: f64) -> f64 {
        // No number where none is under way.
        let each = self.per_second / self.n_decoding;
        let at_least = n_decoding - 2.0 * n_decoding.sqrt();
        let are_long = age * each > LONG * expected;
        if are_long && at_least > 0.0 { at_least * each } else { 0.0 }
    }
}

impl Cost {
    pub(super) fn total(self) -> f64 {
        self.first_token + self.imposed
    }
}

impl Load {
    /// What it costs to send the request here.
    ///
    /// A prompt delays all whose next token comes after it: in full those that wait or are yet to come, at a lower
    /// weight those that decode, which get their tokens between its chunks. What it copies from other endpoints'
    /// caches serves others, too, and its delay is shared with them. Its answer then makes every step of the others
    /// longer; where one of them ends, another takes its place.
    ///
    /// `typical` is how requests are on the mean.
    pub(super) fn cost(&self, job: &Job, typical: &Typical) -> Cost {
        let tokens = job.effective_tokens();
        let work = tokens * self.prefill.per_unit;
        let wait = self.pending * self.prefill.per_unit;
        let attended = job.context() + f64::from(job.n_answers) * SEQUENCE_TOKENS;
        let longer_steps = job.output * self.step.per_unit * attended;
        let delay = self.decoding_delay();
        let coming = COMING * typical.busy.max(HOT_BUSY * (1.0 - job.own_share()));
        let for_others = (coming + self.behind(typical)) * tokens * self.per_token
            + delay * self.n_decoding * work;
        let is_waste = self.share_taken().max((typical.lost / MAX_LOST).min(1.0));
        let own_share = job.own_share().max(is_waste);
        let by_answer = longer_steps * delay * (self.n_waiting + self.n_decoding);
        Cost {
            first_token: self.prefill.base + self.decoding() + wait + work + self.for_slot(typical),
            imposed: for_others * own_share + by_answer,
        }
    }

    /// How little a copy of a prefix is an investment here, 0 to 1: where few slots are left, those to come wait for
    /// slots, whatever they find cached. With half of the slots free, prompts are what they wait for: hence the fourth
    /// power. Copies that are made just when slots begin to lack start a queue that does not go away: without this,
    /// TTFT p90 is 18 % longer in `wild-tenant` past capacity (`cargo xtask matrix`).
    fn share_taken(&self) -> f64 {
        ((self.n_waiting + self.n_decoding) / self.slots).min(1.0).powi(4)
    }

    /// Requests behind this one, told from those that wait: prompts are computed in the order in which they come, so
    /// that it delays those that come while it waits, and of these there are about as many as wait now.
    ///
    /// They count at the pool's rate, like those of [`COMING`]: each waits longer for it on a slow endpoint, and
    /// fewer come there. At the endpoint's own rate all endpoints would have done a burst at the same moment, and
    /// whoever comes before that would wait for it wherever it goes. In a pool of two kinds that is 5 to 12 % of
    /// TTFT p90; in return two more requests in a hundred, the last of a burst on slow endpoints, take longer than
    /// 5 s (`bursts` in `cargo xtask matrix`).
    ///
    /// They are no more than typical ones that could be computed meanwhile: where what waits is short, it is done
    /// soon, and fewer come before that. Whole prompts count: what is being computed still shares its steps with
    /// what comes. Were all of those that wait counted, TTFT p90 would be 3 % longer in `rag`.
    ///
    /// Where slots lack, they are as many as typical ones that are let in while it waits, few or many that wait now:
    /// by their number, long requests would gather where few long ones wait, and short ones wait elsewhere for slots
    /// that they leave sooner (`wild-tenant` past capacity loses 7 points of goodput by that).
    fn behind(&self, typical: &Typical) -> f64 {
        let (leased, uncached) = (self.leased, typical.uncached.max(1.0));
        let for_slot = self.for_slot(typical);
        if for_slot > 0.0 {
            let each = uncached * self.prefill.per_unit + self.between_ends(typical);
            (leased * self.prefill.per_unit + for_slot) / each
        } else {
            self.n_waiting.min(leased / uncached)
        }
    }

    /// Seconds until as many answers must have ended as have to before one of this request can begin. Those that
    /// wait come before it.
    fn for_slot(&self, typical: &Typical) -> f64 {
        let n_lacking = (self.n_waiting + self.n_decoding + 1.0 - self.slots).max(0.0);
        n_lacking * self.between_ends(typical)
    }

    /// Seconds of decoding from the end of an answer to the next where all slots are taken.
    fn between_ends(&self, typical: &Typical) -> f64 {
        typical.output * self.step() / self.slots
    }

    /// Adds requests that this router did not send, as far as the model server shows them. They are taken to be
    /// like others.
    pub(super) fn add_foreign(&mut self, n_requests: f64, n_waiting: f64, typical: &Typical) {
        let n_waiting = n_waiting.clamp(0.0, n_requests);
        let n_decoding = n_requests - n_waiting;
        self.n_waiting += n_waiting;
        self.pending += n_waiting * typical.uncached;
        self.leased += n_waiting * typical.uncached;
        self.n_decoding += n_decoding;
        self.context += n_decoding * (typical.prompt + typical.output / 2.0);
    }

    /// Seconds of decode steps until a first token: of the one that is under way, half on the mean, and of the one
    /// that computes the last of the prompt, which others share. Were the half left out, it would be taken for prefill,
    /// and where little is left to compute and steps are long, the prefill rate would be believed to be a tenth of
    /// what it is.
    pub(super) fn decoding(&self) -> f64 {
        self.step() * (1.0 + 0.5 * self.n_decoding.min(1.0))
    }

    /// What a second of delay counts for a request whose answer is under way, 0 to 1.
    fn decoding_delay(&self) -> f64 {
        let late = (self.step() / STEP_GOAL).max(1.0);
        (DECODING_DELAY * late * late).min(1.0)
    }

    /// Length of a decode step as it is.
    pub(super) fn step(&self) -> f64 {
        self.step.at(self.context + SEQUENCE_TOKENS * self.n_decoding)
    }
}
