//! Why a job is not running, or how it ended, answered from the same functions that place jobs.

mod approvals;
mod limits;
mod standing;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};

use coretex_core::id::{JobId, PoolName};
use coretex_core::job::{ErrorSource, Job, JobState, ScheduledFor};
use coretex_core::pause::Pause;
use coretex_core::placement::{Needs, check};
use coretex_core::queue::rank::{goes_before_until, rank};
use coretex_core::queue::{ReadyKey, after_class, tenant_prefix};
use coretex_core::routing::Route;
use coretex_core::time::Timestamp;
use coretex_store::{Order, Range, prefix_end};

use crate::access::Caller;
use crate::engine::Engine;
use crate::types::{Cause, Diagnosis, PoolDiagnosis, WorkerDiagnosis, WorkerInfo};
use crate::{Result, keyspace};
use standing::Standing;

/// Queue positions are counted to here.
const POSITION_CAP: u64 = 1_000;
/// Holders and workers named at most.
const MAX_NAMED: usize = 100;
/// Codes that several places give.
const ALL_BUSY: &str = "all_workers_busy";
const NO_MATCH: &str = "no_worker_matches";
const POOL_PAUSED: &str = "pool_paused";

fn cause(
    code: impl Into<Cow<'static, str>>,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Cause {
    Cause {
        code: code.into(),
        message: message.into(),
        remedy: remedy.into(),
        until_time: None,
        holders: Vec::new(),
    }
}

impl Cause {
    fn until(mut self, time: Timestamp) -> Self {
        self.until_time = Some(time);
        self
    }
}

