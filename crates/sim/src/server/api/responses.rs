//! `/v1/responses`.

use serde::Deserialize;
use serde_json::{Value, json};

use super::common::{Sampling, Source, ask, parse, required_tool};
use crate::server::{
    answer::{Answer, Finish},
    error::ApiError,
    job::{Ask, Dialect, Job},
    prompt::Chat,
    sse::{Events, named},
    state::State,
    tokens::tokenize,
};

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    input: Value,
    instructions: Option<String>,
    max_output_tokens: Option<u32>,
    stream: Option<bool>,
    tools: Option<Value>,
    tool_choice: Option<Value>,
    cache_salt: Option<String>,
}

struct Shape {
    instructions: Option<String>,
    max_output_tokens: Option<u32>,
    tools: Value,
    tool_choice: Value,
    /// Of the next event.
    sequence: u64,
}

pub(super) fn read(state: &State, id: String, body: &[u8]) -> Result<Ask, ApiError> {
    let request: Request = parse(body)?;
    let source = request.source()?;
    let sampling = Sampling {
        max_tokens: request.max_output_tokens,
        salt: request.cache_salt,
        tool: required_tool(request.tools.as_ref(), request.tool_choice.as_ref())?,
        stream: request.stream.unwrap_or(false),
        ..Sampling::default()
    };
    let shape = Shape {
        instructions: request.instructions,
        max_output_tokens: request.max_output_tokens,
        tools: request.tools.unwrap_or_else(|| json!([])),
        tool_choice: request.tool_choice.unwrap_or_else(|| json!("auto")),
        sequence: 0,
    };
    ask(
        state,
        format!("resp_{id}"),
        request.model.as_deref(),
        vec![source],
        sampling,
        Box::new(shape),
    )
}

impl Request {
    fn source(&self) -> Result<Source, ApiError> {
        let mut chat = Chat::default();
        chat.tools(self.tools.as_ref());
        if let Some(instructions) = &self.instructions {
            chat.message("system", instructions);
        }
        match &self.input {
            Value::String(text) => chat.message("user", text),
            Value::Array(items) if !items.is_empty() => {
                for item in items {
                    // Calls and their outputs have no role.
                    if item.get("role").is_some() {
                        chat.openai(item)?;
                    } else {
                        chat.message("tool", &item.to_string());
                    }
                }
            }
            _ => {
                let message = "`input` must be a string or an array of items";
                return Err(ApiError::bad_request(message).about("input"));
            }
        }
        let (text, echo) = chat.finish(false);
        Ok(Source { tokens: tokenize(&text), echo })
    }
}

impl Shape {
    fn response(&self, job: &Job, status: &str, output: &[Value], done: bool) -> Value {
        let usage = done.then(|| job.usage()).map(|usage| {
            json!({
                "input_tokens": usage.prompt, "input_tokens_details": {"cached_tokens": usage.cached},
                "output_tokens": usage.completion, "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": usage.prompt + usage.completion,
            })
        });
        let incomplete = (status == "incomplete").then(|| json!({"reason": "max_output_tokens"}));
        json!({
            "id": job.id, "created_at": job.created, "error": null, "incomplete_details": incomplete,
            "instructions": self.instructions, "metadata": null, "model": job.model, "object": "response",
            "output": output, "parallel_tool_calls": true, "temperature": 1.0,
            "tool_choice": self.tool_choice, "tools": self.tools, "top_p": 1.0, "background": false,
            "max_output_tokens": self.max_output_tokens, "previous_response_id": null, "reasoning": null,
            "service_tier": "auto", "status": status, "text": null, "truncation": "disabled", "usage": usage,
            "user": null,
        })
    }

    fn send(&mut self, mut event: Value, out: &mut Events) {
        event["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        out.push(named(&event));
    }
}

fn item_id(job: &Job) -> String {
    job.id.replacen("resp_", "msg_", 1)
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// The output item: empty while it is generated.
fn item(job: &Job, answer: &Answer, done: bool) -> Value {
    let status = match (done, answer.finish) {
        (false, _) => "in_progress",
        (true, Finish::Length) => "incomplete",
        (true, Finish::Stop | Finish::ToolCalls) => "completed",
    };
    match &answer.call {
        None => {
            let content: Vec<Value> = done.then(|| part(&answer.text)).into_iter().collect();
            json!({
                "id": item_id(job), "type": "message", "status": status, "role": "assistant",
                "content": content,
            })
        }
        Some(call) => json!({
            "id": item_id(job), "type": "function_call", "status": status, "call_id": call.id,
            "name": call.name, "arguments": if done { answer.text.as_str() } else { "" },
        }),
    }
}

fn final_status(answer: Option<&Answer>) -> &'static str {
    match answer.map(|answer| answer.finish) {
        Some(Finish::Length) => "incomplete",
        _ => "completed",
    }
}

impl Dialect for Shape {
    fn body(&mut self, job: &Job) -> Value {
        let answer = job.answer(0);
        let output: Vec<Value> = answer.iter().map(|answer| item(job, answer, true)).collect();
        self.response(job, final_status(answer), &output, true)
    }

    fn open(&mut self, job: &Job, out: &mut Events) {
        let Some(answer) = job.answer(0) else { return };
        let response = self.response(job, "in_progress", &[], false);
        self.send(json!({"type": "response.created", "response": response}), out);
        self.send(json!({"type": "response.in_progress", "response": response}), out);
        let item = item(job, answer, false);
        self.send(
            json!({"type": "response.output_item.added", "output_index": 0, "item": item}),
            out,
        );
        if answer.call.is_none() {
            self.send(
                json!({
                    "type": "response.content_part.added", "item_id": item_id(job), "output_index": 0,
                    "content_index": 0, "part": part(""),
                }),
                out,
            );
        }
    }

    fn token(&mut self, job: &Job, choice_idx: usize, nth: u32, out: &mut Events) {
        let Some(answer) = job.answer(choice_idx) else { return };
        let text = answer.slice(nth, nth + 1);
        let event = match &answer.call {
            None => json!({
                "type": "response.output_text.delta", "item_id": item_id(job), "output_index": 0,
                "content_index": 0, "delta": text, "logprobs": [],
            }),
            Some(_) => json!({
                "type": "response.function_call_arguments.delta", "item_id": item_id(job),
                "output_index": 0, "delta": text,
            }),
        };
        self.send(event, out);
    }

    fn close(&mut self, job: &Job, out: &mut Events) {
        let Some(answer) = job.answer(0) else { return };
        match &answer.call {
            None => {
                self.send(
                    json!({
                        "type": "response.output_text.done", "item_id": item_id(job), "output_index": 0,
                        "content_index": 0, "text": answer.text, "logprobs": [],
                    }),
                    out,
                );
                self.send(
                    json!({
                        "type": "response.content_part.done", "item_id": item_id(job), "output_index": 0,
                        "content_index": 0, "part": part(&answer.text),
                    }),
                    out,
                );
            }
            Some(call) => self.send(
                json!({
                    "type": "response.function_call_arguments.done", "item_id": item_id(job),
                    "output_index": 0, "name": call.name, "arguments": answer.text,
                }),
                out,
            ),
        }
        let item = item(job, answer, true);
        self.send(
            json!({"type": "response.output_item.done", "output_index": 0, "item": item}),
            out,
        );
        // vLLM says `completed` even of an answer that the limit cut; its status is inside.
        let response = self.response(job, final_status(Some(answer)), &[item], true);
        self.send(json!({"type": "response.completed", "response": response}), out);
    }
}
