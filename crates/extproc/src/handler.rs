//! What a processor implements: a session per stream that takes messages and makes replies.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
};

use router_proto::ext_proc::{
    ProcessingRequest, ProcessingResponse, processing_response::Response,
};
use tonic::Status;

/// Opens a session per stream.
pub trait Handler: Send + Sync + 'static {
    type Session: Session;

    fn open(&self, opening: Opening) -> Self::Session;
}

/// What is known of a stream before its first message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening;

/// One stream. Dropping it means that the stream has gone, whatever the state.
pub trait Session: Send + Unpin + 'static {
    /// Takes the next message. An error ends the stream with that status.
    fn on_message(
        &mut self,
        message: ProcessingRequest,
        replies: &mut Replies,
    ) -> Result<(), Status>;

    /// Goes on with what the session waits for besides messages. `Ready` when it has made progress;
    /// `Pending`, with the waker registered, when it waits or has nothing to wait for.
    fn poll_work(
        &mut self,
        cx: &mut Context<'_>,
        replies: &mut Replies,
    ) -> Poll<Result<(), Status>>;

    /// The peer has sent its last message.
    fn on_half_close(&mut self);
}

/// Replies to be sent, in order, and whether the stream ends after them.
#[derive(Debug, Default)]
pub struct Replies {
    queue: VecDeque<ProcessingResponse>,
    closing: bool,
}

impl Replies {
    pub fn push(&mut self, response: Response) {
        self.push_whole(response.into());
    }

    pub fn push_whole(&mut self, response: ProcessingResponse) {
        self.queue.push_back(response);
    }

    /// The last reply that is still to be sent.
    pub fn last_mut(&mut self) -> Option<&mut ProcessingResponse> {
        self.queue.back_mut()
    }

    /// Ends the stream with OK after what has been pushed.
    pub fn close(&mut self) {
        self.closing = true;
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// Takes the next reply to send.
    pub fn pop(&mut self) -> Option<ProcessingResponse> {
        self.queue.pop_front()
    }
}
