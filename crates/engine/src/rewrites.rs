//! Which model a request is served by: the rules of all `InferenceModelRewrite`s, put in order.
//!
//! A rule that names the model goes before one that takes every request; of several the one of the oldest
//! object counts, of equally old ones the one whose name comes first, and within an object the first
//! (`spec/kubernetes.md` §1.6). An object without a time counts as younger than all that have one.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use router_rt::Rng;

/// One object with its rules, as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    pub name: Arc<str>,
    /// When it was created, in seconds since 1970.
    pub created: Option<i64>,
    pub rules: Vec<Rule>,
}

/// Which requests are meant, and who serves them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Models that clients ask for; empty for every request, one without a model included.
    pub models: Vec<Arc<str>>,
    /// Empty where requests keep what they ask for.
    pub targets: Vec<Target>,
}

/// A model that serves, and its share of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub model: Arc<str>,
    /// The share is this over the sum of the rule's weights; without any, all are equal.
    pub weight: Option<u32>,
}

/// A model of a rule that another rule has taken, so that this one never applies to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadowed {
    /// Place of the object in what was given.
    pub rewrite: usize,
    pub rule: usize,
    /// Place among the rule's models; 0 for a rule that takes every request.
    pub model: usize,
    /// Place of the object that goes first.
    pub by: usize,
}

/// All rules, ready to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrites {
    n_objects: usize,
    exact: BTreeMap<Arc<str>, Arc<Split>>,
    generic: Option<Arc<Split>>,
}

/// What a request becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rewritten<'a> {
    /// Name of the object that says so.
    pub rewrite: &'a str,
    /// The model that serves.
    pub target: &'a Arc<str>,
}

/// The targets of a rule with what chance needs.
#[derive(Debug, PartialEq, Eq)]
struct Split {
    rewrite: Arc<str>,
    /// Each with the sum of the weights up to and with its own; no target has weight 0.
    targets: Vec<(u64, Arc<str>)>,
}

// === impl Rewrites ===

impl Rewrites {
    /// Puts the rules in order; tells which of them never apply.
    pub fn new(rewrites: &[Rewrite]) -> (Self, Vec<Shadowed>) {
        let mut order: Vec<(usize, &Rewrite)> = rewrites.iter().enumerate().collect();
        order.sort_by_key(|(at, rewrite)| {
            (rewrite.created.is_none(), rewrite.created, &rewrite.name, *at)
        });
        let mut all = Self { n_objects: rewrites.len(), ..Self::default() };
        // Who has taken a model; `None` stands for every request.
        let mut taken: BTreeMap<Option<&str>, (usize, usize)> = BTreeMap::new();
        let mut shadowed = Vec::new();
        for (at, rewrite) in order {
            for (rule_at, rule) in rewrite.rules.iter().enumerate() {
                let split = Arc::new(Split::new(&rewrite.name, &rule.targets));
                let models = rule.models.iter().map(Some);
                let every = rule.models.is_empty().then_some(None);
                for (model_at, model) in models.chain(every).enumerate() {
                    match taken.entry(model.map(|model| &**model)) {
                        Entry::Occupied(by) if *by.get() == (at, rule_at) => {}
                        Entry::Occupied(by) => {
                            let (rewrite, rule, model) = (at, rule_at, model_at);
                            shadowed.push(Shadowed { rewrite, rule, model, by: by.get().0 });
                        }
                        Entry::Vacant(free) => {
                            free.insert((at, rule_at));
                            match model {
                                Some(model) => {
                                    drop(all.exact.insert(Arc::clone(model), Arc::clone(&split)))
                                }
                                None => all.generic = Some(Arc::clone(&split)),
                            }
                        }
                    }
                }
            }
        }
        (all, shadowed)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.n_objects
    }

    pub fn is_empty(&self) -> bool {
        self.n_objects == 0
    }

    /// Which model serves a request for `model`, which is empty where the request names none. `None` where no
    /// rule has a say. The generator is asked for only where there is a choice.
    pub fn serve(&self, model: &str, rng: impl FnOnce() -> Rng) -> Option<Rewritten<'_>> {
        let split = self.exact.get(model).or(self.generic.as_ref())?;
        let (sum, _) = split.targets.last()?;
        let at = if split.targets.len() == 1 { 0 } else { rng().range(0..*sum) };
        let chosen = split.targets.partition_point(|(upto, _)| *upto <= at);
        let (_, target) = split.targets.get(chosen)?;
        Some(Rewritten { rewrite: &split.rewrite, target })
    }

    /// The models that rules name, on either side; some more than once.
    pub fn models(&self) -> impl Iterator<Item = &Arc<str>> {
        let splits = self.exact.values().chain(&self.generic);
        let targets = splits.flat_map(|split| split.targets.iter().map(|(_, model)| model));
        self.exact.keys().chain(targets)
    }
}

// === impl Split ===

impl Split {
    fn new(rewrite: &Arc<str>, targets: &[Target]) -> Self {
        let is_weighted = targets.iter().any(|target| target.weight.is_some());
        let mut sum = 0;
        let targets = targets.iter().filter_map(|Target { model, weight }| {
            let weight = if is_weighted { weight.unwrap_or(0) } else { 1 };
            sum += u64::from(weight);
            (weight > 0).then(|| (sum, Arc::clone(model)))
        });
        Self { rewrite: Arc::clone(rewrite), targets: targets.collect() }
    }
}

#[cfg(test)]
mod tests;
