//! Lines of a recording of live traffic, as they are written and read.
//!
//! A recording is a trace of our own ([`read::jsonl`](super::read::jsonl)) whose requests stand in the order of
//! their ends. Between them there may be lines with inputs of decisions, in the order in which things happened;
//! those begin with the key `input`. The last line of one that was closed in order begins with `end`.
//!
//! Times of inputs are nanoseconds on the router's clock, and numbers keep every bit: what was decided by them is
//! decided by them again.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::value::RawValue;

/// What the first line of a recording says that is written.
///
/// | version | what came with it |
/// | --- | --- |
/// | 1 | |
/// | 2 | time of dispatch; what flow control refused; how many inputs there are |
/// | 3 | which requests do not stream, and the longest answers that they ask for |
pub const VERSION: u64 = 3;
/// The oldest that can be read. Traces that nobody recorded have it: nothing that came later is for them.
pub const OLDEST_VERSION: u64 = 1;

/// The first line of a trace of our own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    #[serde(rename = "llm-d-router-trace")]
    pub version: u64,
    pub block_tokens: u64,
    /// Where it was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recorded: Option<RecordedBy>,
}

/// What recorded it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedBy {
    /// Version of the router.
    pub version: String,
    /// It has the inputs of decisions.
    #[serde(default, skip_serializing_if = "is_false")]
    pub inputs: bool,
}

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think: Option<f64>,
    pub prompt_tokens: u32,
    #[serde(default)]
    pub output_tokens: u32,
    /// Where it is another than the trace's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<u64>,
    /// The conversation; for people, nothing plays it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// The model, whether it is an adapter or not; for people, nothing plays it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<String>,
    /// Whether it asks for a streamed answer; it does if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// The longest answer that it asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Prompts, where it has more than one; lengths and blocks are those of all and of the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompts: Option<u64>,
    /// Answers that it asks for, where that is more than one; `output_tokens` are those of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed: Option<ObservedRow>,
    /// In place of it, where the router refused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedRow>,
}

/// Why nobody served a recorded request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefusedRow {
    /// As its client was told: the dropped reason, or else the error code.
    pub why: String,
    /// Seconds from its arrival.
    pub after: f64,
    /// It got no turn in flow control.
    #[serde(default, skip_serializing_if = "is_false")]
    pub by_flow_control: bool,
}

/// What became of a recorded request. Times are seconds from its arrival.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObservedRow {
    pub endpoint: String,
    /// When it was sent there: it was decided, after all waiting in the router, or went on after an attempt that
    /// failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatched: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttft: Option<f64>,
    pub e2e: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u32>,
    pub status: u16,
}

/// The last line of a recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndLine {
    pub end: RecordEnd,
}

/// How a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordEnd {
    pub why: Why,
    /// Requests in it.
    pub requests: u64,
    /// Lines with inputs of decisions in it.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub inputs: u64,
    /// Lines that could not be written in time.
    pub dropped: u64,
    /// Requests that had not come to their end.
    pub under_way: u64,
}

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The router was told to stop.
    Stopped,
    /// The file is as long as it may be.
    Full,
}

/// Something that decisions depend on, or a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputLine {
    pub input: Input,
    /// Nanoseconds on the router's clock.
    pub t: u64,
    /// The how-manieth configuration, from 0.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub router: u32,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Input {
    /// A router is built.
    Configuration(Box<ConfigurationInput>),
    /// The pool is exactly this.
    Members(Vec<MemberInput>),
    /// A scrape of an endpoint.
    Scrape(Box<ScrapeInput>),
    Decision(Box<DecisionInput>),
    /// An attempt failed.
    Failed(FailedInput),
    /// The head of a response came.
    Head(HeadInput),
    /// The first byte of a response's body came.
    FirstByte {
        id: u64,
    },
    Ended(EndedInput),
    /// So many lines are missing here.
    Gap {
        lines: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigurationInput {
    pub name: String,
    /// The document; without it, the built-in one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    pub seed: u64,
    /// Nanoseconds, as all times here.
    pub refresh_interval: u64,
    pub staleness_threshold: u64,
    pub disable_subset_filter: bool,
    pub health: HealthInput,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthInput {
    pub enabled: bool,
    pub base_ejection: u64,
    pub max_ejection: u64,
    pub failed_scrapes: u32,
    pub unavailable: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberInput {
    pub namespace: String,
    pub name: String,
    pub address: String,
    pub port: u16,
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub labels: std::collections::BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub rank: u32,
}

/// What a scrape came to; it failed where it is neither of both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScrapeInput {
    pub endpoint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub page: Option<PageInput>,
    /// Nobody listens; tried again after so many nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PageInput {
    /// It came from where the endpoint serves requests.
    pub at_its_port: bool,
    /// It counts as a scrape of this time.
    pub fresh: bool,
    /// Where they are others than before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signals: Option<SignalsInput>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<LoraInput>,
}

/// What an endpoint says of itself; what it does not say is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignalsInput {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_usage: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<Exact>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_blocks: Option<Exact>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraInput {
    pub active: Vec<String>,
    pub waiting: Vec<String>,
    pub max_active: u32,
}

/// A decision, with what only it depends on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecisionInput {
    pub id: u64,
    /// Nanoseconds on the router's clock.
    pub received: u64,
    /// When its candidates were looked up, where a plugin had to wait after that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// How often what it depends on changed meanwhile.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub changes: u64,
    pub model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    #[serde(default, skip_serializing_if = "is_false")]
    pub stream: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// Answers that the client asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answers: Option<u64>,
    pub prompts: Vec<PromptInput>,
    /// The client brought a request id.
    #[serde(default, skip_serializing_if = "is_false")]
    pub has_id: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub cached_only: bool,
    /// The proxy's restriction of the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset: Option<Vec<String>>,
    /// Where it went, best first; where it went nowhere, there is `refused`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<String>,
    /// Error code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The dropped reason that came with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// It got no turn in flow control, so that nothing was decided.
    #[serde(default, skip_serializing_if = "is_false")]
    pub by_flow_control: bool,
    /// The best totals of the primary profile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<(String, Exact)>,
}

