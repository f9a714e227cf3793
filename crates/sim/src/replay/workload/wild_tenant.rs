//! `wild-tenant`: twenty tenants, one of which sends half of all requests.
//!
//! Every tenant has a system prompt of its own. Nineteen of them should not notice the twentieth.

use std::{sync::Arc, time::Duration};

use router_rt::Rng;

use super::{
    Spec, WorkloadError,
    conversation::{self, Conversation, Source, Turn},
    draw::{self, Text},
};
use crate::replay::trace::Trace;

/// Parameters of `wild-tenant`.
#[derive(Clone, Debug, PartialEq)]
pub struct WildTenant {
    /// Tenants in all. Default 20.
    pub n_tenants: usize,
    /// Share of all requests that the wild one sends; the others share the rest equally. Default 0.5.
    pub wild_share: f64,
    /// Shortest and longest system prompt of a tenant, in tokens. Default 1,000 to 4,000.
    pub prompt_tokens: (u32, u32),
    /// Mean tokens of a question. Default 400.
    pub question_tokens: u32,
    /// Mean tokens of an answer. Default 250.
    pub answer_tokens: u32,
}

impl Default for WildTenant {
    fn default() -> Self {
        Self {
            n_tenants: 20,
            wild_share: 0.5,
            prompt_tokens: (1_000, 4_000),
            question_tokens: 400,
            answer_tokens: 250,
        }
    }
}

impl WildTenant {
    /// The tenant that sends too much.
    pub const WILD: &str = "tenant-0";

    pub fn generate(&self, spec: &Spec) -> Result<Trace, WorkloadError> {
        conversation::trace(self, spec)
    }
}

impl Source for WildTenant {
    type World = Vec<(Arc<str>, Text)>;

    const NAME: &'static str = "wild-tenant";

    fn world(&self, rng: &mut Rng) -> Self::World {
        let (min, max) = self.prompt_tokens;
        let tenant = |number: u64| {
            let name = format!("tenant-{number}").into();
            (name, Text::new(number, draw::between(rng, min, max)))
        };
        (0..self.n_tenants.max(1) as u64).map(tenant).collect()
    }

    fn texts<'a>(&self, tenants: &'a Self::World) -> Vec<&'a Text> {
        tenants.iter().map(|(_, text)| text).collect()
    }

    fn conversation(&self, tenants: &Self::World, _: bool, rng: &mut Rng) -> Conversation {
        let n_others = tenants.len().saturating_sub(1);
        let is_wild = rng.chance(self.wild_share) || n_others == 0;
        let tenant = if is_wild { 0 } else { 1 + rng.below(n_others) };
        let (name, head) = tenants.get(tenant).cloned().unwrap_or_default();
        let turn = Turn {
            think: Duration::ZERO,
            new_tokens: draw::count(rng, self.question_tokens, 16, 4_000),
            output_tokens: draw::count(rng, self.answer_tokens, 16, 1_500),
        };
        Conversation { head, turns: vec![turn], tenant: Some(name), priority: 0 }
    }
}
