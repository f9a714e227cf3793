//! The application: plugin types and the choice of a personality.

use std::ffi::OsString;

use clap::{
    CommandFactory, FromArgMatches,
    error::{ContextKind, ContextValue},
};
use router_framework::{PluginDef, Registry};
use router_sim::replay::policy;

use crate::{
    cli::{self, Cli, Command, EppArgs, SimArgs},
    config_command, epp, presets, process, replay, serve, sim,
};

/// Names under which the executable may be called to be one personality, as in existing manifests.
const NAMES: [(&str, Personality); 3] = [
    ("epp", Personality::Epp),
    ("lwepp", Personality::Epp),
    ("llm-d-inference-sim", Personality::Sim),
];

/// Of the plugin types that replay adds to compare with.
const ONLY_IN_REPLAY: &str = "only `llm-d-router replay --config` knows it, to compare with";

/// What the executable's name can choose.
#[derive(Clone, Copy)]
enum Personality {
    Epp,
    Sim,
}

/// What the executable can do.
#[derive(Clone, Debug)]
pub struct App {
    registry: Registry,
}

/// The answer to what was asked, where everything was done that was asked for. A script tells it by its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct No(pub(crate) String);

impl Default for App {
    fn default() -> Self {
        let mut registry = Registry::new(router_plugins::PLUGINS.iter().copied());
        for def in policy::PLUGINS {
            registry.add_elsewhere(def.plugin_type, ONLY_IN_REPLAY);
        }
        Self { registry }
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
        let command = match parse(args.into_iter().collect()) {
            Ok(command) => command,
            Err(wrong) if wrong.use_stderr() => wrong.exit(),
            Err(asked_for) => return process::say_help(&asked_for),
        };
        match command {
            Command::Epp(args) => epp::run(*args, self.registry),
            Command::Serve(args) => serve::run(*args, self.registry),
            Command::Sim(args) => sim::run(*args),
            Command::Replay(args) => replay::run(&args, self.registry),
            Command::Config(args) => config_command::run(args, &self.registry),
        }
    }
}

/// Parses the command line. Called by the name of a personality, the executable is that personality alone,
/// and its help and errors show that name.
fn parse(args: Vec<OsString>) -> Result<Command, clap::Error> {
    let called = args.first().map(std::path::PathBuf::from);
    let called = called.as_deref().and_then(|path| path.file_name()).and_then(|name| name.to_str());
    let Some((name, personality)) = NAMES.iter().find(|(name, _)| Some(*name) == called) else {
        let is_replay = args.get(1).is_some_and(|name| name == "replay");
        let matches = Cli::command().try_get_matches_from(args);
        let matches = matches.map_err(|error| with_tip(error, is_replay))?;
        return Ok(Cli::from_arg_matches(&matches)?.command);
    };
    let matches = |of: &str| {
        let command = Cli::command().find_subcommand(of).cloned().unwrap_or_default();
        let command = command.version(cli::version()).max_term_width(cli::MAX_WIDTH);
        command.name(*name).try_get_matches_from(args)
    };
    Ok(match personality {
        Personality::Epp => Command::Epp(Box::new(EppArgs::from_arg_matches(&matches("epp")?)?)),
        Personality::Sim => Command::Sim(Box::new(SimArgs::from_arg_matches(&matches("sim")?)?)),
    })
}

/// Adds what clap cannot know: what was meant.
fn with_tip(mut error: clap::Error, is_replay: bool) -> clap::Error {
    let string = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let file = string(ContextKind::InvalidSubcommand).filter(|_| is_replay);
    let is_preset = string(ContextKind::InvalidArg).is_some_and(|arg| arg.starts_with("--preset"));
    let preset = string(ContextKind::InvalidValue).filter(|_| is_preset).and_then(presets::named);
    let tip = match (file, preset) {
        (Some(file), _) => format!("a trace is given by its flag: --trace {file}"),
        (_, Some(preset)) => format!(
            "`llm-d-router config preset {}` prints its document, and says whether --config-file takes it",
            preset.name
        ),
        (None, None) => return error,
    };
    error.remove(ContextKind::SuggestedSubcommand);
    error.remove(ContextKind::SuggestedValue);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    error
}

/// Shows an error with its causes on standard error and gives the exit code for it: 2 for what the caller
/// can mend in arguments or files that they name, 3 where everything was done and the answer is no, 1 for
/// anything else.
pub fn exit_code(result: anyhow::Result<()>) -> i32 {
    let Err(error) = result else { return 0 };
    let usage = error.is::<crate::configuration::Faulty>() || error.is::<crate::cli::UsageError>();
    crate::process::complain(&format!("error: {error:#}"));
    match error {
        _ if usage => 2,
        error if error.is::<No>() => 3,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_who_is_to_act() {
        let usage = crate::cli::UsageError("a flag".to_owned());
        assert_eq!(exit_code(Ok(())), 0);
        assert_eq!(exit_code(Err(anyhow::anyhow!("no room"))), 1);
        assert_eq!(exit_code(Err(usage.into())), 2);
        assert_eq!(exit_code(Err(No("3 decisions differ".to_owned()).into())), 3);
    }

    #[test]
    fn the_name_of_the_executable_chooses_the_personality() {
        let check = |args: &[&str], expected: &str| {
            let got = match parse(args.iter().map(OsString::from).collect()) {
                Ok(command) => format!("{command:?}"),
                Err(said) => said.to_string(),
            };
            assert!(got.contains(expected), "{args:?}: {got}");
        };
        check(&["/app/epp", "--v=2"], "Epp(");
        check(&["lwepp", "--v=1", "--v=2"], "Epp(");
        check(&["llm-d-inference-sim", "--port=0"], "Sim(");
        check(&["llm-d-router", "serve"], "Serve(");
        check(&["llm-d-router", "replay", "a.jsonl"], "--trace a.jsonl");
        check(&["llm-d-router", "serve", "--preset=chwbl"], "`llm-d-router config preset chwbl`");
        check(&["llm-d-router", "serve", "--preset=defualt"], "a similar value exists: 'default'");
        check(&["/app/epp", "--help"], "Usage: epp [OPTIONS]");
        check(&["/app/epp", "--help"], "asks for every request");
        check(&["/app/lwepp", "--no-such-flag"], "Usage: lwepp [OPTIONS]");
        check(&["/app/lwepp", "--version"], crate::origin::BUILD.version);
    }
}
