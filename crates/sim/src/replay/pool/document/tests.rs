use super::*;

fn check(text: &str, said: &[&str]) {
    let error = parse("pool.yaml", text.as_bytes()).err();
    let error = error.unwrap_or_else(|| panic!("{text} is taken")).to_string();
    for said in said {
        assert!(error.contains(said), "{said:?} is missing in {error}");
    }
}

const FULL: &str = "
scrape: {interval: 5s, delay: 1500ms}
servers:
- name: h100
  count: 2
  labels: {zone: a}
  profile: {kv-cache-size: 30000, step-base-us: 6000.5}
- name: l40s
  profile: {time-factor: 2.5}
events:
- {at: 10m, server: h100-1, do: slow, factor: 4}
- {at: 20s, server: h100, do: restart, down: 30s}
- {at: 5m, server: l40s, do: join}
- {at: 1h, server: l40s-0, do: leave}
- {at: 0, server: h100-0, do: restart}
";

#[test]
fn a_whole_file() {
    let pool = parse("pool.yaml", FULL.as_bytes()).unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<_> = pool.servers.iter().map(|server| &*server.name).collect();
    assert_eq!(names, ["h100-0", "h100-1", "l40s-0"]);
    assert_eq!(pool.servers[1].labels.get("zone").map(String::as_str), Some("a"));
    let profile = Profile { kv_cache_size: 30_000, step_base_us: 6000.5, ..Profile::default() };
    assert_eq!(pool.servers[0].profile, profile);
    assert_eq!(pool.servers[2].profile.time_factor, 2.5);
    let second = Duration::from_secs(1);
    assert_eq!(pool.scrape, Scrape { interval: Some(5 * second), delay: second * 3 / 2 });
    let events: Vec<_> =
        pool.events.iter().map(|e| (e.at.as_secs_f64(), e.server, e.what)).collect();
    let restart = |down| Change::Restart { down: down * second };
    let expected = [
        (0.0, 0, restart(0)),
        (20.0, 0, restart(30)),
        (20.0, 1, restart(30)),
        (300.0, 2, Change::Join),
        (600.0, 1, Change::Slow { factor: 4.0 }),
        (3600.0, 2, Change::Leave),
    ];
    assert_eq!(events, expected);
    let at_start: Vec<_> = (0..3).map(|server| pool.is_member_at_start(server)).collect();
    assert_eq!(at_start, [true, true, false], "who joins was not there before");
}

#[test]
fn what_is_not_said_is_the_default() {
    let pool = parse("pool.yaml", b"servers: [{name: a, count: 3}]").unwrap();
    assert_eq!(pool.scrape, Scrape::default());
    assert!(pool.servers.iter().all(|server| server.profile == Profile::default()));
    let never = b"{\"scrape\": {\"interval\": \"never\"}, \"servers\": [{\"name\": \"a\"}]}";
    assert_eq!(parse("pool.json", never).unwrap().scrape.interval, None);
}

#[test]
fn faults_come_all_at_once_with_place_and_nearest_name() {
    check(
        "servers:\n- name: a\n  cuont: 2\n  profile: {kv-cache-sise: 3, max-num-seqs: many, block-size: 0}\n\
         - {name: a, count: 0}\nevnts: []\n",
        &[
            "pool.yaml:3:3: error: servers[0]: unknown key `cuont`",
            "did you mean `count`?",
            "pool.yaml:4:13: error: servers[0].profile: unknown key `kv-cache-sise`",
            "did you mean `kv-cache-size`?",
            "servers[0].profile.max-num-seqs: invalid type: string \"many\"",
            "servers[0].profile.block-size: `block-size` is 0; it must be at least 1",
            "servers[1].count: expected a whole number from 1 to 4096",
            "pool.yaml:6:1: error: unknown key `evnts`",
        ],
    );
    check("servers: []", &["servers: the pool has no servers"]);
    check("servers: [", &["pool.yaml:2:1: error"]);
    check("- a", &["expected a map, found a list"]);
    check("servers: [{count: 2}]", &["servers[0]: `name` is missing"]);
    check("servers: [{name: a b}]", &["a name has 1 to 63 letters"]);
    check("servers: [{name: a, count: 4000}, {name: b, count: 97}]", &["more than 4096 servers"]);
    check("servers: [{name: a, count: 2}, {name: a-1}]", &["the name `a-1` is taken"]);
    check("servers: [{name: a-0}, {name: a-0}]", &["the name `a-0` is taken"]);
    check("servers: [{name: a, labels: {x: 1}}]", &["expected a string, found a number; quote it"]);
}

#[test]
fn faults_of_events_and_scrapes() {
    let check_event = |event: &str, said: &str| {
        check(&format!("servers: [{{name: abc, count: 2}}]\nevents:\n- {event}\n"), &[said]);
    };
    check_event("{server: abc, do: leave}", "events[0]: `at` is missing");
    check_event("{at: 3, server: abc, do: leave}", "expected a length of time such as");
    check_event("{at: 1s, server: abd-1, do: leave}", "did you mean `abc-1`?");
    check_event("{at: 1s, server: abc, do: explode}", "nothing is called `explode`");
    check_event("{at: 1s, server: abc, do: slow}", "needs a factor above 0");
    check_event("{at: 1s, server: abc, do: slow, factor: -1}", "needs a factor above 0");
    check_event("{at: 1s, server: abc, do: leave, factor: 2}", "`factor` belongs to `do: slow`");
    check_event("{at: 1s, server: abc, do: slow, factor: 2, down: 1s}", "`down` belongs to");
    let check_scrape = |scrape: &str, said: &str| {
        check(&format!("scrape: {scrape}\nservers: [{{name: a}}]"), &[said]);
    };
    check_scrape("{interval: 0}", "at least 1ms apart");
    check_scrape("{interval: often}", "scrape.interval: expected a length of time");
    check_scrape("{interval: 1ms, delay: 1h}", "more than 10000 scrapes");
    check_scrape("{interval: never, delay: 5s}", "no scrapes that could be late");
    check_scrape("{interval: never, delay: 5s}", "leave `delay` out");
    let neither = b"scrape: {interval: never, delay: 0s}\nservers: [{name: a}]";
    assert_eq!(parse("pool.yaml", neither).unwrap().scrape.interval, None);
}

#[test]
fn who_comes_was_away_and_who_goes_was_there() {
    let file = |events: &str| format!("servers: [{{name: a, count: 2}}]\nevents: [{events}]\n");
    let taken = |events: &str| parse("pool.yaml", file(events).as_bytes()).is_ok();
    let (join, leave) = ("{at: 1m, server: a-0, do: join}", "{at: 2m, server: a-0, do: leave}");
    assert!(taken(&format!("{leave}, {join}, {{at: 3m, server: a-0, do: join}}")));
    let twice = "{at: 2m, server: a-0, do: slow, factor: 2}";
    assert!(taken(&format!("{twice}, {twice}")), "a factor takes the place of another");
    let refused = |events: &str, said: &str| check(&file(events), &["error: events[1]: ", said]);
    refused(
        &format!("{join}, {{at: 2m, server: a-0, do: join}}"),
        "changes nothing: all that it names have joined by then",
    );
    refused(&format!("{leave}, {{at: 3m, server: a-0, do: leave}}"), "have left by then");
    // A kind: those that are left of it.
    let kind = "{at: 4m, server: a, do: leave}";
    assert!(taken(&format!("{leave}, {kind}")));
    refused(&format!("{kind}, {{at: 5m, server: a, do: leave}}"), "have left by then");
}
