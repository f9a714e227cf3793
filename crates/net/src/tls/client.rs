//! TLS of a client.

use std::{fmt, io, path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{CertFiles, MAX_PEM_BYTES, TlsError, TlsVersion, roots_from_pem, suites};

/// How a client speaks TLS. Cheap to clone.
#[derive(Clone)]
pub struct ClientTls {
    connector: TlsConnector,
}

/// Whom a client trusts, and what it shows.
#[derive(Clone, Debug, Default)]
pub struct ClientTlsOptions {
    pub roots: Roots,
    pub min_version: TlsVersion,
    /// Shown to servers that ask for it.
    pub certificate: Option<CertFiles>,
}

/// Whose certificates are accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Roots {
    /// The authorities of this system.
    #[default]
    System,
    /// The authorities of a PEM file.
    File(PathBuf),
    /// Any certificate: the connection is encrypted, not authenticated.
    InsecureSkipVerify,
}

/// Where systems keep their authorities; the list of Go's `crypto/x509` on Linux.
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The certificates of the authorities that this system trusts, as PEM.
pub fn system_roots() -> Result<Vec<u8>, TlsError> {
    let mut files = SYSTEM_ROOTS.iter();
    files
        .find_map(|path| router_rt::read_file_bounded(path.as_ref(), MAX_PEM_BYTES).ok())
        .ok_or(TlsError::NoSystemRoots)
}

// === impl ClientTls ===

impl ClientTls {
    /// Reads the files that the options name.
    pub fn new(options: &ClientTlsOptions) -> Result<Self, TlsError> {
        let provider = suites::provider();
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(options.min_version.and_newer())?;
        let builder = match options.roots.load()? {
            Some(roots) => builder.with_root_certificates(roots),
            None => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
            }
        };
        let config = match &options.certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let certified = Arc::new(files.read()?);
                let resolver = rustls::sign::SingleCertAndKey::from(certified);
                builder.with_client_cert_resolver(Arc::new(resolver))
            }
        };
        Ok(Self { connector: TlsConnector::from(Arc::new(config)) })
    }

    /// Begins TLS on a connected stream. `name` is a DNS name or an IP address.
    pub(crate) async fn connect<T>(&self, name: &str, stream: T) -> io::Result<TlsStream<T>>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let name = ServerName::try_from(name.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        self.connector.connect(name, stream).await
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").finish_non_exhaustive()
    }
}

// === impl Roots ===

impl Roots {
    /// None when any certificate is accepted.
    fn load(&self) -> Result<Option<RootCertStore>, TlsError> {
        match self {
            Self::InsecureSkipVerify => Ok(None),
            Self::File(path) => {
                let pem = router_rt::read_file_bounded(path, MAX_PEM_BYTES)?;
                roots_from_pem(&pem, &path.display().to_string()).map(Some)
            }
            Self::System => {
                let pem = system_roots()?;
                let mut roots = RootCertStore::empty();
                // Systems carry certificates that rustls does not take; the others count.
                roots.add_parsable_certificates(super::certificates(&pem, "the system's roots")?);
                Ok(Some(roots))
            }
        }
    }
}

/// Accepts any certificate, but still checks that the server holds its key.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
