//! What a replica does of its own accord: its lease, the queues again, its slots against the held
//! index, ended sessions, due jobs, dead replicas.

use std::collections::BTreeSet;
use std::sync::Arc;

use coretex_core::id::{JobId, LeaseId, PoolName, ReplicaId, SessionId, WorkerId};
use coretex_core::lease::{
    ADOPTION_WINDOW, ASSIGNMENT_VALID, HeldKey, OwnLease, ReplicaLease, SLOTS_REREAD_EVERY,
    SWEEP_EVERY, SessionStatus, Standing, Tick, lost_after_replica,
};
use coretex_core::queue::REREAD_EVERY;
use coretex_core::time::Timestamp;

use super::super::defect::Defect;
use super::super::rng::Rng;
use super::super::wire::{Answer, MILLI, Micros, Reply, Request, SECOND, micros};
use super::super::worker::WorkerSpec;
use super::change::Purpose;
use super::ops::{AfterRead, Op, Write};
use super::session::{Session, Stage};
use super::{Ctx, OwnLeaseState, Replica, new_name, somewhere_in, tick};

/// How often [`Replica::poll`] is called.
pub(in super::super) const POLL_EVERY: Micros = 40 * MILLI;
/// How often the due index is read.
const DUE_EVERY: Micros = SECOND;

/// When the periodic work is next to be done.
#[derive(Debug)]
pub(super) struct Next {
    queues: Micros,
    slots: Micros,
    sweep: Micros,
    due: Micros,
}

impl Next {
    pub(super) fn new(now: Micros, rng: &mut Rng) -> Self {
        Self {
            queues: now,
            slots: now + somewhere_in(micros(SLOTS_REREAD_EVERY), rng),
            sweep: now + somewhere_in(micros(SWEEP_EVERY), rng),
            due: now + somewhere_in(DUE_EVERY, rng),
        }
    }
}

impl Replica {
    pub(in super::super) fn poll(&mut self, ctx: &mut Ctx<'_>) {
        self.keep_lease(ctx);
        self.watch_sessions(ctx);
        let now = ctx.now;
        if now >= self.next.due {
            // Also the regular sign of life of the store.
            self.next.due = now + DUE_EVERY;
            self.read(ctx, Request::Due, AfterRead::Due);
        }
        if now >= self.next.queues {
            self.next.queues = now + micros(REREAD_EVERY);
            if !self.has(Defect::NoReread) {
                if self.reading_queues {
                    // The read under way may have passed what was added since.
                    self.read_again = true;
                } else {
                    self.begin_claim(ctx, true);
                }
            }
        }
        if now >= self.next.slots && !self.has(Defect::NoSlotReread) {
            self.next.slots = now + micros(SLOTS_REREAD_EVERY);
            let known = self
                .sessions
                .iter()
                .flat_map(|(id, session)| session.slots.keys().map(|lease| (id.clone(), *lease)));
            let known = known.collect();
            let prefix = HeldKey::replica_prefix(&self.id);
            self.read(ctx, Request::Held(prefix), AfterRead::Slots { known });
        }
        if now >= self.next.sweep {
            self.next.sweep = now + micros(SWEEP_EVERY);
            // Holders first, leases second: a replica that starts between the two reads has its
            // lease by the time the leases are read.
            self.read(ctx, Request::HeldReplicas, AfterRead::SweepReplicas);
        }
        let (due, later) = std::mem::take(&mut self.retry)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.retry = later;
        let due: Vec<_> = due;
        for (_, change) in due {
            self.start_again(ctx, change);
        }
    }

    fn keep_lease(&mut self, ctx: &mut Ctx<'_>) {
        if self.lease_busy || ctx.now < self.lease_retry {
            return;
        }
        let store_now = self.store_now(ctx.now);
        let (expect, lease) = match &self.own {
            Some(own) if own.view.is_due(tick(ctx.now)) => {
                (own.version, own.lease.renewed(store_now))
            }
            Some(_) => return,
            // Store time comes with the first answer.
            None if self.run_id.is_none() => return,
            None => (0, ReplicaLease::new(self.id.clone(), store_now)),
        };
        self.lease_busy = true;
        self.put_lease(ctx, self.id.clone(), expect, Some(lease));
    }

