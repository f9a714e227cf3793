//! Mooncake's traces: one object per line, arrival in milliseconds, blocks of 512 tokens whose equal ids are
//! equal text after equal text.

use std::io::BufRead;

use router_core::Stamp;
use serde::Deserialize;

use super::{CUT_OFF, Fault, Lines, MAX_SECONDS, Rows, nanos, within};
use crate::replay::trace::{Start, TraceRequest};

const BLOCK_TOKENS: u32 = 512;

#[derive(Deserialize)]
struct Row {
    /// Milliseconds.
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    /// The last one may stand for a part of a block.
    hash_ids: Vec<u64>,
}

pub(super) fn read<R: BufRead>(lines: &mut Lines<R>, rows: &mut Rows) -> Result<(), Fault> {
    rows.trace.block_tokens = BLOCK_TOKENS;
    while !rows.is_full() {
        if lines.is_cut_off() {
            rows.note(CUT_OFF.to_owned());
            break;
        }
        let Row { timestamp, input_length, output_length, mut hash_ids } = lines.json()?;
        let at = nanos("`timestamp`", timestamp / 1e3).map_err(|_| Fault::Range {
            what: "`timestamp`",
            value: timestamp.to_string(),
            range: format!("from 0 to {} milliseconds", MAX_SECONDS * 1e3),
        })?;
        let most = u64::from(input_length.div_ceil(BLOCK_TOKENS));
        within("the number of `hash_ids`", hash_ids.len() as u64, 0..=most)?;
        hash_ids.truncate((input_length / BLOCK_TOKENS) as usize);
        rows.push(TraceRequest {
            start: Start::At(Stamp::from_nanos(at)),
            chain: hash_ids.into(),
            prompt_tokens: input_length,
            output_tokens: output_length,
            tenant: None,
            priority: 0,
            lora: None,
            streams: true,
            max_output_tokens: None,
            n_sequences: 1,
            observed: None,
        })?;
        if rows.is_full() || !lines.next()? {
            break;
        }
    }
    rows.sort();
    Ok(())
}
