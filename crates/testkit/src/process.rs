//! Child processes that a test starts, watches and surely ends.
//!
//! Each child has a thread of its own that spawns it and lives until it has ended: Envoy takes the
//! end of the thread that spawned it as its own, and a test's thread ends early.
//! Waiting is always for something to happen, with a limit; what a wait returns on failure carries
//! the child's last lines.
//!
//! These waits need real time: do not use them in a test with a paused clock.

mod output;
mod port;
mod probe;

use std::ffi::{OsStr, OsString};
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::sync::watch;

pub use self::output::{MAX_LINE_LEN, MAX_LINES};
pub use self::port::ReservedPort;
pub use self::probe::{HttpAnswer, grpc_status, http_get, poll_until};

use self::output::Output;

/// How long a child may take to become ready on a loaded machine.
pub const START_LIMIT: Duration = Duration::from_secs(30);
/// How long to wait for what an ended child wrote last; a grandchild may hold its outputs open.
const LAST_WORDS_LIMIT: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
}

impl Launch {
    /// A program by its path.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), args: Vec::new(), env: Vec::new(), dir: None }
    }

    /// Appends one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets one variable of the child's environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The folder to start in.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Starts it.
    pub fn spawn(self) -> io::Result<Process> {
        Process::spawn(self)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.dir {
            command.current_dir(dir);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn name(&self) -> String {
        let name = self.program.file_name().unwrap_or(self.program.as_os_str());
        name.to_string_lossy().into_owned()
    }
}

/// One of a child's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// Why a child could not be started or a wait failed; a failed wait carries the child's last lines.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("{name} ended with {status} before {what}\n{tail}")]
    Ended { name: String, status: ExitStatus, what: String, tail: String },
    #[error("{name}: {what} did not happen within {limit:?}\n{tail}")]
    Late { name: String, what: String, limit: Duration, tail: String },
}

/// A running child. Dropping it kills it and waits until it is gone.
#[derive(Debug)]
pub struct Process {
    name: String,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
    life: Arc<Life>,
    exit: watch::Receiver<Option<ExitStatus>>,
    supervisor: Option<JoinHandle<()>>,
}

/// A child that is not reaped yet, so that its number surely still means it.
#[derive(Debug)]
struct Life {
    pid: u32,
    is_reaped: Mutex<bool>,
}

impl Process {
    fn spawn(launch: Launch) -> io::Result<Self> {
        let name = launch.name();
        let (stdout, stderr) = (Arc::new(Output::default()), Arc::new(Output::default()));
        let (set_exit, exit) = watch::channel(None);
        let (started, start) = std::sync::mpsc::sync_channel(1);
        let outputs = (Arc::clone(&stdout), Arc::clone(&stderr));
        let supervisor = std::thread::Builder::new()
            .name(format!("child {name}"))
            .spawn(move || supervise(&launch, outputs, &started, &set_exit))?;
        let life =
            start.recv().map_err(|_| io::Error::other("the child's thread ended early"))??;
        Ok(Self { name, stdout, stderr, life, exit, supervisor: Some(supervisor) })
    }

    /// The operating system's number for it.
    pub fn pid(&self) -> u32 {
        self.life.pid
    }

    /// Asks it to end (SIGTERM), as an orchestrator would. Does nothing if it has ended.
    pub fn terminate(&self) {
        self.life.signal(Signal::TERM);
    }

    /// Ends it at once (SIGKILL). Does nothing if it has ended.
    pub fn kill(&self) {
        self.life.signal(Signal::KILL);
    }

    /// Stops it without ending it (SIGSTOP): it keeps its sockets open and answers nothing.
    pub fn freeze(&self) {
        self.life.signal(Signal::STOP);
    }

    /// Lets a frozen child go on (SIGCONT).
    pub fn thaw(&self) {
        self.life.signal(Signal::CONT);
    }

    /// How it ended; none while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits until it has ended by itself or after [`Process::terminate`].
    pub async fn wait_exit(&self, limit: Duration) -> Result<ExitStatus, ProcessError> {
        let mut exit = self.exit.clone();
        let ended = tokio::time::timeout(limit, exit.wait_for(Option::is_some)).await;
        let status = match ended {
            Ok(Ok(status)) => *status,
            _ => None,
        };
        status.ok_or_else(|| self.late("its end", limit))
    }

    /// Waits for a line, including those already written, and returns it.
    pub async fn wait_line(
        &self,
        stream: Stream,
        what: &str,
        limit: Duration,
        is_wanted: impl Fn(&str) -> bool,
    ) -> Result<String, ProcessError> {
        let found = self.output(stream).find_line(&is_wanted);
        match tokio::time::timeout(limit, found).await {
            Ok(Some(line)) => Ok(line),
            // The stream has ended; so has the child, or it is about to.
            Ok(None) => match self.wait_exit(limit).await {
                Ok(status) => Err(self.ended(status, what).await),
                Err(late) => Err(late),
            },
            Err(_) => Err(self.late(what, limit)),
        }
    }

    /// Asks `probe` every few milliseconds until it has an answer; gives up when the child ends.
    pub async fn wait_ready<T, F>(
        &self,
        what: &str,
        limit: Duration,
        probe: impl FnMut() -> F,
    ) -> Result<T, ProcessError>
    where
        F: Future<Output = Option<T>>,
    {
        let mut exit = self.exit.clone();
        tokio::select! {
            biased;
            answer = poll_until(limit, probe) => answer.ok_or_else(|| self.late(what, limit)),
            Ok(status) = exit.wait_for(Option::is_some) => {
                let status = *status;
                Err(match status {
                    Some(status) => self.ended(status, what).await,
                    None => self.late(what, limit),
                })
            }
        }
    }

