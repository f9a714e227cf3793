use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use router_core::{Position, header::HeadPatch};
use router_framework::{
    Instance, Lease, Outcome, PluginDef, ProfileIndex, ProfileRun, PromptInput, Registry,
    keys::{PromptBlocks, PromptTokens, TokenContent, TokenizedPrompt},
};
use router_testkit::{
    router::RouterBuilder,
    scheduling::{EndpointFixture, Scene, SceneBuilder},
};

use super::*;
use crate::replay::{
    outcome::Fate,
    pool::Pool,
    run::{Configuration, Options, Progress, Setup, play},
    summary::{Goals, Summary},
    workload::{SharedPrompts, Spec, Volume},
};

fn scene(def: &PluginDef, params: &str, endpoints: Vec<EndpointFixture>) -> (Instance, Scene) {
    let mut builder = SceneBuilder::new();
    let plugin = builder.plugin(def, params);
    let mut scene = builder.scene(endpoints);
    prompt(&mut scene, &[1, 2, 3, 4], 256);
    (plugin, scene)
}

/// The request asks with these blocks of 64 tokens.
fn prompt(scene: &mut Scene, ids: &[u64], n_tokens: usize) {
    let blocks = PromptBlocks::from_block_ids(ids, 64, n_tokens);
    scene.request.parsed.prompts = PromptInput::Blocks(blocks.clone());
    let content = TokenContent::Blocks(blocks);
    let tokens = PromptTokens { n_tokens: n_tokens as u64, content, media: Vec::new() };
    scene.tokens(TokenizedPrompt { prompts: vec![tokens], cache_salt: None });
}

/// The request is sent to the endpoint.
fn place(plugin: &Instance, scene: &Scene, target: u32) -> Option<Box<dyn Lease>> {
    let cx = scene.cx();
    let run = ProfileRun {
        ranked: [Position(target)].into_iter().collect(),
        n_shown: 1,
        scored: cx.candidates.positions().map(|at| (at, 0.0)).collect(),
    };
    let names = ["default".into()].into();
    let outcome = Outcome { names, runs: vec![Some(run)], primary: ProfileIndex(0) };
    let hook = plugin.pre_request.as_ref().unwrap();
    hook.pre_request(&cx, &outcome, &mut HeadPatch::default()).unwrap()
}

/// Positions by score, best first; equal ones in their order.
fn order(scene: &Scene, plugin: &Instance) -> Vec<usize> {
    let scores = scene.scores(plugin);
    assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{scores:?}");
    let mut order: Vec<_> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    order
}

fn pick(scene: &Scene, plugin: &Instance, n_endpoints: usize) -> u32 {
    scene.pick(plugin, &vec![0.0; n_endpoints], 1, 1)[0]
}

fn busy(requests: i64) -> EndpointFixture {
    EndpointFixture::new().in_flight(requests, 0)
}

#[test]
fn every_preset_loads_and_has_a_source() {
    for preset in PRESETS {
        let mut builder = RouterBuilder::new(preset.document);
        for def in PLUGINS {
            builder = builder.plugin(def);
        }
        builder.try_build().map_err(|errors| format!("{}: {errors}", preset.name)).unwrap();
        assert!(preset.about.contains('('), "{} has no source", preset.name);
    }
    let names: BTreeSet<_> = PRESETS.iter().map(|preset| preset.name).collect();
    assert_eq!(names.len(), PRESETS.len());
    assert_eq!(preset("sticky").map(|preset| preset.name), Some("sticky"));
    assert_eq!(preset("slippery"), None);
}

/// Share of prompt tokens that were cached, by preset, for a few prompts that many ask with.
#[test]
fn every_preset_serves_all_and_those_that_see_caches_use_them() {
    let workload = SharedPrompts {
        n_prompts: 12,
        prompt_tokens: (2_000, 4_000),
        answer_tokens: 60,
        ..SharedPrompts::default()
    };
    let spec =
        Spec { duration: Duration::from_secs(20), volume: Volume::Rate(15.0), ..Spec::default() };
    let trace = Arc::new(workload.generate(&spec).unwrap());
    let cached_ratio = |preset: &Preset| {
        let text = Some(preset.document.to_owned());
        let setup = Setup {
            trace: Arc::clone(&trace),
            pool: Arc::new(Pool::uniform(4)),
            configuration: Configuration { name: preset.name.to_owned(), text },
            registry: Registry::new(router_plugins::PLUGINS.iter().chain(PLUGINS).copied()),
            options: Options::default(),
        };
        let outcome = play(&setup, 1, &Progress::default()).unwrap();
        let is_served = outcome.requests.iter().all(|request| request.fate == Fate::Served);
        assert!(is_served, "{}", preset.name);
        Summary::of(&outcome, Goals::default()).cached_ratio
    };
    let ratios: BTreeMap<_, _> =
        PRESETS.iter().map(|preset| (preset.name, cached_ratio(preset))).collect();
    // With a request or two on each server, bounded loads leave no room for affinity.
    for name in ["least-tokens", "go-default", "sticky", "lmetric", "preble", "dynamo", "smg"] {
        assert!(ratios[name] > ratios["round-robin"] + 0.02, "{name}: {ratios:?}");
    }
}

