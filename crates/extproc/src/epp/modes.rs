//! How the ext_proc filter must be set up for us, as far as Envoy tells it with the first message.

use router_proto::ext_proc::{ProtocolConfiguration, processing_mode::BodySendMode};
use tonic::Status;

/// Whether Envoy will send the request's body. Modes in which it expects one answer per message, or waits
/// for the headers' answer before it sends the body, cannot work.
pub(super) fn request_body_is_sent(config: Option<&ProtocolConfiguration>) -> Result<bool, Status> {
    let Some(config) = config else { return Ok(true) };
    match BodySendMode::try_from(config.request_body_mode) {
        Ok(BodySendMode::FullDuplexStreamed) => Ok(true),
        Ok(BodySendMode::None) => Ok(false),
        _ => Err(Status::failed_precondition(
            "set request_body_mode of the ext_proc filter to FULL_DUPLEX_STREAMED (or NONE)",
        )),
    }
}

/// Whether Envoy will send the response's body. In the modes in which it expects one answer per message, a
/// name that is restored over two of them has no place.
pub(super) fn response_body_is_sent(
    config: Option<&ProtocolConfiguration>,
) -> Result<bool, Status> {
    let Some(config) = config else { return Ok(true) };
    match BodySendMode::try_from(config.response_body_mode) {
        Ok(BodySendMode::FullDuplexStreamed) => Ok(true),
        Ok(BodySendMode::None) => Ok(false),
        _ => Err(Status::failed_precondition(
            "set response_body_mode of the ext_proc filter to FULL_DUPLEX_STREAMED (or NONE)",
        )),
    }
}

/// Without its headers no request can be routed.
pub(super) fn headers_are_missing() -> Status {
    Status::failed_precondition("set request_header_mode of the ext_proc filter to SEND")
}
