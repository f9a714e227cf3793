//! The words of the domain, as types.
//!
//! Everything above this crate speaks in terms of an [`Endpoint`] (one address of a model server), the
//! [`Pool`] that holds the endpoints alive at one moment, the [`Candidates`] of one request, and a
//! [`Column`] of values with one slot per candidate. Errors that end a request are a [`Rejection`] with an
//! [`ErrorCode`], which alone decides the HTTP status.
//!
//! The crate does no I/O, spawns nothing, reads no clock (time is a [`Stamp`] that is handed in) and knows
//! no plugin, no wire format and no proxy.
//!
//! ```
//! use router_core::{Candidates, EndpointSpec, Pool};
//!
//! let pool = Pool::new(0);
//! pool.update(|edit| {
//!     edit.upsert(EndpointSpec::new("default", "vllm-0", "10.0.0.1", 8000));
//! });
//! let candidates = Candidates::all(pool.snapshot());
//! let (_position, endpoint) = candidates.iter().next().unwrap();
//! assert_eq!(endpoint.authority(), "10.0.0.1:8000");
//! ```

pub mod candidates;
pub mod endpoint;
pub mod error;
pub mod header;
pub mod pool;
pub mod signals;
pub mod slots;
pub mod time;

pub use candidates::{Candidates, Column, Position};
pub use endpoint::{Endpoint, EndpointIndex, EndpointSpec, EndpointState, Labels, Scheme};
pub use error::{DropReason, ErrorCode, Fault, Rejection};
pub use pool::{Pool, PoolDelta, PoolEdit, PoolSnapshot};
pub use signals::{LoraSignals, SignalCell, Signals};
pub use slots::EndpointSlot;
pub use time::Stamp;
