//! The engine: what all use cases share, how it starts and how it stops.
//!
//! Over 500 lines because each use case has a line in the one struct that they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coretex_bus::Bus;
use coretex_core::id::{JobId, ReplicaId, TenantId};
use coretex_core::lease::Tick;
use coretex_core::routing::Routing;
use coretex_core::time::{IdGen, Timestamp};
use coretex_store::Store;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::KeyCache;
use crate::access::streams::OpenWatches;
use crate::commits::Loaded;
use crate::configs::effective::Configs;
use crate::dispatch::Dispatcher;
use crate::jobs::output::Outputs;
use crate::kernel::Kernel;
use crate::news::News;
use crate::policy::Signatures;
use crate::policy::base::Base;
use crate::replicas::Replicas;
use crate::routing::Tables;
use crate::time::StoreClock;
use crate::timers::Timers;
use crate::waiters::Waiters;
use crate::{Error, Result};

/// The longest grace of a cancel that a caller or the configuration may ask for. A job that should
/// go on for longer is not one to cancel.
pub const MAX_CANCEL_GRACE: Duration = Duration::from_secs(3_600);

/// The most that [`Limits::max_payload_bytes`] may be: one answer holds the input and the output of
/// a job with everything else about it, and stays below 3.5 MiB.
pub const MAX_PAYLOAD_LIMIT: usize = 1_536 * 1024;

/// Bounds on what callers may ask for and on what the engine holds in memory.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest payload in bytes, at most [`MAX_PAYLOAD_LIMIT`]; larger ones go as artifacts.
    pub max_payload_bytes: usize,
    /// Jobs of one tenant that may wait at once.
    pub max_waiting_jobs: u64,
    /// Unfinished assignments that one worker may ask for.
    pub max_parallel_jobs: u32,
    /// Connected workers of one replica.
    pub max_sessions: usize,
    /// Open watches of one replica.
    pub max_watches: usize,
    /// Longest server-side wait.
    pub max_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_payload_bytes: 1024 * 1024,
            max_waiting_jobs: 100_000,
            max_parallel_jobs: 10_000,
            max_sessions: 20_000,
            max_watches: 1_000,
            max_wait: Duration::from_secs(60),
        }
    }
}

/// How long things are kept.
#[derive(Clone, Debug)]
pub struct Retention {
    /// Ended jobs.
    pub jobs: Duration,
    /// Ended jobs with a dead letter, if that is longer.
    pub dead_letters: Duration,
    /// Bytes of ended jobs above which the oldest go before their time; 0 = no budget. What they
    /// take is estimated from a sample, because a file keeps its length when its content goes.
    pub byte_budget: u64,
    /// Log entries, the reach of resume tokens.
    pub log_entries: u64,
    /// Most ended jobs deleted a second, so that sweeping never starves the living.
    pub deletes_per_second: u32,
}

impl Retention {
    /// How long a dead letter is kept, and its job with it.
    #[must_use]
    pub fn of_dead_letters(&self) -> Duration {
        self.dead_letters.max(self.jobs)
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            jobs: Duration::from_secs(7 * 24 * 3_600),
            dead_letters: Duration::from_secs(30 * 24 * 3_600),
            byte_budget: 0,
            log_entries: 500_000,
            deletes_per_second: 10_000,
        }
    }
}

/// The engine's own periods.
#[derive(Clone, Debug)]
pub struct Timing {
    /// How long attempts of a lost connection wait for their worker.
    pub adoption_window: Duration,
    /// How often workers should send a heartbeat.
    pub heartbeat_interval: Duration,
    /// A session that is silent for this long is lost.
    pub session_silence: Duration,
    /// How long a worker may take to stop after a cancel, unless the caller says otherwise; at most
    /// [`MAX_CANCEL_GRACE`].
    pub cancel_grace: Duration,
    /// A job that ends sooner after its start is never written as RUNNING.
    pub lazy_start: Duration,
    /// A waiting job rises one class of priority for each of these; zero = it stays in its own.
    pub rise_after: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            adoption_window: coretex_core::lease::ADOPTION_WINDOW,
            heartbeat_interval: coretex_core::lease::HEARTBEAT_EVERY,
            session_silence: coretex_core::lease::SESSION_SILENCE,
            cancel_grace: Duration::from_secs(30),
            lazy_start: Duration::from_millis(250),
            rise_after: coretex_core::queue::rank::DEFAULT_RISE_AFTER,
        }
    }
}

