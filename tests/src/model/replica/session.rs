//! Sessions: what a replica knows in memory of its workers and their slots.

use std::collections::BTreeMap;
use std::sync::Arc;

use coretex_core::id::{JobId, LeaseId, SessionId};
use coretex_core::job::Slot;
use coretex_core::job::transition::Effect;
use coretex_core::lease::{Claim, Liveness};
use coretex_core::placement::{Tenants, WorkerView};

use super::super::defect::Defect;
use super::super::wire::{Bus, Conn, Micros, Record, ToServer, ToWorker};
use super::super::worker::WorkerSpec;
use super::change::Purpose;
use super::{Ctx, Out, Replica, tick};

/// What an occupied slot stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Stage {
    /// Reserved; the commit is under way.
    Claiming,
    /// Claimed by a reconnected worker, not decided yet.
    Adopting,
    /// The worker has it.
    Out,
    /// The worker was told to stop it and has not answered.
    Stopping,
}

/// A slot in use.
#[derive(Clone, Debug)]
pub(in super::super) struct SlotUse {
    pub(in super::super) job: JobId,
    pub(in super::super) claim: Claim,
    pub(in super::super) stage: Stage,
    pub(in super::super) since: Micros,
    /// The worker has said anything about it.
    pub(super) answered: bool,
    /// The worker was asked to stop it, or may not get it at all.
    pub(super) told_cancel: bool,
    pub(super) stopped_early: bool,
    /// The record says that the attempt is elsewhere; the worker's next word decides.
    pub(super) stray: bool,
    /// The record as last written by us; may be stale.
    pub(super) record: Option<Record>,
}

impl SlotUse {
    pub(super) const fn new(job: JobId, claim: Claim, stage: Stage, now: Micros) -> Self {
        Self {
            job,
            claim,
            stage,
            since: now,
            answered: false,
            told_cancel: false,
            stopped_early: false,
            stray: false,
            record: None,
        }
    }
}

#[derive(Debug)]
pub(in super::super) struct Session {
    pub(in super::super) conn: Conn,
    pub(in super::super) spec: Arc<WorkerSpec>,
    /// Its claims are decided: it gets work.
    pub(in super::super) welcomed: bool,
    pub(in super::super) open: bool,
    pub(super) liveness: Liveness,
    pub(in super::super) slots: BTreeMap<LeaseId, SlotUse>,
    /// Its entries are being read after its end.
    pub(super) scanning: bool,
    /// Slots count only once their commit is answered: a defect.
    pub(super) no_reservation: bool,
}

impl Session {
    /// A session without a stream.
    pub(in super::super) fn idle(spec: Arc<WorkerSpec>) -> Self {
        Self {
            conn: 0,
            spec,
            welcomed: false,
            open: false,
            liveness: Liveness::new(tick(0)),
            slots: BTreeMap::new(),
            scanning: false,
            no_reservation: false,
        }
    }

    pub(in super::super) const fn takes_work(&self) -> bool {
        self.open && self.welcomed
    }

    pub(in super::super) fn free(&self) -> usize {
        (self.spec.max_parallel as usize).saturating_sub(self.in_use())
    }

    fn in_use(&self) -> usize {
        let counts = |slot: &&SlotUse| !self.no_reservation || slot.stage != Stage::Claiming;
        self.slots.values().filter(counts).count()
    }

    pub(in super::super) fn view<'a>(&'a self, id: &'a SessionId) -> WorkerView<'a> {
        static NO_LABELS: BTreeMap<String, String> = BTreeMap::new();
        WorkerView {
            worker_id: &self.spec.id,
            session: id,
            pool: &self.spec.pool,
            topics: &self.spec.topics,
            any_topic: false,
            capabilities: &self.spec.capabilities,
            labels: &NO_LABELS,
            max_parallel: self.spec.max_parallel,
            active: u32::try_from(self.in_use()).unwrap_or(u32::MAX),
            cpu_load: 0.0,
            gpu_utilization: 0.0,
            draining: false,
            tenants_served: Tenants::All,
            rule: None,
        }
    }
}

impl Replica {
    /// A worker opened a stream and said hello.
    fn hello(
        &mut self,
        ctx: &mut Ctx<'_>,
        conn: Conn,
        spec: Arc<WorkerSpec>,
        running: Vec<(JobId, Claim)>,
    ) {
        let id = SessionId::from_trusted(&format!("s{conn}"));
        let slots = running.iter().map(|(job, claim)| {
            (
                claim.lease_id,
                SlotUse::new(job.clone(), *claim, Stage::Adopting, ctx.now),
            )
        });
        let session = Session {
            conn,
            spec,
            welcomed: false,
            open: true,
            liveness: Liveness::new(tick(ctx.now)),
            slots: slots.collect(),
            scanning: false,
            no_reservation: self.has(Defect::NoReservation),
        };
        self.sessions.insert(id.clone(), session);
        self.conns.insert(conn, id.clone());
        for (job, claim) in running {
            self.start(
                ctx,
                job,
                Purpose::Adopt {
                    session: id.clone(),
                    claim,
                },
            );
        }
        self.welcome(ctx, &id);
    }

