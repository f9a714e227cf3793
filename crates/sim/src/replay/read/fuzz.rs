//! Fuzz target of the trace readers and of the pool file.

use super::{Format, MAX_TOKENS, inputs::Inputs, read};
use crate::replay::{pool::Pool, trace::Start};

/// Reads any bytes as a trace, the first byte choosing the format; what is read must be playable. The same bytes
/// are read as a recording with inputs and as a pool file.
pub fn fuzz_traces(data: &[u8]) {
    let Some((&choice, rest)) = data.split_first() else { return };
    let format = match choice % 4 {
        0 => None,
        1 => Some(Format::Mooncake),
        2 => Some(Format::Azure),
        _ => Some(Format::Jsonl),
    };
    if let Ok(trace) = read("fuzz", rest, format, 10_000) {
        assert_eq!(trace.check(), Ok(()));
        let mut latest = None;
        for request in &trace.requests {
            assert!(request.prompt_tokens <= MAX_TOKENS && request.output_tokens <= MAX_TOKENS);
            let n_tokens = request.prompt_tokens + request.output_tokens;
            assert!(request.chain.len() as u32 <= n_tokens / trace.block_tokens);
            if let Some(observed) = &request.observed {
                assert!(observed.ttft.is_none_or(|ttft| ttft <= observed.e2e));
                let most = observed.prompt_tokens.unwrap_or(MAX_TOKENS);
                assert!(observed.cached_tokens.is_none_or(|n| n <= most));
            }
            if let Start::At(at) = request.start {
                assert!(latest <= Some(at), "times in order");
                latest = Some(at);
            }
        }
    }
    if let Ok(mut inputs) = Inputs::open("fuzz", rest) {
        while let Ok(Some((line, _))) = inputs.read_next() {
            assert!(line > 1);
        }
    }
    if let Ok(pool) = Pool::parse("fuzz", rest) {
        assert!(!pool.servers.is_empty());
        assert!(pool.events.is_sorted_by_key(|event| event.at));
        assert!(pool.events.iter().all(|event| event.server < pool.servers.len()));
    }
}
