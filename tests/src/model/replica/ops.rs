//! Requests to the store: sending, resending, giving up, and what follows from the answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use coretex_core::id::{LeaseId, ReplicaId, SessionId, Topic};
use coretex_core::job::Job;
use coretex_core::job::transition::Effect;
use coretex_core::lease::ReplicaLease;
use coretex_core::queue::ReadToken;

use super::super::defect::Defect;
use super::super::store::entries;
use super::super::wire::{
    Answer, Bus, Call, ClientAnswer, Entry, Failure, JobCommit, Micros, OpId, Reply, Request,
    SECOND, Why,
};
use super::change::Change;
use super::{Ctx, Out, Replica};

/// How long one request to the store may take.
const OP_TIMEOUT: Micros = SECOND;
/// How long a commit of unknown outcome is resent.
const COMMIT_DEADLINE: Micros = 4 * SECOND;

/// What follows from the answer to a read.
#[derive(Clone, Debug)]
pub(super) enum AfterRead {
    Claim {
        tokens: Vec<(Topic, ReadToken)>,
    },
    Change(Change),
    /// A submit met an existing job: is it the same?
    Replay(Call),
    Slots {
        known: BTreeSet<(SessionId, LeaseId)>,
    },
    SessionEnd(SessionId),
    Due,
    SweepReplicas,
    SweepLeases(Vec<ReplicaId>),
    SweepDead(ReplicaId),
    OwnLease,
}

/// What follows from the answer to a commit.
#[derive(Clone, Debug)]
pub(super) enum AfterCommit {
    /// A job was handed to a session, by a claim or at once for a client.
    Hand {
        session: SessionId,
        lease: LeaseId,
        call: Option<Call>,
    },
    Queue {
        call: Call,
    },
    Change {
        change: Change,
        effects: Vec<Effect>,
        applied: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Op {
    Read {
        then: AfterRead,
    },
    Commit {
        commit: Arc<JobCommit>,
        then: AfterCommit,
        write: Write,
        queues: Option<Topic>,
    },
    PutLease {
        request: Request,
        write: Write,
        lease: Option<ReplicaLease>,
        of: ReplicaId,
    },
}

/// The sending of a commit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Write {
    pub(super) first_sent: Micros,
    /// Counts resends, so that the timeout of an earlier one is not taken for this one's.
    pub(super) sent: u32,
    /// An earlier send may still arrive.
    pub(super) ambiguous: bool,
}

impl Replica {
    pub(super) fn read(&mut self, ctx: &mut Ctx<'_>, request: Request, then: AfterRead) {
        let op = self.next_op;
        self.next_op += 1;
        self.ops.insert(op, Op::Read { then });
        ctx.out.push(Out::Store { op, request });
        ctx.out.push(Out::OpTimeout {
            op,
            sent: 1,
            after: OP_TIMEOUT,
        });
    }

    /// Sends the change of a job from `before` (with its version) to `after`.
    pub(super) fn commit(
        &mut self,
        ctx: &mut Ctx<'_>,
        before: Option<(u64, &Job)>,
        after: Arc<Job>,
        why: Why,
        then: AfterCommit,
    ) {
        let old = before.map(|(_, job)| entries(job)).unwrap_or_default();
        let new = entries(&after);
        let topic = after.spec.topic.clone();
        let add: Vec<_> = new
            .iter()
            .filter(|entry| !old.contains(entry))
            .cloned()
            .collect();
        let queues = add
            .iter()
            .any(|entry| matches!(entry, Entry::Ready(..)))
            .then_some(topic);
        let commit = Arc::new(JobCommit {
            commit_id: ctx.rng.u128(),
            expect: before.map_or(0, |(version, _)| version),
            job: after,
            remove: old
                .into_iter()
                .filter(|entry| !new.contains(entry))
                .collect(),
            add,
            why,
            replica: self.idx,
            decided: ctx.now,
        });
        if let Some(topic) = &queues
            && !self.has(Defect::AddsDoNotSpoilReads)
        {
            self.guard(topic).begin_add();
        }
        let op = self.next_op;
        self.next_op += 1;
        let write = Write {
            first_sent: ctx.now,
            sent: 1,
            ambiguous: false,
        };
        let request = Request::Commit(Arc::clone(&commit));
        self.ops.insert(
            op,
            Op::Commit {
                commit,
                then,
                write,
                queues,
            },
        );
        ctx.out.push(Out::Store { op, request });
        ctx.out.push(Out::OpTimeout {
            op,
            sent: 1,
            after: OP_TIMEOUT,
        });
    }

