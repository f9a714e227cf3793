//! TLS of a server.

use std::{fmt, io, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use router_rt::{FileWatch, Offload, Tasks, WatchOptions};
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{CertFiles, CipherSuites, TlsError, TlsVersion, certified_key, roots_from_pem};

/// The certificate a server shows, which can be replaced while it serves. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    current: Arc<Current>,
}

/// How a server speaks TLS.
#[derive(Clone, Debug, Default)]
pub struct ServerTlsOptions {
    pub min_version: TlsVersion,
    pub cipher_suites: CipherSuites,
    pub alpn: Alpn,
    /// Certificates of this file's authorities are asked of clients, and required.
    pub client_ca: Option<PathBuf>,
}

/// The protocols offered to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alpn {
    #[default]
    H2AndHttp1,
    H2,
    Http1,
}

/// The certificate in use.
#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

/// Validity and organization of self-signed certificates are those of the Go implementation; the
/// key is ECDSA, because an RSA key of 4096 bits delays the start by seconds.
const SELF_SIGNED_YEARS: i32 = 10;
const SELF_SIGNED_ORGANIZATION: &str = "Inference Ext";

// === impl ServerTls ===

impl ServerTls {
    /// Shows the certificate of these files.
    pub fn from_files(files: &CertFiles, options: &ServerTlsOptions) -> Result<Self, TlsError> {
        Self::new(files.read()?, options)
    }

    /// Shows a certificate made for this run. Names are those that clients may check.
    pub fn self_signed(names: &[String], options: &ServerTlsOptions) -> Result<Self, TlsError> {
        Self::new(self_signed(names)?, options)
    }

    fn new(certified: CertifiedKey, options: &ServerTlsOptions) -> Result<Self, TlsError> {
        let provider = Arc::new(options.cipher_suites.provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(options.min_version.and_newer())?;
        let builder = match &options.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let pem = router_rt::read_file_bounded(path, super::MAX_PEM_BYTES)?;
                let roots = Arc::new(roots_from_pem(&pem, &path.display().to_string())?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                builder.with_client_cert_verifier(verifier.build()?)
            }
        };
        let current = Arc::new(Current(ArcSwap::from_pointee(certified)));
        let mut config = builder.with_cert_resolver(Arc::clone(&current) as _);
        config.alpn_protocols = options.alpn.protocols();
        Ok(Self { acceptor: TlsAcceptor::from(Arc::new(config)), current })
    }

    /// Replaces the certificate for new connections. On an error the old one stays.
    pub fn replace(&self, certificate: &[u8], key: &[u8], what: &str) -> Result<(), TlsError> {
        let certified = certified_key(certificate, key, what)?;
        self.current.0.store(Arc::new(certified));
        Ok(())
    }

    /// Watches the files and replaces the certificate when they change, until `tasks` is
    /// cancelled. A change that cannot be used is logged, and the old certificate stays; `told` hears of
    /// each change whether it is used, and of files that have become unusable since they were first read.
    pub fn reload_from(
        &self,
        files: CertFiles,
        options: WatchOptions,
        offload: Offload,
        tasks: &Tasks,
        told: impl Fn(bool) + Send + Sync + 'static,
    ) {
        let tls = self.clone();
        let paths = [files.certificate.clone(), files.key.clone()];
        let mut watch = FileWatch::files(paths, options);
        let (mut looked, mut is_start) = (watch.load(), true);
        tasks.spawn_cancellable("certificate reload", async move {
            let what = files.describe();
            loop {
                let replaced = match looked {
                    Ok(read) => match read.as_slice() {
                        [certificate, key] => {
                            tls.replace(&certificate.contents, &key.contents, &what)
                        }
                        // A watch of two files gives both.
                        _ => return,
                    },
                    Err(error) => Err(error.into()),
                };
                if !is_start || replaced.is_err() {
                    told(replaced.is_ok());
                }
                match replaced {
                    Ok(()) => tracing::info!(files = what, "certificate loaded"),
                    Err(error) => {
                        tracing::warn!(files = what, %error, "certificate not reloaded, the old one stays");
                    }
                }
                (looked, is_start) = (watch.changed(&offload).await, false);
            }
        });
    }

    /// Answers a client's handshake.
    pub(crate) async fn accept<T>(&self, stream: T) -> io::Result<TlsStream<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        self.acceptor.accept(stream).await
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::H2AndHttp1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Self::H2 => vec![b"h2".to_vec()],
            Self::Http1 => vec![b"http/1.1".to_vec()],
        }
    }
}

fn self_signed(names: &[String]) -> Result<CertifiedKey, TlsError> {
    let mut params = rcgen::CertificateParams::new(names)?;
    let this_year = 1970 + (router_rt::Clock::new().unix_now().as_secs() / 31_556_952) as i32;
    params.not_before = rcgen::date_time_ymd(this_year - 1, 1, 1);
    params.not_after = rcgen::date_time_ymd(this_year + SELF_SIGNED_YEARS, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, SELF_SIGNED_ORGANIZATION);
    let key = rcgen::KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    certified_key(
        certificate.pem().as_bytes(),
        key.serialize_pem().as_bytes(),
        "the self-signed certificate",
    )
}
