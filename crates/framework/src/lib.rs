//! The plugin API: a trait per extension point, registry, configuration documents.
