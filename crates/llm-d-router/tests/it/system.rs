//! Whole systems under test: simulated model servers in this process, the router as a child process, and in
//! front of it, where a test asks for that, the real Envoy.
//!
//! `suite!` names the behaviours that hold whatever stands in front; `envoy` and `serve` run it over their
//! own front and add what only they have.
//!
//! | module | what |
//! | --- | --- |
//! | `plan`, `world` | what to start, and what runs |
//! | `document` | configuration documents and the files beside them |
//! | `client`, `load` | a plain HTTP client that says how far an answer came; many of its requests at once |
//! | `picker` | Envoy's side of an ext-proc stream, for tests without Envoy |
//! | `suite` | the behaviours |
//! | `hostile`, `soak` | the endpoint picker against clients that are not Envoy; very many requests |

pub(crate) mod client;
pub(crate) mod document;
pub(crate) mod load;
pub(crate) mod picker;
pub(crate) mod plan;
pub(crate) mod suite;
pub(crate) mod world;

mod hostile;
mod soak;

pub(crate) use plan::{Front, Plan};
pub(crate) use world::World;

/// What a test returns: any error fails it.
pub(crate) type Outcome = anyhow::Result<()>;
