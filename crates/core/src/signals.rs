//! What scrapes said about an endpoint: one small value, published whole.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use parking_lot::Mutex;

use crate::time::Stamp;

/// The last scraped state of an endpoint. A field that no scrape has ever delivered is NaN, so that "zero"
/// and "never seen" stay apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Signals {
    /// Requests that wait in the model server's queue.
    pub waiting: f64,
    /// Requests that the model server is running.
    pub running: f64,
    /// Share of KV-cache blocks in use, 0 to 1.
    pub kv_usage: f64,
    /// Tokens per KV-cache block of the model server.
    pub block_size: f64,
    /// KV-cache blocks of the model server.
    pub n_blocks: f64,
    /// When the last scrape that delivered at least one field was taken; [`Stamp::ORIGIN`] for never.
    pub scraped_at: Stamp,
}

impl Default for Signals {
    fn default() -> Self {
        Self {
            waiting: f64::NAN,
            running: f64::NAN,
            kv_usage: f64::NAN,
            block_size: f64::NAN,
            n_blocks: f64::NAN,
            scraped_at: Stamp::ORIGIN,
        }
    }
}

impl Signals {
    pub fn ever_scraped(&self) -> bool {
        self.scraped_at != Stamp::ORIGIN
    }

    fn to_words(self) -> [u64; 6] {
        [
            self.waiting.to_bits(),
            self.running.to_bits(),
            self.kv_usage.to_bits(),
            self.block_size.to_bits(),
            self.n_blocks.to_bits(),
            self.scraped_at.as_nanos(),
        ]
    }

    fn from_words(words: [u64; 6]) -> Self {
        let [waiting, running, kv_usage, block_size, n_blocks, scraped_at] = words;
        Self {
            waiting: f64::from_bits(waiting),
            running: f64::from_bits(running),
            kv_usage: f64::from_bits(kv_usage),
            block_size: f64::from_bits(block_size),
            n_blocks: f64::from_bits(n_blocks),
            scraped_at: Stamp::from_nanos(scraped_at),
        }
    }
}

/// LoRA adapters on an endpoint, as the model server reported them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoraSignals {
    /// Adapters that serve at least one running request.
    pub active: Vec<String>,
    /// Adapters that requests wait for.
    pub waiting: Vec<String>,
    /// How many adapters fit at once.
    pub max_active: u32,
}

/// A [`Signals`] that one scrape writes and many decisions read, without a lock and without allocation.
///
/// It is a sequence lock over plain atomic words: a reader that meets a write in progress reads again, so
/// the fields it gets always come from the same scrape.
#[derive(Debug)]
pub struct SignalCell {
    /// Odd while a write is in progress.
    version: AtomicU64,
    words: [AtomicU64; 6],
    writer: Mutex<()>,
}

impl Default for SignalCell {
    fn default() -> Self {
        let words = Signals::default().to_words();
        Self {
            version: AtomicU64::new(0),
            words: words.map(AtomicU64::new),
            writer: Mutex::new(()),
        }
    }
}

impl SignalCell {
    pub fn load(&self) -> Signals {
        loop {
            let before = self.version.load(Ordering::Acquire);
            let words = self.words.each_ref().map(|word| word.load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.version.load(Ordering::Relaxed) == before {
                return Signals::from_words(words);
            }
            std::hint::spin_loop();
        }
    }

    /// Publishes what `change` makes of the current value.
    pub fn update(&self, change: impl FnOnce(&mut Signals)) {
        let _one_writer = self.writer.lock();
        let mut signals = self.load();
        change(&mut signals);
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(signals.to_words()) {
            word.store(value, Ordering::Relaxed);
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    pub fn store(&self, signals: Signals) {
        self.update(|current| *current = signals);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_scraped_is_not_zero() {
        let signals = SignalCell::default().load();
        assert!(signals.waiting.is_nan() && !signals.ever_scraped());
    }

    #[test]
    fn readers_never_see_fields_of_two_scrapes() {
        let cell = SignalCell::default();
        cell.store(uniform(0));
        std::thread::scope(|scope| {
            scope.spawn(|| (1..200_000).for_each(|n| cell.store(uniform(n))));
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..200_000 {
                        let seen = cell.load();
                        let n = seen.scraped_at.as_nanos() as f64;
                        assert_eq!(
                            (seen.waiting, seen.running, seen.kv_usage, seen.n_blocks),
                            (n, n, n, n)
                        );
                    }
                });
            }
        });
    }

    fn uniform(n: u64) -> Signals {
        let value = n as f64;
        Signals {
            waiting: value,
            running: value,
            kv_usage: value,
            block_size: value,
            n_blocks: value,
            scraped_at: Stamp::from_nanos(n),
        }
    }
}
