//! Requests and answers of the use cases that are more than a record.

mod worker;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use coretex_core::config::Effective;
use coretex_core::id::{JobId, LeaseId, PoolName, ReplicaId, SessionId, TenantId, Topic, WorkerId};
use coretex_core::job::history::JobEvent;
use coretex_core::job::output::{Channel, Chunk, Entry, Position};
use coretex_core::job::transition::Outcome;
use coretex_core::job::{Job, JobSpec, JobState, Placement, Priority};
use coretex_core::payload::Payload;
use coretex_core::retry::RetryPolicy;
use coretex_core::routing::LeftOpen;
use coretex_core::time::Timestamp;
use coretex_store::{Durability, Usage};
use serde::Serialize;

pub use worker::{PoolInfo, RunningAttempt, WorkerInfo};

/// A job to submit, validated field by field (the engine checks what needs state).
#[derive(Clone, Debug)]
pub struct SubmitJob {
    /// The caller's own id; `None` = the server makes one.
    pub job_id: Option<JobId>,
    /// What is asked for.
    pub spec: JobSpec,
    /// What of it the caller did not say, so that its topic may.
    pub left_open: LeftOpen,
    /// What the worker gets; whole, never apart.
    pub input: Option<Payload>,
    /// Scoped to the tenant; empty = none.
    pub idempotency_key: String,
    /// W3C trace id to join; empty = a new one.
    pub trace_id: String,
    /// Answer with the finished job if it ends within this time.
    pub wait: Option<Duration>,
}

/// What a rerun changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct JobEdits {
    /// Another input.
    pub input: Option<Payload>,
    /// Another topic.
    pub topic: Option<Topic>,
    /// Another priority.
    pub priority: Option<Priority>,
    /// Another placement.
    pub placement: Option<Placement>,
    /// Labels to add or replace.
    pub add_labels: BTreeMap<String, String>,
    /// Labels to remove.
    pub remove_labels: Vec<String>,
    /// Another retry policy.
    pub retry: Option<RetryPolicy>,
    /// Another attempt timeout.
    pub timeout: Option<Duration>,
}

/// A job, and how it stands now.
#[derive(Clone, Debug)]
pub struct JobAnswer {
    /// The record; payloads that stand apart are joined when they were asked for.
    pub job: Arc<Job>,
    /// Its version, the etag.
    pub version: u64,
    /// The first cause of `DiagnoseJob` while it waits; empty otherwise.
    pub waiting_reason: &'static str,
}

/// The answer to a submit or rerun.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// The job.
    pub answer: JobAnswer,
    /// True when an earlier request had made it.
    pub replayed: bool,
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default)]
pub struct PageRequest {
    /// At most this many items; the API layer has applied default and cap.
    pub size: usize,
    /// From the last answer; empty = from the start.
    pub token: String,
}

/// A page of jobs.
#[derive(Clone, Debug)]
pub struct JobPage {
    /// Newest first.
    pub jobs: Vec<JobAnswer>,
    /// Empty = the end.
    pub next_page_token: String,
    /// A watch from here misses nothing.
    pub resume_token: String,
}

/// How many jobs match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobCount {
    /// At least this many.
    pub count: u64,
    /// True when counting stopped early.
    pub capped: bool,
}

/// What a watch is about.
#[derive(Clone, Debug)]
pub enum WatchTarget {
    /// Every job that matches.
    Filter(crate::JobFilter),
    /// One job; the stream ends when it has ended.
    Job(JobId),
}

/// One message of a watch.
#[derive(Clone, Debug)]
pub enum WatchItem {
    /// The first message: everything before it is in the lists.
    Checkpoint {
        /// Resume from here.
        resume_token: String,
    },
    /// Something happened.
    Event {
        /// What.
        event: JobEvent,
        /// The job as it is now.
        answer: JobAnswer,
        /// Resume after this.
        resume_token: String,
    },
}

/// Which streamed output is asked for.
#[derive(Clone, Debug)]
pub struct ReadOutput {
    /// Of this attempt; `None` = of all, one after the other.
    pub attempt: Option<u32>,
    /// Of these channels.
    pub channels: Vec<Channel>,
    /// From where on.
    pub from: OutputFrom,
    /// Wait for more until the job has ended.
    pub follow: bool,
}

/// Where reading of streamed output begins.
#[derive(Clone, Copy, Debug)]
pub enum OutputFrom {
    /// With the pieces of at least this number, of the attempt that is asked for or of the first.
    Sequence(u32),
    /// Right here.
    Position(Position),
}

