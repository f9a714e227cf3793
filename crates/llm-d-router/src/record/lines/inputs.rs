//! Inputs of decisions, as lines of a recording.

use std::{sync::Arc, time::Duration};

use router_core::{EndpointSpec, LoraSignals, Signals, Stamp};
use router_engine::{
    AttemptFailure,
    record::{Configured, Decided, Entry, Event, RequestNote, ScrapeNote, Verdict},
};
use router_framework::{EndCause, SubsetHint};
use router_sim::replay::recording::{
    CauseInput, ConfigurationInput, DecisionInput, EndedInput, Exact, FailedInput, FailureInput,
    HeadInput, HealthInput, Input, LoraInput, MemberInput, PageInput, PromptInput, ScrapeInput,
    SignalsInput, UsageInput,
};

use super::{BLOCK_TOKENS, Kind, Lines};

impl Lines {
    pub(super) fn input(&mut self, entry: &Entry) -> Option<Input> {
        Some(match &entry.event {
            Event::Configured(configured) => {
                Input::Configuration(Box::new(configuration(configured)))
            }
            Event::Members(endpoints) => {
                // What is written of those that have gone is of no use any more.
                let is_there = |id: &str| endpoints.iter().any(|spec| is_called(spec, id));
                self.shown.retain(|(router, id), _| *router != entry.router || is_there(id));
                Input::Members(endpoints.iter().map(member).collect())
            }
            Event::Scraped { endpoint, scrape, signals, lora } => {
                let mut input =
                    ScrapeInput { endpoint: endpoint.to_string(), ..ScrapeInput::default() };
                match scrape {
                    ScrapeNote::Page { at_its_port } => {
                        let lora = lora.as_deref().cloned().unwrap_or_default();
                        let of = (entry.router, Arc::clone(endpoint));
                        input.page = Some(self.page(of, entry.at, *at_its_port, signals, lora));
                    }
                    ScrapeNote::Refused { again } => input.refused = Some(nanos(*again)),
                    ScrapeNote::Failed => {}
                }
                Input::Scrape(Box::new(input))
            }
            Event::Decided(decided) => Input::Decision(Box::new(self.decision(decided, entry.at))),
            Event::Failed { id, failure, next } => Input::Failed(FailedInput {
                id: *id,
                what: match failure {
                    AttemptFailure::Unreachable => FailureInput::Unreachable,
                    AttemptFailure::Unavailable => FailureInput::Unavailable,
                    AttemptFailure::Timeout => FailureInput::Timeout,
                },
                next: next.as_deref().map(str::to_owned),
            }),
            Event::Head { id, response } => Input::Head(HeadInput {
                id: *id,
                status: response.status.as_u16(),
                from_proxy: response.from_proxy,
                served: response.served.clone(),
            }),
            Event::FirstByte { id } => Input::FirstByte { id: *id },
            Event::Ended(ended) => Input::Ended(EndedInput {
                id: ended.request.id,
                cause: match ended.cause {
                    EndCause::Natural => CauseInput::Natural,
                    EndCause::ClientDisconnect => CauseInput::ClientDisconnect,
                    EndCause::Evicted => CauseInput::Evicted,
                    EndCause::Error => CauseInput::Error,
                },
                usage: ended.usage.map(|usage| UsageInput {
                    prompt: usage.prompt_tokens,
                    completion: usage.completion_tokens,
                    cached: usage.cached_tokens,
                    total: usage.total_tokens,
                }),
            }),
            Event::Refused(_) => return None,
        })
    }

    fn page(
        &mut self,
        of: (u32, Arc<str>),
        at: Stamp,
        at_its_port: bool,
        signals: &Signals,
        lora: LoraSignals,
    ) -> PageInput {
        let fresh = signals.scraped_at == at;
        // Compared without the time, which is in every line.
        let signals = Signals { scraped_at: Stamp::ORIGIN, ..*signals };
        let before = self.shown.get(&of);
        let has_changed = before.is_none_or(|(before, _)| !is_same(before, &signals));
        let has_other_lora = before.map_or(lora != LoraSignals::default(), |(_, had)| *had != lora);
        let page = PageInput {
            at_its_port,
            fresh,
            signals: has_changed.then(|| SignalsInput {
                waiting: Exact::of(signals.waiting),
                running: Exact::of(signals.running),
                kv_usage: Exact::of(signals.kv_usage),
                block_size: Exact::of(signals.block_size),
                n_blocks: Exact::of(signals.n_blocks),
            }),
            lora: has_other_lora.then(|| LoraInput {
                active: lora.active.iter().map(|name| self.model(name)).collect(),
                waiting: lora.waiting.iter().map(|name| self.model(name)).collect(),
                max_active: lora.max_active,
            }),
        };
        if has_changed || has_other_lora {
            self.shown.insert(of, (signals, lora));
        }
        page
    }

