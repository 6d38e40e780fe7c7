//! Reads values of flags: durations, points in time, pairs, and the enums of the contract.

use std::time::Duration;

use clap::ValueEnum;
use coretex::proto::{ConcurrencyLimitAction, WorkerLossPolicy};
use coretex::well_known::Timestamp;
use coretex::{JobPriority, JobState};

/// A duration such as `500ms`, `30s`, `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; for example 500ms, 30s, 1h30m"))
}

/// A point in time as RFC 3339.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    let time: jiff::Timestamp = text
        .parse()
        .map_err(|_| "not a time; for example 2026-01-31T12:00:00Z".to_owned())?;
    Ok(timestamp(time))
}

/// A point in time as RFC 3339, or a duration that is counted back from now.
pub(crate) fn time_or_ago(text: &str) -> Result<Timestamp, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(from_now(ago, false));
    }
    time(text).map_err(|error| format!("{error}, or 2h for two hours ago"))
}

/// Now, moved by a duration; clamped to what the format can say.
pub(crate) fn from_now(by: Duration, forward: bool) -> Timestamp {
    let now = jiff::Timestamp::now();
    let moved = if forward {
        now.saturating_add(by)
    } else {
        now.saturating_sub(by)
    };
    // Adding a span of plain seconds cannot fail but for its type.
    timestamp(moved.unwrap_or(now))
}

fn timestamp(time: jiff::Timestamp) -> Timestamp {
    Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

/// `key=value`, split at the first `=`.
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| "must be KEY=VALUE".to_owned())?;
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// States of jobs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    Pending,
    Scheduled,
    Dispatched,
    Running,
    Succeeded,
    Failed,
    Cancelled,
    Denied,
    Timeout,
    ApprovalRequired,
}

impl From<State> for JobState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Scheduled => Self::Scheduled,
            State::Dispatched => Self::Dispatched,
            State::Running => Self::Running,
            State::Succeeded => Self::Succeeded,
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
            State::Denied => Self::Denied,
            State::Timeout => Self::Timeout,
            State::ApprovalRequired => Self::ApprovalRequired,
        }
    }
}

/// Priorities of jobs, in the order in which they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Priority {
    /// Before everything else
    Critical,
    /// Somebody waits
    Interactive,
    /// Nobody waits
    Batch,
}

impl From<Priority> for JobPriority {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Critical => Self::Critical,
            Priority::Interactive => Self::Interactive,
            Priority::Batch => Self::Batch,
        }
    }
}

/// What happens when the worker is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnWorkerLoss {
    /// The job is handed out again
    Retry,
    /// The job ends FAILED
    Fail,
}

impl From<OnWorkerLoss> for WorkerLossPolicy {
    fn from(policy: OnWorkerLoss) -> Self {
        match policy {
            OnWorkerLoss::Retry => Self::Retry,
            OnWorkerLoss::Fail => Self::Fail,
        }
    }
}

/// What happens when a concurrency key is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OnLimit {
    /// The job waits
    Queue,
    /// The job is refused
    Reject,
    /// The oldest holder is cancelled
    CancelOldest,
}

impl From<OnLimit> for ConcurrencyLimitAction {
    fn from(action: OnLimit) -> Self {
        match action {
            OnLimit::Queue => Self::Queue,
            OnLimit::Reject => Self::Reject,
            OnLimit::CancelOldest => Self::CancelOldest,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_or_refused_with_an_example() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("10").is_err_and(|error| error.contains("30s")));
        let seconds = time("2026-01-31T12:00:00+02:00").map(|time| time.seconds);
        assert_eq!(seconds, Ok(1_769_853_600));
        assert!(time("yesterday").is_err_and(|error| error.contains("2026")));
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }

    #[test]
    fn a_duration_counts_back_from_now() {
        let (before, after) = (from_now(Duration::ZERO, true), time_or_ago("2h"));
        let difference = after.map(|after| before.seconds - after.seconds);
        assert!(difference.is_ok_and(|seconds| (7_199..=7_201).contains(&seconds)));
    }
}
