//! Where requests go, and what changes in their heads.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use router_core::{ErrorCode, Rejection};
use router_engine::Routed;
use router_framework::{
    BodyParser, Identity, Parser, RequestHead, RequestHeaderHook, ResponseKind, ResponseParser,
    SaturationDetector, SubsetHint,
};
use router_testkit::router::{RouterBuilder, TestRouter, head, named, spec, with_header};

use crate::roles::{BY_QUEUE, BadParser, CHAT, CHAT_PATH, Full, by_queue, complete, queues};

fn names(routed: &Routed) -> Vec<&str> {
    routed.targets.iter().map(|endpoint| endpoint.name()).collect()
}

fn only(mut head: RequestHead, entries: &[&str]) -> RequestHead {
    head.subset = SubsetHint::Only(entries.iter().map(|entry| (*entry).to_owned()).collect());
    head
}

#[tokio::test(start_paused = true)]
async fn the_ranked_targets_are_all_candidates_and_the_header_shows_one() {
    let world = RouterBuilder::new(BY_QUEUE).endpoints(12).build();
    queues(&world);
    let routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(names(&routed), ["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7"]);
    assert_eq!(routed.destination, "10.0.0.1:8000");
}

#[tokio::test(start_paused = true)]
async fn a_picker_may_show_more_and_ipv6_has_brackets() {
    let config = BY_QUEUE.replace(
        "- type: queue-scorer",
        "- type: queue-scorer\n- type: max-score-picker\n  parameters: {maxNumOfEndpoints: 2}",
    );
    let config = format!("{config}  - {{pluginRef: max-score-picker}}\n");
    let mut six = spec(0);
    six.address = "fd00::1".into();
    let world = RouterBuilder::new(&config).specs(vec![six, spec(1), spec(2)]).build();
    queues(&world);
    let routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(routed.destination, "[fd00::1]:8000,10.0.0.2:8000");
    assert_eq!(routed.targets.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn subset_hints_restrict_and_the_first_one_counts() {
    let world = by_queue().build();
    queues(&world);
    let routed = world.decide(only(head(CHAT_PATH), &["10.0.0.3:8000", "10.0.0.2"]), CHAT).await;
    assert_eq!(names(&routed.unwrap()), ["e1", "e2"]);

    let (mut feed, decision) = world.begin(head(CHAT_PATH));
    feed.restrict(SubsetHint::Only(vec!["10.0.0.3:8000".to_owned()]));
    feed.restrict(SubsetHint::Only(vec!["10.0.0.1:8000".to_owned()]));
    feed.push(&CHAT.into());
    feed.end();
    assert_eq!(names(&decision.await.unwrap()), ["e2"]);

    let (mut feed, decision) = world.begin(only(head(CHAT_PATH), &["10.0.0.2:8000"]));
    feed.restrict(SubsetHint::Only(vec!["10.0.0.1:8000".to_owned()]));
    feed.push(&CHAT.into());
    feed.end();
    assert_eq!(names(&decision.await.unwrap()), ["e1"], "the head came first");
}

#[tokio::test(start_paused = true)]
async fn the_subset_can_be_ignored() {
    let world = by_queue().settings(|settings| settings.disable_subset_filter = true).build();
    let routed = world.decide(only(head(CHAT_PATH), &["10.0.0.3:8000"]), CHAT).await.unwrap();
    assert_eq!(routed.targets.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a06_a_request_without_a_body_goes_through_the_pipeline() {
    let config = BY_QUEUE
        .replace("- type: queue-scorer", "- type: queue-scorer\n- type: decode-filter")
        .replace("  plugins:\n  - {", "  plugins:\n  - {pluginRef: decode-filter}\n  - {");
    let role = |at, role: &str| spec(at).with_labels([("llm-d.ai/role", role)]);
    let specs = vec![role(0, "prefill"), role(1, "decode"), role(2, "decode")];
    let world = RouterBuilder::new(&config).specs(specs).build();
    queues(&world);
    let mut bodyless = head("/v1/models");
    bodyless.method = http::Method::GET;
    bodyless.end_of_stream = true;
    let mut routed = world.decide(bodyless.clone(), "").await.unwrap();
    assert_eq!(names(&routed), ["e1", "e2"], "by role and load, as for any request");
    complete(&mut routed.exchange, 200, "{}");
    assert_eq!(world.sum("llm_d_epp_request_total", &[("model_name", "")]), 1.0);
    assert_eq!(world.sum("llm_d_epp_request_error_total", &[]), 0.0);
    let routed = world.decide(only(bodyless.clone(), &["10.0.0.3:8000"]), "").await.unwrap();
    assert_eq!(names(&routed), ["e2"], "within the subset");
    let rejection = world.decide(only(bodyless, &[]), "").await.unwrap_err();
    assert_eq!(rejection.code, ErrorCode::ServiceUnavailable);
}

#[tokio::test(start_paused = true)]
async fn an_objective_gives_the_priority_and_the_alias_still_works() {
    let world = by_queue().objective("batch", -3).objective("chat", 7).build();
    queues(&world);
    let check = async |headers: &[(&str, &str)], priority, objective: Option<&str>| {
        let mut head = head(CHAT_PATH);
        for (name, value) in headers {
            head = with_header(head, name, value);
        }
        let routed = world.decide(head, CHAT).await.unwrap();
        let request = routed.exchange.request();
        assert_eq!((request.priority, request.objective.as_deref()), (priority, objective));
    };
    check(&[], 0, None).await;
    check(&[("x-llm-d-inference-objective", "batch")], -3, Some("batch")).await;
    check(&[("x-gateway-inference-objective", "chat")], 7, Some("chat")).await;
    check(&[("x-llm-d-inference-objective", "nobody")], 0, Some("nobody")).await;
    let both =
        [("x-gateway-inference-objective", "batch"), ("x-llm-d-inference-objective", "chat")];
    check(&both, 7, Some("chat")).await;
    check(&[("x-llm-d-inference-objective", " ")], 0, None).await;
    assert_eq!(world.sum("llm_d_epp_request_total", &[("priority", "7")]), 2.0);
}

/// Gives requests of nobody to an agent.
struct Agent;

impl RequestHeaderHook for Agent {
    fn on_request_headers(&self, _: &RequestHead, request: &mut Identity) -> Result<(), Rejection> {
        request.fairness_id.get_or_insert_with(|| "agent-1".into());
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn the_fairness_id_comes_from_the_client_then_from_a_plugin_then_from_us() {
    let check = async |world: &TestRouter, header: Option<(&str, &str)>, fairness_id: &str| {
        let mut head = head(CHAT_PATH);
        if let Some((name, value)) = header {
            head = with_header(head, name, value);
        }
        let routed = world.decide(head, CHAT).await.unwrap();
        assert_eq!(&*routed.exchange.request().fairness_id, fairness_id);
    };
    let plain = by_queue().build();
    check(&plain, None, "default-flow").await;
    check(&plain, Some(("x-llm-d-inference-fairness-id", "tenant")), "tenant").await;
    check(&plain, Some(("x-gateway-inference-fairness-id", "tenant")), "tenant").await;
    check(&plain, Some(("x-llm-d-inference-fairness-id", "Zürich")), "Zürich").await;
    let with_agents = by_queue()
        .change(|loaded| {
            let hook: Arc<dyn RequestHeaderHook> = Arc::new(Agent);
            loaded.request_headers.push(named("agents", hook));
        })
        .build();
    check(&with_agents, None, "agent-1").await;
    check(&with_agents, Some(("x-llm-d-inference-fairness-id", "tenant")), "tenant").await;
}

#[tokio::test(start_paused = true)]
async fn conditional_decode_needs_a_cached_prefix() {
    let config = BY_QUEUE
        .replace("- type: queue-scorer", "- type: prefix-cache-scorer")
        .replace("queue-scorer", "prefix-cache-scorer");
    let world = RouterBuilder::new(&config).endpoints(3).build();
    for at in 0..3 {
        world.publish(at, |signals| (signals.block_size, signals.n_blocks) = (16.0, 1024.0));
    }
    let prompt = "a prompt that fills several blocks of sixty-four tokens ".repeat(40);
    let body = format!(r#"{{"model":"m","messages":[{{"role":"user","content":"{prompt}"}}]}}"#);
    let prefer = |value: &str| with_header(head(CHAT_PATH), "prefer", value);
    let rejection = world.decide(prefer("if-available"), body.clone()).await.unwrap_err();
    assert_eq!(rejection.code, ErrorCode::PreconditionFailed);
    assert_eq!(rejection.message, "no decode worker has the requested KV cache");
    assert_eq!(
        world.sum("llm_d_epp_request_error_total", &[("error_code", "PreconditionFailed")]),
        1.0
    );
    assert_eq!(world.sum("llm_d_epp_request_running", &[]), 0.0);

    let mut first = world.decide(head(CHAT_PATH), body.clone()).await.unwrap();
    let served = first.targets[0].name().to_owned();
    complete(&mut first.exchange, 200, "{}");
    for value in
        ["if-available", "respond-async, IF-Available;x=1", "return=minimal , if-available"]
    {
        let routed = world.decide(prefer(value), body.clone()).await.unwrap();
        assert_eq!(routed.targets[0].name(), served, "{value}");
    }
    for value in ["return=representation", "not-if-available"] {
        assert!(world.decide(prefer(value), CHAT).await.is_ok(), "{value}");
    }
}

#[tokio::test(start_paused = true)]
async fn a04_a05_the_head_changes_only_where_it_must() {
    let world = by_queue().build();
    let mut request = head(CHAT_PATH);
    for (name, value) in [
        ("x-request-id", "mine"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("x-gateway-destination-endpoint", "6.6.6.6:1"),
        ("x-prefiller-host-port", "6.6.6.6:2"),
        ("x-llm-d-inference-objective", "root"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("accept-encoding", "gzip"),
    ] {
        request = with_header(request, name, value);
    }
    let mut headers = request.headers.clone();
    let routed = world.decide(request, CHAT).await.unwrap();
    assert!(routed.head_patch.set.is_empty(), "{:?}", routed.head_patch);
    routed.head_patch.apply(&mut headers);
    let left: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value)).collect();
    assert_eq!(
        left,
        [
            ("x-request-id", "mine"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("accept-encoding", "gzip"),
        ]
        .map(|(name, value)| (name, &*Box::leak(Box::new(HeaderValue::from_static(value)))))
    );
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_id_or_a_trace_gets_both() {
    let world = by_queue().build();
    for id in [None, Some(&b" "[..]), Some(&b"\xff\xfe"[..])] {
        let mut request = head(CHAT_PATH);
        if let Some(id) = id {
            request.headers.insert("x-request-id", HeaderValue::from_bytes(id).unwrap());
        }
        let mut headers: HeaderMap = request.headers.clone();
        let routed = world.decide(request, CHAT).await.unwrap();
        routed.head_patch.apply(&mut headers);
        let ours = &*routed.exchange.request().external_id;
        assert_eq!(headers["x-request-id"], ours);
        assert_eq!((ours.len(), &ours[14..15]), (36, "4"), "a UUID of version 4: {ours}");
        let trace = headers["traceparent"].to_str().unwrap();
        assert!(trace.starts_with("00-") && trace.ends_with("-00"), "{trace}");
    }
}

/// W3C Trace Context §3.2.2: a context that cannot be read ends there, and so does what vendors said of it.
#[tokio::test(start_paused = true)]
async fn a_malformed_trace_is_begun_anew() {
    let world = by_queue().build();
    let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for parents in [&["00-zz-zz-zz"][..], &[""], &["00-0-0-00"], &[good, good]] {
        let mut request = with_header(head(CHAT_PATH), "tracestate", "vendor=1");
        for parent in parents {
            request = with_header(request, "traceparent", parent);
        }
        let mut headers = request.headers.clone();
        world.decide(request, CHAT).await.unwrap().head_patch.apply(&mut headers);
        let sent: Vec<_> = headers.get_all("traceparent").iter().collect();
        let [sent] = sent[..] else { panic!("{parents:?}: {sent:?}") };
        assert_eq!((sent.len(), sent == good), (55, false), "{parents:?}: {sent:?}");
        assert_eq!(headers.get("tracestate"), None, "{parents:?}");
    }
}

/// Reads nothing and claims what the OpenAI parser claims.
struct Rival;

impl Parser for Rival {
    fn suffixes(&self) -> &'static [&'static str] {
        &["chat/completions"]
    }

    fn protocols(&self) -> &'static [&'static str] {
        &[]
    }

    fn begin(&self, _: &RequestHead) -> Result<Box<dyn BodyParser>, Rejection> {
        Err(Rejection::bad_request("the rival was asked"))
    }

    fn response(&self, _: &RequestHead, _: ResponseKind) -> Option<Box<dyn ResponseParser>> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_parsers_with_one_suffix_the_first_reads() {
    for (place, is_asked) in [(0, true), (usize::MAX, false)] {
        let builder = by_queue().change(move |loaded| {
            let place = place.min(loaded.parsers.len());
            loaded.parsers.insert(place, named("rival", Arc::new(Rival) as Arc<dyn Parser>));
        });
        let decided = builder.build().decide(head(CHAT_PATH), CHAT).await;
        assert_eq!(decided.is_err(), is_asked, "at {place}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_fallback_parser_does_not_hide_those_after_it() {
    let config = format!(
        "{}requestHandler:\n  parsers:\n  - pluginRef: passthrough-parser\n  - pluginRef: openai-parser\n",
        BY_QUEUE.replace(
            "plugins:\n- type: queue",
            "plugins:\n- type: passthrough-parser\n- type: openai-parser\n- type: queue"
        )
    );
    let world = RouterBuilder::new(&config)
        .endpoints(1)
        .change(|loaded| {
            let second: Arc<dyn Parser> = Arc::new(BadParser { at: "begin" });
            loaded.parsers.push(named("second-fallback", second));
        })
        .build();
    let routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(&*routed.exchange.request().model, "m", "read by the OpenAI parser");
    let routed = world.decide(head("/v1/files?x=/v1/chat/completions"), CHAT).await.unwrap();
    assert_eq!(&*routed.exchange.request().model, "", "passed through by the first fallback");
}

#[tokio::test(start_paused = true)]
async fn unhealthy_endpoints_are_left_out_before_anybody_looks_at_them() {
    let world = by_queue()
        .objective("low", -1)
        .change(|loaded| {
            let detector: Arc<dyn SaturationDetector> = Arc::new(Full(0.5));
            loaded.detector = named("half-full", detector);
        })
        .build();
    queues(&world);
    world.health().unreachable(&world.endpoint(0), world.clock().now());
    let routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
    assert_eq!(names(&routed), ["e1", "e2"]);
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_the_same_ids_and_picks_whether_decisions_are_recorded_or_not() {
    let run = async |seed, sampling| {
        let world = by_queue()
            .settings(|settings| {
                settings.seed = seed;
                settings.decisions.sampling = sampling;
            })
            .build();
        let mut seen = Vec::new();
        for _ in 0..32 {
            let routed = world.decide(head(CHAT_PATH), CHAT).await.unwrap();
            seen.push((routed.exchange.request().external_id.clone(), routed.destination));
        }
        seen
    };
    let first = run(1, 0.0).await;
    assert_eq!(first, run(1, 0.0).await);
    assert_eq!(first, run(1, 0.5).await);
    assert_ne!(first, run(2, 0.0).await);
}
