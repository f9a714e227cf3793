//! `llm-d-router serve`: the embedded proxy with the endpoint picker in process.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use router_framework::{Discovery, Registry};
use router_net::{
    Server, Upstream, UpstreamOptions,
    tls::{CertFiles, ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions},
};
use router_proxy::{ApiKeys, Proxy, ProxyOptions};
use router_rt::{FileWatch, Offload, Tasks};
use router_telemetry::router::Followed;
use tokio::net::TcpListener;

use crate::{
    admin,
    cli::{ServeArgs, UsageError, bytes, not_negative, positive},
    configuration::read_file,
    process::{self, ListenFlag, Signals},
    running::{self, Place, Running},
    sim::Demo,
    tls,
};

mod given;

use given::{FixedEndpoints, GivenEndpoints};

/// How long to wait for tasks after everything has been told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// How long before the end of a drain those are refused who wait in flow control.
const LAST_WORDS: Duration = Duration::from_secs(1);
const MAX_KEYS_BYTES: u64 = 1 << 20;
/// Idle connections kept to each model server: as many as may be busy at once without connecting anew.
const MAX_IDLE_PER_ENDPOINT: usize = 1024;

/// What the flags say, checked.
struct Plan {
    given: Option<GivenEndpoints>,
    proxy: ProxyOptions,
    tls: Option<(ServerTls, CertFiles)>,
    drain_timeout: Duration,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: ServeArgs, registry: Registry) -> anyhow::Result<()> {
    let traces = process::trace_options(args.log.tracing)?;
    let pool = args.pool.pool();
    let pool_name = pool.name.clone().unwrap_or_else(|| "serve".to_owned());
    let mut settings = args.picker.settings(pool_name)?;
    settings.tracing = traces.is_some();
    let logs = args.log.options()?;
    process::block_on(async move {
        let telemetry = process::init_telemetry(&logs, traces.as_ref())?;
        let plan = Plan::of(&args)?;
        let mut signals = Signals::listen()?;
        let (tasks, servers) = (Tasks::new(), Tasks::new());
        servers.spawn_cancellable("access log", telemetry.gather_lines());
        let flag = |port| ListenFlag { port, address: "--listen" };
        let listener = listen_address(&args.listen).await?;
        let listener = process::listen(listener, flag("--listen")).await?;
        let metrics = SocketAddr::new(listener.local_addr()?.ip(), args.metrics_port);
        let metrics = process::listen(metrics, flag("--metrics-port")).await?;
        let demo = match args.demo {
            Some(n_servers) => Some(Demo::start(n_servers, &servers).await?),
            None => None,
        };
        let Plan { given, proxy, tls, drain_timeout } = plan;
        let given = given.map(|given| Arc::new(given) as Arc<dyn Discovery>);
        let fixed = demo.as_ref().map(|demo| Arc::new(FixedEndpoints(demo.endpoints())) as _);
        let place = Place {
            given: fixed.or(given),
            hint: "or give --endpoint URL for each model server, or --demo for simulated ones",
            pool,
        };
        let idle = Running::load(&args.picker, settings, registry, place, &tasks)?;
        let running = Arc::clone(idle.running());
        let admin = admin::serve(metrics, None, &running, args.enable_pprof, &servers)?;
        tokio::select! {
            biased;
            _ = signals.next() => return Ok(()),
            begun = idle.begin() => begun?,
        }
        follow_keys(&args, &proxy, &running, &tasks);
        let proxy = start_proxy(&args, listener, tls, proxy, &running, (&tasks, &servers))?;
        running.begin_recording()?;
        let serving = Serving { proxy, admin, is_tls: args.tls_cert_path.is_some() };
        serving.announce(demo.as_ref());
        let signal = signals.next().await;
        running.start_draining();
        tracing::info!(signal, drain = ?drain_timeout, "draining");
        signals.unless_again(serving.drain(drain_timeout, &running)).await?;
        running.finish_recording().await;
        tasks.cancel();
        let _late_tasks_are_logged = tasks.shutdown(STOP_DEADLINE).await;
        servers.cancel();
        telemetry.shutdown(STOP_DEADLINE);
        Ok(())
    })
}

