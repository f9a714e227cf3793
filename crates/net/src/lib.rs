//! HTTP over sockets: a server with limits and drain, a client that says how far a request came,
//! TLS with reload, cheap scraping, admin pages.
//!
//! It knows no endpoint, request or plugin: what answers a request is a [`Handler`], where one is
//! sent is a [`Target`]. All tasks belong to a `router_rt::Tasks` that is handed in, and every
//! wait has a limit with a name.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`server`] | HTTP/1.1 and HTTP/2, clear or TLS; limits, silent clients, graceful drain |
//! | [`upstream`] | pooled connections to model servers, typed failures, cancellation |
//! | [`tls`] | certificates from files or self-signed, reload, Go's names for suites and versions |
//! | [`scrape`] | metrics pages over kept connections into reused buffers |
//! | [`admin`] | `/metrics`, health and debug pages |
//! | [`body`] | the body type at the borders |
//!
//! ```no_run
//! use http::{Request, Response};
//! use hyper::body::Incoming;
//! use router_net::{Server, ServerOptions, body};
//! use router_rt::Tasks;
//!
//! # async fn example() -> std::io::Result<()> {
//! let hello = |_: Request<Incoming>| async { Response::new(body::full("hello\n")) };
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let tasks = Tasks::new();
//! let server = Server::start(listener, None, ServerOptions::named("hello"), &tasks, hello)?;
//! println!("listening on {}", server.local_addr());
//! server.drain(std::time::Duration::from_secs(5)).await;
//! # Ok(())
//! # }
//! ```

pub mod admin;
pub mod body;
pub mod scrape;
pub mod server;
mod stall;
pub mod tls;
pub mod upstream;

#[cfg(test)]
mod testing;

pub use admin::AdminPages;
pub use body::{Body, BoxError};
pub use scrape::{ScrapeError, ScrapeOptions, ScrapeTarget, Scraper};
pub use server::{Handler, Limits, Peer, Protocols, Server, ServerOptions};
pub use tls::{CertFiles, ClientTls, ServerTls, TlsError};
pub use upstream::{Target, Upstream, UpstreamBody, UpstreamError, UpstreamOptions};
