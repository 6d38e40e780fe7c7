//! What must be true: of the store at any time, of the servers' memory and of diagnoses when it has
//! been quiet for a while, and of every job in the end.

use std::collections::BTreeMap;
use std::time::Duration;

use coretex_core::id::WorkerId;
use coretex_core::job::transition::Outcome;
use coretex_core::job::{Job, JobState};
use coretex_engine::{Diagnosis, JobFilter, PageRequest, Role};
use coretex_store::{Range, Shard, Store};
use coretex_testbench::{Answer, Audit, admin, caller, pass, secs, succeeded};
use tokio::time::Instant;

use crate::limits::Running;
use crate::process::Process;
use crate::world::{TENANTS, World};

/// Long enough for every server to compare its slots with the store twice, to read what the others
/// say of their workers, and to give up on workers that do not come back.
pub(crate) const QUIET: u64 = 20;
/// For how long after the death of a server others may still speak of its workers.
const MEMORY: Duration = Duration::from_secs(60);
/// No commit is under way for longer.
const LATEST: u64 = 15;
/// How long everything may take to end once the weather is fine: leases and adoption windows that
/// follow each other, the longest timeouts and backoffs of clients, and some.
const PATIENCE: u64 = 300;

impl World {
    /// Every index is what follows from the records, and the records are what the book says.
    pub(crate) async fn audit(&mut self) -> Audit {
        self.tally.checks += 1;
        let audit = self.cluster.audit().await;
        self.book.compare(&audit.jobs);
        self.tally.met += Running::of(&audit.jobs).check();
        audit
    }

    /// The weather clears for a while and nobody does anything: what servers remember is what the
    /// store says, and what they say about waiting jobs is true.
    pub(crate) async fn calm(&mut self) {
        self.note(format_args!("calm"));
        self.cluster.mend_all();
        for _ in 0..QUIET {
            self.beat_all().await;
            pass(secs(1)).await;
            self.hear().await;
        }
        self.views_agree().await;
        let audit = self.audit().await;
        self.see_pauses().await;
        let running = Running::of(&audit.jobs);
        let open = audit.jobs.iter().filter(|job| !job.state.is_terminal());
        for job in open.take(8) {
            let Some(engine) = self.any_engine() else {
                return;
            };
            let who = caller(job.tenant.as_str(), "key:x", &[Role::Admin]);
            let diagnosis = engine.diagnose_job(&who, &job.id).await.unwrap();
            if diagnosis.state == job.state {
                self.is_true(job, &diagnosis, &running);
            }
        }
    }

    /// Slots in memory are those in the store.
    async fn views_agree(&self) {
        let audit = self.cluster.audit().await;
        let mut held = BTreeMap::<_, (u32, u32)>::new();
        for job in &audit.jobs {
            for slot in job.slots() {
                let (attempts, slots) = held.entry(&slot.session).or_default();
                *attempts += 1;
                *slots += job.spec.placement.slots.0;
            }
        }
        for place in self.cluster.awake() {
            let Some(engine) = self.engine(place) else {
                continue;
            };
            let own = engine.status(&admin()).await.unwrap().replica_id;
            let everyone = PageRequest {
                size: 100,
                token: String::new(),
            };
            let (workers, _) = engine.list_workers(&self.fleet, everyone).await.unwrap();
            for worker in workers.iter().filter(|worker| worker.replica_id == own) {
                let session = &worker.session_id;
                let is_connected = self.processes.iter().any(|process| {
                    let connection = process.connection.as_ref();
                    connection.is_some_and(|one| one.session.welcome.session_id == *session)
                });
                let (attempts, slots) = held.get(session).copied().unwrap_or((0, 0));
                // Of one that has gone, attempts are counted, and not what they take.
                let should = if is_connected { slots } else { attempts };
                assert_eq!(
                    worker.active_jobs, should,
                    "slots of {} at server {place}",
                    worker.worker_id
                );
            }
        }
    }

    /// The first cause that a diagnosis names is one that the world can confirm.
    fn is_true(&self, job: &Job, diagnosis: &Diagnosis, running: &Running) {
        let code = diagnosis.causes.first().map_or("", |cause| &*cause.code);
        let listens = || {
            self.processes.iter().filter(|process| {
                process.connection.is_some() && process.topics.contains(&job.spec.topic.as_str())
            })
        };
        let able = |process: &Process| {
            let has = match job.spec.metadata.requires.first().map(String::as_str) {
                None => true,
                Some("gpu") => process.gpu,
                Some(_) => false,
            };
            has && process.slots >= job.spec.placement.slots.0
        };
        let remembered = self
            .last_death
            .is_some_and(|at| Instant::now().duration_since(at) < MEMORY);
        let scheduled = job.state == JobState::Scheduled;
        let holds = match code {
            "no_workers" => listens().next().is_none(),
            "no_worker_matches" => !listens().any(able),
            "all_workers_busy" => remembered || listens().any(able),
            "pool_paused" | "topic_paused" | "tenant_paused" => self.is_paused(job, code),
            "tenant_limit" => running.is_tenant_full(job),
            "concurrency_key" => running.is_key_full(job),
            "not_before" | "backoff" | "throttled" => scheduled,
            "undecided" => job.judge_at.is_some(),
            "cancel_requested" => job.cancel.is_some(),
            "dispatched" | "worker_disconnected" => job.state.is_held(),
            "" => job.state == JobState::Running,
            "queued" | "workers_draining" | "server_draining" => job.state == JobState::Pending,
            _ => false,
        };
        assert!(
            holds,
            "{} is {:?}, which is not because of {code}: {:?}",
            job.id, job.state, diagnosis.causes
        );
    }

