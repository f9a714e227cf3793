//! Every flag of the Go endpoint picker parses, in every form that Go takes, with Go's default.

use std::path::Path;

use clap::{CommandFactory, Parser};
use llm_d_router::cli::{Cli, Command, EppArgs};
use router_bench::suite::{picker_args, proxy_args};

use crate::testdata;

/// Defaults that differ on purpose (design §9, `docs/differences.md`).
const OTHER_DEFAULTS: [(&str, &str, &str); 3] = [
    ("enable-pprof", "false", "a profile endpoint that nobody asked for costs and gives away"),
    ("metrics-endpoint-auth", "", "it needs Kubernetes; given as true it is an error without"),
    ("zap-devel", "", "it has no effect, in Go neither: its logger is made before flags are read"),
];

struct Flag {
    name: String,
    short: String,
    kind: String,
    default: String,
}

fn flags() -> Vec<Flag> {
    let table = testdata::text("go/epp-flags.tsv");
    let rows = table.lines().skip(1).map(|line| {
        let mut columns = line.split('\t').map(str::to_owned);
        let mut next = || columns.next().unwrap_or_default();
        Flag { name: next(), short: next(), kind: next(), default: next() }
    });
    rows.collect()
}

fn parse<S: AsRef<str>>(args: &[S]) -> Result<Box<EppArgs>, String> {
    let line = ["llm-d-router", "epp"].into_iter().chain(args.iter().map(AsRef::as_ref));
    match Cli::try_parse_from(line).map_err(|error| error.to_string())?.command {
        Command::Epp(args) => Ok(args),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn accepts(args: &[&str]) -> Box<EppArgs> {
    parse(args).unwrap_or_else(|error| panic!("{args:?}: {error}"))
}

/// Values that Go takes for a flag of this type.
fn samples(kind: &str) -> &'static [&'static str] {
    match kind {
        "bool" => &["true", "false", "True", "FALSE", "t", "F", "1", "0"],
        "string" => &["a-value"],
        "duration" => &["90s", "1m30s", "250ms", "1h", "1.5s"],
        "int" => &["7001"],
        "ints" => &["8000", "8000,8001"],
        "strings" => &["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "A,B"],
        "encoder" => &["json", "console"],
        "level" => &["info", "debug", "error", "panic", "3"],
        kind => panic!("unknown type {kind}"),
    }
}

#[test]
fn every_flag_takes_every_form_of_its_values() {
    let flags = flags();
    assert_eq!(flags.len(), 36);
    for Flag { name, short, kind, .. } in flags {
        for value in samples(&kind) {
            accepts(&[&format!("--{name}={value}")]);
            if kind != "bool" {
                accepts(&[&format!("--{name}"), value]);
            }
        }
        if kind == "bool" {
            accepts(&[&format!("--{name}")]);
            accepts(&[&format!("--{name}"), "--grpc-port=7001"]);
        }
        if !short.is_empty() {
            let value = samples(&kind)[0];
            accepts(&[&format!("-{short}={value}")]);
            accepts(&[&format!("-{short}"), value]);
        }
        // As in Go, the last one counts.
        let value = samples(&kind)[0];
        accepts(&[&format!("--{name}={value}"), &format!("--{name}={value}")]);
    }
}

#[test]
fn defaults_are_those_of_go() {
    let command = Cli::command();
    let epp = command.find_subcommand("epp").unwrap();
    let mut n_differing = 0;
    for Flag { name, kind, default, .. } in flags() {
        let arg = epp.get_arguments().find(|arg| arg.get_long() == Some(&*name)).unwrap();
        let ours: Vec<_> =
            arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
        let ours = ours.join(",");
        let is_off = kind == "bool" && default.is_empty();
        let go = if is_off { "false" } else { &*default };
        match OTHER_DEFAULTS.iter().find(|(differing, ..)| *differing == name) {
            Some((_, expected, _)) => {
                n_differing += 1;
                assert_ne!(ours, go, "--{name} does not differ any more");
                assert_eq!(ours, *expected, "--{name}");
            }
            // What takes no value where none is given is off.
            None if is_off => assert!(ours.is_empty() || ours == "false", "--{name}: {ours}"),
            None => assert_eq!(ours, go, "--{name}"),
        }
    }
    assert_eq!(n_differing, OTHER_DEFAULTS.len());
}

#[test]
fn values_arrive() {
    let args = accepts(&[
        "--grpc-port=1",
        "--grpc-health-port",
        "2",
        "--metrics-port=3",
        "--pool-name=pool",
        "--endpoint-selector=app=vllm,tier in (a,b)",
        "--endpoint-target-ports=8000,8001",
        "--endpoint-target-ports=8002",
        "--tls-cipher-suites=A,B",
        "--drain-timeout=1m30s",
        "--refresh-metrics-interval=100ms",
        "--secure-serving=false",
        "--health-checking",
        "-v=4",
    ]);
    let listen = &args.listen;
    assert_eq!((listen.grpc_port, listen.grpc_health_port, listen.metrics_port), (1, 2, 3));
    assert!(listen.health_checking && !args.tls.secure_serving);
    assert_eq!(listen.drain_timeout.to_std(), Some(std::time::Duration::from_secs(90)));
    assert_eq!(args.kubernetes.pool_name, "pool");
    assert_eq!(args.kubernetes.endpoint_selector, "app=vllm,tier in (a,b)");
    assert_eq!(args.kubernetes.endpoint_target_ports, [8000, 8001, 8002]);
    assert_eq!(args.tls.tls_cipher_suites, ["A", "B"]);
    assert_eq!(args.log.verbosity, 4);
    let settings = args.picker.settings("pool".to_owned()).unwrap();
    assert_eq!(settings.refresh_interval, std::time::Duration::from_millis(100));
}

#[test]
fn verbosity_has_many_spellings() {
    for args in
        [&["-v=4"][..], &["-v", "4"], &["-v4"], &["--v=4"], &["--v", "4"], &["-v=1", "-v=4"]]
    {
        assert_eq!(accepts(args).log.verbosity, 4, "{args:?}");
    }
    assert_eq!(accepts(&[]).log.verbosity, 2);
}

#[test]
fn booleans_mean_what_they_say() {
    let check = |args: &[&str], expected: bool| {
        assert_eq!(accepts(args).tls.secure_serving, expected, "{args:?}");
    };
    check(&[], true);
    check(&["--secure-serving"], true);
    check(&["--secure-serving=false"], false);
    check(&["--secure-serving=F"], false);
    check(&["--secure-serving=0"], false);
    check(&["--secure-serving=false", "--secure-serving"], true);
    assert!(parse(&["--secure-serving", "false"]).is_err(), "Go takes it for an argument");
    assert!(parse(&["--secure-serving=maybe"]).is_err());
}

#[test]
fn what_go_rejects_we_reject_with_what_to_do_instead() {
    for flag in [
        "--total-queued-requests-metric",
        "--total-running-requests-metric",
        "--kv-cache-usage-percentage-metric",
        "--lora-info-metric",
        "--cache-info-metric",
    ] {
        let args = accepts(&[&format!("{flag}=vllm:something")]);
        let error = args.picker.settings("pool".to_owned()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{flag} is gone: set the metric in `engineConfigs` of the core-metrics-extractor plugin"
            )
        );
    }
    let error = parse(&["--config-file=a", "--config-text=b"]).unwrap_err();
    assert!(error.contains("cannot be used with"), "{error}");
    assert!(parse(&["--no-such-flag"]).is_err());
    assert!(parse(&["--grpc-port=65536"]).is_err());
    assert!(parse(&["--drain-timeout=soon"]).is_err());
}

#[test]
fn what_needs_kubernetes_says_so() {
    let check = |args: &[&str], said: &str| {
        let error = accepts(args).kubernetes.check().unwrap_err().to_string();
        assert!(error.contains(said), "{args:?}: {error}");
    };
    check(&["--ha-enable-leader-election"], "needs Kubernetes");
    check(&["--metrics-endpoint-auth"], "--metrics-endpoint-auth=false");
    check(&["--pool-name=p", "--endpoint-selector=app=x"], "not both");
    assert!(accepts(&["--metrics-endpoint-auth=false"]).kubernetes.check().is_ok());
    assert!(accepts(&["--pool-name=p"]).kubernetes.check().is_ok());
}

#[test]
fn what_the_bench_starts_parses() {
    let config = Path::new("config.yaml");
    for args in [picker_args(config, [1, 2, 3], "50ms"), proxy_args(config, "127.0.0.1:4", 5)] {
        let line = ["llm-d-router"].into_iter().chain(args.iter().map(String::as_str));
        Cli::try_parse_from(line).unwrap_or_else(|error| panic!("{args:?}: {error}"));
    }
}
