//! What one configuration runs on: simulated servers, the endpoint picker and the real Envoy, all of its own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::Value;

use super::prompt::MODEL;
use crate::http::get::get;
use crate::procfs;
use crate::suite::{Child, Launch, free_ports};

/// What users start with; ports are put in.
const ENVOY: &str = include_str!("../../../deploy/envoy.yaml");
const ENVOY_ADMIN: &str = "address: 127.0.0.1, port_value: 9901";
const ENVOY_LISTENER: &str = "address: 0.0.0.0, port_value: 8080";
const ENVOY_PICKER: &str = "address: 127.0.0.1, port_value: 9002";
const ENDPOINTS_FILE: &str = "endpoints.yaml";
const FIRST_TOKENS: &str = "vllm:time_to_first_token_seconds";

/// Paths of the programs.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    pub(super) router: PathBuf,
    pub(super) envoy: PathBuf,
}

/// Running programs. Dropping it ends them.
#[derive(Debug)]
pub(super) struct World {
    servers: Child,
    picker: Child,
    envoy: Child,
    /// Where requests go.
    pub(super) target: String,
    endpoints: PathBuf,
}

/// CPU time of the programs, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct CpuTimes {
    pub servers: f64,
    pub picker: f64,
    pub envoy: f64,
}

impl World {
    /// Starts everything and waits until a request comes through.
    ///
    /// # Errors
    /// A program that does not start, with the end of its log.
    pub(super) async fn start(
        programs: &Programs,
        n_servers: u16,
        document: &str,
        folder: &Path,
    ) -> Result<Self> {
        let endpoints = folder.join(ENDPOINTS_FILE);
        let servers = start_servers(programs, n_servers, &endpoints, folder).await?;
        let [grpc, health, metrics] = free_ports()?;
        let [listener, admin, _] = free_ports()?;
        let config = folder.join("config.yaml");
        fs::write(&config, with_discovery(document, &endpoints)?)?;
        let args = [
            "epp".to_owned(),
            format!("--config-file={}", config.display()),
            format!("--grpc-port={grpc}"),
            format!("--grpc-health-port={health}"),
            format!("--metrics-port={metrics}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--health-checking".to_owned(),
            "--metrics-endpoint-auth=false".to_owned(),
            "--tracing=false".to_owned(),
            "--v=0".to_owned(),
        ];
        let picker =
            Launch::new(&programs.router, None, args).spawn(&subfolder(folder, "picker")?)?;
        let bootstrap = folder.join("envoy.yaml");
        fs::write(&bootstrap, envoy_document(listener, admin, grpc)?)?;
        let bootstrap = bootstrap.to_string_lossy();
        let args = [
            "-c",
            &bootstrap,
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ];
        let launch = Launch::new(&programs.envoy, None, args);
        let mut envoy = launch.spawn(&subfolder(folder, "envoy")?)?;
        let target = format!("127.0.0.1:{listener}");
        let through = envoy.until_ready(|| async { get(&target, "/v1/models").await.map(drop) });
        through.await.with_context(|| format!("the picker said:\n{}", picker.log_text()))?;
        Ok(Self { servers, picker, envoy, target, endpoints })
    }

    /// What the programs have used so far.
    pub(super) fn cpu_times(&self) -> CpuTimes {
        let of = |child: &Child| procfs::usage(child.pid()).map_or(0.0, |usage| usage.cpu_s);
        CpuTimes { servers: of(&self.servers), picker: of(&self.picker), envoy: of(&self.envoy) }
    }

    /// Mean time to the first token as the servers counted it, from a request's arrival there, in seconds.
    ///
    /// # Errors
    /// A server without its metrics page, or servers that have answered nothing.
    pub(super) async fn mean_ttft_at_servers(&self) -> Result<f64> {
        let (mut sum, mut count) = (0.0, 0.0);
        for address in addresses(&fs::read_to_string(&self.endpoints)?) {
            let page = get(&address, "/metrics").await?;
            let page = String::from_utf8_lossy(&page);
            sum += total(&page, &format!("{FIRST_TOKENS}_sum"));
            count += total(&page, &format!("{FIRST_TOKENS}_count"));
        }
        ensure!(count > 0.0, "the servers have answered nothing");
        Ok(sum / count)
    }
}

impl CpuTimes {
    /// What was used since `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            servers: self.servers - before.servers,
            picker: self.picker - before.picker,
            envoy: self.envoy - before.envoy,
        }
    }
}

