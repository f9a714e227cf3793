//! HTTP server and client, TLS with reload, scraping, admin pages.

pub mod body;
pub mod server;
pub mod tls;

pub use body::{Body, BoxError};
pub use server::{Handler, Limits, Peer, Protocols, Server, ServerOptions};
