//! The network of a run: streams, the way to the store, the bus, and what faults do to them.

use coretex_core::id::ReplicaId;

use super::super::checks::Broken;
use super::super::faults::Fault;
use super::super::replica::Replica;
use super::super::wire::{
    Bus, Conn, Failure, MILLI, Micros, OpId, Reply, Request, SECOND, ToServer, ToWorker,
};
use super::super::worker::{Worker, WorkerTimer};
use super::{Event, Incarnation, RECOVERY, World};

/// A stream between a worker and a replica. It exists until somebody has closed it; both sides may
/// have gone meanwhile.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) worker: usize,
    pub(super) worker_of: Incarnation,
    pub(super) replica: usize,
    pub(super) replica_of: Incarnation,
    /// What is sent in this direction vanishes.
    pub(super) up_dead: bool,
    pub(super) down_dead: bool,
    /// Messages arrive in order.
    up_at: Micros,
    down_at: Micros,
}

impl World {
    /// The way to the store.
    pub(super) fn send_to_store(
        &mut self,
        replica: usize,
        of: Incarnation,
        op: OpId,
        request: Request,
    ) {
        let arrives = self.now + self.store_latency();
        self.at(
            arrives,
            Event::AtStore {
                replica,
                of,
                op,
                request,
            },
        );
    }

    fn store_latency(&mut self) -> Micros {
        if self.now < self.weather.slow_until {
            self.rng.between(MILLI, 400 * MILLI)
        } else {
            self.rng.between(100, 2 * MILLI)
        }
    }

    pub(super) fn at_store(
        &mut self,
        replica: usize,
        of: Incarnation,
        op: OpId,
        request: Request,
    ) -> Result<(), Broken> {
        let node = &self.nodes[replica];
        let barrier = if self.now < self.weather.outage_until {
            Some((self.weather.outage_until, self.weather.outage_hangs))
        } else if self.now < node.cut_until && node.of == of {
            Some((node.cut_until, node.cut_hangs))
        } else {
            None
        };
        match barrier {
            Some((_, false)) => {
                let result = Err(Failure::Unavailable);
                self.after(
                    MILLI,
                    Event::FromStore {
                        replica,
                        of,
                        op,
                        result,
                    },
                );
                return Ok(());
            }
            Some((until, true)) => {
                // Half of what hangs is lost, the rest arrives when nobody expects it any more.
                if self.rng.chance(0.5) {
                    let late = self.rng.between(0, 100 * MILLI);
                    self.at(
                        until + late,
                        Event::AtStore {
                            replica,
                            of,
                            op,
                            request,
                        },
                    );
                }
                return Ok(());
            }
            None => {}
        }
        let flaky = self.now < self.weather.flaky_until;
        if flaky && self.rng.chance(self.weather.flaky) {
            if request.is_write() && self.rng.chance(0.5) {
                let late = self.rng.between(100 * MILLI, 20 * SECOND);
                self.after(
                    late,
                    Event::AtStore {
                        replica,
                        of,
                        op,
                        request,
                    },
                );
            }
            return Ok(());
        }
        let (answer, applied) = self.store.execute(&request, self.now);
        if let Request::PutLease {
            replica,
            lease: None,
            ..
        } = &request
            && matches!(answer.reply, Reply::Committed(_))
        {
            let node = self.nodes.iter().find(|node| {
                node.replica
                    .as_ref()
                    .is_some_and(|process| process.id == *replica)
            });
            let rough = self.weather.flaky_until.max(self.weather.slow_until);
            let well = node.map(|node| node.trouble_until.max(rough + 5 * SECOND));
            self.checks.declared_dead(replica, well, self.now)?;
        }
        if let Some(applied) = applied {
            if self.trace.is_some() {
                let commit = &applied.commit;
                let before = applied.before.as_ref().map(|job| job.state);
                let slot = commit.job.lease.as_ref().map(|lease| lease.slot.clone());
                let text = format!(
                    "commit by {}: {} {before:?} -> {:?} {:?} {slot:?}",
                    commit.replica, commit.job.id, commit.job.state, commit.why
                );
                self.note(|| text);
            }
            let replicas: Vec<_> = self
                .nodes
                .iter()
                .map(|node| node.replica.as_ref())
                .collect();
            let trouble = self
                .weather
                .store_trouble_until
                .max(self.nodes[replica].trouble_until);
            let calm = self.now >= trouble + 2 * RECOVERY;
            self.checks
                .applied(&applied, &self.store, &replicas, calm, self.now)?;
        }
        if flaky && self.rng.chance(self.weather.flaky) {
            return Ok(());
        }
        let latency = self.store_latency();
        self.after(
            latency,
            Event::FromStore {
                replica,
                of,
                op,
                result: Ok(answer),
            },
        );
        Ok(())
    }

