//! An attempt while it is out: handed to a worker, started, on its way, adopted by another session,
//! given back. How attempts end is in [`outcome`](super::outcome).

use std::time::Duration;

use super::{Refusal, TriggerKind};
use crate::id::{PoolName, ReplicaId, SessionId, WorkerId};
use crate::job::history::{AttemptEnd, AttemptRecord, EventType};
use crate::job::{Job, JobState, Lease, Progress, Slot};
use crate::time::Timestamp;

impl Job {
    /// Hands it to a worker. A job without a verdict is refused: it may not run.
    pub(super) fn dispatch(
        &mut self,
        slot: Slot,
        worker_id: WorkerId,
        pool: PoolName,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if !self.is_ready() {
            return Err(Refusal::Illegal {
                from: self.state,
                kind: TriggerKind::Dispatch,
            });
        }
        self.state = JobState::Dispatched;
        self.attempt = slot.attempt;
        self.progress = None;
        self.attempts.push(AttemptRecord {
            attempt: slot.attempt,
            lease_id: slot.lease_id,
            worker_id: worker_id.clone(),
            pool: pool.clone(),
            dispatch_time: now,
            start_time: None,
            end_time: None,
            end: None,
            error: None,
            late_result: false,
        });
        let timeout_at = now + self.attempt_timeout();
        self.lease = Some(Lease {
            slot,
            worker_id,
            pool,
            dispatch_time: now,
            timeout_at,
            concurrency_key: String::new(),
        });
        let note = self.note("");
        self.record(EventType::Dispatched, Some(JobState::Pending), now, note);
        Ok(())
    }

    /// How long one attempt may take: the job's own timeout, or what policy allows if that is less.
    #[must_use]
    pub fn attempt_timeout(&self) -> Duration {
        let constraint = self
            .decision
            .as_ref()
            .and_then(|decision| decision.constraints.as_ref());
        match constraint.and_then(|constraints| constraints.max_runtime) {
            Some(max) => max.min(self.spec.timeout),
            None => self.spec.timeout,
        }
    }

    pub(super) fn started(&mut self, at: Timestamp, now: Timestamp) {
        self.state = JobState::Running;
        self.note_start(Some(at));
        let note = self.note("");
        self.record(EventType::Started, Some(JobState::Dispatched), now, note);
    }

    pub(super) fn progressed(
        &mut self,
        progress: Progress,
        started_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        if self.state == JobState::Dispatched {
            self.started(started_at.unwrap_or(now), now);
        }
        self.progress = Some(progress);
    }

    /// Notes when the attempt was started, if that has not been written yet.
    pub(super) fn note_start(&mut self, at: Option<Timestamp>) {
        let Some(at) = at else { return };
        self.start_time.get_or_insert(at);
        let current = self.attempt;
        if let Some(record) = self
            .attempts
            .find_last_mut(|record| record.attempt == current)
        {
            record.start_time.get_or_insert(at);
        }
    }

    pub(super) fn adopted(&mut self, replica: ReplicaId, session: SessionId, now: Timestamp) {
        if let Some(lease) = &mut self.lease {
            lease.slot.replica = replica;
            lease.slot.session = session;
        }
        let (from, note) = (self.state, self.note(""));
        self.record(EventType::Adopted, Some(from), now, note);
    }

    pub(super) fn returned(&mut self, reason: String, now: Timestamp) {
        let note = self.note(reason);
        self.close_attempt(AttemptEnd::Returned, None, now);
        self.lease = None;
        if self.cancel.is_some() {
            self.end(JobState::Cancelled, EventType::Cancelled, note, now);
        } else {
            self.wait(now);
            self.record(EventType::Returned, Some(JobState::Dispatched), now, note);
        }
    }
}
