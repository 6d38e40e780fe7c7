//! Requests to cancel, and how a job ends although a worker may have it.

use std::time::Duration;

use super::record::Note;
use super::{Effect, Refusal};
use crate::job::history::{AttemptEnd, EventType};
use crate::job::{CancelRequest, Job, JobError, JobState, Slot};
use crate::time::Timestamp;

impl Job {
    pub(super) fn cancel_requested(
        &mut self,
        principal_id: String,
        reason: String,
        grace: Duration,
        force: bool,
        now: Timestamp,
    ) -> Result<Vec<Effect>, Refusal> {
        let from = self.state;
        let note = Note {
            principal_id,
            ..self.note(reason.clone())
        };
        if !from.is_held() {
            self.cancel = Some(CancelRequest {
                time: now,
                terminal_at: now,
                reason,
            });
            self.end(JobState::Cancelled, EventType::Cancelled, note, now);
            return Ok(Vec::new());
        }
        if force {
            self.cancel.get_or_insert(CancelRequest {
                time: now,
                terminal_at: now,
                reason,
            });
            return Ok(self.stop(JobState::Cancelled, None, note, now));
        }
        let terminal_at = now + grace;
        if let Some(open) = &mut self.cancel {
            // A second request may only hurry the first.
            if terminal_at >= open.terminal_at {
                return Err(Refusal::Unchanged);
            }
            open.terminal_at = terminal_at;
        } else {
            self.cancel = Some(CancelRequest {
                time: now,
                terminal_at,
                reason: reason.clone(),
            });
        }
        self.record(EventType::CancelRequested, Some(from), now, note);
        let slot = self.lease.as_ref().map(|lease| lease.slot.clone());
        Ok(slot
            .map(|slot| Effect::TellCancel {
                slot,
                reason,
                grace,
            })
            .into_iter()
            .collect())
    }

    /// Ends the job although a worker may have it: the slot stays occupied until the worker
    /// answers, and the worker is told. `error` is why it ends TIMEOUT; a cancel has none.
    pub(super) fn stop(
        &mut self,
        state: JobState,
        error: Option<JobError>,
        note: Note,
        now: Timestamp,
    ) -> Vec<Effect> {
        let (end, kind) = if state == JobState::Cancelled {
            (AttemptEnd::Cancelled, EventType::Cancelled)
        } else {
            (AttemptEnd::TimedOut, EventType::TimedOut)
        };
        let slot = self.abandon(end, error.clone(), now);
        self.error = error.or_else(|| self.error.take());
        self.end(state, kind, note, now);
        slot.map(|slot| Effect::TellRevoke { slot })
            .into_iter()
            .collect()
    }

    /// Takes the attempt away from its worker; the slot moves to the unreleased ones.
    pub(super) fn abandon(
        &mut self,
        end: AttemptEnd,
        error: Option<JobError>,
        now: Timestamp,
    ) -> Option<Slot> {
        self.close_attempt(end, error, now);
        let slot = self.lease.take()?.slot;
        self.unreleased.push(slot.clone());
        Some(slot)
    }
}