/// What an engine is made of.
#[derive(Debug)]
pub struct EngineOptions {
    /// The truth.
    pub store: Arc<dyn Store>,
    /// The doorbells.
    pub bus: Arc<dyn Bus>,
    /// Ids, leases, jitter.
    pub ids: Arc<dyn IdGen>,
    /// What decides about jobs.
    pub kernel: Arc<dyn Kernel>,
    /// Which signatures of bundles count.
    pub signatures: Signatures,
    /// Bounds.
    pub limits: Limits,
    /// How long things are kept.
    pub retention: Retention,
    /// Periods.
    pub timing: Timing,
    /// The tables of topics, pools and tenants to begin with.
    pub routing: Routing,
    /// No credentials needed.
    pub dev: bool,
    /// Version of the program, for status answers.
    pub version: String,
}

/// The use cases. Cheap to clone; all clones are one engine.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    options: EngineOptions,
    replica: RwLock<ReplicaId>,
    clock: StoreClock,
    origin: Instant,
    start_time: Timestamp,
    dispatcher: Dispatcher,
    waiters: Waiters,
    timers: Timers,
    keys: KeyCache,
    open_watches: OpenWatches,
    outputs: Outputs,
    /// Rings when there are notices to deliver.
    notices: tokio::sync::Notify,
    /// Rings whenever this replica has appended to the log.
    log: watch::Sender<u64>,
    watches: Arc<tokio::sync::Semaphore>,
    bulk: Arc<tokio::sync::Semaphore>,
    draining: AtomicBool,
    stop: CancellationToken,
    tasks: TaskTracker,
    replicas: Replicas,
    news: News,
    configs: Configs,
    tables: Tables,
    base: Base,
    policy_loads: tokio::sync::Mutex<()>,
}

impl Engine {
    /// Connects to what the options hold, takes up what an earlier process left, and starts the
    /// background work.
    ///
    /// # Errors
    /// The store does not answer or holds what cannot be read.
    pub async fn start(options: EngineOptions) -> Result<Self> {
        let now = options.store.time().await?;
        let replica = ReplicaId::from_trusted(&format!("r-{:016x}", options.ids.random() as u64));
        let engine = Self {
            inner: Arc::new(Inner {
                replica: RwLock::new(replica),
                clock: StoreClock::new(now),
                origin: Instant::now(),
                start_time: now,
                dispatcher: Dispatcher::default(),
                waiters: Waiters::default(),
                timers: Timers::default(),
                keys: KeyCache::default(),
                open_watches: OpenWatches::default(),
                outputs: Outputs::default(),
                notices: tokio::sync::Notify::new(),
                log: watch::Sender::new(0),
                watches: Arc::new(tokio::sync::Semaphore::new(options.limits.max_watches)),
                bulk: Arc::new(tokio::sync::Semaphore::new(crate::bulk::MAX_OPERATIONS)),
                draining: AtomicBool::new(false),
                stop: CancellationToken::new(),
                tasks: TaskTracker::new(),
                replicas: Replicas::default(),
                news: News::default(),
                configs: Configs::default(),
                tables: Tables::new(options.routing.clone()),
                base: Base::default(),
                policy_loads: tokio::sync::Mutex::new(()),
                options,
            }),
        };
        engine.place_by(engine.routing());
        engine.dispatcher().lock().rise_after = engine.timing().rise_after;
        engine.start_policy().await?;
        engine.adopt_old_keys().await?;
        engine.announce_replica().await?;
        engine.spawn("claims", Self::run_claims);
        engine.spawn("doorbells", Self::run_doorbells);
        if engine.has_peers() {
            engine.spawn("peers", Self::run_peers);
            engine.spawn("events", Self::run_events);
            engine.spawn("ends", Self::run_ends);
            engine.spawn("waits", Self::run_waits);
            engine.spawn("catching up", Self::run_catch_up);
            engine.spawn("output bells", Self::run_output_bells);
        }
        engine.spawn("timers", Self::run_timers);
        engine.spawn("sessions", Self::run_sessions);
        engine.spawn("losses", Self::run_losses);
        engine.spawn("lazy writes", Self::run_lazy_writes);
        engine.spawn("outputs", Self::run_outputs);
        engine.spawn("replicas", Self::run_replicas);
        engine.spawn("recount", Self::run_recount);
        engine.spawn("making room", Self::run_make_room);
        engine.spawn("sweeper", Self::run_sweeper);
        engine.spawn("approvals", Self::run_approval_sweeps);
        engine.spawn("credentials", Self::run_credentials);
        Ok(engine)
    }

