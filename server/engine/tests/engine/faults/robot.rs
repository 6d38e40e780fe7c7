//! Callers and a worker that do not give up: they ask again until they are answered.

use std::collections::BTreeSet;
use std::time::Duration;

use coretex_core::id::JobId;
use coretex_core::job::Job;
use coretex_core::job::transition::Outcome;
use coretex_engine::{AttemptRef, Error, SubmitJob, ToWorker};
use coretex_store::{Shard, Store, codec};
use tokio::time::Instant;

use crate::support::{ADMIN, Bench, Worker, failed, hello, millis, pass, secs, succeeded};

/// The record as the store has it.
async fn stored(bench: &Bench, id: &JobId) -> Option<Job> {
    let key = bytes::Bytes::from(format!("job/acme\0{id}").into_bytes());
    let read = bench.base.get(Shard::Data(0), &[key]).await.unwrap();
    let record = read.value.into_iter().next().flatten()?;
    Some(codec::decode::<Job>(&record.value).unwrap().1)
}

/// Submits until it is told that the job is accepted.
pub(super) async fn submit_for_sure(bench: &Bench, request: &SubmitJob) -> JobId {
    for _ in 0..200 {
        match bench.engine.submit_job(&ADMIN, request.clone()).await {
            Ok(submitted) => return submitted.answer.job.id.clone(),
            Err(
                Error::OutcomeUnknown
                | Error::Unavailable { .. }
                | Error::Overloaded { .. }
                | Error::Contention,
            ) => pass(millis(100)).await,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("never accepted");
}

/// A worker that behaves: starts, works for a second, answers until it is acknowledged.
pub(super) struct Robot {
    worker: Worker,
    /// What it runs, until when, and whether it has answered.
    pub(super) running: Vec<(AttemptRef, Instant)>,
    pub(super) unacknowledged: Vec<(AttemptRef, Outcome)>,
    begun: BTreeSet<String>,
    pub(super) fail_first: bool,
    ran: u32,
}

impl Robot {
    pub(super) async fn new(bench: &Bench) -> Self {
        Self {
            worker: bench.connect(hello("w", &["job.a"], 2)).await,
            running: Vec::new(),
            unacknowledged: Vec::new(),
            begun: BTreeSet::new(),
            fail_first: false,
            ran: 0,
        }
    }

    /// Works until `done` or for this long.
    pub(super) async fn work(
        &mut self,
        bench: &Bench,
        time: Duration,
        mut done: impl AsyncFnMut() -> bool,
    ) {
        let end = Instant::now() + time;
        while Instant::now() < end && !done().await {
            self.worker.beat().await;
            if let Some(message) = self.worker.next_within(millis(100)).await {
                self.heard(bench, message).await;
            }
            let now = Instant::now();
            let over: Vec<_> = self
                .running
                .extract_if(.., |(_, until)| *until <= now)
                .collect();
            for (attempt, _) in over {
                self.ran += 1;
                let outcome = if self.fail_first && self.ran == 1 {
                    failed("first")
                } else {
                    succeeded()
                };
                self.worker.finish(&attempt, outcome.clone()).await;
                self.unacknowledged.push((attempt, outcome));
            }
        }
    }

    async fn heard(&mut self, bench: &Bench, message: ToWorker) {
        match message {
            ToWorker::Assignment { attempt, .. } => {
                assert!(
                    self.begun.insert(attempt.lease_id.to_string()),
                    "assigned twice"
                );
                // Nothing comes from a commit that is not applied.
                let job = stored(bench, &attempt.job_id)
                    .await
                    .expect("a committed job");
                let known = job
                    .attempts
                    .iter()
                    .any(|one| one.lease_id == attempt.lease_id);
                assert!(known, "{} was assigned before its commit", attempt.job_id);
                self.worker.started(&attempt).await;
                self.running.push((attempt, Instant::now() + secs(1)));
                assert!(self.running.len() <= 2, "more than its slots");
            }
            ToWorker::ResultAck { attempt, .. } => {
                self.unacknowledged.retain(|(one, _)| *one != attempt);
            }
            ToWorker::Cancel { attempt, .. } | ToWorker::Revoke { attempt, .. } => {
                let had = self.running.len();
                self.running.retain(|(one, _)| *one != attempt);
                if self.running.len() < had {
                    self.worker.finish(&attempt, Outcome::Cancelled).await;
                    self.unacknowledged.push((attempt, Outcome::Cancelled));
                }
            }
            ToWorker::StartConfirmed(_) | ToWorker::OutputAck { .. } | ToWorker::Drain { .. } => {}
        }
    }
}
