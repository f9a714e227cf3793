//! Load for HTTP proxies, a model server that only answers, and a bare reverse proxy.
//!
//! [`HttpLoad`] is the client, [`upstream`] the server behind, and [`floor`] the proxy that costs
//! least. HTTP/1.1 throughout.

mod accept;
mod exchange;
pub mod floor;
pub mod get;
pub mod upstream;

use serde::{Deserialize, Serialize};

pub use exchange::HttpLoad;

use crate::payload::Shape;

/// Response header with the number of body bytes that the model server sends.
pub const SENT_HEADER: &str = "x-bench-sent";
/// Response header with the number of body bytes that the model server has received.
pub const RECEIVED_HEADER: &str = "x-bench-received";

/// The flags that say what to send where.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
pub struct HttpArgs {
    /// host:port of the proxy or server.
    #[arg(long, default_value = "127.0.0.1:8080")]
    pub target: String,
    /// Bytes of a request body.
    #[arg(long, default_value_t = 1024)]
    pub body_size: usize,
    /// Bytes of the prompt that all requests of a group share.
    #[arg(long, default_value_t = 0)]
    pub shared_prefix: usize,
    /// Number of groups.
    #[arg(long, default_value_t = 1)]
    pub prefix_groups: usize,
    /// Ask for a streamed response.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set)]
    pub stream: bool,
    /// Model name in the request.
    #[arg(long, default_value = "base-model")]
    pub model: String,
    /// Path of the request.
    #[arg(long, default_value = "/v1/chat/completions")]
    pub path: String,
    /// One more request header, name:value. Can be given several times.
    #[arg(long = "header")]
    pub headers: Vec<String>,
    /// Bytes that every response body must have. Without it, a model server that tells how much it
    /// sent is held to that.
    #[arg(long)]
    pub expect_bytes: Option<u64>,
}

impl HttpArgs {
    fn shape(&self, run_tag: u64) -> Shape {
        Shape {
            model: self.model.clone(),
            size: self.body_size,
            shared: self.shared_prefix,
            n_groups: self.prefix_groups,
            stream: self.stream,
            run_tag,
        }
    }
}