impl Engine {
    /// Says why a job is not running, or how it ended.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn diagnose_job(&self, caller: &Caller, id: &JobId) -> Result<Diagnosis> {
        let loaded = self.visible(caller, id).await?;
        let job = &*loaded.job;
        let pools = if job.state.is_terminal() || job.state.is_held() {
            Vec::new()
        } else {
            self.ask_pools(job)
        };
        let mut causes = self.causes(job, Some(caller));
        if job.is_ready() {
            self.add_limits(job, caller, &mut causes).await?;
        }
        let (position, capped) = if job.is_ready() {
            self.queue_position(job).await?
        } else {
            (0, false)
        };
        Ok(Diagnosis {
            state: job.state,
            causes,
            queue_position: u32::try_from(position.min(POSITION_CAP)).unwrap_or(0),
            queue_position_capped: capped,
            pools,
        })
    }

    /// The first cause of a waiting job; empty for one that does not wait.
    pub(crate) fn waiting_reason(&self, job: &Job) -> &'static str {
        match job.state {
            JobState::Pending | JobState::Scheduled | JobState::ApprovalRequired => {
                match self.causes(job, None).into_iter().next() {
                    Some(Cause {
                        code: Cow::Borrowed(code),
                        ..
                    }) => code,
                    Some(_) | None => "",
                }
            }
            JobState::Dispatched
            | JobState::Running
            | JobState::Succeeded
            | JobState::Failed
            | JobState::Cancelled
            | JobState::Denied
            | JobState::Timeout => "",
        }
    }

    /// What holds a job up, or how it ended. Other jobs are named as far as `caller` sees them.
    fn causes(&self, job: &Job, caller: Option<&Caller>) -> Vec<Cause> {
        match job.state {
            JobState::Pending => self.pending_causes(job, caller),
            JobState::Scheduled => vec![scheduled_cause(job)],
            JobState::ApprovalRequired => vec![approvals::waits(job)],
            JobState::Dispatched | JobState::Running => self.held_causes(job),
            JobState::Succeeded => vec![cause("succeeded", "the worker reported success", "")],
            JobState::Failed | JobState::Timeout => ended_causes(job),
            JobState::Cancelled => {
                let reason = job.cancel.as_ref().map(|cancel| cancel.reason.clone());
                let message = match reason.filter(|reason| !reason.is_empty()) {
                    Some(reason) => format!("cancelled: {reason}"),
                    None => "cancelled on request".to_owned(),
                };
                vec![cause(
                    "cancelled",
                    message,
                    "run it again if it is still wanted",
                )]
            }
            JobState::Denied => {
                if let Some(refused) = approvals::refused(job) {
                    return vec![refused];
                }
                let reason = job
                    .decision
                    .as_ref()
                    .map(|decision| decision.reason.clone());
                let message = format!("policy denies it: {}", reason.unwrap_or_default());
                vec![cause("denied", message, "change the job or the policy")]
            }
        }
    }

    fn pending_causes(&self, job: &Job, caller: Option<&Caller>) -> Vec<Cause> {
        if let Some(at) = job.judge_at {
            let why = job
                .events
                .last()
                .map(|event| event.reason.clone())
                .unwrap_or_default();
            let message = format!("the safety kernel gives no verdict: {why}");
            return vec![cause("undecided", message, "mend the safety kernel").until(at)];
        }
        if self.is_draining() {
            return vec![cause(
                "server_draining",
                "this server is stopping and hands out no more jobs",
                "wait for it to start again, or ask another server",
            )];
        }
        let topic = &job.spec.topic;
        let routing = self.routing();
        if let Route::Unmapped(why) = routing.route(topic, &job.tenant) {
            let remedy = "give the topic an entry in the topic table, or cancel the job";
            return vec![cause("no_pool_mapping", why.to_string(), remedy)];
        }
        let pauses = self.pauses();
        if let Some(pause) = pauses.everywhere(&job.tenant, topic) {
            return vec![paused_cause(pause)];
        }
        // Who asks for the whole diagnosis gets what the store says of limits.
        if caller.is_none()
            && let Some(cause) = self.limit_met_cause(job)
        {
            return vec![cause];
        }
        let elsewhere = self.serving_elsewhere(job);
        let state = self.dispatcher().lock();
        let needs = Needs::of(job).under(&routing, &pauses);
        // That others have workers is none of this tenant's business.
        let mut workers = state
            .serving(topic)
            .filter(|(_, session)| session.serves.contains(&job.tenant))
            .peekable();
        if workers.peek().is_none() && elsewhere.is_empty() {
            let remedy = format!("start one: coretexctl worker exec --topic {topic} -- CMD");
            return vec![cause(
                "no_workers",
                format!("no worker for {topic}"),
                remedy,
            )];
        }
        let mut standing = Standing::default();
        let mut busy = HashSet::new();
        for (id, session) in workers {
            let answer = check(&needs, &state.view(id, session));
            if answer.is_err_and(|mismatch| mismatch.is_busy()) {
                busy.insert(id);
            }
            standing.count(answer);
        }
        for worker in &elsewhere {
            standing.count(check(&needs, &worker.view(&routing)));
        }
        let Some((code, message)) = standing.obstacle() else {
            let free = standing.free;
            return vec![cause(
                "queued",
                format!("{free} worker(s) have a free slot; it is about to be handed out"),
                "nothing to do; it starts within a second unless jobs before it take the slots",
            )];
        };
        let remedy = match code {
            ALL_BUSY => "wait, start another worker, or give one more parallel slots",
            NO_MATCH => "start a worker that has what the job needs, or change the job",
            POOL_PAUSED => "resume the pool: coretexctl pool resume",
            _ => "undrain one, or start another",
        };
        let holders = caller.map_or_else(Vec::new, |caller| {
            state
                .slots
                .values()
                .filter(|slot| busy.contains(&slot.session) && slot.is_visible(caller))
                .take(MAX_NAMED)
                .map(|slot| slot.job_id.to_string())
                .collect()
        });
        vec![Cause {
            holders,
            ..cause(code, format!("for {topic}: {message}"), remedy)
        }]
    }

    fn held_causes(&self, job: &Job) -> Vec<Cause> {
        let mut causes = Vec::new();
        let Some(lease) = &job.lease else {
            return causes;
        };
        if let Some(cancel) = &job.cancel {
            let message = format!("worker {} was asked to stop", lease.worker_id);
            let remedy = "wait for the grace to end, or cancel with force";
            causes.push(cause("cancel_requested", message, remedy).until(cancel.terminal_at));
        }
        let connected = if lease.slot.replica == self.replica() {
            let state = self.dispatcher().lock();
            state.sessions.contains_key(&lease.slot.session)
        } else {
            !self.is_gone(&lease.slot.replica)
        };
        if !connected {
            causes.push(cause(
                "worker_disconnected",
                format!(
                    "worker {} lost its connection; its attempt waits for it",
                    lease.worker_id
                ),
                "bring the worker back, or wait until the adoption window is over",
            ));
        }
        if job.state == JobState::Dispatched {
            let message = format!(
                "attempt {} was handed to worker {}, which has not said yet that it started",
                lease.slot.attempt, lease.worker_id
            );
            causes.push(cause("dispatched", message, "").until(lease.timeout_at));
        }
        causes
    }

    /// Workers of other replicas that serve the job's topic and tenant.
    fn serving_elsewhere(&self, job: &Job) -> Vec<WorkerInfo> {
        let mut workers = self.workers_elsewhere();
        workers.retain(|worker| {
            worker.topics.contains(&job.spec.topic) && worker.tenants_served.contains(&job.tenant)
        });
        workers
    }

    /// What every pool and worker for the topic says.
    fn ask_pools(&self, job: &Job) -> Vec<PoolDiagnosis> {
        let elsewhere = self.serving_elsewhere(job);
        let (routing, pauses) = (self.routing(), self.pauses());
        let state = self.dispatcher().lock();
        let needs = Needs::of(job).under(&routing, &pauses);
        let mut pools: BTreeMap<PoolName, (Standing, Vec<WorkerDiagnosis>)> = BTreeMap::new();
        // Workers that serve other tenants are none of the caller's business.
        let here = state
            .serving(&job.spec.topic)
            .filter(|(_, session)| session.serves.contains(&job.tenant))
            .map(|(id, session)| state.view(id, session));
        let there = elsewhere.iter().map(|worker| worker.view(&routing));
        for view in here.chain(there) {
            let answer = check(&needs, &view);
            let (standing, workers) = pools.entry(view.pool.clone()).or_default();
            standing.count(answer);
            if workers.len() < MAX_NAMED {
                workers.push(WorkerDiagnosis {
                    worker_id: view.worker_id.clone(),
                    eligible: answer.is_ok(),
                    reason: answer.err().map_or("", |mismatch| mismatch.code()),
                    message: answer
                        .err()
                        .map(|mismatch| mismatch.to_string())
                        .unwrap_or_default(),
                });
            }
        }
        drop(state);
        pools
            .into_iter()
            .map(|(pool, (standing, workers))| {
                let (reason, message) = standing.obstacle().unwrap_or_default();
                PoolDiagnosis {
                    pool,
                    eligible: standing.free > 0,
                    reason,
                    message,
                    workers,
                }
            })
            .collect()
    }

    /// Position among the tenant's jobs in the queue, from 1, and whether it is at least that.
    async fn queue_position(&self, job: &Job) -> Result<(u64, bool)> {
        let own = keyspace::ready_key(job);
        let (now, rise_after) = (self.now(), self.timing().rise_after);
        let place = rank(own.priority, own.accepted, now, rise_after);
        let queue = keyspace::queue_prefix(&job.spec.topic);
        let tenant = [queue.as_slice(), &tenant_prefix(&job.tenant)].concat();
        let end = prefix_end(&tenant).map(Into::into);
        let mut start = tenant;
        let mut before = 0;
        let mut steps = 0;
        // Skips from group to group; each has its jobs in serving order.
        while before <= POSITION_CAP {
            if steps == POSITION_CAP {
                return Ok((before + 1, true));
            }
            steps += 1;
            let range = Range {
                index: keyspace::READY,
                start: start.into(),
                end: end.clone(),
            };
            let read = self
                .store()
                .range(self.shard(), &[range], 1, Order::Ascending)
                .await?;
            let Some(first) = read.value.into_iter().flatten().next() else {
                break;
            };
            let Some((_, first)) = keyspace::parse_ready(&first) else {
                break;
            };
            let until = goes_before_until(first.priority, place, now, rise_after);
            let upto = if first.priority == own.priority {
                // Among equals, the name decides.
                ReadyKey {
                    shape: first.shape,
                    ..own.clone()
                }
            } else {
                ReadyKey {
                    accepted: until,
                    job_id: JobId::from_trusted(""),
                    ..first.clone()
                }
            };
            let next = after_class(&first.tenant, first.shape, first.priority);
            let range = Range {
                index: keyspace::READY,
                start: keyspace::ready(&job.spec.topic, &first),
                end: Some(keyspace::ready(&job.spec.topic, &upto)),
            };
            let cap = POSITION_CAP + 1 - before;
            before += self.store().count(self.shard(), &range, cap).await?.value;
            start = [queue.as_slice(), &next].concat();
        }
        Ok((before + 1, before >= POSITION_CAP))
    }
}

