use proptest::prelude::*;
use router_rt::Rng;

use super::*;

fn rule(models: &[&str], targets: &[(&str, u32)]) -> Rule {
    let target = |&(model, weight): &(&str, u32)| Target {
        model: model.into(),
        weight: (weight > 0).then_some(weight),
    };
    Rule {
        models: models.iter().map(|&model| model.into()).collect(),
        targets: targets.iter().map(target).collect(),
    }
}

fn rewrite(name: &str, created: Option<i64>, rules: Vec<Rule>) -> Rewrite {
    Rewrite { name: name.into(), created, rules }
}

/// `object>target` for a request for `model`, or nothing.
fn served(rewrites: &Rewrites, model: &str) -> String {
    let served = rewrites.serve(model, || Rng::seeded(1));
    served.map_or_else(String::new, |Rewritten { rewrite, target }| format!("{rewrite}>{target}"))
}

#[test]
fn an_exact_rule_goes_before_one_for_every_request() {
    let all = [
        rewrite("a-generic", Some(1), vec![rule(&[], &[("any", 0)])]),
        rewrite("exact", Some(9), vec![rule(&["m", "n"], &[("x", 0)])]),
    ];
    let (rewrites, shadowed) = Rewrites::new(&all);
    for (model, expected) in [
        ("m", "exact>x"),
        ("n", "exact>x"),
        ("other", "a-generic>any"),
        ("", "a-generic>any"),
        ("M", "a-generic>any"),
    ] {
        assert_eq!(served(&rewrites, model), expected, "{model:?}");
    }
    assert_eq!((rewrites.len(), shadowed.len()), (2, 0));
    let (only_exact, _) = Rewrites::new(&all[1..]);
    assert_eq!(served(&only_exact, ""), "");
    assert_eq!(served(&Rewrites::default(), "m"), "");
}

#[test]
fn the_oldest_object_counts_then_the_first_name_then_the_first_rule() {
    let to = |target: &str| rule(&["m"], &[(target, 0)]);
    let check = |all: &[Rewrite], expected: &str, expected_shadowed: &[(usize, usize, usize)]| {
        for rotated in 0..all.len() {
            let mut turned = all.to_vec();
            turned.rotate_left(rotated);
            let (rewrites, shadowed) = Rewrites::new(&turned);
            assert_eq!(served(&rewrites, "m"), expected, "turned by {rotated}");
            assert_eq!(shadowed.len(), expected_shadowed.len());
        }
        let (_, shadowed) = Rewrites::new(all);
        let mut seen: Vec<_> = shadowed.iter().map(|s| (s.rewrite, s.rule, s.by)).collect();
        seen.sort_unstable();
        assert_eq!(seen, expected_shadowed);
    };
    let young = rewrite("a", Some(20), vec![to("young")]);
    let old = rewrite("b", Some(10), vec![to("old")]);
    let timeless = rewrite("0", None, vec![to("timeless")]);
    check(&[young.clone(), old, timeless.clone()], "b>old", &[(0, 0, 1), (2, 0, 1)]);
    check(&[timeless, young.clone()], "a>young", &[(0, 0, 1)]);
    let same = rewrite("c", Some(20), vec![to("other")]);
    check(&[same, young], "a>young", &[(0, 0, 1)]);
    check(&[rewrite("x", None, vec![to("one"), to("two")])], "x>one", &[(0, 1, 0)]);
}

/// Defect R-47 of the Go implementation: its sort is not stable.
#[test]
fn a47_of_equally_old_rules_the_first_one_wins_every_time() {
    let rules = (0..100).map(|n| rule(&["m"], &[(&format!("t{n}"), 0)])).collect();
    let (rewrites, shadowed) = Rewrites::new(&[rewrite("r", Some(1), rules)]);
    assert_eq!(served(&rewrites, "m"), "r>t0");
    assert_eq!(shadowed.len(), 99);
}

/// Defect K-2 of the Go implementation: every such request is answered 400.
#[test]
fn k02_a_rule_without_targets_leaves_requests_as_they_are() {
    let all = [
        rewrite("keep", Some(1), vec![rule(&["m"], &[])]),
        rewrite("rest", Some(2), vec![rule(&[], &[("any", 0)])]),
    ];
    let (rewrites, _) = Rewrites::new(&all);
    assert_eq!(served(&rewrites, "m"), "", "the rule for every request does not get it either");
    assert_eq!(served(&rewrites, "n"), "rest>any");
}

