//! Synthetic workloads: traces drawn from a seed, for what no recorded trace shows.
//!
//! A workload is a stream of conversations, each of one turn or of many. What its text shares with others is
//! fixed by the workload and equal for all seeds; the seed draws when conversations begin and what each of them
//! says. The n-th conversation says the same at every load.
//!
//! # What a load means
//!
//! Load 1.0 offers exactly the work that the servers can do: the prompt tokens that a perfect cache lacks (one
//! that holds every prefix that any server computed before) and the decode steps of a full batch, added up in
//! server seconds by [`work`], per second and server. It is an estimate and an upper bound: caches are finite,
//! and only one server has a prefix at hand. Where the live conversations fill the caches of the pool several
//! times over, queues grow without end at a load well below 1. The load is the mean over the trace; `bursts` and
//! `diurnal` exceed it at times.
//!
//! Conversations that would have begun before the trace take part with the turns that are left of them, so that
//! the load is there from the first second; what they said before is left out, because no cache has it, so that
//! contexts grow to their full length within the trace. None begins a turn after the trace's end, as far as that
//! can be told without knowing the servers.
//!
//! ```
//! use std::time::Duration;
//! use router_sim::replay::workload::{Spec, Volume, generate};
//!
//! let spec = Spec { seed: 7, duration: Duration::from_secs(60), ..Spec::default() };
//! let at_half = Spec { volume: Volume::Load { load: 0.5, n_servers: 8 }, ..spec.clone() };
//! let light = generate("shared-prompts", &at_half).unwrap();
//! assert!(light.requests.len() < generate("shared-prompts", &spec).unwrap().requests.len());
//! ```

use std::time::Duration;

use super::trace::{MAX_REQUESTS, Trace};
use crate::model::Profile;

mod agents;
mod arrivals;
mod bursts;
mod conversation;
mod diurnal;
mod draw;
mod priorities;
mod rag;
mod sessions;
mod shared_prompts;
#[cfg(test)]
mod tests;
mod wild_tenant;
pub mod work;

pub use self::{
    agents::Agents, bursts::Bursts, diurnal::Diurnal, priorities::Priorities, rag::Rag,
    sessions::Sessions, shared_prompts::SharedPrompts, wild_tenant::WildTenant,
};

/// Tokens of one block of the traces: a multiple of what engines use, so that chains stay short.
pub const BLOCK_TOKENS: u32 = 64;

/// What is to be generated.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Draws the arrivals, and what each conversation says.
    pub seed: u64,
    /// From the first arrival to the last.
    pub duration: Duration,
    pub volume: Volume,
    /// The server that loads are measured in.
    pub profile: Profile,
    /// Only so many requests are written, those of the first conversations.
    pub max_requests: usize,
}

/// How much is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Volume {
    /// A share of what so many servers of the profile can do; see the module's documentation.
    Load { load: f64, n_servers: u32 },
    /// Requests a second, on average.
    Rate(f64),
}

/// One workload by its name.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    pub name: &'static str,
    /// One line that says what it is.
    pub about: &'static str,
    make: fn(&Spec) -> Result<Trace, WorkloadError>,
}

/// Why there is no such trace.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    #[error("there is no workload `{name}`; there are {}", names().join(", "))]
    Unknown { name: String },
    #[error("a load or a rate must be above 0, and a pool must have servers")]
    Volume,
    #[error("the trace would have about {n_requests:.0} requests; {MAX_REQUESTS} is the most")]
    TooManyRequests { n_requests: f64 },
    #[error(
        "about {n_conversations:.0} conversations would be under way or begin; {MAX_REQUESTS} is the most"
    )]
    TooManyConversations { n_conversations: f64 },
}

/// All workloads.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "shared-prompts",
        about: "single questions behind 150 long system prompts, some of them hot",
        make: |spec| SharedPrompts::default().generate(spec),
    },
    Workload {
        name: "sessions",
        about: "chats of many turns with time to think between them",
        make: |spec| Sessions::default().generate(spec),
    },
    Workload {
        name: "agents",
        about: "agents that call tools: long contexts that grow at every step, short pauses",
        make: |spec| Agents::default().generate(spec),
    },
    Workload {
        name: "rag",
        about: "long prompts of shared document chunks in varying order, short answers",
        make: |spec| Rag::default().generate(spec),
    },
    Workload {
        name: "bursts",
        about: "bursts of cold requests over a steady base load",
        make: |spec| Bursts::default().generate(spec),
    },
    Workload {
        name: "diurnal",
        about: "chats whose arrivals rise and fall like a day's",
        make: |spec| Diurnal::default().generate(spec),
    },
    Workload {
        name: "wild-tenant",
        about: "twenty tenants, one of which sends half of all requests",
        make: |spec| WildTenant::default().generate(spec),
    },
    Workload {
        name: "priorities",
        about: "long questions of three priorities; the least important ones are most of them",
        make: |spec| Priorities::default().generate(spec),
    },
];

/// The trace of the workload called `name`.
pub fn generate(name: &str, spec: &Spec) -> Result<Trace, WorkloadError> {
    let workload = WORKLOADS.iter().find(|workload| workload.name == name);
    let unknown = || WorkloadError::Unknown { name: name.to_owned() };
    (workload.ok_or_else(unknown)?.make)(spec)
}

fn names() -> Vec<&'static str> {
    WORKLOADS.iter().map(|workload| workload.name).collect()
}

impl Default for Spec {
    /// Fifteen minutes at load 1.0 on eight servers of the default profile.
    fn default() -> Self {
        Self {
            seed: 1,
            duration: Duration::from_mins(15),
            volume: Volume::Load { load: 1.0, n_servers: 8 },
            profile: Profile::default(),
            max_requests: MAX_REQUESTS,
        }
    }
}
