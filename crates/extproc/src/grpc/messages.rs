//! Envoy's messages out of the body of a request.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use futures_core::Stream;
use http_body::Body;
use prost::Message;
use router_proto::ext_proc::ProcessingRequest;
use tonic::Status;

use super::PREFIX_BYTES;

/// A message up to this length gets its buffer at once. What a longer one announces is believed only as it comes.
const MAX_RESERVED_BYTES: usize = 64 * 1024;

/// The messages of one stream, read as they are asked for.
pub(crate) struct Messages<B> {
    body: B,
    /// Longest message that is read.
    max_bytes: usize,
    /// What is left of the last frame.
    frame: Bytes,
    reading: Reading,
}

/// What the next bytes belong to.
enum Reading {
    Prefix {
        bytes: [u8; PREFIX_BYTES],
        n_read: usize,
    },
    /// A message, with what earlier frames had of it.
    Message {
        len: usize,
        part: BytesMut,
    },
}

impl Reading {
    const START: Self = Self::Prefix { bytes: [0; PREFIX_BYTES], n_read: 0 };
}

impl<B> Messages<B> {
    pub(crate) fn new(body: B, max_bytes: usize) -> Self {
        Self { body, max_bytes, frame: Bytes::new(), reading: Reading::START }
    }

    /// Bytes that are held for a message that has not come whole.
    #[cfg(test)]
    fn held_bytes(&self) -> usize {
        match &self.reading {
            Reading::Prefix { .. } => self.frame.len(),
            Reading::Message { part, .. } => self.frame.len() + part.capacity(),
        }
    }

    /// Whether the stream may end here.
    fn is_between_messages(&self) -> bool {
        matches!(self.reading, Reading::Prefix { n_read: 0, .. })
    }

    /// The next message, if the frame has the rest of it.
    fn take(&mut self) -> Result<Option<ProcessingRequest>, Status> {
        if let Reading::Prefix { bytes, n_read } = &mut self.reading {
            let n_more = self.frame.len().min(PREFIX_BYTES - *n_read);
            if let Some(missing) = bytes.get_mut(*n_read..*n_read + n_more) {
                self.frame.copy_to_slice(missing);
            }
            *n_read += n_more;
            if *n_read < PREFIX_BYTES {
                return Ok(None);
            }
            let len = message_len(*bytes, self.max_bytes)?;
            self.reading = Reading::Message { len, part: BytesMut::new() };
        }
        let Reading::Message { len, part } = &mut self.reading else { return Ok(None) };
        let whole = if part.is_empty() && self.frame.len() >= *len {
            self.frame.split_to(*len)
        } else {
            let more = self.frame.split_to(self.frame.len().min(*len - part.len()));
            append(part, &more, *len);
            if part.len() < *len {
                return Ok(None);
            }
            std::mem::take(part).freeze()
        };
        self.reading = Reading::START;
        if self.frame.is_empty() {
            // An empty slice would keep the connection's buffer.
            self.frame = Bytes::new();
        }
        ProcessingRequest::decode(whole)
            .map(Some)
            .map_err(|error| Status::internal(error.to_string()))
    }
}

