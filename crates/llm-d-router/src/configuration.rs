//! From a document to a loaded pipeline. What is wrong is shown with its place, all at once.

use std::path::Path;

use router_framework::{
    Loaded, PluginEnv, Registry,
    document::{self, Diagnostics, Document, Options, Style, preset},
};

use crate::cli::{ConfigFlags, UsageError};

/// Longest configuration document.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 1 << 20;

/// A document with errors. Its message is the rendered errors.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Faulty(pub(crate) String);

/// A document's text and the name that errors call it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) name: String,
    /// `None` for the built-in configuration.
    pub(crate) text: Option<Vec<u8>>,
}

impl Source {
    pub(crate) fn from_flags(flags: &ConfigFlags) -> Result<Self, UsageError> {
        match (&flags.config_file, &flags.config_text) {
            (Some(path), _) => Self::from_file(path),
            (None, Some(text)) => {
                Ok(Self { name: "--config-text".to_owned(), text: Some(text.clone().into_bytes()) })
            }
            (None, None) => Ok(Self::preset(&flags.preset)),
        }
    }

    pub(crate) fn from_file(path: &Path) -> Result<Self, UsageError> {
        let text = read_file(path, MAX_DOCUMENT_BYTES)?;
        Ok(Self { name: path.display().to_string(), text: Some(text) })
    }

    pub(crate) fn built_in() -> Self {
        Self { name: "built-in configuration".to_owned(), text: None }
    }

    /// A preset by its name; the flag's parser knows no other names.
    fn preset(name: &str) -> Self {
        match preset::named(name) {
            Some(preset) if *preset != preset::ESTIMATED_TTFT => Self {
                name: format!("preset {name}"),
                text: Some(preset.document.as_bytes().to_vec()),
            },
            _ => Self::built_in(),
        }
    }
}

/// Reads a file that the command line names. Not being able to is the caller's to mend, and the message names
/// the file.
pub(crate) fn read_file(path: &Path, max_bytes: u64) -> Result<Vec<u8>, UsageError> {
    router_rt::read_file_bounded(path, max_bytes).map_err(UsageError::of)
}

/// Reads and checks a document and fills in its defaults. Warnings go to `warn`.
pub(crate) fn read(
    source: &Source,
    registry: &Registry,
    options: Options,
    warn: &mut dyn FnMut(&Diagnostics),
) -> Result<Document, Faulty> {
    let (document, diagnostics) = match &source.text {
        Some(text) => document::load(&source.name, text, registry, options),
        None => document::load_built_in(registry, options),
    };
    let Some(document) = document else { return Err(faulty(&diagnostics)) };
    if !diagnostics.is_empty() {
        warn(&diagnostics);
    }
    Ok(document.with_defaults(registry))
}

/// Builds the pipeline of a document. Producers that had to be created are added to it.
pub(crate) fn load(
    document: &mut Document,
    registry: &Registry,
    env: &PluginEnv,
    warn: &mut dyn FnMut(&Diagnostics),
) -> Result<Loaded, Faulty> {
    let mut diagnostics = document.diagnostics();
    let loaded = router_framework::load(document, registry, env, &mut diagnostics);
    match loaded {
        Some(loaded) => {
            if !diagnostics.is_empty() {
                warn(&diagnostics);
            }
            Ok(loaded)
        }
        None => Err(faulty(&diagnostics)),
    }
}

fn faulty(diagnostics: &Diagnostics) -> Faulty {
    Faulty(format!("the configuration cannot be used\n{}", diagnostics.render(style()).trim_end()))
}

/// Colour for people only, and only for those who have not said that they want none (no-color.org).
pub(crate) fn style() -> Style {
    let is_unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if crate::process::is_terminal() && !is_unwanted { Style::Colour } else { Style::Plain }
}

/// Logs the warnings of a document, one line each.
pub(crate) fn log_warnings(diagnostics: &Diagnostics) {
    for diagnostic in diagnostics.sorted() {
        let (line, help) = (diagnostic.span.line, diagnostic.help.as_deref());
        tracing::warn!(path = diagnostic.path, line, help, "configuration: {}", diagnostic.message);
    }
}
