//! Flags as the command line gives them.

use clap::{Args, Parser};

#[derive(Parser)]
struct Cli<A: Args> {
    #[command(flatten)]
    args: A,
}

/// Parses flags that stand in one string, with the defaults of the command line.
pub(crate) fn parse<A: Args>(flags: &str) -> A {
    let argv = std::iter::once("test").chain(flags.split_whitespace());
    Cli::<A>::try_parse_from(argv).unwrap().args
}
