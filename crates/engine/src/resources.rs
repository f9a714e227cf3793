//! Resources from manifests, without a cluster: objectives, model rewrites and the pool.
//!
//! A manifest is compared with the definition of its kind, which an API server would compare it with, and with the
//! rules that such a server cannot check. All that is wrong is reported with file, line and field, and then
//! nothing of it is used. What the manifests mean follows from the pool that is served: objects that refer
//! to another one have no effect, as in a cluster (`spec/request-path.md` §4.2).
//!
//! ```text
//! files → documents → objects of known kinds → typed objects → those of the served pool → Resources
//!         `manifest`   `definition`             `read`          `choose`
//! ```

use std::{fmt, sync::Arc};

use router_core::Labels;
use router_framework::document::{Diagnostics, Severity};

use crate::{datastore::Datastore, objectives::Objectives, rewrites::Rewrites};

mod choose;
mod definition;
pub mod fuzz;
mod manifest;
mod read;
mod time;

/// Objects over all files.
pub const MAX_OBJECTS: usize = 10_000;
/// Models that all rewrites name, each as often as it is named.
pub const MAX_REWRITE_MODELS: usize = 10_000;
/// Documents whose errors are shown.
const MAX_SHOWN_DOCUMENTS: usize = 100;

/// What all manifests say of one pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub objectives: Objectives,
    pub rewrites: Rewrites,
    /// The pool, where there is a manifest of it.
    pub pool: Option<Arc<Pool>>,
}

/// An `InferencePool`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    pub name: String,
    pub namespace: Option<String>,
    /// Labels that an endpoint of the pool has.
    pub selector: Labels,
    /// Ports that model servers listen on, in the order that gives ranks.
    pub target_ports: Vec<u16>,
    /// Model servers are spoken to in HTTP/2 without TLS.
    pub is_h2c: bool,
    /// File, line and column.
    pub place: String,
}

/// Which pool is served, as far as that is said outside of the manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolChoice {
    /// Without one, the only pool that manifests are about.
    pub name: Option<String>,
    /// Of the pool, and of objects that say none.
    pub namespace: Option<String>,
    pub group: String,
}

/// Something in a manifest that can be used and should be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// File, line and column.
    pub place: String,
    /// The field; empty for the object itself.
    pub path: String,
    pub message: String,
    pub help: Option<String>,
}

/// Why manifests cannot be used; every fault with its place, rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ResourcesError(pub String);

/// The findings about each document.
type Pages = Vec<Diagnostics>;

// === impl Resources ===

impl Resources {
    /// Reads manifests: name of each file and its content.
    pub fn parse<'a>(
        files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        choice: &PoolChoice,
    ) -> Result<(Self, Vec<Warning>), ResourcesError> {
        let mut pages = Pages::new();
        let objects = manifest::objects(files, &mut pages);
        let all = read::all(&objects, &mut pages);
        // What is left out for its errors would make others look wrong.
        let chosen = if n_faulty(&pages) == 0 {
            choose::choose(all, choice, &mut pages)
        } else {
            Self::default()
        };
        if n_faulty(&pages) > 0 {
            return Err(error(&pages));
        }
        Ok((chosen, warnings(&pages)))
    }

    /// Hands what is said of requests to a router. Which endpoints are in the pool is for who finds them.
    pub fn hand_to(&self, datastore: &Datastore) {
        datastore.set_objectives(self.objectives.clone());
        datastore.set_rewrites(self.rewrites.clone());
    }
}

fn n_faulty(pages: &Pages) -> usize {
    pages.iter().filter(|page| page.has_errors()).count()
}

fn error(pages: &Pages) -> ResourcesError {
    let faulty = pages.iter().filter(|page| page.has_errors());
    let mut text: String = faulty.take(MAX_SHOWN_DOCUMENTS).map(Diagnostics::to_string).collect();
    if let Some(n_more @ 1..) = n_faulty(pages).checked_sub(MAX_SHOWN_DOCUMENTS) {
        text.extend(["… and ", &n_more.to_string(), " more documents with errors"]);
    }
    ResourcesError(text.trim_end().to_owned())
}

fn warnings(pages: &Pages) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for page in pages {
        for found in page.sorted().into_iter().filter(|found| found.severity == Severity::Warning) {
            warnings.push(Warning {
                place: format!("{}:{}", page.source().name(), found.span),
                path: found.path.clone(),
                message: found.message.clone(),
                help: found.help.clone(),
            });
        }
    }
    warnings
}

// === impl Pool ===

impl Pool {
    /// Whether an endpoint with these labels belongs to the pool.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

// === impl PoolChoice ===

/// The group of pools.
pub const POOL_GROUP: &str = "inference.networking.k8s.io";

/// Nothing is said.
impl Default for PoolChoice {
    fn default() -> Self {
        Self { name: None, namespace: None, group: POOL_GROUP.to_owned() }
    }
}

// === impl Warning ===

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, path, message, help } = self;
        let colon = if path.is_empty() { "" } else { ": " };
        write!(f, "{place}: warning: {path}{colon}{message}")?;
        help.iter().try_for_each(|help| write!(f, " ({help})"))
    }
}

#[cfg(test)]
mod tests;
