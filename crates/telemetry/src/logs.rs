//! Logs: JSON lines with a stable set of keys, or text for people; always on standard error.
//!
//! A JSON line has `level`, `ts` (seconds since the epoch), `logger`, `msg`, then the fields of
//! the spans around it and its own, as the Go implementation's zap encoder writes them.

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Number, Value};
use thiserror::Error;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter,
        format::{JsonFields, Writer},
    },
    registry::LookupSpan,
};

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    pub format: LogFormat,
    pub level: LevelFilter,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Text, coloured on a terminal.
    Human,
}

/// A log setting that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LogError {
    #[error("unknown log format `{0}`; known are json, human")]
    UnknownFormat(String),
    #[error("unknown log level `{0}`; known are debug, info, warn, error, or a number from 1 on")]
    UnknownLevel(String),
}

/// Crates of third parties speak from this level on, whatever is asked of ours: their debug lines
/// drown everything.
const OTHERS: LevelFilter = LevelFilter::WARN;

/// Targets of our own crates begin so.
const OURS: [&str; 2] = ["router_", "llm_d_router"];

// === impl LogOptions ===

impl LogOptions {
    /// The level of Go's `-v`: up to 3 is info, 4 debug, 5 and beyond trace.
    pub fn level_of_verbosity(verbosity: i64) -> LevelFilter {
        match verbosity {
            ..=3 => LevelFilter::INFO,
            4 => LevelFilter::DEBUG,
            5.. => LevelFilter::TRACE,
        }
    }

    /// The level of `--zap-log-level`: a name, or a number that means verbosity.
    pub fn level_of_zap(text: &str) -> Result<LevelFilter, LogError> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Ok(LevelFilter::DEBUG),
            "info" => Ok(LevelFilter::INFO),
            "warn" => Ok(LevelFilter::WARN),
            "error" | "dpanic" | "panic" | "fatal" => Ok(LevelFilter::ERROR),
            other => match other.parse::<i64>() {
                Ok(verbosity @ 1..) => Ok(Self::level_of_verbosity(verbosity)),
                _ => Err(LogError::UnknownLevel(text.to_owned())),
            },
        }
    }

    fn filter(&self) -> Targets {
        let ours = OURS.into_iter().map(|target| (target, self.level));
        Targets::new().with_default(self.level.min(OTHERS)).with_targets(ours)
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { format: LogFormat::default(), level: LevelFilter::INFO }
    }
}

impl FromStr for LogFormat {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        match text {
            "json" => Ok(Self::Json),
            // `console` is zap's word.
            "human" | "console" => Ok(Self::Human),
            other => Err(LogError::UnknownFormat(other.to_owned())),
        }
    }
}

/// The layer that writes logs to `writer`; [`crate::init`] installs it on standard error.
pub fn layer<S, W>(options: &LogOptions, writer: W) -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match options.format {
        LogFormat::Json => layer
            .fmt_fields(JsonFields::new())
            .event_format(JsonLines)
            .with_filter(options.filter())
            .boxed(),
        LogFormat::Human => {
            layer.with_ansi(io::stderr().is_terminal()).with_filter(options.filter()).boxed()
        }
    }
}

// === JSON lines ===

struct JsonLines;

/// Keys that a field cannot take; such a field gets an underscore.
const RESERVED: [&str; 4] = ["level", "ts", "logger", "msg"];

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields(Map::new());
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            let extensions = span.extensions();
            let Some(text) = extensions.get::<FormattedFields<N>>() else { continue };
            if let Ok(Value::Object(of_span)) = serde_json::from_str(text) {
                of_span.into_iter().for_each(|(name, value)| fields.insert(&name, value));
            }
        }
        event.record(&mut fields);
        let mut line = Map::new();
        line.insert("level".to_owned(), level_name(*metadata.level()).into());
        line.insert("ts".to_owned(), unix_seconds().map_or(Value::Null, Value::Number));
        line.insert("logger".to_owned(), metadata.target().into());
        line.insert("msg".to_owned(), fields.0.shift_remove(MESSAGE).unwrap_or_else(|| "".into()));
        line.append(&mut fields.0);
        let text = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{text}")
    }
}

/// Where tracing keeps an event's message.
const MESSAGE: &str = "message";

fn level_name(level: Level) -> &'static str {
    match level {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warn",
        Level::ERROR => "error",
    }
}

fn unix_seconds() -> Option<Number> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    // Microseconds are what zap shows and what a float holds exactly enough.
    Number::from_f64(since.as_micros() as f64 / 1e6)
}

/// Fields as JSON; later ones replace earlier ones of the same name.
struct Fields(Map<String, Value>);

impl Fields {
    fn insert(&mut self, name: &str, value: Value) {
        let name = if RESERVED.contains(&name) { format!("{name}_") } else { name.to_owned() };
        self.0.insert(name, value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.insert(field.name(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.insert(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.insert(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.insert(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.insert(field.name(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // NaN and infinities are no JSON numbers.
        let number = Number::from_f64(value).map(Value::Number);
        self.insert(field.name(), number.unwrap_or_else(|| value.to_string().into()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.insert(field.name(), value.to_string().into());
    }
}

#[cfg(test)]
mod tests;
