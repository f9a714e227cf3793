//! `llm-d-router serve`: the embedded proxy with the endpoint picker in process.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use router_core::{EndpointSpec, Scheme};
use router_framework::Registry;
use router_net::{
    Server, Upstream, UpstreamOptions,
    tls::{CertFiles, ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions},
};
use router_proxy::{ApiKeys, Proxy, ProxyOptions};
use router_rt::Tasks;
use tokio::net::TcpListener;

use crate::{
    admin,
    cli::{ServeArgs, UsageError, bytes, positive},
    epp, process,
    running::Running,
    sim::Demo,
};

/// How long to wait for tasks after everything has been told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: ServeArgs, registry: Registry) -> anyhow::Result<()> {
    let traces = process::trace_options(args.log.tracing)?;
    let mut settings = args.picker.settings("serve".to_owned())?;
    settings.tracing = traces.is_some();
    process::block_on(async move {
        let telemetry = process::init_telemetry(&args.log.options()?, traces.as_ref())?;
        let tasks = Tasks::new();
        let servers = Tasks::new();
        let demo = match args.demo {
            Some(n_servers) => Some(Demo::start(n_servers, &servers).await?),
            None => None,
        };
        let fixed = fixed_endpoints(&args, demo.as_ref()).await?;
        let running = Running::start(&args.picker, settings, registry, fixed, &tasks).await?;
        let serving = Serving::start(&args, &running, &tasks, &servers).await?;
        serving.announce(demo.as_ref());
        let signal = process::asked_to_end().await?;
        serving.drain(signal, args.drain_timeout.to_std().unwrap_or_default(), &running).await;
        tasks.cancel();
        let _late_tasks_are_logged = tasks.shutdown(STOP_DEADLINE).await;
        servers.cancel();
        telemetry.shutdown(STOP_DEADLINE);
        Ok(())
    })
}

/// Endpoints that the command line names, or none where the configuration finds them.
async fn fixed_endpoints(
    args: &ServeArgs,
    demo: Option<&Demo>,
) -> anyhow::Result<Option<Vec<EndpointSpec>>> {
    if let Some(demo) = demo {
        return Ok(Some(demo.endpoints()));
    }
    if args.endpoint.is_empty() {
        return Ok(None);
    }
    let mut endpoints = Vec::with_capacity(args.endpoint.len());
    for (n, url) in args.endpoint.iter().enumerate() {
        endpoints.push(endpoint(n, url).await?);
    }
    Ok(Some(endpoints))
}

/// One `--endpoint`.
async fn endpoint(n: usize, url: &str) -> anyhow::Result<EndpointSpec> {
    let usage =
        |why: &str| UsageError(format!("--endpoint {url}: {why}; write it as http://HOST:PORT"));
    let uri: http::Uri = url.parse().map_err(|_| usage("not a URL"))?;
    let scheme = match uri.scheme_str() {
        Some("http") => Scheme::Http,
        Some("https") => Scheme::Https,
        _ => return Err(usage("expected http:// or https://").into()),
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(usage("a path is not supported, requests keep their own").into());
    }
    let host = uri.host().ok_or_else(|| usage("no host"))?.trim_matches(['[', ']']);
    let port = uri.port_u16().unwrap_or(if scheme == Scheme::Https { 443 } else { 80 });
    let address = match host.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => {
            let mut found = tokio::net::lookup_host((host, port))
                .await
                .with_context(|| format!("cannot look up {host}"))?;
            found.next().with_context(|| format!("{host} has no address"))?.ip()
        }
    };
    let mut spec =
        EndpointSpec::new("default", &format!("endpoint-{n}"), &address.to_string(), port);
    spec.scheme = scheme;
    spec.host = (host.parse::<IpAddr>().is_err()).then(|| host.into());
    Ok(spec)
}

/// The servers of this process.
struct Serving {
    proxy: Server,
    admin: Server,
    is_tls: bool,
}

