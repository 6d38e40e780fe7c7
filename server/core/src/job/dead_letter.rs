//! Dead letters: what is written on a job that ended badly, so that somebody looks at it.
//!
//! A dead letter is no copy. It is a mark on the job's own record, made in the change that ends the
//! job and taken off by whoever has dealt with it. How it is taken off is in
//! [`transition::dead_letter`](super::transition::dead_letter).

use serde::{Deserialize, Serialize};

use super::{ErrorSource, Job, JobError, JobState};
use crate::time::Timestamp;

/// Policy said no.
pub const SAFETY_DENIED: &str = "safety_denied";
/// Whoever was asked to approve said no.
pub const APPROVAL_REJECTED: &str = "approval_rejected";
/// Nobody who was asked to approve said anything in time.
pub const APPROVAL_EXPIRED: &str = "approval_expired";
/// Retries were allowed, and the last one failed too.
pub const MAX_ATTEMPTS_EXCEEDED: &str = "max_attempts_exceeded";

/// The mark of a job that ended badly and that nobody has dealt with yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Why, machine-readable: a code of the platform, or the worker's own.
    pub code: String,
    /// Who gave the code.
    pub source: ErrorSource,
    /// When the job became a dead letter, which is when it ended.
    pub time: Timestamp,
}

impl DeadLetter {
    /// The dead letter of a job that ends in `state` because of `error`; `None` for ends that are
    /// nobody's business: success, and cancels.
    #[must_use]
    pub fn of_end(state: JobState, error: Option<&JobError>, now: Timestamp) -> Option<Self> {
        let platform = |code: &str| (code.to_owned(), ErrorSource::Platform);
        let (code, source) = match state {
            JobState::Denied => match error.filter(|error| error.is_of_approval()) {
                Some(error) => platform(&error.code),
                None => platform(SAFETY_DENIED),
            },
            JobState::Failed | JobState::Timeout => match error {
                Some(error) => (error.code.clone(), error.source),
                None => platform("unknown"),
            },
            JobState::Succeeded
            | JobState::Cancelled
            | JobState::Pending
            | JobState::Scheduled
            | JobState::Dispatched
            | JobState::Running
            | JobState::ApprovalRequired => return None,
        };
        Some(Self {
            code,
            source,
            time: now,
        })
    }

    /// The same, of a job whose attempts are used up. The worker's own code stays in the error.
    #[must_use]
    pub fn after_last_attempt(self) -> Self {
        Self {
            code: MAX_ATTEMPTS_EXCEEDED.to_owned(),
            source: ErrorSource::Platform,
            ..self
        }
    }
}

impl Job {
    /// The dead letter in words: the error, or the reason of the denial.
    #[must_use]
    pub fn dead_letter_message(&self) -> &str {
        match (&self.error, &self.decision) {
            (Some(error), _) if self.state == JobState::Denied && error.is_of_approval() => {
                &error.message
            }
            (_, Some(decision)) if self.state == JobState::Denied => &decision.reason,
            (Some(error), _) => &error.message,
            (None, _) => "",
        }
    }
}

impl JobError {
    /// Whether humans have ended the job, and not one of its attempts.
    #[must_use]
    pub fn is_of_approval(&self) -> bool {
        self.source == ErrorSource::Platform
            && [APPROVAL_REJECTED, APPROVAL_EXPIRED].contains(&self.code.as_str())
    }
}
