//! What can go wrong in a use case, free of any transport. The API layer maps it to statuses.

use std::time::Duration;

use coretex_core::approval::ApprovalState;
use coretex_core::id::{JobId, PoolName, Topic};
use coretex_core::job::transition::Refusal;
use coretex_store::{CommitError, StoreError};

/// One thing that is wrong with one field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field as in the contract, for example `retry.multiplier`.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
}

impl Violation {
    /// A violation.
    pub fn new(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            description: description.into(),
        }
    }
}

/// The kinds of things that have an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noun {
    /// A job.
    Job,
    /// A worker.
    Worker,
    /// An API key.
    ApiKey,
    /// A dead letter.
    DlqEntry,
    /// A bundle of the policy.
    Bundle,
    /// A snapshot of the policy.
    Snapshot,
    /// A document of configuration.
    Config,
    /// An approval.
    Approval,
}

/// A refused or failed use case. Everything but the `Internal`, `Unavailable` and `DataLoss` texts
/// may be shown to the caller; those are for logs.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// Fields are wrong; nothing was stored.
    #[error("invalid request")]
    Invalid(Vec<Violation>),
    /// There is no such thing in the caller's tenant.
    #[error("{noun:?} not found")]
    NotFound {
        /// What kind of thing.
        noun: Noun,
        /// The id that was asked for.
        id: String,
    },
    /// A job of that id exists with other content.
    #[error("a job with this id exists and was made by a different request")]
    AlreadyExists {
        /// The id.
        id: String,
    },
    /// The idempotency key was used for other content.
    #[error("the idempotency key was used with a different request")]
    IdempotencyKeyReused {
        /// The job that the key stands for, where the caller may know of it.
        job_id: Option<JobId>,
    },
    /// The page token belongs to another list.
    #[error("the page token does not belong to this list")]
    PageTokenInvalid,
    /// The resume token is foreign, or what it points to has been trimmed.
    #[error("the resume token is no longer valid")]
    ResumeTokenInvalid,
    /// A field asks for something that is not built.
    #[error("a feature is not available")]
    FeatureNotAvailable {
        /// The field.
        field: String,
    },
    /// The credential is missing.
    #[error("no credential")]
    CredentialMissing,
    /// The credential is unknown, revoked or expired.
    #[error("the credential is not valid")]
    CredentialInvalid,
    /// The credential lacks the permission.
    #[error("permission missing")]
    PermissionMissing {
        /// The permission.
        permission: String,
    },
    /// The credential may not act for that tenant.
    #[error("tenant not allowed")]
    TenantNotAllowed,
    /// The credential does not list that team.
    #[error("team not allowed")]
    TeamNotAllowed {
        /// The team.
        team_id: String,
    },
    /// The credential may not hand out that role.
    #[error("role not allowed")]
    RoleNotAllowed {
        /// The role.
        role: String,
    },
    /// A bundle that is in force is not deleted.
    #[error("the bundle is in force")]
    BundleInForce {
        /// The bundle.
        bundle_id: String,
    },
    /// A bundle has no signature that counts.
    #[error("bundle `{bundle_id}`: {reason}")]
    SignatureInvalid {
        /// The bundle.
        bundle_id: String,
        /// What is wrong.
        reason: String,
    },
    /// The kernel cannot decide.
    #[error("no decision: {reason}")]
    PolicyUnavailable {
        /// Why.
        reason: String,
    },
    /// There are as many bundles as there may be.
    #[error("too many bundles")]
    TooManyBundles {
        /// How many there may be.
        limit: usize,
    },
    /// Whoever votes has been shown another approval.
    #[error("the expected hash is not that of the approval")]
    ApprovalHashMismatch,
    /// The approval waits for no votes any more.
    #[error("the approval is {}", state.name())]
    ApprovalResolved {
        /// How it was resolved.
        state: ApprovalState,
    },
    /// Nobody votes on what he has asked for.
    #[error("who asked for the job has no vote on its approval")]
    ApprovalOwnRequest,
    /// The credential has none of the roles whose votes count.
    #[error("the roles of the credential have no vote on this approval")]
    ApprovalRoleMissing {
        /// Whose votes count.
        roles: Vec<String>,
    },
    /// A job must have ended for this.
    #[error("the job has not ended")]
    JobNotEnded,
    /// The tenant has too many waiting jobs.
    #[error("too many waiting jobs")]
    TooManyWaitingJobs {
        /// The limit.
        limit: u64,
    },
    /// The tenant submits faster than it may.
    #[error("submitted too fast")]
    SubmitRateExceeded {
        /// When it may again.
        retry_after: Duration,
    },
    /// As many jobs run with a concurrency key as may, and the job is one to be refused then.
    #[error("the concurrency key is full")]
    ConcurrencyLimitReached {
        /// The key.
        key: String,
        /// The limit.
        limit: u32,
        /// Jobs that run with it.
        holders: Vec<JobId>,
    },
    /// There is no such pool in the table of pools.
    #[error("the table of pools does not have pool `{pool}`")]
    PoolNotAllowed {
        /// The pool.
        pool: PoolName,
    },
    /// The table of topics does not give the topic to the worker's pool.
    #[error("the table of topics does not give `{topic}` to pool `{pool}`")]
    TopicNotAllowed {
        /// The topic.
        topic: Topic,
        /// The pool.
        pool: PoolName,
    },
    /// There are as many pauses as there may be.
    #[error("too many pauses")]
    TooManyPauses {
        /// How many there may be.
        limit: usize,
    },
    /// What is there is not what the caller takes it for.
    #[error("the etag is not that of what is there")]
    EtagMismatch {
        /// The etag of what is there; `None` = nothing is.
        current: Option<String>,
    },
    /// A tenant has as many documents of configuration, or as many bytes of them, as it may.
    #[error("too many documents of configuration")]
    TooManyConfigs {
        /// How many there may be.
        documents: u32,
        /// How many bytes they may have, revisions included.
        bytes: u64,
    },
    /// More streams or sessions than the server takes.
    #[error("too many open streams")]
    TooManyStreams {
        /// How many there may be.
        limit: usize,
    },
    /// A watcher read too slowly.
    #[error("the reader is too slow")]
    WatchTooSlow,
    /// The server has too much to do.
    #[error("overloaded")]
    Overloaded {
        /// A fair pause.
        retry_after: Duration,
    },
    /// The store is above its high-water mark.
    #[error("the store is nearly full")]
    StoreFull,
    /// Concurrent changes kept winning.
    #[error("too much contention on one job")]
    Contention,
    /// The store does not answer.
    #[error("store unavailable: {reason}")]
    Unavailable {
        /// For logs.
        reason: String,
    },
    /// A write may or may not have been applied.
    #[error("outcome unknown")]
    OutcomeUnknown,
    /// Stored data is damaged.
    #[error("stored data is damaged: {what}")]
    DataLoss {
        /// For logs.
        what: String,
    },
    /// The server is stopping.
    #[error("the server is draining")]
    Draining,
    /// A worker broke the protocol of its session.
    #[error("session protocol violated: {reason}")]
    Protocol {
        /// Which rule.
        reason: String,
    },
    /// A bug.
    #[error("internal error: {reason}")]
    Internal {
        /// For logs.
        reason: String,
    },
}

