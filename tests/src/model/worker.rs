//! A worker process of the model: runs what it is assigned, resends results until they are
//! acknowledged, reconnects anywhere and lists what it still has.

use std::collections::BTreeMap;

use coretex_core::id::{JobId, LeaseId, PoolName, Topic, WorkerId};
use coretex_core::lease::{Claim, HEARTBEAT_EVERY, SERVER_SILENCE};

use super::rng::Rng;
use super::wire::{Conn, Ended, MILLI, Micros, SECOND, ToServer, ToWorker, micros};

/// The server answers each heartbeat.
pub(super) const HEARTBEAT: Micros = micros(HEARTBEAT_EVERY);
/// How often a worker looks whether its server has gone silent.
const WATCH_EVERY: Micros = SECOND;

/// What a worker can do.
#[derive(Debug)]
pub(super) struct WorkerSpec {
    pub(super) id: WorkerId,
    pub(super) pool: PoolName,
    pub(super) topics: Vec<Topic>,
    pub(super) capabilities: Vec<String>,
    pub(super) max_parallel: u32,
}

/// An attempt that the worker has.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) job: JobId,
    pub(super) claim: Claim,
    /// How it will end, or has ended.
    ended: Ended,
    /// It has ended; the result is resent until it is acknowledged.
    pub(super) done: bool,
    /// It was told to stop.
    pub(super) stopping: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerTimer {
    Connect,
    Heartbeat(Conn),
    Watch(Conn),
    Ends(LeaseId),
}

/// What a worker wants done.
#[derive(Clone, Debug)]
pub(super) enum WorkerOut {
    Send(ToServer),
    Timer(WorkerTimer, Micros),
    /// Ends the stream; a `Connect` timer follows.
    Hangup(Conn),
    /// For the checks: an attempt was started.
    Begins {
        job: JobId,
        claim: Claim,
        committed: Micros,
    },
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) runs: BTreeMap<LeaseId, Run>,
    pub(super) conn: Option<Conn>,
    pub(super) welcomed: bool,
    heard: Micros,
    rejects: bool,
}

impl Worker {
    pub(super) const fn new(rejects: bool) -> Self {
        Self {
            runs: BTreeMap::new(),
            conn: None,
            welcomed: false,
            heard: 0,
            rejects,
        }
    }

    /// A stream was opened.
    pub(super) fn connected(&mut self, conn: Conn, now: Micros) -> Vec<WorkerOut> {
        self.conn = Some(conn);
        self.welcomed = false;
        self.heard = now;
        let running = self
            .runs
            .values()
            .map(|run| (run.job.clone(), run.claim))
            .collect();
        vec![
            WorkerOut::Send(ToServer::Hello { running }),
            WorkerOut::Timer(WorkerTimer::Heartbeat(conn), HEARTBEAT),
            WorkerOut::Timer(WorkerTimer::Watch(conn), WATCH_EVERY),
        ]
    }

    /// The stream broke, or none could be opened.
    pub(super) fn disconnected(&mut self, rng: &mut Rng) -> Vec<WorkerOut> {
        self.conn = None;
        self.welcomed = false;
        vec![WorkerOut::Timer(
            WorkerTimer::Connect,
            rng.between(10 * MILLI, 500 * MILLI),
        )]
    }

    pub(super) fn message(&mut self, msg: ToWorker, now: Micros, rng: &mut Rng) -> Vec<WorkerOut> {
        self.heard = now;
        match msg {
            ToWorker::Welcome => {
                self.welcomed = true;
                let done = self.runs.values().filter(|run| run.done);
                done.map(|run| WorkerOut::Send(result(run))).collect()
            }
            ToWorker::Assignment {
                job,
                claim,
                committed,
            } => {
                if self.rejects && rng.chance(0.05) {
                    return vec![WorkerOut::Send(ToServer::Reject {
                        job,
                        lease: claim.lease_id,
                    })];
                }
                self.begin(job, claim, committed, rng)
            }
            ToWorker::Cancel { job, claim } | ToWorker::Revoke { job, claim } => {
                self.stop(job, claim, rng)
            }
            ToWorker::Ack { lease, .. } => {
                if self.runs.get(&lease).is_some_and(|run| run.done) {
                    self.runs.remove(&lease);
                }
                Vec::new()
            }
            ToWorker::Pong => Vec::new(),
        }
    }

    /// Every order to stop is answered, also for an attempt that is not here (any more): the
    /// server keeps its slot until then.
    fn stop(&mut self, job: JobId, claim: Claim, rng: &mut Rng) -> Vec<WorkerOut> {
        match self.runs.get_mut(&claim.lease_id) {
            Some(run) if !run.done && !run.stopping => {
                run.stopping = true;
                run.ended = Ended::Cancelled;
                let takes = rng.between(MILLI, 300 * MILLI);
                vec![WorkerOut::Timer(WorkerTimer::Ends(claim.lease_id), takes)]
            }
            Some(_) => Vec::new(),
            None => {
                vec![WorkerOut::Send(ToServer::Result {
                    job,
                    claim,
                    ended: Ended::Cancelled,
                })]
            }
        }
    }

    fn begin(
        &mut self,
        job: JobId,
        claim: Claim,
        committed: Micros,
        rng: &mut Rng,
    ) -> Vec<WorkerOut> {
        let lease = claim.lease_id;
        let lasts = match rng.index(10) {
            0..=5 => rng.between(MILLI, 200 * MILLI),
            6..=8 => rng.between(200 * MILLI, 5 * SECOND),
            _ => rng.between(5 * SECOND, 40 * SECOND),
        };
        let ended = if rng.chance(0.1) {
            Ended::Failed
        } else {
            Ended::Succeeded
        };
        let run = Run {
            job: job.clone(),
            claim,
            ended,
            done: false,
            stopping: false,
        };
        self.runs.insert(lease, run);
        vec![
            WorkerOut::Begins {
                job: job.clone(),
                claim,
                committed,
            },
            WorkerOut::Send(ToServer::Started { job, lease }),
            WorkerOut::Timer(WorkerTimer::Ends(lease), lasts),
        ]
    }

    pub(super) fn timer(
        &mut self,
        timer: WorkerTimer,
        now: Micros,
        rng: &mut Rng,
    ) -> Vec<WorkerOut> {
        match timer {
            WorkerTimer::Connect => Vec::new(),
            WorkerTimer::Heartbeat(conn) if self.conn == Some(conn) => vec![
                WorkerOut::Send(ToServer::Heartbeat),
                WorkerOut::Timer(timer, HEARTBEAT),
            ],
            WorkerTimer::Watch(conn) if self.conn == Some(conn) => {
                if now - self.heard >= micros(SERVER_SILENCE) {
                    let mut out = vec![WorkerOut::Hangup(conn)];
                    out.extend(self.disconnected(rng));
                    return out;
                }
                vec![WorkerOut::Timer(timer, WATCH_EVERY)]
            }
            WorkerTimer::Heartbeat(_) | WorkerTimer::Watch(_) => Vec::new(),
            WorkerTimer::Ends(lease) => match self.runs.get_mut(&lease) {
                Some(run) if !run.done => {
                    run.done = true;
                    let message = WorkerOut::Send(result(run));
                    if self.welcomed {
                        vec![message]
                    } else {
                        Vec::new()
                    }
                }
                _ => Vec::new(),
            },
        }
    }
}

fn result(run: &Run) -> ToServer {
    ToServer::Result {
        job: run.job.clone(),
        claim: run.claim,
        ended: run.ended,
    }
}
