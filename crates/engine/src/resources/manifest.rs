//! From files to objects of known kinds that fit their definitions.

use router_framework::document::{
    self, Diagnostics, Path, Span,
    diagnostics::quote,
    suggest,
    tree::{self, Node},
};

use super::{
    MAX_OBJECTS, Pages,
    definition::{Kind, LEGACY_GROUP},
};

/// An object as it is written.
pub(super) struct Object {
    pub(super) kind: Kind,
    pub(super) is_legacy: bool,
    pub(super) node: Node,
    /// Its document.
    pub(super) page: usize,
    /// Where it stands in that: empty, or an item of a list.
    pub(super) base: String,
}

/// One document of a file.
struct Part {
    text: String,
    /// Of the file, from 1.
    first_line: u32,
}

/// Reads all objects; those of other kinds are skipped, and faults are noted on the page of their document.
pub(super) fn objects<'a>(
    files: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    pages: &mut Pages,
) -> Vec<Object> {
    let mut objects = Vec::new();
    for (name, content) in files {
        let Ok(text) = std::str::from_utf8(content) else {
            // The reader says where.
            pages.push(tree::parse(name, content).1);
            continue;
        };
        for Part { text, first_line } in parts(text) {
            let (root, mut page) = tree::parse_part(name, text.as_bytes(), first_line);
            if let Some(root) = root.filter(|root| !root.is_null()) {
                let mut reader = Reader { objects: &mut objects, at: pages.len(), page: &mut page };
                reader.document(root);
            }
            pages.push(page);
        }
    }
    objects
}

struct Reader<'r> {
    objects: &'r mut Vec<Object>,
    page: &'r mut Diagnostics,
    at: usize,
}

impl Reader<'_> {
    fn document(&mut self, root: Node) {
        let is_list = root.get("kind").and_then(Node::as_str).is_some_and(|kind| {
            kind.strip_suffix("List")
                .is_some_and(|of| of.is_empty() || Kind::ALL.iter().any(|known| known.name() == of))
        });
        match root.get("items").and_then(Node::as_list).filter(|_| is_list) {
            Some(items) => {
                for (at, item) in items.iter().enumerate() {
                    self.object(item.clone(), format!("items[{at}]"));
                }
            }
            None => self.object(root, String::new()),
        }
    }

    fn object(&mut self, mut node: Node, base: String) {
        let path = Path::Base(&base);
        let Some((kind, is_legacy)) = self.kind(&node, &path) else { return };
        let n_errors = self.page.n_errors();
        document::check_shape(&mut node, kind.schema(), &path, self.page);
        if self.page.n_errors() > n_errors {
            return;
        }
        if self.objects.len() >= MAX_OBJECTS {
            let message = format!("more than {MAX_OBJECTS} objects");
            return self.page.error(node.span, path, message, || None);
        }
        self.objects.push(Object { kind, is_legacy, node, page: self.at, base });
    }

    /// What an object is; `None` where it is not for us, or wrong.
    fn kind(&mut self, node: &Node, path: &Path<'_>) -> Option<(Kind, bool)> {
        let field = |name| node.get(name).and_then(|value| Some((value.span, value.as_str()?)));
        let (Some((kind_span, kind)), Some((version_span, version))) =
            (field("kind"), field("apiVersion"))
        else {
            let message = "a manifest needs `apiVersion` and `kind`";
            self.page.error(node.span, path, message, || None);
            return None;
        };
        let group = version.split('/').next().unwrap_or_default();
        let Some(known) = Kind::ALL.into_iter().find(|known| known.name() == kind) else {
            self.other_kind(kind_span, kind, group, path);
            return None;
        };
        let versions = known.api_versions();
        if !versions.contains(&version) {
            let listed: Vec<_> = versions.iter().map(|version| quote(version)).collect();
            let message = format!("expected {}, found {}", listed.join(" or "), quote(version));
            self.page.error(version_span, path.key("apiVersion"), message, || {
                suggest::did_you_mean(version, versions.iter().copied())
            });
            return None;
        }
        Some((known, group == LEGACY_GROUP))
    }

    /// Objects of other kinds may stand in the same files. One that looks like a kind of ours and is none would
    /// be missed in silence.
    fn other_kind(&mut self, span: Span, kind: &str, group: &str, path: &Path<'_>) {
        let is_ours = Kind::ALL
            .iter()
            .flat_map(|known| known.api_versions())
            .any(|version| version.split('/').next() == Some(group));
        let names = || Kind::ALL.iter().map(|known| known.name());
        // A longer name is another kind: `InferencePoolImport`.
        let is_near =
            |name: &&str| suggest::nearest(kind, [*name]).is_some() && !kind.starts_with(*name);
        if is_ours && names().any(|name| is_near(&name)) {
            let message = format!("unknown kind {}", quote(kind));
            self.page
                .error(span, path.key("kind"), message, || suggest::did_you_mean(kind, names()));
        }
    }
}

/// The documents of a YAML stream, or the one of a JSON file; those without a value are left out.
fn parts(text: &str) -> Vec<Part> {
    let mut parts = vec![Part { text: String::new(), first_line: 1 }];
    for (line, first_line) in text.split_inclusive('\n').zip(1..) {
        // What follows the mark on its line belongs to the document after it, at the same column.
        let rest = line.strip_prefix("---");
        match rest.filter(|rest| rest.trim_start().len() < rest.len() || rest.is_empty()) {
            Some(rest) => parts.push(Part { text: format!("   {rest}"), first_line }),
            None => parts.iter_mut().last().into_iter().for_each(|part| part.text += line),
        }
    }
    let is_blank = |line: &str| matches!(line.trim_start().chars().next(), None | Some('#'));
    parts.retain(|part| !part.text.lines().all(is_blank));
    parts
}
