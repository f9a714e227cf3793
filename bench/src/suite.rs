//! Scenarios against budgets: what `cargo xtask bench` runs.
//!
//! The server under test is pinned to one core; load, model servers and this program to another.
//! Floors are measured in turns with the router, in the same run, and whoever's turn it is not is
//! stopped by a signal: machines are noisy, and only what ran side by side can be compared.

mod budget;
mod child;
mod documents;
mod figure;
mod measure;
mod programs;
mod results;
mod scenario;
mod table;

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

pub use budget::{Budget, Budgets, Verdict};
pub use child::{Child, Launch};
pub use documents::{endpoints_file, envoy_bootstrap, picker_config, soak_config};
pub use figure::{Figure, median};
pub use measure::{Contender, interleave};
pub use programs::{Bench, Programs, picker_args, proxy_args};
pub(crate) use programs::{free_ports, is_serving};
pub use results::{Machine, Row};
pub(crate) use results::{commit, date};
pub use scenario::{Scenario, Scenarios};
pub use table::Table;

/// Scenarios and budgets of the project.
const SCENARIOS: &str = include_str!("../scenarios.toml");
const BUDGETS: &str = include_str!("../budgets.toml");

/// What to run and how.
#[derive(clap::Args, Clone, Debug)]
pub struct SuiteArgs {
    /// The router's release executable.
    #[arg(long)]
    pub router: PathBuf,
    /// Envoy's executable, for the comparison of proxies; left out without it.
    #[arg(long)]
    pub envoy: Option<PathBuf>,
    /// Folder of the measuring programs; by default the one of this program.
    #[arg(long)]
    pub programs: Option<PathBuf>,
    /// Folder for `<date>.json`, to which a line is added; nothing is written without it.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Only scenarios whose name contains this. Can be given several times.
    #[arg(long)]
    pub only: Vec<String>,
    /// Turns of each contender; figures are medians over them.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Measured seconds of each turn.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Unmeasured seconds before.
    #[arg(long, default_value_t = 1.0)]
    pub warmup: f64,
    /// Core of the server under test.
    #[arg(long, default_value_t = 0)]
    pub server_core: usize,
    /// Core of load and model servers.
    #[arg(long, default_value_t = 1)]
    pub client_core: usize,
    /// Leave the choice of cores to the kernel.
    #[arg(long)]
    pub no_pin: bool,
    /// One more argument for the router. Can be given several times.
    #[arg(long = "router-arg", allow_hyphen_values = true)]
    pub router_args: Vec<String>,
    /// End with an error when a figure is over its budget.
    #[arg(long)]
    pub strict: bool,
}

impl SuiteArgs {
    fn validate(&self) -> Result<()> {
        ensure!(self.rounds > 0, "--rounds must be at least 1");
        ensure!(self.seconds.is_finite() && self.seconds > 0.0, "--seconds must be positive");
        ensure!(self.warmup.is_finite() && self.warmup >= 0.0, "--warmup must not be negative");
        Ok(())
    }

    pub(crate) fn turn(&self) -> Duration {
        Duration::from_secs_f64(self.seconds + self.warmup)
    }
}

/// The project's scenarios and budgets, held to each other.
///
/// # Errors
/// A document that does not read, or a budget for a figure that no scenario gives.
pub fn built_in() -> Result<(Scenarios, Budgets)> {
    let scenarios = Scenarios::parse(SCENARIOS).context("scenarios.toml")?;
    let budgets = Budgets::parse(BUDGETS).context("budgets.toml")?;
    budgets.check(&scenarios).context("budgets.toml")?;
    Ok((scenarios, budgets))
}

/// Runs the project's scenarios, prints the table as it grows and writes the row.
///
/// # Errors
/// Programs that are missing or, at the end, scenarios that could not be measured; with `--strict`
/// also figures over budget.
pub async fn run(args: &SuiteArgs) -> Result<()> {
    let (scenarios, budgets) = built_in()?;
    run_these(args, &scenarios, &budgets, &mut std::io::stdout()).await
}

/// The same with other scenarios and budgets, and with the table written to `out`.
///
/// # Errors
/// As [`run`].
pub async fn run_these(
    args: &SuiteArgs,
    scenarios: &Scenarios,
    budgets: &Budgets,
    out: &mut impl Write,
) -> Result<()> {
    args.validate()?;
    let chosen = scenarios.only(&args.only)?;
    let bench = Bench::new(args)?;
    let mut table = Table::start(out)?;
    let mut row = Row::new(args);
    let mut failed = Vec::new();
    for scenario in chosen {
        match measure::scenario(&bench, scenario).await {
            Ok(figures) => {
                let judged = budgets.judge(scenario, figures);
                table.add(out, &judged)?;
                row.add(judged);
            }
            Err(error) => {
                table.fail(out, scenario.name(), &error)?;
                failed.push(scenario.name());
            }
        }
    }
    if let Some(folder) = &args.out {
        row.append_to(folder)?;
    }
    table.end(out)?;
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    ensure!(!args.strict || table.n_over() == 0, "{} figures over budget", table.n_over());
    Ok(())
}