    /// The store answered, or the transport said why not.
    pub(in super::super) fn answered(
        &mut self,
        ctx: &mut Ctx<'_>,
        op_id: OpId,
        result: Result<Answer, Failure>,
    ) {
        if let Ok(answer) = &result {
            self.heard_store(ctx, answer);
        }
        let Some(op) = self.ops.remove(&op_id) else {
            return;
        };
        match (op, result) {
            (Op::Read { then }, Ok(answer)) => self.after_read(ctx, then, answer.reply),
            (Op::Read { then }, Err(_)) => self.read_failed(ctx, then),
            (
                Op::Commit {
                    commit,
                    then,
                    queues,
                    ..
                },
                Ok(answer),
            ) => {
                let version = match answer.reply {
                    Reply::Committed(version) => Some(version),
                    _ => None,
                };
                self.added(ctx, queues, version.is_some());
                match version {
                    Some(version) => self.committed(ctx, then, &commit, version),
                    None => self.conflicted(ctx, then, &commit),
                }
            }
            (
                Op::Commit {
                    commit,
                    then,
                    mut write,
                    queues,
                },
                Err(failure),
            ) => {
                let ambiguous = write.ambiguous || failure == Failure::Timeout;
                if ambiguous && ctx.now - write.first_sent < COMMIT_DEADLINE {
                    // The same commit id again, over a new connection.
                    write = Write {
                        sent: write.sent + 1,
                        ambiguous,
                        ..write
                    };
                    let request = Request::Commit(Arc::clone(&commit));
                    self.resend(ctx, op_id, request, write.sent);
                    self.ops.insert(
                        op_id,
                        Op::Commit {
                            commit,
                            then,
                            write,
                            queues,
                        },
                    );
                } else {
                    self.added(ctx, queues, ambiguous);
                    self.given_up(ctx, then, &commit, ambiguous);
                }
            }
            (
                Op::PutLease {
                    lease, of, write, ..
                },
                Ok(answer),
            ) => {
                self.lease_written(ctx, &of, lease, write.first_sent, &answer);
            }
            (
                Op::PutLease {
                    request,
                    mut write,
                    lease,
                    of,
                },
                Err(failure),
            ) => {
                let ambiguous = write.ambiguous || failure == Failure::Timeout;
                if ambiguous && ctx.now - write.first_sent < COMMIT_DEADLINE {
                    write = Write {
                        sent: write.sent + 1,
                        ambiguous,
                        ..write
                    };
                    self.resend(ctx, op_id, request.clone(), write.sent);
                    self.ops.insert(
                        op_id,
                        Op::PutLease {
                            request,
                            write,
                            lease,
                            of,
                        },
                    );
                } else if of == self.id {
                    self.lease_failed(ctx);
                }
            }
        }
    }

    pub(super) fn resend(&mut self, ctx: &mut Ctx<'_>, op: OpId, request: Request, sent: u32) {
        ctx.out.push(Out::Store { op, request });
        ctx.out.push(Out::OpTimeout {
            op,
            sent,
            after: OP_TIMEOUT,
        });
    }

    /// A request has waited long enough for its answer.
    pub(in super::super) fn timed_out(&mut self, ctx: &mut Ctx<'_>, op: OpId, sent: u32) {
        let current = match self.ops.get(&op) {
            Some(Op::Read { .. }) => true,
            Some(Op::Commit { write, .. } | Op::PutLease { write, .. }) => write.sent == sent,
            None => false,
        };
        if current {
            self.answered(ctx, op, Err(Failure::Timeout));
        }
    }

    /// A commit that adds to a queue is settled, or given up; it may then still be applied.
    pub(super) fn added(&mut self, ctx: &mut Ctx<'_>, queues: Option<Topic>, maybe: bool) {
        let Some(topic) = queues else { return };
        if !self.has(Defect::AddsDoNotSpoilReads) {
            self.guard(&topic).end_add();
        }
        if maybe {
            ctx.out.push(Out::Bus {
                to: None,
                msg: Bus::Ready(topic),
            });
            self.read_queues(ctx);
        }
    }

