//! Very many requests, and nothing left behind: `cargo xtask soak` runs a million of them in a release build,
//! this test as many as its time allows.

use router_bench::soak::{self, SoakArgs};

use super::{
    Outcome,
    plan::{N_PLACES, PLACES},
};

const N_REQUESTS: u64 = 20_000;

#[tokio::test]
async fn twenty_thousand_requests_leave_nothing_behind() -> Outcome {
    let _alone = PLACES.acquire_many(N_PLACES).await?;
    let args = SoakArgs {
        router: env!("CARGO_BIN_EXE_llm-d-router").into(),
        requests: N_REQUESTS,
        concurrency: 64,
        connections: 4,
        endpoints: 16,
        body_size: 4096,
    };
    soak::run(&args).await
}