/// One prompt of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptInput {
    pub tokens: u64,
    pub block_tokens: u32,
    /// All blocks that the router made of it, the last one perhaps for a part of a block.
    pub blocks: Vec<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedInput {
    pub id: u64,
    pub what: FailureInput,
    /// The endpoint that the request went to next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureInput {
    Unreachable,
    Unavailable,
    Timeout,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadInput {
    pub id: u64,
    pub status: u16,
    #[serde(default, skip_serializing_if = "is_false")]
    pub from_proxy: bool,
    /// `ip:port` that served, where the proxy says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EndedInput {
    pub id: u64,
    pub cause: CauseInput,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageInput>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseInput {
    Natural,
    ClientDisconnect,
    Evicted,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageInput {
    pub prompt: u64,
    pub completion: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached: Option<u64>,
    pub total: u64,
}

/// A number that is read as it was written, to the last bit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Exact(pub f64);

impl Exact {
    /// `None` for what is no number.
    pub fn of(value: f64) -> Option<Self> {
        value.is_finite().then_some(Self(value))
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The JSON reader's own numbers may be off in the last bit.
        let text = <&RawValue>::deserialize(deserializer)?.get();
        let value: f64 = text.parse().map_err(|_| D::Error::custom("expected a number"))?;
        Self::of(value).ok_or_else(|| D::Error::custom("the number is too large"))
    }
}

/// Whether a line is the first one of a trace or a recording.
pub fn is_header(line: &str) -> bool {
    has_first_key(line, "\"llm-d-router-trace\"")
}

/// Whether a line holds inputs of decisions rather than a request.
pub fn is_input(line: &str) -> bool {
    has_first_key(line, "\"input\"")
}

/// Whether a line is a recording's last one.
pub fn is_end(line: &str) -> bool {
    has_first_key(line, "\"end\"")
}

fn has_first_key(line: &str, key: &str) -> bool {
    let rest = line.trim_start().strip_prefix('{').map(str::trim_start);
    rest.is_some_and(|rest| rest.starts_with(key))
}

// `serde` hands over references.
fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero(value: &i32) -> bool {
    *value == 0
}

fn is_zero_u32(value: &u32) -> bool {
    *value == 0
}

fn is_zero_u64(value: &u64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_every_bit() {
        for bits in (0..20_000u64).map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
            let Some(number) = Exact::of(f64::from_bits(bits)) else { continue };
            let text = serde_json::to_string(&number).unwrap();
            let back: Exact = serde_json::from_str(&text).unwrap();
            assert_eq!(back.0.to_bits(), number.0.to_bits(), "{text}");
        }
        assert_eq!(Exact::of(f64::NAN), None);
        assert!(serde_json::from_str::<Exact>("1e999").is_err());
        assert!(serde_json::from_str::<Exact>("[1]").is_err());
    }

    #[test]
    fn lines_are_told_apart_by_their_first_key() {
        let input = InputLine { input: Input::FirstByte { id: 7 }, t: 5, router: 0 };
        let text = serde_json::to_string(&input).unwrap();
        assert_eq!(text, r#"{"input":{"first_byte":{"id":7}},"t":5}"#);
        assert_eq!(serde_json::from_str::<InputLine>(&text).unwrap(), input);
        assert!(is_input(&text) && is_input(" { \"input\" : 1}") && !is_end(&text));
        let end = RecordEnd { why: Why::Full, requests: 3, inputs: 0, dropped: 0, under_way: 1 };
        let text = serde_json::to_string(&EndLine { end }).unwrap();
        assert!(is_end(&text) && !is_input(&text) && !text.contains("inputs"), "{text}");
        assert!(!is_input("{\"at\": 1, \"input\": 2}"));
    }
}
