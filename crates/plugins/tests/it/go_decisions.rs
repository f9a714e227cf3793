//! Scores of single plugins must equal, bit for bit, those that the Go implementation gave.

use std::{fs, path::Path};

use router_framework::{
    PluginDef,
    document::tree::{self, Node},
};
use router_plugins::{flow, scorer};
use router_testkit::scheduling::{EndpointFixture, SceneBuilder};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Most LoRA adapters that the recorded servers loaded at once.
const MAX_LORAS: u32 = 4;

#[derive(Deserialize)]
pub(crate) struct Decision {
    case: String,
    pub(crate) config: String,
    pub(crate) servers: Vec<Server>,
    pub(crate) model: String,
    pub(crate) prompt: String,
    /// As text: the numbers must be read exactly.
    pub(crate) scores: Vec<Option<Box<RawValue>>>,
    pub(crate) picked: usize,
}

#[derive(Deserialize)]
pub(crate) struct Server {
    pub(crate) waiting: f64,
    pub(crate) running: f64,
    pub(crate) kv: Box<RawValue>,
    loras: String,
}

impl Server {
    fn fixture(&self) -> EndpointFixture {
        let loras: Vec<&str> = self.loras.split(',').filter(|name| !name.is_empty()).collect();
        EndpointFixture::new()
            .waiting(self.waiting)
            .running(self.running)
            .kv(self.kv.get().parse().unwrap())
            .lora(&loras, &[], MAX_LORAS)
    }
}

pub(crate) fn decisions(case: &str) -> Vec<Decision> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/go/decisions.jsonl");
    let text = fs::read_to_string(path).unwrap();
    let all = text.lines().map(|line| serde_json::from_str::<Decision>(line).unwrap());
    let decisions: Vec<_> = all.filter(|decision| decision.case == case).collect();
    assert_eq!(decisions.len(), 14, "{case}");
    decisions
}

/// The parameters that a configuration gives to a plugin type.
pub(crate) fn parameters(config: &str, plugin_type: &str) -> String {
    let (root, diagnostics) = tree::parse("config", config.replace("%s", "path").as_bytes());
    assert!(!diagnostics.has_errors(), "{config}");
    let root = root.unwrap();
    let plugins = root.get("plugins").and_then(Node::as_list).unwrap();
    let is_it = |node: &&Node| node.get("type").and_then(Node::as_str) == Some(plugin_type);
    let plugin = plugins.iter().find(is_it).unwrap();
    plugin.get("parameters").map(|node| node.to_json().to_string()).unwrap_or_default()
}

fn check(case: &str, filter: Option<&PluginDef>, scorer: &PluginDef) {
    for (row, decision) in decisions(case).iter().enumerate() {
        let mut builder = SceneBuilder::new();
        let params = |def: &PluginDef| parameters(&decision.config, def.plugin_type);
        let filter = filter.map(|def| builder.plugin(def, &params(def)));
        let scorer = builder.plugin(scorer, &params(scorer));
        let mut scene = builder.scene(decision.servers.iter().map(Server::fixture).collect());
        scene.request.target_model = decision.model.as_str().into();
        let positions: Vec<_> = match &filter {
            Some(filter) => scene.kept(filter),
            None => scene.cx().candidates.positions().map(|position| position.0).collect(),
        };
        let kept: Vec<_> = positions.iter().map(|&at| router_core::Position(at)).collect();
        let mut scores = vec![None; decision.servers.len()];
        for (score, at) in scene.scores_of(&scorer, &kept).into_iter().zip(positions) {
            scores[at as usize] = Some(score);
        }
        let recorded = decision
            .scores
            .iter()
            .map(|score| score.as_ref().map(|score| score.get().parse::<f64>().unwrap()));
        assert_eq!(scores, recorded.collect::<Vec<_>>(), "{case}, row {row}");
        let best = scores.iter().flatten().copied().fold(0.0, f64::max);
        assert_eq!(scores[decision.picked], Some(best), "{case}, row {row}");
    }
}

#[test]
fn queue() {
    check("queue", None, &scorer::queue::PLUGIN);
}

#[test]
fn running() {
    check("running", None, &scorer::running_requests::PLUGIN);
}

#[test]
fn kv() {
    check("kv", None, &scorer::kv_cache_utilization::PLUGIN);
}

#[test]
fn load_aware() {
    check("load-aware", None, &scorer::load_aware::PLUGIN);
}

#[test]
fn lora() {
    check("lora", None, &scorer::lora_affinity::PLUGIN);
}

#[test]
fn utilization() {
    check("utilization", Some(&flow::utilization_detector::PLUGIN), &scorer::queue::PLUGIN);
}