    /// The bus: best effort.
    pub(super) fn ring(&mut self, from: usize, to: Option<&ReplicaId>, msg: &Bus) {
        let rough = self.now < self.weather.bus_until;
        let chance = if rough { self.weather.bus } else { 0.0 };
        for replica in 0..self.nodes.len() {
            let wanted = match to {
                Some(id) => self.nodes[replica]
                    .replica
                    .as_ref()
                    .is_some_and(|r| r.id == *id),
                None => replica != from,
            };
            // A subscriber that does not read loses messages.
            let deaf = self.now < self.nodes[replica].paused_until && self.rng.chance(0.5);
            if !wanted || deaf || self.rng.chance(chance.max(self.weather.drizzle)) {
                continue;
            }
            let copies = if self.rng.chance(chance) { 2 } else { 1 };
            for _ in 0..copies {
                let late = if self.rng.chance(chance) {
                    5 * SECOND
                } else {
                    5 * MILLI
                };
                let latency = self.rng.between(100, late);
                self.after(
                    latency,
                    Event::Bus {
                        replica,
                        msg: msg.clone(),
                    },
                );
            }
        }
    }

    fn stream_latency(&mut self) -> Micros {
        self.rng.between(100, 5 * MILLI)
    }

    pub(super) fn send_up(&mut self, conn: Conn, msg: ToServer) {
        let latency = self.stream_latency();
        let now = self.now;
        let Some(link) = self.links.get_mut(&conn).filter(|link| !link.up_dead) else {
            return;
        };
        link.up_at = link.up_at.max(now + latency);
        let at = link.up_at;
        self.at(at, Event::Up { conn, msg });
    }

    pub(super) fn send_down(&mut self, conn: Conn, msg: ToWorker) {
        let latency = self.stream_latency();
        let now = self.now;
        let Some(link) = self.links.get_mut(&conn).filter(|link| !link.down_dead) else {
            return;
        };
        link.down_at = link.down_at.max(now + latency);
        let at = link.down_at;
        self.at(at, Event::Down { conn, msg });
    }

    pub(super) fn up(&mut self, conn: Conn, msg: ToServer) -> Result<(), Broken> {
        let Some(link) = self.links.get(&conn).filter(|link| !link.up_dead) else {
            return Ok(());
        };
        let (replica, of) = (link.replica, link.replica_of);
        let spec = std::sync::Arc::clone(&self.seats[link.worker].spec);
        if self.awake(replica, || Event::Up {
            conn,
            msg: msg.clone(),
        }) {
            self.with(replica, of, |node, ctx| {
                node.worker_message(ctx, conn, &spec, msg)
            })?;
        }
        Ok(())
    }

    pub(super) fn down(&mut self, conn: Conn, msg: ToWorker) -> Result<(), Broken> {
        let Some(link) = self.links.get(&conn).filter(|link| !link.down_dead) else {
            return Ok(());
        };
        let (worker, of) = (link.worker, link.worker_of);
        if let ToWorker::Ack { lease, applied } = msg
            && !self.answered_cancelled(worker, lease)
        {
            self.checks.acknowledged(lease, applied)?;
        }
        if let ToWorker::Revoke { job, claim } = &msg {
            self.checks
                .revoked(job, claim.lease_id, &self.store, self.now)?;
        }
        let seat = &mut self.seats[worker];
        let Some(process) = seat.worker.as_mut().filter(|_| seat.of == of) else {
            return Ok(());
        };
        if process.conn != Some(conn) {
            return Ok(());
        }
        let out = process.message(msg, self.now, &mut self.rng);
        self.worker_wants(worker, out)
    }

    /// Whether the worker answered an order to stop, rather than with a result of its own.
    fn answered_cancelled(&self, worker: usize, lease: coretex_core::id::LeaseId) -> bool {
        let process = self.seats[worker].worker.as_ref();
        process
            .and_then(|process| process.runs.get(&lease))
            .is_none_or(|run| run.stopping)
    }

    /// A worker opens a stream to any replica that answers.
    pub(super) fn connect(&mut self, worker: usize) -> Result<(), Broken> {
        let up: Vec<_> = (0..self.nodes.len())
            .filter(|at| {
                self.nodes[*at].replica.is_some() && self.now >= self.nodes[*at].paused_until
            })
            .collect();
        let of = self.seats[worker].of;
        if up.is_empty() {
            let timer = WorkerTimer::Connect;
            self.after(500 * MILLI, Event::WorkerTimer { worker, of, timer });
            return Ok(());
        }
        let replica = up[self.rng.index(up.len())];
        let conn = self.next_conn;
        self.next_conn += 1;
        let link = Link {
            worker,
            worker_of: of,
            replica,
            replica_of: self.nodes[replica].of,
            up_dead: false,
            down_dead: false,
            up_at: 0,
            down_at: 0,
        };
        self.links.insert(conn, link);
        self.note(|| format!("worker {worker} connects to replica {replica} as s{conn}"));
        let Some(process) = &mut self.seats[worker].worker else {
            return Ok(());
        };
        let out = process.connected(conn, self.now);
        self.worker_wants(worker, out)
    }

