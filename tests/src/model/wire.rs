//! Messages between clients, replicas, workers and the store of the model.

use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, ReplicaId, SessionId, Topic};
use coretex_core::job::{Job, JobSpec, Slot};
use coretex_core::lease::{Claim, HeldKey, ReplicaLease};
use coretex_core::queue::ReadyKey;
use coretex_core::time::Timestamp;

/// Virtual time: microseconds since the run began.
pub(super) type Micros = u64;
/// A stream between a worker and a replica.
pub(super) type Conn = u64;
/// A request of a replica to the store.
pub(super) type OpId = u64;
/// A request of a client to a replica.
pub(super) type Call = u64;

pub(super) const MILLI: Micros = 1_000;
pub(super) const SECOND: Micros = 1_000_000;

/// Exact for every duration that the model uses.
pub(super) const fn micros(duration: Duration) -> Micros {
    duration.as_micros() as Micros
}

/// How a worker says that an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ended {
    Succeeded,
    Failed,
    Cancelled,
}

#[derive(Clone, Debug)]
pub(super) enum ToServer {
    Hello {
        running: Vec<(JobId, Claim)>,
    },
    Heartbeat,
    Started {
        job: JobId,
        lease: LeaseId,
    },
    Result {
        job: JobId,
        claim: Claim,
        ended: Ended,
    },
    Reject {
        job: JobId,
        lease: LeaseId,
    },
}

#[derive(Clone, Debug)]
pub(super) enum ToWorker {
    Welcome,
    /// `committed`: when its commit was sent; for the checks only.
    Assignment {
        job: JobId,
        claim: Claim,
        committed: Micros,
    },
    Cancel {
        job: JobId,
        claim: Claim,
    },
    Revoke {
        job: JobId,
        claim: Claim,
    },
    Ack {
        lease: LeaseId,
        applied: bool,
    },
    Pong,
}

#[derive(Clone, Debug)]
pub(super) enum Bus {
    /// A job was added to the queue of this topic.
    Ready(Topic),
    /// For the owner of a slot: its attempt is to be stopped.
    Tell { slot: Slot, revoke: bool },
}

#[derive(Clone, Debug)]
pub(super) enum ClientCall {
    Submit { id: JobId, spec: Arc<JobSpec> },
    Cancel { id: JobId, grace: Option<Duration> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClientAnswer {
    Done,
    /// Surely not done.
    Refused,
    Unknown,
}

/// An index entry, named by its index.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Entry {
    Ready(Topic, Vec<u8>),
    Held(Vec<u8>),
    Due(Timestamp, JobId),
}

/// Why a job is committed; for the checks only.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Why {
    Submit,
    /// A new job that took a slot at once.
    Fast(SessionId),
    Claim,
    Result(LeaseId),
    Lost(LeaseId),
    Other,
}

/// One conditional write of a job and its index entries.
#[derive(Clone, Debug)]
pub(super) struct JobCommit {
    pub(super) commit_id: u128,
    /// The version that must stand; 0 = no record.
    pub(super) expect: u64,
    pub(super) job: Arc<Job>,
    pub(super) remove: Vec<Entry>,
    pub(super) add: Vec<Entry>,
    pub(super) why: Why,
    pub(super) replica: usize,
    /// When it was decided.
    pub(super) decided: Micros,
}

#[derive(Clone, Debug)]
pub(super) enum Request {
    Get(JobId),
    /// The skip scan: up to so many candidates of every (tenant, shape) of these queues, with the
    /// records behind them.
    Ready {
        topics: Vec<Topic>,
        each: usize,
    },
    Held(Vec<u8>),
    HeldReplicas,
    Due,
    Leases,
    Lease(ReplicaId),
    Commit(Arc<JobCommit>),
    /// `lease: None` deletes.
    PutLease {
        commit_id: u128,
        replica: ReplicaId,
        expect: u64,
        lease: Option<ReplicaLease>,
    },
}

impl Request {
    /// Whether a lost answer leaves the outcome open.
    pub(super) const fn is_write(&self) -> bool {
        matches!(self, Self::Commit(_) | Self::PutLease { .. })
    }
}

/// A job record with its version.
pub(super) type Record = (u64, Arc<Job>);

#[derive(Clone, Debug)]
pub(super) enum Reply {
    Job(Option<Record>),
    /// One list for every (tenant, shape).
    Ready(Vec<Vec<(ReadyKey, Record)>>),
    Held(Vec<HeldKey>),
    Replicas(Vec<ReplicaId>),
    Due(Vec<JobId>),
    Leases(Vec<(u64, ReplicaLease)>),
    /// The new version.
    Committed(u64),
    Conflict,
}

#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// The incarnation of the store; another one means that it may have gone back in time.
    pub(super) run_id: u64,
    pub(super) time: Timestamp,
    pub(super) reply: Reply,
}

/// The transport's word when there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The request did not reach the store.
    Unavailable,
    /// No answer in time.
    Timeout,
}