    /// Waits until something accepts connections at `addr`.
    pub async fn wait_tcp(&self, addr: SocketAddr, limit: Duration) -> Result<(), ProcessError> {
        let connect = || async move { tokio::net::TcpStream::connect(addr).await.ok().map(drop) };
        self.wait_ready(&format!("listening at {addr}"), limit, connect).await
    }

    /// Waits until `GET path` at `addr` is answered with 200.
    pub async fn wait_http(
        &self,
        addr: SocketAddr,
        path: &str,
        limit: Duration,
    ) -> Result<HttpAnswer, ProcessError> {
        let get = || async move { http_get(addr, path).await.ok().filter(|a| a.status == 200) };
        self.wait_ready(&format!("200 from http://{addr}{path}"), limit, get).await
    }

    /// Waits until the gRPC health service at `addr`, without TLS, says that `service` is serving.
    pub async fn wait_grpc(
        &self,
        addr: SocketAddr,
        service: &str,
        limit: Duration,
    ) -> Result<(), ProcessError> {
        use router_proto::health::health_check_response::ServingStatus;
        let serving = || async move {
            let status = grpc_status(addr, service).await.ok()?;
            (status == ServingStatus::Serving).then_some(())
        };
        self.wait_ready(&format!("serving of {service:?} at {addr}"), limit, serving).await
    }

    /// What it wrote to one stream, as far as it is kept: the last [`MAX_LINES`] lines.
    pub fn text(&self, stream: Stream) -> String {
        self.output(stream).text()
    }

    /// The last lines of both streams, for the message of a failed assertion.
    pub fn tail(&self) -> String {
        let mut tail = String::new();
        for (label, output) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            for line in output.last_lines(40) {
                tail.extend(["  ", &self.name, " ", label, ": ", &line, "\n"]);
            }
        }
        tail
    }

    /// True once both outputs have ended; false if something still holds one of them open.
    async fn wait_outputs(&self, limit: Duration) -> bool {
        let both = async {
            self.stdout.closed().await;
            self.stderr.closed().await;
        };
        tokio::time::timeout(limit, both).await.is_ok()
    }

    fn output(&self, stream: Stream) -> &Output {
        match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        }
    }

    fn late(&self, what: &str, limit: Duration) -> ProcessError {
        let (name, what, tail) = (self.name.clone(), what.to_owned(), self.tail());
        ProcessError::Late { name, what, limit, tail }
    }

    async fn ended(&self, status: ExitStatus, what: &str) -> ProcessError {
        self.wait_outputs(LAST_WORDS_LIMIT).await;
        let (name, what, tail) = (self.name.clone(), what.to_owned(), self.tail());
        ProcessError::Ended { name, status, what, tail }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if let Some(supervisor) = self.supervisor.take() {
            // It ends as soon as the killed child is reaped; if it panicked there is nothing to reap.
            drop(supervisor.join());
        }
    }
}

impl Life {
    /// True if the signal reached it: it may have ended already.
    fn signal(&self, signal: Signal) -> bool {
        let is_reaped = self.is_reaped.lock();
        let pid = as_pid(self.pid).filter(|_| !*is_reaped);
        pid.is_some_and(|pid| rustix::process::kill_process(pid, signal).is_ok())
    }
}

/// Runs on the child's own thread from its start to its end.
fn supervise(
    launch: &Launch,
    (stdout, stderr): (Arc<Output>, Arc<Output>),
    started: &std::sync::mpsc::SyncSender<io::Result<Arc<Life>>>,
    exit: &watch::Sender<Option<ExitStatus>>,
) {
    let mut child = match launch.command().spawn() {
        Ok(child) => child,
        Err(error) => {
            let message = format!("cannot start {}: {error}", launch.program.display());
            drop(started.send(Err(io::Error::new(error.kind(), message))));
            return;
        }
    };
    let life = Arc::new(Life { pid: child.id(), is_reaped: Mutex::new(false) });
    output::gather(child.stdout.take(), stdout);
    output::gather(child.stderr.take(), stderr);
    drop(started.send(Ok(Arc::clone(&life))));
    wait_ended(&life);
    // Nobody may signal the number once it is given back to the system.
    let mut is_reaped = life.is_reaped.lock();
    let status = reap(&mut child);
    *is_reaped = true;
    drop(is_reaped);
    exit.send_replace(Some(status));
}

/// Blocks until the child has ended, without reaping it.
fn wait_ended(life: &Life) {
    let Some(pid) = as_pid(life.pid) else { return };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = rustix::process::waitid(WaitId::Pid(pid), options) {}
}

fn reap(child: &mut Child) -> ExitStatus {
    // It has ended, so this cannot fail; if it did, it must not look like success.
    child.wait().unwrap_or_else(|_| ExitStatus::from_raw(255 << 8))
}

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// What a child that ran to its end left.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// Starts a child, waits for its end and returns all that is kept of what it wrote.
pub async fn run_to_end(launch: Launch, limit: Duration) -> Result<Finished, ProcessError> {
    let child = launch.spawn()?;
    let status = child.wait_exit(limit).await?;
    if !child.wait_outputs(limit).await {
        return Err(child.late("the end of its outputs", limit));
    }
    let (stdout, stderr) = (child.text(Stream::Stdout), child.text(Stream::Stderr));
    Ok(Finished { status, stdout, stderr })
}
