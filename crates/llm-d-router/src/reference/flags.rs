//! `docs/reference/flags.md`, from the command line's definition.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};

use super::{cell, code, table};
use crate::cli::Cli;

/// Name of a switch's value.
const SWITCH: &str = "true|false";

/// What an argument is called by, with its value.
fn spelling(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(<[_]>::first).map_or("VALUE", |name| name.as_str());
    let Some(long) = arg.get_long() else { return code(&format!("<{value}>")) };
    let short = arg.get_short().map_or(String::new(), |short| format!("-{short}, "));
    let values = arg.get_num_args().unwrap_or_else(|| 1.into());
    let value = match (values.min_values(), values.max_values()) {
        (_, 0) => String::new(),
        (0, _) if is_switch(arg) => format!("[={SWITCH}]"),
        (0, _) => format!("[={value}]"),
        _ => format!(" <{value}>"),
    };
    code(&format!("{short}--{long}{value}"))
}

/// Switches are told by the name of their value: their parser takes every spelling that Go's flags do.
fn is_switch(arg: &Arg) -> bool {
    arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.as_str() == SWITCH))
}

fn default(arg: &Arg) -> String {
    let values = arg.get_default_values().iter().map(|value| value.to_string_lossy());
    let values = values.collect::<Vec<_>>().join(",");
    if !values.is_empty() {
        return code(&values);
    }
    let is_plain = arg.get_num_args().is_some_and(|values| values.max_values() == 0);
    if arg.is_required_set() && !is_plain { "required".to_owned() } else { String::new() }
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_long_help().or_else(|| arg.get_help()).map(ToString::to_string);
    cell(&help.unwrap_or_default())
}

/// Sections of a command's flags, in the order of their first flag.
fn sections(command: &Command) -> Vec<(&str, Vec<&Arg>)> {
    let mut sections: Vec<(&str, Vec<&Arg>)> = Vec::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        if matches!(arg.get_id().as_str(), "help" | "version") {
            continue;
        }
        let heading = arg.get_help_heading().unwrap_or_default();
        match sections.iter_mut().find(|(have, _)| *have == heading) {
            Some((_, args)) => args.push(arg),
            None => sections.push((heading, vec![arg])),
        }
    }
    sections
}

fn command_page(command: &Command, path: &str, page: &mut String) {
    let path = format!("{path} {}", command.get_name());
    write!(page, "## {path}\n\n").unwrap();
    if let Some(about) = command.get_long_about().or_else(|| command.get_about()) {
        let text = about.to_string().replace("\n\n", "\n").replace(". ", ".\n");
        writeln!(page, "{}", text.trim()).unwrap();
    }
    for (heading, args) in sections(command) {
        if !heading.is_empty() {
            write!(page, "\n### {heading}\n").unwrap();
        }
        let rows: Vec<_> =
            args.iter().map(|arg| [spelling(arg), default(arg), meaning(arg)]).collect();
        write!(page, "\n{}", table(["flag", "default", "meaning"], &rows)).unwrap();
    }
    page.push('\n');
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        command_page(inner, &path, page);
    }
}

/// Flags that parse and that no page shows otherwise.
fn hidden(command: &Command) -> String {
    let hidden = command.get_arguments().filter(|arg| arg.is_hide_set());
    let names: Vec<_> =
        hidden.filter_map(|arg| arg.get_long()).map(|long| format!("`--{long}`")).collect();
    names.join(", ")
}

#[test]
fn reference_of_flags_is_current() {
    let mut command = Cli::command();
    command.build();
    let mut page = "# Command line\n\n".to_owned();
    page += "The first argument chooses what the executable is; `--help` after it says the same as this page.\n";
    page += "Durations are written as `50ms`, `2s`, `1h`, amounts of bytes as `64Mi`, `2G` or a number.\n";
    page += "A switch with `[=true|false]` takes its value after `=`.\n";
    page += "Configuration mistakes and wrong flags end the process with code 2, all else that fails with code 1.\n\n";
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        command_page(inner, command.get_name(), &mut page);
    }
    let epp = command.find_subcommand("epp").expect("the personality exists");
    page += "## Flags that are accepted and not shown\n\n";
    page += "`epp` and `serve` parse these flags of the Go implementation as well.\n";
    page += "Those that end in `-metric` are refused with what to write instead; the others change nothing.\n\n";
    page += &hidden(epp);
    page.push('\n');
    super::check("flags.md", "the definition of the command line", &page);
}
