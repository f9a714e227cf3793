//! The request pipeline: parse, admit, choose candidates, produce data, schedule, observe the response.
//!
//! A driver (ext-proc server, embedded proxy, replay) calls [`Router::begin`] with the head of a request
//! and gets a [`BodyFeed`], which takes the body as it comes, and a [`Decision`], a future that ends with
//! where the request goes ([`Routed`]) or why it goes nowhere. A routed request comes with its
//! [`Exchange`], which holds every lease of the request and sees the response go by; dropping it ends the
//! request.
//!
//! The engine knows traits and no plugin, and never sees a socket, an Envoy message or Kubernetes. Time
//! comes from a clock that is handed in, randomness from seeds, so that the very same code replays a trace
//! under a paused clock.

pub mod admission;
pub mod budget;
pub mod datastore;
mod decide;
pub mod exchange;
pub mod explain;
pub mod feed;
pub mod flow;
pub mod health;
mod isolate;
pub mod objectives;
mod observe;
mod pool_metrics;
mod queue;
pub mod record;
pub mod resources;
pub mod rewrites;
pub mod router;
mod scheduler;
pub mod scrape;
pub mod settings;
mod subset;
mod trace;

pub use budget::{BodyBudget, BodyLease};
pub use datastore::Datastore;
pub use exchange::{AttemptFailure, Exchange, ResponseHead};
pub use explain::{DecisionLog, DecisionRecord};
pub use feed::BodyFeed;
pub use objectives::Objectives;
pub use record::{Record, Recorder};
pub use resources::{Pool, PoolChoice, Resources, ResourcesError};
pub use rewrites::{Rewrite, Rewrites};
pub use router::{Again, BodyPlan, Decision, Routed, Router, RouterEnv};
pub use settings::Settings;