impl Serving {
    async fn start(
        args: &ServeArgs,
        running: &Arc<Running>,
        tasks: &Tasks,
        servers: &Tasks,
    ) -> anyhow::Result<Self> {
        let listener = listen(&args.listen).await?;
        let host = listener.local_addr()?.ip();
        let admin = admin::serve(
            epp::bind(host, args.metrics_port).await?,
            None,
            running,
            args.enable_pprof,
            servers,
        )?;
        let tls = args.tls_cert_path.as_ref().map(|path| {
            let files = CertFiles::in_dir(path);
            let tls = ServerTls::from_files(&files, &ServerTlsOptions::default())?;
            epp::reload(&tls, files, tasks);
            anyhow::Ok(tls)
        });
        let tls = tls.transpose()?;
        let is_tls = tls.is_some();
        let ready = Arc::clone(running);
        let upstream = Upstream::new(upstream_options()?, servers);
        let proxy = Proxy::new(
            Arc::clone(&running.router),
            upstream,
            proxy_options(args)?,
            Arc::new(move || ready.ready()),
            servers.clone(),
        );
        let mut options = router_net::ServerOptions::named("serve");
        options.limits.max_connections = args.max_connections;
        let proxy = Server::start(listener, tls, options, servers, proxy)?;
        Ok(Self { proxy, admin, is_tls })
    }

    /// Tells people where to go.
    fn announce(&self, demo: Option<&Demo>) {
        let scheme = if self.is_tls { "https" } else { "http" };
        let base = format!("{scheme}://{}", self.proxy.local_addr());
        tracing::info!(listen = base, metrics = %self.admin.local_addr(), "serving");
        let Some(demo) = demo else { return };
        process::say(&format!(
            "{} simulated model servers are behind {base}. Try:\n\n  \
             curl -N {base}/v1/chat/completions -H 'content-type: application/json' \\\n    \
             -d '{{\"model\":\"{}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n\n\
             Metrics: http://{}/metrics. Stop with Ctrl-C.",
            demo.endpoints().len(),
            demo.model(),
            self.admin.local_addr(),
        ));
    }

    async fn drain(self, signal: &str, window: Duration, running: &Running) {
        tracing::info!(signal, drain = ?window, "draining");
        running.start_draining();
        let again = process::asked_to_end();
        let n_cut = tokio::select! {
            biased;
            n_cut = self.proxy.drain(window) => n_cut,
            _ = again => 0,
        };
        self.admin.drain(Duration::from_secs(1)).await;
        tracing::info!(n_cut, "drained");
    }
}

async fn listen(address: &str) -> anyhow::Result<TcpListener> {
    let parsed = match address.parse::<SocketAddr>() {
        Ok(parsed) => parsed,
        // A port alone means loopback, like everything unless told otherwise.
        Err(_) => match address.trim_start_matches(':').parse::<u16>() {
            Ok(port) => SocketAddr::from(([127, 0, 0, 1], port)),
            Err(_) => {
                return Err(UsageError(format!("--listen {address}: expected ADDRESS:PORT")).into());
            }
        },
    };
    epp::bind(parsed.ip(), parsed.port()).await
}

fn upstream_options() -> anyhow::Result<UpstreamOptions> {
    let tls = ClientTls::new(&ClientTlsOptions::default()).ok();
    Ok(UpstreamOptions { tls, max_idle_per_target: 1024, ..UpstreamOptions::default() })
}

fn proxy_options(args: &ServeArgs) -> anyhow::Result<ProxyOptions> {
    let api_keys = match &args.api_keys {
        None => None,
        Some(path) => {
            let keys = router_rt::read_file_bounded(path, 1 << 20)?;
            Some(Arc::new(
                ApiKeys::parse(&keys).with_context(|| format!("--api-keys {}", path.display()))?,
            ))
        }
    };
    Ok(ProxyOptions {
        body_idle_timeout: positive(
            "--request-body-timeout",
            args.picker.decide.request_body_timeout,
        )?,
        response_head_timeout: args
            .response_head_timeout
            .to_std()
            .filter(|timeout| !timeout.is_zero()),
        max_retained_bytes: bytes("--max-retained-bytes", &args.max_retained_bytes)?,
        api_keys,
        access_log: args.access_log,
        ..ProxyOptions::default()
    })
}