    fn decision(&self, decided: &Decided, at: Stamp) -> DecisionInput {
        let Decided { request, from, n_changes, subset, verdict, scores, .. } = decided;
        let (targets, refusal) = match verdict {
            Verdict::Routed(targets) => (targets.iter().map(ToString::to_string).collect(), None),
            Verdict::Refused(refusal) => (Vec::new(), Some(refusal)),
        };
        DecisionInput {
            id: request.id,
            received: request.received.as_nanos(),
            from: (*from != at).then_some(from.as_nanos()),
            changes: *n_changes,
            model: self.model(&request.model),
            tenant: request.fairness_id.as_deref().map(|id| self.anonymous.name(Kind::Tenant, id)),
            priority: request.priority,
            stream: request.streams,
            max_tokens: request.max_output_tokens,
            answers: request.n_answers,
            prompts: self.prompts(request),
            has_id: decided.has_external_id,
            cached_only: decided.wants_cached_only,
            subset: match subset {
                SubsetHint::All => None,
                SubsetHint::Only(entries) => Some(entries.clone()),
            },
            targets,
            refused: refusal.map(|refusal| refusal.code.label().to_owned()),
            reason: refusal.and_then(|r| r.reason).map(|reason| reason.as_str().to_owned()),
            by_flow_control: refusal.is_some_and(|refusal| refusal.by_flow_control),
            scores: scores
                .iter()
                .filter_map(|(endpoint, score)| Some((endpoint.to_string(), Exact::of(*score)?)))
                .collect(),
        }
    }

    fn prompts(&self, request: &RequestNote) -> Vec<PromptInput> {
        let Some(hashed) = &request.blocks else {
            let (tokens, block_tokens) = (request.n_prompt_tokens, BLOCK_TOKENS);
            return vec![PromptInput { tokens, block_tokens, blocks: Vec::new() }];
        };
        let prompts = hashed.prompts.iter().map(|prompt| PromptInput {
            tokens: prompt.n_tokens as u64,
            block_tokens: prompt.block_tokens,
            blocks: prompt.hashes.iter().map(|hash| self.anonymous.block(*hash)).collect(),
        });
        prompts.collect()
    }
}

fn configuration(configured: &Configured) -> ConfigurationInput {
    let Configured { name, text, settings } = configured;
    ConfigurationInput {
        name: name.clone(),
        text: text.clone(),
        seed: settings.seed,
        refresh_interval: nanos(settings.refresh_interval),
        staleness_threshold: nanos(settings.staleness_threshold),
        disable_subset_filter: settings.disable_subset_filter,
        health: HealthInput {
            enabled: settings.health.enabled,
            base_ejection: nanos(settings.health.base_ejection),
            max_ejection: nanos(settings.health.max_ejection),
            failed_scrapes: settings.health.n_failed_scrapes,
            unavailable: settings.health.n_unavailable,
        },
    }
}

fn member(spec: &EndpointSpec) -> MemberInput {
    MemberInput {
        namespace: spec.namespace.to_string(),
        name: spec.name.to_string(),
        address: spec.address.to_string(),
        port: spec.port,
        labels: (*spec.labels).clone(),
        rank: spec.rank,
    }
}

fn is_called(spec: &EndpointSpec, id: &str) -> bool {
    id.strip_prefix(&*spec.namespace).and_then(|rest| rest.strip_prefix('/')) == Some(&*spec.name)
}

/// Equal to the bit: what was never said stays so.
fn is_same(a: &Signals, b: &Signals) -> bool {
    let bits = |s: &Signals| {
        [s.waiting, s.running, s.kv_usage, s.block_size, s.n_blocks].map(f64::to_bits)
    };
    bits(a) == bits(b)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
