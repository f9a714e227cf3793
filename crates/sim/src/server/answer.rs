//! What the simulated model says. It is settled before the engine begins; the engine decides when it is said.

use router_rt::Rng;
use serde_json::{Map, Value, json};

use super::{
    config::Mode,
    tokens::{pieces, token},
};

/// Schemas nested deeper than this give `null`.
const MAX_SCHEMA_DEPTH: usize = 8;

/// Chances of the six classes of answer length when the request limits it (reference simulator).
const LENGTH_CHANCES: [f64; 6] = [0.20, 0.30, 0.20, 0.05, 0.10, 0.15];
/// Up to this limit the classes are equally wide; beyond, all but the fourth are 20 tokens wide.
const EQUAL_CLASSES_UP_TO: u32 = 120;
const CLASS_WIDTH: u32 = 20;
/// Mean and deviation of the length of an answer without a limit.
const FREE_LENGTH: (f64, f64) = (40.0, 20.0);

const WORDS: [&str; 48] = [
    "the", "a", "request", "router", "model", "server", "token", "cache", "block", "prefix",
    "queue", "batch", "score", "endpoint", "pool", "profile", "decode", "prefill", "step",
    "context", "prompt", "answer", "stream", "load", "metric", "page", "time", "first", "last",
    "next", "each", "some", "of", "in", "to", "with", "and", "is", "are", "waits", "runs", "fills",
    "finds", "keeps", "moves", "ends", "grows", "begins",
];

/// Why an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    ToolCalls,
}

/// A function that the model calls.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    pub(crate) name: String,
}

/// A whole answer, cut into tokens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// The text, or the arguments of `call`.
    pub(crate) text: String,
    /// Where each token ends in the text.
    ends: Vec<u32>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) finish: Finish,
    /// The stop string that ended it.
    pub(crate) stop: Option<String>,
    pub(crate) call: Option<ToolCall>,
}

/// What the request allows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) max_tokens: Option<u32>,
    pub(crate) min_tokens: u32,
    pub(crate) ignore_eos: bool,
    pub(crate) stop: Vec<String>,
    /// Tokens that the context leaves.
    pub(crate) room: u32,
}

/// A function that may be called: its name and the schema of its parameters.
#[derive(Clone, Debug)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) parameters: Value,
}

impl Answer {
    pub(crate) fn n_tokens(&self) -> u32 {
        self.tokens.len() as u32
    }

    /// The text of the tokens `from..to`.
    pub(crate) fn slice(&self, from: u32, to: u32) -> &str {
        let end = |n: u32| {
            n.checked_sub(1)
                .and_then(|last| self.ends.get(last as usize))
                .map_or(0, |&end| end as usize)
        };
        self.text.get(end(from)..end(to)).unwrap_or_default()
    }

    fn of(pieces: impl Iterator<Item = impl AsRef<str>>, finish: Finish) -> Self {
        let mut answer = Self {
            text: String::new(),
            ends: Vec::new(),
            tokens: Vec::new(),
            finish,
            stop: None,
            call: None,
        };
        for piece in pieces {
            answer.text.push_str(piece.as_ref());
            answer.ends.push(answer.text.len() as u32);
            answer.tokens.push(token(piece.as_ref()));
        }
        answer
    }

    /// Ends the answer before the first stop string in it.
    fn stopped(self, stops: &[String]) -> Self {
        let first = stops
            .iter()
            .filter(|stop| !stop.is_empty())
            .filter_map(|stop| self.text.find(stop.as_str()).map(|at| (at, stop)))
            .min_by_key(|(at, _)| *at);
        let Some((at, stop)) = first else { return self };
        // The token in which the stop string ends is generated, its text is not shown.
        let n_tokens =
            self.ends.iter().take_while(|&&end| (end as usize) < at + stop.len()).count() + 1;
        let ends = self.ends.iter().take(n_tokens).map(|&end| end.min(at as u32)).collect();
        let tokens = self.tokens.into_iter().take(n_tokens).collect();
        let text = self.text.get(..at).unwrap_or_default().to_owned();
        Self { text, ends, tokens, finish: Finish::Stop, stop: Some(stop.clone()), call: None }
    }
}