    /// Stops taking work, tells workers to reconnect elsewhere, waits for commits under way, at
    /// most until `grace` is over. The store stays open; its owner closes it.
    pub async fn drain(&self, grace: Duration) {
        self.inner.draining.store(true, Ordering::SeqCst);
        let deadline = self.now() + grace;
        self.close_sessions_to_work();
        // What is being handed out arrives before the word to leave, so that workers take it along.
        let _ = tokio::time::timeout(grace / 4, self.dispatches_settled()).await;
        self.tell_sessions_to_leave(deadline);
        self.inner.stop.cancel();
        self.inner.tasks.close();
        if tokio::time::timeout(grace, self.inner.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                tasks = self.inner.tasks.len(),
                "work under way was cut by the drain deadline"
            );
        }
        self.leave().await;
        self.inner
            .options
            .bus
            .drain(Duration::from_millis(200))
            .await;
    }

    /// Whether it is stopping.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::SeqCst)
    }

    /// Bounds on what callers may ask for.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.inner.options.limits
    }

    /// Why new work cannot be served now; `None` = ready. A bus that is away is no reason: the store
    /// is read every second anyway.
    #[must_use]
    pub fn not_ready(&self) -> Option<String> {
        if self.is_draining() {
            return Some("draining".to_owned());
        }
        if self.store_silent() {
            return Some("the store does not answer".to_owned());
        }
        if self.store().pressure() == coretex_store::Pressure::ReadOnly {
            return Some("the store takes no writes".to_owned());
        }
        if self.is_behind_the_news() {
            return Some("pauses and configuration are not read".to_owned());
        }
        None
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.inner.options.store
    }

    pub(crate) fn bus(&self) -> &dyn Bus {
        &*self.inner.options.bus
    }

    pub(crate) fn ids(&self) -> &dyn IdGen {
        &*self.inner.options.ids
    }

    pub(crate) fn kernel(&self) -> &dyn Kernel {
        &*self.inner.options.kernel
    }

    pub(crate) fn options(&self) -> &EngineOptions {
        &self.inner.options
    }

    pub(crate) fn timing(&self) -> &Timing {
        &self.inner.options.timing
    }

    /// The name of this replica now. It gets another when it was taken for dead.
    pub(crate) fn replica(&self) -> ReplicaId {
        self.inner.replica.read().clone()
    }

    pub(crate) fn rename(&self, name: ReplicaId) {
        *self.inner.replica.write() = name;
    }

    pub(crate) fn start_time(&self) -> Timestamp {
        self.inner.start_time
    }

    pub(crate) fn dispatcher(&self) -> &Dispatcher {
        &self.inner.dispatcher
    }

    pub(crate) fn waiters(&self) -> &Waiters {
        &self.inner.waiters
    }

    pub(crate) fn timers(&self) -> &Timers {
        &self.inner.timers
    }

    pub(crate) fn key_cache(&self) -> &KeyCache {
        &self.inner.keys
    }

    pub(crate) fn open_watches(&self) -> &OpenWatches {
        &self.inner.open_watches
    }

    pub(crate) fn outputs(&self) -> &Outputs {
        &self.inner.outputs
    }

    pub(crate) fn watches(&self) -> &Arc<tokio::sync::Semaphore> {
        &self.inner.watches
    }

    pub(crate) fn bulk_operations(&self) -> &Arc<tokio::sync::Semaphore> {
        &self.inner.bulk
    }

    pub(crate) fn replicas(&self) -> &Replicas {
        &self.inner.replicas
    }

    pub(crate) fn news(&self) -> &News {
        &self.inner.news
    }

    pub(crate) fn base(&self) -> &Base {
        &self.inner.base
    }

    /// Only one load of the policy at a time.
    pub(crate) fn policy_loads(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.policy_loads
    }

    pub(crate) fn configs(&self) -> &Configs {
        &self.inner.configs
    }

    pub(crate) fn tables(&self) -> &Tables {
        &self.inner.tables
    }

    pub(crate) fn notices_bell(&self) -> &tokio::sync::Notify {
        &self.inner.notices
    }

    /// Rings after every append of this replica.
    pub(crate) fn log_bell(&self) -> watch::Receiver<u64> {
        self.inner.log.subscribe()
    }

    /// Store time now.
    pub(crate) fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }

    /// This replica's monotonic time.
    pub(crate) fn tick(&self) -> Tick {
        Tick::new(self.inner.origin.elapsed())
    }

    /// Takes the time of an answer of the store to a request sent at `asked` into account.
    pub(crate) fn observe(&self, asked: Instant, answered: Timestamp) {
        self.inner.clock.observe(asked, answered);
    }

    /// Done when the engine stops.
    pub(crate) fn stopping(&self) -> &CancellationToken {
        &self.inner.stop
    }

    /// Runs a background loop until the engine stops.
    pub(crate) fn spawn<F>(&self, name: &'static str, run: impl FnOnce(Self) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = self.inner.stop.clone();
        let work = run(self.clone());
        self.inner.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = work => tracing::error!(name, "a background loop ended"),
            }
        });
    }

    /// Runs work that has to come to its end even when the caller goes away or the engine drains.
    pub(crate) fn spawn_work<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.inner.tasks.spawn(work)
    }

    pub(crate) fn refuse_when_draining(&self) -> Result<()> {
        if self.is_draining() {
            Err(Error::Draining)
        } else {
            Ok(())
        }
    }

    /// Everything that has to know of a written job.
    pub(crate) fn after_write(
        &self,
        before: Option<&coretex_core::job::Job>,
        after: &Loaded,
        counts: bool,
    ) {
        let job = &*after.job;
        self.update_slots(before, after);
        self.place_left(before, job);
        if job.is_ready() && !before.is_some_and(coretex_core::job::Job::is_ready) {
            self.became_ready(job, counts);
        }
        self.timers().arm(job, self.now());
        if job.state.is_terminal() && !before.is_some_and(|before| before.state.is_terminal()) {
            self.waiters().ended(after);
            self.outputs().ring(&job.tenant, &job.id);
            crate::telemetry::ended(job);
        }
        self.ring_log();
        self.tell_peers(before, job);
    }

    /// Wakes whoever reads the log.
    pub(crate) fn ring_log(&self) {
        self.inner.log.send_modify(|count| *count += 1);
    }

    /// Names of a job, for maps.
    pub(crate) fn name_of(job: &coretex_core::job::Job) -> (TenantId, JobId) {
        (job.tenant.clone(), job.id.clone())
    }
}