#[test]
fn plugins_are_told_from_those_for_production() {
    for def in PLUGINS {
        assert!(def.plugin_type.starts_with("baseline-"), "{}", def.plugin_type);
        let used = PRESETS.iter().any(|preset| preset.document.contains(def.plugin_type));
        assert!(used, "no preset uses {}", def.plugin_type);
    }
}

#[test]
fn round_robin_takes_turns() {
    let (plugin, scene) = scene(&round_robin::PLUGIN, "", vec![EndpointFixture::new(); 3]);
    let picks: Vec<_> = (0..7).map(|_| pick(&scene, &plugin, 3)).collect();
    assert_eq!(picks, [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(scene.pick(&plugin, &[0.0; 3], 1, 3), [1, 2, 0]);
    assert!(scene.pick(&plugin, &[], 1, 3).is_empty());
}

#[test]
fn a_sample_has_different_endpoints_and_all_in_the_end() {
    let (plugin, mut scene) = scene(&sample::PLUGIN, "", vec![EndpointFixture::new(); 6]);
    let mut seen = BTreeSet::new();
    for id in 0..600 {
        scene.request.id = id;
        let kept = scene.kept(&plugin);
        assert!(kept.len() == 2 && kept[0] < kept[1], "{kept:?}");
        seen.insert((kept[0], kept[1]));
    }
    assert_eq!(seen.len(), 15, "all pairs of six");
    assert!(SceneBuilder::refusal(&sample::PLUGIN, "{choices: 0}").contains("choices"));
}

#[test]
fn equal_beginnings_go_to_one_endpoint_as_long_as_it_has_room() {
    let (plugin, mut scene) = scene(&chwbl::PLUGIN, "", vec![busy(4); 8]);
    let home = pick(&scene, &plugin, 8);
    prompt(&mut scene, &[1, 7, 8, 9], 256);
    assert_eq!(pick(&scene, &plugin, 8), home, "only the first block counts");
    // (33 + 1) / 8 · 1.25 = 5.3 are allowed: a fifth request, and no sixth.
    scene.change(home as usize, busy(5));
    let next = pick(&scene, &plugin, 8);
    assert_ne!(next, home);
    assert_eq!(pick(&scene, &plugin, 8), next, "what is over goes to one endpoint, too");
}

#[test]
fn beginnings_spread_over_the_ring_and_few_move() {
    let (plugin, mut scene) = scene(&chwbl::PLUGIN, "", vec![busy(0); 8]);
    let mut homes = Vec::new();
    for id in 0..2_000 {
        prompt(&mut scene, &[id], 64);
        homes.push(pick(&scene, &plugin, 8));
    }
    for endpoint in 0..8 {
        let n = homes.iter().filter(|home| **home == endpoint).count();
        assert!((150..350).contains(&n), "{n} of 2000 at {endpoint}");
    }
    scene.keep_only(&[0, 1, 2, 3, 4, 5, 6]);
    for (id, home) in (0..).zip(&homes).filter(|(_, home)| **home != 7) {
        prompt(&mut scene, &[id], 64);
        assert_eq!(pick(&scene, &plugin, 7), *home);
    }
}

#[test]
fn where_all_are_full_the_first_of_the_ring_takes_it() {
    let params = "{loadFactor: 1}";
    let (plugin, mut scene) = scene(&chwbl::PLUGIN, params, vec![busy(0), busy(0)]);
    let home = pick(&scene, &plugin, 2) as usize;
    scene.change(home, busy(6));
    assert_eq!(scene.pick(&plugin, &[0.0; 2], 1, 2), [1 - home as u32, home as u32]);
    scene.change(1 - home, busy(6));
    assert_eq!(scene.pick(&plugin, &[0.0; 2], 1, 2), [home as u32, 1 - home as u32]);
    let error = SceneBuilder::refusal(&chwbl::PLUGIN, "{loadFactor: 0.9}");
    assert!(error.contains("loadFactor"), "{error}");
}

#[test]
fn lmetric_multiplies_new_tokens_by_the_batch() {
    let endpoint =
        |requests, pending, own| EndpointFixture::new().in_flight(requests, pending).uncached(own);
    let check = |params: &str, endpoints: Vec<EndpointFixture>, best: &[usize]| {
        let (plugin, scene) = scene(&lmetric::PLUGIN, params, endpoints);
        assert_eq!(order(&scene, &plugin), best, "{params}");
    };
    // 100 · 4, 300 · 1, 250 · 2
    let endpoints = vec![endpoint(3, 0, 100), endpoint(0, 0, 300), endpoint(1, 0, 250)];
    check("", endpoints, &[1, 0, 2]);
    // (100 + 400) · 2 against 300 · 2, and 100 · 2 against 300 · 2.
    check("", vec![endpoint(1, 400, 100), endpoint(1, 0, 300)], &[1, 0]);
    check("{countPending: false}", vec![endpoint(1, 400, 100), endpoint(1, 0, 300)], &[0, 1]);
    // A prompt that is cached everywhere goes to the smaller batch.
    check("", vec![endpoint(4, 0, 0), endpoint(2, 0, 0)], &[1, 0]);
}

#[test]
fn dynamo_adds_prefill_and_active_blocks() {
    let endpoint = |pending, own| EndpointFixture::new().in_flight(1, pending).uncached(own);
    let check = |endpoints: Vec<EndpointFixture>, best: &[usize]| {
        let (plugin, scene) = scene(&dynamo::PLUGIN, "", endpoints);
        assert_eq!(order(&scene, &plugin), best);
    };
    // Prefill blocks: (0 + 256) / 64, (640 + 64) / 64, (0 + 64) / 64.
    check(vec![endpoint(0, 256), endpoint(640, 64), endpoint(0, 64)], &[2, 0, 1]);
}

#[test]
fn dynamos_active_blocks_count_once_and_go_with_their_requests() {
    let endpoints = vec![EndpointFixture::new().uncached(0); 2];
    let (plugin, mut scene) = scene(&dynamo::PLUGIN, "", endpoints);
    scene.assert_scores(&plugin, &[1.0, 1.0]);
    let other = {
        prompt(&mut scene, &[7, 8], 128);
        place(&plugin, &scene, 0)
    };
    assert_eq!(order(&scene, &plugin), [0, 1], "what is active already adds nothing");
    scene.assert_scores(&plugin, &[1.0, 1.0]);
    prompt(&mut scene, &[1, 2, 3, 4], 256);
    scene.assert_scores(&plugin, &[0.0, 1.0]);
    let twice = (place(&plugin, &scene, 1), place(&plugin, &scene, 1));
    prompt(&mut scene, &[9], 64);
    // Two blocks against four, which are there twice and count once.
    scene.assert_scores(&plugin, &[1.0, 0.0]);
    drop(twice.0);
    scene.assert_scores(&plugin, &[1.0, 0.0]);
    drop(twice.1);
    scene.assert_scores(&plugin, &[0.0, 1.0]);
    let mut other = other.unwrap();
    other.moved(scene.cx().endpoint(Position(1)).unwrap(), scene.cx().now);
    scene.assert_scores(&plugin, &[1.0, 0.0]);
    drop(other);
    scene.assert_scores(&plugin, &[1.0, 1.0]);
}

#[test]
fn preble_exploits_a_cached_majority_and_explores_otherwise() {
    let endpoint = |matched| EndpointFixture::new().prefix(matched, 4, 64);
    let check = |matched: [u32; 2], n_sent: usize, first: usize| {
        let endpoints = matched.map(endpoint).into();
        let (plugin, mut scene) = scene(&preble::PLUGIN, "", endpoints);
        for _ in 0..n_sent {
            drop(place(&plugin, &scene, 0));
        }
        drop(place(&plugin, &scene, 1));
        scene.advance(Duration::from_secs(1));
        assert_eq!(order(&scene, &plugin)[0], first, "{matched:?} after {n_sent}");
    };
    check([3, 0], 4, 0);
    // Half is no majority: what was sent to the first counts.
    check([2, 0], 4, 1);
    // A load of more than fifteen times the lowest is too much even for a majority.
    check([3, 0], 40, 1);
}

#[test]
fn prebles_loads_are_those_of_its_window() {
    let (plugin, mut scene) = scene(&preble::PLUGIN, "", vec![EndpointFixture::new(); 2]);
    for _ in 0..10 {
        drop(place(&plugin, &scene, 0));
    }
    assert_eq!(order(&scene, &plugin), [1, 0]);
    scene.advance(Duration::from_secs(179));
    assert_eq!(order(&scene, &plugin), [1, 0]);
    scene.advance(Duration::from_secs(2));
    scene.assert_scores(&plugin, &[1.0, 1.0]);
}

#[test]
fn preble_spares_caches_that_are_full_and_hit() {
    let endpoints = vec![EndpointFixture::new().prefix(0, 4, 64); 2];
    let params = "{kvTokens: 512, decodeTokenSeconds: 0, windowSeconds: 1000}";
    let (plugin, mut scene) = scene(&preble::PLUGIN, params, endpoints);
    // The first computes 512 tokens once, and then all of its prompts hit; the second computes as many, cold.
    drop(place(&plugin, &scene, 0));
    drop(place(&plugin, &scene, 0));
    drop(place(&plugin, &scene, 1));
    drop(place(&plugin, &scene, 1));
    scene.change(0, EndpointFixture::new().prefix(4, 4, 64));
    (0..6).for_each(|_| drop(place(&plugin, &scene, 0)));
    scene.change(0, EndpointFixture::new().prefix(0, 4, 64));
    assert_eq!(order(&scene, &plugin), [1, 0], "equal loads, but what would go is asked for");
}

#[test]
fn smg_follows_the_best_match_while_loads_are_even() {
    let endpoint =
        |matched, waiting| EndpointFixture::new().prefix(matched, 10, 64).waiting(waiting).kv(0.0);
    let check = |endpoints: Vec<EndpointFixture>, best: &[usize]| {
        let (plugin, scene) = scene(&smg::PLUGIN, "", endpoints);
        assert_eq!(order(&scene, &plugin), best);
    };
    check(vec![endpoint(4, 9.0), endpoint(0, 0.0)], &[0, 1]);
    check(vec![endpoint(3, 9.0), endpoint(0, 0.0)], &[1, 0]);
    check(vec![endpoint(5, 9.0), endpoint(5, 1.0), endpoint(4, 0.0)], &[1, 0, 2]);
    let loaded = |endpoint: EndpointFixture, requests| endpoint.in_flight(requests, 0);
    check(vec![loaded(endpoint(4, 9.0), 70), loaded(endpoint(0, 0.0), 1)], &[1, 0]);
    check(vec![loaded(endpoint(4, 9.0), 270), loaded(endpoint(0, 0.0), 200)], &[0, 1]);
}

#[test]
fn smgs_drain_time_counts_what_was_sent_since_the_last_report() {
    let endpoint = |waiting| EndpointFixture::new().waiting(waiting).kv(0.0);
    let (plugin, mut scene) = scene(&smg::PLUGIN, "", vec![endpoint(0.0), endpoint(1.0)]);
    prompt(&mut scene, &[], 600);
    assert_eq!(order(&scene, &plugin), [0, 1]);
    drop(place(&plugin, &scene, 0));
    assert_eq!(order(&scene, &plugin), [0, 1], "600 tokens against 1,024");
    drop(place(&plugin, &scene, 0));
    assert_eq!(order(&scene, &plugin), [1, 0], "1,200 against 1,024");
    scene.advance(Duration::from_secs(1));
    scene.change(0, endpoint(0.0));
    assert_eq!(order(&scene, &plugin), [0, 1], "the new report says what is left of it");
}

#[test]
fn smg_shuns_full_caches_and_does_without_reports() {
    let check = |endpoints: Vec<EndpointFixture>, best: &[usize]| {
        let (plugin, scene) = scene(&smg::PLUGIN, "", endpoints);
        assert_eq!(order(&scene, &plugin), best);
    };
    let reported = |kv| EndpointFixture::new().waiting(0.0).kv(kv);
    check(vec![reported(0.95), reported(0.5), reported(1.0)], &[1, 0, 2]);
    check(vec![busy(3), busy(1), busy(2)], &[1, 2, 0]);
    // The unknown one is taken for the best that is known, behind by its requests.
    check(vec![busy(1), reported(0.5), reported(0.1)], &[2, 1, 0]);
}