/// The answer to a prompt. Everything follows from `rng`, the prompt and the limits.
pub(crate) fn answer(
    mode: Mode,
    prompt: &str,
    limits: &Limits,
    tool: Option<&Tool>,
    rng: &mut Rng,
) -> Answer {
    let cap = limits.max_tokens.unwrap_or(limits.room).min(limits.room).max(1);
    if let Some(tool) = tool {
        let call = ToolCall {
            id: format!("chatcmpl-tool-{:016x}", rng.next_u64()),
            name: tool.name.clone(),
        };
        let arguments = example(&tool.parameters, rng, 0).to_string();
        let mut answer = Answer::of(pieces(&arguments).take(cap as usize), Finish::ToolCalls);
        if answer.text.len() < arguments.len() {
            answer.finish = Finish::Length;
        }
        return Answer { call: Some(call), ..answer };
    }
    let answer = match mode {
        Mode::Echo => {
            let whole = pieces(prompt).take(cap as usize + 1).count();
            let finish = if whole > cap as usize { Finish::Length } else { Finish::Stop };
            let prompt = if prompt.is_empty() { " " } else { prompt };
            Answer::of(pieces(prompt).take(cap as usize), finish)
        }
        Mode::Random => {
            let length = if limits.ignore_eos {
                cap
            } else {
                length(limits.max_tokens, cap, rng).clamp(limits.min_tokens.clamp(1, cap), cap)
            };
            let finish = if length == cap { Finish::Length } else { Finish::Stop };
            Answer::of(words(rng).take(length as usize), finish)
        }
    };
    answer.stopped(&limits.stop)
}

/// How long the model would like to talk.
fn length(max_tokens: Option<u32>, cap: u32, rng: &mut Rng) -> u32 {
    let Some(max) = max_tokens else {
        let normal = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
        return (FREE_LENGTH.0 + FREE_LENGTH.1 * normal).clamp(1.0, f64::from(cap)) as u32;
    };
    let mut draw = rng.f64();
    let class = LENGTH_CHANCES
        .iter()
        .position(|chance| {
            draw -= chance;
            draw < 0.0
        })
        .unwrap_or(LENGTH_CHANCES.len() - 1) as u32;
    let n_classes = LENGTH_CHANCES.len() as u32;
    let edge = |class: u32| {
        if max <= EQUAL_CLASSES_UP_TO {
            max * class / n_classes
        } else if class <= 3 {
            class * CLASS_WIDTH
        } else {
            max - (n_classes - class) * CLASS_WIDTH
        }
    };
    // The last class is the limit itself: an answer that is cut.
    if class + 1 == n_classes {
        return max;
    }
    let (low, high) = (edge(class) + 1, edge(class + 1).max(edge(class) + 1));
    rng.range(u64::from(low)..=u64::from(high)) as u32
}

/// Words without end, each one token: sentences of 4 to 15 words.
fn words(rng: &mut Rng) -> impl Iterator<Item = String> {
    let mut left = 0;
    std::iter::from_fn(move || {
        if left == 0 {
            left = rng.range(5..=16);
        }
        left -= 1;
        let word = if left == 0 { "." } else { rng.choose(&WORDS).copied().unwrap_or("token") };
        Some(if left == 1 { word.to_owned() } else { format!("{word} ") })
    })
}

