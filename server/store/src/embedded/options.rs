//! How to open an embedded store, and why that may fail.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use coretex_core::time::Clock;

use crate::Durability;

use super::disk::DiskHook;

/// Who applies commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterMode {
    /// One thread of its own, which groups commits.
    Thread,
    /// The caller, inside `commit`, one commit a group, and every read inside its call: what
    /// happens depends on the order of calls alone, as tests in virtual time need it.
    Inline,
}

/// How much of the file is verified when it is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    /// All of it after a crash and when it is small; after a clean close of a larger one, only
    /// what is read, when it is read.
    Auto,
    /// All of it, always. Takes seconds for gigabytes.
    Always,
    /// All of it after a crash only.
    AfterCrash,
}

/// How far a repair has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepairProgress {
    /// From 0 to 1.
    pub fraction: f64,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Is called while a file that was not closed is verified, at least at its start.
pub type RepairObserver = Arc<dyn Fn(RepairProgress) + Send + Sync>;

/// One group of commits, as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// Commits in it, refused ones included.
    pub commits: usize,
    /// Commits in it that wrote something.
    pub applied: usize,
    /// Bytes of their names and values.
    pub bytes: usize,
    /// Commits that were still waiting when it was done.
    pub waiting: usize,
    /// From taking the group to its last answer being known, by the store's clock.
    pub took: Duration,
    /// Whether the database took it; false = the outcome is unknown or nothing was applied.
    pub written: bool,
}

/// Is told about every group, on the writer's thread.
pub trait GroupObserver: Send + Sync + fmt::Debug {
    /// A group was written or failed.
    fn group(&self, report: GroupReport);
}

/// How to open an embedded store.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// The directory; `None` = memory.
    pub path: Option<PathBuf>,
    /// What survives what. `Fsync` or `Async` with a directory, `Ephemeral` without one.
    pub durability: Durability,
    /// Memory for pages.
    pub cache_bytes: usize,
    /// Number of data shards of a new store; an existing one must have as many.
    pub shards: u16,
    /// The identity that a new store gets: random.
    pub id: u128,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who applies commits.
    pub writer: WriterMode,
    /// Commits that may wait; more are refused.
    pub queue_commits: usize,
    /// Bytes of commits that may wait; more are refused.
    pub queue_bytes: usize,
    /// Most commits in one transaction.
    pub group_commits: usize,
    /// Most bytes in one transaction, unless one commit is larger.
    pub group_bytes: usize,
    /// How long the writer waits for callers who were just answered, when there are many.
    pub linger: Duration,
    /// Whether a store opens at once after a kill under load, however large: every group then
    /// costs a second fsync and the state of the allocator. Otherwise opening after a kill under
    /// load reads the whole file, and after a kill while idle nothing of it.
    pub quick_recovery: bool,
    /// How much is verified on opening.
    pub verify: Verify,
    /// Is told how a repair goes on.
    pub on_repair: Option<RepairObserver>,
    /// Is told about groups.
    pub observer: Option<Arc<dyn GroupObserver>>,
    /// May refuse disk operations, for tests.
    pub disk_hook: Option<Arc<dyn DiskHook>>,
}

impl EmbeddedOptions {
    /// A store in a directory, every commit on disk before it is acknowledged.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>, clock: Arc<dyn Clock>, id: u128) -> Self {
        Self {
            path: Some(path.into()),
            durability: Durability::Fsync,
            ..Self::memory(clock, id)
        }
    }

    /// A store in memory.
    #[must_use]
    pub fn memory(clock: Arc<dyn Clock>, id: u128) -> Self {
        Self {
            path: None,
            durability: Durability::Ephemeral,
            cache_bytes: 16 * 1024 * 1024,
            shards: 1,
            id,
            clock,
            writer: WriterMode::Thread,
            queue_commits: 8 * 1024,
            queue_bytes: 64 * 1024 * 1024,
            group_commits: 128,
            group_bytes: 1024 * 1024,
            linger: Duration::from_micros(100),
            quick_recovery: false,
            verify: Verify::Auto,
            on_repair: None,
            observer: None,
            disk_hook: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), OpenError> {
        let wrong = |reason: &'static str| Err(OpenError::Options { reason });
        if self.shards == 0 || self.shards == u16::MAX {
            return wrong("the number of shards is from 1 to 65534");
        }
        if self.queue_commits == 0 || self.group_commits == 0 {
            return wrong("queue and group hold at least one commit");
        }
        match (self.durability, self.path.is_some()) {
            (Durability::Fsync | Durability::Async, true) | (Durability::Ephemeral, false) => {
                Ok(())
            }
            (Durability::Fsync | Durability::Async, false) => {
                wrong("a store in memory is ephemeral")
            }
            (Durability::Ephemeral, true) => wrong("a store in a directory is not ephemeral"),
            (Durability::Replicated, _) => wrong("an embedded store has no replicas"),
        }
    }
}

impl fmt::Debug for EmbeddedOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedOptions")
            .field("path", &self.path)
            .field("durability", &self.durability)
            .field("cache_bytes", &self.cache_bytes)
            .field("shards", &self.shards)
            .field("writer", &self.writer)
            .field("verify", &self.verify)
            .finish_non_exhaustive()
    }
}

/// Why a store was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Options contradict each other.
    #[error("invalid store options: {reason}")]
    Options {
        /// Which.
        reason: &'static str,
    },
    /// Another process has it.
    #[error("the store in {path} is in use by another process")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The file is no store of this program.
    #[error("{path} is not a store of this program: {reason}")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What it is instead.
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
    /// The file is damaged and was left as it is.
    #[error("the store file {path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
    /// The operating system said no.
    #[error("cannot open the store in {path}: {source}")]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// Its error.
        source: std::io::Error,
    },
    /// The file cannot be opened for a reason of the database's own.
    #[error("cannot open the store in {path}: {reason}")]
    Database {
        /// The file.
        path: PathBuf,
        /// The database's words.
        reason: String,
    },
}
