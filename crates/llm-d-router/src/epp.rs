//! `llm-d-router epp`: the endpoint picker behind Envoy.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context;
use router_extproc::{
    EppHandler, HealthService, ProcessService, ServerOptions, StreamLimits,
    server::{DEFAULT_MAX_RECV_BYTES, serve_health},
};
use router_framework::Registry;
use router_net::{
    Server,
    tls::{CertFiles, CipherSuites, ServerTls, ServerTlsOptions, TlsVersion},
};
use router_rt::{Offload, Tasks, WatchOptions};
use router_telemetry::router::ExtProcMetrics;
use tokio::net::TcpListener;

use crate::{
    admin,
    cli::{EppArgs, ListenFlags, TlsFlags, UsageError, message_size, positive},
    process,
    running::Running,
};

/// How long to wait for tasks after everything has been told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until SIGTERM.
pub(crate) fn run(args: EppArgs, registry: Registry) -> anyhow::Result<()> {
    let traces = process::trace_options(args.log.tracing)?;
    let mut settings = args.picker.settings(args.kubernetes.pool_name())?;
    args.kubernetes.check()?;
    settings.tracing = traces.is_some();
    process::block_on(async move {
        let telemetry = process::init_telemetry(&args.log.options()?, traces.as_ref())?;
        let tasks = Tasks::new();
        let servers = Tasks::new();
        // The metrics port answers while endpoints are still being found.
        let metrics_listener = bind(args.listen.bind_address, args.listen.metrics_port).await?;
        let running = Running::start(&args.picker, settings, registry, None, &tasks).await?;
        let epp = Epp::start(&args, metrics_listener, &running, &tasks, &servers).await?;
        let signal = process::asked_to_end().await?;
        epp.drain(signal, &args.listen, &running).await;
        tasks.cancel();
        let _late_tasks_are_logged = tasks.shutdown(STOP_DEADLINE).await;
        telemetry.shutdown(STOP_DEADLINE);
        Ok(())
    })
}

/// The picker's servers.
struct Epp {
    process: Server,
    health: Server,
    admin: Server,
}

impl Epp {
    async fn start(
        args: &EppArgs,
        metrics_listener: TcpListener,
        running: &Arc<Running>,
        tasks: &Tasks,
        servers: &Tasks,
    ) -> anyhow::Result<Self> {
        let listen = &args.listen;
        let tls = process_tls(&args.tls, tasks)?;
        let admin = admin::serve(
            metrics_listener,
            metrics_tls(&args.tls, tasks)?,
            running,
            listen.enable_pprof,
            servers,
        )?;
        let body_timeout =
            positive("--request-body-timeout", args.picker.decide.request_body_timeout)?;
        let limits = StreamLimits { max_streams: listen.max_streams, ..StreamLimits::default() };
        let handler = EppHandler::new(Arc::clone(&running.router), body_timeout);
        let mut service = ProcessService::new(handler, limits);
        if listen.enable_grpc_stream_metrics {
            service =
                service.observed(ExtProcMetrics::new(running.metrics_registry())?, running.clock());
        }
        let ready = Arc::clone(running);
        let health = HealthService::new(Arc::new(move || ready.ready()));
        let options = ServerOptions {
            max_recv_bytes: message_size(
                "--grpc-max-recv-msg-size",
                &listen.grpc_max_recv_msg_size,
            )?
            .unwrap_or(DEFAULT_MAX_RECV_BYTES),
            max_send_bytes: message_size(
                "--grpc-max-send-msg-size",
                &listen.grpc_max_send_msg_size,
            )?
            .unwrap_or(usize::MAX),
            ..ServerOptions::default()
        };
        let process = router_extproc::serve(
            bind(listen.bind_address, listen.grpc_port).await?,
            tls,
            &options,
            servers,
            service,
            listen.health_checking.then(|| health.clone()),
        )?;
        let health = serve_health(
            bind(listen.bind_address, listen.grpc_health_port).await?,
            servers,
            health,
        )?;
        tracing::info!(
            ext_proc = %process.local_addr(),
            health = %health.local_addr(),
            metrics = %admin.local_addr(),
            version = router_telemetry::BUILD.version,
            "endpoint picker is serving"
        );
        Ok(Self { process, health, admin })
    }

    /// Says that no requests should come, serves those that come all the same for the drain time, then lets
    /// streams end.
    async fn drain(self, signal: &str, listen: &ListenFlags, running: &Running) {
        let window = listen.drain_timeout.to_std().unwrap_or_default();
        tracing::info!(signal, drain = ?window, "draining");
        running.start_draining();
        let again = process::asked_to_end();
        let _drained_or_asked_again = tokio::time::timeout(window, again).await;
        let n_cut = self.process.drain(window.max(Duration::from_secs(1))).await;
        self.health.drain(Duration::from_secs(1)).await;
        self.admin.drain(Duration::from_secs(1)).await;
        tracing::info!(n_cut, "drained");
    }
}

/// Listens on a port; the error says which.
pub(crate) async fn bind(address: std::net::IpAddr, port: u16) -> anyhow::Result<TcpListener> {
    TcpListener::bind((address, port))
        .await
        .with_context(|| format!("cannot listen on {address}:{port}"))
}

fn process_tls(flags: &TlsFlags, tasks: &Tasks) -> anyhow::Result<Option<ServerTls>> {
    if !flags.secure_serving {
        return Ok(None);
    }
    let mut options = ServerTlsOptions::default();
    if !flags.tls_min_version.is_empty() {
        options.min_version = TlsVersion::from_name(&flags.tls_min_version)?;
    }
    if !flags.tls_cipher_suites.is_empty() {
        options.cipher_suites = CipherSuites::from_names(&flags.tls_cipher_suites)?;
    }
    if flags.cert_path.is_empty() {
        return Ok(Some(ServerTls::self_signed(&["localhost".to_owned()], &options)?));
    }
    let files = CertFiles::in_dir(&flags.cert_path);
    let tls = ServerTls::from_files(&files, &options)?;
    if flags.enable_cert_reload {
        reload(&tls, files, tasks);
    }
    Ok(Some(tls))
}

fn metrics_tls(flags: &TlsFlags, tasks: &Tasks) -> anyhow::Result<Option<ServerTls>> {
    if flags.metrics_cert_dir.is_empty() {
        if !flags.metrics_client_ca_file.is_empty() {
            return Err(
                UsageError("--metrics-client-ca-file needs --metrics-cert-dir".to_owned()).into()
            );
        }
        return Ok(None);
    }
    let client_ca = Some(PathBuf::from(&flags.metrics_client_ca_file))
        .filter(|path| !path.as_os_str().is_empty());
    let options = ServerTlsOptions { client_ca, ..ServerTlsOptions::default() };
    let files = CertFiles::in_dir(&flags.metrics_cert_dir);
    let tls = ServerTls::from_files(&files, &options)?;
    reload(&tls, files, tasks);
    Ok(Some(tls))
}

/// Follows changes of a certificate's files.
pub(crate) fn reload(tls: &ServerTls, files: CertFiles, tasks: &Tasks) {
    tls.reload_from(files, WatchOptions::default(), Offload::pool(1), tasks);
}
