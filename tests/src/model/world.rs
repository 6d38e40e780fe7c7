//! The discrete-event loop: virtual time, the network, faults, clients. It owns all parts and lets
//! the checks look on.

mod look;
mod net;
mod scene;
mod schedule;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;

use coretex_core::id::{JobId, SessionId};
use coretex_core::placement::{Needs, suits};

use super::checks::{Broken, CHECK_EVERY, Checks, Stats};
use super::defect::Defect;
use super::faults::{FAULTS_UNTIL, Fault};
use super::replica::{Ctx, Out, POLL_EVERY, Replica, Session};
use super::rng::Rng;
use super::store::Store;
use super::wire::{
    Answer, Bus, Call, ClientAnswer, ClientCall, Conn, Failure, MILLI, Micros, OpId, Request,
    SECOND, ToServer, ToWorker,
};
use super::worker::{Worker, WorkerOut, WorkerSpec, WorkerTimer};
use net::Link;
use scene::Pending;
use schedule::Item;

/// When everything must have ended.
const END: Micros = FAULTS_UNTIL + 600 * SECOND;
/// After trouble, how long until everything is expected to be as if nothing had been.
const RECOVERY: Micros = 3 * SECOND;
/// Lines of trace that a failure shows.
const TRACE_LINES: usize = 150;

/// A process that may be replaced by its next incarnation: events for an earlier one are void.
type Incarnation = u32;

#[derive(Debug)]
enum Event {
    Poll {
        replica: usize,
        of: Incarnation,
    },
    AtStore {
        replica: usize,
        of: Incarnation,
        op: OpId,
        request: Request,
    },
    FromStore {
        replica: usize,
        of: Incarnation,
        op: OpId,
        result: Result<Answer, Failure>,
    },
    OpTimeout {
        replica: usize,
        of: Incarnation,
        op: OpId,
        sent: u32,
    },
    Up {
        conn: Conn,
        msg: ToServer,
    },
    Down {
        conn: Conn,
        msg: ToWorker,
    },
    /// The replica, or the worker, learns that the stream is gone.
    UpEnds {
        replica: usize,
        of: Incarnation,
        conn: Conn,
    },
    DownEnds {
        worker: usize,
        of: Incarnation,
        conn: Conn,
    },
    WorkerTimer {
        worker: usize,
        of: Incarnation,
        timer: WorkerTimer,
    },
    Bus {
        replica: usize,
        msg: Bus,
    },
    Call {
        replica: usize,
        call: Call,
        body: ClientCall,
    },
    Answer {
        call: Call,
        answer: ClientAnswer,
    },
    CallTimeout {
        call: Call,
    },
    Submit {
        number: usize,
    },
    CancelSome,
    Fault(Fault),
    ReplicaStarts {
        replica: usize,
    },
    WorkerStarts {
        worker: usize,
    },
    Look,
}

/// A place where replicas run one after the other.
#[derive(Debug)]
struct Node {
    replica: Option<Replica>,
    of: Incarnation,
    paused_until: Micros,
    cut_until: Micros,
    cut_hangs: bool,
    /// Paused, cut off or starting until then.
    trouble_until: Micros,
}

/// A place where workers run one after the other.
#[derive(Debug)]
struct Seat {
    spec: Arc<WorkerSpec>,
    worker: Option<Worker>,
    of: Incarnation,
    rejects: bool,
}

/// What is wrong with store and bus now.
#[derive(Debug, Default)]
struct Weather {
    outage_until: Micros,
    outage_hangs: bool,
    flaky_until: Micros,
    flaky: f64,
    slow_until: Micros,
    bus_until: Micros,
    bus: f64,
    /// Any trouble with the store.
    store_trouble_until: Micros,
    /// Doorbells are lost with this probability even in fair weather.
    drizzle: f64,
}

/// One run.
#[derive(Debug)]
pub(super) struct World {
    now: Micros,
    seq: u64,
    events: BinaryHeap<Reverse<Item>>,
    rng: Rng,
    store: Store,
    nodes: Vec<Node>,
    seats: Vec<Seat>,
    links: BTreeMap<Conn, Link>,
    next_conn: Conn,
    weather: Weather,
    jobs: Vec<(JobId, Arc<coretex_core::job::JobSpec>)>,
    pending: BTreeMap<Call, Pending>,
    next_call: Call,
    submitted: usize,
    checks: Checks,
    defect: Option<Defect>,
    trace: Option<Vec<String>>,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The broken invariant, if any, and when.
    pub broken: Option<String>,
    /// What went on.
    pub stats: Stats,
    /// The last lines before the end, if asked for.
    pub trace: Vec<String>,
}

