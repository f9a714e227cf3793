//! The configuration that runs where none is given: a conversation goes where its beginning is cached, unless
//! that endpoint is full.

use anyhow::{Context, ensure};
use router_sim::server::{FakeMetrics, Runtime};
use serde_json::{Value, json};

use crate::system::{Front, Outcome, Plan, World, client::Call};

const N_CONVERSATIONS: usize = 3;

/// A chat that grows.
struct Conversation {
    messages: Vec<Value>,
    n_turns: usize,
}

pub(crate) async fn conversation(front: Front) -> Outcome {
    let plan = Plan::new(front, 4).sim(json!({ "time-factor": 0.02 }));
    plan.run(async |world| {
        let mut all: Vec<_> = (0..N_CONVERSATIONS).map(Conversation::new).collect();
        let mut homes = Vec::new();
        for conversation in &mut all {
            homes.push(conversation.turn(world).await?.0);
        }
        for turn in 1..6 {
            for (conversation, home) in all.iter_mut().zip(&homes) {
                let (server, n_cached) = conversation.turn(world).await?;
                ensure!(server == *home, "turn {turn} went to {server}, those before to {home}");
                ensure!(n_cached > 0, "turn {turn}: the server has nothing cached");
            }
        }
        let full = homes[0];
        let load = FakeMetrics {
            running_requests: 256.0,
            waiting_requests: 80.0,
            kv_cache_usage: 0.98,
            loras: Vec::new(),
        };
        let runtime = Runtime { fake_metrics: Some(load), ..Runtime::default() };
        world.server(full).set_runtime(runtime)?;
        world.scraped(world.server(full)).await?;
        let (elsewhere, _) = all[0].turn(world).await?;
        ensure!(elsewhere != full, "the conversation stays on a full endpoint");
        // Its prefix is there now, so there it stays.
        let (server, n_cached) = all[0].turn(world).await?;
        ensure!(server == elsewhere, "from {elsewhere} it moved on to {server}");
        ensure!(n_cached > 0, "the server has nothing cached");
        Ok(())
    })
    .await
}

impl Conversation {
    fn new(number: usize) -> Self {
        // No two have a block in common.
        let rules = format!("Rule {number} of conversation {number} is to be brief. ").repeat(60);
        Self { messages: vec![json!({ "role": "system", "content": rules })], n_turns: 0 }
    }

    /// Asks once more, and tells which server answered and how much of the prompt it had cached.
    async fn turn(&mut self, world: &World) -> anyhow::Result<(usize, u64)> {
        let question = format!("Question {}: what then? ", self.n_turns).repeat(10);
        self.messages.push(json!({ "role": "user", "content": question }));
        self.n_turns += 1;
        let body = json!({ "model": "sim-model", "messages": self.messages, "max_tokens": 20 });
        let answer = world.client().send(Call::json("/v1/chat/completions", &body)).await?;
        let whole = answer.json()?;
        ensure!(answer.status == 200, "{whole}");
        let said = whole["choices"][0]["message"]["content"].clone();
        self.messages.push(json!({ "role": "assistant", "content": said }));
        let n_cached = whole["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
        let server = world.number_of(answer.port().context("no server answered")?)?;
        Ok((server, n_cached.unwrap_or_default()))
    }
}
