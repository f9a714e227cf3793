//! One request, one answer: what changes on the way and what does not.

use http::{Method, Request, Response, StatusCode};
use router_framework::EndCause;
use router_net::{Target, body};
use router_proxy::ProxyOptions;
use router_rt::Tasks;

use crate::world::{
    Answer, CHAT, ModelServer, PROMPT, World, WorldOptions, chat, get, header, post, read_request,
    say, scripted, soon,
};

#[tokio::test]
async fn a_request_arrives_as_it_was_sent_but_for_what_the_router_adds() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{\"id\": 1 }").await;
    let world = World::new(&[model.addr]).await;
    let request = header(post("/v1/chat/completions?trace=1&x=%20", PROMPT), "x-twice", "1");
    let answer = world.ask(header(request, "x-twice", "2")).await;
    assert_eq!((answer.status, answer.text()), (200, "{\"id\": 1 }"));
    let seen = model.only();
    assert_eq!(seen.body, PROMPT);
    assert_eq!(seen.parts.method, Method::POST);
    assert_eq!(seen.parts.uri, "/v1/chat/completions?trace=1&x=%20");
    let twice: Vec<_> = seen.parts.headers.get_all("x-twice").iter().collect();
    assert_eq!(twice, ["1", "2"]);
    assert_eq!(seen.header("host"), Some(&*model.addr.to_string()));
    assert_eq!(seen.header("x-forwarded-host"), Some(&*world.addr.to_string()));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("content-length"), Some(&*PROMPT.len().to_string()));
    assert_eq!(seen.header("traceparent").unwrap().len(), 55);
    let id = seen.header("x-request-id").unwrap();
    assert_eq!(id.len(), 36);
    assert_eq!(answer.headers["x-request-id"], id);
    assert_eq!(world.ledger.only_end().await, (EndCause::Natural, Some(200)));
}

#[tokio::test]
async fn ids_of_the_client_are_kept() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[model.addr]).await;
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = header(header(chat(), "x-request-id", "mine"), "traceparent", trace);
    let answer = world.ask(request).await;
    assert_eq!(answer.headers["x-request-id"], "mine");
    let seen = model.only();
    assert_eq!(
        (seen.header("x-request-id"), seen.header("traceparent")),
        (Some("mine"), Some(trace))
    );
}

#[tokio::test]
async fn nobody_steers_the_router_from_outside() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let other = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[model.addr, other.addr]).await;
    let mut request = chat();
    let spoofed = [
        "x-gateway-destination-endpoint",
        "x-gateway-destination-endpoint-subset",
        "x-llm-d-inference-objective",
        "x-prefiller-host-port",
        "x-data-parallel-host-port",
    ];
    for name in spoofed {
        request = header(request, name, &other.addr.to_string());
    }
    world.ask(request).await;
    let seen = model.only();
    for name in spoofed {
        assert_eq!(seen.header(name), None, "{name}");
    }
    assert_eq!(other.n_seen(), 0);
}

#[tokio::test]
async fn headers_of_the_hop_stay_on_the_hop() {
    let tasks = Tasks::new();
    let model = ModelServer::new(&tasks, || {
        Response::builder()
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("keep-alive", "timeout=7")
            .header("proxy-authenticate", "Basic")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .header("server", "model")
            .body(body::full("{}"))
            .unwrap()
    })
    .await;
    let world = World::new(&[model.addr]).await;
    let request = header(header(chat(), "connection", "keep-alive, x-secret"), "x-secret", "s");
    let answer = world.ask(header(request, "te", "gzip")).await;
    for name in ["connection", "x-hop", "keep-alive", "proxy-authenticate"] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }
    let cookies: Vec<_> = answer.headers.get_all("set-cookie").iter().collect();
    assert_eq!(cookies, ["a=1", "b=2"]);
    assert_eq!(answer.headers["server"], "model");
    let seen = model.only();
    for name in ["connection", "x-secret", "te"] {
        assert_eq!(seen.header(name), None, "{name}");
    }
}

#[tokio::test]
async fn a_request_without_a_body_goes_through_the_pipeline() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "pong").await;
    let world = World::new(&[model.addr]).await;
    assert_eq!(world.ask(get("/anything?x")).await.text(), "pong");
    let seen = model.only();
    assert_eq!(
        (seen.parts.uri.to_string(), seen.header("content-length")),
        ("/anything?x".into(), None)
    );
    world.ask(header(post("/v1/completions", ""), "content-length", "0")).await;
    assert_eq!(model.only().header("content-length"), Some("0"));
    assert_eq!(world.ledger.ended(2).await.path, ["e0", "e0"]);
}

#[tokio::test]
async fn answers_without_a_body_keep_their_head() {
    let tasks = Tasks::new();
    let addr = scripted(&tasks, |_, mut stream| async move {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\nx-a: 1\r\n\r\n",
            "HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\netag: \"e\"\r\nx-a: 1\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 0\r\n\r\n",
        ] {
            read_request(&mut stream).await.unwrap();
            say(&mut stream, answer).await;
        }
    })
    .await;
    let world = World::new(&[addr]).await;
    let check = async |method: Method, status: u16, length: Option<&str>| {
        let mut request = get("/x");
        *request.method_mut() = method;
        let answer = world.ask(request).await;
        assert_eq!((answer.status, answer.text()), (status, ""));
        assert_eq!(answer.headers["x-a"], "1");
        let header = answer.headers.get("content-length").map(|value| value.to_str().unwrap());
        assert_eq!(header, length);
    };
    check(Method::HEAD, 200, Some("1234")).await;
    check(Method::GET, 204, None).await;
    check(Method::GET, 304, None).await;
    check(Method::GET, 200, Some("0")).await;
    assert_eq!(world.ledger.ended(4).await.ends[1], (EndCause::Natural, Some(204)));
    assert_eq!(world.upstream.n_connects(), 1, "the connection is used again");
}

