//! An engine on the in-memory store and the in-process bus, in virtual time and with seeded ids:
//! what runs here runs the same every time.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by several tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coretex_bus::InProcBus;
use coretex_core::id::{PoolName, TenantId, Topic, WorkerId};
use coretex_core::job::transition::Outcome;
use coretex_core::job::{JobError, JobSpec, JobState};
use coretex_core::payload::Payload;
use coretex_core::time::{Clock, IdGen, Timestamp};
use coretex_engine::{
    AllowAll, AttemptRef, Caller, Engine, EngineOptions, FromWorker, Hello, Kernel, Limits,
    Retention, Role, Session, SubmitJob, Submitted, Timing, ToWorker,
};
use coretex_store::Store;
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, WriterMode};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Wall-clock time that follows tokio's (paused) time.
#[derive(Debug)]
pub struct VirtualClock {
    base: Timestamp,
    origin: Instant,
}

impl VirtualClock {
    pub fn new() -> Arc<Self> {
        let base = Timestamp::from_micros(1_700_000_000_000_000);
        Arc::new(Self {
            base,
            origin: Instant::now(),
        })
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        self.base + self.origin.elapsed()
    }
}

/// Ids from a counter, mixed (splitmix64) so that they look random and are the same every time.
#[derive(Debug)]
pub struct SeededIds(AtomicU64);

impl SeededIds {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seed)))
    }

    fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl IdGen for SeededIds {
    fn random(&self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }

    fn sortable(&self, now: Timestamp) -> String {
        format!("{:013x}-{:016x}", now.as_millis(), self.next())
    }
}

/// What a test can turn.
pub struct Setup {
    pub limits: Limits,
    pub retention: Retention,
    pub timing: Timing,
    pub kernel: Arc<dyn Kernel>,
    pub seed: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            retention: Retention::default(),
            timing: Timing::default(),
            kernel: Arc::new(AllowAll),
            seed: 7,
        }
    }
}

pub fn memory_store() -> Arc<EmbeddedStore> {
    let mut options = EmbeddedOptions::memory(VirtualClock::new(), 1);
    options.writer = WriterMode::Inline;
    Arc::new(EmbeddedStore::open(options).unwrap())
}

pub async fn engine_on(store: Arc<dyn Store>, setup: Setup) -> Engine {
    Engine::start(EngineOptions {
        store,
        bus: Arc::new(InProcBus::new()),
        ids: SeededIds::new(setup.seed),
        kernel: setup.kernel,
        limits: setup.limits,
        retention: setup.retention,
        timing: setup.timing,
        dev: true,
        version: "test".to_owned(),
    })
    .await
    .unwrap()
}

pub async fn engine() -> Engine {
    engine_on(memory_store(), Setup::default()).await
}

pub fn admin() -> Caller {
    caller("acme", "key:admin", &[Role::Admin])
}

pub fn caller(tenant: &str, principal: &str, roles: &[Role]) -> Caller {
    Caller {
        principal_id: principal.to_owned(),
        tenant: TenantId::parse(tenant).unwrap(),
        team_ids: BTreeSet::new(),
        roles: roles.iter().copied().collect(),
        tenants_served: BTreeSet::new(),
        system: false,
    }
}

pub fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

pub fn request(name: &str) -> SubmitJob {
    SubmitJob {
        job_id: None,
        spec: JobSpec::new(topic(name)),
        input: Some(Payload::json("{\"n\":1}".into())),
        idempotency_key: String::new(),
        trace_id: String::new(),
        wait: None,
    }
}

pub async fn submit(engine: &Engine, request: SubmitJob) -> Submitted {
    engine.submit_job(&admin(), request).await.unwrap()
}

pub fn hello(worker: &str, topics: &[&str], slots: u32) -> Hello {
    Hello {
        worker_id: Some(WorkerId::parse(worker).unwrap()),
        pool: PoolName::parse("default").unwrap(),
        topics: topics.iter().map(|name| topic(name)).collect(),
        capabilities: BTreeSet::new(),
        labels: BTreeMap::new(),
        max_parallel_jobs: slots,
        sdk: "test".to_owned(),
        running: Vec::new(),
    }
}

/// A worker driven by hand.
pub struct Worker {
    pub session: Session,
    pub inbox: mpsc::Receiver<ToWorker>,
}

impl Worker {
    pub async fn connect(engine: &Engine, hello: Hello) -> Self {
        let mut session = engine.open_session(&admin(), hello).await.unwrap();
        let inbox = session.outbound();
        Self { session, inbox }
    }

    /// The next message, within ten seconds of virtual time.
    pub async fn next(&mut self) -> ToWorker {
        tokio::time::timeout(Duration::from_secs(10), self.inbox.recv())
            .await
            .expect("a message within ten seconds")
            .expect("an open session")
    }

    /// The next message if one comes within `wait`.
    pub async fn next_within(&mut self, wait: Duration) -> Option<ToWorker> {
        tokio::time::timeout(wait, self.inbox.recv())
            .await
            .ok()
            .flatten()
    }

    /// The next message, which has to be an assignment.
    pub async fn assignment(&mut self) -> AttemptRef {
        match self.next().await {
            ToWorker::Assignment { attempt, .. } => attempt,
            other => panic!("not an assignment: {other:?}"),
        }
    }

    /// The next message, which has to be an acknowledgement; whether the result was applied.
    pub async fn ack(&mut self) -> bool {
        match self.next().await {
            ToWorker::ResultAck { applied, .. } => applied,
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }

    pub async fn finish(&self, attempt: &AttemptRef, outcome: Outcome) {
        let message = FromWorker::Result {
            attempt: attempt.clone(),
            outcome,
            execution_duration: None,
            artifact_ids: Vec::new(),
        };
        self.session.receive(message).await.unwrap();
    }

    pub async fn succeed(&mut self, attempt: &AttemptRef) -> bool {
        self.finish(attempt, succeeded()).await;
        self.ack().await
    }

    pub async fn fail(&mut self, attempt: &AttemptRef, code: &str) -> bool {
        self.finish(attempt, failed(code)).await;
        self.ack().await
    }
}

pub fn succeeded() -> Outcome {
    Outcome::Succeeded {
        output: Some(Payload::json("\"done\"".into())),
    }
}

pub fn failed(code: &str) -> Outcome {
    Outcome::Failed {
        error: JobError {
            code: code.to_owned(),
            message: "it broke".to_owned(),
            metadata: BTreeMap::new(),
            source: coretex_core::job::ErrorSource::Worker,
        },
    }
}

/// The state of a job now.
pub async fn state(engine: &Engine, job: &Submitted) -> JobState {
    engine
        .get_job(&admin(), &job.answer.job.id, false)
        .await
        .unwrap()
        .job
        .state
}