    /// The weather clears for good: everything gets its chance to end.
    pub(crate) async fn settle(&mut self) {
        self.note(format_args!("the weather clears"));
        self.cluster.mend_all();
        self.kernel.say(Answer::Allow);
        for place in 0..self.cluster.servers.len() {
            self.cluster.revive(place).await;
        }
        let perhaps: Vec<_> = self.book.perhaps.clone().into_iter().collect();
        for ((tenant, _), job) in perhaps {
            self.send(&tenant, job).await;
        }
        let (mut passed, mut idle) = (0, 0);
        while passed < PATIENCE && (passed < LATEST || idle < 2) {
            // A pause whose commit was held up may come only now.
            self.resume_all().await;
            for number in 0..self.processes.len() {
                if self.processes[number].connection.is_none() {
                    let cut = self.one_in(2);
                    if let Some(place) = self.any_place() {
                        self.connect_to(number, place, cut).await;
                    }
                }
                self.undrain(number).await;
                self.finish_all(number).await;
            }
            self.beat_all().await;
            pass(secs(1)).await;
            self.hear().await;
            passed += 1;
            idle = if self.is_idle().await { idle + 1 } else { 0 };
        }
        self.note(format_args!("settled after {passed} s"));
    }

    /// Whether nothing is under way: no slot is held, only jobs that nobody can take wait, and all
    /// workers have their answers.
    pub(crate) async fn is_idle(&self) -> bool {
        let busy = |process: &Process| !process.runs.is_empty();
        if self.processes.iter().any(busy) || self.size("held").await > 0 {
            return false;
        }
        let mut waiting = 0;
        for tenant in TENANTS {
            waiting += self.size(&format!("wait/{tenant}")).await;
        }
        // Those that nobody can take are in their queues; whoever else waits has a clock.
        waiting == 0 || self.only_impossible_wait(waiting).await
    }

    /// How many members an index has.
    pub(crate) async fn size(&self, index: &str) -> u64 {
        let index = bytes::Bytes::copy_from_slice(index.as_bytes());
        let range = Range::all(index);
        let count = self.cluster.base.count(Shard::Data(0), &range, u64::MAX);
        count.await.unwrap().value
    }

    async fn only_impossible_wait(&self, waiting: u64) -> bool {
        let audit = self.cluster.audit().await;
        let impossible = audit.jobs.iter().filter(|job| is_impossible(job)).count();
        impossible as u64 == waiting
    }

    /// A drained worker gets jobs again. It may be connected: drains outlive connections.
    async fn undrain(&self, number: usize) {
        let name = WorkerId::parse(&self.processes[number].name).unwrap();
        if let Some(engine) = self.any_engine() {
            drop(engine.drain_worker(&self.fleet, &name, true).await);
        }
    }

    pub(crate) async fn beat_all(&mut self) {
        for number in 0..self.processes.len() {
            self.beat(number, 0.0).await;
        }
    }

    async fn finish_all(&mut self, number: usize) {
        let runs = self.processes[number].runs.clone();
        for run in runs {
            let outcome = run.result.unwrap_or_else(|| {
                if run.told_to_stop {
                    Outcome::Cancelled
                } else {
                    succeeded()
                }
            });
            for held in &mut self.processes[number].runs {
                if held.attempt == run.attempt {
                    held.result = Some(outcome.clone());
                }
            }
            self.report(number, &run.attempt, outcome).await;
        }
    }

    /// What must be true in the end; the store's content, for who compares two runs.
    pub(crate) async fn check(&mut self) -> Audit {
        let audit = self.audit().await;
        let lost = |job: &Job| {
            use coretex_core::job::history::AttemptEnd;
            let ends = job.attempts.iter().map(|one| one.end);
            ends.filter(|end| matches!(end, Some(AttemptEnd::Lost)))
                .count() as u64
        };
        self.tally.lost = audit.jobs.iter().map(lost).sum();
        self.tally.handed_out = self.book.handed_out() as u64;
        for job in audit.jobs.iter().filter(|job| !job.state.is_terminal()) {
            let who = caller(job.tenant.as_str(), "key:x", &[Role::Admin]);
            let engine = self.any_engine().expect("a server");
            let diagnosis = engine.diagnose_job(&who, &job.id).await.unwrap();
            let code = diagnosis.causes.first().map_or("", |cause| &*cause.code);
            let fine = is_impossible(job) && code == "no_worker_matches";
            assert!(
                fine,
                "{} is {:?} because of {code}: {:?}",
                job.id, job.state, job.events
            );
        }
        assert!(audit.held.is_empty(), "slots in use: {:?}", audit.held);
        self.views_agree().await;
        for tenant in TENANTS {
            let who = caller(tenant, "key:x", &[Role::Admin]);
            let engine = self.any_engine().expect("a server");
            let count = engine.count_jobs(&who, &JobFilter::default()).await;
            let there = audit
                .jobs
                .iter()
                .filter(|job| job.tenant.as_str() == tenant);
            assert_eq!(count.unwrap().count, there.count() as u64);
        }
        // Last, because it takes time, in which jobs may be deleted.
        self.streams_are_whole().await;
        audit
    }
}

/// Whether nobody will ever take it.
fn is_impossible(job: &Job) -> bool {
    job.state == JobState::Pending && job.spec.metadata.requires == ["none"]
}