#[tokio::test]
async fn the_status_and_the_length_of_an_answer_are_kept() {
    let tasks = Tasks::new();
    let model = ModelServer::new(&tasks, || {
        let mut response = Response::new(body::full("{\"detail\":\"no\"}"));
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response
    })
    .await;
    let world = World::new(&[model.addr]).await;
    let answer = world.ask(chat()).await;
    assert_eq!((answer.status, answer.text()), (418, "{\"detail\":\"no\"}"));
    assert_eq!(answer.headers["content-length"], "15");
    assert!(!answer.headers.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn a_rewritten_model_is_spliced_in_and_restored() {
    let tasks = Tasks::new();
    let model = ModelServer::new(&tasks, || {
        let answer = "{\"model\":\"target/model\",\"text\":\"target/model\"}";
        Response::builder()
            .header("content-type", "application/json")
            .body(body::full(answer))
            .unwrap()
    })
    .await;
    let world = World::new(&[model.addr]).await;
    let request = header(chat(), "x-llm-d-model-name-rewrite", "target/model");
    let answer = world.ask(header(request, "accept-encoding", "gzip")).await;
    assert_eq!(answer.text(), "{\"model\":\"m\",\"text\":\"target/model\"}");
    assert!(!answer.headers.contains_key("content-length"));
    let seen = model.only();
    let expected = PROMPT.replace("\"m\"", "\"target/model\"");
    assert_eq!(seen.body, expected);
    assert_eq!(seen.header("content-length"), Some(&*expected.len().to_string()));
    assert_eq!(seen.header("accept-encoding"), None);
    assert_eq!(seen.header("x-llm-d-model-name-rewrite"), None);
}

#[tokio::test]
async fn the_model_servers_key_is_in_place_of_the_clients() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let proxy = ProxyOptions {
        upstream_authorization: Some("Bearer of-vllm".parse().unwrap()),
        ..ProxyOptions::default()
    };
    let world = World::with(&[model.addr], WorldOptions { proxy, ..WorldOptions::default() }).await;
    world.ask(header(chat(), "authorization", "Bearer mine")).await;
    assert_eq!(model.only().header("authorization"), Some("Bearer of-vllm"));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[model.addr]).await;
    for _ in 0..20 {
        assert_eq!(world.ask(chat()).await.status, 200);
    }
    assert_eq!((world.client.n_connects(), world.upstream.n_connects()), (1, 1));
    world.ledger.ended(20).await;
}

#[tokio::test]
async fn an_old_client_is_served() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[model.addr]).await;
    let length = PROMPT.len();
    let answer = world
        .raw(format!("POST {CHAT} HTTP/1.0\r\ncontent-length: {length}\r\n\r\n{PROMPT}"))
        .await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n{}"), "{answer}");
    assert_eq!(model.only().header("host"), Some(&*model.addr.to_string()));
}

#[tokio::test]
async fn an_absolute_target_is_made_relative() {
    let tasks = Tasks::new();
    let model = ModelServer::saying(&tasks, "{}").await;
    let world = World::new(&[model.addr]).await;
    let answer = world
        .raw("GET http://who.example:1/x?y HTTP/1.1\r\nhost: other\r\nconnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = model.only();
    assert_eq!(seen.parts.uri, "/x?y");
    assert_eq!(seen.header("x-forwarded-host"), Some("who.example:1"));
    let answer = world.raw("OPTIONS * HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(model.only().parts.uri, "*");
}

#[tokio::test]
async fn both_sides_can_use_tls_and_names() {
    use router_core::{EndpointSpec, Scheme};
    use router_framework::EndpointSink;
    use router_net::{
        ClientTls, Server, ServerOptions, ServerTls, UpstreamOptions,
        tls::{ClientTlsOptions, Roots, ServerTlsOptions},
    };

    let tasks = Tasks::new();
    let tls = ServerTls::self_signed(&[], &ServerTlsOptions::default()).unwrap();
    let echo_host = |request: Request<hyper::body::Incoming>| async move {
        let host = request.headers().get("host").map_or("", |host| host.to_str().unwrap());
        Response::new(body::full(host.to_owned()))
    };
    let model = Server::start(
        crate::world::listen().await,
        Some(tls),
        ServerOptions::named("model server"),
        &tasks,
        echo_host,
    )
    .unwrap();
    let insecure =
        ClientTlsOptions { roots: Roots::InsecureSkipVerify, ..ClientTlsOptions::default() };
    let upstream = UpstreamOptions {
        tls: Some(ClientTls::new(&insecure).unwrap()),
        ..UpstreamOptions::default()
    };
    let world = World::with(&[], WorldOptions { upstream, ..WorldOptions::default() }).await;
    let mut spec = EndpointSpec::new("default", "e0", "127.0.0.1", model.local_addr().port());
    spec.scheme = Scheme::Https;
    spec.host = Some("model.example".into());
    world.router.datastore().replace(vec![spec]);
    let target = Target::clear(world.addr);
    let answer = Answer::read(soon(world.client.send(&target, chat())).await.unwrap()).await;
    assert_eq!(answer.text(), format!("model.example:{}", model.local_addr().port()));
}
