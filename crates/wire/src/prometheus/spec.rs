//! Which series is wanted: `name` or `name{k=v,k2="v2"}`.

use std::{fmt, str::FromStr};

use super::{Sample, line::is_name_byte};

/// A series that is wanted.
///
/// ```
/// use router_wire::prometheus::SeriesSpec;
///
/// let spec: SeriesSpec = "nv_trt_llm_request_metrics{request_type=waiting}".parse()?;
/// assert_eq!(spec.name(), "nv_trt_llm_request_metrics");
/// # Ok::<(), router_wire::prometheus::SpecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesSpec {
    name: Box<str>,
    labels: Vec<(Box<str>, Box<str>)>,
    select: Select,
}

/// Which of several series that fit is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Select {
    /// The one with the greatest written time, none being 0; of equals the first.
    #[default]
    Newest,
    /// The one with the greatest value; of equals the first. For series such as `vllm:lora_requests_info`, whose
    /// value is the time at which it was made.
    Highest,
}

/// Why a text is not the name of a series.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// There is no name.
    #[error("metric spec has no name")]
    NoName,
    /// The name has a character that metric names do not have.
    #[error("invalid metric name '{name}'")]
    BadName {
        /// The name.
        name: String,
    },
    /// There is no closing brace, or something after it.
    #[error("metric spec must end with '}}' after its labels")]
    Unclosed,
    /// A label is not `name=value`.
    #[error("invalid label '{label}', expected name=value")]
    BadLabel {
        /// The label.
        label: String,
    },
    /// A label is given twice.
    #[error("duplicate label '{name}'")]
    DuplicateLabel {
        /// Its name.
        name: String,
    },
}

impl SeriesSpec {
    /// The name of the series.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The labels that a series must have.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Which of several series is taken.
    pub fn select(&self) -> Select {
        self.select
    }

    /// The same, but of several series the one with the greatest value is taken.
    pub fn highest(self) -> Self {
        Self { select: Select::Highest, ..self }
    }

    pub(super) fn matches(&self, sample: Sample<'_>) -> bool {
        self.labels().all(|(name, value)| {
            sample.labels().any(|label| label.name == name && label.value() == value)
        })
    }
}

impl Select {
    pub(super) fn replaces(self, old: Sample<'_>, new: Sample<'_>) -> bool {
        match self {
            Select::Newest => new.timestamp.unwrap_or(0.0) > old.timestamp.unwrap_or(0.0),
            Select::Highest => new.value > old.value || old.value.is_nan() && !new.value.is_nan(),
        }
    }
}

impl FromStr for SeriesSpec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let text = text.trim();
        let (name, labels) = match text.split_once('{') {
            None => (text, Vec::new()),
            Some((name, rest)) => (name.trim_end(), labels(rest)?),
        };
        if name.is_empty() {
            return Err(SpecError::NoName);
        }
        if !is_name(name, true) {
            return Err(SpecError::BadName { name: name.to_owned() });
        }
        Ok(Self { name: name.into(), labels, select: Select::default() })
    }
}

impl fmt::Display for SeriesSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (i, (name, value)) in self.labels.iter().enumerate() {
            let before = if i == 0 { '{' } else { ',' };
            let value = value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            write!(f, "{before}{name}=\"{value}\"")?;
        }
        if self.labels.is_empty() { Ok(()) } else { f.write_str("}") }
    }
}

fn is_name(name: &str, colons: bool) -> bool {
    let bytes = name.as_bytes();
    bytes.iter().all(|&byte| is_name_byte(byte) && (colons || byte != b':'))
        && bytes.first().is_some_and(|byte| !byte.is_ascii_digit())
}

/// Reads the labels and the closing brace.
fn labels(text: &str) -> Result<Vec<(Box<str>, Box<str>)>, SpecError> {
    let mut labels: Vec<(Box<str>, Box<str>)> = Vec::new();
    let mut rest = text.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return if after.trim().is_empty() { Ok(labels) } else { Err(SpecError::Unclosed) };
        }
        if rest.is_empty() {
            return Err(SpecError::Unclosed);
        }
        let bad = || SpecError::BadLabel {
            label: rest.split([',', '}']).next().unwrap_or_default().trim().to_owned(),
        };
        let (name, after) = rest.split_once('=').ok_or_else(bad)?;
        let name = name.trim();
        if !is_name(name, false) {
            return Err(bad());
        }
        let (value, after) = value(after.trim_start()).ok_or(SpecError::Unclosed)?;
        if labels.iter().any(|(known, _)| **known == *name) {
            return Err(SpecError::DuplicateLabel { name: name.to_owned() });
        }
        labels.push((name.into(), value.into()));
        rest = match after.trim_start() {
            after if after.starts_with('}') => after,
            after => after.strip_prefix(',').ok_or_else(bad)?.trim_start(),
        };
    }
}

/// Reads a value, quoted or up to the next comma or brace.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', '}'])?;
        let (value, rest) = text.split_at_checked(end)?;
        return Some((value.trim_end().to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => match chars.next()? {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            c => value.push(c),
        }
    }
}
