//! Deprecated names of a family, derived from it when the page is written.

use std::collections::BTreeMap;

use super::value::Sample;

/// A second, deprecated name for a family: fewer or renamed labels, the same data.
///
/// Series that differ only in labels that the twin lacks are added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twin {
    pub(super) name: &'static str,
    pub(super) labels: Vec<TwinLabel>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TwinLabel {
    /// The label's name on the twin.
    pub(super) name: &'static str,
    /// The label of the family that it shows.
    pub(super) source: &'static str,
}

impl Twin {
    /// A twin that shows these labels of its family, under the same names.
    pub fn new(name: &'static str, labels: &[&'static str]) -> Self {
        let labels = labels.iter().map(|&name| TwinLabel { name, source: name }).collect();
        Self { name, labels }
    }

    /// Shows one more label, under another name.
    pub fn renamed(mut self, name: &'static str, source: &'static str) -> Self {
        self.labels.push(TwinLabel { name, source });
        self
    }
}

/// Where each of the twin's labels, in order of their names, is found among the family's.
pub(super) struct Projection {
    pub(super) names: Vec<&'static str>,
    sources: Vec<usize>,
}

impl Projection {
    /// Fails with the label that the family lacks.
    pub(super) fn new(twin: &Twin, family_labels: &[&'static str]) -> Result<Self, &'static str> {
        let mut labels = twin.labels.clone();
        labels.sort_unstable_by_key(|label| label.name);
        let mut sources = Vec::with_capacity(labels.len());
        for label in &labels {
            let source = family_labels.iter().position(|known| *known == label.source);
            sources.push(source.ok_or(label.source)?);
        }
        Ok(Self { names: labels.iter().map(|label| label.name).collect(), sources })
    }

    /// The twin's series, sorted by label values.
    pub(super) fn project<'a>(
        &self,
        series: impl Iterator<Item = (&'a [Box<str>], &'a Sample)>,
    ) -> BTreeMap<Vec<&'a str>, Sample> {
        let mut projected: BTreeMap<Vec<&'a str>, Sample> = BTreeMap::new();
        for (values, sample) in series {
            let key: Vec<&str> = self
                .sources
                .iter()
                .map(|&source| values.get(source).map_or("", |value| &**value))
                .collect();
            projected
                .entry(key)
                .and_modify(|total| total.merge(sample))
                .or_insert_with(|| sample.clone());
        }
        projected
    }
}
