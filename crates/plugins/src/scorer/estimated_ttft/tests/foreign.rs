//! Requests that others send to the same endpoints.

use super::*;

#[test]
fn recent_scrapes_show_the_load_of_others_and_old_ones_are_not_looked_at() {
    let mut builder = SceneBuilder::new();
    let plugin = builder.plugin(&PLUGIN, "");
    let busy = || EndpointFixture::new().waiting(8.0).running(12.0);
    let none = || EndpointFixture::new().waiting(0.0).running(0.0);
    let mut scene = builder.scene(vec![EndpointFixture::new(), none(), busy(), busy().stale()]);
    let scores = scene.scores(&plugin);
    assert!(
        scores[2] < scores[0] && scores[1] == scores[0] && scores[3] == scores[0],
        "{scores:?}"
    );
    scene.advance(Duration::from_secs(2));
    let scores = scene.scores(&plugin);
    assert!(scores.iter().all(|score| *score == scores[0]), "{scores:?}");
}

#[test]
fn requests_from_here_are_no_load_of_others() {
    let account = Account::default();
    let now = Stamp::from_nanos(10_000_000_000);
    let signals = Signals { waiting: 1.0, running: 2.0, scraped_at: now, ..Signals::default() };
    let pool = Pool::new(START, 256.0);
    let check = |now, foreign| assert_eq!(account.foreign(now, &signals), foreign, "{now:?}");
    check(now, 3.0);
    let load = account.load(now, &pool.speed());
    let entries = [0; 3].map(|_| account.take(now, &job(100.0, 100.0), true, &load));
    check(now, 0.0);
    let later = now + Duration::from_millis(600);
    for entry in &entries {
        assert_eq!(account.end(later, entry, None, &pool), None);
    }
    check(later, 0.0);
    check(now + Duration::from_secs(1), 0.0);
    check(now + Duration::from_millis(1_100), 0.0);
}

#[test]
fn a_cache_that_others_fill_holds_less_of_a_prompt() {
    let check = |n_others: f64, kv: f64, is_less: bool| {
        let mut builder = SceneBuilder::new();
        let plugin = builder.plugin(&PLUGIN, "");
        let holds =
            |kv| EndpointFixture::new().waiting(0.0).running(n_others).kv(kv).prefix(90, 100, 64);
        let mut scene = builder.scene(vec![holds(0.5), holds(kv)]);
        scene.tokens(prompt_of(6_400));
        let scores = scene.scores(&plugin);
        assert_eq!(scores[1] < scores[0], is_less, "{kv}: {scores:?}");
    };
    check(4.0, 0.9, false);
    check(4.0, 0.97, true);
    check(4.0, 1.0, true);
    check(4.0, f64::NAN, false);
    // What requests from here use is known without scrapes.
    check(0.0, 1.0, false);
}
