//! The raw limit: the product's own batches straight against the store, grouped.
//!
//! The engine runs real jobs on a store in memory that writes down every batch; the same batches
//! are then sent to a fresh store on disk by as many committers as the end-to-end rows have
//! clients, each job's batches in their order.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use coretex_bus::InProcBus;
use coretex_core::id::{PoolName, TenantId, Topic};
use coretex_core::job::JobSpec;
use coretex_core::job::transition::Outcome;
use coretex_core::payload::Payload;
use coretex_core::routing::{LeftOpen, Routing};
use coretex_core::time::Timestamp;
use coretex_engine::{
    AllowAll, Caller, Engine, EngineOptions, FromWorker, Hello, Limits, Retention, Role, SubmitJob,
    Timing, ToWorker,
};
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore};
use coretex_store::redis::{RedisOptions, RedisStore};
use coretex_store::{
    Batch, CommitError, Committed, Key, LogId, LogPage, Member, Order, Precondition, Pressure,
    Range, Read, Record, Shard, Store, StoreError, StoreInfo, Usage,
};
use futures::StreamExt;
use parking_lot::Mutex;

use crate::Result;
use crate::backends::Backends;
use crate::server::Keeping;
use crate::source::{RandomIds, SystemClock};

/// A store that writes down what it commits.
#[derive(Debug)]
struct Recorder {
    inner: EmbeddedStore,
    /// With the log entry of each, by which those of a job are put in their order: who is answered
    /// first need not get to write first.
    batches: Mutex<Vec<(Option<LogId>, Batch)>>,
}

#[async_trait]
impl Store for Recorder {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }

    fn pressure(&self) -> Pressure {
        self.inner.pressure()
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    async fn get(
        &self,
        shard: Shard,
        keys: &[Key],
    ) -> std::result::Result<Read<Vec<Option<Record>>>, StoreError> {
        self.inner.get(shard, keys).await
    }

    async fn range(
        &self,
        shard: Shard,
        ranges: &[Range],
        limit: usize,
        order: Order,
    ) -> std::result::Result<Read<Vec<Vec<Member>>>, StoreError> {
        self.inner.range(shard, ranges, limit, order).await
    }

    async fn count(
        &self,
        shard: Shard,
        range: &Range,
        cap: u64,
    ) -> std::result::Result<Read<u64>, StoreError> {
        self.inner.count(shard, range, cap).await
    }

    async fn tail(
        &self,
        shard: Shard,
        from: LogId,
        limit: usize,
    ) -> std::result::Result<Read<LogPage>, StoreError> {
        self.inner.tail(shard, from, limit).await
    }

    async fn commit(&self, batch: Batch) -> std::result::Result<Committed, CommitError> {
        let copy = batch.clone();
        let committed = self.inner.commit(batch).await?;
        self.batches.lock().push((committed.last_log_id, copy));
        Ok(committed)
    }

    async fn trim(&self, shard: Shard, before: LogId) -> std::result::Result<(), StoreError> {
        self.inner.trim(shard, before).await
    }

    async fn time(&self) -> std::result::Result<Timestamp, StoreError> {
        self.inner.time().await
    }

    async fn usage(&self) -> std::result::Result<Usage, StoreError> {
        self.inner.usage().await
    }

    async fn close(&self, grace: Duration) {
        self.inner.close(grace).await;
    }
}

fn caller() -> Caller {
    Caller {
        principal_id: "dev".to_owned(),
        tenant: TenantId::from_trusted("default"),
        team_ids: std::collections::BTreeSet::new(),
        roles: [Role::Admin].into(),
        tenants_served: std::collections::BTreeSet::new(),
        system: true,
    }
}

/// The batches of `jobs` short jobs: a list of what comes first, and one list a job.
async fn record(jobs: usize) -> Result<(Vec<Batch>, Vec<Vec<Batch>>)> {
    let id = rand::random();
    let inner = EmbeddedStore::open(EmbeddedOptions::memory(Arc::new(SystemClock), id))?;
    let store = Arc::new(Recorder {
        inner,
        batches: Mutex::new(Vec::new()),
    });
    let engine = Engine::start(EngineOptions {
        store: Arc::<Recorder>::clone(&store),
        bus: Arc::new(InProcBus::new()),
        ids: Arc::new(RandomIds),
        kernel: Arc::new(AllowAll),
        signatures: coretex_engine::Signatures::default(),
        limits: Limits::default(),
        retention: Retention::default(),
        timing: Timing::default(),
        routing: Routing::default(),
        dev: true,
        version: "bench".to_owned(),
    })
    .await?;
    let topic = Topic::from_trusted("job.noop");
    let hello = Hello {
        worker_id: None,
        pool: PoolName::from_trusted("default"),
        topics: vec![topic.clone()],
        capabilities: std::collections::BTreeSet::new(),
        labels: std::collections::BTreeMap::new(),
        max_parallel_jobs: 256,
        sdk: "bench".to_owned(),
        protocol_version: 1,
        running: Vec::new(),
    };
    let mut session = engine.open_session(&caller(), hello).await?;
    let mut inbox = session.outbound();
    let answering = tokio::spawn(async move {
        while let Some(message) = inbox.recv().await {
            let ToWorker::Assignment { attempt, job, .. } = message else {
                continue;
            };
            let result = FromWorker::Result {
                attempt,
                outcome: Outcome::Succeeded {
                    output: job.input.clone(),
                },
                execution_duration: Some(Duration::from_micros(50)),
                artifact_ids: Vec::new(),
            };
            if session.receive(result).await.is_err() {
                break;
            }
        }
    });
    futures::stream::iter(0..jobs)
        .for_each_concurrent(64, |number| {
            let (engine, topic) = (engine.clone(), topic.clone());
            async move {
                let request = SubmitJob {
                    job_id: None,
                    left_open: LeftOpen::default(),
                    spec: JobSpec::new(topic),
                    input: Some(Payload::json(format!("{{\"n\":{number}}}").into())),
                    idempotency_key: uuid::Uuid::now_v7().to_string(),
                    trace_id: String::new(),
                    wait: Some(Duration::from_secs(30)),
                };
                if let Err(error) = engine.submit_job(&caller(), request).await {
                    crate::report::say(&format!("a job was not recorded: {error}"));
                }
            }
        })
        .await;
    engine.drain(Duration::from_secs(2)).await;
    answering.abort();
    let batches = std::mem::take(&mut *store.batches.lock());
    Ok(by_job(batches))
}

