//! Sockets for those who must not have any: plugins and the engine ask for pages and addresses through
//! these.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use futures_util::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use router_core::Scheme;
use router_framework::{Fetch, FetchError, FetchSession, FetchTarget, FetchTls, Resolve};
use router_net::{
    scrape::{Scrape, ScrapeError, ScrapeOptions, ScrapeTarget, Scraper},
    tls::{CertFiles, ClientTls, ClientTlsOptions, Roots},
};

/// Time for one page, connecting included.
const PAGE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(1);

/// Fetches pages over the network.
#[derive(Default)]
pub(crate) struct NetFetch {
    /// One scraper per TLS setting and bound; there are as many as data sources.
    scrapers: Mutex<HashMap<(Arc<FetchTls>, usize, bool), Scraper>>,
}

impl NetFetch {
    fn scraper(&self, target: &FetchTarget) -> Result<Scraper, FetchError> {
        let is_tls = target.scheme == Scheme::Https;
        let key = (Arc::clone(&target.tls), target.max_bytes, is_tls);
        if let Some(scraper) = self.scrapers.lock().get(&key) {
            return Ok(scraper.clone());
        }
        let tls = is_tls.then(|| client_tls(&target.tls)).transpose()?;
        let options = ScrapeOptions {
            deadline: PAGE_DEADLINE,
            max_page_bytes: target.max_bytes,
            tls,
            ..ScrapeOptions::default()
        };
        let scraper = Scraper::new(options);
        self.scrapers.lock().insert(key, scraper.clone());
        Ok(scraper)
    }
}

fn client_tls(tls: &FetchTls) -> Result<ClientTls, FetchError> {
    let roots = match (&tls.ca_path, tls.insecure_skip_verify) {
        (_, true) => Roots::InsecureSkipVerify,
        (Some(path), false) => Roots::File(path.into()),
        (None, false) => Roots::System,
    };
    let certificate = tls.client_cert_path.as_ref().zip(tls.client_key_path.as_ref());
    let certificate =
        certificate.map(|(cert, key)| CertFiles { certificate: cert.into(), key: key.into() });
    ClientTls::new(&ClientTlsOptions { roots, certificate, ..ClientTlsOptions::default() })
        .map_err(|error| FetchError::Config(error.to_string()))
}

impl Fetch for NetFetch {
    fn open(&self, target: &FetchTarget) -> Result<Box<dyn FetchSession>, FetchError> {
        let authority = target.authority.to_string();
        let addr: SocketAddr = authority.parse().map_err(|_| {
            FetchError::Config(format!(
                "{authority}: metrics need an address with a port, not a name"
            ))
        })?;
        let mut scrape =
            ScrapeTarget::new(addr, &target.path).map_err(|e| FetchError::Config(e.to_string()))?;
        if target.scheme == Scheme::Https {
            scrape = scrape.tls(&addr.ip().to_string());
        }
        let scrape = self.scraper(target)?.target(scrape);
        Ok(Box::new(NetSession { scrape, authority, max_bytes: target.max_bytes }))
    }
}

/// One page, with its connection.
struct NetSession {
    scrape: Scrape,
    authority: String,
    max_bytes: usize,
}

impl FetchSession for NetSession {
    fn get<'a>(&'a mut self, page: &'a mut Vec<u8>) -> BoxFuture<'a, Result<(), FetchError>> {
        async move {
            match self.scrape.fetch().await {
                Ok(fetched) => {
                    page.clear();
                    page.extend_from_slice(&fetched);
                    Ok(())
                }
                Err(error) => Err(self.error(error)),
            }
        }
        .boxed()
    }
}

impl NetSession {
    fn error(&self, error: ScrapeError) -> FetchError {
        let authority = self.authority.clone();
        match error {
            ScrapeError::Connect(cause) => {
                FetchError::Connect { authority, cause: cause.to_string() }
            }
            ScrapeError::Status(status) => FetchError::Status { authority, status },
            ScrapeError::TooLarge(_) => {
                FetchError::TooLarge { authority, max_bytes: self.max_bytes }
            }
            ScrapeError::Deadline(deadline) => FetchError::Deadline { authority, deadline },
            other => FetchError::Broken { authority, cause: other.to_string() },
        }
    }
}

/// Looks up names with the system's resolver.
pub(crate) struct SystemResolve;

impl Resolve for SystemResolve {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
        async move {
            let found =
                tokio::net::lookup_host((host, 0)).await.map_err(|error| error.to_string())?;
            let mut addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
            addresses.sort_unstable();
            addresses.dedup();
            Ok(addresses)
        }
        .boxed()
    }
}
