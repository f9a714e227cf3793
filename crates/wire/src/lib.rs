//! LLM wire formats: bytes in, types out.
//!
//! Requests are read once, while they come in, for what routing needs ([`request`]); responses are watched for token
//! usage and pass through otherwise untouched ([`response`]); a metrics page is searched for the few series that are
//! wanted ([`prometheus`]). All of it works on pieces that are cut anywhere, keeps a bounded amount of state, and
//! shares the memory of the bytes it was given. Nothing is ever serialised again: an edit of a body is a splice
//! ([`splice`]).
//!
//! What this crate deliberately does not know: sockets, HTTP, tasks, which request goes where, and what a token is
//! worth. It does no I/O and has no global state.
//!
//! ```
//! use bytes::Bytes;
//! use router_wire::{
//!     request::{Api, Limits, RequestScan},
//!     splice::splice,
//! };
//!
//! let body = Bytes::from_static(br#"{"model":"tiny","messages":[{"role":"user","content":"hi"}]}"#);
//! let mut scan = RequestScan::new(Api::ChatCompletions, Limits::default());
//! scan.push(&body)?;
//! let request = scan.finish()?;
//!
//! let (span, value) = request.model_edit("tiny-lora");
//! let sent = splice(&[body], span, value).concat();
//! assert_eq!(sent, br#"{"model":"tiny-lora","messages":[{"role":"user","content":"hi"}]}"#);
//! # Ok::<(), router_wire::request::ScanError>(())
//! ```

#![warn(missing_docs)]

pub mod fuzz;
pub mod json;
pub mod lists;
pub mod media;
pub mod prometheus;
pub mod request;
pub mod response;
pub mod splice;
pub mod text;