fn paused_cause(pause: &Pause) -> Cause {
    let mut message = format!(
        "{} paused {} at {}",
        pause.principal_id, pause.scope, pause.time
    );
    if !pause.reason.is_empty() {
        message = format!("{message}: {}", pause.reason);
    }
    let remedy = "resume it: coretexctl pool resume";
    cause(pause.scope.code(), message, remedy)
}

fn scheduled_cause(job: &Job) -> Cause {
    let at = job.eligible_time;
    match job.scheduled_for {
        Some(ScheduledFor::Backoff) => {
            let code = job.error.as_ref().map_or("", |error| error.code.as_str());
            let message = format!(
                "attempt {} failed ({code}); the next of {} starts after a pause",
                job.attempt, job.spec.retry.max_attempts
            );
            cause("backoff", message, "wait, or cancel it").until(at)
        }
        Some(ScheduledFor::Throttle) => {
            let reason = job
                .decision
                .as_ref()
                .map(|decision| decision.reason.clone());
            let message = format!("policy throttles it: {}", reason.unwrap_or_default());
            cause("throttled", message, "wait, or change the policy").until(at)
        }
        Some(ScheduledFor::NotBefore) | None => cause(
            "not_before",
            "its start time has not come",
            "wait, or cancel it",
        )
        .until(at),
    }
}

