//! Logs: JSON lines with a stable set of keys, or text for people; always on standard error.
//!
//! A JSON line has `level`, `ts` (seconds since the epoch), `logger`, `caller` (file and line), `msg`,
//! then the fields of the spans around it and its own, as the Go implementation's zap encoder writes
//! them (`spec/request-path.md` §6.5).

use std::{
    fmt,
    io::{self, IsTerminal},
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

use thiserror::Error;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    fmt::{
        FmtContext, FormatEvent, FormatFields, FormattedFields, MakeWriter,
        format::{JsonFields, Writer},
    },
    registry::LookupSpan,
};

mod fields;
mod gather;

use fields::Fields;
pub use gather::ACCESS;
pub(crate) use gather::Lines;

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
        let mut fields = Fields::default();
        for span in context.event_scope().into_iter().flat_map(|scope| scope.from_root()) {
            if let Some(text) = span.extensions().get::<FormattedFields<N>>() {
                fields.take_span(text);
            }
        }
        event.record(&mut fields);
        write!(writer, "{{\"level\":\"{}\",\"ts\":", level_name(*metadata.level()))?;
        match unix_seconds() {
            Some(seconds) => write!(writer, "{seconds}")?,
            None => writer.write_str("null")?,
        }
        write!(writer, ",\"logger\":{}", quoted(metadata.target())?)?;
        if let (Some(file), Some(at)) = (metadata.file(), metadata.line()) {
            write!(writer, ",\"caller\":{}", quoted(&format!("{}:{at}", short(file)))?)?;
        }
        fields.write(&mut writer)?;
        writer.write_str("}\n")
    }
}

/// A source file without the folders of the machine that compiled it. A crate from elsewhere begins with
/// its own folder, such as `h2-0.4.1/src/codec.rs`.
fn short(file: &str) -> &str {
    let is_foreign = file.starts_with(['/', '\\']) || file.get(1..2) == Some(":");
    let sources = file.rfind("/src/").or_else(|| file.rfind("\\src\\"));
    match sources.filter(|_| is_foreign).and_then(|sources| file.get(..sources)) {
        None => file,
        Some(folder) => {
            let begin = folder.rfind(['/', '\\']).map_or(0, |separator| separator + 1);
            file.get(begin..).unwrap_or(file)
        }
    }
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warn",
        Level::ERROR => "error",
    }
}

fn quoted(text: &str) -> Result<String, fmt::Error> {
    serde_json::to_string(text).map_err(|_| fmt::Error)
}

/// Microseconds are what zap shows and what a float holds exactly enough.
fn unix_seconds() -> Option<f64> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(since.as_micros() as f64 / 1e6)
}

#[cfg(test)]
mod tests;
