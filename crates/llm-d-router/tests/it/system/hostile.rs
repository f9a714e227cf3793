//! The endpoint picker against clients that are not Envoy, or an Envoy gone wrong: whatever comes, an answer
//! or an error, and nothing left behind.

use anyhow::{Context, ensure};
use bytes::Bytes;
use http::{Method, Request, header};
use router_net::{Target, Upstream, UpstreamOptions, body as net_body};
use router_proto::{
    ext_proc::{
        HeaderValue, HttpHeaders, ProcessingRequest, processing_mode::BodySendMode,
        processing_request::Request as Message, processing_response::Response,
    },
    google::Value,
};
use router_testkit::process::poll_until;
use tonic::Code;

use super::{
    Front, Outcome, Plan, World,
    document::scorer,
    picker::{
        CHAT, Picker, Stream, body, head, head_with, modes, response_body, response_head,
        response_trailers, trailers, with_metadata,
    },
    world::{LIMIT, rss_kib},
};

const SUBSET: &str = "envoy.lb.subset_hint";
const SUBSET_KEY: &str = "x-gateway-destination-endpoint-subset";
/// Streams that stay open without a body. A connection may have 10,000.
const N_IDLE: usize = 3_000;
/// What such a stream may cost, in KiB: the engine's budget of 16 and what HTTP/2 keeps for it.
const IDLE_STREAM_KIB: u64 = 48;
/// A body longer than the default bound of 64 MiB.
const N_LONG_MIB: usize = 80;

fn plan() -> Plan {
    Plan::new(Front::Picker, 2)
        .entries(vec![scorer("active-request-scorer", 1), scorer("prefix-cache-scorer", 1)])
        .flag("--enable-grpc-stream-metrics")
}

/// A whole request and response, message by message.
fn whole() -> Vec<ProcessingRequest> {
    let (first, second) = CHAT.split_at(CHAT.len() / 2);
    vec![
        head(false),
        body(first, false),
        body(second, true),
        response_head("200", false),
        response_body("{\"usage\":", false),
        response_body("{}}", true),
    ]
}

/// Plays a good request to its end, to see that the picker still works.
async fn works(picker: &Picker) -> Outcome {
    let mut stream = picker.open().await?;
    stream.send(head(false)).await;
    stream.send(body(CHAT, true)).await;
    stream.destination().await?;
    ensure!(matches!(stream.answer().await?, Some(Ok(Response::RequestBody(_)))), "no body");
    stream.send(response_head("200", true)).await;
    ensure!(matches!(stream.answer().await?, Some(Ok(Response::ResponseHeaders(_)))), "no head");
    let mut answers = stream.half_close();
    ensure!(answers.message().await?.is_none(), "an answer to nothing");
    Ok(())
}

#[tokio::test]
async fn messages_in_any_order_end_the_stream_or_are_passed_by() -> Outcome {
    plan()
        .run(async |world| {
            let picker = Picker::connect(world.router_addr()).await?;
            let messages = whole();
            // Every message first, every message twice, every pair swapped.
            let mut orders: Vec<Vec<usize>> =
                (0..messages.len()).map(|first| vec![first]).collect();
            orders.extend((0..messages.len()).map(|at| (0..=at).chain([at, at]).collect()));
            orders.extend((1..messages.len()).map(|at| {
                let mut order: Vec<usize> = (0..messages.len()).collect();
                order.swap(at - 1, at);
                order
            }));
            orders.push((0..messages.len()).rev().collect());
            for order in orders {
                let stream = picker.open().await?;
                for &at in &order {
                    stream.send(messages[at].clone()).await;
                }
                let mut answers = stream.half_close();
                let ended = async { while let Ok(Some(_)) = answers.message().await {} };
                let in_time = tokio::time::timeout(LIMIT, ended).await;
                in_time.with_context(|| format!("a stream with the messages {order:?} hangs"))?;
            }
            let mut twice = picker.open().await?;
            twice.send(head(false)).await;
            twice.send(head(false)).await;
            ensure!(twice.end().await? == Code::InvalidArgument, "two heads are no error");
            works(&picker).await
        })
        .await
}

