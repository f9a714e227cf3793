//! From conversations to a trace.

use std::{mem, sync::Arc, time::Duration};

use router_core::Stamp;
use router_rt::{Rng, Seeds};

use super::{
    BLOCK_TOKENS, Spec, Volume, WorkloadError,
    arrivals::{self, Arrival, Window},
    draw::{OwnBlocks, Text},
    work::{PerfectCache, Server},
};
use crate::replay::trace::{MAX_REQUESTS, Start, Trace, TraceRequest};

/// Conversations that warm the cache before the mean work of one is taken.
const N_WARMING: usize = 300;
/// Conversations and requests from which it is taken, at least.
const MIN_CONVERSATIONS: f64 = 500.0;
const MIN_REQUESTS: usize = 3_000;
/// The seed of the calibration: one load is one rate, whatever the seed of the trace.
const CALIBRATION_SEED: u64 = 0x10ad;
/// From sending a request to its first token, and then per token, where a trace must guess how long a turn
/// takes: a server that is busy and not late.
const FIRST_TOKEN_S: f64 = 0.5;
const OUTPUT_TOKEN_S: f64 = 0.025;

/// A kind of conversation.
pub(super) trait Source {
    /// What conversations share; the same for every seed.
    type World;

    /// Name of its random draws.
    const NAME: &'static str;

    fn world(&self, rng: &mut Rng) -> Self::World;

    /// Texts of the world; a calibrated server has them all cached.
    fn texts<'a>(&self, world: &'a Self::World) -> Vec<&'a Text>;

    fn conversation(&self, world: &Self::World, is_of_burst: bool, rng: &mut Rng) -> Conversation;

    /// When conversations begin, `rate` of them a second on average.
    fn arrivals(&self, rate: f64, window: Window, rng: &mut Rng) -> Vec<Arrival> {
        arrivals::steady(rate, window, rng)
    }
}

/// One conversation: a single request, or turn after turn.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    /// What it begins with.
    pub(super) head: Text,
    pub(super) turns: Vec<Turn>,
    pub(super) tenant: Option<Arc<str>>,
    pub(super) priority: i32,
}

/// One request of a conversation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// From the end of the answer before it; without meaning for the first turn.
    pub(super) think: Duration,
    /// Tokens that nobody said before, behind all that was said in the conversation.
    pub(super) new_tokens: u32,
    pub(super) output_tokens: u32,
}

/// What a conversation means on average.
#[derive(Clone, Copy, Debug, Default)]
struct Calibration {
    n_requests: f64,
    /// In seconds of one server.
    work_s: f64,
    /// The longest of the sample.
    longest_s: f64,
}

/// The trace of a source.
pub(super) fn trace<S: Source>(source: &S, spec: &Spec) -> Result<Trace, WorkloadError> {
    let world = source.world(&mut family(CALIBRATION_SEED, S::NAME, "world").rng(0));
    let calibration = calibrate(source, &world, spec);
    let rate = match spec.volume {
        Volume::Load { load, n_servers } => load * f64::from(n_servers) / calibration.work_s,
        Volume::Rate(rate) => rate / calibration.n_requests,
    };
    if !rate.is_finite() || rate <= 0.0 {
        return Err(WorkloadError::Volume);
    }
    let window = Window { from_s: -calibration.longest_s, until_s: spec.duration.as_secs_f64() };
    let max_requests = spec.max_requests.min(MAX_REQUESTS);
    // As many turns come of conversations that began before the trace as the others have after it.
    let n_requests = rate * window.until_s * calibration.n_requests;
    if n_requests > MAX_REQUESTS as f64 && max_requests == MAX_REQUESTS {
        return Err(WorkloadError::TooManyRequests { n_requests });
    }
    let n_conversations = rate * (window.until_s - window.from_s);
    if n_conversations > MAX_REQUESTS as f64 {
        return Err(WorkloadError::TooManyConversations { n_conversations });
    }
    let mut arrivals =
        source.arrivals(rate, window, &mut family(spec.seed, S::NAME, "arrivals").rng(0));
    arrivals.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    let conversations = family(spec.seed, S::NAME, "conversations");
    let begin = |(arrival, number): (&Arrival, u64)| {
        let mut rng = conversations.rng(number);
        let conversation = source.conversation(&world, arrival.is_of_burst, &mut rng);
        within(conversation, arrival.at_s, window.until_s)
    };
    let n_under_way = arrivals.partition_point(|arrival| arrival.at_s < 0.0);
    let mut numbered = arrivals.iter().zip(0..);
    let mut under_way: Vec<_> = numbered.by_ref().take(n_under_way).filter_map(begin).collect();
    under_way.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut writer = Writer::new();
    for (at_s, conversation) in in_order(under_way, numbered.filter_map(begin)) {
        if writer.trace.requests.len() >= max_requests {
            break;
        }
        writer.write(at_s, &conversation);
    }
    writer.trace.requests.truncate(max_requests);
    Ok(writer.trace)
}

fn family(seed: u64, source: &str, what: &str) -> Seeds {
    Seeds::new(seed).family(source).family(what)
}

