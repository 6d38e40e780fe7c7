//! Who may say that whom is gone: leases of replicas, liveness of sessions, adoption and loss of
//! attempts.
//!
//! Leases are hierarchical. The store keeps one lease per *replica*; a replica answers in memory for
//! its *sessions*; an *attempt* belongs to the session that its record names. Here are the timing
//! and the decisions; reading and committing is the engine's part.

mod held;

pub use held::{HeldKey, MalformedKey, Standing};

use std::ops::Add;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::{LeaseId, ReplicaId, SessionId};
use crate::job::{Job, JobState, WorkerLossPolicy};
use crate::time::Timestamp;

/// How long a replica's lease lasts from its last renewal.
pub const REPLICA_LEASE: Duration = Duration::from_secs(15);
/// How often a replica renews its lease.
pub const RENEW_EVERY: Duration = Duration::from_secs(5);
/// The longest time between two answers of the store that still counts as "it was there all the
/// time". A replica asks at least once a second.
pub const STORE_GAP: Duration = Duration::from_secs(3);
/// How often a worker gives a sign of life.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// A session without a sign of life for this long has ended, even if its stream still looks open.
pub const SESSION_SILENCE: Duration = Duration::from_secs(30);
/// A worker that hears nothing from its server for this long, although it sends heartbeats or
/// keep-alive pings that ask for an answer, reconnects elsewhere. It leaves a third of
/// [`ADOPTION_WINDOW`] for that.
pub const SERVER_SILENCE: Duration = Duration::from_secs(10);
/// How long the attempts of an ended session wait for their worker to come back.
pub const ADOPTION_WINDOW: Duration = Duration::from_secs(15);
/// How often a replica compares its slots with the held index.
pub const SLOTS_REREAD_EVERY: Duration = Duration::from_secs(5);
/// How often a replica looks for entries of dead replicas in the held index.
pub const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// An assignment is not sent, and not started, later than this after its commit was sent: half a
/// replica's lease, so that it is out before anybody may take the attempt away.
pub const ASSIGNMENT_VALID: Duration = Duration::from_millis(7_500);

/// A reading of the process's monotonic clock, as the time since an origin of the caller's choice.
/// Timeouts and validity use it; wall clocks may jump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tick(Duration);

impl Tick {
    /// A reading this long after the origin.
    #[must_use]
    pub const fn new(since_origin: Duration) -> Self {
        Self(since_origin)
    }

    /// The time from `earlier` to this reading; zero when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Tick {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(rhs))
    }
}

/// The record by which a replica says that it is alive, in the shard of what belongs to no tenant.
///
/// A replica writes it before it holds its first slot and renews it until it stops. Whoever finds it
/// expired deletes it; that is final: a replica whose lease is gone starts again under a new id,
/// because its attempts are no longer its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaLease {
    /// Whose lease it is.
    pub replica: ReplicaId,
    /// How often it was renewed.
    pub epoch: u64,
    /// When it ends, in store time.
    pub expires: Timestamp,
}

impl ReplicaLease {
    /// The first lease of a replica.
    #[must_use]
    pub fn new(replica: ReplicaId, store_now: Timestamp) -> Self {
        Self {
            replica,
            epoch: 1,
            expires: store_now + REPLICA_LEASE,
        }
    }

    /// The lease renewed.
    #[must_use]
    pub fn renewed(&self, store_now: Timestamp) -> Self {
        Self {
            replica: self.replica.clone(),
            epoch: self.epoch.saturating_add(1),
            expires: store_now + REPLICA_LEASE,
        }
    }

    /// Whether somebody may take over what this replica holds: the lease has ended in store time,
    /// and the store has answered whoever decides for one full lease period, so that its owner could
    /// have renewed it had it lived. Lease time does not run while the store is away.
    #[must_use]
    pub fn may_expire(&self, store_now: Timestamp, store: &StoreWatch, now: Tick) -> bool {
        store_now >= self.expires && store.up_for(now) >= REPLICA_LEASE
    }
}

