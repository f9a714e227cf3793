//! What a recorded trace says of each endpoint: its requests in the order of arrival, with what they took.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use hashbrown::HashSet;
use router_core::Stamp;
use router_framework::keys::PromptBlocks;

use super::{FitError, LeftOut, MAX_ENDPOINTS, Waits, solve::quantile};
use crate::{
    model::{AdapterId, BlockHash},
    replay::trace::{Observed, Start, Trace, TraceRequest},
};

/// An answer of two tokens or more whose first byte came later than this share of its time, and whose tokens
/// took less than [`MIN_TOKEN_S`] each, was not streamed: its first byte says nothing of its first token.
const STREAMED_SHARE: f64 = 0.02;
/// No engine generates the tokens of one sequence faster.
const MIN_TOKEN_S: f64 = 0.2e-3;
/// Shorter times than this count as this, so that ratios stay finite, in seconds.
pub(super) const MIN_SECONDS: f64 = 1e-6;

/// One endpoint's requests.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) name: Arc<str>,
    /// In the order of arrival.
    pub(super) samples: Vec<Sample>,
    /// How many of them, from the first on, arrived in the part that is fitted to; the rest judges.
    pub(super) n_train: usize,
}

/// One request that an endpoint answered.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// At the endpoint, where the record says when it was sent there; else at the router.
    pub(super) arrived: Stamp,
    pub(super) prompt: u32,
    pub(super) output: u32,
    pub(super) chain: Box<[BlockHash]>,
    pub(super) adapter: Option<AdapterId>,
    /// Seconds to the first token, where the answer was streamed or has one token at most.
    pub(super) ttft: Option<f64>,
    /// Seconds to the end.
    pub(super) e2e: f64,
    pub(super) cached: Option<u32>,
    /// Whether all that was found cached can have come from earlier requests of the trace. What the endpoint
    /// had cached before the recording began cannot be played.
    pub(super) is_foreseeable: bool,
    /// Prompt tokens that a cache of any size would have found.
    pub(super) could_hit: u32,
    /// Whether its first token came before the part that judges, and whether its end did. What comes later
    /// depends on requests that are not fitted to.
    pub(super) first_is_fitted: bool,
    pub(super) end_is_fitted: bool,
}

impl Sample {
    /// Seconds from the origin.
    pub(super) fn begins(&self) -> f64 {
        self.arrived.as_nanos() as f64 / 1e9
    }

    pub(super) fn ends(&self) -> f64 {
        self.begins() + self.e2e
    }

    /// When its first token came, where that is known.
    pub(super) fn first_token(&self) -> Option<f64> {
        Some(self.begins() + self.ttft?)
    }

    /// Tokens after the first, and the seconds that they took together.
    pub(super) fn decode(&self) -> Option<(f64, f64)> {
        let n_gaps = self.output.checked_sub(1).filter(|&n| n > 0)?;
        let seconds = self.e2e - self.ttft?;
        (seconds >= MIN_SECONDS).then_some((f64::from(n_gaps), seconds))
    }

    /// Prompt tokens that were computed.
    pub(super) fn computed(&self) -> f64 {
        f64::from(self.prompt - self.cached.unwrap_or(self.could_hit).min(self.prompt - 1))
    }

    /// Pairs of a computed prompt token and an earlier token.
    pub(super) fn pairs(&self) -> f64 {
        let computed = self.computed();
        computed * (f64::from(self.prompt) - computed) + computed * (computed - 1.0) / 2.0
    }
}

/// All that can be used of a trace.
#[derive(Debug)]
pub(super) struct Samples {
    /// In the order of their names.
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) block_tokens: u32,
    pub(super) left_out: LeftOut,
    /// How long requests waited in the router, the median and the longest, where the record says it.
    pub(super) waits: Waits,
    /// Tokens of prompts as the trace counts them, for one as the endpoints do.
    pub(super) token_ratio: Option<f64>,
    /// Where the part that judges begins.
    pub(super) split: Stamp,
    pub(super) last: Stamp,
}