fn calibrate<S: Source>(source: &S, world: &S::World, spec: &Spec) -> Calibration {
    let conversations = family(CALIBRATION_SEED, S::NAME, "conversations");
    // One conversation a second: a trace of the kinds in their proportion.
    let window = Window { from_s: 0.0, until_s: (N_WARMING + MIN_REQUESTS) as f64 };
    let mut rng = family(CALIBRATION_SEED, S::NAME, "arrivals").rng(0);
    let arrivals = source.arrivals(1.0, window, &mut rng);
    let mut cache = PerfectCache::default();
    source.texts(world).into_iter().for_each(|text| cache.hold(&text.blocks));
    let (mut writer, mut longest_s) = (Writer::new(), 0.0f64);
    let (mut shapes, mut n_conversations) = (Vec::new(), 0.0f64);
    for (arrival, number) in arrivals.iter().zip(0..) {
        let mut rng = conversations.rng(number);
        let conversation = source.conversation(world, arrival.is_of_burst, &mut rng);
        longest_s = longest_s.max(conversation.turns.iter().map(Turn::seconds).sum());
        writer.write(0.0, &conversation);
        let requests = writer.trace.requests.drain(..);
        let now = requests.map(|request| cache.shape_of(&request, BLOCK_TOKENS));
        if (number as usize) < N_WARMING {
            now.for_each(drop);
            continue;
        }
        shapes.extend(now);
        n_conversations += 1.0;
        if n_conversations >= MIN_CONVERSATIONS && shapes.len() >= MIN_REQUESTS {
            break;
        }
    }
    let n_conversations = n_conversations.max(1.0);
    Calibration {
        n_requests: shapes.len() as f64 / n_conversations,
        work_s: Server::of(&spec.profile, &shapes).work_of(&shapes).total_s() / n_conversations,
        longest_s,
    }
}

/// The turns that probably begin within the trace, and when the first of them does. Of a conversation that is
/// under way when the trace starts, what was said before is left out: the caches are cold then, and all of it
/// would have to be computed at once.
fn within(mut conversation: Conversation, at_s: f64, until_s: f64) -> Option<(f64, Conversation)> {
    let (mut now_s, mut first_s) = (at_s, None);
    let turns = mem::take(&mut conversation.turns);
    for (number, turn) in turns.into_iter().enumerate() {
        if number > 0 {
            now_s += turn.think.as_secs_f64();
        }
        if (0.0..until_s).contains(&now_s) {
            first_s.get_or_insert(now_s);
            conversation.turns.push(turn);
        }
        now_s += turn.answer_s();
    }
    Some((first_s?, conversation))
}

/// All conversations by when their first turn within the trace begins, of two lists in this order. Those that begin
/// within the trace are drawn when they are asked for.
fn in_order(
    under_way: Vec<(f64, Conversation)>,
    later: impl Iterator<Item = (f64, Conversation)>,
) -> impl Iterator<Item = (f64, Conversation)> {
    let (mut under_way, mut later) = (under_way.into_iter().peekable(), later.peekable());
    std::iter::from_fn(move || match (under_way.peek(), later.peek()) {
        (Some((first, _)), Some((second, _))) if second < first => later.next(),
        (Some(_), _) => under_way.next(),
        (None, _) => later.next(),
    })
}

impl Turn {
    fn answer_s(&self) -> f64 {
        FIRST_TOKEN_S + f64::from(self.output_tokens) * OUTPUT_TOKEN_S
    }

    fn seconds(&self) -> f64 {
        self.think.as_secs_f64() + self.answer_s()
    }
}

/// Writes conversations one after the other.
struct Writer {
    trace: Trace,
    blocks: OwnBlocks,
}

impl Writer {
    fn new() -> Self {
        let trace = Trace { block_tokens: BLOCK_TOKENS, requests: Vec::new() };
        Self { trace, blocks: OwnBlocks::new() }
    }

    fn write(&mut self, at_s: f64, conversation: &Conversation) {
        let mut chain = conversation.head.blocks.to_vec();
        let mut n_tokens = conversation.head.n_tokens;
        for (number, turn) in conversation.turns.iter().enumerate() {
            let before = self.trace.requests.len().checked_sub(1);
            let start = match before.filter(|_| number > 0) {
                Some(request) => Start::After { request: request as u32, think: turn.think },
                None => Start::At(Stamp::ORIGIN + Duration::from_secs_f64(at_s.max(0.0))),
            };
            let prompt_tokens = (n_tokens + turn.new_tokens).max(1);
            n_tokens = prompt_tokens + turn.output_tokens;
            while (chain.len() as u32) < n_tokens / BLOCK_TOKENS {
                chain.push(self.blocks.next());
            }
            self.trace.requests.push(TraceRequest {
                start,
                chain: chain.as_slice().into(),
                prompt_tokens,
                output_tokens: turn.output_tokens,
                tenant: conversation.tenant.clone(),
                priority: conversation.priority,
                lora: None,
                streams: true,
                max_output_tokens: None,
                n_sequences: 1,
                observed: None,
            });
        }
    }
}