impl World {
    /// Runs to the end or to the first broken invariant.
    pub(super) fn run(mut self) -> Report {
        let broken = loop {
            let Some(Reverse(item)) = self.events.pop() else {
                break None;
            };
            self.now = item.at;
            if let Err(broken) = self.handle(item.event) {
                break Some(broken);
            }
            if self.now >= END || self.is_over() {
                let specs: Vec<_> = self
                    .seats
                    .iter()
                    .map(|seat| Arc::clone(&seat.spec))
                    .collect();
                break self
                    .checks
                    .at_end(&self.store, |needs| can_run(&specs, needs))
                    .err();
            }
        };
        let broken = broken.map(|Broken(text)| format!("at {} ms: {text}", self.now / MILLI));
        let mut trace = self.trace.unwrap_or_default();
        trace.drain(..trace.len().saturating_sub(TRACE_LINES));
        Report {
            broken,
            stats: self.checks.stats,
            trace,
        }
    }

    fn is_over(&self) -> bool {
        // Looked at only at whole looks, which is often enough.
        self.now > FAULTS_UNTIL
            && self.now.is_multiple_of(CHECK_EVERY)
            && self.submitted == self.jobs.len()
            && self.pending.is_empty()
            && self.seats.iter().all(|seat| {
                seat.worker
                    .as_ref()
                    .is_some_and(|worker| worker.runs.is_empty())
            })
            && Checks::is_settled(&self.store, |needs| {
                self.seats.iter().any(|seat| suits_idle(&seat.spec, needs))
            })
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let line = format!("{:>10.3} {}", self.now as f64 / MILLI as f64, text());
            trace.push(line);
        }
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.seq += 1;
        self.events.push(Reverse(Item {
            at,
            seq: self.seq,
            event,
        }));
    }

    fn after(&mut self, wait: Micros, event: Event) {
        self.at(self.now + wait, event);
    }

    fn handle(&mut self, event: Event) -> Result<(), Broken> {
        match event {
            Event::Poll { replica, of } => {
                self.after(POLL_EVERY, Event::Poll { replica, of });
                // A paused replica misses polls; it does not catch up on them.
                if self.now >= self.nodes[replica].paused_until {
                    self.with(replica, of, |node, ctx| node.poll(ctx))?;
                }
            }
            Event::AtStore {
                replica,
                of,
                op,
                request,
            } => {
                self.at_store(replica, of, op, request)?;
            }
            Event::FromStore {
                replica,
                of,
                op,
                result,
            } => {
                if self.awake(replica, || Event::FromStore {
                    replica,
                    of,
                    op,
                    result: result.clone(),
                }) {
                    self.with(replica, of, |node, ctx| node.answered(ctx, op, result))?;
                }
            }
            Event::OpTimeout {
                replica,
                of,
                op,
                sent,
            } => {
                if self.awake(replica, || Event::OpTimeout {
                    replica,
                    of,
                    op,
                    sent,
                }) {
                    self.with(replica, of, |node, ctx| node.timed_out(ctx, op, sent))?;
                }
            }
            Event::Up { conn, msg } => self.up(conn, msg)?,
            Event::Down { conn, msg } => self.down(conn, msg)?,
            Event::UpEnds { replica, of, conn } => {
                if self.awake(replica, || Event::UpEnds { replica, of, conn }) {
                    self.with(replica, of, |node, ctx| node.stream_ended(ctx, conn))?;
                }
            }
            Event::DownEnds { worker, of, conn } => {
                let seat = &mut self.seats[worker];
                if seat.of == of
                    && let Some(process) = &mut seat.worker
                    && process.conn == Some(conn)
                {
                    let out = process.disconnected(&mut self.rng);
                    self.worker_wants(worker, out)?;
                }
            }
            Event::WorkerTimer { worker, of, timer } => self.worker_timer(worker, of, timer)?,
            Event::Bus { replica, msg } => {
                if self.awake(replica, || Event::Bus {
                    replica,
                    msg: msg.clone(),
                }) {
                    let of = self.nodes[replica].of;
                    self.with(replica, of, |node, ctx| node.rung(ctx, msg))?;
                }
            }
            Event::Call {
                replica,
                call,
                body,
            } => {
                if self.awake(replica, || Event::Call {
                    replica,
                    call,
                    body: body.clone(),
                }) {
                    let of = self.nodes[replica].of;
                    self.with(replica, of, |node, ctx| node.called(ctx, call, body))?;
                }
            }
            Event::Answer { call, answer } => self.client_answered(call, answer)?,
            Event::CallTimeout { call } => self.client_answered(call, ClientAnswer::Unknown)?,
            Event::Submit { number } => self.submit(number),
            Event::CancelSome => self.cancel_some(),
            Event::Fault(fault) => self.fault(fault),
            Event::ReplicaStarts { replica } => self.start_replica(replica),
            Event::WorkerStarts { worker } => self.start_worker(worker),
            Event::Look => {
                self.after(CHECK_EVERY, Event::Look);
                self.look()?;
            }
        }
        Ok(())
    }

    /// Whether the replica is not paused; if it is, the event waits for it.
    fn awake(&mut self, replica: usize, again: impl FnOnce() -> Event) -> bool {
        let until = self.nodes[replica].paused_until;
        if self.now < until {
            self.at(until, again());
            return false;
        }
        true
    }

    /// Lets a replica handle something and does what it wants done.
    fn with(
        &mut self,
        replica: usize,
        of: Incarnation,
        handle: impl FnOnce(&mut Replica, &mut Ctx<'_>),
    ) -> Result<(), Broken> {
        let node = &mut self.nodes[replica];
        let Some(process) = node.replica.as_mut().filter(|_| node.of == of) else {
            return Ok(());
        };
        let tracing = self.trace.is_some();
        let mut ctx = Ctx {
            now: self.now,
            rng: &mut self.rng,
            out: Vec::new(),
            tracing,
        };
        handle(process, &mut ctx);
        let out = ctx.out;
        for out in out {
            self.replica_wants(replica, of, out)?;
        }
        Ok(())
    }

    fn replica_wants(&mut self, replica: usize, of: Incarnation, out: Out) -> Result<(), Broken> {
        match out {
            Out::Store { op, request } => self.send_to_store(replica, of, op, request),
            Out::OpTimeout { op, sent, after } => {
                self.after(
                    after,
                    Event::OpTimeout {
                        replica,
                        of,
                        op,
                        sent,
                    },
                );
            }
            Out::ToWorker { conn, msg } => self.send_down(conn, msg),
            Out::Hangup { conn } => self.close(conn, true, false),
            Out::Bus { to, msg } => self.ring(replica, to.as_ref(), &msg),
            Out::Answer { call, answer } => {
                let latency = self.rng.between(100, 5 * MILLI);
                self.after(latency, Event::Answer { call, answer });
            }
            Out::Queued { job } => self.checks.queued(&job, replica, self.now),
            Out::Note(text) => self.note(|| format!("replica {replica}: {text}")),
        }
        Ok(())
    }

    fn worker_wants(&mut self, worker: usize, out: Vec<WorkerOut>) -> Result<(), Broken> {
        for out in out {
            let of = self.seats[worker].of;
            match out {
                WorkerOut::Send(msg) => {
                    let conn = self.seats[worker]
                        .worker
                        .as_ref()
                        .and_then(|worker| worker.conn);
                    if let Some(conn) = conn {
                        self.send_up(conn, msg);
                    }
                }
                WorkerOut::Timer(timer, wait) => {
                    self.after(wait, Event::WorkerTimer { worker, of, timer });
                }
                WorkerOut::Hangup(conn) => self.close(conn, false, true),
                WorkerOut::Begins {
                    job,
                    claim,
                    committed,
                } => {
                    self.note(|| format!("worker {worker}: begins {job} {claim:?}"));
                    let seat = &self.seats[worker];
                    if let Some(process) = &seat.worker {
                        let (now, spec) = (self.now, &seat.spec);
                        self.checks
                            .begins(process, spec, &job, claim, committed, now)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn worker_timer(
        &mut self,
        worker: usize,
        of: Incarnation,
        timer: WorkerTimer,
    ) -> Result<(), Broken> {
        let seat = &mut self.seats[worker];
        let Some(process) = seat.worker.as_mut().filter(|_| seat.of == of) else {
            return Ok(());
        };
        if timer == WorkerTimer::Connect {
            if process.conn.is_none() {
                return self.connect(worker);
            }
            return Ok(());
        }
        let out = process.timer(timer, self.now, &mut self.rng);
        self.worker_wants(worker, out)
    }
}

fn can_run(specs: &[Arc<WorkerSpec>], needs: &Needs<'_>) -> bool {
    specs.iter().any(|spec| suits_idle(spec, needs))
}

/// Whether a worker of this kind could ever run such a job.
fn suits_idle(spec: &Arc<WorkerSpec>, needs: &Needs<'_>) -> bool {
    let id = SessionId::from_trusted("any");
    suits(needs, &Session::idle(Arc::clone(spec)).view(&id)).is_ok()
}
