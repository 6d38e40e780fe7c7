//! A server replica of the model: the protocol under test, with its decisions taken from
//! `coretex_core`.
//!
//! Here is its state. Submodules: [`ops`] (requests to the store and what follows from their
//! answers), [`serve`] (submit, claim, hand out), [`session`] (workers and their slots), [`change`] (read,
//! decide, commit, repeat), [`upkeep`] (leases, sweeps, comparisons, what is due).

mod change;
mod ops;
mod serve;
mod session;
mod upkeep;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, ReplicaId, SessionId, Topic};
use coretex_core::lease::{OwnLease, ReplicaLease, StoreWatch, Tick};
use coretex_core::queue::QueueGuard;
use coretex_core::time::Timestamp;

use super::defect::Defect;
use super::rng::Rng;
use super::wire::{
    Bus, Call, ClientAnswer, ClientCall, Conn, MILLI, Micros, OpId, Request, SECOND, ToWorker,
};
use change::{Change, Purpose};
use ops::Op;
pub(super) use session::{Session, Stage};
pub(super) use upkeep::POLL_EVERY;

/// The pause before a failed change is tried again.
const RETRY_PAUSE: Micros = SECOND;

/// What a replica wants done.
#[derive(Clone, Debug)]
pub(super) enum Out {
    Store {
        op: OpId,
        request: Request,
    },
    OpTimeout {
        op: OpId,
        sent: u32,
        after: Micros,
    },
    ToWorker {
        conn: Conn,
        msg: ToWorker,
    },
    Hangup {
        conn: Conn,
    },
    /// To one replica, or to all others.
    Bus {
        to: Option<ReplicaId>,
        msg: Bus,
    },
    Answer {
        call: Call,
        answer: ClientAnswer,
    },
    /// For the checks: the commit that queued this job was answered.
    Queued {
        job: JobId,
    },
    /// For traces.
    Note(String),
}

/// What a handler may use.
#[derive(Debug)]
pub(super) struct Ctx<'a> {
    pub(super) now: Micros,
    pub(super) rng: &'a mut Rng,
    pub(super) out: Vec<Out>,
    pub(super) tracing: bool,
}

impl Ctx<'_> {
    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.tracing {
            self.out.push(Out::Note(text()));
        }
    }
}

pub(super) const fn tick(now: Micros) -> Tick {
    Tick::new(Duration::from_micros(now))
}

#[derive(Debug)]
struct OwnLeaseState {
    version: u64,
    lease: ReplicaLease,
    view: OwnLease,
}

#[derive(Debug)]
pub(super) struct Replica {
    pub(super) idx: usize,
    pub(super) id: ReplicaId,
    replicas: usize,
    defect: Option<Defect>,
    own: Option<OwnLeaseState>,
    lease_busy: bool,
    lease_retry: Micros,
    watch: StoreWatch,
    run_id: Option<u64>,
    /// The store went back in time since our lease was last written.
    rewound: bool,
    clock_offset: Timestamp,
    guards: BTreeMap<Topic, QueueGuard>,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    conns: BTreeMap<Conn, SessionId>,
    ops: BTreeMap<OpId, Op>,
    next_op: OpId,
    changing: BTreeSet<(JobId, Purpose)>,
    retry: Vec<(Micros, Change)>,
    reading_queues: bool,
    read_again: bool,
    dead: BTreeMap<ReplicaId, Tick>,
    undelivered: BTreeSet<LeaseId>,
    next: upkeep::Next,
}

impl Replica {
    pub(super) fn new(
        idx: usize,
        replicas: usize,
        defect: Option<Defect>,
        now: Micros,
        rng: &mut Rng,
    ) -> Self {
        Self {
            idx,
            id: new_name(idx, rng),
            replicas,
            defect,
            own: None,
            lease_busy: false,
            lease_retry: 0,
            watch: StoreWatch::new(),
            run_id: None,
            rewound: false,
            clock_offset: Timestamp::ZERO,
            guards: BTreeMap::new(),
            sessions: BTreeMap::new(),
            conns: BTreeMap::new(),
            ops: BTreeMap::new(),
            next_op: 1,
            changing: BTreeSet::new(),
            retry: Vec::new(),
            reading_queues: false,
            read_again: false,
            dead: BTreeMap::new(),
            undelivered: BTreeSet::new(),
            next: upkeep::Next::new(now, rng),
        }
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// Whether this replica may take work: its lease stands and surely still runs.
    pub(super) fn may_hold(&self, now: Micros) -> bool {
        self.own
            .as_ref()
            .is_some_and(|own| own.view.is_sure(tick(now)))
    }

    /// Store time, from the last answer.
    fn store_now(&self, now: Micros) -> Timestamp {
        self.clock_offset + Duration::from_micros(now)
    }

    fn guard(&mut self, topic: &Topic) -> &mut QueueGuard {
        self.guards.entry(topic.clone()).or_default()
    }

    /// Something may have been added anywhere.
    fn doubt_all_queues(&mut self) {
        self.guards.values_mut().for_each(QueueGuard::added);
    }

    /// A message of the bus.
    pub(super) fn rung(&mut self, ctx: &mut Ctx<'_>, msg: Bus) {
        match msg {
            Bus::Ready(topic) => {
                self.guard(&topic).added();
                self.read_queues(ctx);
            }
            Bus::Tell { slot, revoke } => self.told(ctx, &slot, revoke),
        }
    }

    /// A client calls.
    pub(super) fn called(&mut self, ctx: &mut Ctx<'_>, call: Call, body: ClientCall) {
        match body {
            ClientCall::Submit { id, spec } => self.submit(ctx, call, id, spec),
            ClientCall::Cancel { id, grace } => {
                self.start(ctx, id, Purpose::Cancel { call, grace });
            }
        }
    }

    /// Asks for the queues to be read, now or once the read under way is answered.
    pub(super) fn read_queues(&mut self, ctx: &mut Ctx<'_>) {
        if self.reading_queues {
            self.read_again = true;
        } else {
            self.begin_claim(ctx, false);
        }
    }
}

fn new_name(idx: usize, rng: &mut Rng) -> ReplicaId {
    ReplicaId::from_trusted(&format!("r{idx}-{:08x}", rng.next() >> 32))
}

/// For periods that start at different points on different replicas.
fn somewhere_in(period: Micros, rng: &mut Rng) -> Micros {
    rng.between(0, period.max(MILLI))
}