    fn put_lease(
        &mut self,
        ctx: &mut Ctx<'_>,
        of: ReplicaId,
        expect: u64,
        lease: Option<ReplicaLease>,
    ) {
        let commit_id = ctx.rng.u128();
        let request = Request::PutLease {
            commit_id,
            replica: of.clone(),
            expect,
            lease: lease.clone(),
        };
        let op = self.next_op;
        self.next_op += 1;
        let write = Write {
            first_sent: ctx.now,
            sent: 1,
            ambiguous: false,
        };
        self.ops.insert(
            op,
            Op::PutLease {
                request: request.clone(),
                write,
                lease,
                of,
            },
        );
        self.resend(ctx, op, request, 1);
    }

    pub(super) fn lease_written(
        &mut self,
        ctx: &mut Ctx<'_>,
        of: &ReplicaId,
        lease: Option<ReplicaLease>,
        sent: Micros,
        answer: &Answer,
    ) {
        let committed = match answer.reply {
            Reply::Committed(version) => Some(version),
            _ => None,
        };
        match (lease, committed) {
            (None, Some(_)) => {
                ctx.note(|| format!("declared {of} dead"));
            }
            (None, None) => {
                self.dead.remove(of);
            }
            (Some(_), _) if *of != self.id => {}
            (Some(lease), Some(version)) => {
                self.lease_busy = false;
                self.rewound = false;
                let first = self.own.is_none();
                let view = match &self.own {
                    Some(own) => {
                        let mut view = own.view;
                        view.renewed(tick(sent));
                        view
                    }
                    None => OwnLease::new(tick(sent)),
                };
                self.own = Some(OwnLeaseState {
                    version,
                    lease,
                    view,
                });
                if first {
                    self.read_queues(ctx);
                }
            }
            // It is not as we left it: deleted, or the store went back in time.
            (Some(_), None) => {
                let request = Request::Lease(self.id.clone());
                self.read(ctx, request, AfterRead::OwnLease);
            }
        }
    }

    pub(super) fn lease_failed(&mut self, ctx: &Ctx<'_>) {
        self.lease_busy = false;
        self.lease_retry = ctx.now + SECOND;
    }

    pub(super) fn own_lease_read(&mut self, ctx: &mut Ctx<'_>, found: Vec<(u64, ReplicaLease)>) {
        self.lease_busy = false;
        let goes_on = self.rewound;
        match (found.into_iter().next(), &mut self.own) {
            (Some((version, _)), Some(own)) => own.version = version,
            (Some((version, lease)), None) => {
                let view = OwnLease::new(tick(ctx.now));
                self.own = Some(OwnLeaseState {
                    version,
                    lease,
                    view,
                });
            }
            (None, _) if goes_on => self.own = None,
            (None, _) => self.start_over(ctx),
        }
    }

    /// We were declared dead: what stood under our name is not ours any more. Everything ends, and
    /// a new name begins; workers come back and bring their attempts.
    fn start_over(&mut self, ctx: &mut Ctx<'_>) {
        let sessions: Vec<_> = self.sessions.keys().cloned().collect();
        for id in &sessions {
            self.hang_up(ctx, id);
        }
        self.sessions.clear();
        self.conns.clear();
        self.own = None;
        let old = std::mem::replace(&mut self.id, new_name(self.idx, ctx.rng));
        ctx.note(|| format!("{old} starts over as {}", self.id));
    }

    /// Every answer of the store is a sign of life, and says whether it is still the same store.
    pub(super) fn heard_store(&mut self, ctx: &mut Ctx<'_>, answer: &Answer) {
        let first = self.run_id.is_none();
        let other = self
            .run_id
            .replace(answer.run_id)
            .is_some_and(|id| id != answer.run_id);
        let offset = answer.time.as_micros().saturating_sub(ctx.now);
        self.clock_offset = Timestamp::from_micros(offset);
        if other && !self.has(Defect::NoRewindNotice) {
            ctx.note(|| "the store is another one".to_owned());
            self.watch.interrupted();
            self.dead.clear();
            self.doubt_all_queues();
            self.rewound = true;
            self.next.slots = ctx.now;
            if let Some(own) = &mut self.own {
                // Renewed at once: the lease may have gone back with everything else.
                own.view = OwnLease::new(tick(0));
                own.view.failed(tick(0));
            }
            self.lease_retry = ctx.now;
        } else if first {
            self.lease_retry = ctx.now;
        }
        self.watch.answered(tick(ctx.now));
    }

