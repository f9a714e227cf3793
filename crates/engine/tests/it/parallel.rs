//! Deciders on several threads may see each other's requests one decision late, and no later (design §9).

use parking_lot::Mutex;
use router_engine::Exchange;
use router_testkit::router::{RouterBuilder, head};

use crate::roles::{CHAT, CHAT_PATH};

const CONFIG: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: active-request-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: active-request-scorer, weight: 1}
";

const N_ENDPOINTS: usize = 8;
const N_THREADS: usize = 4;
const N_REQUESTS: usize = 200;

#[test]
fn requests_in_flight_stay_even_within_one_decision_per_decider() {
    let world = RouterBuilder::new(CONFIG).endpoints(N_ENDPOINTS).build();
    let held: Mutex<Vec<Exchange>> = Mutex::default();
    let decide_many = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for _ in 0..N_REQUESTS {
            let routed = runtime.block_on(world.decide(head(CHAT_PATH), CHAT)).unwrap();
            held.lock().push(routed.exchange);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..N_THREADS {
            scope.spawn(decide_many);
        }
    });
    let n_on = |at: usize| {
        let name = format!("e{at}");
        let labels = [("endpoint_name", name.as_str())];
        world.sum("llm_d_epp_inflight_requests", &labels)
    };
    let counts: Vec<f64> = (0..N_ENDPOINTS).map(n_on).collect();
    assert_eq!(counts.iter().sum::<f64>(), (N_THREADS * N_REQUESTS) as f64);
    let most = counts.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let least = counts.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(most - least <= N_THREADS as f64, "{counts:?}");
    held.lock().clear();
    assert_eq!(world.sum("llm_d_epp_inflight_requests", &[]), 0.0);
}

#[test]
fn one_decider_never_adds_to_a_fuller_endpoint() {
    let world = RouterBuilder::new(CONFIG).endpoints(N_ENDPOINTS).build();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut counts = [0_usize; N_ENDPOINTS];
    let mut held = Vec::new();
    for _ in 0..N_REQUESTS {
        let routed = runtime.block_on(world.decide(head(CHAT_PATH), CHAT)).unwrap();
        let target = routed.targets[0].name().trim_start_matches('e').parse::<usize>().unwrap();
        assert_eq!(counts[target], *counts.iter().min().unwrap(), "{counts:?}");
        counts[target] += 1;
        held.push(routed.exchange);
    }
}
