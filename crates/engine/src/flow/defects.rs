//! The defects of `spec/request-path.md` §A.4 that are about what flow control shows.

use router_telemetry::{BUILD, Registry, RouterMetrics, metrics::Format, router::FlowMetrics};

use super::*;
use crate::flow::meters::Place;

struct Page {
    registry: Registry,
    router: Arc<RouterMetrics>,
    meters: Meters,
}

impl Page {
    fn new() -> Self {
        let registry = Registry::default();
        let router = Arc::new(RouterMetrics::new(&registry, &BUILD).unwrap());
        let families = FlowMetrics::new(&registry).unwrap();
        let meters = Meters::new(families, "pool", Arc::clone(&router));
        Self { registry, router, meters }
    }

    fn enter(&self, flow: &str) -> Place {
        self.meters.enter(self.router.request("", "", flow, 0), 0, 100)
    }

    /// Values of the gauges of one flow.
    fn gauges(&self, flow: &str) -> Vec<f64> {
        let page = self.registry.encode(Format::Text);
        let is_gauge = |line: &&str| {
            line.starts_with("llm_d_epp_flow_control_queue_size{")
                || line.starts_with("llm_d_epp_flow_control_queue_bytes{")
        };
        let label = format!("fairness_id=\"{flow}\"");
        let values = page.lines().filter(is_gauge).filter(|line| line.contains(&label));
        values.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap()).collect()
    }
}

#[test]
fn a4_39_a_long_fairness_id_that_is_gone_is_off_the_page() {
    let page = Page::new();
    let long = "t".repeat(200);
    let place = page.enter(&long);
    page.meters.left(&place, Outcome::Dispatched, Duration::ZERO);
    assert_eq!(page.gauges(&long), [0.0, 0.0]);
    let gone = router_flow::FlowId::from(long.as_str());
    page.meters.forget(&BTreeSet::from([(gone.as_str().to_owned(), "0".to_owned())]));
    assert!(page.gauges(&long).is_empty());
}

#[test]
fn a4_39_a_series_that_was_pruned_never_makes_a_gauge_negative() {
    let page = Page::new();
    let prune = || page.meters.forget(&BTreeSet::from([("a".to_owned(), "0".to_owned())]));
    let before = page.enter("a");
    assert_eq!(page.gauges("a"), [100.0, 1.0]);
    // The flow counts as gone while one of its requests is still on its way into the queue.
    prune();
    let after = page.enter("a");
    page.meters.left(&before, Outcome::Dispatched, Duration::ZERO);
    assert_eq!(page.gauges("a"), [100.0, 1.0]);
    page.meters.left(&after, Outcome::Dispatched, Duration::ZERO);
    assert_eq!(page.gauges("a"), [0.0, 0.0]);
    let last = page.enter("a");
    prune();
    page.meters.left(&last, Outcome::Dispatched, Duration::ZERO);
    assert!(page.gauges("a").is_empty());
}
