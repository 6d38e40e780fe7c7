//! Changes of jobs that exist: read the record, decide, commit on its version, and from the start
//! again when somebody was faster. Every decision is safe to repeat, because it depends on the
//! record and on an exact lease.

use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, ReplicaId, SessionId};
use coretex_core::job::history::AttemptEnd;
use coretex_core::job::transition::{Outcome, Transition, Trigger, apply};
use coretex_core::job::{Job, JobError, JobState};
use coretex_core::lease::{Adoption, Claim, adopt};

use super::super::defect::Defect;
use super::super::wire::{Call, ClientAnswer, Ended, Record, Request, ToWorker, Why};
use super::ops::{AfterCommit, AfterRead};
use super::session::Stage;
use super::{Ctx, Out, RETRY_PAUSE, Replica};

/// What a change is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in super::super) enum Purpose {
    /// A worker answered for an attempt.
    Result {
        session: SessionId,
        claim: Claim,
        ended: Ended,
    },
    Started {
        session: SessionId,
        lease: LeaseId,
    },
    /// The worker does not want it.
    Returned {
        session: SessionId,
        lease: LeaseId,
    },
    /// It was committed but not sent.
    GiveBack {
        session: SessionId,
        lease: LeaseId,
    },
    Adopt {
        session: SessionId,
        claim: Claim,
    },
    /// The session that held it is gone.
    Lost {
        replica: ReplicaId,
        session: SessionId,
        lease: LeaseId,
    },
    /// The held index has an entry of ours that we know nothing of.
    Ghost {
        session: SessionId,
        lease: LeaseId,
    },
    /// We have an attempt that the held index does not know. `heard`: its worker has spoken on our
    /// session since we found that out.
    Stray {
        session: SessionId,
        lease: LeaseId,
        heard: bool,
    },
    Cancel {
        call: Call,
        grace: Option<Duration>,
    },
    Due,
}

#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) job: JobId,
    pub(super) purpose: Purpose,
}

/// What a record calls for.
enum Next {
    Commit(Box<Transition>, Why),
    /// Nothing to write; the flag as in [`Replica::changed`].
    Done(bool),
}

impl Next {
    fn commit(transition: Result<Transition, impl Sized>, why: Why) -> Self {
        transition.map_or(Self::Done(false), |transition| {
            Self::Commit(Box::new(transition), why)
        })
    }
}

impl Replica {
    /// Starts a change, unless the same is under way.
    pub(super) fn start(&mut self, ctx: &mut Ctx<'_>, job: JobId, purpose: Purpose) {
        if !self.changing.insert((job.clone(), purpose.clone())) {
            return;
        }
        let change = Change { job, purpose };
        // The hot path: the owner has just written the record and need not read it.
        if let Purpose::Result { session, claim, .. } = &change.purpose
            && let Some(slot) = self
                .sessions
                .get_mut(session)
                .and_then(|s| s.slots.get_mut(&claim.lease_id))
            && let Some(record) = slot.record.take()
        {
            self.decide(ctx, change, Some(record));
            return;
        }
        self.start_again(ctx, change);
    }

    pub(super) fn start_again(&mut self, ctx: &mut Ctx<'_>, change: Change) {
        self.read(
            ctx,
            Request::Get(change.job.clone()),
            AfterRead::Change(change),
        );
    }

    /// The store is away or the outcome is open: the same again in a while.
    pub(super) fn again_later(&mut self, ctx: &mut Ctx<'_>, change: Change) {
        if let Purpose::Cancel { call, .. } = change.purpose {
            // The client hears that nobody knows, and may ask again.
            ctx.out.push(Out::Answer {
                call,
                answer: ClientAnswer::Unknown,
            });
            self.changing.remove(&(change.job, change.purpose));
            return;
        }
        self.retry.push((ctx.now + RETRY_PAUSE, change));
    }

    pub(super) fn decide(&mut self, ctx: &mut Ctx<'_>, change: Change, record: Option<Record>) {
        let next = match &record {
            Some((_, job)) => self.next(ctx, &change.purpose, job),
            None => Next::Done(false),
        };
        ctx.note(|| {
            let what = match &next {
                Next::Commit(transition, _) => format!("to {:?}", transition.job.state),
                Next::Done(flag) => format!("done {flag}"),
            };
            format!("{} {:?}: {what}", change.job, change.purpose)
        });
        match (next, record) {
            (Next::Commit(transition, why), Some((version, job))) => {
                let Transition {
                    job: after,
                    effects,
                    applied,
                } = *transition;
                let then = AfterCommit::Change {
                    change,
                    effects,
                    applied,
                };
                self.commit(ctx, Some((version, &*job)), Arc::new(after), why, then);
            }
            (Next::Commit(..), None) => {}
            (Next::Done(flag), record) => self.changed(ctx, change, flag, record),
        }
    }

