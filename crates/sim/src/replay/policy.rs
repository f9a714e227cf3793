//! Policies to compare with: configuration documents, and the few plugins that only they need.
//!
//! Each follows a rule that others published, named in its [`Preset`] and in its plugin's documentation. Where
//! in-tree plugins do the job, the preset is a document and nothing else. The plugins here are registered by
//! replay alone: they exist to be measured against, and no configuration in production should use them.
//!
//! All of them see what our own policies see: the approximate prefix match, the load that this router counts,
//! the scraped signals with their age. Documents that need uncached tokens and nothing else of the prefix match
//! name its producer: without one, all tokens count as uncached.

pub use router_framework::document::preset::Preset;
use router_framework::{
    PluginDef,
    document::preset::{ESTIMATED_TTFT, GO_DEFAULT},
};

pub mod chwbl;
mod cost;
pub mod dynamo;
pub mod lmetric;
pub mod preble;
pub mod round_robin;
pub mod sample;
pub mod smg;
#[cfg(test)]
mod tests;

/// Plugin types that replay registers beside the in-tree ones.
pub const PLUGINS: &[&PluginDef] = &[
    &round_robin::PLUGIN,
    &sample::PLUGIN,
    &chwbl::PLUGIN,
    &lmetric::PLUGIN,
    &dynamo::PLUGIN,
    &preble::PLUGIN,
    &smg::PLUGIN,
];

/// The policies that replay knows by name.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "round-robin",
        about: "one endpoint after the other (what proxies do where nothing is said)",
        document: include_str!("policy/presets/round-robin.yaml"),
    },
    Preset {
        name: "random",
        about: "any endpoint (what a Kubernetes Service does)",
        document: include_str!("policy/presets/random.yaml"),
    },
    Preset {
        name: "least-requests",
        about: "the fewest requests in flight, counted by the router (Envoy, KubeAI's LeastLoad)",
        document: include_str!("policy/presets/least-requests.yaml"),
    },
    Preset {
        name: "power-of-two",
        about: "the fewer requests in flight of two random endpoints (Mitzenmacher 2001)",
        document: include_str!("policy/presets/power-of-two.yaml"),
    },
    Preset {
        name: "least-tokens",
        about: "the fewest uncached prompt tokens pending, with this request's (llm-d's token-load-scorer)",
        document: include_str!("policy/presets/least-tokens.yaml"),
    },
    ESTIMATED_TTFT,
    GO_DEFAULT,
    Preset {
        name: "sticky",
        about: "where the prefix is until that costs 18 s more (llm-d's prefix-cache-affinity-filter)",
        document: include_str!("policy/presets/sticky.yaml"),
    },
    Preset {
        name: "chwbl",
        about: "consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018; KubeAI)",
        document: include_str!("policy/presets/chwbl.yaml"),
    },
    Preset {
        name: "lmetric",
        about: "new tokens times batch size (LMetric, arXiv 2603.15202)",
        document: include_str!("policy/presets/lmetric.yaml"),
    },
    Preset {
        name: "preble",
        about: "exploit a cached majority, else explore by load, eviction and prefill (Preble, ICLR 2025)",
        document: include_str!("policy/presets/preble.yaml"),
    },
    Preset {
        name: "dynamo",
        about: "prefill blocks that no overlap saves, plus active blocks (NVIDIA Dynamo's KV router)",
        document: include_str!("policy/presets/dynamo.yaml"),
    },
    Preset {
        name: "smg",
        about: "best match while loads are even, else the shortest drain time (SGLang model gateway)",
        document: include_str!("policy/presets/smg.yaml"),
    },
];

/// The preset called `name`.
pub fn preset(name: &str) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| preset.name == name)
}
