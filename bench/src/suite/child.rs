//! A program that is being measured, or that takes part.

use std::ffi::OsString;
use std::fs::{self, File};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

/// How long a program may take until it is ready.
const START_LIMIT: Duration = Duration::from_mins(1);
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// Last lines of a log that an error shows.
const N_LOG_LINES: usize = 15;

/// What to start, and on which core.
#[derive(Clone, Debug)]
pub struct Launch {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// `None` leaves it to the kernel.
    pub core: Option<usize>,
}

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: u32,
    process: tokio::process::Child,
    log: PathBuf,
    /// Kept open: a program may die of writing to a closed one.
    _stdout: Option<Lines<BufReader<ChildStdout>>>,
}

// === impl Launch ===

impl Launch {
    pub fn new<A: Into<OsString>>(
        program: impl Into<PathBuf>,
        core: Option<usize>,
        args: impl IntoIterator<Item = A>,
    ) -> Self {
        Self { program: program.into(), args: args.into_iter().map(Into::into).collect(), core }
    }

    /// The command, through `taskset` where it is pinned: that replaces itself by the program, so the
    /// process number is the program's.
    fn command(&self) -> Command {
        match self.core {
            None => {
                let mut command = Command::new(&self.program);
                command.args(&self.args);
                command
            }
            Some(core) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &core.to_string()]).arg(&self.program).args(&self.args);
                command
            }
        }
    }

    fn name(&self) -> String {
        self.program.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Runs it to its end and returns what it printed.
    ///
    /// # Errors
    /// A program that cannot be started, fails, or does not end within `limit`.
    pub async fn output(&self, limit: Duration) -> Result<String> {
        let name = self.name();
        let output = self.command().stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(limit, output)
            .await
            .with_context(|| format!("{name} does not end"))?
            .with_context(|| format!("starting {name}"))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{name} ended with {}: {}{}", output.status, stdout.trim(), stderr.trim());
        }
        Ok(stdout)
    }

    /// Starts it, with all that it prints going to a file in `log_folder`.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub fn spawn(&self, log_folder: &Path) -> Result<Child> {
        let log = self.log(log_folder);
        let file = File::create(&log)?;
        let stderr = file.try_clone()?;
        self.start(log, file.into(), stderr)
    }

    /// Starts it and waits for the first line that it prints.
    ///
    /// # Errors
    /// A program that cannot be started, ends before, or prints nothing for a minute.
    pub async fn spawn_for_line(&self, log_folder: &Path) -> Result<(Child, String)> {
        let log = self.log(log_folder);
        let stderr = File::create(&log)?;
        let mut child = self.start(log, Stdio::piped(), stderr)?;
        let stdout = child.process.stdout.take().context("a program without standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(START_LIMIT, lines.next_line()).await;
        let line = line.with_context(|| child.what_it_said("prints nothing"))??;
        let line = line.with_context(|| child.what_it_said("ended"))?;
        Ok((Child { _stdout: Some(lines), ..child }, line))
    }

    fn start(&self, log: PathBuf, stdout: Stdio, stderr: File) -> Result<Child> {
        let name = self.name();
        let process = self
            .command()
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let pid = process.id().context("a program without a process number")?;
        Ok(Child { name, pid, process, log, _stdout: None })
    }

    fn log(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.log", self.name()))
    }
}

// === impl Child ===

impl Child {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Asks `probe` until it succeeds.
    ///
    /// # Errors
    /// The last answer of `probe`, when the program ends or a minute is over.
    pub async fn until_ready<F, Fut>(&mut self, mut probe: F) -> Result<()>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<()>>,
    {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let Err(error) = probe().await else { return Ok(()) };
            if let Some(status) = self.process.try_wait()? {
                bail!(self.what_it_said(&format!("ended with {status}")));
            }
            if Instant::now() >= deadline {
                return Err(error).with_context(|| self.what_it_said("is not ready"));
            }
            sleep(PROBE_EVERY).await;
        }
    }

    /// Stops it without ending it, so that it takes no time from others.
    ///
    /// # Errors
    /// A program that has ended.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// A program that has ended.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        // The child is reaped only when it is dropped or asked for its end, so the number is its own.
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.context("a process number that is none")?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// What it has logged so far.
    pub fn log_text(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// What became of it, with the end of its log.
    fn what_it_said(&self, end: &str) -> String {
        let log = self.log_text();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(N_LOG_LINES)..];
        format!("{} {end}:\n{}", self.name, last.join("\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Launch {
        Launch::new("sh", None, ["-c", script])
    }

    #[tokio::test]
    async fn output_is_what_it_printed() {
        let limit = Duration::from_secs(30);
        assert_eq!(shell("echo a; echo b >&2").output(limit).await.unwrap(), "a\n");
        let error = shell("echo why >&2; exit 3").output(limit).await.unwrap_err();
        assert!(error.to_string().contains("exit status: 3: why"), "{error}");
        let error = shell("sleep 60").output(Duration::from_millis(50)).await.unwrap_err();
        assert!(error.to_string().contains("does not end"), "{error}");
    }

    #[tokio::test]
    async fn an_end_before_readiness_shows_the_log() {
        let folder = tempfile::tempdir().unwrap();
        let mut child = shell("echo broken >&2").spawn(folder.path()).unwrap();
        let error = child.until_ready(|| async { bail!("not yet") }).await.unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
        let error = shell("echo broken >&2").spawn_for_line(folder.path()).await.unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }

    #[tokio::test]
    async fn a_frozen_program_stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let busy = shell("echo up; while :; do :; done");
        let (mut child, line) = busy.spawn_for_line(folder.path()).await.unwrap();
        assert_eq!(line, "up");
        let state = |pid: u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
        };
        child.freeze().unwrap();
        let pid = child.pid();
        let frozen = || async move { (state(pid) == 'T').then_some(()).context("not frozen") };
        child.until_ready(frozen).await.unwrap();
        child.thaw().unwrap();
        let running = || async move { (state(pid) == 'R').then_some(()).context("not running") };
        child.until_ready(running).await.unwrap();
    }
}