/// Why a FAILED or TIMEOUT job ended: the error that ended it, and why it was not tried again.
fn ended_causes(job: &Job) -> Vec<Cause> {
    let Some(error) = &job.error else {
        return vec![cause("failed", "the job failed", "")];
    };
    let max = job.spec.retry.max_attempts.max(1);
    let remedy = match (error.source, error.code.as_str()) {
        (ErrorSource::Platform, "schedule_timeout") => "start workers, or allow more time to start",
        (ErrorSource::Platform, "no_pool_mapping") => {
            "give the topic an entry in the topic table, or use another topic"
        }
        (ErrorSource::Platform, "deadline_exceeded") => "allow a later deadline",
        (ErrorSource::Platform, "timeout") => "allow a longer timeout, or make the work shorter",
        (ErrorSource::Platform, "worker_lost") => {
            "find out why workers disappear; then run it again"
        }
        (ErrorSource::Platform | ErrorSource::Worker, _) => {
            "mend the worker's error; then run it again"
        }
    };
    let message = format!(
        "{}: {} (attempt {} of {max})",
        error.code, error.message, job.attempt
    );
    let mut causes = vec![cause(error.code.clone(), message, remedy)];
    if max > 1 && job.failures >= max {
        let message = format!("{} of {max} attempts failed", job.failures);
        let remedy = "allow more attempts if it is worth trying again";
        causes.push(cause("max_attempts_exceeded", message, remedy));
    }
    causes
}
