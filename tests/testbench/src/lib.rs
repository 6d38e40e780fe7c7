//! The bench: an engine on the in-memory store and the in-process bus, in virtual time and with
//! seeded ids.
//!
//! Between engine and store stand the layers that the program has, and two for tests: faults
//! ([`Bench::faulty`]) and a tap that notes every name ever written, so that [`audit`] can look at
//! everything that the store holds.
//!
//! What runs many of these against each other is `coretex-simulation`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "what fails here fails the test"
)]

pub mod audit;
pub mod configs;
pub mod kernel;
pub mod tap;
pub mod worker;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use coretex_bus::{Bus, InProcBus};
use coretex_core::id::{JobId, TenantId, Topic};
use coretex_core::job::transition::Outcome;
use coretex_core::job::{Job, JobError, JobSpec, JobState};
use coretex_core::payload::Payload;
use coretex_core::routing::{LeftOpen, Routing};
use coretex_core::time::{Clock, IdGen, Timestamp};
use coretex_engine::{
    AllowAll, Caller, Engine, EngineOptions, Error, Hello, Kernel, Limits, PolicyKernel, Retention,
    Role, Signatures, SubmitJob, Submitted, Timing,
};
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, WriterMode};
use coretex_store::layers::{Faulty, Resend, ResendPolicy};
use coretex_store::{Batch, CommitId, Shard, Store};
use tokio::time::Instant;

pub use audit::Audit;
pub use kernel::{Answer, Script};
pub use tap::{Names, Tap};
pub use worker::{Worker, again, hello, with_attempt};

/// Wall-clock time that follows tokio's (paused) time.
#[derive(Debug)]
pub struct VirtualClock {
    base: Timestamp,
    origin: Instant,
    /// By how many seconds it has been set forward, or back.
    set: AtomicI64,
}

impl VirtualClock {
    pub fn new() -> Arc<Self> {
        let base = Timestamp::from_micros(1_700_000_000_000_000);
        Arc::new(Self {
            base,
            origin: Instant::now(),
            set: AtomicI64::new(0),
        })
    }

    /// Somebody sets it.
    pub fn set(&self, seconds: i64) {
        self.set.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let set = self.set.load(Ordering::Relaxed);
        let by = secs(set.unsigned_abs());
        let now = self.base + self.origin.elapsed();
        if set < 0 { now - by } else { now + by }
    }
}

/// Ids from a counter, mixed (splitmix64) so that they look random and are the same every time.
#[derive(Debug)]
pub struct SeededIds(AtomicU64);

impl SeededIds {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(
            seed.wrapping_mul(0xd6e8_feb8_6659_fd93),
        )))
    }

    pub fn next(&self) -> u64 {
        let mut z = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&self, end: u64) -> u64 {
        self.next() % end.max(1)
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
#[derive(Clone, Debug)]
pub struct Setup {
    pub limits: Limits,
    pub retention: Retention,
    pub timing: Timing,
    pub kernel: Arc<dyn Kernel>,
    /// The policy of the store decides instead, with these signatures.
    pub policy: Option<Signatures>,
    pub seed: u64,
    /// Commits of unknown outcome are sent again, as in the program.
    pub resend: bool,
    /// No other process can use the store.
    pub exclusive: bool,
    /// The tables of every server.
    pub routing: Routing,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            retention: Retention::default(),
            timing: Timing::default(),
            kernel: Arc::new(AllowAll),
            policy: None,
            seed: 7,
            resend: true,
            exclusive: true,
            routing: Routing::default(),
        }
    }
}

/// An engine and everything below it.
#[derive(Debug)]
pub struct Bench {
    pub engine: Engine,
    pub tap: Arc<Tap>,
    pub faulty: Arc<Faulty>,
    pub base: Arc<EmbeddedStore>,
    pub names: Arc<Names>,
    pub clock: Arc<VirtualClock>,
    bus: InProcBus,
    setup: Setup,
    starts: AtomicU64,
    overwrites: AtomicU64,
}

impl Bench {
    pub async fn new() -> Self {
        Self::with(Setup::default()).await
    }

