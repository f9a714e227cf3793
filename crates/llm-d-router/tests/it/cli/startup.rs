//! Starts that cannot be: one clear line, the right exit code, nothing left behind.

use std::{fs, os::unix::fs::symlink};

use anyhow::ensure;
use router_testkit::process::{Launch, ReservedPort, run_to_end};

use super::{
    Folder, LIMIT, ONE_ENDPOINT, Outcome, PICKER, Program, SERVE, document, ends_with, executable,
};

/// Runs with flags after others: it must end with this code and this error as its last line.
async fn refused(code: i32, base: &[&str], more: &[&str], said: &str) -> Outcome {
    let (_, stderr) = ends_with(code, &[base, more].concat()).await?;
    let errors: Vec<_> = stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    let [error] = errors[..] else { anyhow::bail!("{more:?}: not one error in\n{stderr}") };
    ensure!(error.contains(said), "{more:?}: {said:?} is missing in\n{stderr}");
    ensure!(!stderr.contains("panicked") && !stderr.contains("backtrace"), "{stderr}");
    Ok(())
}

#[tokio::test]
async fn flags_that_cannot_be_followed() -> Outcome {
    let folder = Folder::new()?;
    folder.write("endpoints.yaml", ONE_ENDPOINT)?;
    let text = document(&folder.path("endpoints.yaml"), "queue-scorer");
    let config = format!("--config-file={}", folder.write("config.yaml", &text)?);
    let both = format!("--config-text={text}");
    let faulty = format!("--config-file={}", folder.write("faulty.yaml", "kind: nonsense\n")?);
    for (flag, said) in [
        (&*both, "cannot be used with"),
        ("--metrics-endpoint-auth", "--metrics-endpoint-auth needs Kubernetes"),
        ("--ha-enable-leader-election", "needs Kubernetes"),
        ("--lora-info-metric=x", "--lora-info-metric is gone"),
        ("--tls-cipher-suites=NONE", "--tls-cipher-suites: unknown cipher suite `NONE`"),
        ("--tls-min-version=9", "--tls-min-version: unknown TLS version `9`"),
        ("--cert-path=/nowhere", "--cert-path: /nowhere/tls.crt does not exist"),
        ("--metrics-cert-dir=/nowhere", "/nowhere/tls.crt does not exist"),
        ("--metrics-client-ca-file=/nowhere", "needs --metrics-cert-dir"),
        ("--resources=/nowhere", "--resources: /nowhere does not exist"),
        ("--config-file=/nowhere", "/nowhere does not exist"),
        (&*faulty, "the configuration cannot be used"),
        ("--grpc-max-recv-msg-size=10Zi", "--grpc-max-recv-msg-size: `10Zi` is not a quantity"),
        ("--drain-timeout=-1s", "--drain-timeout must not be negative"),
        ("--drain-idle-timeout=-1s", "--drain-idle-timeout must not be negative"),
        ("--request-body-timeout=0", "--request-body-timeout must be longer than zero"),
        ("--max-streams=0", "must be more than zero"),
        ("--record-decisions=7", "--record-decisions is a share from 0 to 1"),
        ("--log-format=xml", "unknown log format `xml`"),
        ("--no-such-flag", "unexpected argument"),
    ] {
        refused(2, &PICKER, &[&config, flag], said).await?;
    }
    refused(2, &PICKER, &[], "nothing says where endpoints are: give --config-file").await?;
    let serve = "give --config-file with a `file-discovery` plugin; or give --endpoint URL for each model \
                 server, or --demo for simulated ones";
    refused(2, &SERVE, &[], serve).await?;
    Ok(())
}

/// What is taken for something else is said in the log.
#[tokio::test]
async fn old_tls_is_raised_with_a_warning() -> Outcome {
    let folder = Folder::new()?;
    folder.write("endpoints.yaml", ONE_ENDPOINT)?;
    let text = document(&folder.path("endpoints.yaml"), "queue-scorer");
    let config = folder.write("config.yaml", text)?;
    let suites = "--tls-cipher-suites=TLS_RSA_WITH_RC4_128_SHA,TLS_AES_128_GCM_SHA256";
    let flags = ["--config-file", &config, "--tls-min-version=VersionTLS10", suites];
    let router = Program::start(&[&PICKER[..], &flags].concat()).await?;
    ensure!(router.logged("TLS version is not supported").await?.contains("VersionTLS12"));
    ensure!(router.logged("insecure cipher suite").await?.contains("TLS_RSA_WITH_RC4_128_SHA"));
    Ok(())
}

#[tokio::test]
async fn endpoints_that_cannot_be_read() -> Outcome {
    let folder = Folder::new()?;
    let text = document(&folder.path("endpoints.yaml"), "queue-scorer");
    let config = format!("--config-file={}", folder.write("config.yaml", text)?);
    refused(2, &PICKER, &[&config], "endpoints.yaml does not exist").await?;
    folder.write("endpoints.yaml", "endpoints: [\n")?;
    refused(2, &PICKER, &[&config], "endpoints.yaml:2:1: error: ").await?;
    folder.write("endpoints.yaml", "endpoints:\n- {name: a, address: 10.0.0.1, port: 99999}\n")?;
    refused(2, &PICKER, &[&config], "endpoints.yaml:2: port must be a number").await?;
    refused(2, &SERVE, &[&config], "endpoints.yaml:2: port must be a number").await?;
    Ok(())
}

