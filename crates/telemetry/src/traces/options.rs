//! What the standard `OTEL_*` variables say about traces.

use std::fmt;

use http::{HeaderName, HeaderValue, Uri};
use thiserror::Error;

/// Where traces go, and how many.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceOptions {
    /// The collector's gRPC address, `http://host:port` or `https://host:port`.
    pub endpoint: String,
    /// Set where the address is `https`.
    pub tls: Option<CollectorTls>,
    /// Share of traces begun here that are kept, 0 to 1; a caller's decision goes before.
    pub ratio: f64,
    pub service_name: String,
}

/// Whom to trust as a collector, and what to show it. All of it is PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct CollectorTls {
    pub roots: Vec<u8>,
    /// Certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// A trace setting that cannot be followed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TraceError {
    #[error(
        "unknown OTEL_TRACES_EXPORTER `{0}`; known are otlp, and console and none for no traces"
    )]
    UnknownExporter(String),
    #[error("unknown {name} `{protocol}`; only grpc is known")]
    UnknownProtocol { name: &'static str, protocol: String },
    #[error("unknown {name} `{compression}`; known are gzip and none")]
    UnknownCompression { name: &'static str, compression: String },
    #[error("unknown OTEL_TRACES_SAMPLER `{0}`; only parentbased_traceidratio is known")]
    UnknownSampler(String),
    #[error("OTEL_TRACES_SAMPLER_ARG `{0}` is not a number from 0 to 1")]
    BadRatio(String),
    #[error("{name} `{value}` is not a number of milliseconds")]
    BadTimeout { name: &'static str, value: String },
    /// Headers carry secrets, so they are not shown.
    #[error("{name} is not a list of `name=value` with commas between")]
    BadHeaders { name: &'static str },
    #[error("the OTLP address `{0}` is not http://host:port or https://host:port")]
    BadEndpoint(String),
    #[error("{setting}: {reason}")]
    BadTls { setting: &'static str, reason: String },
    #[error(
        "what is shown to the collector needs both a certificate and a key (OTEL_EXPORTER_OTLP_CLIENT_…)"
    )]
    HalfIdentity,
    #[error("cannot make an OTLP exporter: {0}")]
    Exporter(String),
}

const DEFAULT_ENDPOINT: &str = "http://localhost:4317";
const DEFAULT_TLS_ENDPOINT: &str = "https://localhost:4317";
const DEFAULT_RATIO: f64 = 0.1;
const DEFAULT_SERVICE_NAME: &str = "llm-d-epp";

/// A setting for traces alone, and the one for all signals that it goes before.
type Pair = [&'static str; 2];

const ENDPOINTS: Pair = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
const PROTOCOLS: Pair = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const HEADERS: Pair = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const COMPRESSIONS: Pair =
    ["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"];
const TIMEOUTS: Pair = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
const ROOTS: Pair = ["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"];
const CERTIFICATES: Pair =
    ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"];
const KEYS: Pair = ["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"];
/// How a certificate in PEM begins.
const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

// === impl TraceOptions ===

impl TraceOptions {
    /// What the standard `OTEL_*` variables ask for; none when they ask for nothing. `pem` reads a PEM
    /// file, or without a path the certificates of the authorities that this system trusts; it is asked
    /// only for what is needed.
    ///
    /// Differs: without an OTLP setting the Go implementation prints traces to standard output,
    /// which nobody wants in production.
    pub fn from_env(
        variable: impl Fn(&str) -> Option<String>,
        pem: impl Fn(Option<&str>) -> Result<Vec<u8>, String>,
    ) -> Result<Option<Self>, TraceError> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let first = |pair: Pair| pair.into_iter().find_map(|name| Some((name, set(name)?)));
        let endpoint = first(ENDPOINTS).map(|(_, endpoint)| endpoint);
        let wanted = match set("OTEL_TRACES_EXPORTER").as_deref() {
            Some("otlp") => true,
            Some("console" | "none") => false,
            Some(other) => return Err(TraceError::UnknownExporter(other.to_owned())),
            None => endpoint.is_some(),
        };
        let is_off = set("OTEL_SDK_DISABLED").is_some_and(|is| is.eq_ignore_ascii_case("true"));
        if !wanted || is_off {
            return Ok(None);
        }
        check_transport(&first)?;
        let endpoint = endpoint.unwrap_or_else(|| {
            let is_tls = first(ROOTS).is_some();
            if is_tls { DEFAULT_TLS_ENDPOINT } else { DEFAULT_ENDPOINT }.to_owned()
        });
        let uri = endpoint.parse::<Uri>().ok().filter(|uri| uri.host().is_some());
        let tls = match uri.as_ref().and_then(Uri::scheme_str) {
            Some("http") => None,
            Some("https") => Some(CollectorTls::of(&first, &pem)?),
            Some(_) | None => return Err(TraceError::BadEndpoint(endpoint)),
        };
        let ratio = ratio(&set)?;
        let service_name =
            set("OTEL_SERVICE_NAME").unwrap_or_else(|| DEFAULT_SERVICE_NAME.to_owned());
        Ok(Some(Self { endpoint, tls, ratio, service_name }))
    }
}

/// Refuses what the exporter would ignore in silence.
fn check_transport(
    first: &impl Fn(Pair) -> Option<(&'static str, String)>,
) -> Result<(), TraceError> {
    if let Some((name, protocol)) = first(PROTOCOLS).filter(|(_, protocol)| protocol != "grpc") {
        return Err(TraceError::UnknownProtocol { name, protocol });
    }
    if let Some((name, compression)) = first(COMPRESSIONS)
        && !["gzip", "none"].contains(&&*compression)
    {
        return Err(TraceError::UnknownCompression { name, compression });
    }
    if let Some((name, value)) = first(TIMEOUTS)
        && value.parse::<u64>().is_err()
    {
        return Err(TraceError::BadTimeout { name, value });
    }
    match first(HEADERS) {
        Some((name, list)) if !is_header_list(&list) => Err(TraceError::BadHeaders { name }),
        Some(_) | None => Ok(()),
    }
}

fn is_header_list(list: &str) -> bool {
    list.split_terminator(',').all(|header| {
        header.split_once('=').is_some_and(|(name, value)| {
            HeaderName::from_bytes(name.trim().as_bytes()).is_ok()
                && HeaderValue::from_str(value.trim()).is_ok()
        })
    })
}

fn ratio(set: &impl Fn(&str) -> Option<String>) -> Result<f64, TraceError> {
    match set("OTEL_TRACES_SAMPLER") {
        Some(sampler) if sampler != "parentbased_traceidratio" => {
            return Err(TraceError::UnknownSampler(sampler));
        }
        Some(_) | None => {}
    }
    match set("OTEL_TRACES_SAMPLER_ARG") {
        None => Ok(DEFAULT_RATIO),
        Some(text) => match text.parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
            Ok(_) | Err(_) => Err(TraceError::BadRatio(text)),
        },
    }
}

// === impl CollectorTls ===

impl CollectorTls {
    fn of(
        first: &impl Fn(Pair) -> Option<(&'static str, String)>,
        pem: &impl Fn(Option<&str>) -> Result<Vec<u8>, String>,
    ) -> Result<Self, TraceError> {
        let read = |setting, path: Option<&str>| {
            pem(path).map_err(|reason| TraceError::BadTls { setting, reason })
        };
        let roots = match first(ROOTS) {
            Some((name, path)) => read(name, Some(&path))?,
            None => read(ROOTS[1], None)?,
        };
        if !roots.windows(BEGIN.len()).any(|text| text == BEGIN) {
            let setting = first(ROOTS).map_or(ROOTS[1], |(name, _)| name);
            return Err(TraceError::BadTls { setting, reason: "no certificate in it".to_owned() });
        }
        let identity = match (first(CERTIFICATES), first(KEYS)) {
            (None, None) => None,
            (Some((of_certificate, certificate)), Some((of_key, key))) => {
                Some((read(of_certificate, Some(&certificate))?, read(of_key, Some(&key))?))
            }
            (Some(_), None) | (None, Some(_)) => return Err(TraceError::HalfIdentity),
        };
        Ok(Self { roots, identity })
    }
}

impl fmt::Debug for CollectorTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has_identity = self.identity.is_some();
        f.debug_struct("CollectorTls").field("has_identity", &has_identity).finish_non_exhaustive()
    }
}
