//! Fetches the metrics page of every endpoint, again and again, for its extractors to read.
//!
//! The page comes from the endpoint's own address and port.
//! `port` replaces the port for all endpoints but those whose discovery names a place for their metrics: several servers behind one address keep pages of their own.
//! A page may have 8 MiB; a longer one counts as a failed poll.
//! What was read before stays until it is stale.
//!
//! With `scheme: https`, certificates are not checked unless `insecureSkipVerify` is turned off, as model servers mostly have certificates that nobody signed.
//! `caCertPath` names who signed them, `clientCertPath` and `clientKeyPath` what this router shows of itself.
//!
//! One is added, with `core-metrics-extractor` reading it, unless `dataLayer.injectDefaults` is off.
//!
//! # Example
//!
//! ```yaml
//! plugins:
//! - type: metrics-data-source
//!   parameters:
//!     scheme: https
//!     path: /internal/metrics
//!     interval: 200ms
//! - type: core-metrics-extractor
//! dataLayer:
//!   sources:
//!   - pluginRef: metrics-data-source
//!     extractors:
//!     - pluginRef: core-metrics-extractor
//! ```

use std::{sync::Arc, time::Duration};

use router_core::{Endpoint, endpoint};
use router_framework::{
    BuildCx, BuildError, DataSource, FetchTarget, FetchTls, Instance, PluginDef, Role,
    document::units::GoDuration,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub const PLUGIN: PluginDef =
    PluginDef::new::<Params>("metrics-data-source", &[Role::DataSource], file!(), build);

/// Longest page that is read. Those of vLLM have some tens of kilobytes.
const MAX_PAGE_BYTES: usize = 8 * 1024 * 1024;

/// Parameters of `metrics-data-source`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Params {
    /// `http` or `https`.
    pub scheme: Scheme,
    /// Path of the page, with its query if it needs one. Begins with a slash.
    pub path: String,
    /// Port of the page on all endpoints that name none for metrics, 1 to 65535. Not given for the
    /// endpoint's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether any certificate is accepted. Only for `https`.
    pub insecure_skip_verify: bool,
    /// File with the certificates that servers' certificates must be signed by. Empty for the system's.
    pub ca_cert_path: String,
    /// File with this router's certificate. Given together with `clientKeyPath`.
    pub client_cert_path: String,
    /// File with the key of this router's certificate.
    pub client_key_path: String,
    /// Time between two fetches, such as `200ms`, at least 50 ms. Empty for `--refresh-metrics-interval`.
    pub interval: String,
}

/// How the page is fetched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Scheme {
    /// In clear.
    #[default]
    Http,
    /// Through TLS.
    Https,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            scheme: Scheme::Http,
            path: "/metrics".to_owned(),
            port: None,
            insecure_skip_verify: true,
            ca_cert_path: String::new(),
            client_cert_path: String::new(),
            client_key_path: String::new(),
            interval: String::new(),
        }
    }
}

struct MetricsSource {
    scheme: router_core::Scheme,
    path: Arc<str>,
    port: Option<u16>,
    tls: Arc<FetchTls>,
    interval: Option<Duration>,
}

fn build(cx: &mut BuildCx<'_>) -> Result<Instance, BuildError> {
    let params: Params = cx.params()?;
    if !params.path.starts_with('/')
        || params.path.contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err(BuildError::at("path", "must begin with a slash and have no blanks"));
    }
    if params.port == Some(0) {
        return Err(BuildError::at("port", "must be from 1 to 65535"));
    }
    let source = MetricsSource {
        scheme: match params.scheme {
            Scheme::Http => router_core::Scheme::Http,
            Scheme::Https => router_core::Scheme::Https,
        },
        path: params.path.as_str().into(),
        port: params.port,
        tls: Arc::new(tls(&params)?),
        interval: interval(&params.interval)?,
    };
    if params.scheme == Scheme::Https
        && params.insecure_skip_verify
        && !params.ca_cert_path.is_empty()
    {
        tracing::warn!(
            plugin = cx.name(),
            "caCertPath has no effect while insecureSkipVerify is on, as it is by default"
        );
    }
    Ok(Instance::new().source(Arc::new(source)))
}

fn tls(params: &Params) -> Result<FetchTls, BuildError> {
    let given = |path: &String| (!path.is_empty()).then(|| path.clone());
    let (cert, key) = (given(&params.client_cert_path), given(&params.client_key_path));
    if cert.is_some() != key.is_some() {
        let missing = if cert.is_some() { "clientKeyPath" } else { "clientCertPath" };
        return Err(BuildError::at(missing, "certificate and key must be given together"));
    }
    Ok(FetchTls {
        insecure_skip_verify: params.insecure_skip_verify,
        ca_path: given(&params.ca_cert_path),
        client_cert_path: cert,
        client_key_path: key,
    })
}

