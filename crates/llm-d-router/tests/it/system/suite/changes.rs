//! Files that change under load: no request may notice.

use anyhow::{Context, ensure};
use router_testkit::process::poll_until;
use serde_json::json;

use crate::system::{
    Front, Outcome, Plan, World,
    client::Call,
    document::{self, only_endpoint},
    load::{Load, all_served},
    world::LIMIT,
};

const N_WORKERS: usize = 4;

fn plan(front: Front) -> Plan {
    Plan::new(front, 3).sim(json!({ "time-factor": 0.1 }))
}

fn load(world: &World) -> Load {
    Load::start(&world.client(), N_WORKERS, |number| {
        let body = json!({
            "model": "sim-model", "max_tokens": 20, "ignore_eos": true,
            "stream": number.is_multiple_of(2),
            "messages": [{ "role": "user", "content": format!("number {number}") }],
        });
        Call::json("/v1/chat/completions", &body)
    })
}

fn port(world: &World, number: usize) -> u16 {
    world.server(number).address().port()
}

/// Waits until a server is asked nothing more.
async fn forsaken(world: &World, load: &Load, number: usize) -> Outcome {
    let mut n_before = None;
    let quiet = poll_until(LIMIT, || {
        let stats = world.server(number).stats();
        let was = n_before.replace((stats.received, load.n_ended()));
        let is_quiet = was.is_some_and(|(n_received, _)| n_received == stats.received);
        async move {
            // Long enough for each of the servers to have got several.
            load.more(10 * N_WORKERS).await.ok()?;
            is_quiet.then_some(())
        }
    });
    quiet.await.with_context(|| format!("server {number} still gets requests"))
}

pub(crate) async fn endpoints(front: Front) -> Outcome {
    plan(front)
        .listed(2)
        .run(async |world| {
            let load = load(world);
            load.more(10).await?;
            ensure!(world.received()[2] == 0, "a server that is not listed gets requests");
            world.list(&[0, 1, 2])?;
            load.served_by(port(world, 2)).await?;
            world.list(&[1, 2])?;
            forsaken(world, &load, 0).await?;
            // A file that cannot be read leaves everything as it was.
            document::replace(&world.endpoints_file, "endpoints: [{name: \"")?;
            world.logged("endpoints stay as they are").await?;
            load.more(50).await?;
            // Written in place, and to a single endpoint.
            let address = world.server(0).address();
            std::fs::write(&world.endpoints_file, document::endpoints([(0, &address)]))?;
            load.served_by(port(world, 0)).await?;
            forsaken(world, &load, 1).await?;
            all_served(&load.stop().await?)
        })
        .await
}

pub(crate) async fn configuration(front: Front) -> Outcome {
    plan(front)
        .run(async |world| {
            let load = load(world);
            for number in 0..3 {
                load.served_by(port(world, number)).await?;
            }
            document::replace(
                &world.config_file,
                "apiVersion: llm-d.ai/v1alpha1\nkind: nonsense\n",
            )?;
            world.logged("last good configuration").await?;
            load.more(50).await?;
            world.configure(&[only_endpoint(1)])?;
            world.logged("configuration reloaded").await?;
            forsaken(world, &load, 0).await?;
            forsaken(world, &load, 2).await?;
            all_served(&load.stop().await?)
        })
        .await
}

/// The manifest of a pool that has the server of this number.
fn pool(number: usize) -> String {
    format!(
        "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata:\n  name: pool\nspec:\n  \
         selector: {{matchLabels: {{number: \"{number}\"}}}}\n  targetPorts: [{{number: 8000}}]\n"
    )
}

pub(crate) async fn resources(front: Front) -> Outcome {
    plan(front)
        .listed(1)
        .resources(pool(0))
        .run(async |world| {
            let file = world.config_file.with_file_name("resources.yaml");
            world.logged("ports that are none of the pool's").await?;
            world.list(&[0, 1, 2])?;
            world.logged("\"n_reported\":3,\"n_selected\":1").await?;
            let load = load(world);
            load.more(50).await?;
            let received = world.received();
            ensure!(received[1] == 0 && received[2] == 0, "outside of the pool: {received:?}");
            document::replace(&file, &pool(1))?;
            load.served_by(port(world, 1)).await?;
            forsaken(world, &load, 0).await?;
            // What is wrong leaves everything as it was, and says where.
            document::replace(&file, &pool(2).replace("targetPorts", "targetPort"))?;
            let line = world.logged("going on with the last good resources").await?;
            let place = "resources.yaml:7:3: error: spec.targetPort: unknown key `targetPort`";
            ensure!(line.contains(place) && line.contains("did you mean `targetPorts`?"), "{line}");
            forsaken(world, &load, 0).await?;
            // Another configuration has the same pool.
            world.configure(&document::default_scorers())?;
            document::replace(&file, &pool(2))?;
            load.served_by(port(world, 2)).await?;
            world.configure(&[document::scorer("queue-scorer", 1)])?;
            world.logged("configuration reloaded").await?;
            forsaken(world, &load, 1).await?;
            // Another pool is another router's.
            document::replace(&file, &pool(0).replace("name: pool", "name: other"))?;
            world.logged("no InferencePool here is the one that is served, `pool`").await?;
            // Without a pool all endpoints serve.
            document::replace(&file, "")?;
            load.served_by(port(world, 0)).await?;
            load.served_by(port(world, 1)).await?;
            all_served(&load.stop().await?)
        })
        .await
}
