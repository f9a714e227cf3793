//! Constants on the metrics page, for tests that need an endpoint to look as they say.

use serde::{Deserialize, Serialize};

/// What `/metrics` shows in place of the engine's state. Only these series appear then, together with the cache
/// configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct FakeMetrics {
    /// Requests in the batch.
    pub running_requests: f64,
    /// Requests in the queue.
    pub waiting_requests: f64,
    /// Share of KV blocks in use, 0 to 1; not checked, so that nonsense can be shown.
    pub kv_cache_usage: f64,
    /// Series of `vllm:lora_requests_info`; none means no such series.
    pub loras: Vec<FakeLora>,
}

/// One series of `vllm:lora_requests_info`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct FakeLora {
    /// Adapters in the batch, with commas between them.
    pub running: String,
    /// Adapters in the queue, with commas between them.
    pub waiting: String,
    /// The series' value; 0 means now.
    pub timestamp: f64,
}
