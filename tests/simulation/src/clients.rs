//! What clients do: submit, ask again, cancel, look.

use coretex_core::id::TenantId;
use coretex_core::job::{JobState, Priority, Slots, WorkerLossPolicy};
use coretex_core::payload::Payload;
use coretex_core::retry::RetryPolicy;
use coretex_engine::{Engine, Error, JobFilter, PageRequest, Role, SubmitJob, WatchTarget};
use coretex_testbench::{caller, id, millis, request, secs};

use crate::limits::any_key;
use crate::world::{TOPICS, World};

impl World {
    pub(crate) async fn submit(&mut self) {
        let dice = &self.dice;
        let mut job = request(TOPICS[dice.below(3) as usize]);
        self.keys += 1;
        job.job_id = Some(id(&format!("j{}", self.keys)));
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
            spec.not_before = Some(self.now() + millis(dice.below(9_000)));
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
        if self.one_in(2) {
            spec.concurrency = Some(any_key(dice));
        }
        if self.one_in(6) {
            spec.placement.slots = Slots(2);
        }
        spec.max_redispatch = dice.below(4) as u32;
        spec.confirm_start = self.one_in(5);
        if self.one_in(10) {
            job.input = Some(Payload::json(vec![b'1'; 20 * 1024].into()));
        }
        let tenant = self.tenant();
        self.send(tenant, job).await;
    }

    pub(crate) async fn send(&mut self, tenant: &str, job: SubmitJob) {
        let who = caller(tenant, "key:x", &[Role::Admin]);
        let job_id = job.job_id.clone().unwrap();
        let name = (tenant.to_owned(), job_id.clone());
        let Some(engine) = self.any_engine() else {
            return;
        };
        let submit = engine.submit_job(&who, job.clone());
        // Some callers do not wait for the answer.
        let patience = if self.one_in(10) {
            millis(50)
        } else {
            secs(12)
        };
        match tokio::time::timeout(patience, submit).await {
            Ok(Ok(submitted)) => {
                assert_eq!(submitted.answer.job.id, job_id);
                self.book.saw(&submitted.answer.job);
                self.tally.accepted += 1;
                self.book.perhaps.remove(&name);
                self.book.accepted.insert(name);
            }
            Ok(Err(Error::OutcomeUnknown)) | Err(_) => {
                self.book.perhaps.insert(name, job);
            }
            Ok(Err(
                Error::Unavailable { .. }
                | Error::Overloaded { .. }
                | Error::Contention
                | Error::Draining,
            )) => {}
            // It is one that is refused when its key is full. An earlier try may still be applied.
            Ok(Err(Error::ConcurrencyLimitReached { .. })) => self.tally.refused += 1,
            // A replay of a job that retention has taken.
            Ok(Err(Error::NotFound { .. })) => {}
            Ok(Err(error)) => panic!("submit: {error}"),
        }
    }

    /// The same request again.
    pub(crate) async fn replay(&mut self) {
        let count = self.book.perhaps.len() as u64;
        let again = self
            .book
            .perhaps
            .iter()
            .nth(self.dice.below(count) as usize);
        if let Some(((tenant, _), job)) = again.map(|(name, job)| (name.clone(), job.clone())) {
            self.send(&tenant, job).await;
        }
    }

    pub(crate) async fn cancel(&mut self) {
        let Some((tenant, id)) = self.any_job() else {
            return;
        };
        let who = caller(&tenant, "key:x", &[Role::Admin]);
        let grace = Some(millis(self.dice.below(6_000)));
        let force = self.one_in(3);
        let Some(engine) = self.any_engine() else {
            return;
        };
        let cancel = engine.cancel_job(&who, &id, String::new(), grace, force);
        if let Ok(Ok(answer)) = tokio::time::timeout(secs(12), cancel).await {
            self.book.saw(&answer.job);
        }
    }

    pub(crate) async fn look(&mut self) {
        if let Some(engine) = self.any_engine() {
            let looking = self.look_at(&engine);
            drop(tokio::time::timeout(secs(12), looking).await);
        }
    }

    async fn look_at(&mut self, engine: &Engine) {
        let tenant = self.tenant();
        let who = caller(tenant, "key:x", &[Role::Admin]);
        if let Some((tenant, id)) = self.any_job() {
            let who = caller(&tenant, "key:x", &[Role::Admin]);
            if let Ok(diagnosis) = engine.diagnose_job(&who, &id).await {
                // Nothing holds up a job that runs.
                let runs = diagnosis.state == JobState::Running;
                assert!(runs || !diagnosis.causes.is_empty(), "{diagnosis:?}");
            }
            let wait = engine.wait_job(&who, &id, millis(self.dice.below(3_000)), true);
            if let Ok(answer) = wait.await {
                self.book.saw(&answer.job);
            }
        }
        let page = PageRequest {
            size: 1 + self.dice.below(20) as usize,
            token: String::new(),
        };
        let everything = JobFilter::default();
        if let Ok(page) = engine.list_jobs(&who, &everything, page, false).await {
            for one in &page.jobs {
                assert_eq!(one.job.tenant, TenantId::parse(tenant).unwrap());
                self.book.saw(&one.job);
            }
            let target = WatchTarget::Filter(JobFilter::default());
            drop(
                engine
                    .watch_jobs(&who, target, page.resume_token, false)
                    .await,
            );
        }
        drop(engine.count_jobs(&who, &everything).await);
    }
}