/// For how long one replica has seen the store answer without a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreWatch {
    /// Begin of the stretch and the last answer in it.
    stretch: Option<(Tick, Tick)>,
}

impl StoreWatch {
    /// Has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The store answered a request. After a gap, a new stretch begins.
    pub fn answered(&mut self, now: Tick) {
        self.stretch = match self.stretch {
            Some((begin, last)) if now.since(last) <= STORE_GAP => Some((begin, last.max(now))),
            Some(_) | None => Some((now, now)),
        };
    }

    /// The store failed to answer, went back in time or was replaced: what was seen before says
    /// nothing about the leases that are in it now.
    pub fn interrupted(&mut self) {
        self.stretch = None;
    }

    /// When the store last answered in the stretch that lasts.
    #[must_use]
    pub fn last_answer(&self) -> Option<Tick> {
        self.stretch.map(|(_, last)| last)
    }

    /// How long the stretch has lasted; zero when the last answer is too old.
    #[must_use]
    pub fn up_for(&self, now: Tick) -> Duration {
        match self.stretch {
            Some((begin, last)) if now.since(last) <= STORE_GAP => last.since(begin),
            Some(_) | None => Duration::ZERO,
        }
    }
}

/// A replica's view of its own lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnLease {
    /// When the last renewal that was answered had been sent: the lease cannot end earlier than a
    /// period after that.
    renewed: Tick,
    /// When the next renewal is to be sent.
    next: Tick,
}

impl OwnLease {
    /// The lease was written by a commit that was sent at `sent`.
    #[must_use]
    pub fn new(sent: Tick) -> Self {
        Self {
            renewed: sent,
            next: sent + RENEW_EVERY,
        }
    }

    /// A renewal sent at `sent` was answered.
    pub fn renewed(&mut self, sent: Tick) {
        self.renewed = self.renewed.max(sent);
        self.next = self.renewed + RENEW_EVERY;
    }

    /// A renewal failed; the next one is due in a second.
    pub fn failed(&mut self, now: Tick) {
        self.next = now + Duration::from_secs(1);
    }

    /// Whether a renewal is to be sent now.
    #[must_use]
    pub fn is_due(&self, now: Tick) -> bool {
        now >= self.next
    }

    /// Whether the lease is surely still ours. A replica that is not sure takes no new work.
    #[must_use]
    pub fn is_sure(&self, now: Tick) -> bool {
        now.since(self.renewed) < REPLICA_LEASE
    }
}

/// Whether an assignment whose commit was sent at `sent` may still go to its worker. Later, others
/// may have taken the attempt away; it is given back instead.
#[must_use]
pub fn may_assign(sent: Tick, now: Tick) -> bool {
    now.since(sent) < ASSIGNMENT_VALID
}

/// The signs of life of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Liveness {
    heard: Tick,
    /// When its stream ended.
    ended: Option<Tick>,
}

/// What a replica does about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SessionStatus {
    /// It lives.
    Alive,
    /// It has been silent too long: end its stream.
    Silent,
    /// It ended; its attempts wait for their worker.
    Adoptable,
    /// It ended and nobody came: its attempts are lost.
    Lost,
}

impl Liveness {
    /// A session that has just opened.
    #[must_use]
    pub const fn new(now: Tick) -> Self {
        Self {
            heard: now,
            ended: None,
        }
    }

    /// Any message came in.
    pub fn heard(&mut self, now: Tick) {
        self.heard = self.heard.max(now);
    }

    /// The stream ended, or was ended by us. Only the first end counts.
    pub fn ended(&mut self, now: Tick) {
        self.ended.get_or_insert(now);
    }

    /// The session is ended because nothing is heard: it had ended by the first heartbeat that did
    /// not come, and the worker has been free to go elsewhere since.
    pub fn went_silent(&mut self) {
        self.ended.get_or_insert(self.heard + HEARTBEAT_EVERY);
    }

