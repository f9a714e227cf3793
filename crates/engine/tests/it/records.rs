//! The record of a decision says what happened, and no prompt.

use router_engine::DecisionRecord;
use router_framework::SubsetHint;
use router_testkit::router::{RouterBuilder, TestRouter, head, spec, with_header};

use crate::roles::{CHAT, CHAT_PATH};

const CONFIG: &str = "
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: decode-filter
- type: queue-scorer
- type: kv-cache-utilization-scorer
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: decode-filter}
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 3}
";

fn world(sampling: f64) -> TestRouter {
    let role = |at, role: &str| spec(at).with_labels([("llm-d.ai/role", role)]);
    let specs = vec![role(0, "decode"), role(1, "prefill"), role(2, "decode"), role(3, "decode")];
    let world = RouterBuilder::new(CONFIG)
        .specs(specs)
        .objective("chat", 7)
        .objective("batch", -1)
        .settings(|settings| {
            settings.decisions.sampling = sampling;
            settings.decisions.capacity = 4;
        })
        .build();
    for (at, (waiting, kv)) in
        [(0.0, 0.5), (0.0, 0.0), (10.0, 0.25), (5.0, 0.75)].into_iter().enumerate()
    {
        world.publish(at, |signals| (signals.waiting, signals.kv_usage) = (waiting, kv));
    }
    world
}

fn last(world: &TestRouter) -> std::sync::Arc<DecisionRecord> {
    world.decisions().records()[0].clone()
}

#[tokio::test(start_paused = true)]
async fn it_tells_who_was_left_and_why_the_first_one_won() {
    let world = world(1.0);
    world.health().unreachable(&world.endpoint(3), world.clock().now());
    let request = with_header(head(CHAT_PATH), "x-request-id", "r-1");
    let request = with_header(request, "x-llm-d-inference-objective", "chat");
    world.decide(request, CHAT).await.unwrap();
    let record = last(&world);
    assert_eq!(record.request_id, "r-1");
    assert_eq!((record.model.as_str(), record.target_model.as_str()), ("m", "m"));
    assert_eq!((record.priority, record.fairness_id.as_str()), (7, "default-flow"));
    assert_eq!((record.n_endpoints, record.n_unhealthy), (4, 1));
    assert_eq!((record.n_candidates, record.n_screened), (3, Some(3)));
    let [profile] = &record.profiles[..] else { panic!("{record:?}") };
    let filters: Vec<_> =
        profile.filters.iter().map(|f| (f.filter.as_str(), f.n_in, f.n_out)).collect();
    assert_eq!(filters, [("decode-filter", 3, 2)]);
    let rows: Vec<_> = profile
        .candidates
        .iter()
        .map(|row| {
            let scores: Vec<_> =
                row.scores.iter().map(|s| (s.scorer.as_str(), s.raw, s.weighted)).collect();
            (row.endpoint.as_str(), row.address.as_str(), scores, row.total)
        })
        .collect();
    let (queue, kv) = ("queue-scorer", "kv-cache-utilization-scorer");
    assert_eq!(
        rows,
        [
            (
                "default/e0",
                "10.0.0.1:8000",
                vec![(queue, Some(1.0), 2.0), (kv, Some(0.5), 1.5)],
                3.5
            ),
            (
                "default/e2",
                "10.0.0.3:8000",
                vec![(queue, Some(0.0), 0.0), (kv, Some(0.75), 2.25)],
                2.25
            ),
        ]
    );
    assert_eq!(record.targets, ["default/e0", "default/e2"]);
    assert_eq!(
        record.reason,
        "default/e0 leads default/e2 by 1.2500 (3.5000 to 2.2500), most of it from queue-scorer"
    );
    assert_eq!((record.rejection.as_ref(), record.n_prompt_tokens), (None, None));
}