impl Plan {
    fn of(args: &ServeArgs) -> anyhow::Result<Self> {
        let given = (!args.endpoint.is_empty()).then(|| GivenEndpoints::parse(&args.endpoint));
        Ok(Self {
            given: given.transpose()?,
            proxy: proxy_options(args)?,
            tls: args.tls_cert_path.as_deref().map(server_tls).transpose()?,
            drain_timeout: not_negative("--drain-timeout", args.drain_timeout)?,
        })
    }
}

fn server_tls(dir: &Path) -> Result<(ServerTls, CertFiles), UsageError> {
    let files = CertFiles::in_dir(dir);
    let tls = ServerTls::from_files(&files, &ServerTlsOptions::default());
    Ok((tls.map_err(|error| UsageError::at("--tls-cert-path", error))?, files))
}

fn start_proxy(
    args: &ServeArgs,
    listener: TcpListener,
    tls: Option<(ServerTls, CertFiles)>,
    options: ProxyOptions,
    running: &Arc<Running>,
    (tasks, servers): (&Tasks, &Tasks),
) -> anyhow::Result<Server> {
    let tls = tls
        .map(|(tls, files)| tls::reload(tls, files, tasks, running.follow(Followed::Certificate)));
    let ready = Arc::clone(running);
    let proxy = Proxy::new(
        Arc::clone(&running.router),
        Upstream::new(upstream_options(), servers),
        options,
        Arc::new(move || ready.ready()),
        servers.clone(),
    );
    let mut options = router_net::ServerOptions::named("serve");
    options.limits.max_connections = args.max_connections;
    Ok(Server::start(listener, tls, options, servers, proxy)?)
}

/// The servers of this process.
struct Serving {
    proxy: Server,
    admin: Server,
    is_tls: bool,
}

impl Serving {
    /// Tells people where to go.
    fn announce(&self, demo: Option<&Demo>) {
        let scheme = if self.is_tls { "https" } else { "http" };
        let base = format!("{scheme}://{}", self.proxy.local_addr());
        tracing::info!(listen = base, metrics = %self.admin.local_addr(), "serving");
        let Some(demo) = demo else { return };
        // Nobody has to read it for the demonstration to go on.
        let _written = process::say(&format!(
            "Simulated model servers behind {base}: {}. Try:\n\n  \
             curl -N {base}/v1/chat/completions -H 'content-type: application/json' \\\n    \
             -d '{{\"model\":\"{}\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'\n\n\
             Metrics: http://{}/metrics. Stop with Ctrl-C.",
            demo.endpoints().len(),
            demo.model(),
            self.admin.local_addr(),
        ));
    }

    async fn drain(&self, window: Duration, running: &Running) {
        // Who still waits near the end hears why, instead of losing the connection.
        let refusing = async {
            tokio::time::sleep(window.saturating_sub((window / 10).min(LAST_WORDS))).await;
            running.refuse_waiting();
            std::future::pending().await
        };
        let n_cut = tokio::select! {
            biased;
            n_cut = self.proxy.drain(window) => n_cut,
            never = refusing => never,
        };
        self.admin.drain(Duration::from_secs(1)).await;
        tracing::info!(n_cut, "drained");
    }
}

/// `ADDRESS:PORT`, `NAME:PORT`, or a port alone, which means loopback like everything unless told otherwise.
async fn listen_address(text: &str) -> Result<SocketAddr, UsageError> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    let wrong = |why: String| UsageError(format!("--listen {text}: {why}"));
    let is_name = text.rsplit_once(':').is_some_and(|(name, port)| {
        !name.is_empty() && !name.contains([':', '[', ']']) && port.parse::<u16>().is_ok()
    });
    if !is_name {
        return Err(wrong("expected ADDRESS:PORT, such as 127.0.0.1:8080 or [::]:8080".to_owned()));
    }
    let found = tokio::net::lookup_host(text).await.map_err(|error| wrong(error.to_string()))?;
    // IPv4 first, as for the names of endpoints.
    found.min().ok_or_else(|| wrong("the name has no address".to_owned()))
}

