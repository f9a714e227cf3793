//! Streams that are reset, cut off or silent.

use router_extproc::ServerOptions;
use router_proto::ext_proc::ProcessingRequest;

use super::client::{Picker, Remote, processor, read, stream};
use crate::{
    call::World,
    messages::{
        CHAT, chat_headers, request_body, request_trailers, response_body, response_trailers,
        status,
    },
};

/// One whole request with the number of replies to each message.
fn script() -> Vec<(ProcessingRequest, usize)> {
    vec![
        (chat_headers(), 0),
        (request_body(&CHAT[..20], false), 0),
        (request_body(&CHAT[20..], false), 0),
        (request_trailers(), 3),
        (status("200", false), 1),
        (response_body("{", false), 1),
        (response_body("}", false), 1),
        (response_trailers(), 1),
    ]
}

async fn play(call: &mut Remote, n_messages: usize) {
    for (message, n_replies) in script().into_iter().take(n_messages) {
        call.say(message).await;
        read(call, n_replies).await;
    }
}

#[tokio::test]
async fn a_reset_at_any_stage_leaves_nothing() {
    let picker = Picker::start(World::new(), ServerOptions::default(), false).await;
    let channel = picker.connect().await;
    for n_messages in 0..=script().len() {
        let mut call = stream(processor(channel.clone())).await;
        play(&mut call, n_messages).await;
        picker.until(|world| world.service.n_open() == 1).await;
        drop(call);
        picker.assert_idle().await;
    }
}

#[tokio::test]
async fn a_connection_that_breaks_at_any_stage_leaves_nothing() {
    let picker = Picker::start(World::new(), ServerOptions::default(), true).await;
    for n_messages in 0..=script().len() {
        let channel = picker.connect().await;
        let mut call = stream(processor(channel.clone())).await;
        play(&mut call, n_messages).await;
        picker.until(|world| world.service.n_open() == 1).await;
        // Both ends of the client, so that the socket closes.
        drop((call, channel));
        picker.assert_idle().await;
    }
}

/// Bytes of this process that are in memory.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn thousands_of_silent_streams_cost_little_and_leave_nothing() {
    const N_STREAMS: usize = 4_000;
    /// For both ends of a stream: ours may take 16 KiB, and tonic's client takes most of the rest.
    const MAX_BYTES_PER_STREAM: usize = 36 << 10;
    let picker = Picker::start(World::new(), ServerOptions::default(), false).await;
    let channel = picker.connect().await;
    let before = resident_bytes();
    let mut calls = Vec::new();
    for at in 0..N_STREAMS {
        let call = stream(processor(channel.clone())).await;
        // Half of them have said something.
        if at % 2 == 0 {
            call.say(chat_headers()).await;
        }
        calls.push(call);
    }
    picker.until(|world| world.service.n_open() == N_STREAMS).await;
    let grown = resident_bytes().saturating_sub(before);
    println!("{} bytes per stream", grown / N_STREAMS);
    assert!(grown < N_STREAMS * MAX_BYTES_PER_STREAM, "{grown} bytes");
    // The picker still works.
    let mut call = stream(processor(picker.connect().await)).await;
    play(&mut call, script().len()).await;
    drop((calls, call));
    picker.assert_idle().await;
}