/// A value that a JSON schema allows.
fn example(schema: &Value, rng: &mut Rng, depth: usize) -> Value {
    if depth > MAX_SCHEMA_DEPTH {
        return Value::Null;
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return rng.choose(values).cloned().unwrap_or(Value::Null);
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        Some(Value::String(kind)) => Some(kind.as_str()),
        _ => schema.get("properties").map(|_| "object"),
    };
    match kind {
        Some("string") => json!(rng.choose(&WORDS).copied().unwrap_or("token")),
        Some("integer") => json!(rng.range(0..=100)),
        Some("number") => json!(rng.range(0..=1000) as f64 / 10.0),
        Some("boolean") => json!(rng.chance(0.5)),
        Some("array") => {
            let items = schema.get("items").unwrap_or(&Value::Null);
            (0..rng.range(1..=5)).map(|_| example(items, rng, depth + 1)).collect()
        }
        Some("object") | None => {
            let required: Vec<_> = schema
                .get("required")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let properties = schema.get("properties").and_then(Value::as_object);
            let mut object = Map::new();
            for (name, schema) in properties.into_iter().flatten() {
                if required.contains(&name.as_str()) || rng.chance(0.5) {
                    object.insert(name.clone(), example(schema, rng, depth + 1));
                }
            }
            Value::Object(object)
        }
        Some(_) => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::tokens::tokenize;

    fn limits(max_tokens: Option<u32>) -> Limits {
        Limits { max_tokens, room: 1000, ..Limits::default() }
    }

    fn random(seed: u64, limits: &Limits) -> Answer {
        answer(Mode::Random, "p", limits, None, &mut Rng::seeded(seed))
    }

    #[test]
    fn a_text_is_tokenized_as_it_was_made() {
        for seed in 0..20 {
            let answer = random(seed, &limits(Some(90)));
            assert_eq!(tokenize(&answer.text), answer.tokens);
            let n = answer.n_tokens();
            let parts: String = (0..n).map(|nth| answer.slice(nth, nth + 1)).collect();
            assert_eq!(parts, answer.text);
        }
    }

    #[test]
    fn lengths_follow_the_limit() {
        for max in [1, 5, 100, 500] {
            let answers: Vec<_> = (0..400).map(|seed| random(seed, &limits(Some(max)))).collect();
            assert!(answers.iter().all(|answer| (1..=max).contains(&answer.n_tokens())));
            for answer in &answers {
                assert_eq!(answer.finish == Finish::Length, answer.n_tokens() == max);
            }
            let cut = answers.iter().filter(|answer| answer.finish == Finish::Length).count();
            assert!(cut >= 30, "{cut} of 400 are cut at {max}");
        }
        let ignored = Limits { ignore_eos: true, ..limits(Some(77)) };
        assert_eq!(random(1, &ignored).n_tokens(), 77);
        let at_least = Limits { min_tokens: 60, ..limits(Some(77)) };
        assert!((0..50).all(|seed| random(seed, &at_least).n_tokens() >= 60));
        let mean = (0..500).map(|seed| random(seed, &limits(None)).n_tokens()).sum::<u32>() / 500;
        assert!((35..45).contains(&mean), "{mean}");
        assert_eq!(random(5, &limits(None)), random(5, &limits(None)));
    }

    #[test]
    fn an_echo_says_the_prompt() {
        let echo =
            |prompt: &str, max| answer(Mode::Echo, prompt, &limits(max), None, &mut Rng::seeded(1));
        let whole = echo("to be or not", None);
        assert_eq!((whole.text.as_str(), whole.finish), ("to be or not", Finish::Stop));
        let cut = echo("to be or not", Some(2));
        assert_eq!((cut.text.as_str(), cut.finish), ("to be ", Finish::Length));
        assert_eq!(echo("", None).n_tokens(), 1);
    }

    #[test]
    fn a_stop_string_ends_the_answer() {
        let limits = Limits { stop: vec!["zzz".into(), "e or".into()], ..limits(None) };
        let answer = answer(Mode::Echo, "to be or not", &limits, None, &mut Rng::seeded(1));
        assert_eq!((answer.text.as_str(), answer.stop.as_deref()), ("to b", Some("e or")));
        // `to `, `be ` and `or `, in which the stop string ends.
        assert_eq!((answer.n_tokens(), answer.finish), (3, Finish::Stop));
        assert_eq!((answer.slice(1, 2), answer.slice(2, 3)), ("b", ""));
    }

    #[test]
    fn a_tool_call_fits_its_schema() {
        let parameters = json!({"type": "object", "required": ["city", "days", "unit", "tags"], "properties": {
            "city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["c", "f"]},
            "tags": {"type": "array", "items": {"type": "boolean"}}, "more": {"type": "object"},
        }});
        let tool = Tool { name: "weather".into(), parameters };
        let answer = answer(Mode::Random, "p", &limits(None), Some(&tool), &mut Rng::seeded(3));
        let arguments: Value = serde_json::from_str(&answer.text).unwrap();
        assert!(arguments["city"].is_string() && arguments["days"].is_u64());
        assert!(["c", "f"].contains(&arguments["unit"].as_str().unwrap()));
        assert!(arguments["tags"].as_array().unwrap().iter().all(Value::is_boolean));
        assert_eq!(
            (answer.finish, answer.call.unwrap().name.as_str()),
            (Finish::ToolCalls, "weather")
        );
    }
}
