//! The embedded HTTP proxy of `llm-d-router serve`: HTTP in, one decision of the engine, HTTP out.
//!
//! A [`Proxy`] is a [`router_net::Handler`]. It gives the engine the head and the body of a request as they
//! come, sends the request to the endpoint that the engine picked, moves on to the next one while no byte
//! of a response has come, and passes the response on as it comes.
//!
//! It does not know how endpoints are chosen, counted or judged: that is the engine's. It opens no socket:
//! that is `router-net`'s.
//!
//! | module | what it holds |
//! | --- | --- |
//! | `handler` | [`Proxy`]: the way of a request through the other modules |
//! | `request` | the head: what is refused, hop-by-hop headers, `x-forwarded-*` |
//! | `intake` | the body on its way in: idle time, early answers, what is left unread |
//! | `held` | the body that waits for an endpoint, whole for as long as a retry may need it |
//! | `attempt` | sending, and moving on to the next endpoint |
//! | `response` | the answer on its way out |
//! | `models` | `GET /v1/models`, merged over endpoints |
//! | `keys` | API keys |
//! | `errors`, `access` | error bodies in OpenAI's form; the access log |
//!
//! What it does not do: protocol upgrades, `CONNECT` and `TRACE` are answered 501 (an offer of `h2c` is
//! ignored, as RFC 9110 §7.8 allows); request trailers are dropped (RFC 9110 §6.5.1); a request that has
//! both `content-length` and `transfer-encoding` is read by the latter, sent on with a length of our own,
//! and its connection is closed (RFC 9112 §6.1).
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use arc_swap::ArcSwap;
//! use router_engine::Router;
//! use router_net::{Server, ServerOptions, Upstream, UpstreamOptions};
//! use router_proxy::{Proxy, ProxyOptions};
//! use router_rt::Tasks;
//!
//! # async fn example(router: Arc<Router>) -> std::io::Result<()> {
//! let tasks = Tasks::new();
//! let upstream = Upstream::new(UpstreamOptions::default(), &tasks);
//! let router = Arc::new(ArcSwap::new(router));
//! let always_ready = Arc::new(|| Ok(()));
//! let proxy =
//!     Proxy::new(router, upstream, ProxyOptions::default(), always_ready, tasks.clone());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:8080").await?;
//! Server::start(listener, None, ServerOptions::named("serve"), &tasks, proxy)?;
//! # Ok(())
//! # }
//! ```

mod access;
mod attempt;
mod errors;
mod handler;
mod held;
mod idle;
mod intake;
mod keys;
mod models;
mod options;
mod request;
mod response;

pub use handler::{Proxy, Readiness};
pub use keys::{ApiKeys, ApiKeysError};
pub use options::{DiscardOptions, ModelsOptions, ProxyOptions};
pub use response::ProxyBody;
