use router_testkit::envoy::{Envoy, EnvoyConfig, ExtProc, Responses, Route, SubsetHint};
use router_testkit::process::{
    Launch, ReservedPort, START_LIMIT, http_get, poll_until, run_to_end,
};
use router_testkit::tools;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// An endpoint picker where nobody listens.
fn absent_picker() -> Result<ExtProc, std::io::Error> {
    Ok(ExtProc::new(ReservedPort::new()?.release()))
}

#[tokio::test]
async fn envoy_starts_and_answers() -> Outcome {
    let route = Route::Direct { status: 418, body: "short and stout".to_owned() };
    let config = EnvoyConfig { route, access_log: true, ..EnvoyConfig::default() };
    let envoy = Envoy::start(&config).await?;
    let answer = http_get(envoy.addr(), "/v1/models").await?;
    assert_eq!((answer.status, answer.text().as_str()), (418, "short and stout"));
    let logged = || async { envoy.access_log().into_iter().next() };
    let entry = poll_until(START_LIMIT, logged).await.ok_or("nothing was logged")?;
    assert_eq!(entry["path"], "/v1/models");
    assert_eq!(entry["status"], 418);
    Ok(())
}

#[tokio::test]
async fn a_request_that_nobody_placed_goes_nowhere() -> Outcome {
    let envoy = Envoy::start(&EnvoyConfig::default()).await?;
    assert_eq!(http_get(envoy.addr(), "/").await?.status, 503);
    Ok(())
}

#[tokio::test]
async fn an_absent_endpoint_picker_fails_closed() -> Outcome {
    let route = Route::Direct { status: 200, body: String::new() };
    let ext_proc = Some(absent_picker()?);
    let config = EnvoyConfig { ext_proc, route, ..EnvoyConfig::default() };
    let envoy = Envoy::start(&config).await?;
    assert_eq!(http_get(envoy.addr(), "/").await?.status, 500);
    assert_eq!(envoy.stat("http.test.ext_proc.streams_started").await?, 1);
    assert!(envoy.stat("http.test.ext_proc.no_such_stat").await.is_err());
    Ok(())
}

#[tokio::test]
async fn every_option_makes_a_document_that_envoy_takes() -> Outcome {
    let hints = [
        SubsetHint::List(vec!["127.0.0.1:1".to_owned()]),
        SubsetHint::Text("127.0.0.1:1,127.0.0.1:2".to_owned()),
    ];
    let responses = [Responses::Headers, Responses::Hidden];
    for (hint, responses) in hints.into_iter().zip(responses) {
        let picker = ExtProc { tls: true, failure_mode_allow: true, responses, ..absent_picker()? };
        let config = EnvoyConfig {
            ext_proc: Some(picker),
            route: Route::Direct { status: 204, body: String::new() },
            subset_hint: Some(hint),
            n_threads: 2,
            ..EnvoyConfig::default()
        };
        let envoy = Envoy::start(&config).await?;
        assert_eq!(http_get(envoy.addr(), "/").await?.status, 204);
        assert_eq!(envoy.stat("http.test.ext_proc.failure_mode_allowed").await?, 1);
    }
    Ok(())
}

#[tokio::test]
async fn the_committed_configuration_is_valid() -> Outcome {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/envoy.yaml");
    let launch = Launch::new(tools::envoy()?).args(["--mode", "validate", "-c", path]);
    let finished = run_to_end(launch, START_LIMIT).await?;
    assert!(finished.status.success(), "{}", finished.stderr);
    Ok(())
}
