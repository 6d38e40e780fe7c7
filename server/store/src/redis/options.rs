//! How to open a store in Redis, and why that may fail.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coretex_core::time::IdGen;

use crate::Durability;
use crate::embedded::GroupObserver;

/// Certificates for `rediss://`, in PEM.
#[derive(Clone, Default)]
pub struct RedisTls {
    /// Who may have signed the server's certificate; `None` = whom the system trusts.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key, where the server asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for RedisTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTls")
            .field("ca", &self.ca.is_some())
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// How to open a store in Redis.
#[derive(Clone)]
pub struct RedisOptions {
    /// `redis://user:password@host:port/db`, `rediss://` for TLS, or
    /// `redis+unix:///path?db=0&user=name&pass=word`.
    pub url: String,
    /// Certificates for `rediss://`.
    pub tls: RedisTls,
    /// What must survive what before a commit is acknowledged. `Fsync` needs `appendfsync always`,
    /// `Replicated` as many replicas as [`Self::replicas`], `Async` an append-only file;
    /// `Ephemeral` asks for nothing. Opening fails when the server does not give it.
    pub durability: Durability,
    /// How many replicas must have a commit (`Replicated`).
    pub replicas: u32,
    /// How long a group waits for its replicas; then its outcome is unknown.
    pub replica_timeout: Duration,
    /// Number of data shards of a new store; an existing one must have as many.
    pub shards: u16,
    /// Random numbers: the identity of a new store, the name of the writer, names of uploads.
    pub ids: Arc<dyn IdGen>,
    /// How long connecting may take, TLS and login included.
    pub connect_timeout: Duration,
    /// How long a read may take, waiting for a connection not included.
    pub read_timeout: Duration,
    /// How long a read waits for a free connection.
    pub wait_timeout: Duration,
    /// How long a group of commits may take before its outcome is unknown. Longer than the pauses
    /// of a healthy server: an fsync behind a busy disk, a fork for a snapshot.
    pub commit_timeout: Duration,
    /// Most connections for reads.
    pub connections: usize,
    /// Groups that may be under way at the same time: one is prepared while Redis works on the
    /// other.
    pub groups: usize,
    /// Commits that may wait; more are refused.
    pub queue_commits: usize,
    /// Bytes of commits that may wait; more are refused.
    pub queue_bytes: usize,
    /// Most commits in one group.
    pub group_commits: usize,
    /// Most bytes in one group, unless one commit is larger.
    pub group_bytes: usize,
    /// Values longer than this are uploaded before their commit is sent.
    pub upload_above: usize,
    /// How often memory and disk of the server are looked at.
    pub poll: Duration,
    /// Is told about groups.
    pub observer: Option<Arc<dyn GroupObserver>>,
}

impl RedisOptions {
    /// A store at `url`, durable as an append-only file is.
    #[must_use]
    pub fn new(url: impl Into<String>, ids: Arc<dyn IdGen>) -> Self {
        Self {
            url: url.into(),
            tls: RedisTls::default(),
            durability: Durability::Async,
            replicas: 1,
            replica_timeout: Duration::from_secs(1),
            shards: 1,
            ids,
            connect_timeout: Duration::from_secs(2),
            read_timeout: Duration::from_secs(3),
            wait_timeout: Duration::from_secs(3),
            commit_timeout: Duration::from_secs(3),
            connections: 8,
            groups: 2,
            queue_commits: 8 * 1024,
            queue_bytes: 64 * 1024 * 1024,
            group_commits: 128,
            group_bytes: 1024 * 1024,
            upload_above: 64 * 1024,
            poll: Duration::from_secs(3),
            observer: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), RedisOpenError> {
        let wrong = |reason: &'static str| Err(RedisOpenError::Options { reason });
        if self.shards == 0 || self.shards == u16::MAX {
            return wrong("the number of shards is from 1 to 65534");
        }
        if self.queue_commits == 0 || self.group_commits == 0 || self.groups == 0 {
            return wrong("queue and groups hold at least one commit");
        }
        if self.connections == 0 {
            return wrong("reads need at least one connection");
        }
        if self.durability == Durability::Replicated && self.replicas == 0 {
            return wrong("replicated means at least one replica");
        }
        if self.durability == Durability::Replicated && self.replica_timeout >= self.commit_timeout
        {
            return wrong("the wait for replicas is shorter than the one for a group");
        }
        let times = [self.connect_timeout, self.read_timeout, self.commit_timeout];
        if times.iter().chain([&self.poll]).any(Duration::is_zero) {
            return wrong("timeouts and the pause between polls are longer than zero");
        }
        Ok(())
    }
}

/// A URL without what is secret in it.
pub(super) fn redacted(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    // A password may contain any sign: what is left of the last one is the login.
    let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
    let place = place.split_once('?').map_or(place, |(place, _)| place);
    format!("{scheme}://{place}")
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("url", &redacted(&self.url))
            .field("tls", &self.tls)
            .field("durability", &self.durability)
            .field("shards", &self.shards)
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("commit_timeout", &self.commit_timeout)
            .finish_non_exhaustive()
    }
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum RedisOpenError {
    /// Options contradict each other or themselves.
    #[error("invalid store options: {reason}")]
    Options {
        /// Which.
        reason: &'static str,
    },
    /// The server cannot be reached, or not used yet.
    #[error("cannot reach redis: {reason}")]
    Unreachable {
        /// What it or the system said.
        reason: String,
    },
    /// The login was refused, or its user may not do what the store needs.
    #[error("redis refused: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
    /// The server is too old.
    #[error("redis {found} is too old, the store needs {needed}")]
    Version {
        /// What runs.
        found: String,
        /// What is needed.
        needed: &'static str,
    },
    /// The server would throw data away when it is full.
    #[error("redis has maxmemory-policy {found}, which loses data; set it to noeviction")]
    Eviction {
        /// Its policy.
        found: String,
    },
    /// The durability that was asked for is not what the server gives.
    #[error("redis does not give durability {wanted}: {reason}")]
    Durability {
        /// What was asked for.
        wanted: &'static str,
        /// What is missing.
        reason: String,
    },
    /// The database belongs to something else.
    #[error("the redis database is not a store of this program: {reason}")]
    Foreign {
        /// What is there instead.
        reason: String,
    },
    /// The store was made by a newer or otherwise different build.
    #[error("the store has format {found}, this build reads format {supported}")]
    Format {
        /// Of the store.
        found: u32,
        /// Of this build.
        supported: u32,
    },
    /// The number of shards is fixed when a store is created.
    #[error("the store has {found} shards, {wanted} were asked for")]
    Shards {
        /// Of the store.
        found: u16,
        /// Of the options.
        wanted: u16,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_is_left_of_a_url() {
        for (url, safe) in [
            ("redis://user:se@cret@host:1/2", "redis://host:1/2"),
            ("rediss://:secret@host", "rediss://host"),
            ("redis+unix:///run/r?pass=secret", "redis+unix:///run/r"),
            ("redis://host", "redis://host"),
        ] {
            assert_eq!(redacted(url), safe);
        }
    }
}