    /// Once every claim is decided, the session gets work. What nobody here could run before may be
    /// runnable now, so its queues are not known to be empty any more.
    pub(super) fn welcome(&mut self, ctx: &mut Ctx<'_>, id: &SessionId) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let undecided = session
            .slots
            .values()
            .any(|slot| slot.stage == Stage::Adopting);
        if session.welcomed || !session.open || undecided {
            return;
        }
        session.welcomed = true;
        ctx.out.push(Out::ToWorker {
            conn: session.conn,
            msg: ToWorker::Welcome,
        });
        let spec = Arc::clone(&session.spec);
        for topic in &spec.topics {
            self.guard(topic).added();
        }
        self.read_queues(ctx);
    }

    /// A worker said something.
    pub(in super::super) fn worker_message(
        &mut self,
        ctx: &mut Ctx<'_>,
        conn: Conn,
        spec: &Arc<WorkerSpec>,
        msg: ToServer,
    ) {
        if let ToServer::Hello { running } = msg {
            self.hello(ctx, conn, Arc::clone(spec), running);
            return;
        }
        let Some(id) = self.conns.get(&conn).cloned() else {
            return;
        };
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        session.liveness.heard(tick(ctx.now));
        let mut strays = Vec::new();
        for (lease, slot) in session.slots.iter_mut().filter(|(_, slot)| slot.stray) {
            slot.stray = false;
            strays.push((slot.job.clone(), *lease));
        }
        for (job, lease) in strays {
            let session = id.clone();
            self.start(
                ctx,
                job,
                Purpose::Stray {
                    session,
                    lease,
                    heard: true,
                },
            );
        }
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        match msg {
            ToServer::Hello { .. } => {}
            ToServer::Heartbeat => {
                ctx.out.push(Out::ToWorker {
                    conn,
                    msg: ToWorker::Pong,
                });
            }
            ToServer::Started { job, lease } => {
                if let Some(slot) = session.slots.get_mut(&lease) {
                    slot.answered = true;
                    self.start(ctx, job, Purpose::Started { session: id, lease });
                }
            }
            ToServer::Result { job, claim, ended } => {
                let purpose = Purpose::Result {
                    session: id,
                    claim,
                    ended,
                };
                self.start(ctx, job, purpose);
            }
            ToServer::Reject { job, lease } => {
                if let Some(slot) = session.slots.get_mut(&lease) {
                    slot.answered = true;
                }
                self.start(ctx, job, Purpose::Returned { session: id, lease });
            }
        }
    }

    /// A stream ended. Its attempts wait for their worker.
    pub(in super::super) fn stream_ended(&mut self, ctx: &mut Ctx<'_>, conn: Conn) {
        let Some(id) = self.conns.remove(&conn) else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(&id) {
            session.open = false;
            session.liveness.ended(tick(ctx.now));
            ctx.note(|| format!("session {id} ended"));
        }
    }

    /// Ends a stream from this side.
    pub(super) fn hang_up(&mut self, ctx: &mut Ctx<'_>, id: &SessionId) {
        if let Some(session) = self.sessions.get(id) {
            let conn = session.conn;
            ctx.out.push(Out::Hangup { conn });
            self.stream_ended(ctx, conn);
        }
    }

    pub(super) fn free_slot(&mut self, session: &SessionId, lease: LeaseId) {
        if let Some(session) = self.sessions.get_mut(session) {
            session.slots.remove(&lease);
        }
    }

    /// A change of a job concerns whoever runs it.
    pub(super) fn tell(&mut self, ctx: &mut Ctx<'_>, effect: Effect) {
        let (slot, revoke) = match effect {
            Effect::TellCancel { slot, .. } => (slot, false),
            Effect::TellRevoke { slot } => (slot, true),
        };
        if slot.replica == self.id {
            self.told(ctx, &slot, revoke);
        } else {
            let to = Some(slot.replica.clone());
            ctx.out.push(Out::Bus {
                to,
                msg: Bus::Tell { slot, revoke },
            });
        }
    }

    /// An attempt in one of our slots is to be stopped.
    pub(in super::super) fn told(&mut self, ctx: &mut Ctx<'_>, slot: &Slot, revoke: bool) {
        if slot.replica == self.id {
            self.stop_attempt(ctx, &slot.session, slot.lease_id, revoke);
        }
    }

    /// Tells the worker to stop an attempt, once. Its slot stays in use until it has answered.
    pub(super) fn stop_attempt(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: &SessionId,
        lease: LeaseId,
        revoke: bool,
    ) {
        let free_at_once = self.has(Defect::SlotFreeBeforeAnswer);
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let conn = session.conn;
        let Some(slot) = session.slots.get_mut(&lease) else {
            return;
        };
        let (job, claim) = (slot.job.clone(), slot.claim);
        match (slot.stage, revoke) {
            (Stage::Claiming, _) => {
                // Not sent yet, and now it never is.
                slot.stopped_early = true;
                return;
            }
            (Stage::Stopping, _) => return,
            (Stage::Out | Stage::Adopting, true) => slot.stage = Stage::Stopping,
            (Stage::Out | Stage::Adopting, false) => {
                if std::mem::replace(&mut slot.told_cancel, true) {
                    return;
                }
            }
        }
        let msg = if revoke {
            ToWorker::Revoke { job, claim }
        } else {
            ToWorker::Cancel { job, claim }
        };
        if session.open {
            ctx.out.push(Out::ToWorker { conn, msg });
        }
        if revoke && free_at_once {
            session.slots.remove(&lease);
            self.slot_freed(ctx, id);
        }
    }
}