    /// Whether the store has been there for the whole adoption window: else nobody could be
    /// adopted, and what nobody came back for may yet be wanted.
    fn window_has_run(&self, now: Tick) -> bool {
        self.has(Defect::WindowRunsInOutage) || self.watch.up_for(now) >= ADOPTION_WINDOW
    }

    fn watch_sessions(&mut self, ctx: &mut Ctx<'_>) {
        let now = tick(ctx.now);
        let over = self.window_has_run(now);
        let mut ended = Vec::new();
        let mut lost = Vec::new();
        let mut from_memory = Vec::new();
        for (id, session) in &self.sessions {
            // An assignment that is not answered never arrived: the stream is broken.
            let unanswered = session.slots.values().any(|slot| {
                slot.stage == Stage::Out
                    && !slot.answered
                    && ctx.now - slot.since >= micros(ASSIGNMENT_VALID)
            });
            if self.defect == Some(Defect::LossFromMemory)
                && session.liveness.status(now) == SessionStatus::Lost
            {
                from_memory.extend(session.slots.iter().map(|(lease, slot)| {
                    let (replica, session) = (self.id.clone(), id.clone());
                    (
                        slot.job.clone(),
                        Purpose::Lost {
                            replica,
                            session,
                            lease: *lease,
                        },
                    )
                }));
            }
            match session.liveness.status(now) {
                SessionStatus::Silent => ended.push(id.clone()),
                SessionStatus::Alive if unanswered => ended.push(id.clone()),
                SessionStatus::Adoptable if self.defect == Some(Defect::NoAdoptionWindow) => {
                    lost.push(id.clone());
                }
                SessionStatus::Lost if over => lost.push(id.clone()),
                SessionStatus::Alive | SessionStatus::Adoptable | SessionStatus::Lost => {}
            }
        }
        for id in ended {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.liveness.went_silent();
            }
            self.hang_up(ctx, &id);
        }
        for (job, purpose) in from_memory {
            self.start(ctx, job, purpose);
        }
        for id in lost {
            let Some(session) = self.sessions.get_mut(&id) else {
                continue;
            };
            if !std::mem::replace(&mut session.scanning, true) {
                let prefix = HeldKey::session_prefix(&self.id, &id);
                self.read(ctx, Request::Held(prefix), AfterRead::SessionEnd(id));
            }
        }
    }

    /// The entries of a session that nobody came back for.
    pub(super) fn session_lost(&mut self, ctx: &mut Ctx<'_>, id: &SessionId, found: &[HeldKey]) {
        if found.is_empty() {
            self.sessions.remove(id);
            return;
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.scanning = false;
        }
        self.lose(ctx, found);
    }

    fn lose(&mut self, ctx: &mut Ctx<'_>, found: &[HeldKey]) {
        for key in found {
            let purpose = Purpose::Lost {
                replica: key.replica.clone(),
                session: key.session.clone(),
                lease: key.lease_id,
            };
            self.start(ctx, key.job_id.clone(), purpose);
        }
    }

    pub(super) fn due(&mut self, ctx: &mut Ctx<'_>, jobs: Vec<JobId>) {
        for job in jobs {
            self.start(ctx, job, Purpose::Due);
        }
    }

    /// Compares our slots with the held index. `known`: what we knew when the read was sent.
    pub(super) fn compare_slots(
        &mut self,
        ctx: &mut Ctx<'_>,
        known: &BTreeSet<(SessionId, LeaseId)>,
        found: &[HeldKey],
    ) {
        let no_standing = self.has(Defect::NoStanding);
        let me = self.id.clone();
        for key in found.iter().filter(|key| key.replica == me) {
            let Some(session) = self.sessions.get(&key.session) else {
                // From before our memory: it ends now, and its worker may still come back.
                self.sessions
                    .insert(key.session.clone(), ended_session(ctx.now));
                continue;
            };
            let (id, lease) = (key.session.clone(), key.lease_id);
            if session.slots.contains_key(&lease) {
                match key.standing {
                    Standing::Current => {}
                    Standing::CancelRequested if no_standing => {}
                    Standing::Over if no_standing => {}
                    Standing::CancelRequested => self.stop_attempt(ctx, &id, lease, false),
                    Standing::Over => self.stop_attempt(ctx, &id, lease, true),
                }
            } else if session.open && !known.contains(&(id.clone(), lease)) {
                self.start(
                    ctx,
                    key.job_id.clone(),
                    Purpose::Ghost { session: id, lease },
                );
            }
        }
        let listed: BTreeSet<_> = found
            .iter()
            .map(|key| (key.session.clone(), key.lease_id))
            .collect();
        let mut strays = Vec::new();
        for (id, session) in self.sessions.iter().filter(|(_, session)| session.open) {
            for (lease, slot) in &session.slots {
                let at = (id.clone(), *lease);
                if slot.stage == Stage::Out && known.contains(&at) && !listed.contains(&at) {
                    strays.push((at, slot.job.clone()));
                }
            }
        }
        for ((session, lease), job) in strays {
            self.start(
                ctx,
                job,
                Purpose::Stray {
                    session,
                    lease,
                    heard: false,
                },
            );
        }
    }

    /// Finds replicas that are dead: an expired lease, or entries without a lease.
    pub(super) fn sweep(
        &mut self,
        ctx: &mut Ctx<'_>,
        holders: &[ReplicaId],
        leases: &[(u64, ReplicaLease)],
    ) {
        let store_now = self.store_now(ctx.now);
        let now = tick(ctx.now);
        let over = self.window_has_run(now);
        let me = self.id.clone();
        for (version, lease) in leases.iter().filter(|(_, lease)| lease.replica != me) {
            let by_clock = self.has(Defect::LeaseTimeRunsInOutage) && store_now >= lease.expires;
            if lease.may_expire(store_now, &self.watch, now) || by_clock {
                let wait = lost_after_replica(Some(lease), store_now).since(store_now);
                self.dead.insert(lease.replica.clone(), now + wait);
                self.next.sweep = self.next.sweep.min(ctx.now + micros(wait) + SECOND);
                self.put_lease(ctx, lease.replica.clone(), *version, None);
            }
        }
        if self.has(Defect::SweepOnce) {
            let (due, later) = std::mem::take(&mut self.dead)
                .into_iter()
                .partition(|(_, at)| now >= *at && over);
            self.dead = later;
            let due: std::collections::BTreeMap<ReplicaId, Tick> = due;
            for (replica, _) in due {
                let prefix = HeldKey::replica_prefix(&replica);
                self.read(ctx, Request::Held(prefix), AfterRead::SweepDead(replica));
            }
            return;
        }
        for replica in holders.iter().filter(|id| **id != me) {
            if !leases.iter().any(|(_, lease)| lease.replica == *replica) {
                let lost_at = *self
                    .dead
                    .entry(replica.clone())
                    .or_insert(now + ADOPTION_WINDOW);
                if now >= lost_at && over {
                    let prefix = HeldKey::replica_prefix(replica);
                    self.read(
                        ctx,
                        Request::Held(prefix),
                        AfterRead::SweepDead(replica.clone()),
                    );
                }
            }
        }
    }

    pub(super) fn sweep_dead(&mut self, ctx: &mut Ctx<'_>, replica: &ReplicaId, found: &[HeldKey]) {
        if *replica != self.id {
            self.lose(ctx, found);
        }
    }
}

/// A session that is known only by entries of the held index.
fn ended_session(now: Micros) -> Session {
    let mut session = Session::idle(Arc::new(WorkerSpec {
        id: WorkerId::from_trusted("gone"),
        pool: PoolName::from_trusted("gone"),
        topics: Vec::new(),
        capabilities: Vec::new(),
        max_parallel: 0,
    }));
    session.liveness.ended(tick(now));
    session
}
