//! Flags of everything that picks endpoints, with the names and defaults of the Go implementation
//! (`spec/scheduling.md` §15). Flags of our own stand under "Bounds and diagnosis".

use std::path::PathBuf;

use clap::{
    ArgAction, Args,
    builder::{PossibleValue, PossibleValuesParser},
};
use router_engine::{
    Settings,
    settings::{DecisionSettings, HealthSettings},
};
use router_framework::document::{GoDuration, Quantity, preset};
use router_telemetry::LogOptions;

use super::UsageError;

/// The configuration document.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Configuration")]
pub struct ConfigFlags {
    /// Configuration document (EndpointPickerConfig, YAML or JSON). Reloaded when it changes; what was
    /// learnt about caches and load is then learnt anew.
    #[arg(long, value_name = "FILE", conflicts_with = "config_text")]
    pub config_file: Option<PathBuf>,
    /// The same as text.
    #[arg(long, value_name = "YAML")]
    pub config_text: Option<String>,
    /// A built-in document by its name, in place of one of your own. `llm-d-router config preset NAME` prints it.
    #[arg(long, value_name = "NAME", value_parser = preset_names(), default_value = preset::ESTIMATED_TTFT.name, conflicts_with_all = ["config_file", "config_text"])]
    pub preset: String,
    /// Accept plugin types that are experiments.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set)]
    pub allow_experimental_plugins: bool,
    /// InferenceObjective, InferenceModelRewrite and InferencePool manifests: a YAML file, or a directory of
    /// them. Reloaded when they change.
    #[arg(long, value_name = "PATH")]
    pub resources: Option<PathBuf>,
}

/// Names of the built-in documents, with what they are.
fn preset_names() -> PossibleValuesParser {
    let value = |preset: &preset::Preset| PossibleValue::new(preset.name).help(preset.about);
    let default = PossibleValue::new(preset::DEFAULT_NAME)
        .help(format!("what runs where nothing is said: {}", preset::PRESETS[0].name));
    PossibleValuesParser::new(preset::PRESETS.iter().map(value).chain([default]))
}

/// What decides how requests are picked for.
#[derive(Debug, Args)]
pub struct PickerFlags {
    #[command(flatten)]
    pub config: ConfigFlags,
    #[command(flatten)]
    pub decide: DecideFlags,
    #[command(flatten)]
    pub record: RecordFlags,
    #[command(flatten)]
    pub rejected: RejectedFlags,
}

