//! Finds a few series in a metrics page, without parsing the rest of it.
//!
//! A page of a model server has hundreds of lines of which five matter. [`PageScan`] is made once for the wanted
//! series; a scan passes over the page once, looks at the byte of each line in which the wanted names differ, and
//! reads only what may be wanted. Both the classic text format and OpenMetrics are understood; histograms and
//! summaries are ignored.

mod line;
mod spec;

#[cfg(test)]
mod tests;

use std::borrow::Cow;

use memchr::memchr_iter;
use smallvec::SmallVec;

pub use self::{
    line::{Label, Labels},
    spec::{Select, SeriesSpec, SpecError},
};

/// Looks for series in metrics pages. Cheap to use again and again.
#[derive(Debug, Clone)]
pub struct PageScan {
    specs: Vec<SeriesSpec>,
    /// How many bytes all wanted names have in common at their beginning.
    n_common: usize,
    /// The bytes that a line may have at `n_common`, one bit for each.
    candidates: [u64; 4],
}

/// What a page had.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<'p> {
    samples: SmallVec<[Option<Sample<'p>>; 8]>,
    /// Lines with a wanted name that could not be read.
    pub n_malformed: usize,
    /// The page ended as an OpenMetrics page does.
    pub is_open_metrics: bool,
}

/// One line of a page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample<'p> {
    labels: &'p [u8],
    /// The value as it is: it may be NaN, infinite or negative.
    pub value: f64,
    /// The time that is written behind the value: milliseconds, in OpenMetrics seconds.
    pub timestamp: Option<f64>,
}

/// What the page says of a wanted family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Single,
    /// A counter: in OpenMetrics its series have `_total` behind the name of the family.
    Counter,
    /// A histogram or summary, whose lines are no single values.
    Many,
}

// === impl PageScan ===

impl PageScan {
    /// A scan for these series. The samples of a page come in the same order.
    pub fn new(specs: &[SeriesSpec]) -> Self {
        let specs = specs.to_vec();
        let first = specs.first().map(|spec| spec.name().as_bytes()).unwrap_or_default();
        let n_common = specs.iter().fold(first.len(), |n, spec| {
            let same = first.iter().zip(spec.name().as_bytes()).take_while(|(a, b)| a == b);
            n.min(same.count())
        });
        let mut candidates = [0; 4];
        let mut add = |byte: u8| {
            if let Some(word) = candidates.get_mut(usize::from(byte >> 6)) {
                *word |= 1u64 << (byte & 63);
            }
        };
        for spec in &specs {
            match spec.name().as_bytes().get(n_common) {
                Some(&byte) => add(byte),
                // The name is over: what can follow is a label set, a blank, or `_total`.
                None => b"{ \t_".iter().for_each(|&byte| add(byte)),
            }
        }
        Self { specs, n_common, candidates }
    }

    /// The wanted series.
    pub fn specs(&self) -> &[SeriesSpec] {
        &self.specs
    }

