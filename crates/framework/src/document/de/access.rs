//! Lists, maps, structs and enums on their way into a type.

use super::{
    DeserializeSeed, Diagnostic, Entry, EnumAccess, Error, IntoDeserializer, Map, MapAccess, Node,
    Path, Reader, SeqAccess, Unexpected, Value, VariantAccess, Visitor, de, quote,
};

// === Lists ===

pub(super) struct ListReader<'n, 'p> {
    parent: Reader<'n, 'p>,
    items: std::iter::Enumerate<std::slice::Iter<'n, Node>>,
}

impl<'n, 'p> ListReader<'n, 'p> {
    pub(super) fn new(parent: Reader<'n, 'p>, list: &'n [Node]) -> Self {
        Self { parent, items: list.iter().enumerate() }
    }
}

impl<'n> SeqAccess<'n> for ListReader<'n, '_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'n>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let path = self.parent.path.index(index);
        let reader = Reader { node, path: &path, context: self.parent.context };
        reader.located(seed.deserialize(reader)).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

// === Maps ===

pub(super) struct MapReader<'n, 'p> {
    parent: Reader<'n, 'p>,
    entries: Box<dyn Iterator<Item = &'n Entry> + 'n>,
    current: Option<&'n Entry>,
}

impl<'n, 'p> MapReader<'n, 'p> {
    pub(super) fn new(parent: Reader<'n, 'p>, map: &'n Map) -> Self {
        Self { parent, entries: Box::new(map.entries()), current: None }
    }
}

impl<'n> MapAccess<'n> for MapReader<'n, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'n>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        read_key(self.parent, entry, &entry.key, seed).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'n>>(&mut self, seed: V) -> Result<V::Value, Error> {
        read_value(self.parent, self.current, seed)
    }
}

fn read_key<'n, K: DeserializeSeed<'n>>(
    parent: Reader<'n, '_>,
    entry: &'n Entry,
    key: &str,
    seed: K,
) -> Result<K::Value, Error> {
    let path = parent.path.key(&entry.key);
    let key: de::value::StrDeserializer<'_, Error> = key.into_deserializer();
    seed.deserialize(key).map_err(|error| error.located(entry.key_span, &path))
}

fn read_value<'n, V: DeserializeSeed<'n>>(
    parent: Reader<'n, '_>,
    current: Option<&'n Entry>,
    seed: V,
) -> Result<V::Value, Error> {
    let entry = current.ok_or_else(|| Error::new("a value without a key", None))?;
    let path = parent.path.key(&entry.key);
    let reader = Reader { node: &entry.value, path: &path, context: parent.context };
    reader.located(seed.deserialize(reader))
}

// === Structs ===

/// A map whose keys are known: nulls are left out, and a key in another case counts.
pub(super) struct StructReader<'n, 'p> {
    parent: Reader<'n, 'p>,
    map: &'n Map,
    entries: Box<dyn Iterator<Item = &'n Entry> + 'n>,
    fields: &'static [&'static str],
    current: Option<&'n Entry>,
}

impl<'n, 'p> StructReader<'n, 'p> {
    pub(super) fn new(
        parent: Reader<'n, 'p>,
        map: &'n Map,
        fields: &'static [&'static str],
    ) -> Self {
        let entries = Box::new(map.entries().filter(|entry| !entry.value.is_null()));
        Self { parent, map, entries, fields, current: None }
    }

    /// The field that `entry` means.
    fn field(&self, entry: &'n Entry) -> &'n str {
        let key = entry.key.as_str();
        if self.fields.contains(&key) {
            return key;
        }
        let field = self.fields.iter().find(|field| field.eq_ignore_ascii_case(key));
        match field {
            Some(field) if self.map.get(field).is_none() => {
                let path = self.parent.path.key(key);
                let warning = other_case(entry, &path, field);
                self.parent.context.warnings.borrow_mut().push(warning);
                field
            }
            _ => key,
        }
    }
}

/// What is said about a key in another case than its name has.
pub(crate) fn other_case(entry: &Entry, path: &Path<'_>, field: &str) -> Diagnostic {
    let message = format!("key {} is spelled {}", quote(&entry.key), quote(field));
    Diagnostic::warning(entry.key_span, path, message)
}

impl<'n> MapAccess<'n> for StructReader<'n, '_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'n>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.current = self.entries.next();
        let Some(entry) = self.current else { return Ok(None) };
        let field = self.field(entry);
        read_key(self.parent, entry, field, seed).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'n>>(&mut self, seed: V) -> Result<V::Value, Error> {
        read_value(self.parent, self.current, seed)
    }
}

// === Enums ===

/// A variant's name, or a map of one entry from it to its content.
pub(super) struct EnumReader<'n, 'p> {
    parent: Reader<'n, 'p>,
    name: &'n str,
    content: Option<&'n Entry>,
}

impl<'n, 'p> EnumReader<'n, 'p> {
    pub(super) fn new(
        parent: Reader<'n, 'p>,
        variants: &'static [&'static str],
    ) -> Result<Self, Error> {
        let entry = parent.node.as_map().and_then(|map| {
            let mut entries = map.entries();
            entries.next().filter(|_| entries.next().is_none())
        });
        let name = entry.map(|entry| entry.key.as_str()).or_else(|| parent.node.as_str());
        match name {
            Some(name) => Ok(Self { parent, name, content: entry }),
            None => {
                let variants: Vec<_> = variants.iter().map(|name| quote(name)).collect();
                let message = format!("expected one of {}", variants.join(", "));
                Err(Error::new(format!("{message}, found {}", parent.node.kind()), None))
            }
        }
    }
}

impl<'n> EnumAccess<'n> for EnumReader<'n, '_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'n>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let name: de::value::StrDeserializer<'_, Error> = self.name.into_deserializer();
        let variant = match self.content {
            Some(entry) => seed
                .deserialize(name)
                .map_err(|error| error.located(entry.key_span, self.parent.path)),
            None => seed.deserialize(name),
        };
        Ok((variant?, self))
    }
}

impl<'n> EnumReader<'n, '_> {
    fn content<T>(self, read: impl FnOnce(Reader<'n, '_>) -> Result<T, Error>) -> Result<T, Error> {
        let Some(entry) = self.content else {
            let message = format!("variant {} needs a value", quote(self.name));
            return Err(Error::new(message, None));
        };
        let path = self.parent.path.key(&entry.key);
        let reader = Reader { node: &entry.value, path: &path, context: self.parent.context };
        reader.located(read(reader))
    }
}

impl<'n> VariantAccess<'n> for EnumReader<'n, '_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.content {
            Some(entry) if !matches!(entry.value.value, Value::Null) => {
                Err(de::Error::invalid_type(Unexpected::Map, &"a plain name"))
            }
            _ => Ok(()),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'n>>(self, seed: T) -> Result<T::Value, Error> {
        self.content(|reader| seed.deserialize(reader))
    }

    fn tuple_variant<V: Visitor<'n>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(|reader| de::Deserializer::deserialize_seq(reader, visitor))
    }

    fn struct_variant<V: Visitor<'n>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.content(|reader| de::Deserializer::deserialize_struct(reader, "", fields, visitor))
    }
}
