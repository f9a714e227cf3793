//! Flow control as operators see it.

use std::collections::BTreeSet;

use anyhow::Context;
use router_testkit::process::poll_until;

use super::{CHAT, Folder, LIMIT, ONE_ENDPOINT, Outcome, PICKER, Program, SERVE, chat, send};

const POOL: &str = "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\n\
                    metadata: {name: llama}\nspec:\n  targetPorts: [{number: 8000}]\n  \
                    selector: {matchLabels: {app: llama}}\n  endpointPickerRef: {name: epp, port: {number: 9002}}\n";

/// Values of a label over all series whose name begins so.
fn values(page: &str, prefix: &str, label: &str) -> BTreeSet<String> {
    let label = format!("{label}=\"");
    let series = page.lines().filter(|line| line.starts_with(prefix));
    series
        .filter_map(|line| line.split_once(&label)?.1.split('"').next())
        .map(str::to_owned)
        .collect()
}

async fn check(flags: &[&str], name: &str, has_traffic: bool) -> Outcome {
    let router = Program::start(flags).await?;
    if has_traffic {
        send(router.traffic, CHAT, &[], &chat("demo", 1)).await?;
    }
    let (waits, pool) = ("llm_d_epp_flow_control_requests_total{", "llm_d_epp_ready_endpoints{");
    // The picker listens before it has read its endpoints.
    let has_endpoints = async || {
        let (_, page) = router.page("/metrics").await.ok()?;
        (!values(&page, pool, "name").is_empty()).then_some(page)
    };
    let page = poll_until(LIMIT, has_endpoints).await.context("no endpoints")?;
    let shown = values(&page, "llm_d_epp_flow_control_", "inference_pool");
    anyhow::ensure!(shown == BTreeSet::from([name.to_owned()]), "{flags:?}: {shown:?}");
    anyhow::ensure!(page.lines().any(|line| line.starts_with(waits)) == has_traffic, "{page}");
    let shown = values(&page, pool, "name");
    anyhow::ensure!(shown == BTreeSet::from([name.to_owned()]), "{flags:?}: {shown:?}");
    Ok(())
}

/// In Go it is the raw `--pool-name`: empty where that is not given.
#[tokio::test]
async fn a4_35_flow_control_has_the_name_of_the_pool_in_its_metrics() -> Outcome {
    let folder = Folder::new()?;
    let endpoints = folder.write("endpoints.yaml", ONE_ENDPOINT)?;
    let document = super::document(endpoints.as_ref(), "queue-scorer");
    let document = format!("{document}featureGates: [flowControl]\n");
    let config = folder.write("config.yaml", document)?;
    let pool = folder.write("pool.yaml", POOL)?;
    let config = ["--config-file", &config];
    let resources = ["--resources", &pool];
    let serve = [&SERVE[..], &config, &["--demo=1"]].concat();
    check(&serve, "serve", true).await?;
    check(&[&serve[..], &resources].concat(), "llama", true).await?;
    let picker = [&PICKER[..], &config].concat();
    check(&picker, "epp", false).await?;
    check(&[&picker[..], &resources].concat(), "llama", false).await?;
    check(&[&picker[..], &["--pool-name=mistral"]].concat(), "mistral", false).await
}
