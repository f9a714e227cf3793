//! Our replies as the body of a response.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures_core::Stream;
use http::HeaderMap;
use http_body::{Body, Frame};
use prost::Message;
use router_proto::ext_proc::ProcessingResponse;
use tonic::Status;

use super::PREFIX_BYTES;

/// Replies that are ready go out together until they are this long.
const MAX_TOGETHER_BYTES: usize = 32 * 1024;

/// Writes replies as they get ready, and the status after them.
pub(crate) struct Answers<S> {
    replies: S,
    /// Longest reply that is sent.
    max_bytes: usize,
    end: End,
}

/// How far the stream has come to its end.
enum End {
    Open,
    /// Nothing more is asked of `replies`.
    With(Status),
    Sent,
}

impl<S> Answers<S> {
    pub(crate) fn new(replies: S, max_bytes: usize) -> Self {
        Self { replies, max_bytes, end: End::Open }
    }
}

impl<S> Answers<S>
where
    S: Stream<Item = Result<ProcessingResponse, Status>> + Unpin,
{
    /// Takes the replies that are ready.
    fn gather(&mut self, cx: &mut Context<'_>) -> Bytes {
        let mut written = BytesMut::new();
        while matches!(self.end, End::Open) && written.len() < MAX_TOGETHER_BYTES {
            match Pin::new(&mut self.replies).poll_next(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.end = End::With(Status::ok("")),
                Poll::Ready(Some(Err(status))) => self.end = End::With(status),
                Poll::Ready(Some(Ok(reply))) => {
                    if let Err(status) = write(&reply, self.max_bytes, &mut written) {
                        self.end = End::With(status);
                    }
                }
            }
        }
        written.freeze()
    }
}

fn write(
    reply: &ProcessingResponse,
    max_bytes: usize,
    written: &mut BytesMut,
) -> Result<(), Status> {
    let n_bytes = reply.encoded_len();
    let len = u32::try_from(n_bytes).ok().filter(|_| n_bytes <= max_bytes).ok_or_else(|| {
        let message =
            format!("a reply of {n_bytes} bytes is too large: the limit is {max_bytes} bytes");
        Status::out_of_range(message)
    })?;
    written.reserve(PREFIX_BYTES + n_bytes);
    written.put_u8(0);
    written.put_u32(len);
    reply.encode(written).map_err(|error| Status::internal(error.to_string()))
}

impl<S> Body for Answers<S>
where
    S: Stream<Item = Result<ProcessingResponse, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let written = this.gather(cx);
        if !written.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(written))));
        }
        match std::mem::replace(&mut this.end, End::Sent) {
            End::Open => {
                this.end = End::Open;
                Poll::Pending
            }
            End::With(status) => {
                let mut trailers = HeaderMap::new();
                Poll::Ready(Some(
                    status.add_header(&mut trailers).map(|()| Frame::trailers(trailers)),
                ))
            }
            End::Sent => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.end, End::Sent)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;
    use http_body_util::BodyExt;
    use router_proto::ext_proc::{BodyResponse, processing_response::Response};

    use super::*;

    fn reply(n_bytes: usize) -> ProcessingResponse {
        let piece = BodyResponse::streamed(Bytes::from(vec![b'x'; n_bytes]), false);
        Response::RequestBody(piece).into()
    }

    /// Lengths of the data frames, the replies in them, and the status of the trailers.
    async fn send(
        replies: Vec<Result<ProcessingResponse, Status>>,
        max_bytes: usize,
    ) -> (Vec<usize>, Vec<ProcessingResponse>, String) {
        let mut answers = Answers::new(stream::iter(replies), max_bytes);
        let (mut lengths, mut wire) = (Vec::new(), Vec::new());
        loop {
            let frame = answers.frame().await.unwrap().unwrap();
            match frame.into_data() {
                Ok(data) => {
                    lengths.push(data.len());
                    wire.extend_from_slice(&data);
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap();
                    assert!(answers.is_end_stream() && answers.frame().await.is_none());
                    let status = trailers["grpc-status"].to_str().unwrap().to_owned();
                    return (lengths, decode(&wire), status);
                }
            }
        }
    }

    fn decode(mut wire: &[u8]) -> Vec<ProcessingResponse> {
        let mut replies = Vec::new();
        while let [0, a, b, c, d, rest @ ..] = wire {
            let (reply, rest) = rest.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            replies.push(ProcessingResponse::decode(reply).unwrap());
            wire = rest;
        }
        assert!(wire.is_empty());
        replies
    }

    #[tokio::test]
    async fn what_is_ready_goes_out_together_up_to_a_bound() {
        let sent = [reply(10), reply(20), reply(40_000), reply(30)];
        let replies = sent.iter().cloned().map(Ok).collect();
        let (lengths, received, status) = send(replies, usize::MAX).await;
        assert_eq!(lengths.len(), 2, "the long one fills the first: {lengths:?}");
        assert_eq!((received.as_slice(), status.as_str()), (sent.as_slice(), "0"));
        assert_eq!(send(Vec::new(), 9).await, (Vec::new(), Vec::new(), "0".to_owned()));
    }

    #[tokio::test]
    async fn an_error_comes_after_what_was_said_before() {
        let replies = vec![Ok(reply(1)), Err(Status::resource_exhausted("full")), Ok(reply(2))];
        let (_, received, status) = send(replies, usize::MAX).await;
        assert_eq!((received, status.as_str()), (vec![reply(1)], "8"));
        let (_, received, status) = send(vec![Ok(reply(1)), Ok(reply(200))], 100).await;
        assert_eq!((received, status.as_str()), (vec![reply(1)], "11"));
    }
}
