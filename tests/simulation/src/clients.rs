//! What clients do: submit, ask again, cancel, look.

use coretex_core::id::TenantId;
use coretex_core::job::{JobState, Priority, WorkerLossPolicy};
use coretex_core::payload::Payload;
use coretex_core::retry::RetryPolicy;
use coretex_engine::{Error, JobFilter, PageRequest, Role, SubmitJob, WatchTarget};

use super::TOPICS;
use super::world::World;
use crate::support::{caller, millis, request, secs};

impl World {
    pub(super) async fn submit(&mut self) {
        let dice = &self.dice;
        let mut job = request(TOPICS[dice.below(3) as usize]);
        self.keys += 1;
        job.job_id = Some(crate::support::id(&format!("j{}", self.keys)));
        if self.one_in(3) {
            job.idempotency_key = format!("k{}", self.keys);
        }
        let spec = &mut job.spec;
        spec.priority =
            [Priority::Critical, Priority::Interactive, Priority::Batch][dice.below(3) as usize];
        if self.one_in(3) {
            spec.retry = RetryPolicy {
                max_attempts: 1 + dice.below(3) as u32,
                initial_backoff: millis(dice.below(4_000)),
                jitter: 0.3,
                ..RetryPolicy::default()
            };
        }
        if self.one_in(4) {
            spec.timeout = millis(500 + dice.below(8_000));
        }
        if self.one_in(6) {
            spec.deadline_after = Some(millis(500 + dice.below(20_000)));
        }
        if self.one_in(6) {
            spec.not_before = Some(self.bench.now() + millis(dice.below(9_000)));
        }
        if self.one_in(6) {
            spec.schedule_to_start_timeout = millis(dice.below(10_000));
        }
        if self.one_in(8) {
            spec.metadata.requires = vec!["gpu".to_owned()];
        }
        if self.one_in(30) {
            spec.metadata.requires = vec!["none".to_owned()];
        }
        if self.one_in(5) {
            spec.on_worker_loss = WorkerLossPolicy::Fail;
        }
        spec.max_redispatch = dice.below(4) as u32;
        spec.confirm_start = self.one_in(5);
        if self.one_in(10) {
            job.input = Some(Payload::json(vec![b'1'; 20 * 1024].into()));
        }
        let tenant = self.tenant();
        self.send(tenant, job).await;
    }

    pub(super) async fn send(&mut self, tenant: &str, job: SubmitJob) {
        let who = caller(tenant, "key:x", &[Role::Admin]);
        let id = job.job_id.clone().unwrap();
        let name = (tenant.to_owned(), id.clone());
        let engine = self.bench.engine.clone();
        let submit = engine.submit_job(&who, job.clone());
        // Some callers do not wait for the answer.
        let patience = if self.one_in(10) {
            millis(50)
        } else {
            secs(30)
        };
        match tokio::time::timeout(patience, submit).await {
            Ok(Ok(submitted)) => {
                assert_eq!(submitted.answer.job.id, id);
                self.perhaps.remove(&name);
                self.accepted.insert(name);
            }
            Ok(Err(Error::OutcomeUnknown)) | Err(_) => {
                self.perhaps.insert(name, job);
            }
            Ok(Err(Error::Unavailable { .. } | Error::Overloaded { .. } | Error::Contention)) => {}
            // A replay of a job that retention has taken.
            Ok(Err(Error::NotFound { .. })) => {}
            Ok(Err(error)) => panic!("submit: {error}"),
        }
    }

    /// The same request again.
    pub(super) async fn replay(&mut self) {
        let count = self.perhaps.len() as u64;
        let again = self.perhaps.iter().nth(self.dice.below(count) as usize);
        if let Some(((tenant, _), job)) = again.map(|(name, job)| (name.clone(), job.clone())) {
            self.send(&tenant, job).await;
        }
    }

    pub(super) async fn cancel(&mut self) {
        let Some((tenant, id)) = self.any_job() else {
            return;
        };
        let who = caller(&tenant, "key:x", &[Role::Admin]);
        let grace = Some(millis(self.dice.below(6_000)));
        let force = self.one_in(3);
        let cancel = self
            .bench
            .engine
            .cancel_job(&who, &id, String::new(), grace, force);
        drop(tokio::time::timeout(secs(12), cancel).await);
    }

    pub(super) async fn look(&mut self) {
        let tenant = self.tenant();
        let who = caller(tenant, "key:x", &[Role::Admin]);
        let engine = self.bench.engine.clone();
        if let Some((tenant, id)) = self.any_job() {
            let who = caller(&tenant, "key:x", &[Role::Admin]);
            if let Ok(diagnosis) = engine.diagnose_job(&who, &id).await {
                // Nothing holds up a job that runs.
                let runs = diagnosis.state == JobState::Running;
                assert!(runs || !diagnosis.causes.is_empty(), "{diagnosis:?}");
            }
            let wait = engine.wait_job(&who, &id, millis(self.dice.below(3_000)), true);
            drop(wait.await);
        }
        let page = PageRequest {
            size: 1 + self.dice.below(20) as usize,
            token: String::new(),
        };
        if let Ok(page) = engine
            .list_jobs(&who, &JobFilter::default(), page, false)
            .await
        {
            for one in &page.jobs {
                assert_eq!(one.job.tenant, TenantId::parse(tenant).unwrap());
            }
            let target = WatchTarget::Filter(JobFilter::default());
            drop(
                engine
                    .watch_jobs(&who, target, page.resume_token, false)
                    .await,
            );
        }
        drop(engine.count_jobs(&who, &JobFilter::default()).await);
    }
}