impl Samples {
    /// Takes the requests that were answered; those that arrive in the first `train_share` of the time may be
    /// fitted to.
    pub(super) fn of(trace: &Trace, train_share: f64) -> Result<Self, FitError> {
        let arrivals = arrivals(trace);
        let mut left_out = LeftOut::default();
        let mut by_name: BTreeMap<Arc<str>, Vec<Sample>> = BTreeMap::new();
        let mut adapters: BTreeMap<&str, AdapterId> = BTreeMap::new();
        let mut waits = WaitsSoFar::default();
        for (request, arrived) in trace.requests.iter().zip(arrivals) {
            let Some(observed) = &request.observed else {
                left_out.not_observed += 1;
                continue;
            };
            let Some(arrived) = arrived else {
                left_out.no_arrival += 1;
                continue;
            };
            if !observed.is_answered() || observed.e2e.is_zero() {
                left_out.failed += 1;
                continue;
            }
            if request.n_sequences > 1 {
                left_out.several += 1;
                continue;
            }
            let adapter = request.lora.as_deref().map(|lora| {
                let next = AdapterId(adapters.len() as u32);
                *adapters.entry(lora).or_insert(next)
            });
            waits.note(observed.dispatched);
            let samples = by_name.entry(Arc::clone(&observed.endpoint)).or_default();
            let sample = sample(request, observed, arrived, trace.block_tokens, adapter);
            left_out.no_first_token += usize::from(sample.ttft.is_none());
            samples.push(sample);
        }
        if left_out.not_observed == trace.requests.len() {
            return Err(FitError::NothingObserved { n_requests: trace.requests.len() });
        }
        if by_name.len() > MAX_ENDPOINTS {
            return Err(FitError::TooManyEndpoints { n_endpoints: by_name.len() });
        }
        let all = || by_name.values().flatten().map(|sample| sample.arrived);
        let (first, last) = (all().min(), all().max());
        let (first, last) = (first.unwrap_or(Stamp::ORIGIN), last.unwrap_or(Stamp::ORIGIN));
        let split = first + last.since(first).mul_f64(train_share.clamp(0.0, 1.0));
        let endpoints = by_name
            .into_iter()
            .map(|(name, samples)| endpoint(name, samples, split, trace.block_tokens))
            .collect();
        Ok(Self {
            endpoints,
            block_tokens: trace.block_tokens,
            left_out,
            waits: waits.into_waits(),
            token_ratio: token_ratio(trace),
            split,
            last,
        })
    }
}

/// Waits in the router.
#[derive(Default)]
struct WaitsSoFar {
    seconds: Vec<f64>,
    n_unknown: usize,
}

impl WaitsSoFar {
    fn note(&mut self, dispatched: Option<Duration>) {
        match dispatched {
            Some(dispatched) => self.seconds.push(dispatched.as_secs_f64()),
            None => self.n_unknown += 1,
        }
    }

    fn into_waits(self) -> Waits {
        let of =
            |share| Duration::from_secs_f64(quantile(self.seconds.clone(), share).unwrap_or(0.0));
        Waits { median: of(0.5), most: of(1.0), n_unknown: self.n_unknown }
    }
}

fn token_ratio(trace: &Trace) -> Option<f64> {
    let single = trace.requests.iter().filter(|request| request.n_sequences == 1);
    let ratios = single.filter_map(|request| {
        let counted = request.observed.as_ref()?.prompt_tokens.filter(|&counted| counted > 0)?;
        Some(f64::from(request.prompt_tokens) / f64::from(counted))
    });
    quantile(ratios.collect(), 0.5)
}

fn endpoint(name: Arc<str>, mut samples: Vec<Sample>, split: Stamp, block_tokens: u32) -> Endpoint {
    samples.sort_by_key(|sample| sample.arrived);
    let fitted_until = split.as_nanos() as f64 / 1e9;
    for sample in &mut samples {
        sample.first_is_fitted = sample.first_token().is_some_and(|at| at <= fitted_until);
        sample.end_is_fitted = sample.ends() <= fitted_until;
    }
    foresee(&mut samples, block_tokens);
    let n_train = samples.partition_point(|sample| sample.arrived < split);
    Endpoint { name, samples, n_train }
}

/// Marks which cached tokens a playing of these samples can come to.
pub(super) fn foresee(samples: &mut [Sample], block_tokens: u32) {
    let mut known: HashSet<u64> = HashSet::new();
    for sample in samples {
        let n_known = sample.chain.iter().take_while(|hash| known.contains(&hash.0)).count();
        known.extend(sample.chain.iter().skip(n_known).map(|hash| hash.0));
        let hit = (n_known as u64 * u64::from(block_tokens)).min(u64::from(sample.prompt - 1));
        sample.could_hit = hit as u32;
        // Blocks of the endpoint may be smaller than those of the trace.
        let most = sample.could_hit.saturating_add(block_tokens);
        sample.is_foreseeable = sample.cached.is_none_or(|cached| cached < most);
    }
}

