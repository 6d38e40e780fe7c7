//! The end of a history: everything gets its chance to end, and then what must be true is checked.

use std::collections::BTreeMap;

use coretex_core::id::{JobId, WorkerId};
use coretex_core::job::JobState;
use coretex_core::job::transition::Outcome;
use coretex_engine::{FromWorker, JobFilter, PageRequest, Role};
use coretex_store::layers::FaultRates;

use super::TENANTS;
use super::world::World;
use crate::support::{Answer, caller, pass, secs, succeeded};

impl World {
    /// The weather clears: everything gets its chance to end.
    pub(super) async fn settle(&mut self) {
        self.bench.faulty.restore();
        self.bench.faulty.rates(FaultRates::default());
        self.kernel.say(Answer::Allow);
        let perhaps: Vec<_> = self.perhaps.clone().into_iter().collect();
        for ((tenant, _), job) in perhaps {
            self.send(&tenant, job).await;
        }
        let end = self.bench.now() + secs(120);
        let mut quiet = 0;
        while self.bench.now() < end && quiet < 25 {
            for number in 0..4 {
                if self.processes[number].connection.is_none() {
                    self.reconnect(number).await;
                }
                self.undrain(number).await;
                self.finish_all(number).await;
            }
            self.beat_all().await;
            pass(secs(1)).await;
            self.hear().await;
            let busy = self
                .processes
                .iter()
                .any(|process| !process.runs.is_empty());
            quiet = if busy { 0 } else { quiet + 1 };
        }
    }

    async fn reconnect(&mut self, number: usize) {
        loop {
            self.connect().await;
            if self.processes[number].connection.is_some() {
                break;
            }
        }
    }

    /// A drained worker gets jobs again. It may be connected: drains outlive connections.
    async fn undrain(&self, number: usize) {
        let name = WorkerId::parse(&self.processes[number].name).unwrap();
        let undone = self.bench.engine.drain_worker(&self.fleet, &name, true);
        drop(undone.await);
    }

    async fn beat_all(&mut self) {
        for process in &mut self.processes {
            if let Some(connection) = &process.connection {
                let beat = FromWorker::Heartbeat {
                    active_jobs: 0,
                    cpu_load: 0.0,
                    gpu_utilization: 0.0,
                };
                if connection.session.receive(beat).await.is_err() {
                    process.connection = None;
                }
            }
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

    /// What must be true in the end.
    pub(super) async fn check(&mut self) {
        let audit = self.bench.audit().await;
        let by_name: BTreeMap<(String, JobId), _> = audit
            .jobs
            .iter()
            .map(|job| ((job.tenant.to_string(), job.id.clone()), job))
            .collect();
        let short = self.seed.is_multiple_of(4);
        for name in &self.accepted {
            assert!(
                short || by_name.contains_key(name),
                "{name:?} was accepted and is gone"
            );
        }
        for (name, job) in &by_name {
            let known = self.accepted.contains(name) || self.perhaps.contains_key(name);
            assert!(known, "{name:?} was never submitted");
            if job.state.is_terminal() {
                continue;
            }
            let who = caller(&name.0, "key:x", &[Role::Admin]);
            let diagnosis = self.bench.engine.diagnose_job(&who, &name.1).await.unwrap();
            let code = diagnosis.causes.first().map_or("", |cause| &*cause.code);
            let impossible = job.spec.metadata.requires == ["none"];
            let fine = impossible && code == "no_worker_matches" && job.state == JobState::Pending;
            assert!(
                fine,
                "{name:?} is {:?} because of {code}: {:?}",
                job.state, job.events
            );
        }
        assert_eq!(audit.held, BTreeMap::new(), "all slots are free");
        let workers = PageRequest {
            size: 100,
            token: String::new(),
        };
        let (workers, _) = self
            .bench
            .engine
            .list_workers(&self.fleet, workers)
            .await
            .unwrap();
        for worker in workers {
            assert_eq!(worker.active_jobs, 0, "{}", worker.worker_id);
        }
        for tenant in TENANTS {
            let who = caller(tenant, "key:x", &[Role::Admin]);
            let count = self
                .bench
                .engine
                .count_jobs(&who, &JobFilter::default())
                .await;
            let there = by_name.keys().filter(|name| name.0 == tenant).count();
            assert_eq!(count.unwrap().count, there as u64);
        }
    }
}
