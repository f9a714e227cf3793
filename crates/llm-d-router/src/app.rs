//! The application: plugin types and the choice of a personality.

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};
use router_framework::{PluginDef, Registry};

use crate::{
    cli::{Cli, Command},
    config_command, epp, serve, sim,
};

/// Names under which the executable may be called to be one personality, as in existing manifests.
const NAMES: [(&str, &str); 3] = [("epp", "epp"), ("lwepp", "epp"), ("llm-d-inference-sim", "sim")];

/// What the executable can do.
#[derive(Clone, Debug)]
pub struct App {
    registry: Registry,
}

impl Default for App {
    fn default() -> Self {
        Self { registry: Registry::new(router_plugins::PLUGINS.iter().copied()) }
    }
}

impl App {
    /// An application with every in-tree plugin.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a plugin type, or replaces the one of that name.
    #[must_use]
    pub fn plugin(mut self, def: &PluginDef) -> Self {
        self.registry.add(*def);
        self
    }

    /// Runs what the process's command line asks for.
    pub fn run(self) -> anyhow::Result<()> {
        self.run_with(std::env::args_os())
    }

    /// Runs what these arguments ask for; the first is the name of the executable.
    pub fn run_with(self, args: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
        let matches = Cli::command().get_matches_from(with_personality(args.into_iter().collect()));
        let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        match cli.command {
            Command::Epp(args) => epp::run(*args, self.registry),
            Command::Serve(args) => serve::run(*args, self.registry),
            Command::Sim(args) => sim::run(*args),
            Command::Config(args) => config_command::run(args, &self.registry),
        }
    }
}

/// Puts the personality first where the executable was called by its name.
fn with_personality(mut args: Vec<OsString>) -> Vec<OsString> {
    let called = args.first().map(std::path::PathBuf::from);
    let called = called.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    if let Some((_, personality)) = NAMES.iter().find(|(name, _)| Some(*name) == called) {
        args.insert(1, OsString::from(*personality));
    }
    args
}

/// Shows an error with its causes on standard error and gives the exit code for it: 2 for what the caller
/// can mend in arguments or configuration, 1 for anything else.
pub fn exit_code(result: anyhow::Result<()>) -> i32 {
    let Err(error) = result else { return 0 };
    let usage = error.is::<crate::configuration::Faulty>() || error.is::<crate::cli::UsageError>();
    let text = format!("{error:#}");
    if !text.is_empty() {
        crate::process::complain(&format!("error: {text}"));
    }
    if usage { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_executable_chooses_the_personality() {
        let check = |args: &[&str], expected: &[&str]| {
            let got = with_personality(args.iter().map(OsString::from).collect());
            assert_eq!(got, expected.iter().map(OsString::from).collect::<Vec<_>>());
        };
        check(&["/app/epp", "--v=2"], &["/app/epp", "epp", "--v=2"]);
        check(&["llm-d-router", "serve"], &["llm-d-router", "serve"]);
    }
}
