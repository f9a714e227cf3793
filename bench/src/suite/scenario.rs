//! What is measured: `scenarios.toml`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// All scenarios, in their order.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenarios {
    scenario: Vec<Scenario>,
}

/// One scenario. Its name is what budgets and results refer to.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Scenario {
    /// Decisions over ext-proc, in turns with the floor.
    Picker(Picker),
    /// Scraping without requests.
    Scrape(Scrape),
    /// Memory after many distinct prompts.
    Memory(Memory),
    /// Memory and CPU without requests.
    Idle(Idle),
    /// Memory of requests that wait for the end of their bodies.
    Held(Held),
    /// Requests through the embedded proxy, in turns with others.
    Proxy(Proxy),
    /// Latency that the embedded proxy adds.
    ProxyLatency(ProxyLatency),
}

/// What the Go implementation costs, by figure.
pub(super) type Reference = BTreeMap<String, f64>;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Picker {
    pub name: String,
    pub endpoints: usize,
    /// Bytes of a request body.
    pub body: usize,
    #[serde(default = "default_streams")]
    pub streams: usize,
    /// How often each endpoint's metrics are read, as the router's flag takes it.
    #[serde(default = "default_refresh")]
    pub refresh: String,
    #[serde(default)]
    go: Reference,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scrape {
    pub name: String,
    pub endpoints: usize,
    /// As `mini-upstream` takes it.
    pub page: String,
    #[serde(default = "default_variants")]
    pub page_variants: usize,
    #[serde(default)]
    go: Reference,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    pub name: String,
    pub endpoints: usize,
    pub prompts: u64,
    /// Bytes of a request body.
    pub body: usize,
    #[serde(default)]
    go: Reference,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idle {
    pub name: String,
    pub endpoints: usize,
    /// As `mini-upstream` takes it.
    pub page: String,
    #[serde(default)]
    go: Reference,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    pub name: String,
    pub endpoints: usize,
    pub streams: usize,
    /// Bytes of a request body. Of one that is a single message nothing is sent but the headers.
    pub body: usize,
    /// Digits of the token ids that the prompt is made of; 0 is a chat.
    #[serde(default)]
    pub token_digits: u32,
    #[serde(default)]
    go: Reference,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proxy {
    pub name: String,
    pub endpoints: usize,
    /// Bytes of a request body.
    pub body: usize,
    pub connections: usize,
    /// Server-sent events instead of one JSON document.
    #[serde(default)]
    pub stream: bool,
    #[serde(default)]
    go: Reference,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProxyLatency {
    pub name: String,
    pub endpoints: usize,
    /// Bytes of a request body.
    pub body: usize,
    /// Requests per second.
    pub rate: f64,
    #[serde(default)]
    go: Reference,
}

fn default_streams() -> usize {
    16
}

fn default_refresh() -> String {
    "50ms".to_owned()
}

fn default_variants() -> usize {
    8
}

// === impl Scenarios ===

impl Scenarios {
    /// # Errors
    /// A document that does not read, names that are not unique, or a `go` figure that the scenario
    /// does not give.
    pub fn parse(text: &str) -> Result<Self> {
        let scenarios: Self = toml::from_str(text)?;
        let mut names = BTreeSet::new();
        for scenario in &scenarios.scenario {
            let name = scenario.name();
            ensure!(names.insert(name), "two scenarios are called {name}");
            for figure in scenario.reference().keys() {
                ensure!(scenario.gives(figure), "{name} gives no figure {figure}");
            }
        }
        Ok(scenarios)
    }

    /// Those whose name contains one of `parts`, or all if there is none.
    ///
    /// # Errors
    /// A part that no name contains.
    pub fn only(&self, parts: &[String]) -> Result<Vec<&Scenario>> {
        for part in parts {
            let found =
                self.scenario.iter().any(|scenario| scenario.name().contains(part.as_str()));
            ensure!(found, "no scenario has {part} in its name");
        }
        let is_chosen = |scenario: &&Scenario| {
            parts.is_empty() || parts.iter().any(|part| scenario.name().contains(part.as_str()))
        };
        Ok(self.scenario.iter().filter(is_chosen).collect())
    }

    /// # Errors
    /// No such scenario.
    pub fn get(&self, name: &str) -> Result<&Scenario> {
        let found = self.scenario.iter().find(|scenario| scenario.name() == name);
        found.with_context(|| format!("no scenario is called {name}"))
    }
}

// === impl Scenario ===

impl Scenario {
    pub fn name(&self) -> &str {
        match self {
            Self::Picker(scenario) => &scenario.name,
            Self::Scrape(scenario) => &scenario.name,
            Self::Memory(scenario) => &scenario.name,
            Self::Idle(scenario) => &scenario.name,
            Self::Held(scenario) => &scenario.name,
            Self::Proxy(scenario) => &scenario.name,
            Self::ProxyLatency(scenario) => &scenario.name,
        }
    }

    pub(super) fn reference(&self) -> &Reference {
        match self {
            Self::Picker(scenario) => &scenario.go,
            Self::Scrape(scenario) => &scenario.go,
            Self::Memory(scenario) => &scenario.go,
            Self::Idle(scenario) => &scenario.go,
            Self::Held(scenario) => &scenario.go,
            Self::Proxy(scenario) => &scenario.go,
            Self::ProxyLatency(scenario) => &scenario.go,
        }
    }

    /// Names of the figures that this kind of scenario can give.
    pub fn figures(&self) -> &'static [&'static str] {
        match self {
            Self::Picker(_) => &[
                "cpu_ms_per_request",
                "floor_cpu_ms_per_request",
                "floor_ratio",
                "decisions_per_s",
                "decision_p50_ms",
                "decision_p99_ms",
                "rss_mib",
            ],
            Self::Scrape(_) => {
                &["cpu_us_per_scrape", "cores", "scrapes_per_s", "share_of_asked", "rss_mib"]
            }
            Self::Memory(_) => &["rss_mib", "peak_rss_mib", "idle_rss_mib", "cpu_ms_per_request"],
            Self::Idle(_) => &["rss_mib", "cores"],
            Self::Held(_) => &["kib_per_stream", "kib_over_body"],
            Self::Proxy(_) => &[
                "requests_per_s",
                "cpu_ms_per_request",
                "p50_us",
                "p99_us",
                "rss_mib",
                "hyper_requests_per_s",
                "hyper_ratio",
                "envoy_requests_per_s",
                "envoy_ratio",
            ],
            Self::ProxyLatency(_) => {
                &["added_p50_us", "added_p99_us", "direct_p50_us", "direct_p99_us"]
            }
        }
    }

    pub(super) fn gives(&self, figure: &str) -> bool {
        self.figures().contains(&figure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_error(text: &str, expected: &str) {
        let error = format!("{:#}", Scenarios::parse(text).unwrap_err());
        assert!(error.contains(expected), "{error}, not {expected}");
    }

    #[test]
    fn mistakes_are_errors() {
        let idle = "[[scenario]]\nkind = \"idle\"\nname = \"a\"\nendpoints = 1\npage = \"vllm\"\n";
        Scenarios::parse(idle).unwrap();
        check_error(&idle.repeat(2), "two scenarios are called a");
        check_error(&format!("{idle}extra = 1"), "extra");
        check_error(&format!("{idle}go = {{ nothing = 1.0 }}"), "a gives no figure nothing");
        check_error(&idle.replace("idle", "other"), "other");
    }

    #[test]
    fn parts_of_names_choose() {
        let idle = "[[scenario]]\nkind = \"idle\"\nname = \"a1\"\nendpoints = 1\npage = \"vllm\"\n";
        let two = format!("{idle}{}", idle.replace("a1", "a2"));
        let scenarios = Scenarios::parse(&two).unwrap();
        let names = |parts: &[&str]| {
            let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
            let chosen = scenarios.only(&parts).unwrap();
            chosen.iter().map(|scenario| scenario.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["a1", "a2"]);
        assert_eq!(names(&["2"]), ["a2"]);
        scenarios.only(&["3".to_owned()]).unwrap_err();
        scenarios.get("a1").unwrap();
        scenarios.get("a").unwrap_err();
    }
}
