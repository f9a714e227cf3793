//! `llm-d-router sim`: simulated model servers, and those behind `serve --demo`.

use std::{fmt::Write, net::SocketAddr, path::Path, time::Duration};

use router_core::EndpointSpec;
use router_framework::document::tree;
use router_rt::Tasks;
use router_sim::server::{self, RunningSim, SimConfig, SimError};
use serde_json::{Map, Value};

use crate::{
    cli::{SimArgs, UsageError},
    configuration::{self, Faulty, read_file},
    process::{self, Signals},
};

/// The model that the demo's servers serve.
const DEMO_MODEL: &str = "demo";
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// How long to wait for tasks after they have been told to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: SimArgs) -> anyhow::Result<()> {
    let config = SimConfig::from_document(document(&args)?).map_err(UsageError::of)?;
    let logs = args.log.options()?;
    process::block_on(async move {
        let telemetry = process::init_telemetry(&logs, None)?;
        let mut signals = Signals::listen()?;
        let tasks = Tasks::new();
        let sim = server::run(config, &tasks).await.map_err(explained)?;
        for address in sim.addresses() {
            process::say(&format!("http://{address}"))?;
        }
        if let Some(path) = &args.endpoints_file {
            write_endpoints(path, &sim.addresses())?;
        }
        signals.next().await;
        let _late_tasks_are_logged = tasks.shutdown(STOP_DEADLINE).await;
        telemetry.shutdown(STOP_DEADLINE);
        Ok(())
    })
}

/// Says which flag helps.
fn explained(error: SimError) -> anyhow::Error {
    match error {
        SimError::Listen { address, source } => {
            anyhow::anyhow!("cannot listen on {address}: {source}; --port and --host choose others")
        }
        error => UsageError::of(error).into(),
    }
}

/// The file's keys, with those of the flags over them.
fn document(args: &SimArgs) -> anyhow::Result<Map<String, Value>> {
    let mut keys = match &args.config {
        None => Map::new(),
        Some(path) => read_document(path)?,
    };
    for assignment in &args.set {
        let usage = || UsageError(format!("--set {assignment:?}: expected KEY=VALUE"));
        let (key, value) = assignment.split_once('=').ok_or_else(usage)?;
        // A value that is no YAML is a text, such as one that begins with a percent sign.
        let (root, _) = tree::parse("--set", value.as_bytes());
        keys.insert(key.to_owned(), root.map_or_else(|| value.into(), |root| root.to_json()));
    }
    let flags: [(&str, Option<Value>); 6] = [
        ("servers", args.servers.map(Value::from)),
        ("port", args.port.map(Value::from)),
        ("host", args.host.map(|host| host.to_string().into())),
        ("spread", args.spread.then(|| "addresses".into())),
        ("model", args.model.clone().map(Value::from)),
        ("seed", args.seed.map(Value::from)),
    ];
    keys.extend(flags.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    Ok(keys)
}

fn read_document(path: &Path) -> anyhow::Result<Map<String, Value>> {
    let bytes = read_file(path, MAX_CONFIG_BYTES)?;
    let (root, diagnostics) = tree::parse(&path.display().to_string(), &bytes);
    if diagnostics.has_errors() {
        let faults = diagnostics.render(configuration::style());
        return Err(Faulty(faults.trim_end().to_owned()).into());
    }
    match root.map_or(Value::Null, |root| root.to_json()) {
        Value::Object(keys) => Ok(keys),
        Value::Null => Ok(Map::new()),
        _ => Err(UsageError(format!("{}: expected keys with values", path.display())).into()),
    }
}

/// Writes the servers as an endpoints file, in one step: whoever reads it never finds half of it.
fn write_endpoints(path: &Path, addresses: &[SocketAddr]) -> Result<(), UsageError> {
    let mut text = String::from("endpoints:\n");
    for (n, address) in addresses.iter().enumerate() {
        let (ip, port) = (address.ip(), address.port());
        let _writing_to_a_string_cannot_fail =
            write!(text, "- name: sim-{n}\n  address: \"{ip}\"\n  port: \"{port}\"\n");
    }
    let written = replace(path, &text);
    written.map_err(|error| UsageError(format!("cannot write {}: {error}", path.display())))
}

/// Writes beside the file and renames over it.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    std::fs::write(&new, text)?;
    std::fs::rename(&new, path).inspect_err(|_| {
        let _may_be_left_behind = std::fs::remove_file(&new);
    })
}

/// The simulated servers of `serve --demo`.
pub(crate) struct Demo {
    sim: RunningSim,
}

impl Demo {
    pub(crate) async fn start(n_servers: u16, tasks: &Tasks) -> anyhow::Result<Self> {
        let keys: [(&str, Value); 4] = [
            ("servers", n_servers.into()),
            ("port", 0.into()),
            ("model", DEMO_MODEL.into()),
            ("seed", 1.into()),
        ];
        let keys = keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        Ok(Self { sim: server::run(SimConfig::from_document(keys)?, tasks).await? })
    }

    pub(crate) fn endpoints(&self) -> Vec<EndpointSpec> {
        let addresses = self.sim.addresses();
        let spec = |(n, address): (usize, SocketAddr)| {
            EndpointSpec::new(
                "demo",
                &format!("sim-{n}"),
                &address.ip().to_string(),
                address.port(),
            )
        };
        addresses.into_iter().enumerate().map(spec).collect()
    }

    pub(crate) fn model(&self) -> &'static str {
        DEMO_MODEL
    }
}