/// The record that a batch is about.
fn subject(batch: &Batch) -> Option<&Key> {
    batch
        .preconditions
        .iter()
        .find_map(|precondition| match precondition {
            Precondition::Absent { key } | Precondition::At { key, .. } => {
                key.starts_with(b"job/").then_some(key)
            }
            Precondition::SizeBelow { .. }
            | Precondition::Bucket { .. }
            | Precondition::Pointer { .. } => None,
        })
}

fn by_job(mut batches: Vec<(Option<LogId>, Batch)>) -> (Vec<Batch>, Vec<Vec<Batch>>) {
    let mut first = Vec::new();
    let mut order: Vec<Vec<Batch>> = Vec::new();
    let mut places: HashMap<Key, usize> = HashMap::new();
    batches.sort_by_key(|(log_id, _)| *log_id);
    for (_, batch) in batches {
        match subject(&batch).cloned() {
            Some(key) => {
                let place = *places.entry(key).or_insert_with(|| {
                    order.push(Vec::new());
                    order.len() - 1
                });
                order[place].push(batch);
            }
            // The policy pointer and the like; leases of the recording replica come along.
            None => first.push(batch),
        }
    }
    (first, order)
}

/// What the store alone does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    pub(crate) jobs_per_second: f64,
    pub(crate) commits_per_second: f64,
    pub(crate) cpu_micros_per_job: f64,
    pub(crate) bytes_per_job: f64,
}

/// Sends the recorded batches to a fresh store.
pub(crate) async fn measure(
    directory: &Path,
    keeping: Keeping,
    shared: Option<&Backends>,
    jobs: usize,
) -> Result<Raw> {
    let (first, order) = record(jobs).await?;
    let data = tempfile::TempDir::with_prefix_in("coretex-raw-", directory)?;
    let store: Box<dyn Store> = match shared {
        None => {
            let mut options =
                EmbeddedOptions::directory(data.path(), Arc::new(SystemClock), rand::random());
            if keeping == Keeping::Async {
                options.durability = coretex_store::Durability::Async;
            }
            Box::new(EmbeddedStore::open(options)?)
        }
        Some(shared) => {
            let mut options = RedisOptions::new(shared.store(), Arc::new(RandomIds));
            if keeping == Keeping::RedisAlways {
                options.durability = coretex_store::Durability::Fsync;
            }
            Box::new(RedisStore::open(options).await?)
        }
    };
    for batch in first {
        store.commit(batch).await?;
    }
    let commits: usize = order.iter().map(Vec::len).sum();
    let count = order.len();
    let used = || -> Result<Duration> {
        let shared = shared.map_or(Ok(Duration::ZERO), Backends::redis_cpu)?;
        Ok(crate::process::cpu(std::process::id())? + shared)
    };
    let (begun, cpu) = (Instant::now(), used()?);
    let failed = Mutex::new(None);
    futures::stream::iter(order)
        .for_each_concurrent(128, |batches| {
            let (store, failed) = (&store, &failed);
            async move {
                for batch in batches {
                    if let Err(error) = store.commit(batch).await {
                        *failed.lock() = Some(error);
                    }
                }
            }
        })
        .await;
    let took = begun.elapsed();
    let cpu = used()?.saturating_sub(cpu);
    if let Some(error) = failed.into_inner() {
        return Err(error.into());
    }
    store.close(Duration::from_secs(10)).await;
    let bytes = match shared {
        None => crate::process::directory_bytes(data.path())?,
        Some(shared) => shared.redis_memory()?,
    };
    Ok(Raw {
        jobs_per_second: count as f64 / took.as_secs_f64(),
        commits_per_second: commits as f64 / took.as_secs_f64(),
        cpu_micros_per_job: cpu.as_secs_f64() * 1e6 / count as f64,
        bytes_per_job: bytes as f64 / count as f64,
    })
}
