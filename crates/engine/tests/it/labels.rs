//! Label values that clients choose.

use std::collections::BTreeSet;

use router_testkit::router::head;

use crate::roles::{CHAT, CHAT_PATH, by_queue};

/// More names than one label may show.
const N_NAMES: usize = 1_200;
const MAX_NAMES: usize = 1_000;

#[tokio::test(start_paused = true)]
async fn a36_scheduling_attempts_show_no_more_models_than_other_families() {
    let world = by_queue().build();
    for n in 0..N_NAMES {
        let body = CHAT.replace(r#""m""#, &format!(r#""invented-{n}""#));
        assert!(world.decide(head(CHAT_PATH), body).await.is_ok());
    }
    let page = world.page();
    let series =
        page.lines().filter(|line| line.starts_with("llm_d_epp_scheduler_attempts_total{"));
    let models: BTreeSet<&str> = series
        .filter_map(|line| line.split_once("target_model_name=\"")?.1.split('"').next())
        .collect();
    assert_eq!(models.len(), MAX_NAMES + 1);
    assert!(models.contains("other"));
    assert_eq!(world.sum("llm_d_epp_scheduler_attempts_total", &[]), N_NAMES as f64);
}
