//! Traces as lines of JSON of our own.
//!
//! The first line says what it is and how many tokens a block has; each further line is a request.
//!
//! ```text
//! {"llm-d-router-trace": 1, "block_tokens": 64}
//! {"at": 0.25, "prompt_tokens": 300, "output_tokens": 80, "blocks": [11, 12, 13, 14, 90], "session": "a"}
//! {"after": 0, "think": 4.5, "prompt_tokens": 420, "output_tokens": 60, "blocks": [11, 12, 13, 14, 90, 91], "session": "a"}
//! {"at": 1.5, "prompt_tokens": 90, "output_tokens": 10, "tenant": "batch", "priority": -1, "lora": "sql"}
//! ```
//!
//! | field | what |
//! | --- | --- |
//! | `at` | seconds from the start; not before that of an earlier line |
//! | `after`, `think` | in place of `at`: so many seconds after the end of an earlier request, which is named by its place, counted from 0 |
//! | `prompt_tokens`, `output_tokens` | lengths; no output means that only the prompt is computed |
//! | `blocks` | ids of the full blocks of the prompt and, where a later turn brings it along, of the answer; equal ids at the start of two lists are equal text. Without it, nothing is like any other request |
//! | `session` | name of the conversation; nothing plays it |
//! | `tenant` | who asks, for fairness |
//! | `priority` | larger is more important, negative may be shed; 0 if not said |
//! | `stream` | `false` for an answer that comes as a whole |
//! | `max_tokens` | the longest answer that it asks for |
//! | `model` | the model that it asks for; nothing plays it |
//! | `lora` | the adapter that it asks for |
//! | `block_tokens` | tokens of one of its `blocks`, where it is not what the first line says |
//! | `observed` | what became of it where it was recorded, with times in seconds from its arrival: `{"endpoint": "ns/name", "dispatched": 0.02, "ttft": 0.31, "e2e": 4.2, "prompt_tokens": 1210, "cached_tokens": 1000, "status": 200}`; `dispatched`, when it was sent to that endpoint, `ttft` and the tokens, which are those that the endpoint counted, may be missing |
//! | `refused` | in a recording, in place of `observed`: why the router refused it, and when; nothing plays it |

//! A recording of live traffic is such a trace too: its first line has `recorded`, its requests stand in the order
//! of their ends and are put into that of their arrivals, and what is in it besides requests is passed over (see
//! [`recording`](crate::replay::recording)).

use std::{io::BufRead, sync::Arc, time::Duration};

use router_core::Stamp;

use super::{
    AFTER_END, CUT_OFF, Fault, Lines, MAX_BLOCK_TOKENS, MAX_TOKENS, Rows, SECOND_RECORDING,
    are_missing, known_version, missing, nanos, short, within,
};
use crate::replay::{
    recording::{EndLine, Header, ObservedRow, Row, is_end, is_header, is_input},
    trace::{Observed, Start, TraceRequest},
};

/// What the first line has and no other format's.
pub(super) const HEADER: &str = "\"llm-d-router-trace\"";
/// The first version of a recording that tells which requests do not stream.
const TELLS_STREAMS: u64 = 3;
const NO_STREAMS: &str = "the recording is of an older version and does not tell which requests streamed: all are \
    taken for streamed";

pub(super) fn read<R: BufRead>(lines: &mut Lines<R>, rows: &mut Rows) -> Result<(), Fault> {
    let header: Header = lines.json()?;
    known_version(header.version)?;
    within("`block_tokens`", header.block_tokens, 1..=u64::from(MAX_BLOCK_TOKENS))?;
    rows.trace.block_tokens = header.block_tokens as u32;
    if header.recorded.is_some() {
        if header.version < TELLS_STREAMS {
            rows.note(NO_STREAMS.to_owned());
        }
        return read_recorded(lines, rows);
    }
    let mut latest = Stamp::ORIGIN;
    while !rows.is_full() && lines.next()? {
        if lines.is_cut_off() {
            rows.note(CUT_OFF.to_owned());
            break;
        }
        let row: Row = lines.json()?;
        if row.prompts.is_some() || row.answers.is_some() {
            let message = "`prompts` and `answers` belong to recordings: give each its own line";
            return Err(Fault::Syntax(message.to_owned()));
        }
        let start = start(&row, rows.trace.requests.len())?;
        if let Start::At(at) = start {
            if at < latest {
                let message = format!("`at` goes back: an earlier request has {latest:?}");
                return Err(Fault::Syntax(message));
            }
            latest = at;
        }
        push(row, start, rows)?;
    }
    Ok(())
}

/// Requests in the order of their ends, between other lines.
fn read_recorded<R: BufRead>(lines: &mut Lines<R>, rows: &mut Rows) -> Result<(), Fault> {
    // Which ones are the first is known when all are there.
    let limit = std::mem::replace(&mut rows.limit, rows.most);
    let mut is_closed = false;
    let mut n_inputs = 0;
    while !rows.is_full() && lines.next()? {
        if lines.is_cut_off() {
            rows.note(CUT_OFF.to_owned());
            break;
        }
        let text = lines.text()?;
        if is_closed {
            return Err(Fault::Syntax(AFTER_END.to_owned()));
        }
        if is_input(text) {
            n_inputs += 1;
            continue;
        }
        if is_header(text) {
            return Err(Fault::Syntax(SECOND_RECORDING.to_owned()));
        }
        if is_end(text) {
            let EndLine { end } = lines.json()?;
            is_closed = true;
            let notes = missing(&end, rows.trace.requests.len() as u64, n_inputs);
            notes.into_iter().for_each(|note| rows.note(note));
            if end.dropped > 0 {
                rows.note(are_missing(end.dropped, "line") + ": the router was busy");
            }
            continue;
        }
        let row: Row = lines.json()?;
        if row.after.is_some() {
            return Err(Fault::Syntax("a recorded request has no `after`".to_owned()));
        }
        let start = start(&row, 0)?;
        push(row, start, rows)?;
    }
    if !is_closed {
        rows.note("the recording was not closed: its last requests may be missing".to_owned());
    }
    rows.sort();
    rows.trace.requests.truncate(limit);
    rows.begin_at_first();
    Ok(())
}

