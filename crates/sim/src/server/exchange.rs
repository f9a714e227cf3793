//! How far the choices of one HTTP request have come.
//!
//! The engine's driver writes, the request's handler reads. Nothing is queued: a reader that is late finds more
//! tokens at once.

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::Finished;

/// One choice: one engine request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub(crate) n_tokens: u32,
    pub(crate) cached_tokens: u32,
    pub(crate) end: Option<Finished>,
}

/// All choices of one HTTP request.
#[derive(Debug)]
pub(crate) struct Exchange {
    choices: Mutex<Vec<Progress>>,
    changed: Notify,
}

impl Exchange {
    pub(crate) fn new(n_choices: usize) -> Self {
        Self { choices: Mutex::new(vec![Progress::default(); n_choices]), changed: Notify::new() }
    }

    pub(crate) fn update(&self, choice: usize, update: impl FnOnce(&mut Progress)) {
        if let Some(progress) = self.choices.lock().get_mut(choice) {
            update(progress);
        }
        self.changed.notify_one();
    }

    pub(crate) fn snapshot(&self, into: &mut Vec<Progress>) {
        into.clone_from(&self.choices.lock());
    }

    /// Waits until something has changed since the last wait. For one reader.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits for the end of every choice.
    pub(crate) async fn ends(&self) -> Vec<Finished> {
        loop {
            {
                let choices = self.choices.lock();
                let ends: Vec<_> = choices.iter().filter_map(|progress| progress.end).collect();
                if ends.len() == choices.len() {
                    return ends;
                }
            }
            self.changed().await;
        }
    }
}
