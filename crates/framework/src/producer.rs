//! Extension point: data about a request that filters, scorers and other producers read.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::{cx::RequestCx, data::Outputs};

/// Time that a producer has unless it says otherwise (`spec/request-path.md` §2.2).
pub const DEFAULT_DEADLINE: Duration = Duration::from_millis(400);

/// Writes columns and request attributes. It returns what it made and never writes into shared state of a
/// request, so that one that fails or is late costs only its own values.
pub trait DataProducer: Send + Sync {
    fn produce<'a>(&'a self, cx: &RequestCx<'a>) -> Produced<'a>;

    fn deadline(&self) -> Duration {
        DEFAULT_DEADLINE
    }
}

/// A producer's answer: at once, or later.
pub enum Produced<'a> {
    Ready(Result<Outputs, ProduceError>),
    Later(BoxFuture<'a, Result<Outputs, ProduceError>>),
}

/// Why a producer has nothing for this request. The request goes on without it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ProduceError(pub String);
