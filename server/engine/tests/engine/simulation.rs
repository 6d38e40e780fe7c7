//! Random histories: clients, workers, crashes and a bad store, from a seed. Whatever happens, the
//! store is consistent, no lease is handed out twice, and in the end every job has ended or its
//! diagnosis says why not.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::sync::LazyLock;
use std::time::Duration;

use coretex_core::id::{JobId, LeaseId, TenantId, WorkerId};
use coretex_core::job::transition::Outcome;
use coretex_core::job::{JobState, Priority, WorkerLossPolicy};
use coretex_core::payload::Payload;
use coretex_core::retry::RetryPolicy;
use coretex_engine::{
    AttemptRef, Caller, Error, FromWorker, Hello, JobFilter, PageRequest, Retention, Role,
    SubmitJob, ToWorker, WatchTarget,
};
use coretex_store::layers::{Fault, FaultRates};
use coretex_store::{CommitError, Shard, Store, codec};
use futures::FutureExt;

use crate::support::{
    Answer, Bench, Script, SeededIds, Setup, Worker, caller, failed, hello, millis, pass, request,
    secs, serving, succeeded,
};

const STEPS: u32 = 200;
const TOPICS: [&str; 3] = ["job.a", "job.b", "job.c"];
const TENANTS: [&str; 2] = ["acme", "beta"];

/// What a worker process does with an attempt.
#[derive(Clone, Debug)]
struct Run {
    attempt: AttemptRef,
    started: bool,
    told_to_stop: bool,
    /// Its result, once it has one, sent until it is acknowledged.
    result: Option<Outcome>,
}

/// A worker process: it outlives its connections.
#[derive(Debug)]
struct Process {
    name: String,
    slots: u32,
    connection: Option<Worker>,
    runs: Vec<Run>,
}

struct World {
    seed: u64,
    dice: std::sync::Arc<SeededIds>,
    bench: Bench,
    kernel: std::sync::Arc<Script>,
    fleet: Caller,
    processes: Vec<Process>,
    /// Everything that was accepted, or may have been.
    accepted: BTreeSet<(String, JobId)>,
    perhaps: BTreeMap<(String, JobId), SubmitJob>,
    /// Every lease that any worker was ever handed.
    handed: BTreeSet<LeaseId>,
    keys: u32,
}

impl World {
    async fn new(seed: u64) -> Self {
        let kernel = Script::new(Answer::Allow);
        let bench = Bench::with(Setup {
            seed,
            kernel: kernel.clone(),
            resend: seed % 3 != 0,
            retention: Retention {
                jobs: secs(if seed % 4 == 0 { 20 } else { 7_200 }),
                ..Retention::default()
            },
            ..Setup::default()
        })
        .await;
        let processes = (0..4)
            .map(|number| Process {
                name: format!("w{number}"),
                slots: 1 + number,
                connection: None,
                runs: Vec::new(),
            })
            .collect();
        Self {
            seed,
            dice: SeededIds::new(seed ^ 0x5eed),
            bench,
            kernel,
            fleet: serving(&TENANTS),
            processes,
            accepted: BTreeSet::new(),
            perhaps: BTreeMap::new(),
            handed: BTreeSet::new(),
            keys: 0,
        }
    }

    /// A line of the history, for who looks at one.
    fn note(&self, what: std::fmt::Arguments<'_>) {
        if ONLY.is_some() {
            eprintln!("{} {what}", self.bench.now());
        }
    }

    fn one_in(&self, n: u64) -> bool {
        self.dice.below(n) == 0
    }

