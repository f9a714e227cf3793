//! Configuration of simulated servers: one flat document, keys as the reference simulator has them where it has
//! them, unknown keys refused.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::{Map, Value};

use super::{
    fake::FakeMetrics,
    faults::Faults,
    keys::{self, UnknownKey},
    span::Span,
};
use crate::model::{Profile, ProfileError};

/// Simulated servers of one process; bounds ports, tasks and memory.
const MAX_SERVERS: u32 = 4096;
const MAX_BODY_MB: u32 = 512;
const MAX_EMBEDDING_DIMENSIONS: u32 = 16_384;
const MAX_STATS_REQUESTS: u32 = 100_000;

/// All simulated servers of one process.
///
/// The document is flat: keys of [`ServerConfig`], its [`Profile`] and [`Faults`] stand beside those below and
/// hold for all servers; `overrides` changes them for single ones.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, remote = "Self")]
pub struct SimConfig {
    /// Address of the first server. Default 127.0.0.1.
    pub host: IpAddr,
    /// Port of the first server; 0 lets the system choose one for each. Default 8000.
    pub port: u16,
    /// How many servers, 1 to 4096. Default 1.
    pub servers: u32,
    /// Where the servers after the first listen.
    pub spread: Spread,
    /// Seed of texts, noise and injected failures. Equal prompts get equal texts on all servers. Default 1.
    pub seed: u64,
    #[serde(flatten)]
    pub server: ServerConfig,
    /// Keys that differ for single servers, by index: `{"3": {"time-factor": 10}}`.
    pub overrides: BTreeMap<u32, Value>,
}

/// How the addresses of several servers differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// One address, ports counting up.
    #[default]
    Ports,
    /// One port, addresses counting up (127.0.0.1, 127.0.0.2, …).
    Addresses,
}

/// One simulated server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ServerConfig {
    /// The base model's name. Default `sim-model`.
    pub model: String,
    /// Names that clients may use for it; empty means `model`.
    pub served_model_name: Vec<String>,
    /// LoRA adapters that are loaded from the start.
    pub lora_modules: Vec<LoraModule>,
    /// What answers say.
    pub mode: Mode,
    /// Largest request body in MiB, 1 to 512. Default 64.
    pub max_request_body_size_mb: u32,
    /// For so long after the start `/health/ready` answers 503. Default 0.
    pub startup_duration: Span,
    /// Refuse connections during `startup-duration` instead. Default false.
    pub startup_refuse: bool,
    /// Length of embeddings when the request does not say. Default 384.
    pub default_embedding_dimensions: u32,
    /// Echo `x-request-id` in responses. Default false.
    pub enable_request_id_headers: bool,
    /// Serve `/sleep`, `/wake_up` and `/is_sleeping`. Default true.
    pub enable_sleep_mode: bool,
    /// Value of the `x-inference-pod` response header; empty means `sim-<index>`.
    pub pod_name: String,
    /// Whose metric names `/metrics` shows.
    pub metrics_dialect: MetricsDialect,
    /// Requests that `/sim/stats` remembers. Default 256.
    pub stats_requests: u32,
    #[serde(flatten)]
    pub profile: Profile,
    #[serde(flatten)]
    pub runtime: Runtime,
}

/// What can change while the server runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Runtime {
    #[serde(flatten)]
    pub faults: Faults,
    /// Constants to show instead of what the engine says.
    pub fake_metrics: Option<FakeMetrics>,
}

/// A LoRA adapter.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraModule {
    pub name: String,
    #[serde(default)]
    pub path: String,
}

/// What answers say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Words that follow from the seed and the prompt.
    #[default]
    Random,
    /// The prompt, or the last user message of a chat.
    Echo,
}

/// Whose metric names `/metrics` shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MetricsDialect {
    #[default]
    Vllm,
    Sglang,
    TrtllmServe,
    TritonTensorrtLlm,
    Triton,
}

/// What makes a configuration unusable.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    #[error("{}", join(.0))]
    UnknownKeys(Vec<UnknownKey>),
    #[error("{0}")]
    Invalid(String),
    #[error("`{key}` is {value}; it must be {range}")]
    Range { key: &'static str, value: String, range: &'static str },
    #[error(transparent)]
    Profile(#[from] ProfileError),
    #[error("`overrides` names server {index}, there are {servers}")]
    NoSuchServer { index: u32, servers: u32 },
    #[error(
        "server {index} has no address: {host} and port {port} leave no room for {servers} servers"
    )]
    NoAddress { index: u32, host: IpAddr, port: u16, servers: u32 },
}

// === impl SimConfig ===

impl Default for SimConfig {
    fn default() -> Self {
        Self {
            host: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 8000,
            servers: 1,
            spread: Spread::Ports,
            seed: 1,
            server: ServerConfig::default(),
            overrides: BTreeMap::new(),
        }
    }
}

impl<'de> Deserialize<'de> for SimConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let document = Map::deserialize(deserializer)?;
        Self::from_document(document).map_err(de::Error::custom)
    }
}

impl SimConfig {
    /// Reads a document; every unknown key is named together with the nearest known one.
    pub fn from_document(document: Map<String, Value>) -> Result<Self, ConfigError> {
        let known = shown(&Self::default())?;
        let unknown = keys::unknown_keys(&document, &known);
        if !unknown.is_empty() {
            return Err(ConfigError::UnknownKeys(unknown));
        }
        let config = Self::deserialize(Value::Object(document))
            .map_err(|error: serde_json::Error| ConfigError::Invalid(error.to_string()))?;
        config.resolve()?;
        Ok(config)
    }