fn interval(text: &str) -> Result<Option<Duration>, BuildError> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |message: String| BuildError::at("interval", message);
    let interval: GoDuration = text.parse().map_err(|error| wrong(format!("{error}")))?;
    match interval.to_std() {
        Some(interval) if !interval.is_zero() => Ok(Some(interval)),
        _ => Err(wrong("must be above 0".to_owned())),
    }
}

impl DataSource for MetricsSource {
    fn target(&self, endpoint: &Endpoint) -> FetchTarget {
        let spec = endpoint.spec();
        let authority = match self.port {
            Some(port) if spec.metrics_authority.is_none() => {
                endpoint::authority(&spec.address, port).into()
            }
            _ => endpoint.metrics_authority().into(),
        };
        FetchTarget {
            scheme: self.scheme,
            authority,
            path: Arc::clone(&self.path),
            tls: Arc::clone(&self.tls),
            max_bytes: MAX_PAGE_BYTES,
        }
    }

    fn interval(&self) -> Option<Duration> {
        self.interval
    }
}

#[cfg(test)]
mod tests {
    use router_core::{EndpointSpec, Pool};
    use router_framework::Workbench;
    use router_testkit::scheduling::SceneBuilder;

    use super::*;

    fn source(params: &str) -> Arc<dyn DataSource> {
        Workbench::new().unwrap().plugin(&PLUGIN, "s", params).unwrap().source.unwrap()
    }

    fn target(params: &str, address: &str, metrics: Option<&str>) -> FetchTarget {
        let pool = Pool::new(0);
        let mut spec = EndpointSpec::new("d", "e", address, 8000);
        spec.metrics_authority = metrics.map(Into::into);
        pool.replace(vec![spec]);
        source(params).target(&pool.snapshot().endpoints()[0])
    }

    #[test]
    fn the_page_is_the_endpoints_own() {
        let target = target("", "10.0.0.1", None);
        assert_eq!(&*target.authority, "10.0.0.1:8000");
        assert_eq!(&*target.path, "/metrics");
        assert_eq!(target.scheme, router_core::Scheme::Http);
        assert!(target.tls.insecure_skip_verify);
        assert_eq!(target.max_bytes, 8 << 20);
        assert_eq!(source("").interval(), None);
    }

    #[test]
    fn the_port_can_be_another_one() {
        let check = |address, expected| {
            assert_eq!(&*target("{port: 9400}", address, None).authority, expected);
        };
        check("10.0.0.1", "10.0.0.1:9400");
        check("::1", "[::1]:9400");
    }

    #[test]
    fn a34_ranks_behind_one_address_keep_pages_of_their_own() {
        let target = target("{port: 9400}", "10.0.0.1", Some("10.0.0.1:9501"));
        assert_eq!(&*target.authority, "10.0.0.1:9501");
    }

    #[test]
    fn a34_certificates_are_checked_when_asked_for() {
        let params = "{scheme: https, insecureSkipVerify: false, caCertPath: /ca, clientCertPath: /c, clientKeyPath: /k, interval: 1.5s}";
        let target = target(params, "10.0.0.1", None);
        assert_eq!(target.scheme, router_core::Scheme::Https);
        let expected = FetchTls {
            insecure_skip_verify: false,
            ca_path: Some("/ca".to_owned()),
            client_cert_path: Some("/c".to_owned()),
            client_key_path: Some("/k".to_owned()),
        };
        assert_eq!(*target.tls, expected);
        assert_eq!(source(params).interval(), Some(Duration::from_millis(1500)));
    }

    #[test]
    fn parameters_are_checked() {
        let check = |params: &str, place: &str| {
            let error = SceneBuilder::refusal(&PLUGIN, params);
            assert!(error.contains(place), "{params}: {error}");
        };
        check("{scheme: ftp}", "scheme");
        check("{path: metrics}", "path: must begin with a slash");
        check("{path: '/a b'}", "path");
        check("{port: 0}", "port: must be from 1 to 65535");
        check("{port: 70000}", "port");
        check("{clientCertPath: /c}", "clientKeyPath: certificate and key");
        check("{clientKeyPath: /k}", "clientCertPath: certificate and key");
        check("{interval: soon}", "interval: ");
        check("{interval: -1s}", "interval: must be above 0");
        check("{interval: 0s}", "interval: must be above 0");
        check("{intervall: 1s}", "intervall");
    }
}