    /// Searches a page.
    pub fn scan<'p>(&self, page: &'p [u8]) -> Page<'p> {
        let mut found = Page {
            samples: smallvec::smallvec![None; self.specs.len()],
            n_malformed: 0,
            is_open_metrics: false,
        };
        let mut kinds: SmallVec<[Kind; 8]> = smallvec::smallvec![Kind::default(); self.specs.len()];
        let mut start = 0;
        for end in memchr_iter(b'\n', page).chain([page.len()]) {
            let line = page.get(start..end).unwrap_or_default();
            start = end + 1;
            match line.first() {
                Some(b'#') => self.comment(line, &mut kinds, &mut found),
                Some(b' ' | b'\t') => self.line(line.trim_ascii_start(), &kinds, &mut found),
                _ => self.line(line, &kinds, &mut found),
            }
        }
        found
    }

    #[inline]
    fn may_be_wanted(&self, name: &[u8]) -> bool {
        name.get(self.n_common).is_some_and(|&byte| {
            self.candidates
                .get(usize::from(byte >> 6))
                .is_some_and(|word| word >> (byte & 63) & 1 == 1)
        })
    }

    fn comment(&self, line: &[u8], kinds: &mut [Kind], found: &mut Page<'_>) {
        let Some(text) = line.strip_prefix(b"# TYPE ") else {
            found.is_open_metrics |= line.trim_ascii_end() == b"# EOF";
            return;
        };
        if !self.may_be_wanted(text) {
            return;
        }
        let mut words = text.split(|&byte| byte == b' ' || byte == b'\t').filter(|w| !w.is_empty());
        let (Some(name), Some(kind)) = (words.next(), words.next()) else { return };
        let kind = match kind.trim_ascii_end() {
            b"counter" => Kind::Counter,
            b"histogram" | b"gaugehistogram" | b"summary" => Kind::Many,
            _ => Kind::Single,
        };
        for (spec, slot) in self.specs.iter().zip(kinds) {
            if spec.name().as_bytes() == name {
                *slot = kind;
            }
        }
    }

    #[inline]
    fn line<'p>(&self, line: &'p [u8], kinds: &[Kind], found: &mut Page<'p>) {
        if self.may_be_wanted(line) {
            self.candidate(line, kinds, found);
        }
    }

    fn candidate<'p>(&self, line: &'p [u8], kinds: &[Kind], found: &mut Page<'p>) {
        // Several specs may want the same line; it is read once.
        let mut read = None;
        for ((spec, kind), slot) in self.specs.iter().zip(kinds).zip(&mut found.samples) {
            let Some(rest) = line.strip_prefix(spec.name().as_bytes()) else { continue };
            let rest = match (*kind, rest.first()) {
                (Kind::Many, _) => continue,
                (_, Some(b'{' | b' ' | b'\t')) => rest,
                (Kind::Counter, _) => match rest.strip_prefix(b"_total") {
                    Some(rest) if matches!(rest.first(), Some(b'{' | b' ' | b'\t')) => rest,
                    _ => continue,
                },
                (Kind::Single, _) => continue,
            };
            let sample = match read {
                Some(sample) => sample,
                None => {
                    let sample = line::read(rest);
                    found.n_malformed += usize::from(sample.is_none());
                    *read.insert(sample)
                }
            };
            let Some(sample) = sample else { continue };
            if spec.matches(sample) && slot.is_none_or(|old| spec.select().replaces(old, sample)) {
                *slot = Some(sample);
            }
        }
    }
}

// === impl Page ===

impl<'p> Page<'p> {
    /// The sample of the spec at `spec_idx`; `None` if the page has none.
    pub fn sample(&self, spec_idx: usize) -> Option<Sample<'p>> {
        self.samples.get(spec_idx).copied().flatten()
    }

    /// The value of the spec at `spec_idx`.
    pub fn value(&self, spec_idx: usize) -> Option<f64> {
        self.sample(spec_idx).map(|sample| sample.value)
    }
}

// === impl Sample ===

impl<'p> Sample<'p> {
    /// The labels in the order in which they are written.
    pub fn labels(&self) -> Labels<'p> {
        Labels::new(self.labels)
    }

    /// The value of a label.
    pub fn label(&self, name: &str) -> Option<Cow<'p, str>> {
        self.labels().find(|label| label.name == name).map(|label| label.value())
    }

    /// The elements of a label that is a comma-separated list, for example `running_lora_adapters`.
    /// Blanks around an element and empty elements are dropped.
    pub fn label_list(&self, name: &str) -> Vec<String> {
        let list = self.label(name).unwrap_or_default();
        let elements = list.split(',').map(str::trim).filter(|element| !element.is_empty());
        elements.map(str::to_owned).collect()
    }

    /// A label that is an integer, for example `block_size`.
    pub fn label_u64(&self, name: &str) -> Option<u64> {
        self.label(name)?.trim().parse().ok()
    }
}
