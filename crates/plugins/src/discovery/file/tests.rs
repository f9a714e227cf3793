use std::{fs, path::PathBuf};

use router_framework::Workbench;
use router_rt::{Clock, Task, Tasks};
use router_telemetry::{Registry, metrics::Format};
use router_testkit::{
    datalayer::{FakeResolver, RecordedPool},
    scheduling::SceneBuilder,
};
use tempfile::TempDir;

use super::*;

/// A running discovery on a file of its own. Time is paused: it passes when nothing else is to be done.
struct Bench {
    dir: TempDir,
    resolver: Arc<FakeResolver>,
    pool: Arc<RecordedPool>,
    tasks: Tasks,
    run: Task<Result<(), DiscoveryError>>,
    instance: Instance,
    metrics: Arc<Registry>,
}

const A: &str = "- {name: a, address: 10.0.0.1, port: 8000}\n";
const B: &str = "- {name: b, address: 10.0.0.2, port: 8000}\n";

fn list(entries: &[&str]) -> String {
    if entries.is_empty() {
        "endpoints: []\n".to_owned()
    } else {
        format!("endpoints:\n{}", entries.concat())
    }
}

fn bench_with(text: &str, params: &str, resolver: Arc<FakeResolver>) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("endpoints.yaml");
    fs::write(&path, text).unwrap();
    let params = format!("{{path: '{}', {params}}}", path.display());
    let mut workbench = Workbench::new().unwrap();
    let metrics = Arc::clone(&workbench.env().registry);
    let instance = workbench.plugin(&PLUGIN, "file", &params).unwrap();
    let (pool, tasks) = (RecordedPool::new(), Tasks::new());
    let cx = DiscoveryCx {
        sink: Arc::clone(&pool) as Arc<dyn router_framework::EndpointSink>,
        resolve: Arc::clone(&resolver) as Arc<dyn router_framework::Resolve>,
        clock: Clock::new(),
        tasks: tasks.clone(),
    };
    let run = tasks.spawn("discovery", instance.discovery.clone().unwrap().run(cx));
    Bench { dir, resolver, pool, tasks, run, instance, metrics }
}

fn bench(text: &str) -> Bench {
    bench_with(text, "watchFile: true", FakeResolver::new())
}

impl Bench {
    fn path(&self) -> PathBuf {
        self.dir.path().join("endpoints.yaml")
    }