/// When each request arrived; `None` where it waited for one of which nothing is known.
fn arrivals(trace: &Trace) -> Vec<Option<Stamp>> {
    let mut arrivals: Vec<Option<Stamp>> = Vec::with_capacity(trace.requests.len());
    for request in &trace.requests {
        let arrival = match request.start {
            Start::At(at) => Some(at),
            Start::After { request: before, think } => {
                let ended = |at: Stamp| {
                    let before = trace.requests.get(before as usize)?;
                    Some(at + before.observed.as_ref()?.e2e + think)
                };
                arrivals.get(before as usize).copied().flatten().and_then(ended)
            }
        };
        arrivals.push(arrival);
    }
    arrivals
}

fn sample(
    request: &TraceRequest,
    observed: &Observed,
    arrived: Stamp,
    block_tokens: u32,
    adapter: Option<AdapterId>,
) -> Sample {
    let blocks = PromptBlocks::from_block_ids(&request.chain, block_tokens.max(1), 0);
    // What the router kept a request for is no time of the server's.
    let waited = observed.dispatched.unwrap_or_default();
    let e2e = observed.e2e.saturating_sub(waited).as_secs_f64().max(MIN_SECONDS);
    let ttft = observed.ttft.map(|ttft| ttft.saturating_sub(waited).as_secs_f64());
    let ttft = ttft.map(|ttft| ttft.clamp(MIN_SECONDS, e2e));
    let prompt = request.prompt_tokens.max(1);
    Sample {
        arrived: arrived + waited,
        prompt,
        output: request.output_tokens,
        chain: blocks.hashes.iter().map(|hash| BlockHash(hash.0)).collect(),
        adapter,
        ttft: if request.output_tokens > 1 {
            ttft.filter(|ttft| is_streamed(*ttft, e2e, request.output_tokens))
        } else {
            Some(ttft.unwrap_or(e2e))
        },
        e2e,
        cached: observed
            .cached_tokens
            .map(|cached| in_tokens_of_the_trace(cached, observed, prompt)),
        is_foreseeable: true,
        could_hit: 0,
        first_is_fitted: false,
        end_is_fitted: false,
    }
}

/// What the endpoint counted, in the router's tokens: those of prompts and blocks, which will be played.
fn in_tokens_of_the_trace(cached: u32, observed: &Observed, prompt: u32) -> u32 {
    let counted = observed.prompt_tokens.filter(|&counted| counted > 0).unwrap_or(prompt);
    let scaled = f64::from(cached) * f64::from(prompt) / f64::from(counted);
    (scaled.round() as u32).min(prompt)
}

