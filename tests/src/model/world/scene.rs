//! What happens in a run apart from faults: who is there, which jobs come when, and what clients do
//! with the answers.

use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::{JobId, PoolName, Topic, WorkerId};
use coretex_core::job::{JobSpec, Priority};

use super::super::checks::{Broken, CHECK_EVERY, Checks};
use super::super::defect::Defect;
use super::super::faults::{self, Kind};
use super::super::rng::Rng;
use super::super::store::Store;
use super::super::wire::{Call, ClientAnswer, ClientCall, MILLI, Micros, SECOND};
use super::super::worker::WorkerSpec;
use super::{Event, Node, Seat, Weather, World};

/// How long a client waits for an answer.
const CALL_TIMEOUT: Micros = 6 * SECOND;
/// How often a client asks again.
const CALLS: u32 = 6;
/// Jobs come until then.
const JOBS_UNTIL: Micros = 42 * SECOND;

/// A call that a client waits for.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    body: ClientCall,
    calls: u32,
}

impl World {
    /// Sets the scene of a seed.
    pub(in super::super) fn new(seed: u64, defect: Option<Defect>, tracing: bool) -> Self {
        let mut rng = Rng::new(seed);
        // A defect is looked for where several replicas meet.
        let fewest = if defect.is_some() { 2 } else { 1 };
        let nodes = (0..fewest + rng.index(5 - fewest)).map(|_| Node {
            replica: None,
            of: 0,
            paused_until: 0,
            cut_until: 0,
            cut_hangs: false,
            trouble_until: 0,
        });
        let nodes: Vec<_> = nodes.collect();
        let rejects = rng.chance(0.2);
        // Busy: few slots, and jobs that come about as fast as they go.
        let queues = defect.is_some_and(|defect| defect.provoked_by() == [Kind::Bus]);
        let busy = rng.chance(if queues { 0.5 } else { 0.2 });
        // One queue may have many more workers than the other.
        let skewed = rng.chance(if queues { 0.7 } else { 0.3 });
        let (workers, slots, jobs) = if busy { (3, 2, 120) } else { (5, 4, 60) };
        let seats: Vec<_> = (0..2 + rng.index(workers))
            .map(|at| Seat {
                spec: worker(at, slots, skewed, &mut rng),
                worker: None,
                of: 0,
                rejects,
            })
            .collect();
        let jobs = (0..20 + rng.index(jobs))
            .map(|at| job(at, &mut rng))
            .collect();
        let drizzle = [0.0, 0.1, 0.5][rng.index(3)];
        let mut world = Self {
            now: 0,
            seq: 0,
            events: BinaryHeap::new(),
            store: Store::new(defect),
            weather: Weather {
                drizzle,
                ..Weather::default()
            },
            links: BTreeMap::new(),
            next_conn: 1,
            jobs,
            pending: BTreeMap::new(),
            next_call: 1,
            submitted: 0,
            checks: Checks::default(),
            defect,
            trace: tracing.then(Vec::new),
            rng,
            nodes,
            seats,
        };
        world.begin(busy, queues);
        world
    }

    fn begin(&mut self, busy: bool, queues: bool) {
        for replica in 0..self.nodes.len() {
            let at = self.rng.between(0, SECOND);
            self.at(at, Event::ReplicaStarts { replica });
        }
        for worker in 0..self.seats.len() {
            let at = self.rng.between(0, 3 * SECOND);
            self.at(at, Event::WorkerStarts { worker });
        }
        let mut at = 2 * SECOND;
        let dense = [4 * MILLI, 30 * MILLI, 200 * MILLI][self.rng.index(3)];
        let dense = if busy {
            250 * MILLI
        } else if queues {
            3 * MILLI
        } else {
            dense
        };
        let calms = if busy { 0.02 } else { 0.3 };
        for number in 0..self.jobs.len() {
            // Bursts and pauses.
            let calm = self.rng.chance(calms);
            at += self.rng.between(0, if calm { 2 * SECOND } else { dense });
            self.at(at.min(JOBS_UNTIL), Event::Submit { number });
        }
        for _ in 0..self.rng.index(8) {
            let at = self.rng.between(3 * SECOND, JOBS_UNTIL);
            self.at(at, Event::CancelSome);
        }
        let provoke = self.defect.map_or(&[][..], Defect::provoked_by);
        let (replicas, workers) = (self.nodes.len(), self.seats.len());
        for (at, fault) in faults::plan(&mut self.rng, replicas, workers, provoke) {
            self.at(at, Event::Fault(fault));
        }
        self.at(CHECK_EVERY, Event::Look);
    }