/// One piece of streamed output, or a gap.
#[derive(Clone, Debug)]
pub struct OutputItem {
    /// Of which attempt.
    pub attempt: u32,
    /// The piece, or the mark of a gap.
    pub entry: Entry,
    /// Pieces and bytes of the channel that were dropped so far; of a gap only.
    pub dropped: Option<(u64, u64)>,
    /// Right after it.
    pub next: Position,
}

/// Why a job is not running, or how it ended.
#[derive(Clone, Debug)]
pub struct Diagnosis {
    /// The state.
    pub state: JobState,
    /// In order; the first is the `waiting_reason`.
    pub causes: Vec<Cause>,
    /// Position within topic queue and tenant, from 1; 0 = does not wait in a queue.
    pub queue_position: u32,
    /// Counting stopped at 1,000.
    pub queue_position_capped: bool,
    /// What each pool says.
    pub pools: Vec<PoolDiagnosis>,
}

/// One reason why a job does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Machine-readable, as in the contract: of this server, or of the error that ended the job.
    pub code: Cow<'static, str>,
    /// For people.
    pub message: String,
    /// What would remove it.
    pub remedy: String,
    /// When it goes away by itself.
    pub until_time: Option<Timestamp>,
    /// Who is in the way.
    pub holders: Vec<String>,
}

/// What one pool says about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolDiagnosis {
    /// The pool.
    pub pool: PoolName,
    /// Whether one of its workers could take the job now.
    pub eligible: bool,
    /// Why not: the code of a cause; empty when eligible.
    pub reason: &'static str,
    /// The same for people.
    pub message: String,
    /// The first of its workers.
    pub workers: Vec<WorkerDiagnosis>,
}

/// What one worker says about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerDiagnosis {
    /// The worker.
    pub worker_id: WorkerId,
    /// Whether it could take the job now.
    pub eligible: bool,
    /// Why not, machine-readable; empty when eligible.
    pub reason: &'static str,
    /// The same for people, with the details.
    pub message: String,
}

/// An attempt as workers and server name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AttemptRef {
    /// Whose job.
    pub tenant: TenantId,
    /// The job.
    pub job_id: JobId,
    /// The attempt.
    pub attempt: u32,
    /// The lease; what cannot be parsed never matches.
    pub lease_id: LeaseId,
}

/// What a worker says first.
#[derive(Clone, Debug)]
pub struct Hello {
    /// Its own name; `None` = the server makes one.
    pub worker_id: Option<WorkerId>,
    /// Its pool.
    pub pool: PoolName,
    /// Topics it takes.
    pub topics: Vec<Topic>,
    /// What it can do.
    pub capabilities: BTreeSet<String>,
    /// What it is.
    pub labels: BTreeMap<String, String>,
    /// Most unfinished assignments at once; at least 1.
    pub max_parallel_jobs: u32,
    /// For people: `name/version (language)`.
    pub sdk: String,
    /// The version of the session protocol that it speaks.
    pub protocol_version: u32,
    /// What it still runs.
    pub running: Vec<AttemptRef>,
}

/// What the server answers first.
#[derive(Clone, Debug)]
pub struct Welcome {
    /// The worker's name.
    pub worker_id: WorkerId,
    /// This connection.
    pub session_id: SessionId,
    /// How often it should send a heartbeat.
    pub heartbeat_interval: Duration,
    /// How long its attempts wait for it after a lost connection.
    pub adoption_window: Duration,
    /// It goes on with these.
    pub kept: Vec<AttemptRef>,
    /// It has to stop these.
    pub revoked: Vec<AttemptRef>,
}

/// What a worker says after its hello.
#[derive(Clone, Debug)]
pub enum FromWorker {
    /// It lives.
    Heartbeat {
        /// Assignments it works on.
        active_jobs: u32,
        /// Percent.
        cpu_load: f64,
        /// Percent.
        gpu_utilization: f64,
    },
    /// It started an attempt.
    Started(AttemptRef),
    /// It is on its way.
    Progress {
        /// With what.
        attempt: AttemptRef,
        /// How far, 0 to 100.
        percent: u8,
        /// For people.
        message: String,
    },
    /// It streams a piece of output.
    Output {
        /// Of what.
        attempt: AttemptRef,
        /// The piece. Its time is zero when the worker has not said.
        chunk: Chunk,
    },
    /// It is done.
    Result {
        /// With what.
        attempt: AttemptRef,
        /// How it ended.
        outcome: Outcome,
        /// How long it ran, by the worker's clock.
        execution_duration: Option<Duration>,
        /// Artifacts that it named.
        artifact_ids: Vec<String>,
    },
    /// It gives an attempt back before starting it.
    Reject {
        /// Which.
        attempt: AttemptRef,
        /// Why.
        reason: String,
    },
    /// It takes more or fewer from now on.
    Capacity {
        /// Most unfinished assignments at once.
        max_parallel_jobs: u32,
    },
    /// It takes no more.
    Drain,
}

