//! The seam to the safety kernel: whatever decides whether a job may run.
//!
//! What becomes of a job through its judgement is in [`rulings`](crate::rulings).

use std::fmt::Debug;
use std::sync::Arc;

use coretex_core::config::Effective;
use coretex_core::id::TenantId;
use coretex_core::job::{Job, JobSpec};
use coretex_core::payload::Payload;
pub use coretex_core::policy::evaluate::Undecided;
use coretex_core::policy::terms::ApprovalTerms;
use coretex_core::policy::{CounterRef, Decision, History, JobDecision, RateTaken, Snapshot};
use coretex_core::time::Timestamp;

/// What a decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// Whose job.
    pub tenant: &'a TenantId,
    /// Who asks, from the credential.
    pub principal_id: &'a str,
    /// What is asked for.
    pub spec: &'a JobSpec,
    /// The input, as far as it stands in the record.
    pub input: Option<&'a Payload>,
    /// The configuration in force for it.
    pub config: Option<&'a Effective>,
    /// Store time.
    pub now: Timestamp,
}

/// What the kernel says about a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The decision, with the snapshot that it was made under.
    pub decision: JobDecision,
    /// For `Throttle`: the buckets that it has to take a permit from. With none, the time in the
    /// decision says when to ask again.
    pub rates: Vec<RateTaken>,
    /// What is counted when the job is accepted.
    pub counts: Vec<CounterRef>,
    /// For `RequireApproval`: who has to approve, and by when; `None` = one approval by whoever may.
    pub terms: Option<ApprovalTerms>,
}

impl From<JobDecision> for Judgement {
    fn from(decision: JobDecision) -> Self {
        Self {
            decision,
            rates: Vec::new(),
            counts: Vec::new(),
            terms: None,
        }
    }
}

/// Decides, in memory and from one policy snapshot.
pub trait Kernel: Send + Sync + Debug {
    /// The snapshot that decisions are made under now. Every commit that accepts or dispatches a
    /// job has it as a precondition.
    fn snapshot(&self) -> String;

    /// Decides.
    ///
    /// # Errors
    /// [`Undecided`]: it has to read something first, or cannot decide, which is neither a denial
    /// nor an allowance: the job waits.
    fn judge(&self, facts: Facts<'_>, history: &History) -> Result<Judgement, Undecided>;

    /// Whether it decides by what the store holds, and so has to be told of it.
    fn follows_store(&self) -> bool {
        false
    }

    /// Whether it can decide.
    fn is_sound(&self) -> bool {
        true
    }

    /// What it decides by, if that is a snapshot and can be used.
    fn policy(&self) -> Option<Arc<Snapshot>> {
        None
    }

    /// Decides by this snapshot from now on.
    fn follow(&self, _snapshot: Snapshot) {}

    /// Decides nothing from now on: the snapshot in force cannot be used.
    fn stand_still(&self, _snapshot_id: &str, _reason: &str) {}
}

/// Allows everything, and says so in every decision.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl AllowAll {
    const SNAPSHOT: &'static str = "allow-all";
}

impl Kernel for AllowAll {
    fn snapshot(&self) -> String {
        Self::SNAPSHOT.to_owned()
    }

    fn judge(&self, facts: Facts<'_>, _: &History) -> Result<Judgement, Undecided> {
        let snapshot = Self::SNAPSHOT.to_owned();
        Ok(JobDecision::plain(Decision::Allow, snapshot, facts.now).into())
    }
}

/// The facts of a job that is in the store.
pub(crate) fn facts_of(job: &Job, now: Timestamp) -> Facts<'_> {
    Facts {
        tenant: &job.tenant,
        principal_id: &job.principal_id,
        spec: &job.spec,
        input: job.input.as_ref(),
        config: None,
        now,
    }
}