    /// The address and configuration of each server.
    pub(crate) fn resolve(&self) -> Result<Vec<(SocketAddr, ServerConfig)>, ConfigError> {
        if !(1..=MAX_SERVERS).contains(&self.servers) {
            let value = self.servers.to_string();
            return Err(ConfigError::Range { key: "servers", value, range: "1 to 4096" });
        }
        if let Some(&index) = self.overrides.keys().find(|&&index| index >= self.servers) {
            return Err(ConfigError::NoSuchServer { index, servers: self.servers });
        }
        (0..self.servers)
            .map(|index| {
                let config = match self.overrides.get(&index) {
                    None => self.server.clone(),
                    Some(changes) => self.server.changed(changes)?,
                };
                config.validate()?;
                Ok((self.address(index)?, config))
            })
            .collect()
    }

    fn address(&self, index: u32) -> Result<SocketAddr, ConfigError> {
        let offset =
            |first: u128, max: u128| Some(first + u128::from(index)).filter(|&nth| nth <= max);
        let address = match self.spread {
            Spread::Ports if self.port == 0 => Some(SocketAddr::new(self.host, 0)),
            Spread::Ports => offset(u128::from(self.port), u128::from(u16::MAX))
                .map(|port| SocketAddr::new(self.host, port as u16)),
            Spread::Addresses => match self.host {
                IpAddr::V4(host) => offset(u128::from(host.to_bits()), u128::from(u32::MAX))
                    .map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits as u32))),
                IpAddr::V6(host) => host
                    .to_bits()
                    .checked_add(u128::from(index))
                    .map(|bits| Ipv6Addr::from_bits(bits).into()),
            }
            .map(|host| SocketAddr::new(host, self.port)),
        };
        address.ok_or(ConfigError::NoAddress {
            index,
            host: self.host,
            port: self.port,
            servers: self.servers,
        })
    }
}

impl Serialize for SimConfig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

// === impl ServerConfig ===

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            model: "sim-model".to_owned(),
            served_model_name: Vec::new(),
            lora_modules: Vec::new(),
            mode: Mode::Random,
            max_request_body_size_mb: 64,
            startup_duration: Span::default(),
            startup_refuse: false,
            default_embedding_dimensions: 384,
            enable_request_id_headers: false,
            enable_sleep_mode: true,
            pod_name: String::new(),
            metrics_dialect: MetricsDialect::Vllm,
            stats_requests: 256,
            profile: Profile::default(),
            runtime: Runtime::default(),
        }
    }
}

impl ServerConfig {
    /// Names that clients may use for the base model.
    pub fn aliases(&self) -> Vec<String> {
        if self.served_model_name.is_empty() {
            vec![self.model.clone()]
        } else {
            self.served_model_name.clone()
        }
    }

    fn changed(&self, changes: &Value) -> Result<Self, ConfigError> {
        merged(self, changes)
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.profile.validate()?;
        self.runtime.validate()?;
        for (key, value, max, range) in [
            ("max-request-body-size-mb", self.max_request_body_size_mb, MAX_BODY_MB, "1 to 512"),
            (
                "default-embedding-dimensions",
                self.default_embedding_dimensions,
                MAX_EMBEDDING_DIMENSIONS,
                "1 to 16384",
            ),
            ("stats-requests", self.stats_requests.max(1), MAX_STATS_REQUESTS, "0 to 100000"),
        ] {
            if !(1..=max).contains(&value) {
                return Err(ConfigError::Range { key, value: value.to_string(), range });
            }
        }
        if self.model.is_empty() {
            return Err(ConfigError::Invalid("`model` is empty".to_owned()));
        }
        Ok(())
    }
}

// === impl Runtime ===

impl Runtime {
    /// What is left when `changes` (an object of some of the keys) are made.
    pub fn changed(&self, changes: &Value) -> Result<Self, ConfigError> {
        let runtime: Self = merged(self, changes)?;
        runtime.validate()?;
        Ok(runtime)
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.faults.validate()
    }
}

/// `base` with the keys of `changes` in place of its own.
pub(crate) fn merged<T>(base: &T, changes: &Value) -> Result<T, ConfigError>
where
    T: Serialize + Default + for<'de> Deserialize<'de>,
{
    let Value::Object(changes) = changes else {
        return Err(ConfigError::Invalid(format!("expected an object of settings, got {changes}")));
    };
    let unknown = keys::unknown_keys(changes, &shown(&T::default())?);
    if !unknown.is_empty() {
        return Err(ConfigError::UnknownKeys(unknown));
    }
    let mut document = shown(base)?;
    for (key, value) in changes {
        document.insert(key.clone(), value.clone());
    }
    serde_json::from_value(Value::Object(document))
        .map_err(|error| ConfigError::Invalid(error.to_string()))
}

fn shown<T: Serialize>(value: &T) -> Result<Map<String, Value>, ConfigError> {
    match serde_json::to_value(value) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Ok(Map::new()),
        Err(error) => Err(ConfigError::Invalid(error.to_string())),
    }
}

fn join(keys: &[UnknownKey]) -> String {
    keys.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