    fn next(&self, ctx: &mut Ctx<'_>, purpose: &Purpose, job: &Job) -> Next {
        let now = self.store_now(ctx.now);
        let fraction = ctx.rng.fraction();
        match purpose {
            Purpose::Result { claim, ended, .. } => self.result(job, *claim, *ended, fraction, ctx),
            Purpose::Started { lease, .. } => {
                let trigger = Trigger::Started {
                    lease_id: *lease,
                    at: now,
                };
                Next::commit(apply(job, trigger, now), Why::Other)
            }
            Purpose::Returned { lease, .. } | Purpose::GiveBack { lease, .. } => {
                let trigger = Trigger::Returned {
                    lease_id: *lease,
                    reason: String::new(),
                };
                Next::commit(apply(job, trigger, now), Why::Other)
            }
            Purpose::Adopt { session, claim } => {
                let open = self
                    .sessions
                    .get(session)
                    .is_some_and(|session| session.open);
                if !open || !self.may_hold(ctx.now) {
                    return Next::Done(false);
                }
                match adopt(Some(job), *claim, &self.id, session) {
                    Adoption::Keep => Next::Done(true),
                    Adoption::Revoke(_) => Next::Done(false),
                    Adoption::Move if self.has(Defect::NoAdoption) => Next::Done(false),
                    Adoption::Move => self.adopted(job, session, claim.lease_id, ctx),
                }
            }
            Purpose::Lost {
                replica,
                session,
                lease,
            } => {
                // Only what still stands in that session is lost with it.
                let there = job.slots().any(|slot| {
                    slot.lease_id == *lease
                        && (slot.replica == *replica && slot.session == *session
                            || self.has(Defect::LossFromMemory))
                });
                if there {
                    self.lost(job, *lease, ctx)
                } else {
                    Next::Done(false)
                }
            }
            Purpose::Ghost { session, lease } => {
                let known = self
                    .sessions
                    .get(session)
                    .is_some_and(|s| s.slots.contains_key(lease));
                let there = job.slots().any(|slot| {
                    slot.lease_id == *lease && slot.replica == self.id && slot.session == *session
                });
                if known || !there {
                    return Next::Done(false);
                }
                if self.undelivered.contains(lease) && job.state == JobState::Dispatched {
                    let trigger = Trigger::Returned {
                        lease_id: *lease,
                        reason: String::new(),
                    };
                    return Next::commit(apply(job, trigger, now), Why::Other);
                }
                self.lost(job, *lease, ctx)
            }
            Purpose::Stray {
                session,
                lease,
                heard,
            } => {
                let here = job.slots().any(|slot| {
                    slot.lease_id == *lease && slot.replica == self.id && slot.session == *session
                });
                if here || !job.holds(*lease) {
                    Next::Done(here)
                } else if *heard || self.has(Defect::AdoptFromMemory) {
                    self.adopted(job, session, *lease, ctx)
                } else {
                    // Current, but elsewhere. Which of the two sessions the worker is on, its next
                    // word says.
                    Next::Done(true)
                }
            }
            Purpose::Cancel { grace, .. } => {
                let trigger = Trigger::CancelRequested {
                    principal_id: String::new(),
                    reason: String::new(),
                    grace: grace.unwrap_or_default(),
                    force: grace.is_none(),
                };
                Next::commit(apply(job, trigger, now), Why::Other)
            }
            Purpose::Due => Next::commit(apply(job, Trigger::Due { fraction }, now), Why::Other),
        }
    }

