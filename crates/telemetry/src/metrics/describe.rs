//! What a registry knows of its families besides their values: for reference pages and their tests.

use super::{
    family::{ALPHA, Collect},
    value::Buckets,
};

/// A family without its series.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    pub name: &'static str,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Without the mark of its stability.
    pub help: String,
    pub is_alpha: bool,
    /// Label names in order of definition.
    pub labels: Vec<&'static str>,
    /// Upper bounds of a histogram, without `+Inf`.
    pub buckets: Option<Buckets>,
    pub twin: Option<TwinDescription>,
}

/// A deprecated name of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwinDescription {
    pub name: &'static str,
    /// Label names, sorted.
    pub labels: Vec<&'static str>,
}

pub(super) fn family(family: &dyn Collect) -> Description {
    let (help, is_alpha) = match family.help().strip_prefix(ALPHA) {
        Some(help) => (help, true),
        None => (family.help(), false),
    };
    let twin = family.twin().map(|(twin, projection)| TwinDescription {
        name: twin.name,
        labels: projection.names.clone(),
    });
    Description {
        name: family.name(),
        kind: family.kind().name(),
        help: help.to_owned(),
        is_alpha,
        labels: family.labels().to_vec(),
        buckets: family.buckets(),
        twin,
    }
}
