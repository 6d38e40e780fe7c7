//! The servers that replicas share: Redis and NATS, on loopback, with data of their own, stopped when
//! dropped.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::server::{Keeping, stop};
use crate::{Result, process};

/// How long a server may take to listen.
const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis and a NATS server.
#[derive(Debug)]
pub(crate) struct Backends {
    redis: Stopped,
    _nats: Stopped,
    redis_port: u16,
    nats_port: u16,
    _directory: tempfile::TempDir,
}

impl Backends {
    pub(crate) fn start(parent: &Path, keeping: Keeping) -> Result<Self> {
        let directory = tempfile::TempDir::with_prefix_in("coretex-shared-", parent)?;
        let (redis_port, nats_port) = (free_port()?, free_port()?);
        let appendfsync = match keeping {
            Keeping::RedisAlways => "always",
            Keeping::Fsync | Keeping::Async | Keeping::RedisEverysec => "everysec",
        };
        let redis = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &redis_port.to_string()])
            .args(["--appendonly", "yes", "--appendfsync", appendfsync])
            .args(["--save", "", "--maxmemory-policy", "noeviction", "--dir"])
            .arg(directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server does not start: {error}; run scripts/setup"))?;
        let redis = Stopped(redis);
        let nats = Command::new("nats-server")
            .args(["--addr", "127.0.0.1", "--port", &nats_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("nats-server does not start: {error}; run scripts/setup"))?;
        let backends = Self {
            redis,
            _nats: Stopped(nats),
            redis_port,
            nats_port,
            _directory: directory,
        };
        listens(redis_port)?;
        listens(nats_port)?;
        Ok(backends)
    }

    pub(crate) fn store(&self) -> String {
        format!("redis://127.0.0.1:{}", self.redis_port)
    }

    pub(crate) fn bus(&self) -> String {
        format!("nats://127.0.0.1:{}", self.nats_port)
    }

    /// Processor time of Redis so far.
    pub(crate) fn redis_cpu(&self) -> Result<Duration> {
        process::cpu(self.redis.0.id())
    }

    /// Bytes that Redis uses for data.
    pub(crate) fn redis_memory(&self) -> Result<u64> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.redis_port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"INFO memory\r\nQUIT\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("used_memory:"))
            .ok_or("no used_memory in the answer of Redis")?;
        Ok(line.trim().parse()?)
    }
}

/// A process that is stopped when dropped.
#[derive(Debug)]
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        stop(&mut self.0);
    }
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn listens(port: u16) -> Result<()> {
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        if begun.elapsed() > PATIENCE {
            return Err(format!("nothing listens on port {port}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
