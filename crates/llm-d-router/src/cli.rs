//! The command line: one subcommand per personality.

use std::{path::PathBuf, sync::LazyLock};

use clap::{Args, Parser, Subcommand};
use router_framework::document::GoDuration;
use router_telemetry::BuildInfo;

mod kubernetes;
mod picker;
mod replay;

pub use kubernetes::{KubernetesFlags, PoolFlags};
pub use picker::{ConfigFlags, ListenFlags, LogFlags, PickerFlags, RecordFlags, TlsFlags};
pub(crate) use picker::{bytes, message_size, not_negative, positive};
pub use replay::{FitArgs, ReplayArgs, ReplayCommand};

/// Arguments that contradict each other or cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

impl UsageError {
    /// What another layer says about an argument.
    pub(crate) fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }

    /// The same, with the flag that it is about.
    pub(crate) fn at(flag: &str, error: impl std::fmt::Display) -> Self {
        Self(format!("{flag}: {error}"))
    }
}

/// A boolean in any spelling that Go's flags take.
fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err("expected `true` or `false`".to_owned()),
    }
}

/// A count above zero.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be more than zero".to_owned()),
        Ok(count) => Ok(count),
        Err(error) => Err(format!("{error}")),
    }
}

/// Version and origin of the build, as far as it knows.
pub(crate) fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let BuildInfo { version, commit, build_ref } = crate::origin::BUILD;
        let origin = [("commit", commit), ("ref", build_ref)];
        let origin: Vec<_> = origin
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(what, value)| format!("{what} {value}"))
            .collect();
        match origin.as_slice() {
            [] => version.to_owned(),
            origin => format!("{version} ({})", origin.join(", ")),
        }
    });
    &VERSION
}

/// Columns of help texts: longer lines are hard to read.
pub(crate) const MAX_WIDTH: usize = 100;

const EXIT_CODES: &str = "\
Exit codes: 0 for an orderly end, 2 for arguments or files that cannot be followed, 3 where replay is done \
and the answer is no (a fit that is not good enough, decisions that differ), 1 for anything else.";

const SERVE_EXAMPLES: &str = "\
Examples:
  llm-d-router serve --demo
  llm-d-router serve --endpoint http://10.0.0.1:8000 --endpoint http://10.0.0.2:8000
  llm-d-router serve --listen 0.0.0.0:8080 --config-file config.yaml --record-decisions=1";

const EPP_EXAMPLES: &str = "\
Examples:
  llm-d-router epp --config-file config.yaml
  llm-d-router epp --config-file config.yaml --cert-path /certs --enable-cert-reload \\
    --health-checking";

const SIM_EXAMPLES: &str = "\
Examples:
  llm-d-router sim --servers=4 --endpoints-file endpoints.yaml
  llm-d-router sim --servers=2 --spread --set max-num-seqs=64 --set metrics-dialect=sglang";

const CONFIG_EXAMPLES: &str = "\
Examples:
  llm-d-router config check config.yaml
  llm-d-router config defaults config.yaml > complete.yaml
  llm-d-router config preset go-default > config.yaml
  llm-d-router config schema > schema.json
  llm-d-router config explain --endpoints endpoints.yaml --request body.json \\
    --header 'x-llm-d-inference-objective: premium'";

/// Routes LLM inference requests to the model server that will answer them best.
#[derive(Debug, Parser)]
#[command(
    name = "llm-d-router",
    version = version(),
    propagate_version = true,
    max_term_width = MAX_WIDTH,
    after_help = EXIT_CODES
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Routes requests itself: an embedded proxy with the endpoint picker in process.
    ///
    /// The shortest way to real model servers is `--endpoint URL`, once per server. `--demo` starts
    /// simulated ones too. `--config-file` takes any EndpointPickerConfig with file discovery.
    #[command(args_override_self = true, after_help = SERVE_EXAMPLES)]
    Serve(Box<ServeArgs>),
    /// The endpoint picker that Envoy (or any gateway with ext-proc) asks for every request.
    ///
    /// Takes the flags of the Go implementation. Of a flag that is given twice the last counts, as there.
    #[command(args_override_self = true, after_help = EPP_EXAMPLES)]
    Epp(Box<EppArgs>),
    /// Simulated model servers: an OpenAI API, vLLM's metrics, and an honest engine model.
    #[command(after_help = SIM_EXAMPLES)]
    Sim(Box<SimArgs>),
    /// Plays a trace against configurations and simulated servers, in virtual time, and compares them.
    ///
    /// The router is the real one: what decides here decides in production. An hour of traffic takes seconds.
    #[command(after_help = replay::EXAMPLES)]
    Replay(Box<ReplayArgs>),
    /// Checks, completes, prints and explains configuration documents.
    #[command(after_help = CONFIG_EXAMPLES)]
    Config(ConfigArgs),
}