/// Settings of the pipeline.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bounds and diagnosis")]
pub struct DecideFlags {
    /// How often metrics are scraped from each endpoint, at least 50ms.
    #[arg(long, value_name = "DURATION", default_value = "50ms", help_heading = "Picking")]
    pub refresh_metrics_interval: GoDuration,
    /// How often the gauges about the pool are refreshed.
    #[arg(long, value_name = "DURATION", default_value = "5s", help_heading = "Picking")]
    pub refresh_prometheus_metrics_interval: GoDuration,
    /// Age from which scraped metrics mean nothing; at least four scrape intervals.
    #[arg(long, value_name = "DURATION", default_value = "2s", help_heading = "Picking")]
    pub metrics_staleness_threshold: GoDuration,
    /// Ignore the subset of endpoints that the proxy names.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set, help_heading = "Picking")]
    pub disable_endpoint_subset_filter: bool,
    /// Send the scores of all candidates to the proxy as dynamic metadata.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set, help_heading = "Picking")]
    pub emit_endpoint_scores: bool,
    /// Longest request body; a longer one is answered 413.
    #[arg(long, value_name = "QUANTITY", default_value = "64Mi")]
    pub max_body_bytes: Quantity,
    /// Request bodies held at once over all requests; above it requests are answered 503.
    #[arg(long, value_name = "QUANTITY", default_value = "2Gi")]
    pub max_buffered_bytes: Quantity,
    /// How long a request body may stop coming before the request is answered 408.
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    pub request_body_timeout: GoDuration,
    /// Leave endpoints that fail out for a while, and probe them before they are used again.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "true", require_equals = true, action = ArgAction::Set)]
    pub endpoint_health: bool,
    /// Share of decisions, 0 to 1, that are recorded for GET /debug/decisions.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    pub record_decisions: f64,
    /// Decisions kept; the oldest goes first.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = super::at_least_one)]
    pub max_recorded_decisions: usize,
    /// Show metrics under their deprecated names too.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "true", require_equals = true, action = ArgAction::Set)]
    pub deprecated_metrics: bool,
    /// Seed of ties and other random choices; random where it is not given.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// What is written down of live traffic.
#[derive(Debug, Args)]
#[command(next_help_heading = "Recording")]
pub struct RecordFlags {
    /// Write an anonymised trace of live traffic to this file, which `replay --trace` plays. A file that is there is
    /// kept under another name: its own and the next number.
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// Write all that decisions depend on as well, so that `replay --reproduce` can make them again.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set, requires = "record")]
    pub record_inputs: bool,
    /// Write the names of models, adapters and tenants as they are, instead of made-up ones.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set, requires = "record")]
    pub record_names: bool,
    /// Longest recording; it ends there.
    #[arg(long, value_name = "QUANTITY", default_value = "1Gi", requires = "record")]
    pub record_max_bytes: Quantity,
    /// Replace a file that is there instead of keeping it.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set, requires = "record")]
    pub record_overwrite: bool,
}

/// Flags that the Go implementation rejects when they are set, and so do we.
#[allow(clippy::struct_field_names, reason = "the flags are called so")]
#[derive(Debug, Default, Args)]
pub struct RejectedFlags {
    #[arg(long, hide = true)]
    total_queued_requests_metric: Option<String>,
    #[arg(long, hide = true)]
    total_running_requests_metric: Option<String>,
    #[arg(long, hide = true)]
    kv_cache_usage_percentage_metric: Option<String>,
    #[arg(long, hide = true)]
    lora_info_metric: Option<String>,
    #[arg(long, hide = true)]
    cache_info_metric: Option<String>,
}

/// Ports and limits of the gRPC servers.
#[derive(Debug, Args)]
#[command(next_help_heading = "Listening")]
pub struct ListenFlags {
    /// Port of the ext-proc server; 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = 9002)]
    pub grpc_port: u16,
    /// Port of the gRPC health server, in clear text; 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = 9003)]
    pub grpc_health_port: u16,
    /// Port of /metrics and the debug pages; 0 picks a free one.
    #[arg(long, value_name = "PORT", default_value_t = 9090)]
    pub metrics_port: u16,
    /// Address to listen on.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub bind_address: std::net::IpAddr,
    /// Serve the health service on the ext-proc port too.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set)]
    pub health_checking: bool,
    /// How long to keep serving after SIGTERM at most, and how long streams may then take to end. A second
    /// signal ends at once.
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub drain_timeout: GoDuration,
    /// Stop serving earlier once no stream has been open for this long after SIGTERM: proxies need some time
    /// to see that this picker is not ready. With the value of --drain-timeout it always serves that long.
    #[arg(long, value_name = "DURATION", default_value = "15s")]
    pub drain_idle_timeout: GoDuration,
    /// Longest gRPC message that is read; 4Mi where it is not given.
    #[arg(long, value_name = "QUANTITY", default_value = "", hide_default_value = true)]
    pub grpc_max_recv_msg_size: String,
    /// Longest gRPC message that is sent.
    #[arg(long, value_name = "QUANTITY", default_value = "", hide_default_value = true)]
    pub grpc_max_send_msg_size: String,
    /// Streams open at once over all connections.
    #[arg(long, value_name = "N", default_value_t = 65_536, value_parser = super::at_least_one)]
    pub max_streams: usize,
    /// Metrics about ext-proc streams.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set)]
    pub enable_grpc_stream_metrics: bool,
    /// Serve CPU profiles at /debug/pprof/profile.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set)]
    pub enable_pprof: bool,
}

/// TLS of the ext-proc and metrics servers.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
pub struct TlsFlags {
    /// TLS on the ext-proc port; self-signed where --cert-path is not given.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "true", require_equals = true, action = ArgAction::Set)]
    pub secure_serving: bool,
    /// Directory with `tls.crt` and `tls.key`.
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    pub cert_path: String,
    /// Reload the certificate of --cert-path when its files change.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "false", require_equals = true, action = ArgAction::Set)]
    pub enable_cert_reload: bool,
    /// Lowest TLS version: VersionTLS12 or VersionTLS13.
    #[arg(long, value_name = "VERSION", default_value = "", hide_default_value = true)]
    pub tls_min_version: String,
    /// Cipher suites of TLS 1.2, by Go's names.
    #[arg(long, value_name = "SUITES", value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    /// Directory with `tls.crt` and `tls.key` for the metrics port, which is clear text without it.
    /// Reloaded when they change.
    #[arg(long, value_name = "DIR", default_value = "", hide_default_value = true)]
    pub metrics_cert_dir: String,
    /// Certificate authority of the clients that may read metrics; needs --metrics-cert-dir.
    #[arg(long, value_name = "FILE", default_value = "", hide_default_value = true)]
    pub metrics_client_ca_file: String,
}

/// Logs and traces.
#[derive(Debug, Args)]
#[command(next_help_heading = "Logs and traces")]
pub struct LogFlags {
    /// Verbosity: 2 default, 4 debug, 5 trace.
    #[arg(
        short = 'v',
        long = "v",
        value_name = "N",
        default_value_t = 2,
        allow_negative_numbers = true
    )]
    pub verbosity: i64,
    /// json or human; people on a terminal get human.
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Traces, where an OTEL_* variable says where to.
    #[arg(long, num_args = 0..=1, value_name = "true|false", value_parser = super::go_bool, default_missing_value = "true", default_value = "true", require_equals = true, action = ArgAction::Set)]
    pub tracing: bool,
    /// Level by zap's name; goes before -v.
    #[arg(long, value_name = "LEVEL", default_value = "", hide_default_value = true)]
    pub zap_log_level: String,
    /// json or console.
    #[arg(long, value_name = "ENCODER", default_value = "", hide_default_value = true)]
    pub zap_encoder: String,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    zap_devel: Option<String>,
    #[arg(long, hide = true)]
    zap_stacktrace_level: Option<String>,
    #[arg(long, hide = true)]
    zap_time_encoding: Option<String>,
}

