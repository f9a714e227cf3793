//! Configuration documents: `EndpointPickerConfig` as text, tree and value.
//!
//! A document is parsed once into a [`tree`] whose every value knows its place, compared with the
//! format's schema, read into a [`Document`], and checked against a [`Catalog`] of plugin types.
//! All that is wrong is found in one go and reported with file, line, column, path and the nearest
//! valid name. Nothing here knows a plugin's trait or builds an instance; the loader does, reads
//! parameters with [`Plugin::read_parameters`], and reports what it finds at the same places.
//!
//! ```text
//! text → tree → shape → read → check → Document → with_defaults → loader
//!                    └──── Diagnostics ────┘              └→ to_yaml
//! ```

use serde_json::Value;

pub mod catalog;
pub mod de;
pub mod defaults;
pub mod diagnostics;
pub mod fuzz;
pub mod gates;
pub mod model;
pub mod preset;
pub mod schema;
pub mod source;
pub mod suggest;
pub mod tree;
pub mod units;
pub mod write;

mod availability;
mod check;
mod read;
mod shape;

pub use self::{
    catalog::{Availability, Catalog, Deprecation, Role, Stability, TypeInfo},
    diagnostics::{Diagnostic, Diagnostics, Severity, Style},
    model::{Document, Origin, Plugin, PluginRef},
    shape::knows_pattern,
    source::{Path, Span},
    units::{FloatSeconds, GoDuration, Quantity},
};

/// How strictly a document is read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether plugin types that are experiments may be used.
    pub allow_experimental: bool,
}

/// Reads a document called `name` in messages. There is no document where there are errors.
pub fn load(
    name: &str,
    text: &[u8],
    catalog: &dyn Catalog,
    options: Options,
) -> (Option<Document>, Diagnostics) {
    let (root, mut diagnostics) = tree::parse(name, text);
    let Some(mut root) = root else { return (None, diagnostics) };
    if is_something_else(&root, &mut diagnostics) {
        return (None, diagnostics);
    }
    let path = Path::ROOT;
    shape::check(&mut root, schema::format(), &path, shape::KeyCase::Exact, &mut diagnostics);
    let mut document = read::document(&root, &mut diagnostics);
    check::check(&mut document, &root, catalog, options, &mut diagnostics);
    ((!diagnostics.has_errors()).then_some(document), diagnostics)
}

/// Compares a tree, which stands at `path`, with a JSON schema and reports all that does not fit, as
/// [`load`] does with its own.
pub fn check_shape(
    node: &mut tree::Node,
    schema: &Value,
    path: &Path<'_>,
    diagnostics: &mut Diagnostics,
) {
    shape::check(node, schema, path, shape::KeyCase::Exact, diagnostics);
}

/// Reads the document that runs where none is given.
pub fn load_built_in(catalog: &dyn Catalog, options: Options) -> (Option<Document>, Diagnostics) {
    load("built-in configuration", preset::ESTIMATED_TTFT.document.as_bytes(), catalog, options)
}

/// A document of another kind has one error, not one for each of its keys.
fn is_something_else(root: &tree::Node, diagnostics: &mut Diagnostics) -> bool {
    let Some(kind) = root.get("kind").filter(|kind| kind.as_str() != Some(read::KIND)) else {
        return false;
    };
    let properties = schema::format().get("properties").and_then(|all| all.get("kind"));
    let expected = properties.unwrap_or(&Value::Null);
    let path = Path::ROOT;
    shape::check(
        &mut kind.clone(),
        expected,
        &path.key("kind"),
        shape::KeyCase::Exact,
        diagnostics,
    );
    true
}

#[cfg(test)]
mod tests;
