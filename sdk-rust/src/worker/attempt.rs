//! One attempt: what was handed out, how it is told to stop, and what it has reported.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use coretex_proto::time::duration_to_std;
use coretex_proto::v1::{AttemptRef, Job, PolicyConstraints, ServerAssignment};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::stream::Stream;

/// How much later than the server's own timer the local one fires. The server decides about
/// timeouts; the local timer only frees the worker when the server cannot be heard.
const TIME_LIMIT_SLACK: Duration = Duration::from_secs(1);
/// How long a handler may go on after its job was given to somebody else, or after its time limit.
pub(super) const STOP_GRACE: Duration = Duration::from_secs(10);

/// Why a handler is asked to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelReason {
    /// Somebody cancelled the job; the text is theirs and may be empty.
    Requested(String),
    /// The attempt now belongs to another worker, or the job has ended otherwise. Whatever is
    /// returned changes nothing.
    Revoked,
    /// The attempt has used up its time.
    TimeLimit,
    /// This worker stops and the grace is over. The job will run again elsewhere.
    Shutdown,
}

impl fmt::Display for CancelReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Requested(why) if why.is_empty() => f.write_str("cancelled"),
            Self::Requested(why) => write!(f, "cancelled: {why}"),
            Self::Revoked => f.write_str("revoked"),
            Self::TimeLimit => f.write_str("time limit reached"),
            Self::Shutdown => f.write_str("worker is shutting down"),
        }
    }
}

/// A request to stop, and when patience ends.
#[derive(Debug, Default)]
pub(super) struct StopSignal {
    state: Mutex<StopState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct StopState {
    reason: Option<CancelReason>,
    /// When the handler is dropped.
    end: Option<Instant>,
}

impl StopSignal {
    /// Asks to stop. The first reason stays; the earliest end counts.
    pub(super) fn request(&self, reason: CancelReason, end: Instant) {
        {
            let mut state = self.state.lock();
            state.reason.get_or_insert(reason);
            state.end = Some(state.end.map_or(end, |before| before.min(end)));
        }
        self.changed.notify_waiters();
    }

    pub(super) fn reason(&self) -> Option<CancelReason> {
        self.state.lock().reason.clone()
    }

    /// When patience ends; `None` unless somebody has asked to stop.
    pub(super) fn end(&self) -> Option<Instant> {
        self.state.lock().end
    }

    pub(super) fn is_requested(&self) -> bool {
        self.state.lock().reason.is_some()
    }

    /// Waits until somebody asks to stop.
    pub(super) async fn requested(&self) -> CancelReason {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Registered before looking: `notify_waiters` keeps no permit.
            changed.as_mut().enable();
            if let Some(reason) = self.reason() {
                return reason;
            }
            changed.await;
        }
    }

    /// Waits until patience has ended.
    async fn ended(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match self.end() {
                None => changed.await,
                Some(end) => {
                    tokio::select! {
                        () = sleep_until(end) => return,
                        // The end may have come nearer.
                        () = changed => {}
                    }
                }
            }
        }
    }
}

/// What a handler has said about its progress and the server has not been told.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) latest: Option<(i32, String)>,
    /// Listed among those to be told.
    pub(super) queued: bool,
}

/// One attempt, shared by the table and the handler's [`Context`](super::Context).
pub(super) struct Attempt {
    pub(super) reference: AttemptRef,
    pub(super) lease: Arc<str>,
    pub(super) topic: String,
    pub(super) arrived: Instant,
    pub(super) time_limit: Option<Duration>,
    pub(super) confirm_start: bool,
    pub(super) traceparent: String,
    pub(super) constraints: Option<PolicyConstraints>,
    pub(super) config: Option<prost_types::Struct>,
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) stop: StopSignal,
    pub(super) progress: Mutex<Progress>,
    pub(super) artifact_ids: Mutex<Vec<String>>,
    pub(super) stream: Stream,
}

impl Attempt {
    /// Takes an assignment apart: the attempt, its job, and how long it may wait for a slot.
    pub(super) fn new(assignment: ServerAssignment, now: Instant) -> (Self, Job, Option<Duration>) {
        let job = assignment.job.unwrap_or_default();
        let std = |duration: Option<&prost_types::Duration>| {
            duration.and_then(|duration| duration_to_std(duration).ok())
        };
        let valid_for = std(assignment.valid_for.as_ref());
        let limit = assignment.time_limit.as_ref().or(job.timeout.as_ref());
        let attempt = Self {
            reference: AttemptRef {
                tenant_id: job.tenant_id.clone(),
                job_id: job.job_id.clone(),
                attempt: assignment.attempt,
                lease_id: assignment.lease_id.clone(),
            },
            lease: assignment.lease_id.into(),
            topic: job.topic.clone(),
            arrived: now,
            time_limit: std(limit),
            confirm_start: job.confirm_start,
            traceparent: assignment.traceparent,
            constraints: assignment.constraints,
            config: assignment.config,
            secrets: assignment.secrets,
            stop: StopSignal::default(),
            progress: Mutex::default(),
            artifact_ids: Mutex::default(),
            stream: Stream::default(),
        };
        (attempt, job, valid_for)
    }

    /// When the attempt's time is up, by the local clock; `None` when it is not limited (or so far
    /// away that the clock cannot say it).
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.arrived.checked_add(self.time_limit?)
    }

    /// Waits until the handler has to be dropped: it was asked to stop and the grace is over.
    pub(super) async fn must_end(&self) {
        let over = self
            .deadline()
            .and_then(|at| at.checked_add(TIME_LIMIT_SLACK));
        let Some(over) = over else {
            return self.stop.ended().await;
        };
        tokio::select! {
            () = self.stop.ended() => {}
            () = sleep_until(over) => {
                self.stop.request(CancelReason::TimeLimit, over + STOP_GRACE);
                self.stop.ended().await;
            }
        }
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Neither the lease id nor secrets belong into logs.
        f.debug_struct("Attempt")
            .field("job_id", &self.reference.job_id)
            .field("attempt", &self.reference.attempt)
            .field("topic", &self.topic)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_reason_and_the_earliest_end_count() {
        let stop = StopSignal::default();
        let now = Instant::now();
        stop.request(
            CancelReason::Requested("x".into()),
            now + Duration::from_secs(30),
        );
        stop.request(CancelReason::Revoked, now + Duration::from_secs(5));
        assert_eq!(stop.requested().await, CancelReason::Requested("x".into()));
        stop.ended().await;
        assert_eq!(now.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test(start_paused = true)]
    async fn a_nearer_end_is_noticed_by_who_already_waits() {
        let stop = StopSignal::default();
        let now = Instant::now();
        stop.request(CancelReason::Revoked, now + Duration::from_secs(30));
        tokio::join!(stop.ended(), async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stop.request(CancelReason::Shutdown, now + Duration::from_secs(2));
        });
        assert_eq!(now.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_limit_asks_first_and_then_ends() {
        let assignment = ServerAssignment {
            time_limit: Some(prost_types::Duration {
                seconds: 60,
                nanos: 0,
            }),
            ..ServerAssignment::default()
        };
        let begin = Instant::now();
        let (attempt, _, _) = Attempt::new(assignment, begin);
        let (reason, ()) = tokio::join!(attempt.stop.requested(), attempt.must_end());
        assert_eq!(reason, CancelReason::TimeLimit);
        assert_eq!(
            begin.elapsed(),
            Duration::from_secs(60) + TIME_LIMIT_SLACK + STOP_GRACE
        );
    }
}
