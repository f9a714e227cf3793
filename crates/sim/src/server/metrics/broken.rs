//! Pages that no scraper wants, made without holding them in memory.

use std::fmt::Write as _;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use router_net::{Body, BoxError, body::boxed};
use router_rt::Rng;

const CHUNK_BYTES: usize = 64 << 10;
const HUGE_BYTES: usize = 50 << 20;
const GARBAGE_BYTES: usize = 4 << 10;

/// Series that nobody asks for, one chunk full.
fn filler() -> Bytes {
    let mut text = String::with_capacity(CHUNK_BYTES + 128);
    let mut nth = 0;
    while text.len() < CHUNK_BYTES {
        writeln!(text, "sim:filler_total{{engine=\"0\",nth=\"{nth}\"}} {nth}.0")
            .unwrap_or_default();
        nth += 1;
    }
    text.into()
}

/// A page of valid lines that goes on until the client leaves.
pub(crate) fn endless() -> Body {
    streamed(stream::repeat(filler()))
}

/// The true page after 50 MB of others.
pub(crate) fn huge(page: String) -> Body {
    let before = stream::repeat(filler()).take(HUGE_BYTES / CHUNK_BYTES);
    streamed(before.chain(stream::iter([Bytes::from(page)])))
}

/// Bytes that are no text.
pub(crate) fn garbage(rng: &mut Rng) -> Vec<u8> {
    (0..GARBAGE_BYTES / 8).flat_map(|_| rng.next_u64().to_le_bytes()).collect()
}

fn streamed(chunks: impl stream::Stream<Item = Bytes> + Send + 'static) -> Body {
    boxed(StreamBody::new(chunks.map(|chunk| Ok::<_, BoxError>(Frame::data(chunk)))))
}
