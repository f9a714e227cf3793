use std::{fs, path::Path, time::Duration};

use router_rt::{Offload, Tasks, WatchOptions};

use super::*;
use crate::{
    server::{Server, ServerOptions},
    testing::{SOON, echo, get, serve, text},
    upstream::{Target, Upstream, UpstreamOptions},
};

/// Writes a new certificate for `localhost` and its key into `dir`.
fn write_certificate(dir: &Path) -> CertFiles {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let files = CertFiles::in_dir(dir);
    fs::write(&files.certificate, certificate.pem()).unwrap();
    fs::write(&files.key, key.serialize_pem()).unwrap();
    files
}

/// A client that trusts only `root`.
fn client(tasks: &Tasks, root: &Path, certificate: Option<CertFiles>) -> Upstream {
    let roots = Roots::File(root.to_owned());
    let tls = ClientTls::new(&ClientTlsOptions { roots, certificate, ..Default::default() });
    let options = UpstreamOptions { tls: Some(tls.unwrap()), ..UpstreamOptions::default() };
    Upstream::new(options, tasks)
}

async fn works(client: &Upstream, server: &Server) -> bool {
    let target = Target::tls(server.local_addr(), "localhost");
    match client.send(&target, get("/")).await {
        Ok(response) => text(response).await == "GET / 0",
        Err(_) => false,
    }
}

#[tokio::test]
async fn a51_a_new_certificate_is_shown_and_a_bad_one_is_not() {
    let tasks = Tasks::new();
    let dir = tempfile::tempdir().unwrap();
    let files = write_certificate(dir.path());
    let tls = ServerTls::from_files(&files, &ServerTlsOptions::default()).unwrap();
    let watch = WatchOptions { interval: Duration::from_millis(5), ..WatchOptions::default() };
    let (told, mut tells) = tokio::sync::mpsc::channel(64);
    let tell = move |is_used| told.try_send(is_used).unwrap();
    tls.reload_from(files.clone(), watch, Offload::inline(), &tasks, tell);
    let server = serve(&tasks, ServerOptions::default(), Some(tls.clone()), echo).await;

    let old_root = dir.path().join("old.pem");
    fs::copy(&files.certificate, &old_root).unwrap();
    assert!(works(&client(&tasks, &old_root, None), &server).await);

    for bad in ["", "no PEM", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        assert!(tls.replace(bad.as_bytes(), bad.as_bytes(), "a test").is_err());
    }
    let other = tempfile::tempdir().unwrap();
    let stranger = write_certificate(other.path());
    let mixed = tls.replace(
        &fs::read(&stranger.certificate).unwrap(),
        &fs::read(&files.key).unwrap(),
        "a test",
    );
    assert!(matches!(mixed, Err(TlsError::Mismatch { .. })));
    assert!(works(&client(&tasks, &old_root, None), &server).await, "the old one stays");

    write_certificate(dir.path());
    tokio::time::timeout(SOON, async {
        while !works(&client(&tasks, &files.certificate, None), &server).await {}
    })
    .await
    .unwrap();
    assert!(!works(&client(&tasks, &old_root, None), &server).await);
    // The certificate may be looked at before its key is there.
    while tells.recv().await == Some(false) {}

    fs::write(&files.certificate, "broken").unwrap();
    fs::write(dir.path().join("new.pem"), "").unwrap();
    // A look between the writing of the pair's files may have told of it twice.
    let refused = async { while tells.recv().await != Some(false) {} };
    tokio::time::timeout(SOON, refused).await.unwrap();
    assert!(works_with_any(&tasks, &server).await);
}

async fn works_with_any(tasks: &Tasks, server: &Server) -> bool {
    let options = ClientTlsOptions { roots: Roots::InsecureSkipVerify, ..Default::default() };
    let tls = Some(ClientTls::new(&options).unwrap());
    works(&Upstream::new(UpstreamOptions { tls, ..Default::default() }, tasks), server).await
}

#[tokio::test]
async fn clients_without_a_certificate_are_refused_where_one_is_asked_for() {
    let tasks = Tasks::new();
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (server_files, client_files) =
        (write_certificate(ours.path()), write_certificate(theirs.path()));
    let options = ServerTlsOptions {
        client_ca: Some(client_files.certificate.clone()),
        ..ServerTlsOptions::default()
    };
    let tls = ServerTls::from_files(&server_files, &options).unwrap();
    let server = serve(&tasks, ServerOptions::default(), Some(tls), echo).await;
    let root = &server_files.certificate;
    assert!(!works(&client(&tasks, root, None), &server).await);
    assert!(!works(&client(&tasks, root, Some(server_files.clone())), &server).await);
    assert!(works(&client(&tasks, root, Some(client_files)), &server).await);
}

#[tokio::test]
async fn a_server_of_tls_1_3_turns_tls_1_2_away() {
    let tasks = Tasks::new();
    let options = ServerTlsOptions { min_version: TlsVersion::V1_3, ..Default::default() };
    let tls = ServerTls::self_signed(&["localhost".to_owned()], &options).unwrap();
    let server = serve(&tasks, ServerOptions::default(), Some(tls), echo).await;
    assert!(works_with_any(&tasks, &server).await);
    let only_1_2 = rustls::ClientConfig::builder_with_provider(suites::provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let stream = tokio::net::TcpStream::connect(server.local_addr()).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(only_1_2));
    let error = connector.connect(name, stream).await.unwrap_err();
    assert!(error.to_string().contains("ProtocolVersion"), "{error}");
}

#[test]
fn files_that_are_missing_or_empty_are_typed_errors() {
    let dir = tempfile::tempdir().unwrap();
    let files = CertFiles::in_dir(dir.path());
    let missing = ServerTls::from_files(&files, &ServerTlsOptions::default()).unwrap_err();
    assert!(matches!(missing, TlsError::File(FileError::NotFound { .. })), "{missing}");
    write_certificate(dir.path());
    fs::write(&files.certificate, "").unwrap();
    let empty = ServerTls::from_files(&files, &ServerTlsOptions::default()).unwrap_err();
    assert!(matches!(empty, TlsError::NoCertificate { .. }), "{empty}");
    fs::write(&files.certificate, "x").unwrap();
    let roots = ClientTlsOptions { roots: Roots::File(files.certificate), ..Default::default() };
    assert!(ClientTls::new(&roots).is_err());
}