#[tokio::test(start_paused = true)]
async fn it_tells_how_long_the_prompt_is_where_a_plugin_counts() {
    let config = CONFIG
        .replace("- type: decode-filter\n", "- type: decode-filter\n- type: token-producer\n");
    let world = RouterBuilder::new(&config)
        .specs(vec![spec(0).with_labels([("llm-d.ai/role", "decode")])])
        .settings(|settings| settings.decisions.sampling = 1.0)
        .build();
    let body = CHAT.replace("hello", &"word".repeat(100));
    world.decide(head(CHAT_PATH), body).await.unwrap();
    let n_tokens = last(&world).n_prompt_tokens.unwrap();
    assert!((100..110).contains(&n_tokens), "four bytes are a token: {n_tokens}");
}

#[tokio::test(start_paused = true)]
async fn it_tells_why_a_request_went_nowhere() {
    let world = world(1.0);
    let mut request = head(CHAT_PATH);
    request.subset = SubsetHint::Only(vec!["10.0.0.2".to_owned()]);
    let rejection = world.decide(request, CHAT).await.unwrap_err();
    let record = last(&world);
    assert_eq!(record.rejection.as_deref(), Some(rejection.to_string().as_str()));
    assert!(rejection.to_string().contains("decode-filter"), "{rejection}");
    assert_eq!(record.targets, Vec::<String>::new());
    assert_eq!(record.profiles[0].filters[0].n_out, 0);
}

/// A refusal that comes before any profile runs has the numbers that were known by then.
#[tokio::test(start_paused = true)]
async fn it_counts_endpoints_however_early_the_request_is_refused() {
    let check = async |name: &str, prepare: fn(&TestRouter), subset: SubsetHint, expected| {
        let world = world(1.0);
        prepare(&world);
        let mut request = with_header(head(CHAT_PATH), "x-llm-d-inference-objective", "batch");
        request.subset = subset;
        world.decide(request, CHAT).await.unwrap_err();
        let record = last(&world);
        let counted = (record.n_endpoints, record.n_candidates, record.n_screened);
        assert_eq!(counted, expected, "{name}: {record:?}");
    };
    let fill = |world: &TestRouter| {
        for at in 0..4 {
            world.publish(at, |signals| (signals.waiting, signals.kv_usage) = (1000.0, 1.0));
        }
    };
    check("saturated", fill, SubsetHint::All, (4, 4, None)).await;
    let nobody = SubsetHint::Only(vec!["10.9.9.9".to_owned()]);
    check("an empty subset", |_| {}, nobody, (4, 0, None)).await;
}

#[tokio::test(start_paused = true)]
async fn no_opinion_is_told_apart_from_zero() {
    let world = world(1.0);
    world.publish(0, |signals| signals.kv_usage = f64::NAN);
    world.decide(head(CHAT_PATH), CHAT).await.unwrap();
    let record = last(&world);
    let row =
        record.profiles[0].candidates.iter().find(|row| row.endpoint == "default/e0").unwrap();
    assert_eq!(
        (row.scores[1].raw, row.scores[1].weighted),
        (None, 1.5),
        "the mean of 0.75 and 0.25"
    );
}

#[tokio::test(start_paused = true)]
async fn it_holds_no_prompt_and_the_ring_is_bounded_and_sampled() {
    let world = world(0.5);
    for _ in 0..64 {
        let body = CHAT.replace("hello", "a-very-secret-prompt");
        world.decide(head(CHAT_PATH), body).await.unwrap();
    }
    let records = world.decisions().records();
    assert_eq!(records.len(), 4);
    assert!(!serde_json::to_string(&records).unwrap().contains("secret"));
    let ids: Vec<_> = records.iter().map(|record| record.request_id.clone()).collect();
    let all = RouterBuilder::new(CONFIG).endpoints(1).build();
    assert!(!all.decisions().is_on() && all.decisions().records().is_empty());
    assert_eq!(ids.len(), ids.iter().collect::<std::collections::BTreeSet<_>>().len());
}