/// The length that a prefix announces.
fn message_len(prefix: [u8; PREFIX_BYTES], max_bytes: usize) -> Result<usize, Status> {
    let [flag, len @ ..] = prefix;
    if flag != 0 {
        return Err(Status::internal("a message is compressed, and no grpc-encoding says how"));
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > max_bytes {
        let message =
            format!("a message of {len} bytes is too large: the limit is {max_bytes} bytes");
        return Err(Status::out_of_range(message));
    }
    Ok(len)
}

/// Appends to a message of `len` bytes. Its buffer never gets larger than that, nor much larger than what came.
fn append(part: &mut BytesMut, more: &[u8], len: usize) {
    let n_bytes = part.len() + more.len();
    if part.capacity() < n_bytes {
        let wanted = MAX_RESERVED_BYTES.max(2 * n_bytes).min(len);
        let mut grown = BytesMut::with_capacity(wanted);
        grown.extend_from_slice(part);
        *part = grown;
    }
    part.extend_from_slice(more);
}

impl<B> Stream for Messages<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Item = Result<ProcessingRequest, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(taken) = this.take().transpose() {
                return Poll::Ready(Some(taken));
            }
            this.frame = match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                // A gRPC client has no trailers; what another one says there does not matter.
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                }
                None if this.is_between_messages() => return Poll::Ready(None),
                None => {
                    let status = Status::internal("the stream ended within a message");
                    return Poll::Ready(Some(Err(status)));
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use futures_util::stream;
    use http_body_util::{BodyExt, Full, StreamBody};
    use proptest::{collection::vec, prelude::any, proptest};
    use router_proto::ext_proc::{HttpBody, processing_request::Request};

    use super::*;
    use crate::fuzz::fuzz_frames;

    const MAX_BYTES: usize = 1 << 20;

    fn message(n_bytes: usize) -> ProcessingRequest {
        Request::RequestBody(HttpBody::new(Bytes::from(vec![b'x'; n_bytes]), false)).into()
    }

    fn encoded(messages: &[ProcessingRequest]) -> Vec<u8> {
        let mut wire = Vec::new();
        for message in messages {
            wire.push(0);
            wire.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
            message.encode(&mut wire).unwrap();
        }
        wire
    }

    /// Reads a stream that came in frames of this size to its end.
    fn read(wire: &[u8], frame_bytes: usize) -> Result<Vec<ProcessingRequest>, Status> {
        let frames: Vec<Result<_, Status>> = wire
            .chunks(frame_bytes)
            .map(|frame| Ok(http_body::Frame::data(Bytes::copy_from_slice(frame))))
            .collect();
        let body = StreamBody::new(stream::iter(frames));
        let mut messages = Messages::new(body, MAX_BYTES);
        let mut read = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match Pin::new(&mut messages).poll_next(&mut cx) {
                Poll::Ready(Some(message)) => read.push(message?),
                Poll::Ready(None) => return Ok(read),
                Poll::Pending => panic!("all frames are there"),
            }
        }
    }

    #[test]
    fn messages_are_the_same_however_frames_cut_them() {
        let sent = [message(0), ProcessingRequest::default(), message(700), message(100_000)];
        let wire = encoded(&sent);
        for frame_bytes in [1, 2, 5, 7, 1000, 16_384, wire.len()] {
            assert_eq!(read(&wire, frame_bytes).unwrap(), sent, "frames of {frame_bytes}");
        }
        assert_eq!(read(&[], 1).unwrap(), []);
    }

    #[test]
    fn what_is_no_message_ends_the_stream() {
        let check = |wire: &[u8], code| {
            for frame_bytes in [1, wire.len()] {
                assert_eq!(read(wire, frame_bytes).unwrap_err().code(), code, "{wire:?}");
            }
        };
        check(&[1, 0, 0, 0, 0], tonic::Code::Internal);
        check(&[0, 0, 0, 0, 1, 0xff], tonic::Code::Internal);
        check(&[0, 0, 0, 0, 2, 0], tonic::Code::Internal);
        check(&[0, 0, 0], tonic::Code::Internal);
        check(&[0, 0, 0x10, 0, 1], tonic::Code::OutOfRange);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_the_same_however_frames_cut_them(
            mut data in vec(any::<u8>(), 1..200),
        ) {
            // Else hardly any would get past its first prefix.
            data.iter_mut().skip(1).take(4).for_each(|byte| *byte = 0);
            data.iter_mut().step_by(7).for_each(|byte| *byte &= 1);
            fuzz_frames(&data);
        }
    }

    #[tokio::test]
    async fn a_stream_that_waits_holds_what_it_waits_for_and_no_more() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel::<Result<_, Status>>(8);
        let body = StreamBody::new(stream::poll_fn(move |cx| receiver.poll_recv(cx)));
        let mut messages = Messages::new(body, MAX_BYTES);
        let send = |data: Bytes| sender.try_send(Ok(http_body::Frame::data(data))).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut next = |messages: &mut Messages<_>| Pin::new(messages).poll_next(&mut cx);
        let wire = Bytes::from(encoded(&[message(300), message(200_000)]));
        let first = wire.len() - encoded(&[message(200_000)]).len();
        assert!(next(&mut messages).is_pending());
        assert_eq!(messages.held_bytes(), 0);

        send(wire.slice(..first));
        assert!(next(&mut messages).is_ready());
        assert!(next(&mut messages).is_pending());
        assert_eq!(messages.held_bytes(), 0, "between messages");

        // A length that is only announced costs no more than the first reservation.
        send(wire.slice(first..first + 10));
        assert!(next(&mut messages).is_pending());
        assert_eq!(messages.held_bytes(), MAX_RESERVED_BYTES);
        send(wire.slice(first + 10..wire.len() - 1));
        assert!(next(&mut messages).is_pending());
        assert_eq!(messages.held_bytes(), message(200_000).encoded_len());
        send(wire.slice(wire.len() - 1..));
        assert_eq!(
            next(&mut messages).map(|read| read.unwrap().unwrap()),
            Poll::Ready(message(200_000))
        );
        assert_eq!(messages.held_bytes(), 0);
    }

    #[tokio::test]
    async fn trailers_are_ignored() {
        let body = Full::<Bytes>::from(encoded(&[message(3)]))
            .with_trailers(async { Some(Ok(http::HeaderMap::new())) });
        let mut messages = Messages::new(Box::pin(body), MAX_BYTES);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(matches!(Pin::new(&mut messages).poll_next(&mut cx), Poll::Ready(Some(Ok(_)))));
        assert!(matches!(Pin::new(&mut messages).poll_next(&mut cx), Poll::Ready(None)));
    }
}
