//! Endpoints that the command line gives.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use router_core::{EndpointSpec, Scheme};
use router_framework::{Discovery, DiscoveryCx, DiscoveryError, Resolve};

use crate::cli::UsageError;

/// How often names are looked up again.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(30);

/// One `--endpoint URL`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Given {
    scheme: Scheme,
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Ip(IpAddr),
    Name(String),
}

/// The URLs of the command line, as a discovery that reports them.
#[derive(Debug)]
pub(super) struct GivenEndpoints(Vec<Given>);

/// Endpoints whose addresses are known.
pub(super) struct FixedEndpoints(pub(super) Vec<EndpointSpec>);

// === impl GivenEndpoints ===

impl GivenEndpoints {
    pub(super) fn parse(urls: &[String]) -> Result<Self, UsageError> {
        let mut all: Vec<Given> = Vec::with_capacity(urls.len());
        for url in urls {
            let wrong = |why: &str| {
                UsageError(format!("--endpoint {url}: {why}; write it as http://HOST:PORT"))
            };
            let given = parse(url).map_err(wrong)?;
            if all.contains(&given) {
                return Err(wrong("it is given twice"));
            }
            all.push(given);
        }
        Ok(Self(all))
    }

    async fn look_up(&self, resolve: &dyn Resolve) -> Result<Vec<EndpointSpec>, DiscoveryError> {
        let mut specs = Vec::with_capacity(self.0.len());
        for (n, given) in self.0.iter().enumerate() {
            let (address, name) = match &given.host {
                Host::Ip(address) => (*address, None),
                Host::Name(name) => {
                    let found = resolve.resolve(name).await;
                    let found = found.map_err(|error| format!("cannot look up {name}: {error}"));
                    let first = found.and_then(|addresses| {
                        addresses.first().copied().ok_or_else(|| format!("{name} has no address"))
                    });
                    (first.map_err(DiscoveryError)?, Some(name.as_str()))
                }
            };
            let mut spec = EndpointSpec::new(
                "default",
                &format!("endpoint-{n}"),
                &address.to_string(),
                given.port,
            );
            spec.scheme = given.scheme;
            spec.host = name.map(Arc::from);
            specs.push(spec);
        }
        Ok(specs)
    }

    async fn follow(&self, cx: &DiscoveryCx) -> Result<(), DiscoveryError> {
        cx.sink.replace(self.look_up(&*cx.resolve).await?);
        if self.0.iter().all(|given| matches!(given.host, Host::Ip(_))) {
            return Ok(());
        }
        loop {
            cx.clock.sleep_until(cx.clock.now() + LOOK_UP_INTERVAL).await;
            match self.look_up(&*cx.resolve).await {
                Ok(specs) => cx.sink.replace(specs),
                Err(error) => tracing::warn!(%error, "endpoints stay as they are"),
            }
        }
    }
}

impl Discovery for GivenEndpoints {
    fn run(self: Arc<Self>, cx: DiscoveryCx) -> BoxFuture<'static, Result<(), DiscoveryError>> {
        async move { self.follow(&cx).await }.boxed()
    }
}

impl Discovery for FixedEndpoints {
    fn run(self: Arc<Self>, cx: DiscoveryCx) -> BoxFuture<'static, Result<(), DiscoveryError>> {
        cx.sink.replace(self.0.clone());
        async { Ok(()) }.boxed()
    }
}

