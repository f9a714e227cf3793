//! Logs, traces, the metric registry and the router's metric families, build information.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`metrics`] | a registry of our own: handles resolved once, lock-free observation, removal, twins |
//! | [`router`] | the router's families, with names, labels and buckets as in the Go implementation |
//! | [`logs`], [`traces`] | JSON or human lines; OTLP, off unless configured; [`init`] installs both |
//! | [`TraceContext`] | W3C trace context, with or without an exporter |
//! | [`profile`] | CPU profiles that `go tool pprof` reads |
//! | [`build`] | version and commit |
//!
//! It does not know what an endpoint or a request is, and serves no page: `router-net` does.
//!
//! ```
//! use router_telemetry::metrics::{Def, Format, Registry};
//!
//! let registry = Registry::default();
//! let served = registry.counter(Def::new("served_total", "Cakes served.", ["kind"])).unwrap();
//! let plum = served.with(["plum"]); // resolved once, kept
//! plum.inc();
//! assert!(registry.encode(Format::Text).contains("served_total{kind=\"plum\"} 1\n"));
//! ```

pub mod build;
mod init;
pub mod logs;
pub mod metrics;
pub mod profile;
pub mod router;
mod trace_context;
pub mod traces;

pub use build::{BUILD, BuildInfo};
pub use init::{InitError, Telemetry, init};
pub use logs::{LogFormat, LogOptions};
pub use metrics::Registry;
pub use router::RouterMetrics;
pub use trace_context::{TRACEPARENT, TRACESTATE, TraceContext};
pub use traces::TraceOptions;
