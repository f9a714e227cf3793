//! The bucket sets of `spec/request-path.md` §6, by the names used there.

use crate::metrics::Buckets;

const LATENCY: [f64; 35] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0,
    10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 120.0, 180.0, 240.0, 300.0, 360.0, 480.0, 600.0, 900.0,
    1200.0, 1800.0, 2700.0, 3600.0,
];

/// `32778` is Go's typing slip for 32768; dashboards were made against it.
const RESPONSE_SIZE: [f64; 15] = [
    1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0,
    32778.0, 65536.0,
];

/// LAT: seconds from milliseconds to an hour.
pub(super) fn latency() -> Buckets {
    Buckets::new(LATENCY)
}

/// LAT up to two minutes, for the time to the first token.
pub(super) fn first_token() -> Buckets {
    Buckets::new(LATENCY.into_iter().filter(|bound| *bound <= 120.0))
}

/// SZ: 64 bytes to 1 GiB in powers of two.
pub(super) fn request_size() -> Buckets {
    Buckets::new((0..=24).map(|power| 64.0 * f64::from(1 << power)))
}

/// RSZ, in bytes.
pub(super) fn response_size() -> Buckets {
    Buckets::new(RESPONSE_SIZE)
}

/// TIN: RSZ and on to a million tokens.
pub(super) fn input_tokens() -> Buckets {
    let beyond = [131_072.0, 262_144.0, 524_288.0, 1_048_576.0];
    Buckets::new(RESPONSE_SIZE.into_iter().chain(beyond))
}

/// TOUT: 1, then 8 to 8192 tokens in powers of two.
pub(super) fn output_tokens() -> Buckets {
    Buckets::new([1.0].into_iter().chain((3..=13).map(|power| f64::from(1 << power))))
}

/// US: scheduler and plugin times, 0.1 ms to 0.1 s.
pub(super) fn microseconds() -> Buckets {
    Buckets::new([0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1])
}

/// NT: normalized time per output token.
pub(super) fn time_per_token() -> Buckets {
    Buckets::new([0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0])
}

/// Time per output token of a stream.
pub(super) fn streaming_time_per_token() -> Buckets {
    Buckets::new([
        0.0005, 0.00205, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5,
        0.6, 0.8, 1.0, 2.0,
    ])
}

/// Gaps between the chunks of a stream.
pub(super) fn inter_token() -> Buckets {
    Buckets::new([
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0,
    ])
}

/// From receipt to the replies for a request.
pub(super) fn request_processing() -> Buckets {
    Buckets::new([
        0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.025, 0.04, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
        10.0,
    ])
}

/// Sum of the handling times of a response's chunks.
pub(super) fn response_processing() -> Buckets {
    Buckets::new([
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
        5.0,
    ])
}

/// Life of an ext-proc stream.
pub(super) fn stream() -> Buckets {
    Buckets::new([
        0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    ])
}

/// RATIO: 0.0 to 1.0 in tenths.
pub(super) fn ratio() -> Buckets {
    Buckets::new((0..=10).map(|tenths| f64::from(tenths) / 10.0))
}

/// Matched prefix lengths, in bytes: 0, then 16 to 65536 in powers of two.
pub(super) fn hit_bytes() -> Buckets {
    Buckets::new([0.0].into_iter().chain((4..=16).map(|power| f64::from(1 << power))))
}

/// FCQ: waits in flow control's queues.
pub(super) fn queue_wait() -> Buckets {
    Buckets::new([
        0.0001, 0.0005, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
        60.0,
    ])
}

/// From the order to evict a request to its end.
pub(super) fn revocation_confirmation() -> Buckets {
    Buckets::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}
