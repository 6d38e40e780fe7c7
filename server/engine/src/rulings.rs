//! What a judgement makes of a job: the verdict that its record takes, and what the commit that
//! writes it has to hold. Judging again what is in the store already is here, too.
//!
//! Jobs that wait for the same rate stand in one index in the order in which they were accepted.
//! Each has a time at which its turn should have come; whoever's time comes first serves the index
//! from its head, so nobody overtakes and nobody is asked in vain.

use std::sync::Arc;
use std::time::Duration;

use coretex_core::config::Effective;
use coretex_core::id::{JobId, TenantId};
use coretex_core::job::clock::{Due, due};
use coretex_core::job::transition::{Trigger, Verdict, apply};
use coretex_core::job::{Job, JobState, ScheduledFor};
use coretex_core::policy::{CounterRef, Decision, History, RateTaken};
use coretex_core::time::Timestamp;
use coretex_store::{CommitError, Order, Precondition, Range, Rate};

use crate::commits::{Extras, Loaded};
use crate::engine::Engine;
use crate::kernel::{Facts, Judgement, Undecided, facts_of};
use crate::limits::{self, Met};
use crate::{Error, Result, keyspace, telemetry};

/// How often one judgement may ask for something to be read.
const MAX_QUESTIONS: usize = 8;
/// The most that a counter of the past counts to.
pub(crate) const MAX_COUNTED: u64 = 10_000;
/// How often a change is tried again after losing against another one.
const MAX_TRIES: u32 = 16;
/// Jobs that wait for a rate and are served in one go.
const SERVED: usize = 64;

/// A rate that has nothing left, and when a job may ask again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) bucket: String,
    pub(crate) at: Timestamp,
}

/// What a judgement makes of a job.
#[derive(Clone, Debug)]
pub(crate) struct Ruling {
    pub(crate) verdict: Verdict,
    /// The snapshot that must be in force; `None` without a decision.
    pub(crate) snapshot: Option<String>,
    /// Rates from which the commit takes a permit.
    pub(crate) rates: Vec<RateTaken>,
    /// What is counted if the job is new and not denied.
    pub(crate) counts: Vec<CounterRef>,
}

impl Ruling {
    /// `approval_id` names the approval that is opened if one is needed.
    fn of(
        judgement: Judgement,
        job: Option<&Job>,
        wait: Option<&Turn>,
        approval_id: impl FnOnce() -> String,
    ) -> Self {
        let Judgement {
            mut decision,
            mut rates,
            counts,
            terms,
        } = judgement;
        decision.terms = terms;
        if let Some(grant) = job.and_then(|job| job.grant(&decision)) {
            // Humans have said yes to this: what is left of the decision are its limits.
            decision.approval_id = grant.id.to_string();
            decision.decision = Decision::Throttle;
            decision.terms = None;
        } else if decision.decision == Decision::RequireApproval {
            decision.approval_id = approval_id();
        }
        let taken = job
            .and_then(|job| job.decision.as_ref())
            .map(|before| before.taken.clone())
            .unwrap_or_default();
        rates.retain(|rate| !taken.contains(&rate.bucket));
        // A rate of a policy that is no longer in force holds nobody up.
        let wait = wait.filter(|turn| rates.iter().any(|rate| rate.bucket == turn.bucket));
        let limited = decision.decision == Decision::Throttle && decision.retry_at.is_none();
        match wait.filter(|_| limited) {
            Some(turn) => {
                decision.retry_at = Some(turn.at);
                decision.bucket.clone_from(&turn.bucket);
                decision.taken = taken;
                rates.clear();
            }
            None if limited => {
                decision.decision = match decision.constraints {
                    Some(_) => Decision::AllowWithConstraints,
                    None => Decision::Allow,
                };
                decision.taken = taken;
                let new = rates.iter().map(|rate| rate.bucket.clone());
                decision.taken.extend(new);
            }
            None => {
                decision.taken = taken;
                rates.clear();
            }
        }
        let counts = match decision.decision {
            Decision::Deny => Vec::new(),
            _ => counts,
        };
        Self {
            snapshot: Some(decision.policy_snapshot.clone()),
            verdict: Verdict::Decided(Box::new(decision)),
            rates,
            counts,
        }
    }

