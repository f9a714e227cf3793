use serde_json::json;

use super::*;

fn read(document: Value) -> Result<SimConfig, ConfigError> {
    SimConfig::from_document(document.as_object().unwrap().clone())
}

#[test]
fn one_flat_document_sets_everything() {
    let config = read(json!({
        "host": "127.0.0.9", "port": 9000, "servers": 3, "seed": 5,
        "model": "m", "max-num-seqs": 4, "failure-injection-rate": 20, "mode": "echo",
        "startup-duration": "1.5s",
        "fake-metrics": {"running-requests": 2, "loras": [{"running": "a,b"}]},
        "overrides": {"1": {"time-factor": 10, "model": "slow"}},
    }))
    .unwrap();
    let servers = config.resolve().unwrap();
    let seen: Vec<_> = servers
        .iter()
        .map(|(address, server)| {
            (address.to_string(), server.model.as_str(), server.profile.time_factor)
        })
        .collect();
    assert_eq!(
        seen,
        [
            ("127.0.0.9:9000".to_owned(), "m", 1.0),
            ("127.0.0.9:9001".to_owned(), "slow", 10.0),
            ("127.0.0.9:9002".to_owned(), "m", 1.0)
        ]
    );
    let server = &servers[1].1;
    assert_eq!((server.profile.max_num_seqs, server.mode), (4, Mode::Echo));
    assert_eq!(server.runtime.faults.failure_injection_rate, 20.0);
    assert_eq!(server.startup_duration.0.as_millis(), 1500);
    assert_eq!(server.runtime.fake_metrics.as_ref().unwrap().loras[0].running, "a,b");
}

#[test]
fn a_document_that_is_written_out_reads_the_same() {
    let config = read(json!({"servers": 2, "reset-rate": 1, "overrides": {"0": {"seed": 1}}}));
    assert!(config.unwrap_err().to_string().contains("unknown key `seed`"), "a key of the process");
    let config = read(json!({"servers": 2, "reset-rate": 1})).unwrap();
    let text = serde_json::to_string(&config).unwrap();
    let again: SimConfig = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&again).unwrap(), text);
}

#[test]
fn mistakes_are_named() {
    let check = |document: Value, text: &str| {
        let error = read(document).unwrap_err().to_string();
        assert!(error.contains(text), "{error}");
    };
    check(json!({"max-num-seq": 4}), "unknown key `max-num-seq`; the nearest is `max-num-seqs`");
    check(json!({"a": 1, "prot": 2}), "unknown key `prot`; the nearest is `port`");
    check(
        json!({"overrides": {"0": {"modle": "x"}}}),
        "unknown key `modle`; the nearest is `model`",
    );
    check(json!({"fake-metrics": {"running": 1}}), "running-requests");
    check(json!({"zmq-endpoint": "tcp://x"}), "unknown key `zmq-endpoint`");
    check(json!({"overrides": {"1": {}}}), "names server 1, there are 1");
    check(json!({"port": 65535, "servers": 2}), "no address");
    check(json!({"servers": 0}), "`servers` is 0");
    check(json!({"hang-rate": 101}), "`hang-rate` is 101");
    check(json!({"block-size": 0}), "`block-size` is 0");
    check(json!({"model": ""}), "`model` is empty");
    check(json!({"port": "x"}), "invalid type");
    check(json!({"startup-duration": "soon"}), "`soon` is no length of time");
    check(json!({"max-request-body-size-mb": 513}), "1 to 512");
    let error = serde_json::from_str::<SimConfig>(r#"{"prot": 1}"#).unwrap_err();
    assert!(error.to_string().contains("the nearest is `port`"), "{error}");
}

#[test]
fn addresses_spread_over_ports_or_hosts() {
    let addresses = |document: Value| -> Vec<String> {
        read(document).unwrap().resolve().unwrap().iter().map(|(at, _)| at.to_string()).collect()
    };
    assert_eq!(
        addresses(json!({"servers": 2, "spread": "addresses"})),
        ["127.0.0.1:8000", "127.0.0.2:8000"]
    );
    assert_eq!(addresses(json!({"host": "::1", "servers": 2})), ["[::1]:8000", "[::1]:8001"]);
    assert_eq!(addresses(json!({"port": 0, "servers": 2})), ["127.0.0.1:0", "127.0.0.1:0"]);
}
