//! `coretexd` as a child process: started on free ports, killed, stopped, started again.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use coretex::Client;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tonic::transport::{Channel, Endpoint};

use super::backends::Servers;
use super::in_time;
use crate::{binaries, poll};

/// The exit code of a server that cannot start.
const CANNOT_START: i32 = 3;
/// How much of a server's log a failing test shows.
const SHOWN_LOG: usize = 60;

/// The policy of servers that need credentials, unless a test has its own.
const ALLOW_ALL: &str = "version: 1\nrules:\n  - {id: allow-all, decision: allow}\n";

/// How a server is started. The default needs no credentials.
#[derive(Clone, Debug, Default)]
pub struct Options {
    secured: bool,
    settings: Vec<(String, String)>,
    policy: Vec<(String, String)>,
    backends: Option<Arc<Servers>>,
}

impl Options {
    /// A server that needs no credentials.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Credentials are needed, as they are outside development.
    #[must_use]
    pub fn secured(mut self) -> Self {
        self.secured = true;
        self
    }

    /// Sets a value of the configuration by its environment variable.
    #[must_use]
    pub fn set(mut self, variable: &str, value: &str) -> Self {
        self.settings.push((variable.to_owned(), value.to_owned()));
        self
    }

    /// Judges jobs by this bundle, a file beside the server, instead of allowing all of them.
    #[must_use]
    pub fn policy(mut self, name: &str, bundle: &str) -> Self {
        self.policy.push((name.to_owned(), bundle.to_owned()));
        self
    }

    /// Keeps the servers behind store and bus running as long as this one.
    #[must_use]
    pub(super) fn keep(mut self, backends: Arc<Servers>) -> Self {
        self.backends = Some(backends);
        self
    }
}

/// A server with a data directory of its own. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    // First, so that it goes before what it stands on.
    process: Option<Process>,
    options: Options,
    folder: TempDir,
    listen: SocketAddr,
    admin: SocketAddr,
}

#[derive(Debug)]
struct Process {
    child: Child,
    pid: Pid,
    /// Kept open: the server may write to it.
    _stdout: BufReader<ChildStdout>,
}

impl Server {
    /// Starts a server and waits until it serves.
    ///
    /// # Panics
    /// It does not become ready; what it said is shown.
    pub async fn start(options: Options) -> Self {
        let mut server = Self::new(options);
        server.launch().await;
        server
    }

    /// Starts a server that will not become ready, and says with which exit code it ended and what
    /// it said.
    ///
    /// # Panics
    /// It does become ready, or does not end.
    pub async fn refused(options: Options) -> (Option<i32>, String) {
        let server = Self::new(options);
        let mut child = server.spawn();
        let ended = in_time("the server to end", child.wait()).await;
        let code = ended.ok().and_then(|status| status.code());
        (code, server.log())
    }