    fn tenant(&self) -> &'static str {
        TENANTS[self.dice.below(2) as usize]
    }

    fn any_job(&self) -> Option<(String, JobId)> {
        let count = self.accepted.len() as u64;
        self.accepted
            .iter()
            .nth(self.dice.below(count) as usize)
            .cloned()
    }

    async fn step(&mut self) {
        let die = self.dice.below(100);
        self.note(format_args!("step {die}"));
        match die {
            0..30 => self.submit().await,
            30..38 => self.connect().await,
            38..42 => self.disconnect().await,
            42..62 => self.work().await,
            62..67 => self.cancel().await,
            67..82 => self.wait().await,
            82..84 => self.crash().await,
            84..90 => self.break_store(),
            90..93 => self.look().await,
            93..96 => self.operate().await,
            96..98 => self.change_mind(),
            _ => self.replay().await,
        }
        self.hear().await;
    }

    async fn submit(&mut self) {
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

    async fn send(&mut self, tenant: &str, job: SubmitJob) {
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
    async fn replay(&mut self) {
        let count = self.perhaps.len() as u64;
        let again = self.perhaps.iter().nth(self.dice.below(count) as usize);
        if let Some(((tenant, _), job)) = again.map(|(name, job)| (name.clone(), job.clone())) {
            self.send(&tenant, job).await;
        }
    }

    async fn connect(&mut self) {
        let number = self.dice.below(4) as usize;
        let process = &mut self.processes[number];
        // Often the old connection is still open from the server's side.
        let old = process.connection.take();
        let listed: Vec<AttemptRef> = process
            .runs
            .iter()
            .filter(|run| run.result.is_none())
            .map(|run| run.attempt.clone())
            .collect();
        let topics: &[&str] = match number {
            0 => &TOPICS[..1],
            1 => &TOPICS[..2],
            _ => &TOPICS,
        };
        let mut hello = Hello {
            running: listed.clone(),
            ..hello(&process.name, topics, process.slots)
        };
        if number >= 2 {
            hello.capabilities.insert("gpu".to_owned());
        }
        if self.dice.below(2) == 0
            && let Some(old) = old
        {
            old.cut().await;
        }
        let opening = self.bench.engine.open_session(&self.fleet, hello);
        let Ok(Ok(mut session)) = tokio::time::timeout(secs(12), opening).await else {
            return;
        };
        let process = &mut self.processes[number];
        for kept in &session.welcome.kept {
            assert!(listed.contains(kept));
        }
        let revoked = session.welcome.revoked.clone();
        process.runs.retain(|run| !revoked.contains(&run.attempt));
        let inbox = session.outbound();
        process.connection = Some(Worker { session, inbox });
        // Results that were not acknowledged are sent again.
        let results: Vec<_> = process
            .runs
            .iter()
            .filter_map(|run| Some((run.attempt.clone(), run.result.clone()?)))
            .collect();
        for (attempt, outcome) in results {
            self.report(number, &attempt, outcome).await;
        }
    }

    async fn report(&mut self, number: usize, attempt: &AttemptRef, outcome: Outcome) {
        let Some(connection) = &self.processes[number].connection else {
            return;
        };
        self.note(format_args!("w{number} reports {attempt:?} {outcome:?}"));
        let message = FromWorker::Result {
            attempt: attempt.clone(),
            outcome,
            execution_duration: None,
            artifact_ids: Vec::new(),
        };
        let told = tokio::time::timeout(secs(12), connection.session.receive(message)).await;
        if !matches!(told, Ok(Ok(()))) {
            self.processes[number].connection = None;
        }
    }

    async fn disconnect(&mut self) {
        let number = self.dice.below(4) as usize;
        if let Some(connection) = self.processes[number].connection.take() {
            connection.cut().await;
        }
        if self.one_in(4) {
            // The process dies.
            self.processes[number].runs.clear();
        }
    }

    /// Some worker does something about some attempt.
    async fn work(&mut self) {
        let number = self.dice.below(4) as usize;
        let process = &self.processes[number];
        if process.connection.is_none() || process.runs.is_empty() {
            return;
        }
        let place = self.dice.below(process.runs.len() as u64) as usize;
        let run = process.runs[place].clone();
        let attempt = run.attempt.clone();
        let say = match self.dice.below(10) {
            0..2 if run.result.is_none() => {
                self.processes[number].runs[place].started = true;
                FromWorker::Started(attempt)
            }
            2 if run.result.is_none() => FromWorker::Progress {
                attempt,
                percent: self.dice.below(101) as u8,
                message: String::new(),
            },
            3 if run.result.is_none() && !run.started => {
                self.processes[number].runs.remove(place);
                FromWorker::Reject {
                    attempt,
                    reason: "not now".to_owned(),
                }
            }
            _ => {
                let outcome = run.result.unwrap_or_else(|| match self.dice.below(5) {
                    0 => failed("broken"),
                    1 if run.told_to_stop => Outcome::Cancelled,
                    _ => succeeded(),
                });
                self.processes[number].runs[place].result = Some(outcome.clone());
                self.report(number, &attempt, outcome).await;
                return;
            }
        };
        let connection = self.processes[number].connection.as_ref().unwrap();
        let told = tokio::time::timeout(secs(12), connection.session.receive(say)).await;
        if !matches!(told, Ok(Ok(()))) {
            self.processes[number].connection = None;
        }
    }

    async fn cancel(&mut self) {
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

    async fn wait(&mut self) {
        let time = match self.dice.below(4) {
            0 => self.dice.below(20),
            1 | 2 => self.dice.below(1_500),
            _ => self.dice.below(9_000),
        };
        for process in &self.processes {
            if let Some(connection) = &process.connection
                && self.dice.below(8) > 0
            {
                let beat = FromWorker::Heartbeat {
                    active_jobs: 0,
                    cpu_load: self.dice.below(100) as f64,
                    gpu_utilization: 0.0,
                };
                drop(connection.session.receive(beat).await);
            }
        }
        pass(millis(time)).await;
    }

    async fn crash(&mut self) {
        self.bench.faulty.restore();
        self.bench.faulty.rates(FaultRates::default());
        for process in &mut self.processes {
            process.connection = None;
        }
        if self.one_in(2) {
            let engine = self.bench.engine.clone();
            drop(tokio::time::timeout(secs(5), engine.drain(secs(2))).await);
        }
        self.bench.crash().await;
    }

    fn break_store(&mut self) {
        let faulty = &self.bench.faulty;
        match self.dice.below(10) {
            0 => faulty.script([Fault::Before(CommitError::Unavailable {
                reason: "test".to_owned(),
            })]),
            1 => faulty.script([Fault::After]),
            2 => faulty.script([Fault::Late(millis(self.dice.below(9_000)))]),
            3 => faulty.script([Fault::Delay(millis(self.dice.below(9_000)))]),
            4 => faulty.script([Fault::SlowAnswer(millis(self.dice.below(9_000)))]),
            5 => faulty.rates(FaultRates {
                before: 0.05,
                after: 0.05,
                late: 0.05,
                delay: 0.2,
                longest_delay: millis(700),
            }),
            6 => faulty.take_down(),
            _ => {
                faulty.rates(FaultRates::default());
                faulty.restore();
            }
        }
    }

    async fn look(&mut self) {
        let tenant = self.tenant();
        let who = caller(tenant, "key:x", &[Role::Admin]);
        let engine = self.bench.engine.clone();
        if let Some((tenant, id)) = self.any_job() {
            let who = caller(&tenant, "key:x", &[Role::Admin]);
            if let Ok(diagnosis) = engine.diagnose_job(&who, &id).await {
                assert!(!diagnosis.causes.is_empty(), "{diagnosis:?}");
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

    async fn operate(&mut self) {
        let number = self.dice.below(4) as usize;
        let name = WorkerId::parse(&self.processes[number].name).unwrap();
        match self.dice.below(3) {
            0 => {
                let undo = self.dice.below(3) > 0;
                drop(
                    self.bench
                        .engine
                        .drain_worker(&self.fleet, &name, undo)
                        .await,
                );
            }
            _ => {
                let slots = 1 + self.dice.below(4) as u32;
                let process = &mut self.processes[number];
                process.slots = process.slots.max(slots);
                if let Some(connection) = &process.connection {
                    let more = FromWorker::Capacity {
                        max_parallel_jobs: process.slots,
                    };
                    drop(connection.session.receive(more).await);
                }
            }
        }
    }

    fn change_mind(&mut self) {
        let answer = match self.dice.below(10) {
            0 => Answer::Deny,
            1 | 2 => Answer::Trouble,
            3 | 4 => Answer::Throttle(millis(self.dice.below(5_000))),
            _ => Answer::Allow,
        };
        self.kernel.say(answer);
    }

    /// Workers read what they are sent.
    async fn hear(&mut self) {
        for number in 0..self.processes.len() {
            loop {
                let process = &mut self.processes[number];
                let Some(connection) = &mut process.connection else {
                    break;
                };
                match connection.inbox.try_recv() {
                    Ok(message) => self.heard(number, message).await,
                    Err(tokio::sync::mpsc::error::TryRecvError::Empty) => break,
                    Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) => {
                        process.connection = None;
                        break;
                    }
                }
            }
        }
    }

    async fn heard(&mut self, number: usize, message: ToWorker) {
        self.note(format_args!("w{number} hears {message:.150?}"));
        match message {
            ToWorker::Assignment { job, attempt, .. } => {
                let lease = attempt.lease_id;
                assert!(self.handed.insert(lease), "{lease} was handed out twice");
                assert!(job.input.as_ref().is_none_or(|input| !input.is_apart()));
                // It stands in the store: nothing comes from a commit that may not be applied.
                let key = format!("job/{}\0{}", attempt.tenant, attempt.job_id).into_bytes();
                let read = self
                    .bench
                    .base
                    .get(Shard::Data(0), &[key.into()])
                    .await
                    .unwrap();
                if let Some(record) = &read.value[0] {
                    let (_, stored) =
                        codec::decode::<coretex_core::job::Job>(&record.value).unwrap();
                    let known = stored.attempts.iter().any(|one| one.lease_id == lease);
                    assert!(known, "{lease} was handed out before its commit");
                    if stored.holds(lease) {
                        self.alone(&attempt);
                    }
                }
                let process = &mut self.processes[number];
                let unanswered = process
                    .runs
                    .iter()
                    .filter(|run| run.result.is_none())
                    .count();
                assert!(
                    unanswered < process.slots as usize,
                    "{} has {unanswered} of {} slots in use and gets another",
                    process.name,
                    process.slots
                );
                process.runs.push(Run {
                    attempt,
                    started: false,
                    told_to_stop: false,
                    result: None,
                });
            }
            ToWorker::ResultAck { attempt, .. } => {
                self.processes[number]
                    .runs
                    .retain(|run| run.attempt != attempt);
            }
            ToWorker::Cancel { attempt, .. } => self.told_to_stop(number, &attempt),
            ToWorker::Revoke { attempt, .. } => {
                self.told_to_stop(number, &attempt);
                if self.dice.below(3) > 0 {
                    self.stop(number, &attempt).await;
                }
            }
            ToWorker::StartConfirmed(_) | ToWorker::Drain { .. } => {}
        }
    }

    /// No other process runs this job under a lease that is current.
    fn alone(&self, attempt: &AttemptRef) {
        for process in &self.processes {
            for run in &process.runs {
                assert_ne!(run.attempt.lease_id, attempt.lease_id);
            }
        }
    }

    fn told_to_stop(&mut self, number: usize, attempt: &AttemptRef) {
        for run in &mut self.processes[number].runs {
            if run.attempt == *attempt {
                run.told_to_stop = true;
            }
        }
    }

    /// A worker stops an attempt and says so.
    async fn stop(&mut self, number: usize, attempt: &AttemptRef) {
        let mut found = false;
        for run in &mut self.processes[number].runs {
            if run.attempt == *attempt && run.result.is_none() {
                run.result = Some(Outcome::Cancelled);
                found = true;
            }
        }
        if found {
            self.report(number, attempt, Outcome::Cancelled).await;
        }
    }

    /// The weather clears: everything gets its chance to end.
    async fn settle(&mut self) {
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
    async fn check(&mut self) {
        let audit = self.bench.audit().await;
        let by_name: BTreeMap<(String, JobId), _> = audit
            .jobs
            .iter()
            .map(|job| ((job.tenant.to_string(), job.id.clone()), job))
            .collect();
        let short = self.seed % 4 == 0;
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
            let code = diagnosis.causes.first().map_or("", |cause| cause.code);
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

fn run(seed: u64) {
    if ONLY.is_some() {
        // A second test of this process finds it set already.
        let _ = tracing_subscriber::fmt()
            .with_env_filter("debug")
            .without_time()
            .with_writer(std::io::stderr)
            .try_init();
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let ended = runtime.block_on(async {
        let history = async {
            let mut world = World::new(seed).await;
            for _ in 0..STEPS {
                world.step().await;
            }
            world.settle().await;
            world.check().await;
        };
        // Whatever hangs for an hour of its own time hangs for ever.
        let bounded = tokio::time::timeout(Duration::from_secs(3_600), history);
        AssertUnwindSafe(bounded).catch_unwind().await
    });
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(_)) => panic!("seed {seed} hangs"),
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            panic!("seed {seed}: {}", text.unwrap_or_default());
        }
    }
}

/// `CORETEX_SIMULATION_SEED=n` runs one history only, and tells it.
static ONLY: LazyLock<Option<u64>> =
    LazyLock::new(|| std::env::var("CORETEX_SIMULATION_SEED").ok()?.parse().ok());

fn seeds(range: std::ops::Range<u64>) {
    for seed in range.filter(|seed| ONLY.is_none_or(|only| only == *seed)) {
        run(seed);
    }
}

// Four tests, so that they run beside one another.

#[test]
fn histories_of_the_first_seeds() {
    seeds(0..300);
}

#[test]
fn histories_of_the_second_seeds() {
    seeds(300..600);
}

#[test]
fn histories_of_the_third_seeds() {
    seeds(600..900);
}

#[test]
fn histories_of_the_last_seeds() {
    seeds(900..1_200);
}
