//! Who writes what and who reads it: the data-flow graph of a configuration.
//!
//! Every declared read must find exactly one writer. A read that names no producer takes the instance that
//! is named like the key's default producer, else the only instance that writes the key; it never picks
//! among several (defect A-4 of `spec/scheduling.md`). Optional reads order producers as required ones do
//! (defect A-6), and everything is in the order of declaration, never of a hash map (defect A-7).

use std::{
    any::TypeId,
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, OnceLock},
};

/// How long a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    Request,
    Endpoint,
}

struct ReadDecl {
    reader: String,
    lifetime: Lifetime,
    key: String,
    value: TypeId,
    default_producer: &'static str,
    /// Empty for the default.
    producer: String,
    need: Need,
    binding: Arc<OnceLock<usize>>,
}

/// What it means when nobody writes what is read.
#[derive(Clone, Copy, PartialEq)]
enum Need {
    Required,
    Optional,
    /// Optional, and absent as well when several write it.
    IfUnique,
}

struct WriteDecl {
    writer: String,
    lifetime: Lifetime,
    key: String,
    value: TypeId,
    binding: Arc<OnceLock<usize>>,
}

/// Declarations of all plugins of a configuration.
#[derive(Default)]
pub(crate) struct DataFlow {
    reads: Vec<ReadDecl>,
    writes: Vec<WriteDecl>,
}

/// A fault in the graph, with the instance whose declaration it is about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum GraphError {
    #[error("needs {key}, which no plugin writes{hint}")]
    NoWriter { reader: String, key: String, hint: String },
    #[error("needs {key} from {producer:?}, which does not write it; written by: {writers}")]
    WrongProducer { reader: String, key: String, producer: String, writers: String },
    #[error(
        "needs {key}, which several plugins write ({writers}); name one of them in the parameter for the producer's name"
    )]
    Ambiguous { reader: String, key: String, writers: String },
    #[error("reads {key} as another kind of value than {writer:?} writes")]
    TypeMismatch { reader: String, key: String, writer: String },
    #[error("is part of a cycle of data: {path}")]
    Cycle { reader: String, path: String },
}

impl GraphError {
    /// The instance to report it at.
    pub(crate) fn instance(&self) -> &str {
        match self {
            Self::NoWriter { reader, .. }
            | Self::WrongProducer { reader, .. }
            | Self::Ambiguous { reader, .. }
            | Self::TypeMismatch { reader, .. }
            | Self::Cycle { reader, .. } => reader,
        }
    }
}

/// A checked graph.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) n_request_slots: usize,
    pub(crate) n_endpoint_slots: usize,
    /// Instances that must run before the one named, by name.
    pub(crate) before: BTreeMap<String, BTreeSet<String>>,
}

impl DataFlow {
    pub(crate) fn read(
        &mut self,
        reader: &str,
        lifetime: Lifetime,
        key: &str,
        value: TypeId,
        default_producer: &'static str,
        producer: &str,
        required: bool,
        binding: Arc<OnceLock<usize>>,
    ) {
        self.reads.push(ReadDecl {
            reader: reader.to_owned(),
            lifetime,
            key: key.to_owned(),
            value,
            default_producer,
            producer: producer.to_owned(),
            need: if required { Need::Required } else { Need::Optional },
            binding,
        });
    }

    /// An optional read that stays unbound when it is not clear whose value is meant.
    pub(crate) fn read_if_unique(
        &mut self,
        reader: &str,
        lifetime: Lifetime,
        key: &str,
        value: TypeId,
        default_producer: &'static str,
        binding: Arc<OnceLock<usize>>,
    ) {
        self.read(reader, lifetime, key, value, default_producer, "", false, binding);
        if let Some(read) = self.reads.last_mut() {
            read.need = Need::IfUnique;
        }
    }

    /// Whether somebody writes the key.
    pub(crate) fn is_written(&self, lifetime: Lifetime, key: &str) -> bool {
        self.writes.iter().any(|write| write.lifetime == lifetime && write.key == key)
    }

