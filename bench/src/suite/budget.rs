//! What a figure may be: `budgets.toml`.

use std::fmt;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::{Figure, Scenario, Scenarios};

/// All budgets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    budget: Vec<Budget>,
}

/// The limit of one figure of one scenario.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    pub scenario: String,
    pub figure: String,
    pub at_most: Option<f64>,
    pub at_least: Option<f64>,
}

/// A figure with what it is held to.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    pub scenario: String,
    #[serde(flatten)]
    pub figure: Figure,
    pub limit: Option<Limit>,
    /// What the Go implementation costs.
    pub go: Option<f64>,
    pub verdict: Verdict,
}

/// One side that a figure may not cross.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

/// Whether a figure keeps its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Within,
    Over,
    NoBudget,
}

impl Budgets {
    /// # Errors
    /// A document that does not read, or a budget without exactly one limit.
    pub fn parse(text: &str) -> Result<Self> {
        let budgets: Self = toml::from_str(text)?;
        for Budget { scenario, figure, at_most, at_least } in &budgets.budget {
            ensure!(
                at_most.is_some() != at_least.is_some(),
                "{scenario} {figure} needs one of at_most and at_least"
            );
        }
        Ok(budgets)
    }

    /// Holds the budgets to the scenarios.
    ///
    /// # Errors
    /// A budget for a scenario or a figure that does not exist.
    pub fn check(&self, scenarios: &Scenarios) -> Result<()> {
        for Budget { scenario, figure, .. } in &self.budget {
            let gives = scenarios.get(scenario)?.gives(figure);
            ensure!(gives, "{scenario} gives no figure {figure}");
        }
        Ok(())
    }

    /// Each figure with its limit and verdict.
    pub fn judge(&self, scenario: &Scenario, figures: Vec<Figure>) -> Vec<Judged> {
        let judge = |figure: Figure| {
            let limit = self.limit(scenario.name(), &figure.name);
            Judged {
                scenario: scenario.name().to_owned(),
                go: scenario.reference().get(&figure.name).copied(),
                verdict: Verdict::of(figure.value, limit),
                figure,
                limit,
            }
        };
        figures.into_iter().map(judge).collect()
    }

    fn limit(&self, scenario: &str, figure: &str) -> Option<Limit> {
        let is_it = |budget: &&Budget| budget.scenario == scenario && budget.figure == figure;
        let budget = self.budget.iter().find(is_it)?;
        budget.at_most.map(Limit::AtMost).or(budget.at_least.map(Limit::AtLeast))
    }
}

impl Verdict {
    fn of(value: f64, limit: Option<Limit>) -> Self {
        let keeps = match limit {
            None => return Self::NoBudget,
            Some(Limit::AtMost(most)) => value <= most,
            Some(Limit::AtLeast(least)) => value >= least,
        };
        if keeps { Self::Within } else { Self::Over }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "<= {most}"),
            Self::AtLeast(least) => write!(f, ">= {least}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::built_in;

    #[test]
    fn the_projects_own_documents_fit_together() {
        let (scenarios, budgets) = built_in().unwrap();
        assert!(scenarios.only(&[]).unwrap().len() > 20);
        let scenario = scenarios.get("picker-8x1KiB").unwrap();
        let figures = vec![
            Figure::new("cpu_ms_per_request", 0.06),
            Figure::new("floor_ratio", 2.5),
            Figure::new("rss_mib", 20.0),
        ];
        let judged = budgets.judge(scenario, figures);
        let verdicts: Vec<Verdict> = judged.iter().map(|judged| judged.verdict).collect();
        assert_eq!(verdicts, [Verdict::Within, Verdict::Over, Verdict::NoBudget]);
        assert_eq!(judged[0].limit, Some(Limit::AtMost(0.07)));
        assert_eq!(judged[2].go, Some(124.0));
    }

    #[test]
    fn a_figure_that_is_no_number_is_over() {
        assert_eq!(Verdict::of(f64::NAN, Some(Limit::AtMost(1.0))), Verdict::Over);
        assert_eq!(Verdict::of(f64::NAN, Some(Limit::AtLeast(1.0))), Verdict::Over);
        assert_eq!(Verdict::of(1.0, Some(Limit::AtLeast(1.0))), Verdict::Within);
    }

    #[test]
    fn mistakes_are_errors() {
        let budget = "[[budget]]\nscenario = \"idle-512\"\nfigure = \"rss_mib\"\n";
        Budgets::parse(budget).unwrap_err();
        Budgets::parse(&format!("{budget}at_most = 1.0\nat_least = 1.0")).unwrap_err();
        let (scenarios, _) = built_in().unwrap();
        for (from, to) in [("idle-512", "idle-513"), ("rss_mib", "nothing")] {
            let wrong = format!("{budget}at_most = 1.0").replace(from, to);
            Budgets::parse(&wrong).unwrap().check(&scenarios).unwrap_err();
        }
    }
}
