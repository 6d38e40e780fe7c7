//! The seam to the safety kernel: whatever decides whether a job may run.

use std::fmt::Debug;
use std::time::Duration;

use coretex_core::id::TenantId;
use coretex_core::job::transition::Verdict;
use coretex_core::job::{Job, JobSpec};
use coretex_core::payload::Payload;
use coretex_core::policy::{Decision, JobDecision};
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
    /// Store time.
    pub now: Timestamp,
}

/// Why a kernel gives no verdict. It is neither a denial nor an allowance: the job waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KernelTrouble(pub String);

/// Decides, in memory and from one policy snapshot.
pub trait Kernel: Send + Sync + Debug {
    /// The snapshot that decisions are made under now. Every commit that accepts or dispatches a
    /// job has it as a precondition.
    fn snapshot(&self) -> String;

    /// Decides.
    ///
    /// # Errors
    /// [`KernelTrouble`], when it cannot.
    fn judge(&self, facts: Facts<'_>) -> Result<JobDecision, KernelTrouble>;
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

    fn judge(&self, facts: Facts<'_>) -> Result<JobDecision, KernelTrouble> {
        Ok(JobDecision {
            time: facts.now,
            attempt: 0,
            decision: Decision::Allow,
            reason: String::new(),
            rule_id: String::new(),
            policy_snapshot: Self::SNAPSHOT.to_owned(),
            constraints: None,
            approval_id: String::new(),
            remediations: Vec::new(),
            retry_at: None,
        })
    }
}

/// The verdict on new facts. `failures` is how often the kernel was asked in vain before.
pub(crate) fn verdict(kernel: &dyn Kernel, facts: Facts<'_>, failures: u32) -> Verdict {
    match kernel.judge(facts) {
        Ok(decision) => Verdict::Decided(Box::new(decision)),
        Err(trouble) => Verdict::Unavailable {
            again_at: facts.now + judge_backoff(failures),
            reason: trouble.to_string(),
        },
    }
}

/// One second, doubled for each failure, at most thirty.
fn judge_backoff(failures: u32) -> Duration {
    Duration::from_secs(1_u64.checked_shl(failures).unwrap_or(u64::MAX).min(30))
}

/// The facts of a job that is in the store.
pub(crate) fn facts_of(job: &Job, now: Timestamp) -> Facts<'_> {
    Facts {
        tenant: &job.tenant,
        principal_id: &job.principal_id,
        spec: &job.spec,
        input: job.input.as_ref(),
        now,
    }
}