    pub(super) fn after_read(&mut self, ctx: &mut Ctx<'_>, then: AfterRead, reply: Reply) {
        match (then, reply) {
            (AfterRead::Claim { tokens }, Reply::Ready(lists)) => {
                self.claim(ctx, tokens, lists);
            }
            (AfterRead::Change(change), Reply::Job(record)) => self.decide(ctx, change, record),
            (AfterRead::Replay(call), Reply::Job(record)) => {
                let answer = if record.is_some() {
                    ClientAnswer::Done
                } else {
                    ClientAnswer::Refused
                };
                ctx.out.push(Out::Answer { call, answer });
            }
            (AfterRead::Slots { known }, Reply::Held(found)) => {
                self.compare_slots(ctx, &known, &found);
            }
            (AfterRead::SessionEnd(session), Reply::Held(found)) => {
                self.session_lost(ctx, &session, &found);
            }
            (AfterRead::Due, Reply::Due(jobs)) => self.due(ctx, jobs),
            (AfterRead::SweepReplicas, Reply::Replicas(found)) => {
                self.read(ctx, Request::Leases, AfterRead::SweepLeases(found));
            }
            (AfterRead::SweepLeases(found), Reply::Leases(leases)) => {
                self.sweep(ctx, &found, &leases);
            }
            (AfterRead::SweepDead(replica), Reply::Held(found)) => {
                self.sweep_dead(ctx, &replica, &found);
            }
            (AfterRead::OwnLease, Reply::Leases(leases)) => self.own_lease_read(ctx, leases),
            (_, _) => {}
        }
    }

    pub(super) fn read_failed(&mut self, ctx: &mut Ctx<'_>, then: AfterRead) {
        match then {
            AfterRead::Claim { .. } => self.reading_queues = false,
            AfterRead::Change(change) => self.again_later(ctx, change),
            AfterRead::Replay(call) => {
                ctx.out.push(Out::Answer {
                    call,
                    answer: ClientAnswer::Unknown,
                });
            }
            AfterRead::SessionEnd(session) => {
                if let Some(session) = self.sessions.get_mut(&session) {
                    session.scanning = false;
                }
            }
            AfterRead::OwnLease => self.lease_failed(ctx),
            AfterRead::Slots { .. }
            | AfterRead::Due
            | AfterRead::SweepReplicas
            | AfterRead::SweepLeases(_)
            | AfterRead::SweepDead(_) => {}
        }
    }

    pub(super) fn committed(
        &mut self,
        ctx: &mut Ctx<'_>,
        then: AfterCommit,
        commit: &Arc<JobCommit>,
        version: u64,
    ) {
        match then {
            AfterCommit::Hand {
                session,
                lease,
                call,
            } => {
                if let Some(call) = call {
                    ctx.out.push(Out::Answer {
                        call,
                        answer: ClientAnswer::Done,
                    });
                }
                self.hand_over(ctx, &session, lease, commit, version);
            }
            AfterCommit::Queue { call } => {
                ctx.out.push(Out::Queued {
                    job: commit.job.id.clone(),
                });
                ctx.out.push(Out::Answer {
                    call,
                    answer: ClientAnswer::Done,
                });
            }
            AfterCommit::Change {
                change,
                effects,
                applied,
            } => {
                for effect in effects {
                    self.tell(ctx, effect);
                }
                self.changed(
                    ctx,
                    change,
                    applied,
                    Some((version, Arc::clone(&commit.job))),
                );
            }
        }
    }

    pub(super) fn conflicted(
        &mut self,
        ctx: &mut Ctx<'_>,
        then: AfterCommit,
        commit: &Arc<JobCommit>,
    ) {
        match then {
            AfterCommit::Hand {
                session,
                lease,
                call,
            } => {
                self.free_slot(&session, lease);
                match call {
                    Some(call) => {
                        let request = Request::Get(commit.job.id.clone());
                        self.read(ctx, request, AfterRead::Replay(call));
                    }
                    // Somebody else was faster; the slot is still free.
                    None => self.read_queues(ctx),
                }
            }
            AfterCommit::Queue { call } => {
                let request = Request::Get(commit.job.id.clone());
                self.read(ctx, request, AfterRead::Replay(call));
            }
            AfterCommit::Change { change, .. } => self.start_again(ctx, change),
        }
    }

    /// A commit was given up: surely not applied, or nobody knows.
    pub(super) fn given_up(
        &mut self,
        ctx: &mut Ctx<'_>,
        then: AfterCommit,
        commit: &Arc<JobCommit>,
        unknown: bool,
    ) {
        let answer = if unknown {
            ClientAnswer::Unknown
        } else {
            ClientAnswer::Refused
        };
        match then {
            AfterCommit::Hand {
                session,
                lease,
                call,
            } => {
                if unknown && self.has(Defect::DeliverUnknown) {
                    self.hand_over(ctx, &session, lease, commit, commit.expect + 1);
                    return;
                }
                if unknown {
                    // It may still be applied. Nobody runs it then: the comparison with the held
                    // index finds it and gives it back.
                    self.undelivered.insert(lease);
                }
                self.free_slot(&session, lease);
                if let Some(call) = call {
                    ctx.out.push(Out::Answer { call, answer });
                }
            }
            AfterCommit::Queue { call } => ctx.out.push(Out::Answer { call, answer }),
            AfterCommit::Change { change, .. } => self.again_later(ctx, change),
        }
    }
}
