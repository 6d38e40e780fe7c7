//! The processes under test: the server and its workers, stopped when dropped.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use std::io::{BufRead, BufReader};

use crate::backends::Backends;
use crate::worker::CONNECTED;
use crate::{Result, process};

/// How a server keeps its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// In its own file, on disk before it is acknowledged.
    Fsync,
    /// In its own file, on disk within about a second.
    Async,
    /// In Redis, whose append-only file is on disk within about a second.
    RedisEverysec,
    /// In Redis, whose append-only file is on disk before a commit is acknowledged.
    RedisAlways,
}

impl Keeping {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fsync => "fsync",
            Self::Async => "async",
            Self::RedisEverysec => "redis, AOF everysec",
            Self::RedisAlways => "redis, AOF always",
        }
    }

    /// The setting of the server.
    const fn durability(self) -> &'static str {
        match self {
            Self::Fsync | Self::RedisAlways => "fsync",
            Self::Async | Self::RedisEverysec => "async",
        }
    }
}

/// A server with a store of its own.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pub(crate) url: String,
    pub(crate) data: PathBuf,
    pub(crate) ready_after: Duration,
    _directory: tempfile::TempDir,
}

impl Server {
    /// Starts a server and waits until it is ready; without `shared`, on an empty store of its own.
    pub(crate) fn start(
        coretexd: &Path,
        parent: &Path,
        keeping: Keeping,
        shared: Option<&Backends>,
    ) -> Result<Self> {
        let directory = tempfile::TempDir::with_prefix_in("coretex-bench-", parent)?;
        let data = directory.path().join("data");
        let config = directory.path().join("config.toml");
        // Retention is short, so that sweeping runs during every row. The limits are out of the way
        // of the rows that fill queues and connect many workers.
        let settings = format!(
            "[store]\ndurability = \"{}\"\n[retention]\njobs = \"20s\"\n[limits]\nmax_waiting_jobs = 2000000\n\
             max_sessions = 20000\nmax_connections = 20000\n",
            keeping.durability()
        );
        std::fs::write(&config, settings)?;
        let begun = Instant::now();
        let addresses = shared.map(|shared| {
            let (store, bus) = (shared.store(), shared.bus());
            ["--store".to_owned(), store, "--bus".to_owned(), bus]
        });
        let mut child = Command::new(coretexd)
            .args(addresses.into_iter().flatten())
            .args([
                "--dev",
                "--listen",
                "127.0.0.1:0",
                "--admin-listen",
                "127.0.0.1:0",
            ])
            .args(["--ready-json", "--data-dir"])
            .arg(&data)
            .arg("--config")
            .arg(&config)
            .env("CORETEX_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no stdout")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let ready: serde_json::Value = serde_json::from_str(&line)
            .map_err(|error| format!("the server did not become ready: {error}"))?;
        let listen = ready["listen"].as_str().ok_or("no listen address")?;
        Ok(Self {
            url: format!("http://{listen}"),
            child,
            data,
            ready_after: begun.elapsed(),
            _directory: directory,
        })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        process::cpu(self.pid())
    }

    pub(crate) fn rss(&self) -> Result<u64> {
        process::rss(self.pid())
    }

    pub(crate) fn bytes(&self) -> Result<u64> {
        process::directory_bytes(&self.data)
    }

    /// Ends it without a chance to say so.
    pub(crate) fn kill(mut self) {
        stop(&mut self.child);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// A process with workers that do nothing, many times.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    said: Option<BufReader<ChildStdout>>,
}

impl Worker {
    /// Starts a worker; it has connected when this returns.
    pub(crate) fn start(server: &Server, topic: &str, parallel: usize) -> Result<Self> {
        Self::start_at(&[server], topic, parallel, Duration::ZERO)
    }

    /// As [`Self::start`], with servers to go to when one is gone, and work that takes a while.
    pub(crate) fn start_at(
        servers: &[&Server],
        topic: &str,
        parallel: usize,
        work: Duration,
    ) -> Result<Self> {
        let work = work.as_millis().to_string();
        Self::start_with(servers, topic, parallel, &["--work-ms", &work])
    }

    /// As [`Self::start`], with further arguments of the role.
    pub(crate) fn start_with(
        servers: &[&Server],
        topic: &str,
        parallel: usize,
        further: &[&str],
    ) -> Result<Self> {
        let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
        let (urls, parallel) = (urls.join(","), parallel.to_string());
        let args = ["worker", "--server", &urls, "--topic", topic];
        let args = [&args, ["--parallel", &parallel].as_slice(), further].concat();
        Self::spawn(&args)
    }

    /// Starts this program in another role; its workers have connected when this returns.
    pub(crate) fn spawn(args: &[&str]) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = child.stdout.take().map(BufReader::new);
        let mut worker = Self { child, said };
        let line = next_line(worker.said.as_mut().ok_or("no stdout")?)?;
        if line == CONNECTED {
            Ok(worker)
        } else {
            Err("the worker did not connect".into())
        }
    }

    /// Waits until it says this, as the next thing.
    pub(crate) async fn says(&mut self, expected: &str) -> Result<()> {
        let mut said = self.said.take().ok_or("no stdout")?;
        let (said, line) = tokio::task::spawn_blocking(move || {
            let line = next_line(&mut said);
            (said, line)
        })
        .await?;
        self.said = Some(said);
        let line = line?;
        if line == expected {
            Ok(())
        } else {
            Err(format!("the worker said {line:?} in place of {expected:?}").into())
        }
    }

    pub(crate) fn cpu(&self) -> Result<Duration> {
        process::cpu(self.child.id())
    }
}

/// A line, or nothing when the process has ended.
fn next_line(from: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

impl Drop for Worker {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

pub(crate) fn stop(child: &mut Child) {
    // It may have ended by itself; then there is nothing to stop.
    let _ = child.kill();
    let _ = child.wait();
}