    fn result(&self, job: &Job, claim: Claim, ended: Ended, fraction: f64, ctx: &Ctx<'_>) -> Next {
        let mut lease_id = claim.lease_id;
        if self.has(Defect::NoLeaseMatch)
            && let Some(lease) = &job.lease
            && lease.slot.attempt == claim.attempt
        {
            lease_id = lease.slot.lease_id;
        }
        let record = job
            .attempts
            .iter()
            .rev()
            .find(|attempt| attempt.lease_id == lease_id);
        let end = record.and_then(|attempt| attempt.end);
        if matches!(end, Some(AttemptEnd::Succeeded | AttemptEnd::Failed))
            && !self.has(Defect::ForgetAppliedResults)
        {
            // Applied before; only its acknowledgement was lost.
            return Next::Done(true);
        }
        let outcome = match ended {
            Ended::Succeeded => Outcome::Succeeded { output: None },
            Ended::Failed => Outcome::Failed {
                error: JobError::platform("x", "x"),
            },
            Ended::Cancelled => Outcome::Cancelled,
        };
        let trigger = Trigger::Finished {
            lease_id,
            outcome,
            artifact_ids: Vec::new(),
            started_at: None,
            fraction,
        };
        Next::commit(
            apply(job, trigger, self.store_now(ctx.now)),
            Why::Result(claim.lease_id),
        )
    }

    fn lost(&self, job: &Job, lease: LeaseId, ctx: &Ctx<'_>) -> Next {
        let trigger = Trigger::Lost {
            lease_id: lease,
            reason: String::new(),
        };
        Next::commit(
            apply(job, trigger, self.store_now(ctx.now)),
            Why::Lost(lease),
        )
    }

    fn adopted(&self, job: &Job, session: &SessionId, lease: LeaseId, ctx: &Ctx<'_>) -> Next {
        let trigger = Trigger::Adopted {
            lease_id: lease,
            replica: self.id.clone(),
            session: session.clone(),
        };
        Next::commit(apply(job, trigger, self.store_now(ctx.now)), Why::Other)
    }

    /// A change is done. `flag`: a result was applied, an attempt was kept.
    pub(super) fn changed(
        &mut self,
        ctx: &mut Ctx<'_>,
        change: Change,
        flag: bool,
        record: Option<Record>,
    ) {
        if let Purpose::Adopt { session, .. } = &change.purpose
            && self
                .sessions
                .get(session)
                .is_some_and(|session| session.open)
            && !self.may_hold(ctx.now)
        {
            // Nothing may stand under our name before our lease does.
            self.retry.push((ctx.now + RETRY_PAUSE, change));
            return;
        }
        self.changing
            .remove(&(change.job.clone(), change.purpose.clone()));
        match change.purpose {
            Purpose::Result { session, claim, .. } => {
                self.free_slot(&session, claim.lease_id);
                if let Some(session) = self.sessions.get(&session)
                    && session.open
                {
                    let msg = ToWorker::Ack {
                        lease: claim.lease_id,
                        applied: flag,
                    };
                    ctx.out.push(Out::ToWorker {
                        conn: session.conn,
                        msg,
                    });
                }
                self.slot_freed(ctx, &session);
            }
            Purpose::Started { session, lease } => {
                let sessions = self.sessions.get_mut(&session);
                if let Some(slot) = sessions.and_then(|s| s.slots.get_mut(&lease))
                    && flag
                {
                    slot.record = record;
                }
            }
            Purpose::Returned { session, lease } | Purpose::GiveBack { session, lease } => {
                self.free_slot(&session, lease);
                self.slot_freed(ctx, &session);
            }
            Purpose::Adopt { session, claim } => {
                self.adoption_decided(ctx, &session, claim, flag, record);
            }
            Purpose::Stray {
                session,
                lease,
                heard,
            } => {
                if !flag {
                    // Not current any more: whoever runs it is told.
                    self.stop_attempt(ctx, &session, lease, true);
                } else if let Some(slot) = self
                    .sessions
                    .get_mut(&session)
                    .and_then(|s| s.slots.get_mut(&lease))
                {
                    slot.stray = !heard;
                }
            }
            Purpose::Cancel { call, .. } => {
                ctx.out.push(Out::Answer {
                    call,
                    answer: ClientAnswer::Done,
                });
            }
            Purpose::Ghost { lease, .. } => {
                self.undelivered.remove(&lease);
            }
            Purpose::Lost { .. } | Purpose::Due => {}
        }
    }

    fn adoption_decided(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: &SessionId,
        claim: Claim,
        kept: bool,
        record: Option<Record>,
    ) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        if let Some(slot) = session.slots.get_mut(&claim.lease_id) {
            if kept {
                if slot.stage == Stage::Adopting {
                    slot.stage = Stage::Out;
                    slot.answered = true;
                    slot.since = ctx.now;
                }
                let cancelled = record.is_some_and(|(_, job)| job.cancel.is_some());
                if cancelled {
                    self.stop_attempt(ctx, id, claim.lease_id, false);
                }
            } else {
                self.stop_attempt(ctx, id, claim.lease_id, true);
            }
        }
        self.welcome(ctx, id);
    }
}
