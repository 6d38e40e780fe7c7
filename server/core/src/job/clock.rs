//! The clocks of a job: which one comes next, and which has run out.

use super::{Job, JobState};
use crate::time::Timestamp;

/// A clock of a job that has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Due {
    /// The grace of a cancel request.
    CancelGrace,
    /// The job's deadline.
    Deadline,
    /// The timeout of the attempt that is out.
    AttemptTimeout,
    /// The time of the approval that it waits for.
    ApprovalExpiry,
    /// The end of SCHEDULED.
    Eligible,
    /// The time for the kernel's next verdict.
    Judge,
    /// The time a job may be eligible without a worker.
    ScheduleToStart,
}

impl Due {
    /// In the order in which they count when several have run out at once: what ends the job on
    /// request first, then what ends it anyway, then what moves it on.
    const ORDER: [Self; 7] = [
        Self::CancelGrace,
        Self::Deadline,
        Self::AttemptTimeout,
        Self::ApprovalExpiry,
        Self::ScheduleToStart,
        Self::Eligible,
        Self::Judge,
    ];

    /// When this clock of `job` runs out; `None` while it does not run.
    #[must_use]
    pub fn time(self, job: &Job) -> Option<Timestamp> {
        if job.state.is_terminal() {
            return None;
        }
        match self {
            Self::CancelGrace => job.cancel.as_ref().map(|cancel| cancel.terminal_at),
            // While a human decides, the deadline stands still.
            Self::Deadline if job.state == JobState::ApprovalRequired => None,
            Self::Deadline => job.deadline,
            Self::AttemptTimeout => job.lease.as_ref().map(|lease| lease.timeout_at),
            Self::ApprovalExpiry => job
                .pending_approval()
                .and_then(|approval| approval.expire_time),
            Self::Eligible => (job.state == JobState::Scheduled).then_some(job.eligible_time),
            Self::Judge if job.state == JobState::Pending => job.judge_at,
            Self::Judge => None,
            Self::ScheduleToStart => (job.state == JobState::Pending)
                .then(|| job.eligible_time + job.spec.schedule_to_start_timeout),
        }
    }
}

/// When `job` has to be looked at next; `None` when it is terminal or waits for a human only.
#[must_use]
pub fn next_due(job: &Job) -> Option<Timestamp> {
    Due::ORDER.into_iter().filter_map(|due| due.time(job)).min()
}

/// The clock of `job` that has run out at `now` and counts first.
#[must_use]
pub fn due(job: &Job, now: Timestamp) -> Option<Due> {
    Due::ORDER
        .into_iter()
        .find(|due| due.time(job).is_some_and(|time| time <= now))
}
