//! Finished runs in a file: one line of JSON each, added as they end.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use router_sim::replay::summary::Summary;
use serde::{Deserialize, Serialize};

/// One finished run. Times are in seconds.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Row {
    /// What was played, for people.
    pub(super) run: String,
    pub(super) policy: String,
    /// Of all that decides the run.
    pub(super) digest: String,
    pub(super) n_requests: usize,
    pub(super) goodput: f64,
    pub(super) ttft_p50: f64,
    pub(super) ttft_p90: f64,
    pub(super) ttft_p99: f64,
    pub(super) tpot_p90: f64,
    pub(super) cached_ratio: f64,
    pub(super) imbalance: f64,
    pub(super) unserved: f64,
    /// From the first arrival to the last end.
    pub(super) duration: f64,
    pub(super) decisions: String,
    /// What it took to play.
    pub(super) wall: f64,
}

/// The file and what it has.
pub(super) struct Store {
    file: File,
    rows: BTreeMap<String, Row>,
}

// === impl Row ===

impl Row {
    pub(super) fn new(run: String, policy: &str, digest: String, of: &Summary, wall: f64) -> Self {
        Self {
            run,
            policy: policy.to_owned(),
            digest,
            n_requests: of.n_requests,
            goodput: of.goodput,
            ttft_p50: of.ttft.p50,
            ttft_p90: of.ttft.p90,
            ttft_p99: of.ttft.p99,
            tpot_p90: of.tpot.p90,
            cached_ratio: of.cached_ratio,
            imbalance: of.imbalance,
            unserved: 1.0 - of.served_share(),
            duration: of.duration,
            decisions: of.decisions.clone(),
            wall,
        }
    }
}

// === impl Store ===

impl Store {
    /// Opens the file, or begins it. Rows that `is_kept` refuses are taken out of it, and so is the rest of a line
    /// whose writer was interrupted.
    pub(super) fn open(path: &Path, is_kept: impl Fn(&Row) -> bool) -> Result<Self> {
        let shown = path.display();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making the folder of {shown}"))?;
        }
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).with_context(|| format!("reading {shown}")),
        };
        let mut rows = BTreeMap::new();
        let mut kept = String::new();
        for (at, line) in text.split_inclusive('\n').enumerate() {
            if !line.ends_with('\n') {
                break;
            }
            let row: Row = serde_json::from_str(line)
                .with_context(|| format!("{shown}:{}: no row of this program", at + 1))?;
            if is_kept(&row) {
                kept += line;
                rows.insert(row.digest.clone(), row);
            }
        }
        if kept.len() < text.len() {
            fs::write(path, &kept).with_context(|| format!("writing {shown}"))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { file: file.with_context(|| format!("opening {shown}"))?, rows })
    }

    pub(super) fn get(&self, digest: &str) -> Option<Row> {
        self.rows.get(digest).cloned()
    }

    /// Adds a row and returns it as it will be read again: a number may differ in its last bit.
    pub(super) fn add(&mut self, row: &Row) -> Result<Row> {
        let line = serde_json::to_string(row)? + "\n";
        self.file.write_all(line.as_bytes()).context("adding to the file of finished runs")?;
        let row: Row = serde_json::from_str(&line)?;
        self.rows.insert(row.digest.clone(), row.clone());
        Ok(row)
    }
}
