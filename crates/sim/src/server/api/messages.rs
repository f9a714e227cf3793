//! `/v1/messages`: Anthropic's API.

use serde::Deserialize;
use serde_json::{Value, json};

use super::common::{Sampling, Source, ask, parse};
use crate::server::{
    answer::{Answer, Finish, Tool},
    error::ApiError,
    job::{Ask, Dialect, Job},
    prompt::Chat,
    sse::{Events, named},
    state::State,
    tokens::tokenize,
};

#[derive(Deserialize)]
struct Request {
    #[serde(flatten)]
    prompt: MessagesPrompt,
    max_tokens: u32,
    #[serde(default)]
    stop_sequences: Option<Vec<String>>,
    stream: Option<bool>,
    tool_choice: Option<Value>,
    cache_salt: Option<String>,
}

/// The part of a request that `count_tokens` has too.
#[derive(Deserialize)]
pub(super) struct MessagesPrompt {
    pub(super) model: Option<String>,
    messages: Vec<Value>,
    system: Option<Value>,
    tools: Option<Value>,
}

struct Shape;

pub(super) fn read(state: &State, id: String, body: &[u8]) -> Result<Ask, ApiError> {
    let request: Request = parse(body)?;
    let sampling = Sampling {
        max_tokens: Some(request.max_tokens),
        stop: request.stop_sequences.unwrap_or_default(),
        salt: request.cache_salt,
        tool: required_tool(request.prompt.tools.as_ref(), request.tool_choice.as_ref())?,
        stream: request.stream.unwrap_or(false),
        ..Sampling::default()
    };
    let source = request.prompt.source()?;
    let model = request.prompt.model.as_deref();
    ask(state, format!("msg_{id}"), model, vec![source], sampling, Box::new(Shape))
}

fn required_tool(tools: Option<&Value>, choice: Option<&Value>) -> Result<Option<Tool>, ApiError> {
    let kind = choice.and_then(|choice| choice.get("type")).and_then(Value::as_str);
    let wanted = match kind {
        Some("any") => None,
        Some("tool") => choice.and_then(|choice| choice.get("name")),
        _ => return Ok(None),
    };
    let tools = tools.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let found = tools.iter().find(|tool| wanted.is_none() || tool.get("name") == wanted);
    let name = found.and_then(|tool| tool.get("name")).and_then(Value::as_str);
    match (found, name) {
        (Some(tool), Some(name)) => Ok(Some(Tool {
            name: name.to_owned(),
            parameters: tool.get("input_schema").cloned().unwrap_or_default(),
        })),
        _ => Err(ApiError::bad_request("`tool_choice` asks for a tool that `tools` does not have")),
    }
}

impl MessagesPrompt {
    pub(super) fn source(&self) -> Result<Source, ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::bad_request("`messages` is empty").about("messages"));
        }
        let mut chat = Chat::default();
        chat.tools(self.tools.as_ref());
        if let Some(system) = &self.system {
            let system = chat.content(Some(system))?;
            chat.message("system", &system);
        }
        for message in &self.messages {
            chat.openai(message)?;
        }
        let (text, echo) = chat.finish(false);
        Ok(Source { tokens: tokenize(&text), echo })
    }
}

fn stop_reason(answer: &Answer) -> &'static str {
    match answer.finish {
        Finish::Stop if answer.stop.is_some() => "stop_sequence",
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::ToolCalls => "tool_use",
    }
}

fn usage(job: &Job) -> Value {
    let usage = job.usage();
    json!({
        "input_tokens": usage.prompt, "output_tokens": usage.completion,
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": usage.cached,
    })
}

impl Dialect for Shape {
    fn body(&mut self, job: &Job) -> Value {
        let answer = job.answer(0);
        let content = answer.map(|answer| match &answer.call {
            None => json!({"type": "text", "text": answer.text}),
            Some(call) => json!({
                "type": "tool_use", "id": call.id, "name": call.name,
                // Arguments that the token limit cut are no JSON.
                "input": serde_json::from_str(&answer.text).unwrap_or_else(|_| json!({})),
            }),
        });
        json!({
            "id": job.id, "type": "message", "role": "assistant", "content": [content], "model": job.model,
            "stop_reason": answer.map(stop_reason), "stop_sequence": answer.map(|answer| &answer.stop),
            "usage": usage(job),
        })
    }

    fn open(&mut self, job: &Job, out: &mut Events) {
        let mut usage = usage(job);
        usage["output_tokens"] = json!(0);
        out.push(named(&json!({"type": "message_start", "message": {
            "id": job.id, "type": "message", "role": "assistant", "content": [], "model": job.model,
            "stop_reason": null, "stop_sequence": null, "usage": usage,
        }})));
        let block = match job.answer(0).and_then(|answer| answer.call.as_ref()) {
            None => json!({"type": "text", "text": ""}),
            Some(call) => {
                json!({"type": "tool_use", "id": call.id, "name": call.name, "input": {}})
            }
        };
        out.push(named(
            &json!({"type": "content_block_start", "index": 0, "content_block": block}),
        ));
    }

    fn token(&mut self, job: &Job, choice_idx: usize, nth: u32, out: &mut Events) {
        let Some(answer) = job.answer(choice_idx) else { return };
        let text = answer.slice(nth, nth + 1);
        let delta = match &answer.call {
            None => json!({"type": "text_delta", "text": text}),
            Some(_) => json!({"type": "input_json_delta", "partial_json": text}),
        };
        out.push(named(&json!({"type": "content_block_delta", "index": 0, "delta": delta})));
    }

    fn close(&mut self, job: &Job, out: &mut Events) {
        let answer = job.answer(0);
        out.push(named(&json!({"type": "content_block_stop", "index": 0})));
        out.push(named(&json!({
            "type": "message_delta",
            "delta": {
                "stop_reason": answer.map(stop_reason), "stop_sequence": answer.map(|answer| &answer.stop),
            },
            "usage": usage(job),
        })));
        out.push(named(&json!({"type": "message_stop"})));
    }
}
