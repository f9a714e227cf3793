//! The wire form of a `Process` call: length-prefixed messages in the bodies of one HTTP/2 request.
//!
//! tonic's own forms give each stream two buffers of 8 KiB, which grow with what passes and are kept until the
//! stream ends. Most streams wait most of the time, so here one that waits holds neither: a message is read from
//! the frame that it came with, one that is cut over frames is put together in a buffer of its own length, and
//! replies are written into a buffer that goes away with them.

mod answers;
mod messages;

use http::{HeaderValue, Response, header::CONTENT_TYPE};
use tonic::body::Body;

pub(crate) use self::{answers::Answers, messages::Messages};

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// A response with this stream of messages.
pub(crate) fn response(
    answers: impl http_body::Body<Data = bytes::Bytes, Error = tonic::Status> + Send + 'static,
) -> Response<Body> {
    let mut response = Response::new(Body::new(answers));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