#[tokio::test]
async fn ports_that_are_taken() -> Outcome {
    let taken = ReservedPort::new()?;
    let port = taken.addr().port();
    for flag in ["--grpc-port", "--grpc-health-port", "--metrics-port"] {
        let said = format!("cannot listen on 127.0.0.1:{port}");
        refused(1, &PICKER, &[&format!("{flag}={port}")], &said).await?;
        let said = format!("{flag} chooses another port");
        refused(1, &PICKER, &[&format!("{flag}={port}")], &said).await?;
    }
    let demo = [&SERVE[..], &["--demo"]].concat();
    refused(1, &demo, &[&format!("--metrics-port={port}")], "--metrics-port chooses another port")
        .await?;
    refused(1, &demo, &[&format!("--listen=127.0.0.1:{port}")], "--listen chooses").await?;
    let said = format!("cannot listen on 127.0.0.1:{port}");
    refused(1, &["sim"], &[&format!("--port={port}")], &said).await?;
    refused(1, &["sim"], &[&format!("--port={port}")], "--port and --host choose").await?;
    // TEST-NET-1 is on no machine: another port of it would not help.
    let nowhere = ["--bind-address=192.0.2.1"];
    refused(1, &PICKER, &nowhere, "cannot listen on 192.0.2.1:0: ").await?;
    refused(1, &PICKER, &nowhere, "--bind-address chooses another address").await?;
    refused(1, &demo, &["--listen=192.0.2.1:0"], "--listen chooses another address").await?;
    Ok(())
}

#[tokio::test]
async fn what_serve_cannot_do() -> Outcome {
    let folder = Folder::new()?;
    let no_key = format!("--api-keys={}", folder.write("none", "# nobody\n")?);
    let bad_key = format!("--api-keys={}", folder.write("bad", b"\xff\xfe\n")?);
    let demo = [&SERVE[..], &["--demo=1"]].concat();
    for (flag, said) in [
        (&*no_key, "no key in the file"),
        (&*bad_key, "line 1: a key is made of visible ASCII"),
        ("--api-keys=/nowhere", "/nowhere does not exist"),
        ("--tls-cert-path=/nowhere", "--tls-cert-path: /nowhere/tls.crt does not exist"),
        ("--listen=nonsense", "--listen nonsense: expected ADDRESS:PORT"),
        ("--max-connections=0", "must be more than zero"),
        ("--max-retained-bytes=0", "--max-retained-bytes must be more than zero"),
        ("--response-head-timeout=-1s", "must not be negative"),
        ("--demo=0", "0 is not in 1..=4096"),
        ("--endpoint=http://127.0.0.1:1", "cannot be used with"),
    ] {
        refused(2, &demo, &[flag], said).await?;
    }
    for (url, said) in [
        ("127.0.0.1:8000", "does not begin with http://"),
        ("http://127.0.0.1:8000/v1", "it has a path"),
        ("http://host:port", "the port is not a number"),
        ("http://name.invalid:80", "cannot look up name.invalid"),
    ] {
        refused(2, &SERVE, &["--endpoint", url], said).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_name_chooses_the_personality() -> Outcome {
    let folder = Folder::new()?;
    for (name, says) in
        [("epp", "--grpc-port"), ("lwepp", "--grpc-port"), ("llm-d-inference-sim", "--servers")]
    {
        let link = folder.path(name);
        symlink(executable(), &link)?;
        let help = run_to_end(Launch::new(&link).arg("--help"), LIMIT).await?;
        ensure!(help.status.success() && help.stdout.contains(says), "{help:?}");
        ensure!(help.stdout.contains(&format!("Usage: {name} [OPTIONS]")), "{}", help.stdout);
    }
    Ok(())
}

/// Every subcommand has a help text with examples that show real flags, and a version.
#[tokio::test]
async fn help_and_version() -> Outcome {
    for command in ["serve", "epp", "sim", "config"] {
        let (help, _) = ends_with(0, &[command, "--help"]).await?;
        ensure!(help.contains("Examples:") && help.contains("llm-d-router "), "{help}");
        ensure!(
            help.lines().all(|line| line.chars().count() <= 100 || line.contains("llm-d-router "))
        );
    }
    let (version, _) = ends_with(0, &["--version"]).await?;
    ensure!(
        version.starts_with(&format!("llm-d-router {}", env!("CARGO_PKG_VERSION"))),
        "{version}"
    );
    Ok(())
}

/// A shell's limit on open files is often a thousand, and every connection is one.
#[tokio::test]
async fn as_many_files_may_be_open_as_the_system_allows() -> Outcome {
    let script = "ulimit -Sn 64; exec \"$0\" \"$@\"";
    let launch = Launch::new("sh").args(["-c", script, executable()]);
    let router = Program::launch(launch, &[&SERVE[..], &["--demo=1"]].concat(), "serving").await?;
    let limits = fs::read_to_string(format!("/proc/{}/limits", router.process.pid()))?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let values: Vec<_> = line.unwrap_or_default().split_whitespace().skip(3).collect();
    ensure!(values.len() >= 2 && values[0] == values[1], "{limits}");
    Ok(())
}
