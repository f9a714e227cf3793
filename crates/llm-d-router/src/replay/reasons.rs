//! Why requests were not served, in words.

use router_sim::replay::summary::{Cause, NotServed, Summary, Tokens};

use super::grid::{Grid, Played};

/// Reasons that are told of one configuration; JSON has them all.
const MAX_TOLD: usize = 3;

/// One sentence about one line of the results; `None` where everything was served.
pub(super) fn of(grid: &Grid, played: &Played) -> Option<String> {
    let Played { cell, summaries } = played;
    let reasons = summaries.iter().flat_map(|summary| summary.not_served.iter().cloned());
    let told = told(&NotServed::together(reasons))?;
    let n_requests: usize = summaries.iter().map(|summary: &Summary| summary.n_requests).sum();
    let load = grid.loads.get(cell.load)?;
    let name = &grid.configurations.get(cell.configuration)?.name;
    let pool = if grid.pools.len() > 1 {
        format!(" on {}", grid.pools.get(cell.pool)?.name)
    } else {
        String::new()
    };
    let (n, why) = told;
    Some(format!(
        "{name} at load {load}{pool}: {n} of {n_requests} requests were not served, {why}."
    ))
}

/// How many, and why.
fn told(reasons: &[NotServed]) -> Option<(usize, String)> {
    let n = reasons.iter().map(|reason| reason.n_requests).sum();
    let why = match reasons {
        [] => return None,
        [only] => because(only),
        several => {
            let told = several.iter().take(MAX_TOLD);
            let mut parts: Vec<String> =
                told.map(|reason| format!("{} {}", reason.n_requests, because(reason))).collect();
            let n_more: usize = several.iter().skip(MAX_TOLD).map(|reason| reason.n_requests).sum();
            if n_more > 0 {
                parts.push(format!("{n_more} for other reasons, which --json has"));
            }
            parts.join("; ")
        }
    };
    Some((n, why))
}

fn because(reason: &NotServed) -> String {
    let kind = reason.kind.as_deref().unwrap_or("server");
    let Tokens { needed_tokens, available_tokens } =
        reason.tokens.unwrap_or(Tokens { needed_tokens: 0, available_tokens: 0 });
    match reason.cause {
        Cause::CacheTooSmall => format!(
            "because a `{kind}` has {available_tokens} tokens of KV cache (kv-cache-size in the pool file, in \
             blocks), and prompt and answer need {needed_tokens} or more"
        ),
        Cause::PromptTooLong => format!(
            "because a `{kind}` takes {available_tokens} tokens with the answer (max-model-len in the pool file), and \
             the prompts have {needed_tokens} or more"
        ),
        Cause::NoAdapterSlots => {
            format!("because a `{kind}` has no room for LoRA adapters (max-loras in the pool file)")
        }
        Cause::QueuesFull => "because the queues of all servers that the router named were full \
                              (max-waiting-queue-length in the pool file)"
            .to_owned(),
        Cause::NobodyListens => "because nobody listened where the router sent them".to_owned(),
        Cause::NoServerLeft => {
            "because their server went away before the first token, and the router had named no \
                                other"
                .to_owned()
        }
        Cause::Broken => "because their server went away in the middle of the answer".to_owned(),
        Cause::Undecided => "because the router had not decided when all else was over".to_owned(),
        Cause::Unfinished => {
            "because they had not ended a day after the last arrival, or twice its time, when the \
                              run was stopped"
                .to_owned()
        }
        Cause::Refused("rejected-saturated") => {
            "because the router had no room for them (rejected-saturated)".to_owned()
        }
        Cause::Refused("rejected-no-endpoints") => {
            "because the router had no server for them (rejected-no-endpoints)".to_owned()
        }
        Cause::Refused("rejected-ttl-expired") => {
            "because they waited too long in the router (rejected-ttl-expired)".to_owned()
        }
        Cause::Refused("evicted") => {
            "because they had to make room for more important ones (evicted)".to_owned()
        }
        other => format!("because the router refused them ({})", other.label()),
    }
}
