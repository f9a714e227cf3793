//! A metrics page in the making: classic text, written as the Python client library writes it.

use std::fmt::Write as _;

use super::histogram::Histogram;

/// What is done to every value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Twist {
    #[default]
    None,
    Nan,
    Negative,
}

/// Collects families.
pub(super) struct Page {
    text: String,
    twist: Twist,
    created: f64,
}

/// Label names and values, written in this order.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

impl Page {
    pub(super) fn new(twist: Twist, created: f64) -> Self {
        Self { text: String::with_capacity(32 << 10), twist, created }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }

    pub(super) fn family(&mut self, name: &str, kind: &str, help: &str) {
        writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap_or_default();
    }

    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.series(name, labels, None, value);
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, labels: Labels<'_>, value: f64) {
        self.family(name, "gauge", help);
        self.sample(name, labels, value);
    }

    /// A counter: `name` is without `_total`. Each of `series` has a value of the label `key` if there is one.
    pub(super) fn counter(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_>,
        key: Option<&str>,
        series: &[(&str, u64)],
    ) {
        for (suffix, kind) in [("_total", "counter"), ("_created", "gauge")] {
            let name = format!("{name}{suffix}");
            self.family(&name, kind, help);
            for &(label, value) in series {
                let value = if kind == "counter" { value as f64 } else { self.created };
                let mut all = labels.to_vec();
                all.extend(key.map(|key| (key, label)));
                all.sort_unstable();
                self.sample(&name, &all, value);
            }
        }
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        help: &str,
        labels: Labels<'_>,
        histogram: &Histogram,
    ) {
        self.family(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        let mut total = 0;
        for (bound, count) in histogram.cumulative() {
            let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| format!("{bound:?}"));
            self.series(&bucket, labels, Some(&bound), count as f64);
            total = count;
        }
        self.sample(&format!("{name}_count"), labels, total as f64);
        self.sample(&format!("{name}_sum"), labels, histogram.sum());
        let created = format!("{name}_created");
        self.family(&created, "gauge", help);
        self.sample(&created, labels, self.created);
    }

    fn series(&mut self, name: &str, labels: Labels<'_>, bucket: Option<&str>, value: f64) {
        self.text.push_str(name);
        let le = bucket.map(|bucket| ("le", bucket));
        // vLLM's labels are in alphabetical order, the bucket's among them.
        let (before, after): (Vec<_>, Vec<_>) = labels.iter().partition(|(key, _)| *key < "le");
        for (nth, (key, value)) in before.into_iter().chain(le.iter()).chain(after).enumerate() {
            self.text.push(if nth == 0 { '{' } else { ',' });
            write!(self.text, "{key}=\"").unwrap_or_default();
            self.escaped(value);
            self.text.push('"');
        }
        if !labels.is_empty() || bucket.is_some() {
            self.text.push('}');
        }
        let value = match self.twist {
            Twist::None => value,
            Twist::Nan => f64::NAN,
            Twist::Negative => -1.0 - value,
        };
        writeln!(self.text, " {value:?}").unwrap_or_default();
    }

    fn escaped(&mut self, value: &str) {
        for c in value.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                _ => self.text.push(c),
            }
        }
    }
}