    /// What is to be done.
    #[must_use]
    pub fn status(&self, now: Tick) -> SessionStatus {
        match self.ended {
            Some(ended) if now.since(ended) >= ADOPTION_WINDOW => SessionStatus::Lost,
            Some(_) => SessionStatus::Adoptable,
            None if now.since(self.heard) >= SESSION_SILENCE => SessionStatus::Silent,
            None => SessionStatus::Alive,
        }
    }
}

/// When the attempts of a replica that was found dead are lost. The replica may have lived up to one
/// renewal after the last that was seen, and its workers have the whole window from then on.
#[must_use]
pub fn lost_after_replica(lease: Option<&ReplicaLease>, found_dead: Timestamp) -> Timestamp {
    match lease {
        // It died no later than `expires - REPLICA_LEASE + RENEW_EVERY`.
        Some(lease) => found_dead
            .max(lease.expires + RENEW_EVERY + ADOPTION_WINDOW.saturating_sub(REPLICA_LEASE)),
        // Nobody knows when: the window runs from now.
        None => found_dead + ADOPTION_WINDOW,
    }
}

/// An attempt that a worker says it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Its number.
    pub attempt: u32,
    /// Its lease.
    pub lease_id: LeaseId,
}

/// What becomes of a claimed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Adoption {
    /// It is current and stands here already: nothing to commit.
    Keep,
    /// It is current and stands elsewhere: one commit moves it here.
    Move,
    /// The worker is told to stop it.
    Revoke(RevokeReason),
}

/// Why an attempt is not the worker's any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RevokeReason {
    /// There is no such job: it was retired, deleted, or the store went back in time.
    UnknownJob,
    /// The job has ended.
    Ended,
    /// The job waits for another attempt.
    TakenAway,
    /// Another attempt is out, or one of the same number under another lease.
    Superseded,
}

impl RevokeReason {
    /// For people and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownJob => "the job is not known",
            Self::Ended => "the job has ended",
            Self::TakenAway => "the attempt was taken away",
            Self::Superseded => "another attempt is out",
        }
    }
}

/// Decides about an attempt that a worker claims on the session (`replica`, `session`). `job` is
/// the record as just read. Only an exact match of number *and* lease is kept.
#[must_use]
pub fn adopt(
    job: Option<&Job>,
    claim: Claim,
    replica: &ReplicaId,
    session: &SessionId,
) -> Adoption {
    let Some(job) = job else {
        return Adoption::Revoke(RevokeReason::UnknownJob);
    };
    let Some(lease) = &job.lease else {
        return Adoption::Revoke(match job.state {
            JobState::Succeeded
            | JobState::Failed
            | JobState::Cancelled
            | JobState::Denied
            | JobState::Timeout => RevokeReason::Ended,
            JobState::Pending
            | JobState::Scheduled
            | JobState::Dispatched
            | JobState::Running
            | JobState::ApprovalRequired => RevokeReason::TakenAway,
        });
    };
    let slot = &lease.slot;
    if slot.lease_id != claim.lease_id || slot.attempt != claim.attempt {
        Adoption::Revoke(RevokeReason::Superseded)
    } else if slot.replica == *replica && slot.session == *session {
        Adoption::Keep
    } else {
        Adoption::Move
    }
}

/// What becomes of a job whose attempt was lost with its worker or server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AfterLoss {
    /// It waits for another worker; the loss is counted.
    Requeue,
    /// It fails.
    Fail,
}

/// Decides about a lost attempt. Losses have their own budget: `redispatches` of them were granted
/// already, `max_redispatch` may be.
#[must_use]
pub const fn after_loss(
    on_worker_loss: WorkerLossPolicy,
    redispatches: u32,
    max_redispatch: u32,
) -> AfterLoss {
    match on_worker_loss {
        WorkerLossPolicy::Retry if redispatches < max_redispatch => AfterLoss::Requeue,
        WorkerLossPolicy::Retry | WorkerLossPolicy::Fail => AfterLoss::Fail,
    }
}

#[cfg(test)]
mod tests;