    pub(super) fn submit(&mut self, number: usize) {
        self.submitted += 1;
        let (id, spec) = self.jobs[number].clone();
        self.call(Pending {
            body: ClientCall::Submit { id, spec },
            calls: 1,
        });
    }

    pub(super) fn cancel_some(&mut self) {
        let jobs: Vec<_> = self
            .store
            .jobs()
            .filter(|job| !job.state.is_terminal())
            .map(|job| &job.id)
            .collect();
        if jobs.is_empty() {
            return;
        }
        let id = jobs[self.rng.index(jobs.len())].clone();
        let grace = self
            .rng
            .chance(0.5)
            .then(|| Duration::from_secs(self.rng.between(1, 10)));
        self.call(Pending {
            body: ClientCall::Cancel { id, grace },
            calls: CALLS,
        });
    }

    fn call(&mut self, pending: Pending) {
        let call = self.next_call;
        self.next_call += 1;
        let replica = self.rng.index(self.nodes.len());
        let latency = self.rng.between(100, 5 * MILLI);
        self.after(
            latency,
            Event::Call {
                replica,
                call,
                body: pending.body.clone(),
            },
        );
        self.after(CALL_TIMEOUT, Event::CallTimeout { call });
        self.pending.insert(call, pending);
    }

    pub(super) fn client_answered(
        &mut self,
        call: Call,
        answer: ClientAnswer,
    ) -> Result<(), Broken> {
        let Some(pending) = self.pending.remove(&call) else {
            return Ok(());
        };
        let ClientCall::Submit { id, .. } = &pending.body else {
            return Ok(());
        };
        match answer {
            ClientAnswer::Done => self.checks.accepted(id, &self.store)?,
            ClientAnswer::Refused | ClientAnswer::Unknown if pending.calls < CALLS => {
                // The same id again: at most one job comes of it.
                self.call(Pending {
                    calls: pending.calls + 1,
                    ..pending
                });
            }
            ClientAnswer::Refused | ClientAnswer::Unknown => {}
        }
        Ok(())
    }
}

fn topic(at: usize) -> Topic {
    Topic::from_trusted(["job.a", "job.b"][at])
}

/// The first two workers can run everything that can be run at all.
fn worker(at: usize, slots: usize, skewed: bool, rng: &mut Rng) -> Arc<WorkerSpec> {
    let serves = match at {
        0 | 1 => 2,
        _ if skewed => 0,
        _ => rng.index(3),
    };
    let topics = match serves {
        0 => vec![topic(0)],
        1 => vec![topic(1)],
        _ => vec![topic(0), topic(1)],
    };
    let capable = at < 2 || rng.chance(0.5);
    Arc::new(WorkerSpec {
        id: WorkerId::from_trusted(&format!("w{at}")),
        pool: PoolName::from_trusted("pool"),
        topics,
        capabilities: if capable {
            vec!["x".to_owned()]
        } else {
            Vec::new()
        },
        max_parallel: 1 + u32::try_from(rng.index(slots)).unwrap_or(0),
    })
}

fn job(at: usize, rng: &mut Rng) -> (JobId, Arc<JobSpec>) {
    let mut spec = JobSpec::new(topic(rng.index(2)));
    spec.priority = match rng.index(5) {
        0 => Priority::Critical,
        1 => Priority::Batch,
        _ => Priority::Interactive,
    };
    match rng.index(20) {
        0..=2 => spec.metadata.requires = vec!["x".to_owned()],
        3 => spec.metadata.requires = vec!["nobody has this".to_owned()],
        4 => spec.placement.preferred_worker_id = Some(WorkerId::from_trusted("w0")),
        _ => {}
    }
    if rng.chance(0.2) {
        spec.timeout = Duration::from_millis(rng.between(500, 10_000));
    }
    spec.retry.max_attempts = 1 + u32::try_from(rng.index(3)).unwrap_or(0);
    spec.retry.initial_backoff = Duration::from_millis(500);
    let id = format!("t{}-j{at}", rng.index(2));
    (JobId::from_trusted(&id), Arc::new(spec))
}
