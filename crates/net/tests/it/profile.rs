//! A profile interrupts the whole process, so it is not taken beside other tests.

use std::time::Duration;

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use router_net::AdminPages;
use router_rt::Offload;

#[tokio::test]
async fn a_profile_exists_only_where_it_was_asked_for_and_takes_its_time() {
    let get = |uri: &str| Request::get(uri).body(Empty::<bytes::Bytes>::new()).unwrap();
    let none = AdminPages::builder().build().respond(&get("/debug/pprof/profile")).await;
    assert_eq!(none.status(), StatusCode::NOT_FOUND);

    let pages = AdminPages::builder().profile(Offload::inline()).build();
    let started = tokio::time::Instant::now();
    let request = get("/debug/pprof/profile?seconds=1");
    let (first, second) = tokio::join!(pages.respond(&request), pages.respond(&request));
    assert_eq!(first.status(), StatusCode::OK);
    assert_eq!(second.status(), StatusCode::CONFLICT);
    assert!(started.elapsed() >= Duration::from_secs(1));
    let profile = Limited::new(first.into_body(), 64 << 20).collect().await.unwrap().to_bytes();
    assert!(profile.windows(11).any(|window| window == b"nanoseconds"));
}
