//! Messages about one attempt.

use std::time::Duration;

use coretex_proto::time::duration_from_std;
use coretex_proto::v1::open_session_request::Message;
use coretex_proto::v1::{
    AttemptRef, JobState, WorkerProgress, WorkerReject, WorkerResult, WorkerStarted,
};

pub(super) fn started(of: &AttemptRef) -> Message {
    Message::Started(WorkerStarted {
        tenant_id: of.tenant_id.clone(),
        job_id: of.job_id.clone(),
        attempt: of.attempt,
        lease_id: of.lease_id.clone(),
    })
}

pub(super) fn progress(of: &AttemptRef, percent: i32, message: String) -> Message {
    Message::Progress(WorkerProgress {
        tenant_id: of.tenant_id.clone(),
        job_id: of.job_id.clone(),
        attempt: of.attempt,
        lease_id: of.lease_id.clone(),
        percent,
        message,
    })
}

pub(super) fn reject(of: &AttemptRef, reason: &str) -> Message {
    Message::Reject(WorkerReject {
        tenant_id: of.tenant_id.clone(),
        job_id: of.job_id.clone(),
        attempt: of.attempt,
        lease_id: of.lease_id.clone(),
        reason: reason.to_owned(),
    })
}

/// A result with nothing but its status.
pub(super) fn result(of: &AttemptRef, status: JobState, took: Duration) -> WorkerResult {
    WorkerResult {
        tenant_id: of.tenant_id.clone(),
        job_id: of.job_id.clone(),
        attempt: of.attempt,
        lease_id: of.lease_id.clone(),
        status: status.into(),
        execution_duration: Some(duration_from_std(took)),
        ..WorkerResult::default()
    }
}

/// The answer about an attempt that was stopped before it began.
pub(super) fn not_run(of: &AttemptRef) -> WorkerResult {
    result(of, JobState::Cancelled, Duration::ZERO)
}
