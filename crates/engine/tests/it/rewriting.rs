//! Model rewrites from request to metrics: who serves, what is sent, what the client gets back.

use bytes::Bytes;
use proptest::prelude::*;
use router_engine::{BodyPlan, Rewrite, Rewrites, rewrites};
use router_framework::EndCause;
use router_testkit::router::{TestRouter, head, with_header};

use crate::roles::{CHAT, CHAT_PATH, by_queue, respond};

const HEADER: &str = "x-llm-d-model-name-rewrite";
const NO_MODEL: &str = r#"{"messages":[{"role":"user","content":"hello"}]}"#;

/// An object with one rule.
fn rewrite(name: &str, models: &[&str], targets: &[(&str, u32)]) -> Rewrite {
    let target = |&(model, weight): &(&str, u32)| rewrites::Target {
        model: model.into(),
        weight: Some(weight),
    };
    let rule = rewrites::Rule {
        models: models.iter().map(|&model| model.into()).collect(),
        targets: targets.iter().map(target).collect(),
    };
    Rewrite { name: name.into(), created: None, rules: vec![rule] }
}

fn world(rewrites: &[Rewrite]) -> TestRouter {
    let world = by_queue().settings(|settings| settings.seed = 5).build();
    world.datastore().set_rewrites(Rewrites::new(rewrites).0);
    world
}

/// Requests that a rewrite decided on, by its metric.
fn n_decisions(world: &TestRouter, rewrite: &str, model: &str, target: &str) -> f64 {
    let labels = [("model_rewrite_name", rewrite), ("model_name", model), ("target_model", target)];
    world.sum("llm_d_epp_model_rewrite_decisions_total", &labels)
}

#[tokio::test(start_paused = true)]
async fn a_canary_gets_its_share_of_ten_thousand_requests() {
    let world = world(&[rewrite("canary", &["m"], &[("m-v1", 90), ("m-v2", 10)])]);
    let mut n_canary = 0;
    for _ in 0..10_000 {
        let routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
        let BodyPlan::Splice { replacement, .. } = &routed.body_plan else { panic!("not sent") };
        let target = &*routed.exchange.request().target_model;
        assert_eq!(*replacement, format!("\"{target}\""));
        n_canary += u32::from(target == "m-v2");
    }
    // The standard deviation is 30. A right router misses four of them for one seed in 16,000; this seed is fixed.
    assert!(n_canary.abs_diff(1_000) <= 120, "{n_canary} of 10,000");
    assert_eq!(n_decisions(&world, "canary", "m", "m-v2"), f64::from(n_canary));
    assert_eq!(n_decisions(&world, "canary", "m", "m-v1"), f64::from(10_000 - n_canary));
}

#[tokio::test(start_paused = true)]
async fn the_split_follows_from_the_seed() {
    let canary = [rewrite("canary", &[], &[("a", 1), ("b", 1)])];
    let mut runs = Vec::new();
    for _ in 0..2 {
        let world = world(&canary);
        let mut targets = Vec::new();
        for _ in 0..100 {
            let routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
            targets.push(routed.exchange.request().target_model.to_string());
        }
        runs.push(targets);
    }
    assert_eq!(runs[0], runs[1]);
    assert!(runs[0].iter().any(|target| target == "a") && runs[0].iter().any(|t| t == "b"));
}

