//! Extension points of the data layer: where endpoints come from, and what is scraped from them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use router_core::{Endpoint, EndpointSpec, Scheme, Stamp};
use router_rt::{Clock, Tasks};

/// Something that is polled per endpoint.
pub trait DataSource: Send + Sync {
    /// What to fetch for this endpoint.
    fn target(&self, endpoint: &Endpoint) -> FetchTarget;

    /// Own polling interval; `None` for the router's.
    fn interval(&self) -> Option<Duration>;
}

/// Reads what a source fetched into the endpoint.
pub trait Extractor: Send + Sync {
    fn extract(&self, endpoint: &Endpoint, page: &[u8], now: Stamp) -> Result<(), ExtractError>;
}

/// A page that did not hold all that it should. What it did hold has been taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ExtractError(pub String);

/// One page to fetch, again and again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FetchTarget {
    pub scheme: Scheme,
    /// `host:port`.
    pub authority: Arc<str>,
    pub path: Arc<str>,
    pub tls: Arc<FetchTls>,
    /// Longest page that is read, in bytes; a longer one is an error.
    pub max_bytes: usize,
}

/// TLS towards a scraped server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FetchTls {
    pub insecure_skip_verify: bool,
    pub ca_path: Option<String>,
    pub client_cert_path: Option<String>,
    pub client_key_path: Option<String>,
}

/// Opens sessions for fetching. The engine and the plugins know no socket; who runs them hands this in.
pub trait Fetch: Send + Sync {
    fn open(&self, target: &FetchTarget) -> Result<Box<dyn FetchSession>, FetchError>;
}

/// A connection that is kept between fetches of one page.
pub trait FetchSession: Send {
    /// Replaces the content of `page`. Cancelled by dropping the future; the caller sets the deadline.
    fn get<'a>(&'a mut self, page: &'a mut Vec<u8>) -> BoxFuture<'a, Result<(), FetchError>>;
}

/// Why a page could not be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    #[error("cannot connect to {authority}: {cause}")]
    Connect { authority: String, cause: String },
    #[error("{authority} answered {status}")]
    Status { authority: String, status: u16 },
    #[error("page of {authority} is larger than {max_bytes} bytes")]
    TooLarge { authority: String, max_bytes: usize },
    #[error("{authority}: {cause}")]
    Broken { authority: String, cause: String },
    #[error("{authority} did not answer within {deadline:?}")]
    Deadline { authority: String, deadline: Duration },
    #[error("{0}")]
    Config(String),
}

/// Looks up host names.
pub trait Resolve: Send + Sync {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, String>>;
}

/// Finds the endpoints of the pool.
pub trait Discovery: Send + Sync {
    /// Runs until cancelled. It reports the whole set of endpoints each time it changes. An error before
    /// the first report is fatal for the start.
    fn run(self: Arc<Self>, cx: DiscoveryCx) -> BoxFuture<'static, Result<(), DiscoveryError>>;
}

/// What a discovery plugin works with.
#[derive(Clone)]
pub struct DiscoveryCx {
    pub sink: Arc<dyn EndpointSink>,
    pub resolve: Arc<dyn Resolve>,
    pub clock: Clock,
    pub tasks: Tasks,
}

/// Takes the endpoints that discovery found.
pub trait EndpointSink: Send + Sync {
    /// The pool holds exactly these from here on.
    fn replace(&self, endpoints: Vec<EndpointSpec>);
}

/// Why discovery cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DiscoveryError(pub String);
