//! Redis and NATS as child processes: on free ports of this machine, in a folder that vanishes,
//! killed when the test is over, however it ends. Each test has its own.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::PATIENCE;
use super::server::Options;
use crate::{poll, tools};

/// How long a server may take to answer one look; the next look asks again.
const LOOK: Duration = Duration::from_millis(500);
/// Starts of a server whose port somebody else has taken in the meantime.
const STARTS: usize = 10;

/// The engines that a server runs on.
#[derive(Clone, Debug)]
pub enum Pair {
    /// Store and bus inside the process.
    Embedded,
    /// A Redis and a NATS server.
    Servers(Arc<Servers>),
}

/// A Redis and a NATS server of one test.
#[derive(Debug)]
pub struct Servers {
    /// The store.
    pub redis: Redis,
    /// The bus.
    pub nats: Nats,
}

impl Pair {
    /// Starts a Redis with an append-only file that is synced once a second, which is what most have,
    /// and a NATS server; `None` where they are not installed.
    pub async fn redis_and_nats() -> Option<Self> {
        Self::durable("everysec").await
    }

    /// The same with a file that is synced `always`, `everysec` or not at all (`no`).
    pub async fn durable(fsync: &str) -> Option<Self> {
        let redis = Redis::durable(fsync).await?;
        let nats = Nats::start("").await?;
        Some(Self::Servers(Arc::new(Servers { redis, nats })))
    }

    /// A `coretexd` on these engines.
    #[must_use]
    pub fn options(&self) -> Options {
        match self {
            Self::Embedded => Options::new(),
            Self::Servers(servers) => Options::new()
                .set("CORETEX_STORE", &servers.redis.url())
                .set("CORETEX_BUS", &servers.nats.url())
                .keep(Arc::clone(servers)),
        }
    }
}

/// What both kinds of server need.
#[derive(Debug)]
struct Process {
    program: PathBuf,
    folder: TempDir,
    child: Mutex<Option<Child>>,
}

impl Process {
    fn new(name: &str) -> Option<Self> {
        let program = tools::find(name)?;
        let folder = tempfile::tempdir();
        Some(Self {
            program,
            folder: folder.unwrap_or_else(|error| panic!("no folder for {name}: {error}")),
            child: Mutex::default(),
        })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    fn spawn(&self, arguments: &[String]) {
        let mut child = self.child.lock();
        assert!(child.is_none(), "{} still runs", self.program.display());
        let log = File::create(self.file("log"))
            .unwrap_or_else(|error| panic!("no file for a log: {error}"));
        let spawned = Command::new(&self.program)
            .args(arguments)
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        *child =
            Some(spawned.unwrap_or_else(|error| {
                panic!("cannot start {}: {error}", self.program.display())
            }));
    }

    /// Whether it ended by itself; then it is gone.
    fn has_ended(&self) -> bool {
        let mut child = self.child.lock();
        let ended = child
            .as_mut()
            .is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if ended {
            *child = None;
        }
        ended
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.lock();
        let id = child.as_ref().and_then(|child| child.id().try_into().ok());
        let Some(pid) = id.and_then(Pid::from_raw) else {
            panic!("{} does not run", self.program.display());
        };
        if let Err(error) = kill_process(pid, signal) {
            panic!(
                "{} cannot be sent {signal:?}: {error}",
                self.program.display()
            );
        }
    }

    fn kill(&self) {
        if let Some(mut child) = self.child.lock().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A Redis server.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    port: u16,
    tls_port: u16,
    settings: Vec<String>,
}

impl Redis {
    /// One with an append-only file that is synced `always`, `everysec` or not at all (`no`).
    pub async fn durable(fsync: &str) -> Option<Self> {
        Self::start(&["--appendonly", "yes", "--appendfsync", fsync]).await
    }

    /// One with these settings; `None` where it is not installed.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(settings: &[&str]) -> Option<Self> {
        let mut redis = Self {
            process: Process::new("redis-server")?,
            port: 0,
            tls_port: 0,
            settings: settings.iter().map(ToString::to_string).collect(),
        };
        for _ in 0..STARTS {
            redis.port = free_port().await;
            if redis.run().await {
                return Some(redis);
            }
        }
        panic!("redis-server does not start: {}", redis.process.log());
    }

    /// One that also listens with TLS, with these settings for that, and asks for certificates.
    pub async fn start_tls(settings: [&str; 6]) -> Option<Self> {
        let port = free_port().await;
        let mut arguments = vec!["--tls-port".to_owned(), port.to_string()];
        arguments.extend(settings.map(str::to_owned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut redis = Self::start(&arguments).await?;
        redis.tls_port = port;
        Some(redis)
    }

    /// Starts it again on the same port, with what it has on disk.
    ///
    /// # Panics
    /// It does not start, or still runs.
    pub async fn restart(&self) {
        assert!(self.run().await, "{}", self.process.log());
    }

    /// Whether it answers after a start, or has ended.
    async fn run(&self) -> bool {
        let folder = self.process.folder.path().display().to_string();
        let port = self.port.to_string();
        let fixed = [
            "--bind",
            "127.0.0.1",
            "--port",
            &port,
            "--dir",
            &folder,
            "--save",
            "",
            "--logfile",
            "log",
            "--daemonize",
            "no",
        ];
        let mut arguments: Vec<String> = fixed.iter().map(ToString::to_string).collect();
        arguments.extend(self.settings.iter().cloned());
        self.process.spawn(&arguments);
        poll::until_async("redis-server to answer", PATIENCE, async || {
            if self.process.has_ended() {
                return Ok(false);
            }
            match self.command("PING").await {
                // One that wants a password answers too.
                Ok(line) if line.starts_with("+PONG") || line.starts_with("-NOAUTH") => Ok(true),
                Ok(other) | Err(other) => Err(other),
            }
        })
        .await
    }

    /// The first line of the answer to a command.
    ///
    /// # Errors
    /// There is none.
    pub async fn command(&self, command: &str) -> Result<String, String> {
        let asked = async {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            stream
                .write_all(format!("{command}\r\n").as_bytes())
                .await?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).await?;
            std::io::Result::Ok(line)
        };
        let answer = tokio::time::timeout(LOOK, asked).await;
        let answer = answer.map_err(|_| "no answer".to_owned())?;
        answer.map_err(|error| error.to_string())
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://{}", self.address())
    }

    /// Its URL with TLS, if it was started with it.
    #[must_use]
    pub fn tls_url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.tls_port)
    }