/// How often each target is chosen in `n` requests, by the router's generators.
fn shares(targets: &[(&str, u32)], n: u64) -> Vec<u64> {
    let (rewrites, _) = Rewrites::new(&[rewrite("r", None, vec![rule(&["m"], targets)])]);
    let seeds = router_rt::Seeds::new(7);
    let mut counts = vec![0; targets.len()];
    for id in 0..n {
        let served = rewrites.serve("m", || seeds.rng(id)).expect("a target");
        let at = targets.iter().position(|(model, _)| **model == **served.target).unwrap();
        counts[at] += 1;
    }
    counts
}

#[test]
fn weights_are_shares_of_their_sum() {
    // A standard deviation of 10,000 draws is at most 50; beyond four of them is one run in 16,000, and the
    // seed is fixed.
    let check = |targets: &[(&str, u32)], expected: &[u64]| {
        for (share, expected) in shares(targets, 10_000).into_iter().zip(expected) {
            let p = *expected as f64 / 10_000.0;
            let four_sigma = 4.0 * (10_000.0 * p * (1.0 - p)).sqrt();
            assert!(share.abs_diff(*expected) as f64 <= four_sigma, "{share}, not {expected}");
        }
    };
    check(&[("a", 90), ("b", 10)], &[9_000, 1_000]);
    check(&[("a", 900_000), ("b", 100_000)], &[9_000, 1_000]);
    check(&[("a", 1), ("b", 1), ("c", 2)], &[2_500, 2_500, 5_000]);
    check(&[("a", 0), ("b", 0), ("c", 0), ("d", 0)], &[2_500; 4]);
    check(&[("a", 1_000_000)], &[10_000]);
    // From a cluster, whose API server lets it pass: only those with a weight are chosen.
    check(&[("a", 1), ("b", 0)], &[10_000, 0]);
}

#[test]
fn a_rule_with_one_target_asks_for_no_chance() {
    let (rewrites, _) = Rewrites::new(&[rewrite("r", None, vec![rule(&[], &[("only", 3)])])]);
    let served = rewrites.serve("m", || unreachable!("there is no choice"));
    assert_eq!(served.map(|served| &**served.target), Some("only"));
}

/// The rule for a model, found the slow way: all rules in order, looked through twice.
fn slow<'a>(all: &'a [Rewrite], model: &str) -> Option<(&'a str, &'a Rule)> {
    let mut order: Vec<&Rewrite> = all.iter().collect();
    order.sort_by_key(|rewrite| (rewrite.created.unwrap_or(i64::MAX), rewrite.name.clone()));
    let rules = || order.iter().flat_map(|of| of.rules.iter().map(|rule| (&*of.name, rule)));
    let exact = rules().find(|(_, rule)| rule.models.iter().any(|of| **of == *model));
    exact.or_else(|| rules().find(|(_, rule)| rule.models.is_empty()))
}

prop_compose! {
    fn any_rule()(
        models in prop::collection::vec("[a-d]", 0..3),
        targets in prop::collection::vec(("[t-z]", 0u32..3), 0..3),
    ) -> Rule {
        let models: Vec<&str> = models.iter().map(String::as_str).collect();
        let targets: Vec<(&str, u32)> = targets.iter().map(|(t, weight)| (t.as_str(), *weight)).collect();
        rule(&models, &targets)
    }
}

proptest! {
    #[test]
    fn rules_apply_as_if_looked_through_one_by_one(
        objects in prop::collection::vec(
            (prop::option::of(0i64..3), prop::collection::vec(any_rule(), 0..4)), 0..5),
        seed: u64,
    ) {
        let all: Vec<Rewrite> = objects.into_iter().enumerate()
            .map(|(n, (created, rules))| rewrite(&format!("r{n}"), created, rules)).collect();
        let (rewrites, shadowed) = Rewrites::new(&all);
        for model in ["a", "b", "c", "d", "e", ""] {
            let served = rewrites.serve(model, || Rng::seeded(seed));
            let expected = slow(&all, model).filter(|(_, rule)| !rule.targets.is_empty());
            prop_assert_eq!(served.map(|s| s.rewrite), expected.map(|(name, _)| name), "{}", model);
            if let (Some(served), Some((_, rule))) = (served, expected) {
                let is_weighted = rule.targets.iter().any(|target| target.weight.is_some());
                let may = |target: &Target| target.model == *served.target
                    && (!is_weighted || target.weight.is_some());
                prop_assert!(rule.targets.iter().any(may));
            }
        }
        for Shadowed { rewrite, rule, model, by } in shadowed {
            let shadow = &all[rewrite].rules[rule];
            // No rule names "e": it gets what is for every request.
            let model = shadow.models.get(model).map_or("e", |model| model);
            let (first, applies) = slow(&all, model).unwrap();
            prop_assert_eq!(first, &*all[by].name);
            prop_assert!(!std::ptr::eq(applies, shadow));
        }
    }
}
