//! The engine's metrics, in one place so that names and labels stay bounded and consistent.

use coretex_core::job::output::{Channel, OutputRecord};
use coretex_core::job::{Job, JobState};
use metrics::{counter, histogram};

const fn state_name(state: JobState) -> &'static str {
    match state {
        JobState::Pending => "pending",
        JobState::Scheduled => "scheduled",
        JobState::Dispatched => "dispatched",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        JobState::Cancelled => "cancelled",
        JobState::Denied => "denied",
        JobState::Timeout => "timeout",
        JobState::ApprovalRequired => "approval_required",
    }
}

/// A job has ended.
pub(crate) fn ended(job: &Job) {
    counter!("coretex_jobs_ended_total", "state" => state_name(job.state)).increment(1);
    if let Some(end) = job.end_time {
        histogram!("coretex_job_duration_seconds").record(end.since(job.create_time).as_secs_f64());
    }
}

/// A job has been accepted.
pub(crate) fn accepted(fast: bool) {
    counter!("coretex_jobs_accepted_total", "path" => if fast { "fast" } else { "queue" })
        .increment(1);
}

/// An assignment has been committed.
pub(crate) fn dispatched(waited: std::time::Duration) {
    histogram!("coretex_dispatch_wait_seconds").record(waited.as_secs_f64());
}

/// A claim lost against another replica or a change of the job.
pub(crate) fn claim_lost() {
    counter!("coretex_claims_lost_total").increment(1);
}

/// A claim met a limit on running jobs.
pub(crate) fn claim_limited() {
    counter!("coretex_claims_limited_total").increment(1);
}

/// Ended jobs were deleted.
pub(crate) fn swept(count: usize) {
    counter!("coretex_jobs_swept_total").increment(count as u64);
}

const fn channel_name(channel: Channel) -> &'static str {
    match channel {
        Channel::Output => "output",
        Channel::Log => "log",
    }
}

/// A batch of streamed output has been committed.
pub(crate) fn output_stored(before: &OutputRecord, after: &OutputRecord) {
    counter!("coretex_output_commits_total").increment(1);
    for channel in Channel::ALL {
        let name = channel_name(channel);
        let (old, new) = (before.channel(channel), after.channel(channel));
        counter!("coretex_output_bytes_total", "channel" => name)
            .increment(new.bytes.saturating_sub(old.bytes));
        counter!("coretex_output_dropped_bytes_total", "channel" => name)
            .increment(new.dropped_bytes.saturating_sub(old.dropped_bytes));
    }
}

/// A piece of streamed output was not taken and has to be sent again.
pub(crate) fn output_refused() {
    counter!("coretex_output_refused_total").increment(1);
}

/// A check found what should not be.
pub(crate) fn rewind() {
    counter!("coretex_store_rewinds_total").increment(1);
}

pub(crate) fn bug(what: &'static str) {
    counter!("coretex_invariant_violations_total", "what" => what).increment(1);
}

/// The policy in force cannot be used.
pub(crate) fn policy_trouble() {
    counter!("coretex_policy_load_failures_total").increment(1);
}

/// A notice was tried to be delivered: `delivered`, `failed` or `given_up`.
pub(crate) fn notice(endpoint: &str, outcome: &'static str) {
    counter!("coretex_notices_total", "endpoint" => endpoint.to_owned(), "outcome" => outcome)
        .increment(1);
}

/// Notices that their endpoint will not get.
pub(crate) fn notices_lost(endpoint: &str, count: usize) {
    counter!("coretex_notices_lost_total", "endpoint" => endpoint.to_owned())
        .increment(count as u64);
}
