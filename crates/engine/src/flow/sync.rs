//! What threads meet at in flow control.
//!
//! Tests put other types in their place, which behave the same, and let any other thread go first before each
//! operation while [`shuttle`](super::interleaved) plays.

#[cfg(not(test))]
pub(super) use std::sync::{OnceLock, atomic::AtomicU64};

#[cfg(not(test))]
pub(super) use futures_util::task::AtomicWaker;
#[cfg(not(test))]
pub(super) use parking_lot::Mutex;

#[cfg(test)]
pub(super) use played::{AtomicU64, AtomicWaker, Crossing, Mutex, OnceLock, play};

#[cfg(test)]
mod played {
    use std::{
        cell::Cell,
        ops::{Deref, DerefMut},
        sync::atomic::Ordering,
        task::Waker,
        time::Duration,
    };

    use futures_util::FutureExt;
    use shuttle::rand::Rng;

    use super::super::READ_AGAIN_AFTER;

    /// How seldom a thread stalls where another may come first.
    const STALLS_ONE_IN: u32 = 64;

    thread_local! {
        static IS_PLAYED: Cell<bool> = const { Cell::new(false) };
    }

    /// Runs `scene` under `n` orders in which its threads may come, on this thread. Time is played, too, so that
    /// how busy the machine is makes no difference.
    pub(crate) fn play(n: usize, scene: impl Fn() + Send + Sync + 'static) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        let _in_its_time = runtime.enter();
        IS_PLAYED.set(true);
        let mut config = shuttle::Config::new();
        // Metrics need more than the least.
        config.stack_size = 1 << 18;
        let scheduler = shuttle::scheduler::RandomScheduler::new(n);
        shuttle::Runner::new(scheduler, config).run(scene);
        IS_PLAYED.set(false);
    }

    /// Lets time pass where any other thread may come first: so little that nothing else is made of it than that
    /// no two threads do something at the same moment, or, now and then, so much that all readings are old.
    fn pass_time() {
        let stalls = shuttle::rand::thread_rng().gen_ratio(1, STALLS_ONE_IN);
        let time = if stalls { READ_AGAIN_AFTER } else { Duration::from_nanos(1) };
        // It advances at once, and then waits for what the runtime makes of that, which runs nothing.
        tokio::time::advance(time).now_or_never();
    }

    /// A place where any other thread may come first. Not one that yields: that would wake who passes it, and
    /// hide a wakeup that is lost.
    pub(crate) struct Crossing(Option<shuttle::sync::atomic::AtomicBool>);

    impl Crossing {
        pub(crate) fn new() -> Self {
            Self(IS_PLAYED.get().then(|| shuttle::sync::atomic::AtomicBool::new(false)))
        }

        pub(crate) fn pass(&self) {
            if let Some(crossing) = &self.0 {
                pass_time();
                crossing.load(Ordering::SeqCst);
            }
        }
    }

    /// All threads of a play are one thread of the system, so that the played lock is what keeps them apart.
    pub(crate) struct Mutex<T> {
        real: parking_lot::Mutex<T>,
        played: Option<shuttle::sync::Mutex<()>>,
    }

    pub(crate) struct Guard<'a, T> {
        real: parking_lot::MutexGuard<'a, T>,
        _played: Option<shuttle::sync::MutexGuard<'a, ()>>,
    }

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            let played = IS_PLAYED.get().then(|| shuttle::sync::Mutex::new(()));
            Self { real: parking_lot::Mutex::new(value), played }
        }

        pub(crate) fn lock(&self) -> Guard<'_, T> {
            let played = self.played.as_ref().map(|lock| {
                pass_time();
                lock.lock().unwrap_or_else(|broken| broken.into_inner())
            });
            Guard { real: self.real.lock(), _played: played }
        }
    }

    impl<T> Deref for Guard<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.real
        }
    }

    impl<T> DerefMut for Guard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.real
        }
    }

    pub(crate) struct AtomicU64(std::sync::atomic::AtomicU64, Crossing);

    impl AtomicU64 {
        pub(crate) fn new(value: u64) -> Self {
            Self(value.into(), Crossing::new())
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            self.1.pass();
            self.0.load(order)
        }

        pub(crate) fn store(&self, value: u64, order: Ordering) {
            self.1.pass();
            self.0.store(value, order);
        }

        pub(crate) fn fetch_add(&self, more: u64, order: Ordering) -> u64 {
            self.1.pass();
            self.0.fetch_add(more, order)
        }

        pub(crate) fn fetch_sub(&self, less: u64, order: Ordering) -> u64 {
            self.1.pass();
            self.0.fetch_sub(less, order)
        }

        pub(crate) fn compare_exchange(
            &self,
            known: u64,
            new: u64,
            success: Ordering,
            failure: Ordering,
        ) -> Result<u64, u64> {
            self.1.pass();
            self.0.compare_exchange(known, new, success, failure)
        }
    }

    pub(crate) struct OnceLock<T>(std::sync::OnceLock<T>, Crossing);

    impl<T> OnceLock<T> {
        pub(crate) fn new() -> Self {
            Self(std::sync::OnceLock::new(), Crossing::new())
        }

        pub(crate) fn get(&self) -> Option<&T> {
            self.1.pass();
            self.0.get()
        }

        pub(crate) fn set(&self, value: T) -> Result<(), T> {
            self.1.pass();
            self.0.set(value)
        }
    }

    pub(crate) struct AtomicWaker(futures_util::task::AtomicWaker, Crossing);

    impl AtomicWaker {
        pub(crate) fn new() -> Self {
            Self(futures_util::task::AtomicWaker::new(), Crossing::new())
        }

        pub(crate) fn register(&self, waker: &Waker) {
            self.1.pass();
            self.0.register(waker);
        }

        pub(crate) fn wake(&self) {
            self.1.pass();
            self.0.wake();
        }
    }
}