/// Why a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The worker closed it after it had said that it leaves.
    Left,
    /// The connection broke.
    Cut,
    /// The worker gave no sign of life for too long.
    Silent,
    /// The worker does not read what it is sent.
    TooSlow,
    /// The worker has come back on another connection.
    Superseded,
    /// The credential that opened it was revoked or has expired.
    CredentialInvalid,
    /// This replica was taken for dead; the worker brings its attempts to whichever it finds.
    Fenced,
}

/// What the server says to a worker.
#[derive(Clone, Debug)]
pub enum ToWorker {
    /// Run this.
    Assignment {
        /// The job, with its whole input.
        job: Arc<Job>,
        /// Which attempt.
        attempt: AttemptRef,
        /// Not to be started later than this long after it was received.
        valid_for: Duration,
        /// How long it may run.
        time_limit: Duration,
        /// The configuration in force for it; the worker gets what is visible of it.
        config: Arc<Effective>,
        /// What it weighs on its session until it is dropped.
        weight: Option<Arc<crate::Weight>>,
    },
    /// The start was committed; go.
    StartConfirmed(AttemptRef),
    /// Stop, and say when done.
    Cancel {
        /// Which attempt.
        attempt: AttemptRef,
        /// Why.
        reason: String,
        /// How long it may take.
        grace: Duration,
    },
    /// Stop: no longer yours.
    Revoke {
        /// Which attempt.
        attempt: AttemptRef,
        /// Why.
        reason: String,
    },
    /// The result is committed (or will never be).
    ResultAck {
        /// Which attempt.
        attempt: AttemptRef,
        /// Whether it changed the job.
        applied: bool,
    },
    /// Streamed output of one channel is stored, or will never be.
    OutputAck {
        /// Which attempt.
        attempt: AttemptRef,
        /// Which channel.
        channel: Channel,
        /// Up to this piece.
        sequence: u32,
        /// What came after it was not kept and is to be sent again.
        resend: bool,
    },
    /// Reconnect elsewhere and keep what runs.
    Drain {
        /// The connection is closed at this time.
        deadline: Timestamp,
    },
}

/// How the server is.
#[derive(Clone, Debug)]
pub struct SystemStatus {
    /// This replica.
    pub replica_id: ReplicaId,
    /// When it started.
    pub start_time: Timestamp,
    /// Store time now.
    pub now: Timestamp,
    /// Store engine name.
    pub store_engine: &'static str,
    /// What survives what.
    pub durability: Durability,
    /// Why the store does not answer or takes no writes; `None` = it does both.
    pub store_problem: Option<String>,
    /// What is worth knowing of a store that works.
    pub store_note: Option<String>,
    /// Bytes.
    pub usage: Usage,
    /// Bus engine name.
    pub bus_engine: &'static str,
    /// Whether the bus is connected.
    pub bus_healthy: bool,
    /// Why the routing tables in force are not what their source holds now; `None` = they are.
    pub routing_problem: Option<String>,
    /// Workers connected to any replica.
    pub workers: u32,
    /// Waiting jobs of the caller's tenant.
    pub queues: Queues,
    /// Live replicas, this one first.
    pub replicas: Vec<ReplicaInfo>,
}

/// Waiting jobs by topic, which is what they queue for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// In the order of their topics.
    pub depths: Vec<QueueDepth>,
    /// Whether there may be more than these.
    pub capped: bool,
}

/// The jobs that wait for one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueDepth {
    /// The topic.
    pub topic: Topic,
    /// How many, counted to 10,000.
    pub waiting: u64,
    /// Whether counting stopped early.
    pub capped: bool,
}

/// A live server process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaInfo {
    /// Its id.
    pub replica_id: ReplicaId,
    /// Its version.
    pub version: String,
    /// When it started.
    pub start_time: Timestamp,
    /// Whether it is stopping.
    pub draining: bool,
    /// Connected workers.
    pub workers: u32,
    /// Unfinished assignments.
    pub active_jobs: u32,
}
