//! The SDKs that applications use.

use anyhow::ensure;
use router_testkit::python;
use serde_json::json;

use crate::system::{Front, Outcome, Plan, World, world::LIMIT};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python");

pub(crate) async fn openai(front: Front) -> Outcome {
    // Room for a prompt of 10 MB, which is 655,360 tokens of the simulator.
    let room = json!({
        "max-model-len": 1 << 21, "max-num-batched-tokens": 1 << 24, "kv-cache-size": 200_000,
    });
    Plan::new(front, 3)
        .sim(room)
        .run(async |world| all_well(world, "openai_sdk.py", "/v1").await)
        .await
}

pub(crate) async fn anthropic(front: Front) -> Outcome {
    Plan::new(front, 2).run(async |world| all_well(world, "anthropic_sdk.py", "").await).await
}

async fn all_well(world: &World, name: &str, base_path: &str) -> Outcome {
    let said = script(world, name, base_path, &[]).await?;
    ensure!(said == "ok", "{name} said {said:?}");
    Ok(())
}

/// What one of the scripts prints, which drives the router with an SDK; it fails where anything is wrong.
pub(crate) async fn script(
    world: &World,
    name: &str,
    base_path: &str,
    args: &[String],
) -> anyhow::Result<String> {
    let base_url = format!("http://{}{base_path}", world.addr());
    let script = python::file(format!("{SCRIPTS}/{name}"))?.arg(base_url).arg("sim-model");
    Ok(python::run(script.args(args), 2 * LIMIT).await?)
}
