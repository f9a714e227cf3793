//! Reads any `Deserialize` type from a [`Node`], with errors that know their place.

use std::{cell::RefCell, fmt};

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, VariantAccess, Visitor,
};

use super::{
    diagnostics::{Diagnostic, Diagnostics, quote},
    source::{Path, Span},
    suggest,
    tree::{Entry, Map, Node, Value, whole},
};

mod access;

pub(crate) use access::other_case;
use access::{EnumReader, ListReader, MapReader, StructReader};

/// Reads a `T` from `node`, which stands at `path` of the document. What is wrong is reported,
/// up to the first error; keys of structs may be in another case, which is a warning, and a null
/// is taken as an absent key, as Go does both.
pub fn read<'n, T: de::Deserialize<'n>>(
    node: &'n Node,
    path: &Path<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<T> {
    let context = Context { warnings: RefCell::default() };
    let result = T::deserialize(Reader { node, path, context: &context });
    context.warnings.into_inner().into_iter().for_each(|warning| diagnostics.push(warning));
    match result {
        Ok(value) => Some(value),
        Err(error) => {
            diagnostics.push(error.located(node.span, path).into_diagnostic());
            None
        }
    }
}

/// Why a node is not a `T`.
#[derive(Debug)]
struct Error(Box<Fault>);

#[derive(Debug)]
struct Fault {
    message: String,
    help: Option<String>,
    /// Set by the innermost reader that sees the error.
    place: Option<(Span, String)>,
}

/// A node on its way into a type.
#[derive(Clone, Copy)]
struct Reader<'n, 'p> {
    node: &'n Node,
    path: &'p Path<'p>,
    context: &'p Context,
}

struct Context {
    warnings: RefCell<Vec<Diagnostic>>,
}

// === impl Error ===

impl Error {
    fn new(message: impl Into<String>, help: Option<String>) -> Self {
        Self(Box::new(Fault { message: message.into(), help, place: None }))
    }

    /// Notes where the error is, unless a reader further in knew better.
    fn located(mut self, span: Span, path: &Path<'_>) -> Self {
        self.0.place.get_or_insert_with(|| (span, path.to_string()));
        self
    }

    fn into_diagnostic(self) -> Diagnostic {
        let Fault { message, help, place } = *self.0;
        let (span, path) = place.unwrap_or((Span::NONE, String::new()));
        Diagnostic::error(span, path, message).help(help)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string(), None)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let quoting = matches!(found, Unexpected::Bool(_) | Unexpected::Signed(_))
            || matches!(found, Unexpected::Unsigned(_) | Unexpected::Float(_));
        let expected = expected.to_string();
        let help = (quoting && expected.contains("string")).then(|| QUOTE_IT.to_owned());
        Self::new(format!("expected {expected}, found {}", describe(found)), help)
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("expected {expected}, found {}", describe(found)), None)
    }

    fn invalid_length(len: usize, expected: &dyn de::Expected) -> Self {
        Self::new(format!("expected {expected}, found {len}"), None)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(not_one_of(variant, expected), suggest::did_you_mean(variant, expected.to_vec()))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let help = suggest::did_you_mean(field, expected.to_vec());
        Self::new(format!("unknown key {}", quote(field)), help)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(format!("missing key `{field}`"), None)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(format!("duplicate key `{field}`"), None)
    }
}

/// Help for a scalar that YAML does not take for text.
pub(crate) const QUOTE_IT: &str = "put it in quotes to make it a string";

/// `x` is not one of `a`, `b`.
pub(crate) fn not_one_of(found: &str, expected: &[&str]) -> String {
    let expected: Vec<_> = expected.iter().map(|name| quote(name)).collect();
    match expected.as_slice() {
        [only] => format!("expected {only}, found {}", quote(found)),
        _ => format!("{} is not one of {}", quote(found), expected.join(", ")),
    }
}

fn describe(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("the boolean {value}"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(text) => format!("the string {}", quote(text)),
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "a map".to_owned(),
        other => other.to_string(),
    }
}

// === impl Reader ===

impl<'n> Reader<'n, '_> {
    /// Gives the visitor what the node holds.
    fn visit<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => {
                if let Some(value) = number.as_u64() {
                    visitor.visit_u64(value)
                } else if let Some(value) = number.as_i64() {
                    visitor.visit_i64(value)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or_default())
                }
            }
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::List(list) => visitor.visit_seq(ListReader::new(self, list)),
            Value::Map(map) => visitor.visit_map(MapReader::new(self, map)),
        }
    }

    /// A whole number may be written `2.0`.
    fn visit_integer<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Number(number) if number.is_f64() => match number.as_f64().and_then(whole) {
                Some(value) if value >= 0 => visitor.visit_u64(value.unsigned_abs()),
                Some(value) => visitor.visit_i64(value),
                None => self.visit(visitor),
            },
            _ => self.visit(visitor),
        }
    }

    fn located<T>(self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| error.located(self.node.span, self.path))
    }
}

macro_rules! read_as {
    ($how:ident: $($method:ident)*) => {
        $(fn $method<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
            self.located(self.$how(visitor))
        })*
    };
}

impl<'n> Deserializer<'n> for Reader<'n, '_> {
    type Error = Error;

    read_as!(visit: deserialize_any deserialize_bool deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes
        deserialize_byte_buf deserialize_unit deserialize_seq deserialize_map
        deserialize_identifier);
    read_as!(visit_integer: deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_i128 deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
        deserialize_u128);

    fn deserialize_option<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        let result = match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        };
        self.located(result)
    }

    fn deserialize_unit_struct<V: Visitor<'n>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.located(self.visit(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'n>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.located(visitor.visit_newtype_struct(self))
    }

    fn deserialize_tuple<V: Visitor<'n>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.located(self.visit(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'n>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.located(self.visit(visitor))
    }

    fn deserialize_struct<V: Visitor<'n>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let result = match &self.node.value {
            Value::Map(map) => visitor.visit_map(StructReader::new(self, map, fields)),
            // Fields in order without their names are no way to write parameters.
            Value::List(_) => Err(de::Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.visit(visitor),
        };
        self.located(result)
    }

    fn deserialize_enum<V: Visitor<'n>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let result = EnumReader::new(self, variants).and_then(|reader| visitor.visit_enum(reader));
        self.located(result)
    }

    fn deserialize_ignored_any<V: Visitor<'n>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

#[cfg(test)]
mod tests;