#[tokio::test(start_paused = true)]
async fn who_serves_is_said_by_the_rule_then_the_header_then_the_request() {
    let all = [rewrite("exact", &["m"], &[("exact", 1)]), rewrite("keep", &["kept"], &[])];
    let check = async |all: &[Rewrite], body: &str, asked: Option<&str>, expected: &str| {
        let world = world(all);
        let plain = head(CHAT_PATH);
        let request =
            asked.map_or_else(|| head(CHAT_PATH), |asked| with_header(plain, HEADER, asked));
        let body = Bytes::copy_from_slice(body.as_bytes());
        let target = match world.decide(request, body).await {
            Ok(routed) => routed.exchange.request().target_model.to_string(),
            Err(rejection) => rejection.to_string(),
        };
        assert_eq!(target, expected);
    };
    let kept = CHAT.replace("\"m\"", "\"kept\"");
    check(&all, CHAT, None, "exact").await;
    check(&all, CHAT, Some("header"), "exact").await;
    check(&all, &kept, None, "kept").await;
    check(&all, &kept, Some("header"), "header").await;
    check(&[], CHAT, Some("header"), "header").await;
    check(&all, NO_MODEL, Some("header"), "header").await;
    let generic = [rewrite("generic", &[], &[("default", 1)])];
    check(&generic, CHAT, None, "default").await;
    check(&generic, NO_MODEL, None, "default").await;
    let refused = world(&all).decide(head(CHAT_PATH), NO_MODEL).await.unwrap_err();
    assert!(refused.to_string().contains("model not found"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_model_is_given_one() {
    let world = world(&[rewrite("generic", &[], &[("default", 1)])]);
    let routed = world.decide(head(CHAT_PATH), NO_MODEL).await.unwrap();
    let BodyPlan::Splice { span, replacement } = routed.body_plan else { panic!("not sent") };
    let body = [Bytes::from_static(NO_MODEL.as_bytes())];
    let sent = router_wire::splice::splice(&body, span, replacement).concat();
    let sent: serde_json::Value = serde_json::from_slice(&sent).unwrap();
    let mut expected: serde_json::Value = serde_json::from_str(NO_MODEL).unwrap();
    expected["model"] = "default".into();
    assert_eq!(sent, expected);
    // The client has not said what to call it.
    let mut exchange = routed.exchange;
    respond(&mut exchange, 200, "application/json");
    let answer = Bytes::from_static(br#"{"model":"default"}"#);
    assert_eq!(exchange.on_chunk(answer.clone()).concat(), answer);
    assert_eq!(n_decisions(&world, "generic", "", "default"), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a20_what_cannot_be_rewritten_is_no_business_of_a_rule() {
    let world = world(&[rewrite("generic", &[], &[("default", 1)])]);
    let routed = world.decide(head("/v1/anything"), CHAT).await.unwrap();
    assert_eq!(routed.body_plan, BodyPlan::Pass);
    assert_eq!(&*routed.exchange.request().target_model, "");
    assert_eq!(n_decisions(&world, "generic", "", "default"), 0.0);
}

#[tokio::test(start_paused = true)]
async fn names_of_rules_are_shown_and_names_of_clients_are_not() {
    let all = [
        rewrite("exact", &["alias"], &[("served", 1)]),
        rewrite("generic", &[], &[("default", 1), ("line\nbreak", 1_000_000)]),
    ];
    let world = world(&all);
    let ask = async |model: &str| {
        let body = CHAT.replace("\"m\"", &format!("\"{model}\""));
        world.decide(head(CHAT_PATH), Bytes::from(body)).await.unwrap();
    };
    ask("alias").await;
    for n in 0..50 {
        ask(&format!("invented-{n}")).await;
    }
    assert_eq!(n_decisions(&world, "exact", "alias", "served"), 1.0);
    let labels = [("model_rewrite_name", "generic"), ("model_name", "other")];
    assert_eq!(world.sum("llm_d_epp_model_rewrite_decisions_total", &labels), 50.0);
    let page = world.page();
    assert!(!page.contains("invented-") && !page.contains("break"), "{page}");
}

/// A response to a request for `m` that `m-canary-2` serves, with that name in every spelling.
fn responses() -> impl Strategy<Value = (String, String, &'static str)> {
    let spelling = prop::sample::select(vec![
        r#""m-canary-2""#,
        r#""m\u002dcanary\u002D2""#,
        r#""\u006d-canary-2""#,
        r#""m-c\u0061nary-2""#,
    ]);
    let event = (spelling, "[a-z\\\\\"m-]{0,12}", prop::sample::select(vec![":", " : ", ": "]));
    let document = event.prop_map(|(name, text, colon)| {
        let text = serde_json::Value::from(text);
        let of = |name: &str| {
            format!(r#"{{"id":1,"model"{colon}{name},"choices":[{{"delta":{{"content":{text},"model":"m-canary-2"}}}}]}}"#)
        };
        (of(name), of(r#""m""#))
    });
    let stream = prop::collection::vec(document.clone(), 1..5).prop_map(|events| {
        let join = |all: Vec<String>| {
            let events = all.iter().flat_map(|event| ["data: ", event, "\n\n"]);
            events.chain(["data: [DONE]\n\n"]).collect::<String>()
        };
        let (before, after) = events.into_iter().unzip();
        (join(before), join(after), "text/event-stream")
    });
    prop_oneof![document.prop_map(|(a, b)| (a, b, "application/json")), stream]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn names_are_restored_however_a_response_is_cut(
        (body, expected, content_type) in responses(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let got = runtime.block_on(async {
            let world = world(&[rewrite("canary", &["m"], &[("m-canary-2", 1)])]);
            let mut exchange = world.decide(head(CHAT_PATH), CHAT).await.unwrap().exchange;
            respond(&mut exchange, 200, content_type);
            let body = Bytes::from(body);
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
            cuts.push(body.len());
            cuts.sort_unstable();
            let (mut got, mut at) = (Vec::new(), 0);
            for cut in cuts {
                got.extend(exchange.on_chunk(body.slice(at..cut)).concat());
                at = cut;
            }
            got.extend(exchange.finish_body().concat());
            exchange.end(EndCause::Natural);
            String::from_utf8(got).unwrap()
        });
        prop_assert_eq!(got, expected);
    }
}