    /// Replaces the file as editors and Kubernetes do.
    fn write(&self, text: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    async fn names(&self, n_reports: usize) -> Vec<String> {
        let report = self.pool.report(n_reports).await;
        report.iter().map(|spec| spec.name.to_string()).collect()
    }

    /// Lets the file be looked at often enough, and makes sure that nothing was reported.
    async fn assert_unmoved(&self) {
        let before = self.pool.n_reports();
        tokio::time::sleep(4 * WATCH_INTERVAL).await;
        assert_eq!(self.pool.n_reports(), before);
    }

    /// Lets the file be looked at often enough, and compares the reloads that were counted.
    async fn check_reloads(&self, n_successes: u32, n_failures: u32, is_successful: bool) {
        tokio::time::sleep(4 * WATCH_INTERVAL).await;
        let page = self.metrics.encode(Format::Text);
        let what = "what=\"endpoints\"";
        for line in [
            format!("reloads_total{{result=\"success\",{what}}} {n_successes}\n"),
            format!("reloads_total{{result=\"failure\",{what}}} {n_failures}\n"),
            format!("last_reload_successful{{{what}}} {}\n", u8::from(is_successful)),
        ] {
            assert!(page.contains(&line), "no {line} in {page}");
        }
    }

    /// Why the start failed.
    async fn failure(self) -> String {
        self.run.join().await.unwrap().unwrap_err().to_string()
    }
}

#[tokio::test(start_paused = true)]
async fn the_file_is_the_pool() {
    let text = "endpoints:\n- name: a\n  address: 10.0.0.1\n  port: '8000'\n  labels: {role: decode}\n\
        - name: a\n  namespace: other\n  address: '::1'\n  port: 8001\n  metricsPort: 9400\n";
    let bench = bench(text);
    let report = bench.pool.report(1).await;
    let a = EndpointSpec::new("default", "a", "10.0.0.1", 8000).with_labels([("role", "decode")]);
    let mut other = EndpointSpec::new("other", "a", "::1", 8001);
    other.metrics_authority = Some("[::1]:9400".into());
    assert_eq!(report, [a, other]);
    let dump = bench.instance.dump.unwrap().dump();
    assert_eq!(dump["endpoints"], 2);
    assert_eq!(dump["list"][1]["endpoint"], "other/a");
}

#[tokio::test(start_paused = true)]
async fn changes_take_effect() {
    let bench = bench(&list(&[A]));
    assert_eq!(bench.names(1).await, ["a"]);
    bench.write(&list(&[A, B]));
    assert_eq!(bench.names(2).await, ["a", "b"]);
    bench.write(&list(&[B]));
    assert_eq!(bench.names(3).await, ["b"]);
    bench.write(&list(&[]));
    assert!(bench.names(4).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a32_a_file_that_goes_and_comes_back_is_followed() {
    let bench = bench(&list(&[A]));
    bench.names(1).await;
    fs::rename(bench.path(), bench.dir.path().join("away")).unwrap();
    tokio::time::sleep(3 * WATCH_INTERVAL).await;
    assert_eq!(bench.pool.endpoints().len(), 1, "nothing is forgotten meanwhile");
    fs::write(bench.path(), list(&[A, B])).unwrap();
    let report = tokio::time::timeout(Duration::from_secs(10), async {
        while bench.pool.endpoints().len() != 2 {
            tokio::time::sleep(WATCH_INTERVAL).await;
        }
    });
    report.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_broken_file_keeps_the_last_good_one() {
    let bench = bench(&list(&[A]));
    bench.names(1).await;
    for broken in ["", "endpoints:\n", "endpoints: [", "endpoints: {}\n", "\u{0}"] {
        bench.write(broken);
        tokio::time::sleep(3 * WATCH_INTERVAL).await;
        let names: Vec<_> = bench.pool.endpoints().iter().map(|spec| spec.name.clone()).collect();
        assert_eq!(names, ["a".into()], "{broken:?}");
    }
    let huge = format!("{}# {}\n", list(&[B]), "x".repeat(MAX_FILE_BYTES as usize));
    bench.write(&huge);
    tokio::time::sleep(3 * WATCH_INTERVAL).await;
    assert_eq!(&*bench.pool.endpoints()[0].name, "a");
    bench.write(&list(&[B]));
    tokio::time::sleep(3 * WATCH_INTERVAL).await;
    assert_eq!(&*bench.pool.endpoints()[0].name, "b");
}

#[tokio::test(start_paused = true)]
async fn a32_a_wrong_entry_keeps_the_endpoint_as_it_was() {
    let bench = bench(&list(&[A, B]));
    bench.names(1).await;
    let wrong = "- {name: a, address: 10.0.0.999, port: 8000}\n";
    let fresh = "- {name: c, address: nonsense!, port: 1}\n";
    bench.write(&list(&[wrong, "- {name: b, address: 10.0.0.22, port: 8000}\n", fresh]));
    let report = bench.pool.report(2).await;
    let by_name: Vec<_> = report.iter().map(|spec| (&*spec.name, &*spec.address)).collect();
    assert_eq!(by_name, [("b", "10.0.0.22"), ("a", "10.0.0.1")]);
    bench.write(&list(&[B]));
    assert_eq!(bench.names(3).await, ["b"], "an entry that is gone is gone");
}

#[tokio::test(start_paused = true)]
async fn of_two_entries_with_one_name_the_later_counts() {
    let bench = bench(&list(&[A, B, "- {name: a, address: 10.0.0.9, port: 1}\n"]));
    let report = bench.pool.report(1).await;
    let by_name: Vec<_> = report.iter().map(|spec| (&*spec.name, &*spec.address)).collect();
    assert_eq!(by_name, [("a", "10.0.0.9"), ("b", "10.0.0.2")]);
}

#[tokio::test(start_paused = true)]
async fn without_watching_the_file_is_read_once() {
    let bench = bench_with(&list(&[A]), "watchFile: false", FakeResolver::new());
    bench.names(1).await;
    bench.write(&list(&[B]));
    bench.assert_unmoved().await;
}

#[tokio::test(start_paused = true)]
async fn a_first_file_with_any_fault_ends_the_start() {
    let failure =
        bench(&list(&[A, "- {name: b, address: '10.0.0.300', port: 1}\n"])).failure().await;
    assert!(failure.contains("endpoints.yaml:3: address must be"), "{failure}");
    let failure = bench("endpoints: [").failure().await;
    assert!(failure.contains("endpoints.yaml"), "{failure}");
    let huge = format!("{}# {}\n", list(&[A]), "x".repeat(MAX_FILE_BYTES as usize));
    let failure = bench(&huge).failure().await;
    assert!(failure.contains("larger than the limit of 1048576 bytes"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn a_missing_first_file_ends_the_start() {
    let params = "{path: /no/such/file.yaml}";
    let instance = Workbench::new().unwrap().plugin(&PLUGIN, "file", params).unwrap();
    let cx = DiscoveryCx {
        sink: RecordedPool::new(),
        resolve: FakeResolver::new(),
        clock: Clock::new(),
        tasks: Tasks::new(),
    };
    let error = instance.discovery.unwrap().run(cx).await.unwrap_err();
    assert_eq!(error.to_string(), "/no/such/file.yaml does not exist");
}

const NAMED: &str = "- {name: named, address: vllm.example, port: 8000}\n";

#[tokio::test(start_paused = true)]
async fn a32_names_are_looked_up_and_stick_to_an_address_that_holds() {
    let resolver = FakeResolver::new();
    resolver.set("vllm.example", &["10.1.0.2", "10.1.0.1"]);
    let bench = bench_with(&list(&[NAMED]), "", resolver);
    let report = bench.pool.report(1).await;
    assert_eq!(&*report[0].address, "10.1.0.2");
    assert_eq!(report[0].host.as_deref(), Some("vllm.example"));
    bench.resolver.set("vllm.example", &["10.1.0.1", "10.1.0.2"]);
    assert_eq!(&*bench.pool.report(2).await[0].address, "10.1.0.2", "another order is no change");
    bench.resolver.set("vllm.example", &["2001:db8::7"]);
    assert_eq!(&*bench.pool.report(3).await[0].address, "2001:db8::7");
    bench.resolver.set("vllm.example", &[]);
    assert_eq!(&*bench.pool.report(4).await[0].address, "2001:db8::7", "a lost name keeps it");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_name_is_left_out_until_it_is_found() {
    let bench = bench_with(&list(&[A, NAMED]), "", FakeResolver::new());
    let started = tokio::time::Instant::now();
    assert_eq!(bench.names(1).await, ["a"]);
    bench.resolver.set("vllm.example", &["10.1.0.1"]);
    assert_eq!(bench.names(2).await, ["a", "named"]);
    assert_eq!(started.elapsed(), Duration::from_secs(5));
    bench.pool.report(3).await;
    assert_eq!(started.elapsed(), Duration::from_secs(35));
}

#[tokio::test(start_paused = true)]
async fn look_ups_do_not_keep_changes_waiting() {
    let bench = bench_with(&list(&[NAMED]), "watchFile: true", FakeResolver::new());
    assert!(bench.names(1).await.is_empty());
    bench.write(&list(&[A, NAMED]));
    assert_eq!(bench.names(2).await, ["a"]);
}

#[tokio::test(start_paused = true)]
async fn it_runs_until_it_is_cancelled() {
    let bench = bench(&list(&[A]));
    bench.names(1).await;
    bench.tasks.cancel();
    assert_eq!(bench.run.join().await.unwrap(), Ok(()));
}

#[test]
fn the_path_must_be_given() {
    let error = SceneBuilder::refusal(&PLUGIN, "");
    assert!(error.contains("path: must be given"), "{error}");
    let error = SceneBuilder::refusal(&PLUGIN, "{path: x, watch: true}");
    assert!(error.contains("watch"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn reloads_are_counted_by_whether_all_of_the_file_is_taken() {
    let bench = bench(&list(&[A]));
    bench.check_reloads(0, 0, true).await;
    bench.write(&list(&[A, B]));
    bench.check_reloads(1, 0, true).await;
    bench.write(&list(&[A, "- {name: b, address: 10.0.0.2, port: none}\n"]));
    bench.check_reloads(1, 1, false).await;
    bench.write("endpoints: [\n");
    bench.check_reloads(1, 2, false).await;
    bench.write(&list(&[B]));
    bench.check_reloads(2, 2, true).await;
    fs::remove_file(bench.path()).unwrap();
    bench.check_reloads(2, 3, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_not_followed_has_no_reloads() {
    let bench = bench_with(&list(&[A]), "watchFile: false", FakeResolver::new());
    assert_eq!(bench.names(1).await, ["a"]);
    assert!(!bench.metrics.encode(Format::Text).contains("reload"));
}
