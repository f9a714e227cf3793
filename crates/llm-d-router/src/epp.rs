//! `llm-d-router epp`: the endpoint picker behind Envoy.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use router_extproc::{
    EppHandler, HealthService, ProcessService, ServerOptions, StreamLimits,
    server::{DEFAULT_MAX_RECV_BYTES, serve_health},
};
use router_framework::Registry;
use router_net::Server;
use router_rt::Tasks;
use router_telemetry::router::{ExtProcMetrics, Followed};
use tokio::net::TcpListener;

use crate::{
    admin,
    cli::{EppArgs, ListenFlags, UsageError, message_size, not_negative, positive},
    origin::BUILD,
    process::{self, ListenFlag, Signals},
    running::{Place, Running},
    tls::{self, PickerTls},
};

mod drain;

use drain::{Counted, Drain, Streams};

/// How long to wait for tasks after everything has been told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Shortest time that open streams get at the end, so that `--drain-timeout=0` does not cut decisions.
const MIN_STREAM_DRAIN: Duration = Duration::from_secs(1);

/// What the flags say, checked.
struct Plan {
    tls: PickerTls,
    server: ServerOptions,
    limits: StreamLimits,
    body_timeout: Duration,
    drain: Drain,
}

/// The picker's ports.
struct Ports {
    process: TcpListener,
    health: TcpListener,
    metrics: TcpListener,
}

/// Runs until SIGTERM.
pub(crate) fn run(args: EppArgs, registry: Registry) -> anyhow::Result<()> {
    let traces = process::trace_options(args.log.tracing)?;
    let mut settings = args.picker.settings(args.kubernetes.pool_name())?;
    args.kubernetes.check()?;
    settings.tracing = traces.is_some();
    let logs = args.log.options()?;
    process::block_on(async move {
        let telemetry = process::init_telemetry(&logs, traces.as_ref())?;
        let plan = Plan::of(&args)?;
        let mut signals = Signals::listen()?;
        let (tasks, servers) = (Tasks::new(), Tasks::new());
        let ports = Ports::open(&args.listen).await?;
        let place = Place {
            given: None,
            hint: "finding them in Kubernetes (--pool-name, --endpoint-selector) is not available yet",
            pool: args.kubernetes.pool(),
        };
        let idle = Running::load(&args.picker, settings, registry, place, &tasks)?;
        let running = Arc::clone(idle.running());
        let drain = plan.drain;
        // Servers answer while endpoints are still being found, and say that they are not ready.
        let epp = Epp::start(&args.listen, plan, ports, &running, &tasks, &servers)?;
        epp.announce("listening");
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(()),
            begun = idle.begin() => begun?,
        }
        running.begin_recording()?;
        epp.announce("endpoint picker is serving");
        let signal = signals.next().await;
        running.start_draining();
        tracing::info!(signal, drain = ?drain.window, idle = ?drain.idle, "draining");
        signals.unless_again(epp.drain(drain, &running)).await?;
        running.finish_recording().await;
        tasks.cancel();
        let _late_tasks_are_logged = tasks.shutdown(STOP_DEADLINE).await;
        telemetry.shutdown(STOP_DEADLINE);
        Ok(())
    })
}

impl Plan {
    fn of(args: &EppArgs) -> Result<Self, UsageError> {
        let listen = &args.listen;
        let recv = message_size("--grpc-max-recv-msg-size", &listen.grpc_max_recv_msg_size)?;
        let send = message_size("--grpc-max-send-msg-size", &listen.grpc_max_send_msg_size)?;
        let body_timeout = args.picker.decide.request_body_timeout;
        Ok(Self {
            tls: PickerTls::of(&args.tls)?,
            server: ServerOptions {
                max_recv_bytes: recv.unwrap_or(DEFAULT_MAX_RECV_BYTES),
                max_send_bytes: send.unwrap_or(usize::MAX),
                ..ServerOptions::default()
            },
            limits: StreamLimits { max_streams: listen.max_streams, ..StreamLimits::default() },
            body_timeout: positive("--request-body-timeout", body_timeout)?,
            drain: Drain {
                window: not_negative("--drain-timeout", listen.drain_timeout)?,
                idle: not_negative("--drain-idle-timeout", listen.drain_idle_timeout)?,
            },
        })
    }
}

impl Ports {
    async fn open(flags: &ListenFlags) -> anyhow::Result<Self> {
        let listen = |number, port| {
            let flag = ListenFlag { port, address: "--bind-address" };
            process::listen(SocketAddr::new(flags.bind_address, number), flag)
        };
        Ok(Self {
            process: listen(flags.grpc_port, "--grpc-port").await?,
            health: listen(flags.grpc_health_port, "--grpc-health-port").await?,
            metrics: listen(flags.metrics_port, "--metrics-port").await?,
        })
    }
}

/// The picker's servers.
struct Epp {
    process: Server,
    streams: Streams,
    health: Server,
    admin: Server,
}

impl Epp {
    fn start(
        flags: &ListenFlags,
        plan: Plan,
        ports: Ports,
        running: &Arc<Running>,
        tasks: &Tasks,
        servers: &Tasks,
    ) -> anyhow::Result<Self> {
        let metrics_tls = plan.tls.metrics.map(|(tls, files)| {
            tls::reload(tls, files, tasks, running.follow(Followed::MetricsCertificate))
        });
        let process_tls = plan.tls.process.map(|(tls, watched)| match watched {
            Some(files) => tls::reload(tls, files, tasks, running.follow(Followed::Certificate)),
            None => tls,
        });
        let admin = admin::serve(ports.metrics, metrics_tls, running, flags.enable_pprof, servers)?;
        let handler = EppHandler::new(Arc::clone(&running.router), plan.body_timeout);
        let (handler, begun) = Counted::new(handler);
        let mut service = ProcessService::new(handler, plan.limits);
        if flags.enable_grpc_stream_metrics {
            let metrics = ExtProcMetrics::new(running.metrics_registry())?;
            service = service.observed(metrics, running.clock());
        }
        let streams = Streams { service: service.clone(), begun };
        let ready = Arc::clone(running);
        let health = HealthService::new(Arc::new(move || ready.ready()));
        let beside = flags.health_checking.then(|| health.clone());
        let process = router_extproc::serve(
            ports.process,
            process_tls,
            &plan.server,
            servers,
            service,
            beside,
        )?;
        let health = serve_health(ports.health, servers, health)?;
        Ok(Self { process, streams, health, admin })
    }

    /// Tells where the servers are.
    fn announce(&self, what: &str) {
        tracing::info!(
            ext_proc = %self.process.local_addr(),
            health = %self.health.local_addr(),
            metrics = %self.admin.local_addr(),
            version = BUILD.version,
            commit = BUILD.commit,
            "{what}"
        );
    }

    /// Serves those that come all the same until nobody does, then lets streams end.
    async fn drain(&self, drain: Drain, running: &Running) {
        drain.until_over(running.clock(), || self.streams.load()).await;
        running.refuse_waiting();
        let n_cut = self.process.drain(drain.window.max(MIN_STREAM_DRAIN)).await;
        self.health.drain(Duration::from_secs(1)).await;
        self.admin.drain(Duration::from_secs(1)).await;
        tracing::info!(n_cut, "drained");
    }
}
