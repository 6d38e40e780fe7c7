//! What the clocks of a job do to it. Which of them has run out is decided in [`clock`].

use super::record::Note;
use super::{Effect, Refusal};
use crate::job::clock::{self, Due};
use crate::job::history::{AttemptEnd, EventType};
use crate::job::{Job, JobError, JobState};
use crate::time::Timestamp;

impl Job {
    pub(super) fn time_passed(
        &mut self,
        fraction: f64,
        now: Timestamp,
    ) -> Result<Vec<Effect>, Refusal> {
        let due = clock::due(self, now).ok_or(Refusal::Unchanged)?;
        Ok(match due {
            Due::CancelGrace => {
                let note = self.note("the worker did not stop within the grace");
                self.stop(JobState::Cancelled, None, note, now)
            }
            // Whoever asked for a cancel was told that the job will be cancelled: only a success
            // that comes first changes that, not the end of a time.
            Due::Deadline if self.cancel.is_some() => {
                let note = self.note("deadline_exceeded");
                self.stop(JobState::Cancelled, None, note, now)
            }
            Due::AttemptTimeout if self.cancel.is_some() => {
                let note = self.note("timeout");
                self.stop(JobState::Cancelled, None, note, now)
            }
            Due::Deadline => {
                let note = self.note("deadline_exceeded");
                let error =
                    JobError::platform("deadline_exceeded", "the job was not done by its deadline");
                self.stop(JobState::Timeout, Some(error), note, now)
            }
            Due::AttemptTimeout => {
                let note = self.note("timeout");
                let error =
                    JobError::platform("timeout", "the attempt took longer than its timeout");
                let slot = self.abandon(AttemptEnd::TimedOut, Some(error.clone()), now);
                self.attempt_failed(error, JobState::Timeout, note, fraction, now);
                slot.map(|slot| Effect::TellRevoke { slot })
                    .into_iter()
                    .collect()
            }
            Due::ApprovalExpiry => {
                self.approval_ran_out(now)?;
                Vec::new()
            }
            Due::ScheduleToStart => {
                let note = Note::because("schedule_timeout");
                let error = JobError::platform(
                    "schedule_timeout",
                    "no worker took the job within its schedule-to-start timeout",
                );
                self.stop(JobState::Timeout, Some(error), note, now)
            }
            Due::Eligible => {
                // Its time to start runs from when it became eligible, not from when a timer got to
                // it: `eligible_time` stays.
                self.state = JobState::Pending;
                self.scheduled_for = None;
                let note = Note::default();
                self.record(EventType::Eligible, Some(JobState::Scheduled), now, note);
                Vec::new()
            }
            // The engine asks the kernel and comes back with its verdict.
            Due::Judge => return Err(Refusal::Unchanged),
        })
    }
}
