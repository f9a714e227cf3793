//! TLS for servers and clients on rustls: files or a self-signed certificate, reload while
//! serving, Go's names for versions and cipher suites.

mod client;
mod server;
mod suites;

use std::path::PathBuf;

use router_rt::FileError;
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use thiserror::Error;

pub use client::{ClientTls, ClientTlsOptions, Roots, system_roots};
pub use server::{Alpn, ServerTls, ServerTlsOptions};
pub use suites::{CipherSuites, TlsVersion};

/// A certificate chain and its key, as PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// What is wrong with a TLS setting or a certificate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("no certificate in {what}")]
    NoCertificate { what: String },
    #[error("{what} is not PEM: {reason}")]
    BadPem { what: String, reason: String },
    #[error("the certificate and the key in {what} do not belong together")]
    Mismatch { what: String },
    #[error("unknown TLS version `{name}`; known are {}", TlsVersion::NAMES.join(", "))]
    UnknownVersion { name: String },
    #[error("unknown cipher suite `{name}`; known are {}", CipherSuites::names().join(", "))]
    UnknownSuite { name: String },
    #[error("none of the cipher suites is supported; supported are {}", CipherSuites::names().join(", "))]
    NoSuiteLeft,
    #[error("no root certificates found on this system; name a file of them")]
    NoSystemRoots,
    #[error("cannot make a self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
    #[error("client certificates cannot be verified: {0}")]
    ClientVerifier(#[from] rustls::client::VerifierBuilderError),
}

/// Certificates and keys are small; a larger file is something else.
const MAX_PEM_BYTES: u64 = 4 << 20;

impl CertFiles {
    /// `tls.crt` and `tls.key` of a directory, as Kubernetes mounts them.
    pub fn in_dir(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        Self { certificate: dir.join("tls.crt"), key: dir.join("tls.key") }
    }

    fn describe(&self) -> String {
        format!("{} and {}", self.certificate.display(), self.key.display())
    }

    fn read(&self) -> Result<CertifiedKey, TlsError> {
        let certificate = router_rt::read_file_bounded(&self.certificate, MAX_PEM_BYTES)?;
        let key = router_rt::read_file_bounded(&self.key, MAX_PEM_BYTES)?;
        certified_key(&certificate, &key, &self.describe())
    }
}

/// Builds a key from PEM texts; `what` names them in errors.
fn certified_key(certificate: &[u8], key: &[u8], what: &str) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(certificate, what)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| TlsError::BadPem { what: what.to_owned(), reason: error.to_string() })?;
    let key = suites::provider().key_provider.load_private_key(key)?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        // Some keys cannot tell; the handshake will.
        Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
        Err(_) => Err(TlsError::Mismatch { what: what.to_owned() }),
    }
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::BadPem { what: what.to_owned(), reason: error.to_string() })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { what: what.to_owned() });
    }
    Ok(chain)
}

fn roots_from_pem(pem: &[u8], what: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, what)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