    pub(crate) fn write(
        &mut self,
        writer: &str,
        lifetime: Lifetime,
        key: &str,
        value: TypeId,
        binding: Arc<OnceLock<usize>>,
    ) {
        self.writes.push(WriteDecl {
            writer: writer.to_owned(),
            lifetime,
            key: key.to_owned(),
            value,
            binding,
        });
    }

    /// Plugin types to create because a required key that names no producer has no writer yet.
    pub(crate) fn missing_producers(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        for read in self
            .reads
            .iter()
            .filter(|read| read.need == Need::Required && !read.default_producer.is_empty())
        {
            let wanted = read.producer.is_empty() || read.producer == read.default_producer;
            if wanted
                && self.writers(read).next().is_none()
                && !missing.contains(&read.default_producer)
            {
                missing.push(read.default_producer);
            }
        }
        missing
    }

    fn writers<'a>(&'a self, read: &'a ReadDecl) -> impl Iterator<Item = (usize, &'a WriteDecl)> {
        let same = |write: &WriteDecl| write.key == read.key && write.lifetime == read.lifetime;
        self.writes.iter().enumerate().filter(move |(_, write)| same(write))
    }

    /// Finds the writer of every read and gives both the same slot.
    pub(crate) fn resolve(&self) -> Result<Resolved, Vec<GraphError>> {
        let mut resolved = Resolved::default();
        let mut slots = Vec::with_capacity(self.writes.len());
        for write in &self.writes {
            let counter = match write.lifetime {
                Lifetime::Request => &mut resolved.n_request_slots,
                Lifetime::Endpoint => &mut resolved.n_endpoint_slots,
            };
            slots.push(*counter);
            let _already_bound = write.binding.set(*counter);
            *counter += 1;
        }
        let mut errors = Vec::new();
        for read in &self.reads {
            match self.writer_of(read) {
                Ok(None) => {}
                Ok(Some((at, write))) => {
                    if let Some(&slot) = slots.get(at) {
                        let _already_bound = read.binding.set(slot);
                    }
                    if write.writer != read.reader {
                        resolved
                            .before
                            .entry(read.reader.clone())
                            .or_default()
                            .insert(write.writer.clone());
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(resolved) } else { Err(errors) }
    }

    fn writer_of<'a>(
        &'a self,
        read: &'a ReadDecl,
    ) -> Result<Option<(usize, &'a WriteDecl)>, GraphError> {
        let all: Vec<_> = self.writers(read).collect();
        let names =
            || all.iter().map(|(_, write)| write.writer.as_str()).collect::<Vec<_>>().join(", ");
        let named = |name: &str| all.iter().find(|(_, write)| write.writer == name).copied();
        let (reader, key) = (read.reader.clone(), read.key.clone());
        let found = if !read.producer.is_empty() {
            named(&read.producer).ok_or_else(|| GraphError::WrongProducer {
                reader: reader.clone(),
                key: key.clone(),
                producer: read.producer.clone(),
                writers: if all.is_empty() { "nobody".to_owned() } else { names() },
            })?
        } else if let Some(default) = named(read.default_producer) {
            default
        } else {
            match all.as_slice() {
                [] if read.need != Need::Required => return Ok(None),
                [] => {
                    return Err(GraphError::NoWriter {
                        reader,
                        key,
                        hint: missing_hint(&read.key),
                    });
                }
                [one] => *one,
                // Signals have one home on the endpoint, however many extractors fill them.
                [first, ..] if read.key == crate::build::SIGNALS => *first,
                _ if read.need == Need::IfUnique => return Ok(None),
                _ => return Err(GraphError::Ambiguous { reader, key, writers: names() }),
            }
        };
        if found.1.value != read.value {
            return Err(GraphError::TypeMismatch { reader, key, writer: found.1.writer.clone() });
        }
        Ok(Some(found))
    }
}

fn missing_hint(key: &str) -> String {
    if key == crate::build::SIGNALS {
        return "; add a core-metrics-extractor to dataLayer.sources or leave out `injectDefaults: false`".to_owned();
    }
    String::new()
}

impl Resolved {
    /// `names` so that each comes after those it depends on; otherwise in the given order.
    pub(crate) fn order(&self, names: &[String]) -> Result<Vec<String>, GraphError> {
        let mut ordered = Vec::with_capacity(names.len());
        let mut done = BTreeSet::new();
        for name in names {
            self.visit(name, names, &mut Vec::new(), &mut done, &mut ordered)?;
        }
        Ok(ordered)
    }

    /// Depth-first; the depth is bounded by the number of plugins of a document, which is bounded itself.
    fn visit(
        &self,
        name: &str,
        names: &[String],
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
        ordered: &mut Vec<String>,
    ) -> Result<(), GraphError> {
        if done.contains(name) {
            return Ok(());
        }
        if path.iter().any(|above| above == name) {
            path.push(name.to_owned());
            return Err(GraphError::Cycle { reader: name.to_owned(), path: path.join(" → ") });
        }
        path.push(name.to_owned());
        for before in self.before.get(name).into_iter().flatten() {
            self.visit(before, names, path, done, ordered)?;
        }
        path.pop();
        done.insert(name.to_owned());
        if names.iter().any(|have| have == name) {
            ordered.push(name.to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(writes: &[(&str, &str)], reads: &[(&str, &str, &'static str, &str, bool)]) -> DataFlow {
        let mut flow = DataFlow::default();
        for (writer, key) in writes {
            flow.write(writer, Lifetime::Request, key, TypeId::of::<u8>(), Arc::default());
        }
        for (reader, key, default, producer, required) in reads {
            flow.read(
                reader,
                Lifetime::Request,
                key,
                TypeId::of::<u8>(),
                default,
                producer,
                *required,
                Arc::default(),
            );
        }
        flow
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a04_a_renamed_producer_satisfies_readers_of_its_key() {
        let flow =
            flow(&[("my-tokens", "Tokens")], &[("prefix", "Tokens", "token-producer", "", true)]);
        assert!(flow.missing_producers().is_empty());
        assert!(flow.resolve().unwrap().before["prefix"].contains("my-tokens"));
    }

    #[test]
    fn a04_two_producers_are_never_chosen_between() {
        let flow = flow(
            &[("one", "Tokens"), ("two", "Tokens")],
            &[("prefix", "Tokens", "token-producer", "", true)],
        );
        let errors = flow.resolve().unwrap_err();
        assert!(
            matches!(&errors[..], [GraphError::Ambiguous { writers, .. }] if writers == "one, two")
        );
    }

    #[test]
    fn a06_optional_reads_order_producers_too() {
        let flow = flow(
            &[("prefix", "Match"), ("load", "Uncached")],
            &[("load", "Match", "prefix", "", false), ("scorer", "Uncached", "load", "", true)],
        );
        let order = flow.resolve().unwrap().order(&names(&["load", "prefix"])).unwrap();
        assert_eq!(order, ["prefix", "load"]);
    }

    #[test]
    fn a_named_producer_must_write_the_key() {
        let flow = flow(&[("precise", "Other")], &[("scorer", "Match", "approx", "precise", true)]);
        let error = flow.resolve().unwrap_err().remove(0);
        assert!(error.to_string().contains("written by: nobody"), "{error}");
    }

    #[test]
    fn cycles_are_named() {
        let flow =
            flow(&[("a", "A"), ("b", "B")], &[("a", "B", "", "", true), ("b", "A", "", "", true)]);
        let error = flow.resolve().unwrap().order(&names(&["a", "b"])).unwrap_err();
        assert_eq!(error.to_string(), "is part of a cycle of data: a → b → a");
    }
}