#[derive(Debug, Args)]
pub struct EppArgs {
    #[command(flatten)]
    pub picker: PickerFlags,
    #[command(flatten)]
    pub listen: ListenFlags,
    #[command(flatten)]
    pub tls: TlsFlags,
    #[command(flatten)]
    pub kubernetes: KubernetesFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
pub struct ServeArgs {
    /// Address and port to listen on; a port alone means loopback, as the default does.
    #[arg(
        long,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8080",
        help_heading = "Serving"
    )]
    pub listen: String,
    /// A model server, such as http://10.0.0.1:8000; once per server. Names are looked up again and again.
    /// Needs no configuration file; goes before the discovery of one.
    #[arg(long, value_name = "URL", conflicts_with = "demo", help_heading = "Serving")]
    pub endpoint: Vec<String>,
    /// Start simulated model servers, 4 or this many, and route to them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096), num_args = 0..=1, default_missing_value = "4", require_equals = true, help_heading = "Serving")]
    pub demo: Option<u16>,
    /// Directory with `tls.crt` and `tls.key`; serves HTTPS. Reloaded when they change.
    #[arg(long, value_name = "DIR", help_heading = "Serving")]
    pub tls_cert_path: Option<PathBuf>,
    /// File with one API key per line; clients must send one as a bearer token.
    /// Reloaded when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Serving")]
    pub api_keys: Option<PathBuf>,
    /// Write a log line per request.
    #[arg(long, default_value_t = true, num_args = 0..=1, value_name = "true|false", value_parser = go_bool, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set, help_heading = "Serving")]
    pub access_log: bool,
    /// Longest time that a model server may take to the head of its response; 0 waits for ever.
    #[arg(long, value_name = "DURATION", default_value = "0s", help_heading = "Serving")]
    pub response_head_timeout: GoDuration,
    /// Bytes of a request body kept so that the request can move on to another endpoint.
    #[arg(long, value_name = "QUANTITY", default_value = "8Mi", help_heading = "Serving")]
    pub max_retained_bytes: router_framework::document::Quantity,
    /// Open client connections at once.
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = at_least_one, help_heading = "Serving")]
    pub max_connections: usize,
    /// Port of /metrics and the debug pages, on the host of --listen; 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = 9090, help_heading = "Serving")]
    pub metrics_port: u16,
    /// Serve CPU profiles at /debug/pprof/profile of the metrics port.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = clap::ArgAction::Set, help_heading = "Serving")]
    pub enable_pprof: bool,
    /// How long requests in progress may take to end after SIGTERM or Ctrl-C. A second signal ends at once.
    #[arg(long, value_name = "DURATION", default_value = "30s", help_heading = "Serving")]
    pub drain_timeout: GoDuration,
    #[command(flatten)]
    pub picker: PickerFlags,
    #[command(flatten)]
    pub pool: PoolFlags,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
pub struct SimArgs {
    /// Simulated servers to start, on ports from --port upwards [default: 1].
    #[arg(long, value_name = "N")]
    pub servers: Option<u16>,
    /// First port; 0 picks free ones [default: 8000].
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Address of the first server [default: 127.0.0.1].
    #[arg(long, value_name = "ADDRESS")]
    pub host: Option<std::net::IpAddr>,
    /// Give each server an address of its own (127.0.0.1, 127.0.0.2, …) instead of a port of its own.
    #[arg(long)]
    pub spread: bool,
    /// The model that the servers serve [default: sim-model].
    #[arg(long, value_name = "NAME")]
    pub model: Option<String>,
    /// Seed of everything random [default: 1].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Configuration of the servers (YAML or JSON); flags count before it.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One key of the configuration, such as `--set max-num-seqs=64`.
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Write the servers as an endpoints file for `file-discovery` once they listen.
    #[arg(long, value_name = "FILE")]
    pub endpoints_file: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogFlags,
}

#[derive(Debug, Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    pub command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Says what is wrong with a document, all at once, each with its place.
    Check {
        /// The document.
        file: PathBuf,
        /// Accept plugin types that are experiments.
        #[arg(long)]
        allow_experimental_plugins: bool,
    },
    /// Prints the document as it will run, with every default filled in.
    Defaults {
        /// The document; without one, the configuration that runs where none is given.
        file: Option<PathBuf>,
        /// Accept plugin types that are experiments.
        #[arg(long)]
        allow_experimental_plugins: bool,
    },
    /// Prints the document of a preset, for --config-file or to begin one of your own with.
    Preset {
        /// The preset; without a name, says which there are.
        name: Option<String>,
    },
    /// Prints a JSON Schema of the document, for editors.
    Schema,
    /// Decides one request and shows why: candidates, what each filter left, what each scorer said.
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The configuration document; without one, the built-in configuration.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The endpoints, as a file for file-discovery. An entry may have `signals` (waiting, running, kvUsage,
    /// blockSize, numBlocks); one without counts as never scraped.
    #[arg(long, value_name = "FILE")]
    pub endpoints: PathBuf,
    /// The request's JSON body.
    #[arg(long, value_name = "FILE")]
    pub request: PathBuf,
    /// The request's path.
    #[arg(long, value_name = "PATH", default_value = "/v1/chat/completions")]
    pub path: String,
    /// A header of the request, as `name: value`.
    #[arg(long, value_name = "HEADER")]
    pub header: Vec<String>,
    /// InferenceObjective, InferenceModelRewrite and InferencePool manifests: a YAML file, or a directory of them.
    #[arg(long, value_name = "PATH")]
    pub resources: Option<PathBuf>,
    #[command(flatten)]
    pub pool: PoolFlags,
    /// Print the record as JSON, as GET /debug/decisions shows it.
    #[arg(long)]
    pub json: bool,
    /// Seed of ties and other random choices.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// Accept plugin types that are experiments.
    #[arg(long)]
    pub allow_experimental_plugins: bool,
}
