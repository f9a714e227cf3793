//! Scorers: they rate each candidate from 0 (worst) to 1 (best).

pub mod active_request;
pub mod estimated_ttft;
pub mod kv_cache_utilization;
pub mod load_aware;
pub mod lora_affinity;
pub mod no_hit_lru;
pub mod prefix_cache;
pub mod queue;
pub mod running_requests;
pub mod token_load;