fn is_streamed(ttft: f64, e2e: f64, output: u32) -> bool {
    let rest = e2e - ttft;
    rest >= STREAMED_SHARE * e2e || rest >= MIN_TOKEN_S * f64::from(output - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn request(start: Start, chain: &[u64], observed: Option<Observed>) -> TraceRequest {
        TraceRequest {
            start,
            chain: chain.into(),
            prompt_tokens: 64,
            output_tokens: 11,
            tenant: None,
            priority: 0,
            lora: None,
            streams: true,
            max_output_tokens: None,
            n_sequences: 1,
            observed: observed.map(Box::new),
        }
    }

    fn observed(endpoint: &str, ttft_ms: u32, e2e_ms: u32) -> Observed {
        Observed {
            endpoint: endpoint.into(),
            dispatched: None,
            ttft: Some(ttft_ms * MS),
            e2e: e2e_ms * MS,
            prompt_tokens: None,
            cached_tokens: None,
            status: 200,
        }
    }

    fn at(ms: u32) -> Start {
        Start::At(Stamp::ORIGIN + ms * MS)
    }

    fn samples(requests: Vec<TraceRequest>) -> Result<Samples, FitError> {
        Samples::of(&Trace { block_tokens: 16, requests }, 0.5)
    }

    #[test]
    fn requests_are_told_apart_by_endpoint_and_time() {
        let next = Start::After { request: 0, think: 500 * MS };
        let unknown = Start::After { request: 3, think: 500 * MS };
        let read = samples(vec![
            request(at(0), &[], Some(observed("b", 50, 300))),
            request(at(100), &[], Some(observed("a", 50, 300))),
            request(next, &[], Some(observed("b", 50, 300))),
            request(at(200), &[], None),
            request(unknown, &[], Some(observed("b", 50, 300))),
            request(at(300), &[], Some(Observed { status: 503, ..observed("b", 50, 300) })),
        ])
        .unwrap();
        let names: Vec<_> = read.endpoints.iter().map(|endpoint| &*endpoint.name).collect();
        assert_eq!(names, ["a", "b"]);
        let of_b: Vec<_> = read.endpoints[1].samples.iter().map(|one| one.begins()).collect();
        assert_eq!((of_b, read.endpoints[1].n_train), (vec![0.0, 0.8], 1));
        let left_out = LeftOut { not_observed: 1, no_arrival: 1, failed: 1, ..LeftOut::default() };
        assert_eq!(read.left_out, left_out);
    }

    #[test]
    fn times_count_from_when_a_request_was_sent_to_its_endpoint() {
        let waited = |ms: u32, seen| Observed { dispatched: Some(ms * MS), ..seen };
        let read = samples(vec![
            request(at(0), &[], Some(waited(900, observed("a", 950, 1_200)))),
            request(at(100), &[], Some(waited(0, observed("a", 50, 300)))),
            request(at(200), &[], Some(observed("a", 50, 300))),
            request(at(300), &[], Some(waited(100, observed("a", 150, 400)))),
        ])
        .unwrap();
        let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
        let of_a = &read.endpoints[0].samples;
        let begins: Vec<_> = of_a.iter().map(Sample::begins).collect();
        assert_eq!(begins, [0.1, 0.2, 0.4, 0.9], "in the order in which the endpoint got them");
        let is_alike = |s: &Sample| close(s.ttft.unwrap(), 0.05) && close(s.e2e, 0.3);
        assert!(of_a.iter().all(is_alike), "{of_a:?}");
        let expected = Waits { median: 100 * MS, most: 900 * MS, n_unknown: 1 };
        assert_eq!(read.waits, expected);
    }

    #[test]
    fn what_was_not_streamed_has_no_first_token() {
        let check = |ttft_ms, e2e_ms, expected: Option<f64>| {
            let read = samples(vec![request(at(0), &[], Some(observed("a", ttft_ms, e2e_ms)))]);
            assert_eq!(read.unwrap().endpoints[0].samples[0].ttft, expected);
        };
        check(50, 300, Some(0.05));
        check(300, 300, None);
        check(299, 300, None);
        // A long wait, and then ten tokens as fast as an engine can.
        check(90_000, 90_060, Some(90.0));
    }

    #[test]
    fn what_one_sequence_cannot_stand_for_is_left_out() {
        let of =
            |n_sequences, seen| TraceRequest { n_sequences, ..request(at(0), &[1], Some(seen)) };
        let read = samples(vec![
            of(1, observed("a", 50, 300)),
            of(4, observed("a", 50, 1_200)),
            of(1, Observed { ttft: None, ..observed("a", 0, 300) }),
            of(2, Observed { prompt_tokens: Some(7), ..observed("b", 50, 300) }),
        ])
        .unwrap();
        let left_out = LeftOut { several: 2, no_first_token: 1, ..LeftOut::default() };
        assert_eq!((read.left_out, read.endpoints.len()), (left_out, 1));
        assert_eq!((read.endpoints[0].samples.len(), read.token_ratio), (2, None));
    }

    #[test]
    fn a_cache_that_was_warm_before_cannot_be_foreseen() {
        let cached = |tokens| Observed { cached_tokens: Some(tokens), ..observed("a", 50, 300) };
        let read = samples(vec![
            request(at(0), &[1, 2, 3, 4], Some(cached(48))),
            request(at(10), &[1, 2, 9, 4], Some(cached(32))),
            request(at(20), &[1, 2, 3, 4], Some(cached(63))),
        ])
        .unwrap();
        let told = |sample: &Sample| (sample.could_hit, sample.is_foreseeable);
        let told: Vec<_> = read.endpoints[0].samples.iter().map(told).collect();
        assert_eq!(told, [(0, false), (32, true), (63, true)]);
    }

    #[test]
    fn without_times_there_is_nothing_to_fit() {
        let error = samples(vec![request(at(0), &[], None)]).unwrap_err();
        assert!(matches!(error, FitError::NothingObserved { n_requests: 1 }), "{error}");
    }
}
