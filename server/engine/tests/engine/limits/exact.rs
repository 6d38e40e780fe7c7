//! Limits among three replicas under random interleavings of submits, results, cancels, timeouts,
//! lost workers and crashes: whenever one looks, no more run than may, counted from the records.

use std::collections::BTreeMap;

use coretex_core::id::TenantId;
use coretex_core::job::{Concurrency, ConcurrencyAction, JobState};
use coretex_core::routing::{Routing, TenantRule};
use coretex_engine::{AttemptRef, Caller, Engine, JobFilter, PageRequest, Role, ToWorker};

use crate::support::{
    Bench, SeededIds, Setup, Worker, caller, failed, hello, millis, pass, request, secs, serving,
    succeeded,
};

const TENANTS: [&str; 2] = ["acme", "beta"];
/// How many jobs of each tenant may run.
const MOST: u64 = 5;
/// How many may with each key.
const KEYS: [(&str, u32); 2] = [("k", 1), ("l", 3)];

fn tables() -> Routing {
    let rule = TenantRule {
        max_running_jobs: Some(MOST),
        ..TenantRule::default()
    };
    let tenants = TENANTS.map(|name| (TenantId::from_trusted(name), rule.clone()));
    let none = TenantRule::default();
    Routing::new(
        BTreeMap::new(),
        BTreeMap::new(),
        tenants.into_iter().collect(),
        none,
    )
    .unwrap()
}

fn of(tenant: &str) -> Caller {
    caller(tenant, "key:x", &[Role::Admin])
}

