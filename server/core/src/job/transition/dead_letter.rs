//! Taking the dead letter off an ended job: somebody has dealt with it.
//!
//! No trigger of the table: the job has ended and stays in its state. How dead letters are made is
//! in [`job::dead_letter`](crate::job::dead_letter).

use super::record::Note;
use super::{Refusal, Transition};
use crate::id::JobId;
use crate::job::Job;
use crate::job::history::EventType;
use crate::time::Timestamp;

/// What was done about a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled<'a> {
    /// This new job runs it again.
    RetriedAs(&'a JobId),
    /// Nothing: it was thrown away.
    Deleted,
}

/// Takes the dead letter off.
///
/// # Errors
/// `Unchanged` for a job that has none.
pub fn settle(
    job: &Job,
    how: Settled<'_>,
    principal_id: &str,
    now: Timestamp,
) -> Result<Transition, Refusal> {
    if job.dead_letter.is_none() {
        return Err(Refusal::Unchanged);
    }
    let mut next = job.clone();
    next.dead_letter = None;
    let reason = match how {
        Settled::RetriedAs(id) => format!("retried as {id}"),
        Settled::Deleted => "deleted".to_owned(),
    };
    let note = Note {
        principal_id: principal_id.to_owned(),
        ..Note::because(reason)
    };
    next.record(EventType::DeadLetterSettled, Some(job.state), now, note);
    next.update_time = now;
    Ok(Transition {
        job: next,
        effects: Vec::new(),
        applied: true,
    })
}