#[tokio::test]
async fn trailers_end_bodies_both_ways() -> Outcome {
    plan()
        .run(async |world| {
            let picker = Picker::connect(world.router_addr()).await?;
            let mut stream = picker.open().await?;
            stream.send(head(false)).await;
            stream.send(body(CHAT, false)).await;
            stream.send(trailers()).await;
            stream.destination().await?;
            let Some(Ok(Response::RequestBody(answer))) = stream.answer().await? else {
                anyhow::bail!("the body does not come")
            };
            let piece = answer.into_streamed().context("no streamed body")?;
            ensure!(piece.body == CHAT && !piece.end_of_stream, "{piece:?}");
            ensure!(
                matches!(stream.answer().await?, Some(Ok(Response::RequestTrailers(_)))),
                "no trailers"
            );
            stream.send(response_head("200", false)).await;
            stream.send(response_body("x", false)).await;
            stream.send(response_trailers()).await;
            ensure!(
                matches!(stream.answer().await?, Some(Ok(Response::ResponseHeaders(_)))),
                "no head"
            );
            ensure!(
                matches!(stream.answer().await?, Some(Ok(Response::ResponseBody(_)))),
                "no body"
            );
            ensure!(
                matches!(stream.answer().await?, Some(Ok(Response::ResponseTrailers(_)))),
                "no trailers"
            );
            // The request has ended although Envoy keeps the stream.
            let ended = || async {
                let counts = world.in_flight().await.ok()?;
                let mut left = counts.iter().filter(|(_, count)| **count != 0.0);
                left.all(|(series, _)| series.contains("streams")).then_some(())
            };
            poll_until(LIMIT, ended).await.context("the request has not ended")
        })
        .await
}

#[tokio::test]
async fn subset_hints_in_every_shape_are_followed() -> Outcome {
    plan()
        .run(async |world| {
            let picker = Picker::connect(world.router_addr()).await?;
            let addresses: Vec<String> =
                world.sim.addresses().iter().map(ToString::to_string).collect();
            let both = addresses.join(",");
            let list = |entries: &[&str]| {
                Value::from(entries.iter().map(|e| Value::from(*e)).collect::<Vec<_>>())
            };
            let hints = [
                (list(&[&addresses[1]]), Some(1)),
                (Value::from(addresses[0].as_str()), Some(0)),
                (list(&[&addresses[1], "10.0.0.1:1", "no address", ""]), Some(1)),
                (Value::from(both.as_str()), None),
                // What is no hint restricts nothing.
                (Value::from(5.0), None),
                (Value::null(), None),
            ];
            for (hint, expected) in hints {
                for on_head in [true, false] {
                    let hinted = |message, is_here| {
                        if is_here {
                            with_metadata(message, SUBSET, SUBSET_KEY, hint.clone())
                        } else {
                            message
                        }
                    };
                    let mut stream = picker.open().await?;
                    stream.send(hinted(head(false), on_head)).await;
                    stream.send(hinted(body(CHAT, true), !on_head)).await;
                    let destination = stream.destination().await?;
                    let picked = addresses.iter().position(|address| *address == destination);
                    let picked = picked.with_context(|| format!("{destination} is no server"))?;
                    ensure!(expected.is_none_or(|number| number == picked), "{hint:?}: {picked}");
                }
            }
            for nobody in [list(&[]), list(&["10.0.0.1:1"]), Value::from("")] {
                let mut stream = picker.open().await?;
                stream.send(with_metadata(head(false), SUBSET, SUBSET_KEY, nobody)).await;
                stream.send(body(CHAT, true)).await;
                ensure!(stream.refusal().await? == 503, "a hint that allows nobody");
            }
            Ok(())
        })
        .await
}

#[tokio::test]
async fn streams_that_are_reset_at_any_stage_leave_nothing() -> Outcome {
    plan()
        .run(async |world| {
            let picker = Picker::connect(world.router_addr()).await?;
            let messages = whole();
            for n_sent in 0..=messages.len() {
                for n_read in 0..=n_sent {
                    for _ in 0..4 {
                        let mut stream = picker.open().await?;
                        for message in messages.iter().take(n_sent) {
                            stream.send(message.clone()).await;
                        }
                        // As many answers as certainly come: none before the body's end.
                        for _ in 0..n_read.min(answers_to(n_sent)) {
                            stream.answer().await?;
                        }
                    }
                }
            }
            works(&picker).await
        })
        .await
}