    /// Stops its clock: connections stay, nothing answers.
    ///
    /// # Panics
    /// It does not run.
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Ends a [`pause`](Self::pause).
    ///
    /// # Panics
    /// It does not run.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Ends it without a word to anybody.
    pub fn kill(&self) {
        self.process.kill();
    }
}

/// A NATS server.
#[derive(Debug)]
pub struct Nats {
    process: Process,
    port: u16,
    config: String,
}

impl Nats {
    /// One with these lines in its configuration; `None` where it is not installed.
    ///
    /// # Panics
    /// It does not start.
    pub async fn start(config: &str) -> Option<Self> {
        let mut nats = Self {
            process: Process::new("nats-server")?,
            port: 0,
            config: config.to_owned(),
        };
        nats.port = nats.run().await;
        Some(nats)
    }

    /// Starts it again on the same port.
    ///
    /// # Panics
    /// It does not start, or still runs.
    pub async fn restart(&self) {
        self.run().await;
    }

    /// Waits until it takes connections; its ports are then in a file named after its process.
    async fn run(&self) -> u16 {
        // -1 lets the server choose a free one.
        let port = if self.port == 0 {
            -1
        } else {
            i32::from(self.port)
        };
        let folder = self.process.folder.path();
        let file = self.process.file("server.conf");
        let fixed = format!("host: 127.0.0.1\nport: {port}\nports_file_dir: {folder:?}\n");
        fs::write(&file, fixed + &self.config)
            .unwrap_or_else(|error| panic!("no configuration of nats-server: {error}"));
        let arguments = ["--config".to_owned(), file.display().to_string()];
        self.process.spawn(&arguments);
        let id = self.process.child.lock().as_ref().map(Child::id);
        let ports = self
            .process
            .file(&format!("nats-server_{}.ports", id.unwrap_or_default()));
        poll::until_async("nats-server to take connections", PATIENCE, async || {
            assert!(!self.process.has_ended(), "{}", self.process.log());
            let text = fs::read_to_string(&ports).map_err(|error| error.to_string())?;
            let port = text.split("127.0.0.1:").nth(1).and_then(|rest| {
                let end = rest.find(|digit: char| !digit.is_ascii_digit());
                rest[..end.unwrap_or(rest.len())].parse().ok()
            });
            port.ok_or(text)
        })
        .await
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// `127.0.0.1:port`.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Ends it without a word to anybody.
    pub fn kill(&self) {
        self.process.kill();
    }
}

/// A port that is free now.
async fn free_port() -> u16 {
    let bound = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let address = bound.and_then(|listener| listener.local_addr());
    address
        .unwrap_or_else(|error| panic!("no free port: {error}"))
        .port()
}
