//! `diurnal`: chats whose arrivals rise and fall like a day's.
//!
//! The chats are those of [`Sessions`]. One day takes the whole trace unless told otherwise: it begins and ends
//! at night, with noon in the middle.

use std::{f64::consts::TAU, time::Duration};

use router_rt::Rng;

use super::{
    Sessions, Spec, WorkloadError,
    arrivals::{self, Arrival, Window},
    conversation::{self, Conversation, Source},
    draw::Text,
};
use crate::replay::trace::Trace;

/// Parameters of `diurnal`.
#[derive(Clone, Debug, PartialEq)]
pub struct Diurnal {
    pub sessions: Sessions,
    /// How far arrivals rise above their mean at noon and fall below it at night, 0 to 1. Default 0.6.
    pub swing: f64,
    /// Length of a day; the whole trace if not given.
    pub day: Option<Duration>,
}

impl Default for Diurnal {
    fn default() -> Self {
        Self { sessions: Sessions::default(), swing: 0.6, day: None }
    }
}

impl Diurnal {
    pub fn generate(&self, spec: &Spec) -> Result<Trace, WorkloadError> {
        conversation::trace(self, spec)
    }
}

impl Source for Diurnal {
    type World = <Sessions as Source>::World;

    const NAME: &'static str = "diurnal";

    fn world(&self, rng: &mut Rng) -> Self::World {
        self.sessions.world(rng)
    }

    fn texts<'a>(&self, world: &'a Self::World) -> Vec<&'a Text> {
        self.sessions.texts(world)
    }

    fn conversation(&self, world: &Self::World, _: bool, rng: &mut Rng) -> Conversation {
        self.sessions.conversation(world, false, rng)
    }

    fn arrivals(&self, rate: f64, window: Window, rng: &mut Rng) -> Vec<Arrival> {
        let swing = self.swing.clamp(0.0, 1.0);
        let day_s = self.day.map_or(window.until_s, |day| day.as_secs_f64()).max(1e-3);
        let shape = |at_s: f64| 1.0 - swing * (TAU * at_s / day_s).cos();
        arrivals::shaped(rate, 1.0 + swing, shape, window, rng)
    }
}
