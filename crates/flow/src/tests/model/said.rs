//! What the real one said, taken one by one.

use super::*;

/// What the real one said about one event.
pub(in super::super) struct Said<'a> {
    effects: std::slice::Iter<'a, Effect<u64>>,
}

impl<'a> Said<'a> {
    pub(in super::super) fn new(effects: &'a [Effect<u64>]) -> Self {
        Self { effects: effects.iter() }
    }

    /// The next that is not about a forgotten flow; those may come at any place.
    pub(super) fn next(&mut self, now: Stamp, model: &mut Model) -> Option<Effect<u64>> {
        self.skip_gone(now, model);
        self.effects.next().cloned()
    }

    /// Whom the next effect is about.
    pub(super) fn peek(&self) -> Option<u64> {
        match self.effects.as_slice().first()? {
            Effect::Drop { payload, .. } => Some(*payload),
            _ => None,
        }
    }

    /// Who was told to make room, for whom.
    pub(super) fn evictions(&mut self, now: Stamp, model: &mut Model) -> Vec<(Ticket, u64, i32)> {
        self.skip_gone(now, model);
        let mut evicted = Vec::new();
        while let Some(Effect::Evict { ticket, payload, demand }) = self.effects.as_slice().first()
        {
            evicted.push((*ticket, *payload, *demand));
            self.effects.next();
        }
        evicted
    }

    pub(super) fn skip_gone(&mut self, now: Stamp, model: &mut Model) {
        while let Some(Effect::FlowGone { priority, flow }) = self.effects.as_slice().first() {
            model.flow_gone(now, *priority, flow.as_str());
            self.effects.next();
        }
    }

    /// Nothing was said that the model would not have said.
    pub(in super::super) fn end(mut self, now: Stamp, model: &mut Model) {
        let rest = self.next(now, model);
        assert!(rest.is_none(), "{rest:?} too much, at saturation {}", model.saturation());
    }
}