struct World {
    bench: Bench,
    engines: Vec<Engine>,
    dice: std::sync::Arc<SeededIds>,
    workers: Vec<(Worker, Vec<AttemptRef>)>,
    submitted: u64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let bench = Bench::with(Setup {
            seed,
            exclusive: false,
            ..Setup::default()
        })
        .await;
        let mut engines = vec![bench.engine.clone()];
        for _ in 0..2 {
            engines.push(bench.another().await.unwrap().0);
        }
        for engine in &engines {
            engine.set_routing(tables());
        }
        pass(secs(20)).await;
        Self {
            bench,
            engines,
            dice: SeededIds::new(seed ^ 0x11),
            workers: Vec::new(),
            submitted: 0,
        }
    }

    fn engine(&self) -> &Engine {
        &self.engines[self.dice.below(3) as usize]
    }

    async fn step(&mut self) {
        match self.dice.below(20) {
            0..8 => self.submit().await,
            8..10 => self.connect().await,
            10..16 => self.answer().await,
            16 => self.cancel().await,
            17 => self.lose().await,
            _ => pass(millis(self.dice.below(1_500))).await,
        }
        for (worker, attempts) in &mut self.workers {
            while let Ok(message) = worker.inbox.try_recv() {
                match message {
                    ToWorker::Assignment { attempt, .. } => attempts.push(attempt),
                    ToWorker::Revoke { attempt, .. } | ToWorker::Cancel { attempt, .. } => {
                        attempts.retain(|held| *held != attempt);
                        let stopped = coretex_core::job::transition::Outcome::Cancelled;
                        worker.finish(&attempt, stopped).await;
                    }
                    _ => {}
                }
            }
            worker.beat().await;
        }
    }

    async fn submit(&mut self) {
        // Several at once, at several replicas.
        let mut submits = Vec::new();
        for _ in 0..=self.dice.below(3) {
            self.submitted += 1;
            let mut job = request("job.a");
            job.spec.timeout = secs(1 + self.dice.below(20));
            job.spec.retry.max_attempts = 1 + self.dice.below(2) as u32;
            if self.dice.below(3) > 0 {
                let (key, limit) = KEYS[self.dice.below(2) as usize];
                job.spec.concurrency = Some(Concurrency {
                    key: key.to_owned(),
                    limit,
                    on_limit: [
                        ConcurrencyAction::Queue,
                        ConcurrencyAction::Reject,
                        ConcurrencyAction::CancelOldest,
                    ][self.dice.below(3) as usize],
                });
            }
            let tenant = TENANTS[self.dice.below(2) as usize];
            let engine = self.engine().clone();
            submits.push(async move {
                let caller = of(tenant);
                drop(engine.submit_job(&caller, job).await);
            });
        }
        futures::future::join_all(submits).await;
    }

    async fn connect(&mut self) {
        if self.workers.len() >= 6 {
            return;
        }
        let name = format!("w-{}", self.dice.next());
        let hello = hello(&name, &["job.a"], 1 + self.dice.below(6) as u32);
        let worker = Worker::connect_as(self.engine(), &serving(&TENANTS), hello).await;
        self.workers.push((worker, Vec::new()));
    }

    async fn answer(&mut self) {
        let busy: Vec<usize> = (0..self.workers.len())
            .filter(|place| !self.workers[*place].1.is_empty())
            .collect();
        if busy.is_empty() {
            return;
        }
        let place = busy[self.dice.below(busy.len() as u64) as usize];
        let dice = self.dice.below(8);
        let (worker, attempts) = &mut self.workers[place];
        let attempt = attempts.swap_remove(0);
        match dice {
            0 => worker.finish(&attempt, failed("x")).await,
            1 => worker.reject(&attempt).await,
            _ => worker.finish(&attempt, succeeded()).await,
        }
    }

    async fn cancel(&self) {
        let tenant = TENANTS[self.dice.below(2) as usize];
        let filter = JobFilter {
            states: vec![JobState::Dispatched, JobState::Running, JobState::Pending],
            ..JobFilter::default()
        };
        let page = PageRequest {
            size: 50,
            token: String::new(),
        };
        let caller = of(tenant);
        let jobs = self.engine().list_jobs(&caller, &filter, page, false).await;
        let jobs = jobs.unwrap().jobs;
        if jobs.is_empty() {
            return;
        }
        let job = &jobs[self.dice.below(jobs.len() as u64) as usize].job;
        let force = self.dice.below(2) == 0;
        let grace = Some(secs(self.dice.below(3)));
        let cancelled = self
            .engine()
            .cancel_job(&caller, &job.id, String::new(), grace, force);
        drop(cancelled.await);
    }

    async fn lose(&mut self) {
        if !self.workers.is_empty() {
            let place = self.dice.below(self.workers.len() as u64) as usize;
            let (worker, _) = self.workers.swap_remove(place);
            worker.cut().await;
        }
    }

    /// Counts what runs from the records.
    async fn recount(&self, seed: u64) {
        let audit = self.bench.audit().await;
        let mut tenants: BTreeMap<&TenantId, u64> = BTreeMap::new();
        let mut keys: BTreeMap<(&TenantId, &str), u32> = BTreeMap::new();
        for job in &audit.jobs {
            if let Some(lease) = &job.lease {
                *tenants.entry(&job.tenant).or_default() += 1;
                *keys
                    .entry((&job.tenant, &lease.concurrency_key))
                    .or_default() += 1;
            }
        }
        for (tenant, running) in tenants {
            assert!(running <= MOST, "seed {seed}: {running} run of {tenant}");
        }
        for ((tenant, key), running) in keys {
            let limit = KEYS.iter().find(|(name, _)| *name == key);
            let limit = limit.map_or(u32::MAX, |(_, limit)| *limit);
            assert!(
                running <= limit,
                "seed {seed}: {running} run of {tenant} with {key}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_run_than_may_and_in_the_end_all_have_run() {
    for seed in 0..8 {
        let mut world = World::new(seed).await;
        for step in 0..100 {
            world.step().await;
            if step % 4 == 0 {
                world.recount(seed).await;
            }
        }
        // Then everybody answers, and nothing is left over.
        let mut rounds = 0;
        loop {
            world.connect().await;
            for _ in 0..20 {
                world.answer().await;
            }
            pass(millis(500)).await;
            world.step().await;
            world.recount(seed).await;
            let audit = world.bench.audit().await;
            if audit.jobs.iter().all(|job| job.state.is_terminal()) {
                break;
            }
            rounds += 1;
            assert!(rounds < 500, "seed {seed}: jobs are left over");
        }
        assert!(world.submitted > 20);
    }
}
