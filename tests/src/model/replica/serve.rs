//! Submits, the fast path and the claim loop.

use std::sync::Arc;

use coretex_core::id::{JobId, LeaseId, SessionId, TenantId, Topic};
use coretex_core::job::transition::{NewJob, Trigger, Verdict, accept, apply};
use coretex_core::job::{Job, JobSpec};
use coretex_core::lease::{Claim, may_assign};
use coretex_core::placement::{choose, suits};
use coretex_core::policy::{Decision, JobDecision};
use coretex_core::queue::{ReadToken, ReadyKey, claim_order, merge_heads};

use super::super::defect::Defect;
use super::super::store::needs;
use super::super::wire::{Call, ClientAnswer, JobCommit, Record, Request, ToWorker, Why};
use super::change::Purpose;
use super::ops::{AfterCommit, AfterRead};
use super::session::{SlotUse, Stage};
use super::{Ctx, Out, Replica, tick};

/// Candidates read for every (tenant, shape) beyond what the free slots of all replicas may take.
const READ_AHEAD: usize = 2;

impl Replica {
    /// A client submits a job.
    pub(in super::super) fn submit(
        &mut self,
        ctx: &mut Ctx<'_>,
        call: Call,
        id: JobId,
        spec: Arc<JobSpec>,
    ) {
        if self.run_id.is_none() {
            // Store time is not known yet: not ready.
            ctx.out.push(Out::Answer {
                call,
                answer: ClientAnswer::Refused,
            });
            return;
        }
        let now = self.store_now(ctx.now);
        // The tenant is part of the id in the model.
        let tenant = id.as_str().split('-').next().unwrap_or_default();
        let new = NewJob {
            tenant: TenantId::from_trusted(tenant),
            id,
            spec,
            principal_id: String::new(),
            trace_id: String::new(),
            fingerprint: Vec::new(),
            idempotency_key: String::new(),
            rerun_of: None,
            input: None,
            unmapped: None,
            keep: None,
        };
        let decision = JobDecision::plain(Decision::Allow, String::new(), now);
        let job = accept(new, Verdict::Decided(Box::new(decision)), now);
        if let Some(session) = self.slot_for_newcomer(ctx, &job) {
            let why = Why::Fast(session.clone());
            if self.hand_out(ctx, &session, None, &job, why, Some(call)) {
                return;
            }
        }
        self.commit(
            ctx,
            None,
            Arc::new(job),
            Why::Submit,
            AfterCommit::Queue { call },
        );
    }

