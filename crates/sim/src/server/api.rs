//! The APIs that clients speak: reading requests, shaping answers.

mod chat;
mod common;
mod completions;
mod embeddings;
mod generate;
mod messages;
mod plain;
mod responses;

pub(crate) use self::plain::Plain;
use super::{error::ApiError, job::Ask, state::State};

/// An API whose requests go through the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Messages,
    Generate,
}

impl Api {
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" => Some(Self::Chat),
            "/v1/completions" => Some(Self::Completions),
            "/v1/embeddings" => Some(Self::Embeddings),
            "/v1/responses" => Some(Self::Responses),
            "/v1/messages" => Some(Self::Messages),
            "/inference/v1/generate" => Some(Self::Generate),
            _ => None,
        }
    }

    /// What the body asks for; the answer's text is settled with it.
    pub(crate) fn read(self, state: &State, id: String, body: &[u8]) -> Result<Ask, ApiError> {
        match self {
            Self::Chat => chat::read(state, id, body),
            Self::Completions => completions::read(state, id, body),
            Self::Embeddings => embeddings::read(state, id, body),
            Self::Responses => responses::read(state, id, body),
            Self::Messages => messages::read(state, id, body),
            Self::Generate => generate::read(state, id, body),
        }
    }
}
