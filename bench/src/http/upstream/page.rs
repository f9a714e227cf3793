//! Metrics pages: a real vLLM's, a minimal one, or one from a file, in variants.
//!
//! A server under load never gives the same page twice, and a scraper may save work where nothing
//! changes, so the load figures step through a number of variants.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;

/// A page of vLLM 0.32 with 4 requests running and 6 waiting (58 KB), as it was scraped.
/// Source: the project's recorded samples, `metrics-4-under-load.txt` of a CPU build with a tiny model.
const VLLM: &str = include_str!("../../../data/vllm-metrics.txt");

/// What the router reads and nothing else. The cache has room for 2,000,000 tokens: as many as the router
/// remembers of an endpoint that does not tell.
const MINIMAL: &str = "\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine=\"0\",model_name=\"base-model\"} 0.0
# HELP vllm:num_requests_waiting Number of requests waiting to be processed.
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine=\"0\",model_name=\"base-model\"} 0.0
# HELP vllm:kv_cache_usage_perc KV-cache usage. 1 means 100 percent usage.
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine=\"0\",model_name=\"base-model\"} 0.0
# HELP vllm:cache_config_info Information of the LLMEngine CacheConfig
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{block_size=\"16\",engine=\"0\",num_gpu_blocks=\"125000\"} 1.0
";

const MINIMAL_BLOCKS: &str = "num_gpu_blocks=\"125000\"";
/// A cache that is soon full, for runs that must see a full one.
const SMALL_BLOCKS: &str = "num_gpu_blocks=\"4096\"";

/// Gauges that move with the load, and what each is in variant `n`.
const GAUGES: &[(&str, fn(usize) -> f64)] = &[
    ("vllm:num_requests_running{", |n| (n % 7) as f64),
    ("vllm:num_requests_waiting{", |n| (n % 3) as f64),
    ("vllm:kv_cache_usage_perc{", |n| (n % 11) as f64 / 16.0),
];

/// A metrics page in one or more variants. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Page {
    variants: Vec<Bytes>,
}

impl Page {
    /// `vllm`, `minimal`, `small-cache`, or the path of a file, in `n_variants` variants (1: it never changes).
    ///
    /// # Errors
    /// A file that cannot be read as text, or no variant.
    pub fn load(name: &str, n_variants: usize) -> Result<Self> {
        let text = match name {
            "vllm" => VLLM.to_owned(),
            "minimal" => MINIMAL.to_owned(),
            "small-cache" => MINIMAL.replace(MINIMAL_BLOCKS, SMALL_BLOCKS),
            path => std::fs::read_to_string(Path::new(path))
                .with_context(|| format!("reading the metrics page {path}"))?,
        };
        ensure!(n_variants > 0, "there must be at least one variant of the page");
        if n_variants == 1 {
            return Ok(Self { variants: vec![text.into()] });
        }
        Ok(Self { variants: (0..n_variants).map(|n| variant(&text, n).into()).collect() })
    }

    /// The page of scrape `n`.
    pub fn nth(&self, n: u64) -> Bytes {
        self.variants[(n % self.variants.len() as u64) as usize].clone()
    }
}

fn variant(text: &str, n: usize) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let gauge = GAUGES.iter().find(|(prefix, _)| line.starts_with(prefix));
        match gauge.and_then(|(_, value)| Some((line.rsplit_once(' ')?.0, value(n)))) {
            Some((series, value)) => out.extend([series, " ", &format!("{value:?}"), "\n"]),
            None => out.push_str(line),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(page: &Bytes, prefix: &str) -> Vec<String> {
        std::str::from_utf8(page)
            .unwrap()
            .lines()
            .filter(|line| line.starts_with(prefix))
            .map(|line| line.rsplit_once(' ').unwrap().1.to_owned())
            .collect()
    }

    #[test]
    fn variants_differ_in_the_gauges_only() {
        for name in ["vllm", "minimal", "small-cache"] {
            let page = Page::load(name, 4).unwrap();
            let still = Page::load(name, 1).unwrap().nth(0);
            for (prefix, value) in GAUGES {
                for n in 0..4 {
                    let found = values(&page.nth(n as u64), prefix);
                    assert_eq!(found, [format!("{:?}", value(n))], "{name} {prefix} {n}");
                }
            }
            assert_eq!(page.nth(1), page.nth(5));
            let still = std::str::from_utf8(&still).unwrap().lines();
            let moving = page.nth(3);
            let moving = std::str::from_utf8(&moving).unwrap().lines();
            assert!(still.zip(moving).filter(|(a, b)| a != b).count() <= GAUGES.len());
        }
    }

    #[test]
    fn the_vllm_page_is_as_large_as_a_real_one() {
        assert!(Page::load("vllm", 1).unwrap().nth(0).len() > 55_000);
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error() {
        Page::load("/nowhere/page.txt", 2).unwrap_err();
        Page::load("minimal", 0).unwrap_err();
    }
}