fn parse(url: &str) -> Result<Given, &'static str> {
    let uri: http::Uri = url.parse().map_err(|_| "it is not a URL")?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return Err("it does not begin with http:// or https://"),
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err("it has a path, and requests keep their own");
    }
    let authority = uri.authority().ok_or("it has no host")?.as_str();
    if authority.contains('@') {
        return Err("user names are not supported");
    }
    // `http::Uri` takes a port that is no number for none.
    let host = uri.host().unwrap_or_default();
    let port = match authority.strip_prefix(host).and_then(|rest| rest.strip_prefix(':')) {
        Some(port) => port.parse().map_err(|_| "the port is not a number from 1 to 65535")?,
        None if scheme == Scheme::Https => 443,
        None => 80,
    };
    if port == 0 {
        return Err("the port is not a number from 1 to 65535");
    }
    let bare = host.trim_matches(['[', ']']);
    let host = match bare.parse() {
        Ok(address) => Host::Ip(address),
        Err(_) if bare.is_empty() => return Err("it has no host"),
        Err(_) => Host::Name(bare.to_ascii_lowercase()),
    };
    Ok(Given { scheme, host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_in_all_forms() {
        let check = |url: &str, expected: Result<(Scheme, &str, u16), &str>| {
            let got = parse(url).map(|given| {
                let host = match given.host {
                    Host::Ip(address) => address.to_string(),
                    Host::Name(name) => name,
                };
                (given.scheme, host, given.port)
            });
            assert_eq!(got, expected.map(|(s, host, port)| (s, host.to_owned(), port)), "{url}");
        };
        check("http://10.0.0.1:8000", Ok((Scheme::Http, "10.0.0.1", 8000)));
        check("http://10.0.0.1", Ok((Scheme::Http, "10.0.0.1", 80)));
        check("https://vLLM.example/", Ok((Scheme::Https, "vllm.example", 443)));
        check("http://[2001:db8::1]:8000/", Ok((Scheme::Http, "2001:db8::1", 8000)));
        check("http://localhost:8000", Ok((Scheme::Http, "localhost", 8000)));
        let port = "the port is not a number from 1 to 65535";
        check("http://host:port", Err(port));
        check("http://host:0", Err(port));
        check("http://host:65536", Err(port));
        check("10.0.0.1:8000", Err("it does not begin with http:// or https://"));
        check("ftp://host", Err("it does not begin with http:// or https://"));
        check("http://host/v1", Err("it has a path, and requests keep their own"));
        check("http://host?a=b", Err("it has a path, and requests keep their own"));
        check("http://user:word@host", Err("user names are not supported"));
        check("http://", Err("it is not a URL"));
        check("http://[::1", Err("it is not a URL"));
        check("", Err("it is not a URL"));
    }

    #[test]
    fn an_endpoint_is_given_once() {
        let urls = ["http://a:80", "http://b:80", "http://A"].map(str::to_owned);
        let error = GivenEndpoints::parse(&urls).unwrap_err().to_string();
        assert_eq!(error, "--endpoint http://A: it is given twice; write it as http://HOST:PORT");
    }

    struct Book(Vec<(&'static str, Vec<IpAddr>)>);

    impl Resolve for Book {
        fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, Result<Vec<IpAddr>, String>> {
            let found = self.0.iter().find(|(name, _)| *name == host);
            let found = found.map(|(_, found)| found.clone()).ok_or("no such name".to_owned());
            async { found }.boxed()
        }
    }

    #[tokio::test]
    async fn names_are_looked_up_and_kept_for_tls() {
        let book = Book(vec![("known", vec!["10.0.0.7".parse().unwrap()]), ("gone", vec![])]);
        let look_up = async |url: &str| {
            let given = GivenEndpoints::parse(&[url.to_owned()]).unwrap();
            given.look_up(&book).await.map_err(|error| error.0)
        };
        let specs = look_up("https://known:1").await.unwrap();
        assert_eq!((&*specs[0].address, specs[0].port), ("10.0.0.7", 1));
        assert_eq!((specs[0].host.as_deref(), specs[0].scheme), (Some("known"), Scheme::Https));
        assert_eq!(look_up("http://10.0.0.1").await.unwrap()[0].host, None);
        assert_eq!(look_up("http://gone").await.unwrap_err(), "gone has no address");
        let unknown = look_up("http://other").await.unwrap_err();
        assert_eq!(unknown, "cannot look up other: no such name");
    }
}
