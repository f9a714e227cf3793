//! The health services of both ports.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use router_extproc::{
    ServerOptions,
    health::{EXT_PROC, LIVENESS, READINESS},
};
use router_proto::health::{
    HealthCheckRequest, HealthListRequest, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tonic::transport::Channel;

use super::client::{Picker, health, soon};
use crate::call::World;

fn named(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

async fn statuses(client: &mut HealthClient<Channel>) -> BTreeMap<String, ServingStatus> {
    let mut statuses = BTreeMap::new();
    // Names of somebody's probes get the truth about readiness, as they do of the Go implementation.
    for name in READINESS.iter().chain([&LIVENESS, &"somebodys-probe"]) {
        let answer = soon(client.check(named(name))).await.unwrap().into_inner();
        statuses.insert((*name).to_owned(), answer.status());
    }
    statuses
}

#[tokio::test]
async fn a45_a46_both_ports_tell_the_truth_under_every_name() {
    let picker = Picker::start(World::new(), ServerOptions::default(), false).await;
    for ready in [true, false, true] {
        picker.ready.store(ready, Ordering::Relaxed);
        for channel in [picker.connect().await, picker.connect_to_health().await] {
            let mut client = health(channel);
            let expected = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
            for (name, status) in statuses(&mut client).await {
                let expected = if name == LIVENESS { ServingStatus::Serving } else { expected };
                assert_eq!(status, expected, "{name:?}");
            }
            let listed = soon(client.list(HealthListRequest {})).await.unwrap().into_inner();
            assert_eq!(listed.statuses.len(), READINESS.len() + 1);
            assert_eq!(listed.statuses[EXT_PROC].status(), expected);
            assert_eq!(listed.statuses[LIVENESS].status(), ServingStatus::Serving);
        }
    }
}

#[tokio::test]
async fn a46_a_watch_follows_what_is_true() {
    let picker = Picker::start(World::new(), ServerOptions::default(), false).await;
    let mut client = health(picker.connect().await);
    let mut watch = soon(client.watch(named(EXT_PROC))).await.unwrap().into_inner();
    for ready in [true, false, true] {
        picker.ready.store(ready, Ordering::Relaxed);
        let expected = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        let status = soon(watch.message()).await.unwrap().unwrap();
        assert_eq!(status.status(), expected);
    }
}