    fn undecided(reason: String, now: Timestamp, failures: u32) -> Self {
        Self {
            verdict: Verdict::Unavailable {
                again_at: now + judge_backoff(failures),
                reason,
            },
            snapshot: None,
            rates: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// What must hold for its commit. Nobody overtakes those that wait for a rate; `in_line` is the
    /// bucket at which the job itself waits.
    pub(crate) fn preconditions(&self, tenant: &TenantId, in_line: &str) -> Vec<Precondition> {
        let mut all = Vec::with_capacity(2 * self.rates.len());
        for rate in &self.rates {
            all.push(Precondition::Bucket {
                key: keyspace::policy_rate(tenant, &rate.bucket),
                rate: Rate {
                    permits: rate.rate.permits,
                    per: rate.rate.per,
                    burst: rate.rate.burst,
                },
                cost: 1,
            });
        }
        for rate in self.rates.iter().filter(|rate| rate.bucket != in_line) {
            all.push(Precondition::SizeBelow {
                index: keyspace::throttled(tenant, &rate.bucket),
                limit: 1,
                name_holders: 0,
            });
        }
        all
    }

    pub(crate) fn trigger(self) -> Trigger {
        match self.verdict {
            Verdict::Decided(decision) => Trigger::Judged { decision },
            Verdict::Unavailable { again_at, reason } => {
                Trigger::JudgeUnavailable { again_at, reason }
            }
        }
    }
}

/// One second, doubled for each failure, at most thirty.
fn judge_backoff(failures: u32) -> Duration {
    Duration::from_secs(1_u64.checked_shl(failures).unwrap_or(u64::MAX).min(30))
}

/// The bucket at which a job waits for its turn; empty = it does not.
pub(crate) fn in_line(job: &Job) -> &str {
    let waits = job.scheduled_for == Some(ScheduledFor::Throttle);
    match &job.decision {
        Some(decision) if waits && decision.decision == Decision::Throttle => &decision.bucket,
        Some(_) | None => "",
    }
}

/// How long one permit takes.
fn interval(rate: coretex_core::routing::Rate) -> Duration {
    rate.per / rate.permits.max(1)
}

impl Engine {
    /// Asks the kernel, and reads what it needs to answer. Without an answer it says why.
    async fn judge(
        &self,
        facts: Facts<'_>,
        job_id: &JobId,
    ) -> std::result::Result<Judgement, String> {
        let config = self.config_facts(facts).await;
        let config = config.map_err(|error| format!("the configuration was not read: {error}"))?;
        let mut history = History::default();
        let mut whole = None;
        for _ in 0..MAX_QUESTIONS {
            let facts = Facts {
                input: whole.as_ref().or(facts.input),
                config: config.as_deref(),
                ..facts
            };
            match self.kernel().judge(facts, &history) {
                Ok(judgement) => return Ok(judgement),
                Err(Undecided::Trouble(reason)) => return Err(reason),
                Err(Undecided::NeedsInput) => {
                    let apart = facts.input.cloned();
                    let key = || keyspace::input(facts.tenant, job_id);
                    let read = self.join_payload(apart, key).await;
                    whole = read.map_err(|error| format!("the input was not read: {error}"))?;
                }
                Err(Undecided::NeedsHistory(counters)) => {
                    self.read_history(facts.tenant, facts.now, counters, &mut history)
                        .await
                        .map_err(|error| format!("counters were not read: {error}"))?;
                }
            }
        }
        Err("the policy asks for the same facts again and again".to_owned())
    }

    /// The configuration that a kernel has to know of.
    pub(crate) async fn config_facts(&self, facts: Facts<'_>) -> Result<Option<Arc<Effective>>> {
        if !self.kernel().follows_store() {
            return Ok(None);
        }
        self.config_of(facts.tenant, facts.spec).await.map(Some)
    }

    /// Whether a decision lets a job run under what is in force now.
    pub(crate) async fn is_current(&self, job: &Job, snapshot: &str) -> bool {
        let Some(decision) = job.decision.as_ref().filter(|decision| decision.allows()) else {
            return false;
        };
        if decision.policy_snapshot != snapshot {
            return false;
        }
        match self.config_facts(facts_of(job, decision.time)).await {
            Ok(config) => {
                config.as_ref().map_or("", |config| config.hash.as_str()) == decision.config_hash
            }
            // To be asked again, and to wait if that fails, too.
            Err(_) => false,
        }
    }

    /// Reads what counters of the past say at `now`.
    pub(crate) async fn read_history(
        &self,
        tenant: &TenantId,
        now: Timestamp,
        counters: Vec<CounterRef>,
        history: &mut History,
    ) -> Result<()> {
        for counter in counters {
            let range = keyspace::past_since(tenant, &counter, now);
            let read = self
                .store()
                .count(self.shard(), &range, MAX_COUNTED)
                .await?;
            history.insert(&counter, read.value);
        }
        Ok(())
    }

    /// Rules on a new job. With `wait` it waits for its turn at a rate.
    pub(crate) async fn rule_new(
        &self,
        facts: Facts<'_>,
        job_id: &JobId,
        wait: Option<&Turn>,
    ) -> Ruling {
        let approval_id = || self.ids().sortable(facts.now);
        match self.judge(facts, job_id).await {
            Ok(judgement) => Ruling::of(judgement, None, wait, approval_id),
            Err(reason) => Ruling::undecided(reason, facts.now, 0),
        }
    }

    /// Rules anew on a job that is in the store.
    pub(crate) async fn rule_again(
        &self,
        job: &Job,
        now: Timestamp,
        wait: Option<&Turn>,
    ) -> Ruling {
        let approval_id = || self.ids().sortable(now);
        match self.judge(facts_of(job, now), &job.id).await {
            Ok(judgement) => Ruling::of(judgement, Some(job), wait, approval_id),
            Err(reason) => Ruling::undecided(reason, now, job.judge_failures),
        }
    }

    /// When a job may ask again at a rate of `rates` that it has met: a new one behind all who wait
    /// for it, `waiting` from its own place if it stands among them.
    pub(crate) async fn turn(
        &self,
        tenant: &TenantId,
        rates: &[RateTaken],
        bucket: &str,
        at: Option<Timestamp>,
        waiting: Option<&Job>,
    ) -> Result<Turn> {
        let rate = rates.iter().find(|rate| rate.bucket == bucket);
        let each = rate.map_or(Duration::ZERO, |rate| interval(rate.rate));
        let waiting = waiting.filter(|job| in_line(job) == bucket);
        let ahead = self.ahead(tenant, bucket, waiting).await?;
        let at = at.unwrap_or_else(|| self.now()) + each.saturating_mul(ahead);
        let bucket = bucket.to_owned();
        Ok(Turn { bucket, at })
    }

    /// How many wait for a rate: all, or those before a job of the line.
    async fn ahead(&self, tenant: &TenantId, bucket: &str, job: Option<&Job>) -> Result<u32> {
        let line = Range {
            end: job.map(|job| keyspace::by_time(job.create_time, &job.id)),
            ..Range::all(keyspace::throttled(tenant, bucket))
        };
        let ahead = self.store().count(self.shard(), &line, u64::MAX).await?;
        Ok(u32::try_from(ahead.value).unwrap_or(u32::MAX))
    }

    /// Judges a job of the store again and writes what follows, until it is written or `wanted` says
    /// that there is nothing to judge any more.
    pub(crate) async fn judge_again(
        &self,
        start: Loaded,
        wanted: impl Fn(&Job, Timestamp) -> bool + Send + Sync,
    ) -> Result<Loaded> {
        let mut before = start;
        let mut wait: Option<Turn> = None;
        for attempt in 0..MAX_TRIES {
            let now = self.now();
            if !wanted(&before.job, now) {
                return Ok(before);
            }
            let ruling = self.rule_again(&before.job, now, wait.as_ref()).await;
            if let Verdict::Unavailable { reason, .. } = &ruling.verdict
                && before.job.state == JobState::ApprovalRequired
            {
                // It goes on waiting for humans.
                let reason = reason.clone();
                return Err(Error::Unavailable { reason });
            }
            let tenant = before.job.tenant.clone();
            let extras = Extras {
                snapshot: ruling.snapshot.clone(),
                limits: ruling.preconditions(&tenant, in_line(&before.job)),
                ..Extras::default()
            };
            let rates = ruling.rates.clone();
            let transition = match apply(&before.job, ruling.trigger(), now) {
                Ok(transition) => transition,
                Err(refusal) => {
                    tracing::error!(%refusal, job_id = %before.job.id, "verdict not applied");
                    telemetry::bug("verdict");
                    return Ok(before);
                }
            };
            match self.write(Some(&before), transition.job, extras).await {
                Ok(after) => {
                    self.deliver(&after.job, transition.effects);
                    return Ok(after);
                }
                Err(CommitError::Conflict { .. }) => {
                    self.pause(attempt).await;
                    before = self.load(&tenant, &before.job.id).await?;
                }
                Err(CommitError::PointerMoved { .. }) => self.policy_moved(attempt).await,
                Err(CommitError::LimitReached(limit)) => match limits::met(&tenant, &limit) {
                    Met::Rate(bucket, at) => {
                        let job = Some(&*before.job);
                        wait = Some(self.turn(&tenant, &rates, &bucket, at, job).await?);
                    }
                    Met::Waiting | Met::SubmitRate(_) | Met::Tenant | Met::Key(_) => {
                        return Err(Error::Contention);
                    }
                },
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    /// Gives those who wait for the rate of `job` their turns, from the first in the line on, and
    /// `job` another time if its turn has not come.
    pub(crate) async fn serve_rate(&self, job: Loaded) -> Result<()> {
        let tenant = job.job.tenant.clone();
        let bucket = in_line(&job.job).to_owned();
        let line = Range::all(keyspace::throttled(&tenant, &bucket));
        let read = self
            .store()
            .range(self.shard(), &[line], SERVED, Order::Ascending)
            .await?;
        let waits = |job: &Job, _: Timestamp| in_line(job) == bucket;
        let first = read.value.into_iter().flatten();
        for (_, id) in first.filter_map(|member| keyspace::parse_by_time(&member)) {
            let loaded = match self.load(&tenant, &id).await {
                Ok(loaded) => loaded,
                Err(Error::NotFound { .. }) => continue,
                Err(error) => return Err(error),
            };
            let after = self.judge_again(loaded, waits).await?;
            let done = id == job.job.id;
            if done {
                return Ok(());
            }
            if in_line(&after.job) == bucket {
                break;
            }
        }
        // Its own turn has not come: it learns when.
        let due =
            |job: &Job, now: Timestamp| waits(job, now) && due(job, now) == Some(Due::Eligible);
        let own = self.load(&tenant, &job.job.id).await?;
        self.judge_in_line(own, due).await
    }

    /// Gives a job of a line its time anew, without a try to take from the rate.
    async fn judge_in_line(
        &self,
        mut before: Loaded,
        wanted: impl Fn(&Job, Timestamp) -> bool + Send + Sync,
    ) -> Result<()> {
        for attempt in 0..MAX_TRIES {
            let now = self.now();
            if !wanted(&before.job, now) {
                return Ok(());
            }
            let bucket = in_line(&before.job).to_owned();
            let ruling = self.rule_again(&before.job, now, None).await;
            let Some(rate) = ruling.rates.iter().find(|rate| rate.bucket == bucket) else {
                // Another policy, which asks for something else.
                self.judge_again(before, wanted).await?;
                return Ok(());
            };
            let job = &*before.job;
            let ahead = self.ahead(&job.tenant, &bucket, Some(job)).await?.max(1);
            let at = now + interval(rate.rate).saturating_mul(ahead);
            let turn = Turn { bucket, at };
            let ruling = self.rule_again(&before.job, now, Some(&turn)).await;
            let extras = Extras {
                snapshot: ruling.snapshot.clone(),
                ..Extras::default()
            };
            let Ok(transition) = apply(&before.job, ruling.trigger(), now) else {
                return Ok(());
            };
            match self.write(Some(&before), transition.job, extras).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { .. }) => {
                    self.pause(attempt).await;
                    before = self.load(&before.job.tenant, &before.job.id).await?;
                }
                Err(CommitError::PointerMoved { .. }) => self.policy_moved(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }
}
