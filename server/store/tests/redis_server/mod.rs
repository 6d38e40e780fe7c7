//! Redis servers for tests: child processes with a temporary directory, killed on drop.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "every test uses a part; a failed step of a test should stop the test"
)]

use std::env;
use std::future::Future;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub mod load;
pub mod proxy;

use coretex_store::conformance::SeededIds;
use coretex_store::redis::RedisOptions;
use coretex_store::{Durability, Store};
use redis::aio::MultiplexedConnection;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Whether there is a `redis-server`; says so on stderr when there is not, and fails in CI.
pub fn available() -> bool {
    let found = binary().is_some();
    if !found {
        let message = "redis-server is missing, run `make setup`";
        let in_ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
        assert!(!in_ci, "{message}");
        // Not `eprintln!`: the test harness would keep that of a passing test to itself.
        let _ = writeln!(std::io::stderr().lock(), "SKIPPED: {message}");
    }
    found
}

fn binary() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = env::var_os("CORETEX_TOOLS")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    folders.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/bin"));
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let mut paths = folders.iter().map(|folder| folder.join("redis-server"));
    paths.find(|path| path.is_file())
}

/// Looks at something until it is there.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut looks = interval(Duration::from_millis(5));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
    }
}

/// Waits until so much time has passed.
pub async fn pass(time: Duration) {
    let end = Instant::now() + time;
    until("time passes", || async move {
        (Instant::now() >= end).then_some(())
    })
    .await;
}

/// A server, running or not, and its data.
pub struct Server {
    directory: tempfile::TempDir,
    child: Option<Child>,
    pub port: u16,
    arguments: Vec<String>,
}

impl Server {
    /// Starts a server with these arguments after the usual ones; `PORT` stands for its port.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut server = Self {
            directory: tempfile::tempdir().unwrap(),
            child: None,
            port: 0,
            arguments: arguments.iter().map(ToString::to_string).collect(),
        };
        // Somebody else may take the port between the look and the start.
        for _ in 0..5 {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            server.port = listener.local_addr().unwrap().port();
            drop(listener);
            if server.run().await {
                return server;
            }
        }
        panic!("redis-server does not start: {}", server.log());
    }

    /// A server with an append-only file.
    pub async fn durable(fsync: &str) -> Self {
        Self::start(&["--appendonly", "yes", "--appendfsync", fsync]).await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Runs the process; false when it ends at once.
    pub async fn run(&mut self) -> bool {
        let child = Command::new(binary().unwrap())
            .args(["--bind", "127.0.0.1", "--save", "", "--logfile", "log"])
            .args(["--unixsocket", "socket", "--unixsocketperm", "700"])
            .args(["--dir", &self.directory.path().display().to_string()])
            .args([
                "--port",
                &self.port.to_string(),
                "--repl-diskless-sync-delay",
                "0",
            ])
            .args([
                "--repl-ping-replica-period",
                "1",
                "--enable-debug-command",
                "yes",
            ])
            .args(
                self.arguments
                    .iter()
                    .map(|word| word.replace("PORT", &self.port.to_string())),
            )
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let child = Arc::new(parking_lot::Mutex::new(child));
        let alive = until("redis-server answers", || {
            let (child, socket) = (child.clone(), self.unix_url());
            async move {
                if child.lock().try_wait().unwrap().is_some() {
                    return Some(false);
                }
                let client = redis::Client::open(socket).unwrap();
                let mut raw = client.get_multiplexed_async_connection().await.ok()?;
                let pong: Result<String, _> = redis::cmd("PING").query_async(&mut raw).await;
                match pong {
                    Ok(_) => Some(true),
                    // A server that wants a password answers too.
                    Err(error) if error.code() == Some("NOAUTH") => Some(true),
                    Err(_) => None,
                }
            }
        })
        .await;
        let child = Arc::into_inner(child).unwrap().into_inner();
        self.child = alive.then_some(child);
        alive
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn unix_url(&self) -> String {
        format!("redis+unix://{}/socket", self.directory.path().display())
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("the server runs");
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends the process: in order, or without a chance to do anything.
    pub fn stop(&mut self, signal: Signal) {
        if self.child.is_some() {
            self.signal(signal);
        }
        if let Some(mut child) = self.child.take() {
            child.wait().unwrap();
        }
        let _ = std::fs::remove_file(self.directory.path().join("socket"));
    }

    /// Starts it again with its data.
    pub async fn again(&mut self) {
        assert!(self.run().await, "{}", self.log());
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where its append-only file is, in parts.
    pub fn append_only(&self) -> PathBuf {
        self.directory.path().join("appendonlydir")
    }

    /// Removes everything that it has written.
    pub fn wipe(&self) {
        let _ = std::fs::remove_dir_all(self.append_only());
        let _ = std::fs::remove_file(self.directory.path().join("dump.rdb"));
    }

    /// A connection of the test's own.
    pub async fn raw(&self) -> MultiplexedConnection {
        let client = redis::Client::open(self.unix_url()).unwrap();
        let mut raw = client.get_multiplexed_async_connection().await.unwrap();
        raw.set_response_timeout(Duration::from_secs(20));
        raw
    }

    /// One command, as words.
    pub async fn command(&self, words: &[&str]) -> redis::Value {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut self.raw().await).await.unwrap()
    }

    /// A field of `INFO`.
    pub async fn info(&self, field: &str) -> String {
        let text: String = redis::cmd("INFO")
            .query_async(&mut self.raw().await)
            .await
            .unwrap();
        let line = text
            .lines()
            .find_map(|line| line.split_once(':').filter(|(name, _)| *name == field));
        line.map(|(_, value)| value.to_owned()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Options for a store at `url`, with random numbers that no other store of this run has.
pub fn options(url: impl Into<String>) -> RedisOptions {
    static SEED: AtomicU64 = AtomicU64::new(1);
    let seed = SEED.fetch_add(1, Ordering::Relaxed) | u64::from(std::process::id()) << 32;
    RedisOptions::new(url, Arc::new(SeededIds::new(seed)))
}

/// Options that ask for no durability.
pub fn ephemeral(url: impl Into<String>) -> RedisOptions {
    let mut options = options(url);
    options.durability = Durability::Ephemeral;
    options
}

/// Lets store time pass.
pub async fn pass_store_time(store: &dyn Store, by: Duration) {
    let end = store.time().await.unwrap() + by;
    until("store time passes", || async move {
        (store.time().await.unwrap() >= end).then_some(())
    })
    .await;
}