fn push(row: Row, start: Start, rows: &mut Rows) -> Result<(), Fault> {
    let n_tokens = u64::from(row.prompt_tokens) + u64::from(row.output_tokens);
    let block_tokens = row.block_tokens.unwrap_or(u64::from(rows.trace.block_tokens));
    within("`block_tokens`", block_tokens, 1..=u64::from(MAX_BLOCK_TOKENS))?;
    within("the number of `blocks`", row.blocks.len() as u64, 0..=n_tokens / block_tokens)?;
    within("`max_tokens`", row.max_tokens.unwrap_or_default().into(), 0..=u64::from(MAX_TOKENS))?;
    let several = row.prompts.unwrap_or(1).saturating_mul(row.answers.unwrap_or(1));
    within("`prompts` times `answers`", several, 1..=u64::from(u32::MAX))?;
    let blocks = reblocked(row.blocks, block_tokens, u64::from(rows.trace.block_tokens));
    row.session.iter().try_for_each(|session| short("session", session))?;
    let mut name = |what, name: Option<String>| -> Result<Option<Arc<str>>, Fault> {
        name.map(|name| rows.name(what, &name)).transpose()
    };
    let (tenant, lora) = (name("tenant", row.tenant)?, name("lora", row.lora)?);
    let observed = row.observed.map(|seen| observed(seen, rows)).transpose()?;
    rows.push(TraceRequest {
        start,
        chain: blocks.into(),
        prompt_tokens: row.prompt_tokens,
        output_tokens: row.output_tokens,
        tenant,
        priority: row.priority,
        lora,
        streams: row.stream.unwrap_or(true),
        max_output_tokens: row.max_tokens,
        n_sequences: several as u32,
        observed: observed.map(Box::new),
    })
}

/// Blocks of another size as blocks of the trace's: equal chains stay equal, and such with another beginning
/// differ. Sizes of which neither is a multiple of the other have nothing in common.
pub(super) fn reblocked(blocks: Vec<u64>, from: u64, to: u64) -> Vec<u64> {
    if from == to {
        return blocks;
    }
    if to.is_multiple_of(from) {
        let n_in_one = (to / from) as usize;
        return blocks.chunks_exact(n_in_one).filter_map(|ids| ids.last()).copied().collect();
    }
    if from.is_multiple_of(to) {
        let part = |id: u64, at: u64| id ^ (at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        return blocks
            .into_iter()
            .flat_map(|id| (0..from / to).map(move |at| part(id, at)))
            .collect();
    }
    Vec::new()
}

fn observed(row: ObservedRow, rows: &mut Rows) -> Result<Observed, Fault> {
    let ObservedRow { endpoint, dispatched, ttft, e2e, prompt_tokens, cached_tokens, status } = row;
    let endpoint = rows.name("`endpoint`", &endpoint)?;
    let e2e = Duration::from_nanos(nanos("`e2e`", e2e)?);
    let time = |what, seconds: Option<f64>| -> Result<Option<Duration>, Fault> {
        Ok(seconds.map(|seconds| nanos(what, seconds)).transpose()?.map(Duration::from_nanos))
    };
    let (dispatched, ttft) = (time("`dispatched`", dispatched)?, time("`ttft`", ttft)?);
    if ttft.is_some_and(|ttft| ttft > e2e) {
        return Err(Fault::Syntax("`ttft` is longer than `e2e`".to_owned()));
    }
    if dispatched.is_some_and(|dispatched| dispatched > ttft.unwrap_or(e2e)) {
        return Err(Fault::Syntax("`dispatched` comes after the answer".to_owned()));
    }
    let most = prompt_tokens.map_or(MAX_TOKENS, |n_tokens| n_tokens.min(MAX_TOKENS));
    for tokens in [prompt_tokens, cached_tokens].into_iter().flatten() {
        within("the number of tokens in `observed`", u64::from(tokens), 0..=u64::from(most))?;
    }
    within("`status`", u64::from(status), 100..=599)?;
    Ok(Observed { endpoint, dispatched, ttft, e2e, prompt_tokens, cached_tokens, status })
}

fn start(row: &Row, n_before: usize) -> Result<Start, Fault> {
    let wrong = |message: &str| Err(Fault::Syntax(message.to_owned()));
    match (row.at, row.after) {
        (Some(_), Some(_)) => wrong("a request has either `at` or `after`"),
        (None, None) => wrong("a request needs `at` or `after`"),
        (Some(_), None) if row.think.is_some() => wrong("`think` belongs to `after`"),
        (Some(at), None) => Ok(Start::At(Stamp::from_nanos(nanos("`at`", at)?))),
        (None, Some(after)) => {
            let Some(last) = n_before.checked_sub(1) else {
                return wrong("the first request cannot wait for another");
            };
            within("`after`", after, 0..=last as u64)?;
            let think = nanos("`think`", row.think.unwrap_or(0.0))?;
            Ok(Start::After { request: after as u32, think: Duration::from_nanos(think) })
        }
    }
}