/// Answers that so many messages of a whole request get.
fn answers_to(n_sent: usize) -> usize {
    // The head and the body, whose two pieces come back as one, are answered at the body's end.
    if n_sent < 3 { 0 } else { n_sent - 1 }
}

#[tokio::test]
async fn foreign_bytes_are_refused() -> Outcome {
    plan()
        .run(async |world| {
            let picker = Picker::connect(world.router_addr()).await?;
            for (what, message, expected) in hostile_heads() {
                let mut stream = picker.open().await?;
                stream.send(message).await;
                stream.send(body(CHAT, true)).await;
                match expected {
                    Expected::Ended(code) => {
                        let got = stream.end().await?;
                        ensure!(got == code, "{what}: {got:?}");
                    }
                    Expected::Refused(status) => {
                        let got = stream.refusal().await.context(what)?;
                        ensure!(got == status, "{what}: {got}");
                    }
                    Expected::Served => drop(stream.destination().await.context(what)?),
                }
            }
            for (what, bytes) in [
                ("invalid UTF-8", &b"{\"model\":\"\xc3\x28\",\"messages\":[]}"[..]),
                ("zeros", &[0; 1000]),
                ("nothing", &[]),
            ] {
                let mut stream = picker.open().await?;
                stream.send(head(false)).await;
                stream.send(body(Bytes::copy_from_slice(bytes), true)).await;
                ensure!(stream.refusal().await? == 400, "{what}");
            }
            too_long(&picker).await?;
            not_grpc(world).await?;
            works(&picker).await
        })
        .await
}

/// What comes of a hostile head with a good body after it.
enum Expected {
    Served,
    Refused(i32),
    Ended(Code),
}

fn hostile_heads() -> Vec<(&'static str, ProcessingRequest, Expected)> {
    let raw = |name: &str, value: &[u8]| HeaderValue::raw(name, value.to_vec());
    let many = (0..2_000).map(|n| HeaderValue::raw(format!("x-{n}"), "v")).collect();
    let large = vec![raw("x-large", &vec![b'a'; 1 << 20])];
    let too_large = vec![raw("x-large", &vec![b'a'; 5 << 20])];
    let odd = vec![
        raw("x-bytes", b"\xff\xfe\x80"),
        raw("bad name\r\n", b"x"),
        raw("", b"x"),
        raw("x-lines", b"a\r\nb"),
        raw(":unknown", b"x"),
        raw("x-llm-d-slo-ttft-ms", b"NaN"),
        raw("x-llm-d-inference-objective", &[b'o'; 10_000]),
        raw("x-llm-d-inference-fairness-id", b"\x01\xff"),
        raw("traceparent", b"00-zz-zz-zz"),
        raw("content-length", b"-1"),
        raw("x-request-id", &[b'i'; 100_000]),
    ];
    // Without a path it is taken for a completion, whose prompt the body has not.
    let no_path = vec![raw(":path", b"/v1/\xff"), raw(":method", b"\x00")];
    let buffered = ProcessingRequest {
        protocol_config: Some(modes(BodySendMode::Buffered)),
        ..Message::RequestHeaders(HttpHeaders::default()).into()
    };
    let mut unknown_mode = head(false);
    if let Some(config) = &mut unknown_mode.protocol_config {
        config.request_body_mode = 77;
    }
    let no_headers = Message::RequestHeaders(HttpHeaders::default()).into();
    vec![
        ("2,000 headers", head_with(many, false), Expected::Ended(Code::InvalidArgument)),
        ("a header of 1 MB", head_with(large, false), Expected::Served),
        ("a header of 5 MB", head_with(too_large, false), Expected::Ended(Code::OutOfRange)),
        ("odd headers", head_with(odd, false), Expected::Served),
        ("no path", head_with(no_path, false), Expected::Refused(400)),
        ("no headers", no_headers, Expected::Refused(400)),
        ("another body mode", buffered, Expected::Ended(Code::FailedPrecondition)),
        ("an unknown body mode", unknown_mode, Expected::Ended(Code::FailedPrecondition)),
    ]
}

