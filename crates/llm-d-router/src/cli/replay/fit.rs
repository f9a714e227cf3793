//! Flags of `replay fit`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::cli::at_least_one;

const EXAMPLES: &str = "\
Examples:
  llm-d-router replay fit --trace recorded.jsonl --out pool.yaml
  llm-d-router replay --trace recorded.jsonl --pool pool.yaml --config config.yaml,default";

#[derive(Debug, Subcommand)]
pub enum ReplayCommand {
    /// Estimates the servers of a recorded trace with response times, and writes them as a pool file.
    ///
    /// The record says when first and last tokens came; what is looked for are the profiles under which simulated
    /// servers take as long. The last 30 % of the record are not fitted to: they say how good the fit is.
    #[command(after_help = EXAMPLES)]
    Fit(FitArgs),
}

#[derive(Debug, Args)]
pub struct FitArgs {
    /// The trace, as `serve --record` or `epp --record` writes it.
    #[arg(long, value_name = "FILE")]
    pub trace: PathBuf,
    /// Only so many requests, from the start of the trace.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub limit: Option<usize>,
    /// Give each endpoint a profile of its own, even if it is like others.
    #[arg(long)]
    pub per_endpoint: bool,
    /// Write the servers to this file, for `replay --pool`.
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Write profiles and errors to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}