impl Error {
    /// One wrong field.
    pub fn invalid(field: impl Into<String>, description: impl Into<String>) -> Self {
        Self::Invalid(vec![Violation::new(field, description)])
    }

    /// A missing job.
    pub fn no_job(id: impl Into<String>) -> Self {
        Self::NotFound {
            noun: Noun::Job,
            id: id.into(),
        }
    }

    /// A missing approval.
    pub fn no_approval(id: impl Into<String>) -> Self {
        Self::NotFound {
            noun: Noun::Approval,
            id: id.into(),
        }
    }

    /// A missing dead letter.
    pub fn no_dlq_entry(id: impl Into<String>) -> Self {
        Self::NotFound {
            noun: Noun::DlqEntry,
            id: id.into(),
        }
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { reason } => Self::Unavailable { reason },
            StoreError::DataLoss { what } => Self::DataLoss { what },
            StoreError::Invalid { reason } => Self::Internal { reason },
        }
    }
}

impl From<CommitError> for Error {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } | CommitError::PointerMoved { .. } => Self::Contention,
            CommitError::LimitReached(_) => Self::Internal {
                reason: "unexpected limit".to_owned(),
            },
            CommitError::Overloaded { retry_after } => Self::Overloaded { retry_after },
            CommitError::Unavailable { reason } => Self::Unavailable { reason },
            CommitError::Unknown { .. } => Self::OutcomeUnknown,
            CommitError::DataLoss { what } => Self::DataLoss { what },
            CommitError::Invalid { reason } => Self::Internal { reason },
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Internal {
            reason: refusal.to_string(),
        }
    }
}

/// The result of a use case.
pub type Result<T> = std::result::Result<T, Error>;
