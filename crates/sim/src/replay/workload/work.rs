//! How much work a trace is, in seconds of one server.
//!
//! The estimate takes what [`Profile`] says of costs, a cache that never forgets and is everywhere, and decode
//! steps whose fixed cost is shared by as many requests as the batch and the KV cache hold. It leaves queues,
//! cold servers and preemption out, so that no pool can do more.

use hashbrown::HashSet;

use crate::{
    model::Profile,
    replay::trace::{Trace, TraceRequest},
};

/// Server seconds of some requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// For prompt tokens that are not cached.
    pub prefill_s: f64,
    /// For tokens of the answer.
    pub decode_s: f64,
}

impl Work {
    pub fn total_s(&self) -> f64 {
        self.prefill_s + self.decode_s
    }
}

/// The work of all requests of a trace, in their order. Over the trace's duration and the number of servers it
/// is the load.
pub fn of_trace(trace: &Trace, profile: &Profile) -> Work {
    let mut cache = PerfectCache::default();
    let requests = trace.requests.iter();
    let shapes: Vec<Shape> =
        requests.map(|request| cache.shape_of(request, trace.block_tokens)).collect();
    Server::of(profile, &shapes).work_of(&shapes)
}

/// What a request is to a server that has all that was computed before, in tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    new: f64,
    cached: f64,
    output: f64,
}

/// Costs of one server, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    prefill_base: f64,
    prefill_token: f64,
    prefill_pair: f64,
    /// Per token of an answer: its own cost and its share in the step.
    decode_token: f64,
    decode_context_token: f64,
}

impl Server {
    /// A server of this profile whose batch is made of such requests.
    pub(super) fn of(profile: &Profile, shapes: &[Shape]) -> Self {
        // A long answer is in the batch for longer.
        let weight = |shape: &Shape| shape.output.max(1.0);
        let sum: f64 = shapes.iter().map(|shape| shape.mean_context() * weight(shape)).sum();
        let weights: f64 = shapes.iter().map(weight).sum();
        let room = f64::from(profile.kv_cache_size) * f64::from(profile.block_size);
        let batch =
            (room * weights / sum.max(1.0)).clamp(1.0, f64::from(profile.max_num_seqs.max(1)));
        let seconds = |micros: f64| micros * profile.time_factor / 1e6;
        Self {
            prefill_base: seconds(profile.prefill_base_us),
            prefill_token: seconds(profile.prefill_token_us),
            prefill_pair: seconds(profile.prefill_context_token_us),
            decode_token: seconds(profile.decode_seq_us + profile.step_base_us / batch),
            decode_context_token: seconds(profile.decode_context_token_us),
        }
    }

    pub(super) fn work_of(&self, shapes: &[Shape]) -> Work {
        let mut sum = Work::default();
        for shape in shapes {
            let n_pairs = shape.new * (shape.cached + shape.new / 2.0);
            sum.prefill_s +=
                self.prefill_base + shape.new * self.prefill_token + n_pairs * self.prefill_pair;
            let token = self.decode_token + shape.mean_context() * self.decode_context_token;
            sum.decode_s += shape.output * token;
        }
        sum
    }
}

/// Every block that was computed anywhere before.
#[derive(Debug, Default)]
pub(super) struct PerfectCache(HashSet<u64>);

impl PerfectCache {
    pub(super) fn hold(&mut self, blocks: &[u64]) {
        self.0.extend(blocks.iter().copied());
    }

    /// What the request is now; it is cached from then on.
    pub(super) fn shape_of(&mut self, request: &TraceRequest, block_tokens: u32) -> Shape {
        let n_cached = request.chain.iter().take_while(|block| self.0.contains(*block)).count();
        if let Some(rest) = request.chain.get(n_cached..) {
            self.hold(rest);
        }
        let prompt = f64::from(request.prompt_tokens);
        // The last token of a prompt is always computed.
        let cached = (n_cached as f64 * f64::from(block_tokens)).min(prompt - 1.0).max(0.0);
        let output = f64::from(request.output_tokens);
        Shape { new: prompt - cached, cached, output }
    }
}

impl Shape {
    /// Tokens that a token of the answer attends to.
    fn mean_context(&self) -> f64 {
        self.new + self.cached + self.output / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::trace::Start;

    fn request(chain: &[u64], prompt_tokens: u32, output_tokens: u32) -> TraceRequest {
        TraceRequest {
            start: Start::At(router_core::Stamp::ORIGIN),
            chain: chain.into(),
            prompt_tokens,
            output_tokens,
            tenant: None,
            priority: 0,
            lora: None,
            streams: true,
            max_output_tokens: None,
            n_sequences: 1,
            observed: None,
        }
    }

    #[test]
    fn what_was_computed_anywhere_costs_nothing_again() {
        let profile = Profile { prefill_context_token_us: 0.0, ..Profile::default() };
        let check = |requests: Vec<TraceRequest>, prefill_s: f64| {
            let work = of_trace(&Trace { block_tokens: 64, requests }, &profile);
            assert!((work.prefill_s - prefill_s).abs() < 1e-9, "{work:?}, not {prefill_s}");
        };
        check(vec![request(&[1, 2], 150, 0)], 150.0 * 60e-6);
        check(vec![request(&[1, 2], 150, 0), request(&[1, 2], 150, 0)], (150.0 + 22.0) * 60e-6);
        check(vec![request(&[1, 2], 128, 0), request(&[1, 2], 128, 0)], (128.0 + 1.0) * 60e-6);
        check(vec![request(&[1, 2], 128, 0), request(&[3, 2], 128, 0)], 256.0 * 60e-6);
    }

    #[test]
    fn a_step_is_shared_by_what_the_cache_holds() {
        let profile = Profile { decode_context_token_us: 0.0, ..Profile::default() };
        // 4,000 tokens each: the KV cache of 400,000 holds a hundred of them.
        let trace = Trace { block_tokens: 64, requests: vec![request(&[], 3_950, 100)] };
        let decode_s = of_trace(&trace, &profile).decode_s;
        assert!((decode_s - 100.0 * (15e-6 + 75e-6)).abs() < 1e-9, "{decode_s}");
    }
}
