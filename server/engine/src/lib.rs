//! Use cases of Coretex: load, decide (core), commit (store), ring (bus).
//!
//! One module a noun. [`Engine`] is the facade that the API layer calls.

mod access;
mod approvals;
mod bulk;
mod commits;
mod configs;
mod dispatch;
mod dlq;
mod engine;
mod error;
mod feed;
mod filter;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod fixtures;
mod jobs;
mod kernel;
mod keyspace;
mod limits;
mod news;
mod notices;
mod pauses;
mod policy;
mod replicas;
mod routing;
mod rulings;
mod sessions;
mod sweeper;
mod system;
mod telemetry;
mod time;
mod timers;
mod types;
mod waiters;

pub use access::{ApiKey, Caller, DEFAULT_TENANT, NewApiKey, Role, SYSTEM_TENANT, grants};
pub use approvals::{
    ApprovalAnswer, ApprovalEvent, ApprovalEventKind, ApprovalPage, ApprovalWatchItem, MAX_ANSWER,
    ResolveApproval, Resolved,
};
pub use bulk::{BulkOptions, BulkProgress, MAX_BULK_RATE};
pub use configs::{
    ConfigDocument, ConfigRevision, Expected, MAX_CONFIG_BYTES, MAX_CONFIGS, MAX_REVISIONS,
};
pub use dlq::{DlqAnswer, DlqPage};
pub use engine::{
    Engine, EngineOptions, Limits, MAX_CANCEL_GRACE, MAX_PAYLOAD_LIMIT, Retention, Timing,
};
pub use error::{Error, Noun, Result, Violation};
pub use filter::{ApprovalFilter, DlqFilter, JobFilter};
pub use jobs::MAX_LABELS;
pub use kernel::{AllowAll, Facts, Judgement, Kernel, Undecided};
pub use notices::{Endpoint, Notice, Notifier};
pub use policy::{
    Action, AuditEntry, BASE_PREFIX, BaseBundle, BundleAnswer, Explained, MAX_BUNDLE_BYTES,
    MAX_BUNDLES, PolicyKernel, Published, PutBundle, Replayed, Signatures, Simulated,
    SnapshotAnswer, Subject,
};
pub use sessions::outbound::Weight;
pub use sessions::{MAX_TOPICS, Session};
pub use types::*;