    fn new(options: Options) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let folder = tempfile::tempdir()
            .unwrap_or_else(|error| panic!("no folder for a server's data: {error}"));
        Self {
            process: None,
            options,
            folder,
            listen: any,
            admin: any,
        }
    }

    /// Starts it again on the same data and the same ports, after [`kill`](Self::kill) or
    /// [`terminate`](Self::terminate).
    ///
    /// # Panics
    /// It still runs, or does not become ready.
    pub async fn restart(&mut self) {
        assert!(self.process.is_none(), "the server still runs");
        self.launch().await;
    }

    async fn launch(&mut self) {
        // A connection of somebody else may have been given the port in the meantime.
        let limit = super::PATIENCE;
        poll::until_async("the server's port", limit, async || self.try_launch().await).await;
    }

    /// Where the server's policy files are, if it has any. Outside development nothing runs without.
    fn policy(&self) -> Option<PathBuf> {
        let mut files = self.options.policy.clone();
        if files.is_empty() {
            if !self.options.secured {
                return None;
            }
            files.push(("allow-all".to_owned(), ALLOW_ALL.to_owned()));
        }
        let folder = self.folder.path().join("policy");
        let written = fs::create_dir_all(&folder).and_then(|()| {
            files
                .iter()
                .try_for_each(|(name, text)| fs::write(folder.join(format!("{name}.yaml")), text))
        });
        written.unwrap_or_else(|error| panic!("policy files not written: {error}"));
        Some(folder)
    }

    fn spawn(&self) -> Child {
        let mut command = Command::new(binaries::path("coretexd"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("CORETEX_") {
                command.env_remove(name);
            }
        }
        if !self.options.secured {
            command.arg("--dev");
        }
        if let Some(policy) = self.policy() {
            command.arg("--policy-dir").arg(policy);
        }
        command
            .args(["--listen", &self.listen.to_string()])
            .args(["--admin-listen", &self.admin.to_string()])
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--ready-json")
            .envs(self.options.settings.clone())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(self.open_log())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("coretexd cannot be started: {error}"))
    }

    /// Starts the program; an error when it cannot be started just now.
    async fn try_launch(&mut self) -> Result<(), String> {
        let mut child = self.spawn();
        let pid = pid_of(&child);
        let stdout = child.stdout.take();
        let mut stdout = BufReader::new(stdout.unwrap_or_else(|| panic!("no stdout")));
        let mut line = String::new();
        let read = in_time("the server to be ready", stdout.read_line(&mut line)).await;
        if read.is_err() || line.is_empty() {
            let status = in_time("the server to end", child.wait()).await;
            let code = status.ok().and_then(|status| status.code());
            let said = self.log();
            assert!(
                code == Some(CANNOT_START) && said.contains("cannot listen on"),
                "the server ended with {code:?} instead of becoming ready:\n{said}"
            );
            return Err(said);
        }
        let ready: serde_json::Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("the line that says ready is {line:?}: {error}"));
        self.listen = address(&ready, "listen");
        self.admin = address(&ready, "admin");
        self.process = Some(Process {
            child,
            pid,
            _stdout: stdout,
        });
        Ok(())
    }

    fn open_log(&self) -> File {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log_file())
            .unwrap_or_else(|error| panic!("no file for a server's log: {error}"))
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// A folder that lives as long as the server, for what a test has to write.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Everything it has said since it was first started.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Where it serves gRPC.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.listen
    }

    /// Where it serves metrics and probes.
    #[must_use]
    pub const fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// A page of the port for metrics and probes: its status and its text.
    ///
    /// # Panics
    /// There is no answer.
    pub async fn page(&self, path: &str) -> (u16, String) {
        let asked = async {
            let mut stream = TcpStream::connect(self.admin).await?;
            let host = self.admin;
            let request =
                format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = in_time(path, asked).await;
        let answer = answer.unwrap_or_else(|error| panic!("{path}: {error}"));
        let (head, text) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{path} is answered with {head:?}"));
        (status, text.to_owned())
    }

    /// Where it serves gRPC, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// The first admin key; empty for a server that needs no credentials.
    ///
    /// # Panics
    /// The server has not written it.
    #[must_use]
    pub fn admin_key(&self) -> String {
        if !self.options.secured {
            return String::new();
        }
        let file = self.data_dir().join("admin.key");
        let key = fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{} cannot be read: {error}", file.display()));
        key.trim().to_owned()
    }

    /// A client that may do everything.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client_with(&self.admin_key())
    }

    /// A client with a key; none when it is empty.
    #[must_use]
    pub fn client_with(&self, key: &str) -> Client {
        client(&self.url(), key)
    }

    /// A connection without anything that the client library adds.
    ///
    /// # Panics
    /// It cannot be opened.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(self.url());
        let endpoint = endpoint.unwrap_or_else(|error| panic!("{}: {error}", self.url()));
        match in_time("a connection", endpoint.connect()).await {
            Ok(channel) => channel,
            Err(error) => panic!("{} cannot be connected to: {error}", self.url()),
        }
    }

    fn process(&mut self) -> &mut Process {
        match &mut self.process {
            Some(process) => process,
            None => panic!("the server does not run"),
        }
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// It does not run.
    pub fn signal(&mut self, signal: Signal) {
        let pid = self.process().pid;
        if let Err(error) = kill_process(pid, signal) {
            panic!("the server cannot be sent {signal:?}: {error}");
        }
    }

    /// Kills it at once, as the kernel does when memory runs out.
    ///
    /// # Panics
    /// It does not run.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// Asks it to stop and waits for the end: how it ended, and how long that took.
    ///
    /// # Panics
    /// It does not run, or does not stop.
    pub async fn terminate(&mut self) -> (ExitStatus, Duration) {
        let asked = Instant::now();
        self.signal(Signal::TERM);
        let status = self.ended().await;
        (status, asked.elapsed())
    }

    /// Waits for its end.
    async fn ended(&mut self) -> ExitStatus {
        let process = self.process();
        let ended = in_time("the server to end", process.child.wait()).await;
        self.process = None;
        ended.unwrap_or_else(|error| panic!("how the server ended is not known: {error}"))
    }

    /// Whether the process is still there.
    pub fn is_running(&mut self) -> bool {
        let process = self.process.as_mut();
        process.is_some_and(|process| matches!(process.child.try_wait(), Ok(None)))
    }

    /// The memory that it occupies, in bytes.
    ///
    /// # Panics
    /// It does not run.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        let Some(process) = &self.process else {
            panic!("the server does not run");
        };
        let file = format!("/proc/{}/statm", process.pid.as_raw_nonzero());
        let statm = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let pages = statm.split_whitespace().nth(1);
        let pages: usize = pages
            .and_then(|pages| pages.parse().ok())
            .unwrap_or_else(|| panic!("{file} holds {statm:?}"));
        pages * rustix::param::page_size()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process goes with its handle. A test that fails tells what the server said.
        if !std::thread::panicking() {
            return;
        }
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines[lines.len().saturating_sub(SHOWN_LOG)..].join("\n");
        let mut stderr = io::stderr().lock();
        let _ = writeln!(stderr, "--- the last the server said\n{shown}\n---");
    }
}

/// A client with a key; none when it is empty.
///
/// # Panics
/// The address or the key is none.
#[must_use]
pub fn client(url: &str, key: &str) -> Client {
    let builder = Client::builder().server(url);
    let builder = match key {
        "" => builder,
        key => builder.api_key(key),
    };
    match builder.build() {
        Ok(client) => client,
        Err(error) => panic!("no client for {url}: {error}"),
    }
}

fn pid_of(child: &Child) -> Pid {
    let id = child.id().and_then(|id| i32::try_from(id).ok());
    match id.and_then(Pid::from_raw) {
        Some(pid) => pid,
        None => panic!("the child has no process id"),
    }
}

fn address(ready: &serde_json::Value, name: &str) -> SocketAddr {
    let text = ready[name].as_str().and_then(|text| text.parse().ok());
    match text {
        Some(address) => address,
        None => panic!("the line that says ready has no `{name}`: {ready}"),
    }
}