impl PickerFlags {
    /// The pipeline's settings.
    pub fn settings(&self, pool_name: String) -> Result<Settings, UsageError> {
        self.rejected.check()?;
        let flags = &self.decide;
        if !(0.0..=1.0).contains(&flags.record_decisions) {
            return Err(UsageError("--record-decisions is a share from 0 to 1".to_owned()));
        }
        Ok(Settings {
            pool_name,
            max_body_bytes: bytes("--max-body-bytes", &flags.max_body_bytes)?,
            max_buffered_bytes: bytes("--max-buffered-bytes", &flags.max_buffered_bytes)?,
            refresh_interval: positive(
                "--refresh-metrics-interval",
                flags.refresh_metrics_interval,
            )?,
            staleness_threshold: positive(
                "--metrics-staleness-threshold",
                flags.metrics_staleness_threshold,
            )?,
            pool_metrics_interval: positive(
                "--refresh-prometheus-metrics-interval",
                flags.refresh_prometheus_metrics_interval,
            )?,
            disable_subset_filter: flags.disable_endpoint_subset_filter,
            emit_endpoint_scores: flags.emit_endpoint_scores,
            tracing: false,
            seed: flags.seed.unwrap_or_else(|| router_rt::Seeds::from_entropy().seed()),
            health: HealthSettings { enabled: flags.endpoint_health, ..HealthSettings::default() },
            decisions: DecisionSettings {
                sampling: flags.record_decisions,
                capacity: flags.max_recorded_decisions,
            },
        })
    }
}

impl RejectedFlags {
    fn check(&self) -> Result<(), UsageError> {
        let all = [
            ("--total-queued-requests-metric", &self.total_queued_requests_metric),
            ("--total-running-requests-metric", &self.total_running_requests_metric),
            ("--kv-cache-usage-percentage-metric", &self.kv_cache_usage_percentage_metric),
            ("--lora-info-metric", &self.lora_info_metric),
            ("--cache-info-metric", &self.cache_info_metric),
        ];
        match all.iter().find(|(_, value)| value.is_some()) {
            None => Ok(()),
            Some((flag, _)) => Err(UsageError(format!(
                "{flag} is gone: set the metric in `engineConfigs` of the core-metrics-extractor plugin"
            ))),
        }
    }
}

impl LogFlags {
    pub fn options(&self) -> Result<LogOptions, UsageError> {
        let level = match self.zap_log_level.as_str() {
            "" => LogOptions::level_of_verbosity(self.verbosity),
            name => LogOptions::level_of_zap(name)
                .map_err(|error| UsageError::at("--zap-log-level", error))?,
        };
        let encoder = Some(self.zap_encoder.as_str()).filter(|name| !name.is_empty());
        let format = crate::process::log_format(self.log_format.as_deref().or(encoder))?;
        Ok(LogOptions { format, level })
    }
}

/// A duration that is not negative and not zero.
pub(crate) fn positive(
    flag: &str,
    duration: GoDuration,
) -> Result<std::time::Duration, UsageError> {
    let duration = duration.to_std().filter(|duration| !duration.is_zero());
    duration.ok_or_else(|| UsageError(format!("{flag} must be longer than zero")))
}

/// A duration that may be zero.
pub(crate) fn not_negative(
    flag: &str,
    duration: GoDuration,
) -> Result<std::time::Duration, UsageError> {
    duration.to_std().ok_or_else(|| UsageError(format!("{flag} must not be negative")))
}

/// An amount of bytes above zero.
pub(crate) fn bytes(flag: &str, quantity: &Quantity) -> Result<usize, UsageError> {
    let n_bytes = usize::try_from(quantity.value()).ok().filter(|n_bytes| *n_bytes > 0);
    n_bytes.ok_or_else(|| UsageError(format!("{flag} must be more than zero")))
}

/// A size as the gRPC flags take it: a quantity, with an optional `B` after it.
pub(crate) fn message_size(flag: &str, text: &str) -> Result<Option<usize>, UsageError> {
    if text.is_empty() {
        return Ok(None);
    }
    let quantity: Quantity = text
        .strip_suffix(['B', 'b'])
        .unwrap_or(text)
        .parse()
        .map_err(|error| UsageError(format!("{flag}: {error}")))?;
    bytes(flag, &quantity).map(Some)
}
