//! Fetching of metrics pages: one kept connection per target, pages read into reused buffers.
//!
//! Hundreds of pages of 50 to 200 KB are fetched several times a second, so this is HTTP/1.1 by
//! hand over a plain socket: no task per connection, no frames, no copies. It understands what
//! servers may answer to a `GET` (lengths, chunks, bodies that end with the connection) and
//! nothing else.

mod buffers;
mod page;

use std::{fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use router_rt::deadline;
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

pub use buffers::Page;

use self::{buffers::Buffers, page::PageReader};
use crate::tls::ClientTls;

/// What scrapes have in common. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scraper {
    options: ScrapeOptions,
    buffers: Arc<Buffers>,
}

/// Bounds of a scrape.
#[derive(Clone, Debug)]
pub struct ScrapeOptions {
    /// Time for everything: connecting, asking, and the last byte of the page.
    pub deadline: Duration,
    /// The largest page, in bytes.
    pub max_page_bytes: usize,
    /// Buffers kept for reuse: as many as pages are read at a time.
    pub max_buffers: usize,
    /// TLS, for targets that ask for it.
    pub tls: Option<ClientTls>,
}

/// What is scraped.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ScrapeTarget {
    addr: SocketAddr,
    path: Box<str>,
    /// The name that the server's certificate must show; none means no TLS.
    tls_name: Option<Box<str>>,
    /// Further header lines, each ending with CRLF.
    headers: Box<str>,
}

/// A target with its connection. Between scrapes it holds the connection and no buffer.
pub struct Scrape {
    scraper: Scraper,
    target: ScrapeTarget,
    /// The request as it is sent each time.
    request: Box<[u8]>,
    stream: Option<Stream>,
}

/// Why there is no page.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ScrapeError {
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("the target wants TLS, which is not configured")]
    NoTls,
    #[error("no whole page within {0:?}")]
    Deadline(Duration),
    #[error("the connection broke: {0}")]
    Io(io::Error),
    #[error("the connection ended before the page did")]
    Closed,
    #[error("the answer was status {0}")]
    Status(u16),
    #[error("the page is larger than the limit of {0} bytes")]
    TooLarge(usize),
    #[error("the page is encoded as `{0}`, which was not asked for")]
    Encoded(String),
    #[error("the answer is not HTTP: {0}")]
    Malformed(&'static str),
}

/// A path or header that cannot be put into a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` cannot be part of a request")]
pub struct BadTarget(String);

enum Stream {
    Clear(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

// === impl Scraper ===

impl Scraper {
    pub fn new(options: ScrapeOptions) -> Self {
        let buffers = Arc::new(Buffers::new(options.max_buffers));
        Self { options, buffers }
    }

    /// Prepares a target; connects with the first fetch.
    pub fn target(&self, target: ScrapeTarget) -> Scrape {
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\nuser-agent: llm-d-router\r\naccept: text/plain\r\n\
             accept-encoding: identity\r\n{}\r\n",
            target.path, target.addr, target.headers
        );
        let request = request.into_bytes().into();
        Scrape { scraper: self.clone(), target, request, stream: None }
    }
}

// === impl ScrapeTarget ===

impl ScrapeTarget {
    /// A page without TLS, such as `/metrics`.
    pub fn new(addr: SocketAddr, path: &str) -> Result<Self, BadTarget> {
        let fits = |byte: u8| byte.is_ascii_graphic();
        if !path.starts_with('/') || !path.bytes().all(fits) {
            return Err(BadTarget(path.to_owned()));
        }
        Ok(Self { addr, path: path.into(), tls_name: None, headers: Box::default() })
    }

    /// The same with TLS, from a server that proves to be `name`.
    pub fn tls(mut self, name: &str) -> Self {
        self.tls_name = Some(name.into());
        self
    }

    /// Adds a header, such as `authorization`.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, BadTarget> {
        let bad = || BadTarget(name.to_owned());
        http::HeaderName::try_from(name).map_err(|_| bad())?;
        let checked = http::HeaderValue::try_from(value).map_err(|_| bad())?;
        let value = checked.to_str().map_err(|_| bad())?;
        self.headers = format!("{}{name}: {value}\r\n", self.headers).into();
        Ok(self)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

// === impl Scrape ===

impl Scrape {
    /// Fetches the page. After an error, or when the future is dropped, the connection is closed
    /// and the next fetch makes another.
    pub async fn fetch(&mut self) -> Result<Page, ScrapeError> {
        let limit = self.scraper.options.deadline;
        let fetched = deadline(limit, self.fetch_once_or_twice()).await;
        fetched.unwrap_or(Err(ScrapeError::Deadline(limit)))
    }

    pub fn target(&self) -> &ScrapeTarget {
        &self.target
    }

    async fn fetch_once_or_twice(&mut self) -> Result<Page, ScrapeError> {
        if let Some(stream) = self.stream.take() {
            match self.exchange(stream).await {
                // The server closed a connection that it had kept: normal, and worth one more.
                Err((ScrapeError::Closed | ScrapeError::Io(_), 0)) => {}
                Err((error, _)) => return Err(error),
                Ok(page) => return Ok(page),
            }
        }
        let stream = self.connect().await?;
        self.exchange(stream).await.map_err(|(error, _)| error)
    }

    async fn connect(&self) -> Result<Stream, ScrapeError> {
        let stream = TcpStream::connect(self.target.addr).await.map_err(ScrapeError::Connect)?;
        stream.set_nodelay(true).map_err(ScrapeError::Connect)?;
        let Some(name) = &self.target.tls_name else { return Ok(Stream::Clear(stream)) };
        let tls = self.scraper.options.tls.as_ref().ok_or(ScrapeError::NoTls)?;
        let stream = tls.connect(name, stream).await.map_err(ScrapeError::Connect)?;
        Ok(Stream::Tls(Box::new(stream)))
    }

    /// Asks once; an error comes with the number of bytes that had come in.
    async fn exchange(&mut self, mut stream: Stream) -> Result<Page, (ScrapeError, usize)> {
        stream.write_all(&self.request).await.map_err(|error| (ScrapeError::Io(error), 0))?;
        let mut page = self.scraper.buffers.take();
        let mut reader = PageReader::new(self.scraper.options.max_page_bytes);
        let mut n_received = 0;
        loop {
            page.bytes.reserve(reader.wanted(page.bytes.len()));
            let n_read = stream
                .read_buf(&mut page.bytes)
                .await
                .map_err(|error| (ScrapeError::Io(error), n_received))?;
            n_received += n_read;
            let outcome = if n_read == 0 {
                reader.on_end(&page.bytes)
            } else {
                reader.on_bytes(&mut page.bytes)
            };
            if let Some(done) = outcome.map_err(|error| (error, n_received))? {
                if done.keep_alive && n_read > 0 {
                    self.stream = Some(stream);
                }
                page.body = done.body;
                return Ok(page);
            }
        }
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scrape")
            .field("target", &self.target)
            .field("connected", &self.stream.is_some())
            .finish_non_exhaustive()
    }
}

impl Default for ScrapeOptions {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(1),
            max_page_bytes: 8 << 20,
            max_buffers: 16,
            tls: None,
        }
    }
}

// === impl Stream ===

impl Stream {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Clear(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    async fn read_buf(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Clear(stream) => stream.read_buf(buffer).await,
            Self::Tls(stream) => stream.read_buf(buffer).await,
        }
    }
}

#[cfg(test)]
mod tests;