    /// One side closes a stream, or both lose it; the other side hears of it unless that direction
    /// is dead.
    pub(super) fn close(&mut self, conn: Conn, tell_worker: bool, tell_replica: bool) {
        let Some(link) = self.links.remove(&conn) else {
            return;
        };
        if tell_worker && !link.down_dead {
            let latency = self.stream_latency();
            let (worker, of) = (link.worker, link.worker_of);
            self.after(latency, Event::DownEnds { worker, of, conn });
        }
        if tell_replica && !link.up_dead {
            let latency = self.stream_latency();
            let (replica, of) = (link.replica, link.replica_of);
            self.after(latency, Event::UpEnds { replica, of, conn });
        }
    }

    fn conn_of(&self, worker: usize) -> Option<Conn> {
        self.seats[worker]
            .worker
            .as_ref()
            .and_then(|process| process.conn)
    }

    pub(super) fn fault(&mut self, fault: Fault) {
        self.note(|| format!("fault: {fault:?}"));
        let now = self.now;
        match fault {
            Fault::Bus { chance, lasts } => {
                (self.weather.bus, self.weather.bus_until) = (chance, now + lasts);
            }
            Fault::Pause { replica, lasts } => {
                let node = &mut self.nodes[replica];
                node.paused_until = node.paused_until.max(now + lasts);
                node.trouble_until = node.trouble_until.max(node.paused_until);
            }
            Fault::Kill {
                replica,
                silent,
                back,
            } => {
                if self.nodes[replica].replica.take().is_none() {
                    return;
                }
                let of = self.nodes[replica].of;
                self.nodes[replica].of += 1;
                let conns = self
                    .links
                    .iter()
                    .filter(|(_, link)| link.replica == replica && link.replica_of == of);
                let conns: Vec<_> = conns.map(|(conn, _)| *conn).collect();
                for conn in conns {
                    if !silent {
                        self.close(conn, true, false);
                    }
                }
                self.after(back, Event::ReplicaStarts { replica });
            }
            Fault::CutOff {
                replica,
                hang,
                lasts,
            } => {
                let node = &mut self.nodes[replica];
                (node.cut_until, node.cut_hangs) = (now + lasts, hang);
                node.trouble_until = node.trouble_until.max(now + lasts + SECOND);
            }
            Fault::Outage { hang, lasts } => {
                (self.weather.outage_until, self.weather.outage_hangs) = (now + lasts, hang);
                self.store_trouble(now + lasts + SECOND);
            }
            Fault::Flaky { chance, lasts } => {
                (self.weather.flaky, self.weather.flaky_until) = (chance, now + lasts);
                self.store_trouble(now + lasts + 5 * SECOND);
            }
            Fault::Slow { lasts } => {
                self.weather.slow_until = now + lasts;
                self.store_trouble(now + lasts + 2 * SECOND);
            }
            Fault::Snapshot => self.store.take_snapshot(),
            Fault::Rewind { clock } => {
                let had = self.checks.rewinds(&self.store, now);
                self.store.rewind(clock);
                self.checks.rewinded(had, &self.store, now);
                self.store_trouble(now + 2 * SECOND);
            }
            Fault::CutStream { worker } => {
                if let Some(conn) = self.conn_of(worker) {
                    self.close(conn, true, true);
                }
            }
            Fault::HalfOpen { worker, up, down } => {
                if let Some(link) = self
                    .conn_of(worker)
                    .and_then(|conn| self.links.get_mut(&conn))
                {
                    link.up_dead |= up;
                    link.down_dead |= down;
                }
            }
            Fault::KillWorker {
                worker,
                silent,
                back,
            } => {
                let conn = self.conn_of(worker);
                let seat = &mut self.seats[worker];
                if seat.worker.take().is_none() {
                    return;
                }
                seat.of += 1;
                if let Some(conn) = conn
                    && !silent
                {
                    self.close(conn, false, true);
                }
                self.after(back, Event::WorkerStarts { worker });
            }
        }
    }

    fn store_trouble(&mut self, until: Micros) {
        self.weather.store_trouble_until = self.weather.store_trouble_until.max(until);
    }

    pub(super) fn start_replica(&mut self, idx: usize) {
        let replicas = self.nodes.len();
        let replica = Replica::new(idx, replicas, self.defect, self.now, &mut self.rng);
        let node = &mut self.nodes[idx];
        node.replica = Some(replica);
        node.paused_until = 0;
        node.cut_until = 0;
        node.trouble_until = self.now + SECOND;
        let of = node.of;
        self.after(0, Event::Poll { replica: idx, of });
    }

    pub(super) fn start_worker(&mut self, worker: usize) {
        let seat = &mut self.seats[worker];
        seat.worker = Some(Worker::new(seat.rejects));
        let of = seat.of;
        let wait = self.rng.between(0, SECOND);
        self.after(
            wait,
            Event::WorkerTimer {
                worker,
                of,
                timer: WorkerTimer::Connect,
            },
        );
    }
}
