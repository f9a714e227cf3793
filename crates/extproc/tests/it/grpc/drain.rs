//! The end of a picker: what runs goes on, nothing new comes in.

use std::{sync::atomic::Ordering, time::Duration};

use router_extproc::{ServerOptions, health::EXT_PROC};
use router_proto::health::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic::Code;

use super::client::{Picker, channel, ends, health, processor, read, soon, stream};
use crate::{
    call::{World, shape},
    messages::{CHAT, chat_headers, request_body, response_body, status},
};

#[tokio::test]
async fn running_streams_complete_while_it_drains() {
    let picker = Picker::start(World::new(), ServerOptions::default(), false).await;
    let connected = picker.connect().await;
    let mut deciding = stream(processor(connected.clone())).await;
    deciding.say(chat_headers()).await;
    let mut routed = stream(processor(connected.clone())).await;
    routed.say(chat_headers()).await;
    routed.say(request_body(CHAT, true)).await;
    assert_eq!(read(&mut routed, 2).await.len(), 2);
    picker.until(|world| world.service.n_open() == 2).await;

    picker.ready.store(false, Ordering::Relaxed);
    let request = HealthCheckRequest { service: EXT_PROC.to_owned() };
    let answer = soon(health(connected).check(request)).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);

    let addr = picker.addr();
    let drain = picker.process.drain(Duration::from_secs(30));
    let goes_on = async {
        deciding.say(request_body(CHAT, true)).await;
        assert_eq!(shape(&read(&mut deciding, 2).await), format!("H B{}!", CHAT.len()));
        for call in [&mut deciding, &mut routed] {
            call.say(status("200", false)).await;
            call.say(response_body("{}", true)).await;
            assert_eq!(shape(&read(call, 2).await), "h b2!");
            call.half_close();
            assert_eq!(ends(call).await, Code::Ok);
        }
    };
    let (n_cut, ()) = soon(async { tokio::join!(drain, goes_on) }).await;
    assert_eq!(n_cut, 0);
    assert!(channel(addr, false).await.is_err(), "nobody listens any more");
    picker.assert_idle().await;
}

#[tokio::test]
async fn streams_that_do_not_end_are_cut_and_leave_nothing() {
    let picker = Picker::start(World::new(), ServerOptions::default(), false).await;
    let mut call = stream(processor(picker.connect().await)).await;
    call.say(chat_headers()).await;
    call.say(request_body(CHAT, true)).await;
    assert_eq!(read(&mut call, 2).await.len(), 2);
    assert_eq!(picker.world.in_flight(), 1.0);
    assert_eq!(soon(picker.process.drain(Duration::from_millis(50))).await, 1);
    assert_ne!(ends(&mut call).await, Code::Ok);
    picker.assert_idle().await;
}
