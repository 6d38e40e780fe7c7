//! What every move writes down: its event, and the end of an attempt or of the job.

use crate::id::WorkerId;
use crate::job::dead_letter::DeadLetter;
use crate::job::history::{AttemptEnd, EventType, JobEvent};
use crate::job::{Job, JobError, JobState};
use crate::time::Timestamp;

/// The parts of an event that differ from case to case.
#[derive(Default)]
pub(super) struct Note {
    pub(super) attempt: u32,
    pub(super) worker_id: Option<WorkerId>,
    pub(super) principal_id: String,
    pub(super) reason: String,
}

impl Note {
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            ..Self::default()
        }
    }
}

impl Job {
    /// Writes an event; the state after it is the one that the job is in now.
    pub(super) fn record(
        &mut self,
        kind: EventType,
        from: Option<JobState>,
        now: Timestamp,
        note: Note,
    ) {
        self.events.push(JobEvent {
            sequence: self.events.total().saturating_add(1),
            time: now,
            kind,
            from,
            to: self.state,
            attempt: note.attempt,
            worker_id: note.worker_id,
            principal_id: note.principal_id,
            reason: note.reason,
        });
    }

    /// A note about the attempt that is out; about none while a worker has nothing.
    pub(super) fn note(&self, reason: impl Into<String>) -> Note {
        let lease = self.lease.as_ref();
        Note {
            attempt: lease.map_or(0, |lease| lease.slot.attempt),
            worker_id: lease.map(|lease| lease.worker_id.clone()),
            principal_id: String::new(),
            reason: reason.into(),
        }
    }

    /// Writes how the attempt that is out has ended; whoever calls takes the lease.
    pub(super) fn close_attempt(
        &mut self,
        end: AttemptEnd,
        error: Option<JobError>,
        now: Timestamp,
    ) {
        let Some(lease) = &self.lease else { return };
        let lease_id = lease.slot.lease_id;
        if let Some(record) = self
            .attempts
            .find_last_mut(|record| record.lease_id == lease_id)
        {
            record.end = Some(end);
            record.end_time = Some(now);
            record.error = error;
        }
    }

    /// Ends the job, whose error is already written; the event is for whoever calls.
    pub(super) fn close(&mut self, state: JobState, now: Timestamp) {
        self.withdraw(true, "the job has ended", now);
        self.state = state;
        self.end_time = Some(now);
        self.scheduled_for = None;
        self.judge_at = None;
        self.dead_letter = DeadLetter::of_end(state, self.error.as_ref(), now);
    }

    /// Ends the job and writes the event.
    pub(super) fn end(&mut self, state: JobState, kind: EventType, note: Note, now: Timestamp) {
        let from = self.state;
        self.close(state, now);
        self.record(kind, Some(from), now, note);
    }
}
