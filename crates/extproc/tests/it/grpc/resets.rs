//! Streams that are reset, cut off or silent.

use router_extproc::ServerOptions;
use router_proto::ext_proc::ProcessingRequest;

use super::client::{Picker, Remote, processor, read, soon, stream};
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

/// Envoy resets a stream for each of its clients that leaves; the others' streams are on the same connection.
#[tokio::test]
async fn many_resets_at_once_do_not_end_the_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    };
    let picker = Picker::start(World::new(), ServerOptions::default(), false).await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    for number in 0..1_000 {
        let stream = 2 * number + 1;
        // POST http /, then CANCEL.
        bytes.extend(frame(1, 4, stream, &[0x83, 0x86, 0x84]));
        bytes.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    bytes.extend(frame(PING, 0, 0, b"all well"));
    let mut socket = tokio::net::TcpStream::connect(picker.addr()).await.unwrap();
    socket.write_all(&bytes).await.unwrap();
    let answered = soon(async {
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head).await.unwrap();
            let [_, high, low, kind, flags, ..] = head;
            let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
            socket.read_exact(&mut payload).await.unwrap();
            assert_ne!(kind, GOAWAY, "{}", String::from_utf8_lossy(&payload));
            if kind == PING && flags == 1 {
                return payload;
            }
        }
    });
    assert_eq!(answered.await, b"all well");
    picker.assert_idle().await;
}
