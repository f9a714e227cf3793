//! A picker on sockets, and clients of it.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::BoxStream};
use hyper_util::rt::TokioIo;
use router_extproc::{HealthService, ServerOptions, serve, server::serve_health};
use router_net::{
    Server,
    tls::{Alpn, ServerTls, ServerTlsOptions},
};
use router_proto::{
    ext_proc::{
        ProcessingRequest, ProcessingResponse, external_processor_client::ExternalProcessorClient,
    },
    health::health_client::HealthClient,
};
use router_rt::Tasks;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};

use crate::call::World;

/// A limit on waits that only a broken test reaches.
const SOON: Duration = Duration::from_secs(30);

pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("it takes too long")
}

/// A picker and its health port.
pub(super) struct Picker {
    pub(super) world: World,
    pub(super) process: Server,
    pub(super) health: Server,
    pub(super) ready: Arc<AtomicBool>,
    tls: bool,
    _tasks: Tasks,
}

#[derive(Default)]
pub(super) struct PickerOptions {
    pub(super) server: ServerOptions,
    pub(super) tls: bool,
    /// The ext-proc port has the health service as well.
    pub(super) health_beside: bool,
}

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

impl Picker {
    pub(super) async fn start(world: World, server: ServerOptions, tls: bool) -> Self {
        Self::with(world, PickerOptions { server, tls, health_beside: true }).await
    }

    pub(super) async fn with(world: World, options: PickerOptions) -> Self {
        let tasks = Tasks::new();
        let ready = Arc::new(AtomicBool::new(true));
        let seen = Arc::clone(&ready);
        let health = HealthService::new(Arc::new(move || {
            if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("draining".to_owned()) }
        }));
        let tls = options.tls.then(|| {
            let options = ServerTlsOptions { alpn: Alpn::H2, ..ServerTlsOptions::default() };
            ServerTls::self_signed(&["localhost".to_owned()], &options).unwrap()
        });
        let beside = options.health_beside.then(|| health.clone());
        let service = world.service.clone();
        let process = serve(listen().await, tls, &options.server, &tasks, service, beside).unwrap();
        let health = serve_health(listen().await, &tasks, health).unwrap();
        Self { world, process, health, ready, tls: options.tls, _tasks: tasks }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.process.local_addr()
    }

    /// A new connection to the ext-proc port.
    pub(super) async fn connect(&self) -> Channel {
        channel(self.addr(), self.tls).await.unwrap()
    }

    pub(super) async fn connect_to_health(&self) -> Channel {
        channel(self.health.local_addr(), false).await.unwrap()
    }

    /// Waits until it is so.
    pub(super) async fn until(&self, is_so: impl Fn(&World) -> bool) {
        soon(async {
            while !is_so(&self.world) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }

    /// Waits until no stream is open, and looks that nothing is left of them.
    pub(super) async fn assert_idle(&self) {
        self.until(|world| world.service.n_open() == 0).await;
        self.world.assert_idle();
    }
}

/// A connection, over TLS to a certificate that is not checked where asked for.
pub(super) async fn channel(
    addr: SocketAddr,
    tls: bool,
) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: Uri| async move {
        let socket = TcpStream::connect(addr).await?;
        socket.set_nodelay(true)?;
        let io: Box<dyn Io> =
            if tls { Box::new(handshake(socket).await?) } else { Box::new(socket) };
        Ok::<_, std::io::Error>(TokioIo::new(io))
    });
    let endpoint = Endpoint::from_static("http://picker.example");
    soon(endpoint.connect_with_connector(connector)).await
}

trait Io: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Io for T {}

async fn handshake(
    socket: TcpStream,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = "localhost".try_into().unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket).await?;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    Ok(stream)
}

/// Envoy is set up so towards a self-signed picker.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(super) fn processor(channel: Channel) -> ExternalProcessorClient<Channel> {
    ExternalProcessorClient::new(channel)
}

pub(super) fn health(channel: Channel) -> HealthClient<Channel> {
    HealthClient::new(channel)
}

/// One stream; dropping it resets it.
pub(super) struct Remote {
    messages: Option<mpsc::Sender<ProcessingRequest>>,
    replies: BoxStream<'static, Result<ProcessingResponse, Status>>,
}

impl Remote {
    pub(super) async fn say(&self, message: ProcessingRequest) {
        // A server that has ended the stream takes no more, which the replies tell.
        let _gone = self.messages.as_ref().unwrap().send(message).await;
    }

    pub(super) fn half_close(&mut self) {
        self.messages = None;
    }
}

/// Opens a stream.
pub(super) async fn stream(mut client: ExternalProcessorClient<Channel>) -> Remote {
    let (sender, receiver) = mpsc::channel(1_024);
    let messages = futures_util::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|message| (message, receiver))
    });
    let replies = match soon(client.process(messages)).await {
        Ok(response) => response.into_inner().boxed(),
        Err(status) => futures_util::stream::iter([Err(status)]).boxed(),
    };
    Remote { messages: Some(sender), replies }
}

/// The next so many replies.
pub(super) async fn read(call: &mut Remote, n_replies: usize) -> Vec<ProcessingResponse> {
    let mut replies = Vec::new();
    while replies.len() < n_replies {
        replies.push(soon(call.replies.next()).await.unwrap().unwrap());
    }
    replies
}

/// How the stream ends; replies before that are skipped.
pub(super) async fn ends(call: &mut Remote) -> Code {
    loop {
        match soon(call.replies.next()).await {
            Some(Ok(_)) => {}
            Some(Err(status)) => return status.code(),
            None => return Code::Ok,
        }
    }
}
