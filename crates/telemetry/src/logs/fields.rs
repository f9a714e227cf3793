//! The fields of one line, as JSON text.

use std::{borrow::Cow, fmt, ops::Range};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use smallvec::SmallVec;
use tracing::field::{Field, Visit};

/// Keys that a field cannot take; such a field gets an underscore.
const RESERVED: [&str; 5] = ["level", "ts", "logger", "caller", "msg"];

/// Where tracing keeps an event's message.
const MESSAGE: &str = "message";

/// Fields that most lines have at most.
const FEW: usize = 16;

/// Fields as JSON; later ones replace earlier ones of the same name.
#[derive(Default)]
pub(super) struct Fields {
    names: SmallVec<[(Cow<'static, str>, Range<usize>); FEW]>,
    message: Option<Range<usize>>,
    /// The values, one after the other.
    text: Vec<u8>,
}

impl Fields {
    /// Takes what a span noted; a text that is no JSON object is left out.
    pub(super) fn take_span(&mut self, text: &str) {
        let Ok(fields) = serde_json::from_str::<Map<String, Value>>(text) else { return };
        for (name, value) in fields {
            self.insert(Cow::Owned(name), &value);
        }
    }

    /// Writes the message and then every field, each after a comma.
    pub(super) fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        write!(out, ",\"msg\":{}", self.message.clone().map_or("\"\"", |range| self.value(range)))?;
        for (name, range) in &self.names {
            let suffix = if RESERVED.contains(&&**name) { "_" } else { "" };
            let name = super::quoted(name)?;
            let name = name.strip_suffix('"').unwrap_or(&name);
            write!(out, ",{name}{suffix}\":{}", self.value(range.clone()))?;
        }
        Ok(())
    }

    fn value(&self, range: Range<usize>) -> &str {
        let text = self.text.get(range).unwrap_or_default();
        str::from_utf8(text).unwrap_or("null")
    }

    fn insert(&mut self, name: Cow<'static, str>, value: &(impl Serialize + ?Sized)) {
        let from = self.text.len();
        if serde_json::to_writer(&mut self.text, value).is_err() {
            self.text.truncate(from);
            return;
        }
        let range = from..self.text.len();
        if name == MESSAGE {
            self.message = Some(range);
        } else if let Some((_, old)) = self.names.iter_mut().find(|(known, _)| *known == name) {
            *old = range;
        } else {
            self.names.push((name, range));
        }
    }

    fn record<T: Serialize + ?Sized>(&mut self, field: &Field, value: &T) {
        self.insert(Cow::Borrowed(field.name()), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, &AsText(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, &value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, &value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, &value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.record(field, &value);
        } else {
            // NaN and infinities are no JSON numbers.
            self.record(field, &value.to_string());
        }
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record(field, &value.to_string());
    }
}

/// A value as a JSON string of what it shows.
struct AsText<'a>(&'a dyn fmt::Debug);

impl Serialize for AsText<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:?}", self.0))
    }
}
