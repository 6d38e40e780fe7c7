//! What happened to a job: events, attempts.

use coretex_core::id::JobId;
use coretex_core::job::JobState;
use coretex_core::job::history::{AttemptEnd, AttemptRecord, EventType, JobEvent};
use coretex_proto::v1;

use super::job::{error, state};
use super::{count, time};

/// Writes an event of the job `id`.
pub(crate) fn event(event: &JobEvent, id: &JobId) -> v1::JobEvent {
    let from = event.from.map_or(v1::JobState::Unspecified, state);
    v1::JobEvent {
        sequence: count(event.sequence),
        time: Some(time(event.time)),
        r#type: kind(event.kind).into(),
        from_state: from.into(),
        to_state: state(event.to).into(),
        attempt: count(event.attempt),
        worker_id: event
            .worker_id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        principal_id: event.principal_id.clone(),
        reason: event.reason.clone(),
        job_id: id.to_string(),
    }
}

const fn kind(kind: EventType) -> v1::JobEventType {
    match kind {
        EventType::Submitted => v1::JobEventType::Submitted,
        EventType::Judged => v1::JobEventType::Judged,
        EventType::JudgeFailed => v1::JobEventType::JudgeFailed,
        EventType::Eligible => v1::JobEventType::Eligible,
        EventType::Dispatched => v1::JobEventType::Dispatched,
        EventType::Started => v1::JobEventType::Started,
        EventType::Progressed => v1::JobEventType::Progressed,
        EventType::Returned => v1::JobEventType::Returned,
        EventType::RetryScheduled => v1::JobEventType::RetryScheduled,
        EventType::WorkerLost => v1::JobEventType::WorkerLost,
        EventType::Adopted => v1::JobEventType::Adopted,
        EventType::CancelRequested => v1::JobEventType::CancelRequested,
        EventType::Succeeded => v1::JobEventType::Succeeded,
        EventType::Failed => v1::JobEventType::Failed,
        EventType::Cancelled => v1::JobEventType::Cancelled,
        EventType::Denied => v1::JobEventType::Denied,
        EventType::TimedOut => v1::JobEventType::TimedOut,
        EventType::LateResult => v1::JobEventType::LateResult,
        EventType::SlotReleased => v1::JobEventType::SlotReleased,
        EventType::DeadLetterSettled => v1::JobEventType::DeadLetterSettled,
        EventType::ApprovalVoted => v1::JobEventType::ApprovalVoted,
        EventType::ApprovalEscalated => v1::JobEventType::ApprovalEscalated,
    }
}

/// Writes an attempt.
pub(crate) fn attempt(attempt: &AttemptRecord) -> v1::JobAttempt {
    let end_state = attempt.end.map_or(v1::JobState::Unspecified, end);
    v1::JobAttempt {
        attempt: count(attempt.attempt),
        worker_id: attempt.worker_id.to_string(),
        dispatch_time: Some(time(attempt.dispatch_time)),
        start_time: attempt.start_time.map(time),
        end_time: attempt.end_time.map(time),
        end_state: end_state.into(),
        error: attempt.error.as_ref().map(error),
        late_result: attempt.late_result,
        pool: attempt.pool.to_string(),
    }
}

const fn end(end: AttemptEnd) -> v1::JobState {
    match end {
        AttemptEnd::Succeeded => v1::JobState::Succeeded,
        // Lost ones carry the error `worker_lost`.
        AttemptEnd::Failed | AttemptEnd::Lost => v1::JobState::Failed,
        AttemptEnd::Cancelled => v1::JobState::Cancelled,
        AttemptEnd::TimedOut => v1::JobState::Timeout,
        AttemptEnd::Returned => state(JobState::Pending),
    }
}