    pub async fn with(setup: Setup) -> Self {
        let clock = VirtualClock::new();
        let base = memory_store(&clock);
        let store: Arc<dyn Store> = Arc::clone(&base) as Arc<dyn Store>;
        let faulty = Arc::new(Faulty::new(store, SeededIds::new(setup.seed ^ 0xfa17)));
        let names = Arc::new(Names::default());
        let bus = InProcBus::new();
        let (engine, tap) = start(&setup, 0, &faulty, &names, &bus).await.unwrap();
        Self {
            engine,
            tap,
            faulty,
            base,
            names,
            clock,
            bus,
            setup,
            starts: AtomicU64::new(1),
            overwrites: AtomicU64::new(1),
        }
    }

    /// The process dies at once and another one starts on the same store.
    pub async fn crash(&mut self) {
        self.kill();
        // One that cannot start is started again.
        let (engine, tap) = loop {
            match self.another().await {
                Ok(started) => break started,
                Err(_) => pass(secs(1)).await,
            }
        };
        self.engine = engine;
        self.tap = tap;
    }

    /// The process dies at once. What is left of it in memory stops using time.
    pub fn kill(&self) {
        self.tap.kill();
        let engine = self.engine.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { engine.drain(Duration::ZERO).await });
        }
    }

    /// One more engine on the same store whose messages reach nobody, and who hears none.
    pub async fn apart(&self) -> coretex_engine::Result<(Engine, Arc<Tap>)> {
        let count = self.starts.fetch_add(1, Ordering::Relaxed);
        let bus = InProcBus::new();
        start(&self.setup, count, &self.faulty, &self.names, &bus).await
    }

    /// One more engine on the same store and bus.
    pub async fn another(&self) -> coretex_engine::Result<(Engine, Arc<Tap>)> {
        let count = self.starts.fetch_add(1, Ordering::Relaxed);
        start(&self.setup, count, &self.faulty, &self.names, &self.bus).await
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub async fn submit(&self, request: SubmitJob) -> Submitted {
        self.engine.submit_job(&admin(), request).await.unwrap()
    }

    /// Submits and answers with the id.
    pub async fn job_of(&self, request: SubmitJob) -> JobId {
        self.submit(request).await.answer.job.id.clone()
    }

    pub async fn job(&self, id: &JobId) -> Arc<Job> {
        let found = self.engine.get_job(&admin(), id, true).await;
        found.unwrap_or_else(|error| panic!("{id}: {error}")).job
    }

    pub async fn state(&self, id: &JobId) -> JobState {
        self.job(id).await.state
    }

    /// The job after it has ended, which it does within `patience`.
    pub async fn ended(&self, id: &JobId, patience: Duration) -> Arc<Job> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = left.min(Duration::from_secs(60));
            let job = self.engine.wait_job(&admin(), id, wait, true).await;
            let job = job.unwrap_or_else(|error| panic!("{id}: {error}")).job;
            if job.state.is_terminal() {
                return job;
            }
            assert!(Instant::now() < deadline, "{id} is still {:?}", job.state);
        }
    }

    /// The first cause of the diagnosis.
    pub async fn cause(&self, id: &JobId) -> String {
        let diagnosis = self.engine.diagnose_job(&admin(), id).await.unwrap();
        let first = diagnosis.causes.first();
        first.map_or_else(String::new, |cause| cause.code.to_string())
    }

    /// Writes a record behind the engine's back.
    pub async fn overwrite(&self, key: Bytes, value: Bytes) {
        let shard = Shard::Data(0);
        let found = self.base.get(shard, std::slice::from_ref(&key)).await;
        let version = found.unwrap().value[0].as_ref().unwrap().version;
        let count = self.overwrites.fetch_add(1, Ordering::Relaxed);
        let mut batch = Batch::new(shard, CommitId(count.into()));
        batch.replace(key, version, value);
        self.base.commit(batch).await.unwrap();
    }

    /// Another policy snapshot comes into force: the store points to it. A kernel learns of it on
    /// its own ([`Script::publish`]).
    pub async fn enforce(&self, snapshot: &str) {
        let key = Bytes::from_static(b"policy");
        self.overwrite(key, snapshot.to_owned().into()).await;
    }

    pub async fn connect(&self, hello: Hello) -> Worker {
        Worker::connect(&self.engine, hello).await
    }

    /// Everything in the store, checked: see [`audit`].
    pub async fn audit(&self) -> Audit {
        audit::audit(&self.base, &self.names).await
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn start(
    setup: &Setup,
    count: u64,
    faulty: &Arc<Faulty>,
    names: &Arc<Names>,
    bus: &InProcBus,
) -> coretex_engine::Result<(Engine, Arc<Tap>)> {
    let below: Arc<dyn Store> = Arc::clone(faulty) as Arc<dyn Store>;
    let below = if setup.resend {
        Arc::new(Resend::new(below, ResendPolicy::default()))
    } else {
        below
    };
    let tap = Arc::new(Tap::new(below, Arc::clone(names), setup.exclusive));
    let store = Arc::clone(&tap) as Arc<dyn Store>;
    let engine = start_on(setup, count, store, Arc::new(bus.peer())).await?;
    Ok((engine, tap))
}

/// An empty store in memory.
pub fn memory_store(clock: &Arc<VirtualClock>) -> Arc<EmbeddedStore> {
    let mut options = EmbeddedOptions::memory(Arc::clone(clock) as Arc<dyn Clock>, 1);
    options.writer = WriterMode::Inline;
    Arc::new(EmbeddedStore::open(options).unwrap())
}

/// Starts the `count`th engine of a setup on this store and bus.
///
/// # Errors
/// As [`Engine::start`].
pub async fn start_on(
    setup: &Setup,
    count: u64,
    store: Arc<dyn Store>,
    bus: Arc<dyn Bus>,
) -> coretex_engine::Result<Engine> {
    Engine::start(EngineOptions {
        store,
        bus,
        ids: SeededIds::new(setup.seed + count * 1_000_003),
        kernel: match &setup.policy {
            Some(_) => Arc::new(PolicyKernel::default()),
            None => Arc::clone(&setup.kernel),
        },
        signatures: setup.policy.clone().unwrap_or_default(),
        limits: setup.limits.clone(),
        retention: setup.retention.clone(),
        timing: setup.timing.clone(),
        routing: setup.routing.clone(),
        dev: true,
        version: "test".to_owned(),
    })
    .await
}

/// Time passes.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Time passes at once: what is due in between happens at its end, as after a pause of the machine.
pub async fn jump(time: Duration) {
    tokio::time::advance(time).await;
    pass(secs(3)).await;
}

pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// [`admin`], for futures that outlive the place where they are made.
pub static ADMIN: LazyLock<Caller> = LazyLock::new(admin);

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

/// A worker's credential that serves these tenants.
pub fn serving(tenants: &[&str]) -> Caller {
    Caller {
        tenants_served: tenants.iter().map(|name| (*name).to_owned()).collect(),
        ..caller("fleet", "key:fleet", &[Role::Worker])
    }
}

pub fn topic(name: &str) -> Topic {
    Topic::parse(name).unwrap()
}

pub fn id(name: &str) -> JobId {
    JobId::parse(name).unwrap()
}

pub fn request(name: &str) -> SubmitJob {
    SubmitJob {
        job_id: None,
        left_open: LeftOpen::default(),
        spec: JobSpec::new(topic(name)),
        input: Some(Payload::json("{\"n\":1}".into())),
        idempotency_key: String::new(),
        trace_id: String::new(),
        wait: None,
    }
}

/// A request with its spec changed.
pub fn with(name: &str, change: impl FnOnce(&mut JobSpec)) -> SubmitJob {
    let mut request = request(name);
    change(&mut request.spec);
    request
}

/// A request under an id of the caller's choice.
pub fn named(name: &str, job: &str) -> SubmitJob {
    SubmitJob {
        job_id: Some(id(job)),
        ..request(name)
    }
}

pub fn keyed(name: &str, key: &str) -> SubmitJob {
    SubmitJob {
        idempotency_key: key.to_owned(),
        ..request(name)
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
            metadata: std::collections::BTreeMap::new(),
            source: coretex_core::job::ErrorSource::Worker,
        },
    }
}

pub fn is_no_job<T>(answer: &Result<T, Error>) -> bool {
    matches!(
        answer,
        Err(Error::NotFound {
            noun: coretex_engine::Noun::Job,
            ..
        })
    )
}
