//! Load for endpoint pickers: Envoy's side of the external processing protocol, full duplex.
//!
//! [`ExtProcLoad`] plays one HTTP request per stream, [`hold`] keeps many streams open before their
//! end, and [`floor`] is the server that costs least.

mod exchange;
pub mod floor;
pub mod hold;
mod script;
mod stream;
mod tls;

use anyhow::{Context, Result};
use router_proto::ext_proc::HeaderValue;
use router_proto::ext_proc::external_processor_client::ExternalProcessorClient;
use serde::{Deserialize, Serialize};
use tonic::transport::{Channel, Endpoint};

pub use exchange::ExtProcLoad;
pub use script::{Course, Script};

use crate::payload::Shape;

/// Windows of Envoy's ext-proc cluster in the llm-d charts, in bytes.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 1 << 20;
/// Requests that wait for a connection's task.
const CHANNEL_BUFFER: usize = 4096;
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 64 << 20;

/// The flags that say what to send where.
#[derive(clap::Args, Clone, Debug, Serialize, Deserialize)]
pub struct ExtProcArgs {
    /// host:port of the ext-proc server.
    #[arg(long, default_value = "127.0.0.1:9002")]
    pub target: String,
    /// Speak TLS and accept any certificate; otherwise HTTP/2 in clear.
    #[arg(long)]
    pub tls: bool,
    /// Connections, over which streams are spread in turn. Envoy has one per worker thread.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Bytes of a request body.
    #[arg(long, default_value_t = 1024)]
    pub body_size: usize,
    /// Instead of a chat, a prompt of token ids with this many digits, for a --path that takes one; 0 is
    /// a chat.
    #[arg(long, default_value_t = 0)]
    pub token_digits: u32,
    /// Bytes of the prompt that all requests of a group share.
    #[arg(long, default_value_t = 0)]
    pub shared_prefix: usize,
    /// Number of groups.
    #[arg(long, default_value_t = 1)]
    pub prefix_groups: usize,
    /// Bodies repeat after this many requests; 0 is never.
    #[arg(long, default_value_t = 0)]
    pub distinct: u64,
    /// Bytes of one request-body message. Envoy sends what it has read, at most 16 KiB.
    #[arg(long, default_value_t = 16384)]
    pub body_chunk: usize,
    /// Chunks of the response body; when streamed, these are server-sent events.
    #[arg(long, default_value_t = 4)]
    pub response_chunks: usize,
    /// Bytes of the response body; 0 is as small as it comes.
    #[arg(long, default_value_t = 0)]
    pub response_size: usize,
    /// Ask for a streamed response, and play one.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
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
}

impl Default for ExtProcArgs {
    /// The defaults of the command line.
    fn default() -> Self {
        crate::load::default_flags()
    }
}

impl ExtProcArgs {
    pub(crate) fn shape(&self, run_tag: u64) -> Shape {
        Shape {
            model: self.model.clone(),
            size: self.body_size,
            shared: self.shared_prefix,
            n_groups: self.prefix_groups,
            stream: self.stream,
            run_tag,
        }
    }

    fn extra_headers(&self) -> Result<Vec<HeaderValue>> {
        let parse = |header: &String| {
            let (name, value) = header.split_once(':').context("--header is name:value")?;
            Ok(HeaderValue::raw(name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        };
        self.headers.iter().map(parse).collect()
    }

    /// One client per connection, all connected.
    pub(crate) async fn connect(&self) -> Result<Vec<ExternalProcessorClient<Channel>>> {
        let mut clients = Vec::new();
        for _ in 0..self.connections.max(1) {
            let channel = self
                .connect_one()
                .await
                .with_context(|| format!("connecting to {}", self.target))?;
            clients
                .push(ExternalProcessorClient::new(channel).max_decoding_message_size(MAX_ANSWER));
        }
        Ok(clients)
    }

    async fn connect_one(&self) -> Result<Channel> {
        let scheme = if self.tls { "https" } else { "http" };
        // With a connector of one's own, tonic wants the plain scheme and takes the true one from
        // the origin.
        let endpoint = Endpoint::from_shared(format!("http://{}", self.target))?
            .origin(format!("{scheme}://{}", self.target).parse()?)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .tcp_nodelay(true)
            .buffer_size(CHANNEL_BUFFER);
        if !self.tls {
            return Ok(endpoint.connect().await?);
        }
        let connector = tls::connector()?;
        let target = self.target.clone();
        let connect = move |_: http::Uri| tls::connect(connector.clone(), target.clone());
        Ok(endpoint.connect_with_connector(tower::service_fn(connect)).await?)
    }
}