/// A body that does not end is refused when it is too long, and takes no more memory than allowed.
async fn too_long(picker: &Picker) -> Outcome {
    let mut stream = picker.open().await?;
    stream.send(head(false)).await;
    let piece = Bytes::from(vec![b' '; 1 << 20]);
    let sender = stream.sender();
    let sending = async {
        for _ in 0..N_LONG_MIB {
            if sender.send(body(piece.clone(), false)).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let status = tokio::select! {
        biased;
        status = stream.refusal() => status?,
        () = sending => 0,
    };
    ensure!(status == 413, "a body of {N_LONG_MIB} MiB is answered {status}");
    Ok(())
}

/// Bytes that are no protobuf, no gRPC, no known service.
async fn not_grpc(world: &World) -> Outcome {
    let upstream = Upstream::new(UpstreamOptions::default(), &world.tasks);
    let target = Target::clear(world.router_addr()).http2();
    let path = "/envoy.service.ext_proc.v3.ExternalProcessor/Process";
    let garbage: Vec<u8> =
        (0..100_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let framed = |length: u32, message: &[u8]| {
        let mut frame = vec![0];
        frame.extend(length.to_be_bytes());
        frame.extend_from_slice(message);
        frame
    };
    for (path, content_type, bytes) in [
        (path, "application/grpc", framed(garbage.len() as u32, &garbage)),
        (path, "application/grpc", framed(u32::MAX, &garbage)),
        (path, "application/grpc", garbage.clone()),
        (path, "text/plain", garbage.clone()),
        ("/no.such.Service/Method", "application/grpc", framed(0, &[])),
        ("", "", Vec::new()),
    ] {
        let request = Request::builder()
            .method(Method::POST)
            .uri(if path.is_empty() { "/" } else { path })
            .header(header::CONTENT_TYPE, content_type)
            .body(net_body::full(bytes))?;
        let response = tokio::time::timeout(LIMIT, upstream.send(&target, request)).await;
        let response = response.with_context(|| format!("{path} hangs"))?;
        let response = response.map_err(|failed| failed.error)?;
        let body = http_body_util::BodyExt::collect(response.into_body());
        // Whether the stream ends well or is reset does not matter, only that it ends.
        drop(tokio::time::timeout(LIMIT, body).await.context("an answer without end")?);
    }
    Ok(())
}

#[tokio::test]
async fn thousands_of_idle_streams_cost_little_and_leave_nothing() -> Outcome {
    plan()
        .alone()
        .run(async |world| {
            let picker = Picker::connect(world.router_addr()).await?;
            works(&picker).await?;
            let before = rss_kib(world.router.pid())?;
            let mut idle: Vec<Stream> = Vec::with_capacity(N_IDLE);
            for number in 0..N_IDLE {
                let stream = picker.open().await?;
                stream.send(head(false)).await;
                if number % 2 == 0 {
                    stream.send(body(&CHAT[..10], false)).await;
                }
                idle.push(stream);
            }
            open_streams(world, N_IDLE as f64).await?;
            let grown = rss_kib(world.router.pid())?.saturating_sub(before);
            let limit = N_IDLE as u64 * IDLE_STREAM_KIB;
            ensure!(grown <= limit, "{N_IDLE} idle streams take {grown} KiB, {limit} are allowed");
            works(&picker).await.context("beside idle streams")?;
            // Some go on after all, the others are left.
            for stream in idle.iter_mut().take(50) {
                stream.send(body(" ", false)).await;
            }
            drop(idle);
            open_streams(world, 0.0).await?;
            works(&picker).await
        })
        .await
}

/// Waits until the picker counts so many open streams.
async fn open_streams(world: &World, wanted: f64) -> Outcome {
    let counted = || async {
        let counts = world.in_flight().await.ok()?;
        let (_, n_open) = counts.iter().find(|(series, _)| series.contains("streams"))?;
        (*n_open == wanted).then_some(())
    };
    if poll_until(LIMIT, counted).await.is_none() {
        anyhow::bail!("not {wanted} open streams: {:?}", world.in_flight().await?);
    }
    Ok(())
}
