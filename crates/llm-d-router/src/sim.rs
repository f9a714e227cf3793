//! `llm-d-router sim`: simulated model servers, and those behind `serve --demo`.

use std::{fmt::Write, net::SocketAddr, path::Path, time::Duration};

use anyhow::Context;
use router_core::EndpointSpec;
use router_framework::document::tree;
use router_rt::Tasks;
use router_sim::server::{self, RunningSim, SimConfig};
use serde_json::{Map, Value};

use crate::{
    cli::SimArgs,
    configuration::{self, Faulty},
    process,
};

/// The model that the demo's servers serve.
const DEMO_MODEL: &str = "demo";
const MAX_CONFIG_BYTES: u64 = 1 << 20;

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: SimArgs) -> anyhow::Result<()> {
    let config = SimConfig::from_document(document(&args)?)?;
    process::block_on(async move {
        let telemetry = process::init_telemetry(&args.log.options()?, None)?;
        let tasks = Tasks::new();
        let sim = server::run(config, &tasks).await?;
        for address in sim.addresses() {
            process::say(&format!("http://{address}"));
        }
        if let Some(path) = &args.endpoints_file {
            write_endpoints(path, &sim.addresses())?;
        }
        process::asked_to_end().await?;
        let _late_tasks_are_logged = tasks.shutdown(Duration::from_secs(5)).await;
        telemetry.shutdown(Duration::from_secs(1));
        Ok(())
    })
}

/// The file's keys, with those of the flags over them.
fn document(args: &SimArgs) -> anyhow::Result<Map<String, Value>> {
    let mut keys = match &args.config {
        None => Map::new(),
        Some(path) => read_document(path)?,
    };
    for assignment in &args.set {
        let usage = || crate::cli::UsageError(format!("--set {assignment:?}: expected KEY=VALUE"));
        let (key, value) = assignment.split_once('=').ok_or_else(usage)?;
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
    let bytes = router_rt::read_file_bounded(path, MAX_CONFIG_BYTES)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let (root, diagnostics) = tree::parse(&path.display().to_string(), &bytes);
    match root.map(|root| root.to_json()) {
        Some(Value::Object(keys)) if !diagnostics.has_errors() => Ok(keys),
        Some(Value::Null) => Ok(Map::new()),
        _ => Err(Faulty(diagnostics.render(configuration::style()).trim_end().to_owned()).into()),
    }
}

/// Writes the servers as an endpoints file.
fn write_endpoints(path: &Path, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let mut text = String::from("endpoints:\n");
    for (n, address) in addresses.iter().enumerate() {
        write!(
            text,
            "- name: sim-{n}\n  address: \"{}\"\n  port: \"{}\"\n",
            address.ip(),
            address.port()
        )?;
    }
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
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
