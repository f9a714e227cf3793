//! The LoRA adapters that a server knows.

use std::collections::BTreeMap;

use super::{
    config::{ConfigError, LoraModule},
    error::ApiError,
};
use crate::model::AdapterId;

/// Different adapter names over a server's life; bounds what clients can make it remember.
const MAX_NAMES: usize = 4096;

/// Adapters by name. An adapter that is unloaded and loaded again keeps its number.
#[derive(Debug, Default)]
pub(crate) struct Adapters {
    /// Position is the adapter's number.
    names: Vec<String>,
    loaded: BTreeMap<String, Adapter>,
}

#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    pub(crate) id: AdapterId,
    pub(crate) path: String,
}

impl Adapters {
    pub(crate) fn new(modules: &[LoraModule]) -> Result<Self, ConfigError> {
        let mut adapters = Self::default();
        for module in modules {
            adapters.load(&module.name, &module.path).map_err(|error| {
                ConfigError::Invalid(format!("`lora-modules`: {}", error.message))
            })?;
        }
        Ok(adapters)
    }

    pub(crate) fn load(&mut self, name: &str, path: &str) -> Result<(), ApiError> {
        if name.is_empty() {
            return Err(ApiError::bad_request(
                "Both 'lora_name' and 'lora_path' must be provided.",
            ));
        }
        if self.loaded.contains_key(name) {
            let message = format!("The lora adapter '{name}' has already been loaded.");
            return Err(ApiError::bad_request(message));
        }
        let nth = match self.names.iter().position(|known| known == name) {
            Some(nth) => nth,
            None if self.names.len() >= MAX_NAMES => {
                return Err(ApiError::bad_request(format!(
                    "more than {MAX_NAMES} adapters were loaded"
                )));
            }
            None => {
                self.names.push(name.to_owned());
                self.names.len() - 1
            }
        };
        let adapter = Adapter { id: AdapterId(nth as u32), path: path.to_owned() };
        self.loaded.insert(name.to_owned(), adapter);
        Ok(())
    }

    pub(crate) fn unload(&mut self, name: &str) -> Result<AdapterId, ApiError> {
        match self.loaded.remove(name) {
            Some(adapter) => Ok(adapter.id),
            None => Err(ApiError::new(
                http::StatusCode::NOT_FOUND,
                format!("The lora adapter '{name}' cannot be found."),
            )),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<AdapterId> {
        self.loaded.get(name).map(|adapter| adapter.id)
    }

    pub(crate) fn name(&self, id: AdapterId) -> Option<&str> {
        self.names.get(id.0 as usize).map(String::as_str)
    }

    /// Names and paths in the order of names.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = (&str, &Adapter)> {
        self.loaded.iter().map(|(name, adapter)| (name.as_str(), adapter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers() {
        let mut adapters = Adapters::default();
        adapters.load("a", "/a").unwrap();
        adapters.load("b", "/b").unwrap();
        assert!(adapters.load("a", "/a").unwrap_err().message.contains("already been loaded"));
        let id = adapters.unload("a").unwrap();
        assert_eq!(adapters.unload("a").unwrap_err().status, http::StatusCode::NOT_FOUND);
        assert_eq!((adapters.find("a"), adapters.name(id)), (None, Some("a")));
        adapters.load("a", "/again").unwrap();
        assert_eq!(adapters.find("a"), Some(id));
        assert!(adapters.load("", "").is_err());
    }
}
