//! Messages about one attempt.

use std::time::{Duration, SystemTime};

use coretex_proto::time::{duration_from_std, timestamp_from_micros};
use coretex_proto::v1::open_session_request::Message;
use coretex_proto::v1::{
    AttemptRef, JobState, WorkerOutput, WorkerProgress, WorkerReject, WorkerResult, WorkerStarted,
};

use super::stream::Piece;

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

pub(super) fn output(of: &AttemptRef, piece: &Piece) -> Message {
    let since = piece.time.duration_since(SystemTime::UNIX_EPOCH);
    let micros = since
        .ok()
        .and_then(|since| u64::try_from(since.as_micros()).ok());
    Message::Output(WorkerOutput {
        tenant_id: of.tenant_id.clone(),
        job_id: of.job_id.clone(),
        attempt: of.attempt,
        lease_id: of.lease_id.clone(),
        sequence: piece.sequence,
        channel: piece.channel.into(),
        chunk: piece.chunk.clone(),
        // A clock that is before its time says nothing.
        time: micros.map(timestamp_from_micros),
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