    /// The fast path: a session whose slot a new job may take at once, because nothing waits in any
    /// queue that its worker serves.
    fn slot_for_newcomer(&self, ctx: &mut Ctx<'_>, job: &Job) -> Option<SessionId> {
        if !self.may_hold(ctx.now) {
            return None;
        }
        // At time zero no read is too old.
        let now = if self.has(Defect::EmptyReadNeverAges) {
            0
        } else {
            ctx.now
        };
        let known_empty = |topic: &Topic| {
            self.guards
                .get(topic)
                .is_some_and(|guard| guard.is_known_empty(tick(now)))
        };
        let open: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| {
                session.takes_work()
                    && (self.has(Defect::NoEmptyGuard)
                        || self.has(Defect::GuardOfOneTopic) && known_empty(&job.spec.topic)
                        || session.spec.topics.iter().all(known_empty))
            })
            .collect();
        let views = open.iter().map(|(id, session)| session.view(id));
        choose(&needs(job), views, ctx.rng.next()).map(|at| open[at].0.clone())
    }

    /// Commits a job as handed to a session, whose slot is reserved meanwhile.
    fn hand_out(
        &mut self,
        ctx: &mut Ctx<'_>,
        session_id: &SessionId,
        before: Option<(u64, &Job)>,
        job: &Job,
        why: Why,
        call: Option<Call>,
    ) -> bool {
        let lease = LeaseId::new(ctx.rng.u128());
        let now = self.store_now(ctx.now);
        let Some(session) = self.sessions.get_mut(session_id) else {
            return false;
        };
        let trigger = Trigger::Dispatch {
            lease_id: lease,
            replica: self.id.clone(),
            session: session_id.clone(),
            worker_id: session.spec.id.clone(),
            pool: session.spec.pool.clone(),
            concurrency_key: String::new(),
        };
        let Ok(transition) = apply(job, trigger, now) else {
            return false;
        };
        let claim = Claim {
            attempt: transition.job.attempt,
            lease_id: lease,
        };
        session.slots.insert(
            lease,
            SlotUse::new(job.id.clone(), claim, Stage::Claiming, ctx.now),
        );
        let then = AfterCommit::Hand {
            session: session_id.clone(),
            lease,
            call,
        };
        self.commit(ctx, before, Arc::new(transition.job), why, then);
        true
    }

    /// The commit stands: the assignment goes out, unless it is too late, nobody is there, or
    /// somebody has stopped the attempt meanwhile.
    pub(super) fn hand_over(
        &mut self,
        ctx: &mut Ctx<'_>,
        session_id: &SessionId,
        lease: LeaseId,
        commit: &Arc<JobCommit>,
        version: u64,
    ) {
        let in_time = may_assign(tick(commit.decided), tick(ctx.now));
        let job = &commit.job;
        if let Some(session) = self.sessions.get_mut(session_id)
            && session.open
            && let Some(slot) = session.slots.get_mut(&lease)
            && in_time
            && !slot.stopped_early
        {
            slot.stage = Stage::Out;
            slot.since = ctx.now;
            slot.record = Some((version, Arc::clone(job)));
            let (claim, committed) = (slot.claim, commit.decided);
            let msg = ToWorker::Assignment {
                job: job.id.clone(),
                claim,
                committed,
            };
            ctx.out.push(Out::ToWorker {
                conn: session.conn,
                msg,
            });
            return;
        }
        let purpose = Purpose::GiveBack {
            session: session_id.clone(),
            lease,
        };
        self.start(ctx, job.id.clone(), purpose);
    }

    /// Reads the queues of the workers. The regular read is made although no slot is free: else a
    /// slot that frees up next would still be taken to have nobody waiting for it.
    pub(super) fn begin_claim(&mut self, ctx: &mut Ctx<'_>, regular: bool) {
        self.read_again = false;
        if !self.may_hold(ctx.now) {
            return;
        }
        let mut topics: Vec<Topic> = Vec::new();
        let mut free = 0;
        for session in self
            .sessions
            .values()
            .filter(|session| session.takes_work())
        {
            if session.free() > 0 || regular {
                free += session.free();
                topics.extend(session.spec.topics.iter().cloned());
            }
        }
        if topics.is_empty() {
            return;
        }
        topics.sort();
        topics.dedup();
        let now = tick(ctx.now);
        let mut tokens = Vec::new();
        for topic in &topics {
            tokens.push((topic.clone(), self.guard(topic).begin_read(now)));
        }
        self.reading_queues = true;
        let each = free * self.replicas + READ_AHEAD;
        self.read(
            ctx,
            Request::Ready { topics, each },
            AfterRead::Claim { tokens },
        );
    }

    /// The queues were read: claims what the free slots can take.
    pub(super) fn claim(
        &mut self,
        ctx: &mut Ctx<'_>,
        tokens: Vec<(Topic, ReadToken)>,
        lists: Vec<Vec<(ReadyKey, Record)>>,
    ) {
        self.reading_queues = false;
        let mut records: Vec<Record> = Vec::new();
        let mut heads = Vec::new();
        for list in lists {
            // What no worker here could run, even if it were idle, waits for others.
            let ours = list.first().is_some_and(|(_, (_, job))| {
                let mut working = self
                    .sessions
                    .iter()
                    .filter(|(_, session)| session.takes_work());
                working.any(|(id, session)| suits(&needs(job), &session.view(id)).is_ok())
            });
            if ours {
                let (keys, jobs): (Vec<_>, Vec<_>) = list.into_iter().unzip();
                heads.push(keys);
                records.extend(jobs);
            }
        }
        for (topic, token) in tokens {
            let nothing = !records.iter().any(|(_, job)| job.spec.topic == topic);
            self.guard(&topic).finish_read(token, nothing);
        }
        let free: usize = self
            .sessions
            .values()
            .filter(|session| session.takes_work())
            .map(super::Session::free)
            .sum();
        let candidates = merge_heads(heads, usize::MAX);
        if self.may_hold(ctx.now) {
            for at in claim_order(&candidates, free, self.replicas, ctx.rng.fraction()) {
                let key = &candidates[at];
                let Some((version, job)) = records
                    .iter()
                    .find(|(_, job)| job.id == key.job_id)
                    .cloned()
                else {
                    continue;
                };
                if let Some(session) = self.slot_for_waiting(ctx, &job) {
                    self.hand_out(
                        ctx,
                        &session,
                        Some((version, &*job)),
                        &job,
                        Why::Claim,
                        None,
                    );
                }
            }
        }
        if self.read_again {
            self.begin_claim(ctx, true);
        }
    }

    fn slot_for_waiting(&self, ctx: &mut Ctx<'_>, job: &Job) -> Option<SessionId> {
        let working: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, session)| session.takes_work())
            .collect();
        let views = working.iter().map(|(id, session)| session.view(id));
        choose(&needs(job), views, ctx.rng.next()).map(|at| working[at].0.clone())
    }

    /// A slot became free: it is offered to those who wait, unless nobody does.
    pub(super) fn slot_freed(&mut self, ctx: &mut Ctx<'_>, session: &SessionId) {
        let Some(session) = self.sessions.get(session) else {
            return;
        };
        let now = tick(ctx.now);
        let empty = session.spec.topics.iter().all(|topic| {
            self.guards
                .get(topic)
                .is_some_and(|guard| guard.is_known_empty(now))
        });
        if !empty {
            self.read_queues(ctx);
        }
    }
}
