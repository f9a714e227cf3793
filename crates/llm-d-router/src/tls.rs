//! TLS of the servers, from flags.

use std::path::PathBuf;

use router_net::tls::{CertFiles, CipherSuites, ServerTls, ServerTlsOptions, TlsVersion};
use router_rt::{Offload, Tasks};

use crate::{
    cli::{TlsFlags, UsageError},
    running::{ReloadNotes, watch_options},
};

/// TLS of the picker's servers; certificates that are watched have their files.
pub(crate) struct PickerTls {
    pub(crate) process: Option<(ServerTls, Option<CertFiles>)>,
    pub(crate) metrics: Option<(ServerTls, CertFiles)>,
}

impl PickerTls {
    /// Reads certificates; files that cannot be used are the caller's to mend.
    pub(crate) fn of(flags: &TlsFlags) -> Result<Self, UsageError> {
        Ok(Self { process: process(flags)?, metrics: metrics(flags)? })
    }
}

fn process(flags: &TlsFlags) -> Result<Option<(ServerTls, Option<CertFiles>)>, UsageError> {
    if !flags.secure_serving {
        return Ok(None);
    }
    let mut options = ServerTlsOptions::default();
    if !flags.tls_min_version.is_empty() {
        let version = TlsVersion::from_name(&flags.tls_min_version);
        options.min_version =
            version.map_err(|error| UsageError::at("--tls-min-version", error))?;
    }
    if !flags.tls_cipher_suites.is_empty() {
        let suites = CipherSuites::from_names(&flags.tls_cipher_suites);
        options.cipher_suites =
            suites.map_err(|error| UsageError::at("--tls-cipher-suites", error))?;
    }
    if flags.cert_path.is_empty() {
        let tls = ServerTls::self_signed(&["localhost".to_owned()], &options);
        return Ok(Some((tls.map_err(UsageError::of)?, None)));
    }
    let files = CertFiles::in_dir(&flags.cert_path);
    let tls = ServerTls::from_files(&files, &options);
    let tls = tls.map_err(|error| UsageError::at("--cert-path", error))?;
    Ok(Some((tls, flags.enable_cert_reload.then_some(files))))
}

fn metrics(flags: &TlsFlags) -> Result<Option<(ServerTls, CertFiles)>, UsageError> {
    if flags.metrics_cert_dir.is_empty() {
        if !flags.metrics_client_ca_file.is_empty() {
            return Err(UsageError("--metrics-client-ca-file needs --metrics-cert-dir".to_owned()));
        }
        return Ok(None);
    }
    let client_ca = Some(PathBuf::from(&flags.metrics_client_ca_file))
        .filter(|path| !path.as_os_str().is_empty());
    let options = ServerTlsOptions { client_ca, ..ServerTlsOptions::default() };
    let files = CertFiles::in_dir(&flags.metrics_cert_dir);
    let tls = ServerTls::from_files(&files, &options);
    Ok(Some((tls.map_err(|error| UsageError::at("TLS of the metrics port", error))?, files)))
}

/// Follows changes of a certificate's files.
pub(crate) fn reload(
    tls: ServerTls,
    files: CertFiles,
    tasks: &Tasks,
    notes: ReloadNotes,
) -> ServerTls {
    let told = move |is_used| notes.take(is_used);
    tls.reload_from(files, watch_options(), Offload::pool(1), tasks, told);
    tls
}
