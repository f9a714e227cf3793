//! Both at once: the real one is told, the model checks.

use std::time::Duration;

use router_core::{EndpointIndex, Stamp};

use super::model::{At, Model, Said, Setup};
use crate::{Ask, Effect, FlowControl, PoolSignal, StageLoad, SubsetSignal, Ticket, Usage};

pub(super) struct Pair {
    pub(super) real: FlowControl<u64>,
    pub(super) model: Model,
    pub(super) now: Stamp,
    pub(super) n_arrived: u64,
    effects: Vec<Effect<u64>>,
}

impl Pair {
    pub(super) fn new(setup: &Setup) -> Self {
        Self {
            real: FlowControl::new(setup.config.clone()),
            model: Model::new(setup),
            now: Stamp::ORIGIN,
            n_arrived: 0,
            effects: Vec::new(),
        }
    }

    fn check(&mut self, model: impl FnOnce(&mut Model, &mut Said<'_>)) {
        let mut said = Said::new(&self.effects);
        model(&mut self.model, &mut said);
        said.end(self.now, &mut self.model);
        self.effects.clear();
        let real = &self.real;
        self.model.check(real);
        let is_in_time = self
            .model
            .next_expiry()
            .is_none_or(|expiry| real.next_deadline().is_some_and(|told| told <= expiry));
        assert!(is_in_time, "an expiry would be missed");
    }

    pub(super) fn arrive(&mut self, ask: Ask) {
        self.n_arrived += 1;
        let (now, id) = (self.now, self.n_arrived);
        let ticket = self.real.arrive(now, ask.clone(), id, &mut self.effects);
        self.check(|model, said| model.arrive(now, id, &ask, ticket, said));
    }

    /// The request that the number picks among those that are anywhere, or at this place.
    pub(super) fn pick(&self, n: usize, at: impl Fn(At) -> bool) -> Option<(u64, Ticket)> {
        let some: Vec<_> = self.model.requests.iter().filter(|request| at(request.at)).collect();
        let request = some.get(n % some.len().max(1))?;
        Some((request.id, request.ticket))
    }

    pub(super) fn cancel(&mut self, (id, ticket): (u64, Ticket)) {
        let now = self.now;
        let did = self.real.cancel(now, ticket, &mut self.effects);
        self.check(|model, said| model.cancel(now, id, did, said));
        assert!(!self.real.cancel(now, ticket, &mut self.effects), "a request left twice");
    }

    pub(super) fn signals(&mut self, signal: PoolSignal, subsets: &[SubsetSignal]) {
        let now = self.now;
        self.real.signals(now, now, signal, subsets.iter().cloned(), &mut self.effects);
        self.check(|model, said| model.signals(now, signal, subsets, said));
    }

    pub(super) fn placed(&mut self, (id, ticket): (u64, Ticket), endpoint: Option<EndpointIndex>) {
        let now = self.now;
        self.real.placed(now, ticket, endpoint, &mut self.effects);
        self.check(|model, said| model.placed(now, id, endpoint, said));
    }

    pub(super) fn prefilled(&mut self, (id, ticket): (u64, Ticket)) {
        let now = self.now;
        self.real.prefilled(now, ticket, &mut self.effects);
        self.check(|model, said| model.prefilled(now, id, said));
    }

    pub(super) fn finished(&mut self, (id, ticket): (u64, Ticket), used: Option<Usage>) {
        let now = self.now;
        let did = self.real.finished(now, ticket, used, &mut self.effects);
        self.check(|model, said| model.finished(now, id, used, did, said));
        if did {
            assert!(!self.real.finished(now, ticket, used, &mut self.effects), "finished twice");
        }
    }

    pub(super) fn provision(&mut self, priorities: &[i32]) {
        let now = self.now;
        self.real.provision(now, priorities, &mut self.effects);
        self.check(|model, said| model.provision(now, priorities, said));
    }

    pub(super) fn shut_down(&mut self) {
        let now = self.now;
        self.real.shut_down(now, &mut self.effects);
        self.check(|model, said| model.shut_down(now, said));
    }

    pub(super) fn look(&mut self) {
        let snapshot = self.real.snapshot(3);
        self.model.looked_at(self.now);
        let n_waiting: u64 = snapshot.bands.iter().map(|band| band.n_waiting).sum();
        assert_eq!(n_waiting, snapshot.n_waiting);
        let heads = snapshot.bands.iter().flat_map(|band| &band.flows);
        assert!(heads.clone().all(|flow| flow.head.is_some() == (flow.n_waiting > 0)));
    }

    pub(super) fn wake(&mut self) {
        let now = self.now;
        self.real.wake(now, &mut self.effects);
        self.check(|model, said| model.wake(now, said));
    }

    /// Lets time pass as a driver does that sets one timer.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(deadline) = self.real.next_deadline().filter(|deadline| *deadline <= until) {
            self.now = self.now.max(deadline);
            self.wake();
            let next = self.real.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "it would wake for ever");
        }
        self.now = until;
        if self.real.next_deadline().is_none_or(|deadline| deadline > until) {
            assert!(!self.model.would_dispatch(until), "somebody could have gone by now");
        }
    }

    /// Everybody has room.
    fn open(&mut self) {
        let signal = PoolSignal::of_pool(StageLoad::default(), self.now);
        let subsets = self.real.subsets().into_iter().map(|subset| SubsetSignal {
            id: subset.id,
            signal,
            endpoints: [].into(),
            share: 1.0,
        });
        self.signals(signal, &subsets.collect::<Vec<_>>());
    }

    /// Lets everybody go and end, and checks that nothing is left, of requests or of memory of them.
    pub(super) fn finish(mut self) -> u64 {
        for _ in 0..100 {
            self.open();
            self.pass(Duration::from_millis(10));
            while let Some(running) = self.pick(0, |at| at != At::Queue) {
                self.finished(running, None);
            }
        }
        assert_eq!(self.model.waiting().count(), 0, "stuck");
        assert_eq!(self.model.n_ended, self.n_arrived, "lost or doubled");
        self.provision(&[]);
        self.pass(Duration::from_hours(10));
        self.model.check_forgotten();
        assert!(self.real.subsets().is_empty());
        assert_eq!(self.real.next_deadline(), None, "idle costs something");
        self.n_arrived
    }
}