fn upstream_options() -> UpstreamOptions {
    // Without root certificates of the system only plain endpoints can be reached; an https one says why.
    let tls = ClientTls::new(&ClientTlsOptions::default()).ok();
    UpstreamOptions {
        tls,
        max_idle_per_target: MAX_IDLE_PER_ENDPOINT,
        ..UpstreamOptions::default()
    }
}

fn proxy_options(args: &ServeArgs) -> Result<ProxyOptions, UsageError> {
    let api_keys = args.api_keys.as_deref().map(|path| {
        let keys = ApiKeys::parse(&read_file(path, MAX_KEYS_BYTES)?);
        let at_file = |error| UsageError(format!("--api-keys {}: {error}", path.display()));
        keys.map(Arc::new).map_err(at_file)
    });
    let response_head_timeout =
        not_negative("--response-head-timeout", args.response_head_timeout)?;
    Ok(ProxyOptions {
        body_idle_timeout: positive(
            "--request-body-timeout",
            args.picker.decide.request_body_timeout,
        )?,
        response_head_timeout: Some(response_head_timeout).filter(|timeout| !timeout.is_zero()),
        max_retained_bytes: bytes("--max-retained-bytes", &args.max_retained_bytes)?,
        api_keys: api_keys.transpose()?,
        access_log: args.access_log,
        ..ProxyOptions::default()
    })
}

/// Follows changes of the file of API keys.
fn follow_keys(args: &ServeArgs, options: &ProxyOptions, running: &Running, tasks: &Tasks) {
    let (Some(path), Some(keys)) = (args.api_keys.clone(), options.api_keys.clone()) else {
        return;
    };
    let watch_options =
        router_rt::WatchOptions { max_file_bytes: MAX_KEYS_BYTES, ..running::watch_options() };
    let mut watch = FileWatch::file(&path, watch_options);
    let notes = running.follow(Followed::ApiKeys);
    // Takes what has changed since the keys were read; that is still the start.
    let (mut looked, mut is_start) = (watch.load(), true);
    let following = async move {
        let offload = Offload::pool(1);
        let file = path.display().to_string();
        loop {
            let replaced = match looked {
                Ok(files) => {
                    let text = files.first().map(|file| file.contents.as_slice());
                    keys.replace(text.unwrap_or_default()).map_err(|error| error.to_string())
                }
                Err(error) => Err(error.to_string()),
            };
            if !is_start || replaced.is_err() {
                notes.take(replaced.is_ok());
            }
            match replaced {
                Ok(()) => tracing::info!(file, "API keys loaded"),
                Err(error) => tracing::error!(file, error, "going on with the last good API keys"),
            }
            (looked, is_start) = (watch.changed(&offload).await, false);
        }
    };
    drop(tasks.spawn_cancellable("API keys", following));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn listen_addresses_in_all_forms() {
        let check = async |text: &str, expected: Option<&str>| {
            let got = listen_address(text).await;
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(got.ok(), expected, "{text}");
        };
        check("0.0.0.0:8080", Some("0.0.0.0:8080")).await;
        check("[::1]:0", Some("[::1]:0")).await;
        check("8080", Some("127.0.0.1:8080")).await;
        check(":8080", Some("127.0.0.1:8080")).await;
        check("localhost:80", Some("127.0.0.1:80")).await;
        for wrong in ["", ":", "localhost", "::1", "[::1]", ":99999", "10.0.0.1:x", "a:b:1"] {
            check(wrong, None).await;
        }
    }
}
