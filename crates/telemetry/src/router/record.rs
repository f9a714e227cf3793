//! Families about a recording of live traffic.

use std::sync::Arc;

use crate::metrics::{Counter, Def, Gauge, RegisterError, Registry};

/// Families of a router that records.
#[derive(Clone, Debug)]
pub struct RecordMetrics {
    pub written: Arc<Counter>,
    pub dropped: Arc<Counter>,
    pub bytes: Arc<Gauge>,
    pub is_recording: Arc<Gauge>,
}

impl RecordMetrics {
    pub fn new(registry: &Registry) -> Result<Self, RegisterError> {
        let lines = Def::alpha(
            "llm_d_epp_record_lines_total",
            "Total number of lines of the recording, by result: written, or dropped because the writer was busy.",
            ["result"],
        );
        let lines = registry.counter(lines)?;
        let gauge = |name, help| Ok(registry.gauge(Def::alpha(name, help, []))?.with([]));
        Ok(Self {
            written: lines.with(["written"]),
            dropped: lines.with(["dropped"]),
            bytes: gauge("llm_d_epp_record_bytes", "Length of the recording.")?,
            is_recording: gauge(
                "llm_d_epp_recording",
                "Whether live traffic is being recorded (1) or the recording has ended (0).",
            )?,
        })
    }
}
