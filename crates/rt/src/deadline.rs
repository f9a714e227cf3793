//! A limit on how long a future may take.

use std::{future::Future, time::Duration};

use thiserror::Error;

/// The future was dropped because it took longer than `limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("deadline of {limit:?} passed")]
pub struct Elapsed {
    pub limit: Duration,
}

/// Waits for `future`, but not longer than `limit`; the future is dropped when the limit passes.
pub async fn deadline<F: Future>(limit: Duration, future: F) -> Result<F::Output, Elapsed> {
    tokio::time::timeout(limit, future).await.map_err(|_| Elapsed { limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn passes_results_on_and_cuts_off_the_late() {
        let limit = Duration::from_secs(1);
        assert_eq!(deadline(limit, async { 3 }).await, Ok(3));
        let late = tokio::time::sleep(Duration::from_secs(2));
        assert_eq!(deadline(limit, late).await, Err(Elapsed { limit }));
    }
}
