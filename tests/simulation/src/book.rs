//! What the world has been promised and told, kept outside of the servers: accepted jobs, leases
//! that were handed out, results that were acknowledged as applied.

use std::collections::{BTreeMap, BTreeSet};

use coretex_core::id::{JobId, LeaseId};
use coretex_core::job::transition::Outcome;
use coretex_core::job::{Job, JobState};
use coretex_core::time::Timestamp;
use coretex_engine::{AttemptRef, SubmitJob};

/// A job by tenant and id.
pub(crate) type Name = (String, JobId);

/// The book.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// Every job that a client was told is accepted.
    pub(crate) accepted: BTreeSet<Name>,
    /// Every job of which a client does not know whether it is.
    pub(crate) perhaps: BTreeMap<Name, SubmitJob>,
    /// Every job whose dead letter anybody retried.
    pub(crate) retried: BTreeSet<Name>,
    /// Every lease that any worker was ever handed.
    handed: BTreeSet<LeaseId>,
    /// How many pieces of both channels have to be stored, by attempt.
    pub(crate) streamed: BTreeMap<LeaseId, (AttemptRef, [u32; 2])>,
    /// Successes that were acknowledged as applied, by job.
    succeeded: BTreeMap<Name, LeaseId>,
    /// Jobs that somebody has seen ended, by name and acceptance, and how.
    ended: BTreeMap<(Name, Timestamp), JobState>,
    /// Ended jobs are deleted meanwhile, and a request that comes again makes a new one.
    pub(crate) forgets: bool,
}

fn name(attempt: &AttemptRef) -> Name {
    (attempt.tenant.to_string(), attempt.job_id.clone())
}

impl Book {
    /// A lease is handed to a worker.
    pub(crate) fn hand_out(&mut self, lease: LeaseId) {
        assert!(self.handed.insert(lease), "{lease} was handed out twice");
    }

    /// How many were handed out.
    pub(crate) fn handed_out(&self) -> usize {
        self.handed.len()
    }

    /// A worker is told that its result was applied.
    pub(crate) fn applied(&mut self, attempt: &AttemptRef, outcome: &Outcome) {
        if self.forgets || !matches!(outcome, Outcome::Succeeded { .. }) {
            return;
        }
        let lease = attempt.lease_id;
        let first = *self.succeeded.entry(name(attempt)).or_insert(lease);
        assert_eq!(
            first, lease,
            "two results of {} were applied",
            attempt.job_id
        );
    }

    /// Pieces of a stream up to this one have to be stored.
    pub(crate) fn stored(&mut self, attempt: &AttemptRef, channel: usize, sequence: u32) {
        let new = || (attempt.clone(), [0, 0]);
        let (_, stored) = self.streamed.entry(attempt.lease_id).or_insert_with(new);
        stored[channel] = stored[channel].max(sequence);
    }

    /// Somebody sees a job: what has ended stays as it ended.
    pub(crate) fn saw(&mut self, job: &Job) {
        let name = (job.tenant.to_string(), job.id.clone());
        let name = (name, job.create_time);
        if let Some(state) = self.ended.get(&name) {
            assert_eq!(job.state, *state, "{name:?} had ended: {:?}", job.events);
        } else if job.state.is_terminal() {
            self.ended.insert(name, job.state);
        }
    }

    /// Whether it came of a dead letter that somebody retried.
    fn is_retry(&self, job: &Job) -> bool {
        job.rerun_of.as_ref().is_some_and(|old| {
            let old = (job.tenant.to_string(), old.clone());
            self.retried.contains(&old)
        })
    }

    /// Of each dead letter that was dealt with came one new job, and of no other.
    fn compare_retries(&self, jobs: &[Job], by_name: &BTreeMap<Name, &Job>) {
        let mut made: BTreeMap<Name, u32> = BTreeMap::new();
        for job in jobs {
            if let Some(old) = &job.rerun_of {
                let old = (job.tenant.to_string(), old.clone());
                *made.entry(old).or_default() += 1;
            }
        }
        for name in &self.retried {
            let made = made.remove(name).unwrap_or(0);
            let left = by_name[name].dead_letter.is_some();
            assert_eq!(
                made,
                u32::from(!left),
                "new jobs of the dead letter {name:?}"
            );
        }
        assert!(
            made.is_empty(),
            "dead letters that nobody retried: {made:?}"
        );
    }

    /// What was told must be what stands in the store.
    pub(crate) fn compare(&mut self, jobs: &[Job]) {
        let by_name: BTreeMap<Name, &Job> = jobs
            .iter()
            .map(|job| ((job.tenant.to_string(), job.id.clone()), job))
            .collect();
        for name in &self.accepted {
            assert!(
                self.forgets || by_name.contains_key(name),
                "{name:?} was accepted and is gone"
            );
        }
        for name in by_name.keys() {
            let known = self.accepted.contains(name) || self.perhaps.contains_key(name);
            let retried = self.is_retry(by_name[name]);
            assert!(known || retried, "{name:?} was never submitted");
        }
        if !self.forgets {
            self.compare_retries(jobs, &by_name);
        }
        for (name, lease) in &self.succeeded {
            let Some(job) = by_name.get(name) else {
                continue;
            };
            assert_eq!(job.state, JobState::Succeeded, "{name:?}: {:?}", job.events);
            let won = job.attempts.iter().find(|one| one.lease_id == *lease);
            let end = won.and_then(|one| one.end);
            assert_eq!(
                end,
                Some(coretex_core::job::history::AttemptEnd::Succeeded),
                "{name:?}: the success that was acknowledged is not the one that counts"
            );
        }
        for job in jobs {
            self.saw(job);
        }
    }
}
