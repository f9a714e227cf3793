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
//! | `session` | name of the conversation |
//! | `tenant` | who asks, for fairness |
//! | `priority` | larger is more important, negative may be shed; 0 if not said |
//! | `lora` | the adapter that it asks for |
//! | `observed` | what became of it where it was recorded, with times in seconds from its arrival: `{"endpoint": "ns/name", "ttft": 0.31, "e2e": 4.2, "prompt_tokens": 1210, "cached_tokens": 1000, "status": 200}`; `ttft` and the tokens, which are those that the endpoint counted, may be missing |

use std::{io::BufRead, sync::Arc, time::Duration};

use router_core::Stamp;
use serde::Deserialize;

use super::{Fault, Lines, MAX_BLOCK_TOKENS, MAX_TOKENS, Rows, nanos, within};
use crate::replay::trace::{Observed, Start, TraceRequest};

/// What the first line has and no other format's.
pub(super) const HEADER: &str = "\"llm-d-router-trace\"";
const VERSION: u64 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    #[serde(rename = "llm-d-router-trace")]
    version: u64,
    block_tokens: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    at: Option<f64>,
    after: Option<u64>,
    think: Option<f64>,
    prompt_tokens: u32,
    #[serde(default)]
    output_tokens: u32,
    #[serde(default)]
    blocks: Vec<u64>,
    session: Option<String>,
    tenant: Option<String>,
    #[serde(default)]
    priority: i32,
    lora: Option<String>,
    observed: Option<ObservedRow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ObservedRow {
    endpoint: String,
    ttft: Option<f64>,
    e2e: f64,
    prompt_tokens: Option<u32>,
    cached_tokens: Option<u32>,
    status: u16,
}

pub(super) fn read<R: BufRead>(lines: &mut Lines<R>, rows: &mut Rows) -> Result<(), Fault> {
    let header: Header = lines.json()?;
    within("`llm-d-router-trace`", header.version, VERSION..=VERSION)?;
    within("`block_tokens`", header.block_tokens, 1..=u64::from(MAX_BLOCK_TOKENS))?;
    rows.trace.block_tokens = header.block_tokens as u32;
    let mut latest = Stamp::ORIGIN;
    while !rows.is_full() && lines.next()? {
        let row: Row = lines.json()?;
        let start = start(&row, rows.trace.requests.len())?;
        if let Start::At(at) = start {
            if at < latest {
                let message = format!("`at` goes back: an earlier request has {latest:?}");
                return Err(Fault::Syntax(message));
            }
            latest = at;
        }
        let n_tokens = u64::from(row.prompt_tokens) + u64::from(row.output_tokens);
        let most = n_tokens / header.block_tokens;
        within("the number of `blocks`", row.blocks.len() as u64, 0..=most)?;
        let session = rows.session(row.session)?;
        let mut name = |what, name: Option<String>| -> Result<Option<Arc<str>>, Fault> {
            name.map(|name| rows.name(what, &name)).transpose()
        };
        let (tenant, lora) = (name("tenant", row.tenant)?, name("lora", row.lora)?);
        let observed = row.observed.map(|seen| observed(seen, rows)).transpose()?;
        rows.push(TraceRequest {
            start,
            chain: row.blocks.into(),
            prompt_tokens: row.prompt_tokens,
            output_tokens: row.output_tokens,
            session,
            tenant,
            priority: row.priority,
            lora,
            observed: observed.map(Box::new),
        })?;
    }
    Ok(())
}

fn observed(row: ObservedRow, rows: &mut Rows) -> Result<Observed, Fault> {
    let ObservedRow { endpoint, ttft, e2e, prompt_tokens, cached_tokens, status } = row;
    let endpoint = rows.name("`endpoint`", &endpoint)?;
    let e2e = Duration::from_nanos(nanos("`e2e`", e2e)?);
    let ttft = ttft.map(|ttft| nanos("`ttft`", ttft)).transpose()?.map(Duration::from_nanos);
    if ttft.is_some_and(|ttft| ttft > e2e) {
        return Err(Fault::Syntax("`ttft` is longer than `e2e`".to_owned()));
    }
    let most = prompt_tokens.map_or(MAX_TOKENS, |n_tokens| n_tokens.min(MAX_TOKENS));
    for tokens in [prompt_tokens, cached_tokens].into_iter().flatten() {
        within("the number of tokens in `observed`", u64::from(tokens), 0..=u64::from(most))?;
    }
    within("`status`", u64::from(status), 100..=599)?;
    Ok(Observed { endpoint, ttft, e2e, prompt_tokens, cached_tokens, status })
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