async fn start_servers(
    programs: &Programs,
    n_servers: u16,
    endpoints: &Path,
    folder: &Path,
) -> Result<Child> {
    let args = [
        "sim".to_owned(),
        format!("--servers={n_servers}"),
        "--port=0".to_owned(),
        format!("--model={MODEL}"),
        format!("--endpoints-file={}", endpoints.display()),
        "--v=0".to_owned(),
    ];
    let mut servers =
        Launch::new(&programs.router, None, args).spawn(&subfolder(folder, "servers")?)?;
    let up = || async {
        let all = addresses(&fs::read_to_string(endpoints)?);
        get(all.last().context("no endpoints yet")?, "/health").await.map(drop)
    };
    servers.until_ready(up).await?;
    Ok(servers)
}

/// Programs of one name write logs of one name.
fn subfolder(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// The addresses of an endpoints file as `sim` writes it.
fn addresses(endpoints: &str) -> Vec<String> {
    let values = |key: &'static str| {
        let value = move |line: &str| {
            Some(line.trim().strip_prefix(key)?.trim().trim_matches('"').to_owned())
        };
        endpoints.lines().filter_map(value)
    };
    values("address:").zip(values("port:")).map(|(ip, port)| format!("{ip}:{port}")).collect()
}

/// The sum over all series of a metric.
fn total(page: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        rest.starts_with(['{', ' ']).then_some(())?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    };
    page.lines().filter_map(value).sum()
}

/// A configuration document with endpoints from a file.
fn with_discovery(document: &str, endpoints: &Path) -> Result<String> {
    let path = Value::from(endpoints.to_string_lossy());
    let plugin = format!("plugins:\n- type: file-discovery\n  parameters: {{path: {path}}}\n");
    let discovery = "  discovery: {pluginRef: file-discovery}\n";
    let mut document = replace_once(document, "plugins:\n", &plugin, "\n")?;
    if document.contains("\ndataLayer:\n") {
        document =
            replace_once(&document, "dataLayer:\n", &format!("dataLayer:\n{discovery}"), "\n")?;
    } else {
        document.push_str("dataLayer:\n");
        document.push_str(discovery);
    }
    Ok(document)
}

fn envoy_document(listener: u16, admin: u16, picker: u16) -> Result<String> {
    let address = |port: u16| format!("address: 127.0.0.1, port_value: {port}");
    let document = replace_once(ENVOY, ENVOY_ADMIN, &address(admin), "")?;
    let document = replace_once(&document, ENVOY_LISTENER, &address(listener), "")?;
    replace_once(&document, ENVOY_PICKER, &address(picker), "")
}

/// Replaces `from`, which must stand once after `before`.
fn replace_once(text: &str, from: &str, to: &str, before: &str) -> Result<String> {
    let wanted = format!("{before}{from}");
    ensure!(text.matches(&wanted).count() == 1, "the document does not have {from:?} once");
    Ok(text.replacen(&wanted, &format!("{before}{to}"), 1))
}

#[cfg(test)]
mod tests {
    use router_sim::replay::policy::PRESETS;

    use super::*;

    #[test]
    fn every_preset_takes_endpoints_from_a_file() {
        for preset in PRESETS {
            let document = with_discovery(preset.document, Path::new("/a b/e.yaml")).unwrap();
            assert!(document.contains("parameters: {path: \"/a b/e.yaml\"}"), "{document}");
            assert_eq!(document.matches("\ndataLayer:\n  discovery:").count(), 1, "{document}");
            let added = document.lines().count() - preset.document.lines().count();
            assert!((3..=4).contains(&added), "{document}");
        }
        with_discovery("kind: EndpointPickerConfig\n", Path::new("e")).unwrap_err();
    }

    #[test]
    fn the_shipped_envoy_gets_its_ports() {
        let document = envoy_document(1, 2, 3).unwrap();
        for port in [1, 2, 3] {
            let address = format!("{{ address: 127.0.0.1, port_value: {port} }}");
            assert_eq!(document.matches(&address).count(), 1, "{document}");
        }
        assert!(!document.contains("0.0.0.0"));
    }

    #[test]
    fn pages_and_files_are_read() {
        let endpoints = "endpoints:\n- name: sim-0\n  address: \"127.0.0.1\"\n  port: \"81\"\n\
                         - name: sim-1\n  address: \"127.0.0.1\"\n  port: \"82\"\n";
        assert_eq!(addresses(endpoints), ["127.0.0.1:81", "127.0.0.1:82"]);
        let page = "# HELP a_sum x\na_sum{m=\"b c\"} 1.5\na_sum{m=\"d\"} 2\na_sums 7\na_sum 0.25\n";
        assert_eq!(total(page, "a_sum"), 3.75);
    }
}
