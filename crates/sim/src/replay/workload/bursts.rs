//! `bursts`: bursts of cold requests over a steady base load.
//!
//! The base load is [`SharedPrompts`]. A burst is many equally long prompts within a moment that share nothing
//! with anything, such as a batch job's. It comes within less time than a scrape takes to tell of it.

use std::time::Duration;

use router_rt::Rng;

use super::{
    SharedPrompts, Spec, WorkloadError,
    arrivals::{self, Arrival, Window},
    conversation::{self, Conversation, Source, Turn},
    draw::Text,
};
use crate::replay::trace::Trace;

/// Parameters of `bursts`.
#[derive(Clone, Debug, PartialEq)]
pub struct Bursts {
    pub base: SharedPrompts,
    /// Requests of one burst. Default 100.
    pub n_requests: u32,
    /// Share of all requests that come in bursts; with the rate it says how often there is one. Default 0.2.
    pub share: f64,
    /// How long a burst takes to arrive. Default 200 ms.
    pub within: Duration,
    /// Tokens of each prompt of a burst. Default 4,000.
    pub prompt_tokens: u32,
    /// Tokens of each answer of a burst. Default 100.
    pub answer_tokens: u32,
}

impl Default for Bursts {
    fn default() -> Self {
        Self {
            base: SharedPrompts { prompt_tokens: (1_000, 4_000), ..SharedPrompts::default() },
            n_requests: 100,
            share: 0.2,
            within: Duration::from_millis(200),
            prompt_tokens: 4_000,
            answer_tokens: 100,
        }
    }
}

impl Bursts {
    pub fn generate(&self, spec: &Spec) -> Result<Trace, WorkloadError> {
        conversation::trace(self, spec)
    }
}

impl Source for Bursts {
    type World = <SharedPrompts as Source>::World;

    const NAME: &'static str = "bursts";

    fn world(&self, rng: &mut Rng) -> Self::World {
        self.base.world(rng)
    }

    fn texts<'a>(&self, world: &'a Self::World) -> Vec<&'a Text> {
        self.base.texts(world)
    }

    fn conversation(&self, world: &Self::World, is_of_burst: bool, rng: &mut Rng) -> Conversation {
        if !is_of_burst {
            return self.base.conversation(world, false, rng);
        }
        let turn = Turn {
            think: Duration::ZERO,
            new_tokens: self.prompt_tokens,
            output_tokens: self.answer_tokens,
        };
        Conversation { head: Text::default(), turns: vec![turn], tenant: None, priority: 0 }
    }

    /// Bursts come at equal distances, give or take a quarter; the first one half a distance after the start.
    fn arrivals(&self, rate: f64, window: Window, rng: &mut Rng) -> Vec<Arrival> {
        let share = self.share.clamp(0.0, 1.0);
        let base = rate * (1.0 - share);
        let mut all = if base > 0.0 { arrivals::steady(base, window, rng) } else { Vec::new() };
        let distance_s = f64::from(self.n_requests.max(1)) / (rate * share);
        let mut middle_s = distance_s / 2.0;
        while middle_s < window.until_s {
            let start_s = middle_s + distance_s * (rng.f64() - 0.5) / 2.0;
            for _ in 0..self.n_requests {
                let at_s = start_s + rng.f64() * self.within.as_secs_f64();
                all.push(Arrival { at_s, is_of_burst: true });
            }
            middle_s += distance_s;
        }
        all.retain(|arrival| arrival.at_s < window.until_s);
        all.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        all
    }
}
