//! A worker driven by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coretex_core::id::{PoolName, WorkerId};
use coretex_core::job::transition::Outcome;
use coretex_engine::{AttemptRef, Caller, Engine, FromWorker, Hello, Session, ToWorker};
use tokio::sync::mpsc;

use crate::{Bench, admin, request, secs, succeeded, topic};

pub fn hello(worker: &str, topics: &[&str], slots: u32) -> Hello {
    Hello {
        worker_id: Some(WorkerId::parse(worker).unwrap()),
        pool: PoolName::parse("default").unwrap(),
        topics: topics.iter().map(|name| topic(name)).collect(),
        capabilities: BTreeSet::new(),
        labels: BTreeMap::new(),
        max_parallel_jobs: slots,
        sdk: "test".to_owned(),
        protocol_version: 1,
        running: Vec::new(),
    }
}

/// The hello of a worker that comes back with these attempts.
pub fn again(worker: &str, running: &[&AttemptRef]) -> Hello {
    Hello {
        running: running.iter().map(|one| (*one).clone()).collect(),
        ..hello(worker, &["job.a"], 4)
    }
}

#[derive(Debug)]
pub struct Worker {
    pub session: Session,
    pub inbox: mpsc::Receiver<ToWorker>,
}

impl Worker {
    pub async fn connect(engine: &Engine, hello: Hello) -> Self {
        Self::connect_as(engine, &admin(), hello).await
    }

    pub async fn connect_as(engine: &Engine, caller: &Caller, hello: Hello) -> Self {
        let mut session = engine.open_session(caller, hello).await.unwrap();
        let inbox = session.outbound();
        Self { session, inbox }
    }

    /// The next message, within ten seconds of virtual time.
    pub async fn next(&mut self) -> ToWorker {
        tokio::time::timeout(secs(10), self.inbox.recv())
            .await
            .expect("a message within ten seconds")
            .expect("an open session")
    }

    /// The next message if one comes within `wait`; also `None` when the session ends.
    pub async fn next_within(&mut self, wait: Duration) -> Option<ToWorker> {
        tokio::time::timeout(wait, self.inbox.recv())
            .await
            .ok()
            .flatten()
    }

    /// Nothing comes for this long, and the session stays open.
    pub async fn quiet(&mut self, wait: Duration) {
        if let Ok(message) = tokio::time::timeout(wait, self.inbox.recv()).await {
            panic!("not quiet: {message:?}");
        }
    }

    /// Whether the session has been ended by the engine; drops what was still to be read.
    pub async fn is_closed(&mut self, within: Duration) -> bool {
        let drained = async { while self.inbox.recv().await.is_some() {} };
        tokio::time::timeout(within, drained).await.is_ok()
    }

    /// The next message, which has to be an assignment.
    pub async fn assignment(&mut self) -> AttemptRef {
        match self.next().await {
            ToWorker::Assignment { attempt, .. } => attempt,
            other => panic!("not an assignment: {other:?}"),
        }
    }

    pub async fn assignments(&mut self, count: usize) -> Vec<AttemptRef> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(self.assignment().await);
        }
        all
    }

    /// The next message, which has to be an acknowledgement; whether the result was applied.
    pub async fn ack(&mut self) -> bool {
        match self.next().await {
            ToWorker::ResultAck { applied, .. } => applied,
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }

    /// The next message, which has to be a request to stop.
    pub async fn cancel(&mut self) -> AttemptRef {
        match self.next().await {
            ToWorker::Cancel { attempt, .. } => attempt,
            other => panic!("not a cancel: {other:?}"),
        }
    }

    /// The next message, which has to be a revocation.
    pub async fn revoke(&mut self) -> AttemptRef {
        match self.next().await {
            ToWorker::Revoke { attempt, .. } => attempt,
            other => panic!("not a revocation: {other:?}"),
        }
    }

    pub async fn say(&self, message: FromWorker) {
        self.session.receive(message).await.unwrap();
    }

    pub async fn beat(&self) {
        self.say(FromWorker::Heartbeat {
            active_jobs: 0,
            cpu_load: 0.0,
            gpu_utilization: 0.0,
        })
        .await;
    }

    pub async fn started(&self, attempt: &AttemptRef) {
        self.say(FromWorker::Started(attempt.clone())).await;
    }

    pub async fn reject(&self, attempt: &AttemptRef) {
        self.say(FromWorker::Reject {
            attempt: attempt.clone(),
            reason: "not now".to_owned(),
        })
        .await;
    }

    pub async fn finish(&self, attempt: &AttemptRef, outcome: Outcome) {
        self.say(FromWorker::Result {
            attempt: attempt.clone(),
            outcome,
            execution_duration: None,
            artifact_ids: Vec::new(),
        })
        .await;
    }

    pub async fn succeed(&mut self, attempt: &AttemptRef) -> bool {
        self.finish(attempt, succeeded()).await;
        self.ack().await
    }

    pub async fn fail(&mut self, attempt: &AttemptRef, code: &str) -> bool {
        self.finish(attempt, crate::failed(code)).await;
        self.ack().await
    }

    /// The connection breaks.
    pub async fn cut(self) {
        self.session.end(false).await;
    }

    /// Keeps the session alive for this long.
    pub async fn beat_for(&self, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while tokio::time::Instant::now() < end {
            self.beat().await;
            let left = end.saturating_duration_since(tokio::time::Instant::now());
            crate::pass(left.min(secs(10))).await;
        }
    }
}

/// A worker that has started one attempt.
pub async fn with_attempt(bench: &Bench) -> (Worker, AttemptRef) {
    let mut worker = bench.connect(hello("w", &["job.a"], 4)).await;
    bench.submit(request("job.a")).await;
    let attempt = worker.assignment().await;
    worker.started(&attempt).await;
    (worker, attempt)
}
