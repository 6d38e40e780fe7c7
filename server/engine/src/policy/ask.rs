//! Questions to the policy: what it says about a subject, why, what it would say with other bundles,
//! and which recorded decisions would have been others.

use std::collections::BTreeMap;
use std::sync::Arc;

use coretex_core::config::Effective;
use coretex_core::id::{JobId, TenantId};
use coretex_core::job::{Job, JobSpec};
use coretex_core::payload::Payload;
use coretex_core::policy::explain::{CriterionExplanation, Explanation, RuleResult};
use coretex_core::policy::{Bundle, History, JobDecision, Snapshot};
use coretex_core::time::Timestamp;
use coretex_store::{Order, Range};
use tokio::sync::mpsc;

use super::kernel::{judge_by, judgement, subject_of};
use super::{MAX_BUNDLES, PutBundle, parse};
use crate::access::Caller;
use crate::engine::Engine;
use crate::kernel::{Facts, Undecided};
use crate::{Error, JobFilter, Result, keyspace};

/// Jobs of a replay that are read at once.
const BATCH: usize = 100;
/// How often a replay tells how far it is, in jobs.
const TELL_EVERY: u64 = 1_000;
/// Messages of a replay that wait for their reader.
const AHEAD: usize = 16;
/// The snapshot of a question that is not about one in force.
const CANDIDATE: &str = "candidate";

/// What is judged.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Whose job; `None` = the caller's tenant.
    pub tenant: Option<TenantId>,
    /// Who asks; empty = the caller.
    pub principal_id: String,
    /// What is asked for.
    pub spec: JobSpec,
    /// With this input.
    pub input: Option<Payload>,
}

/// A decision and how it came about.
#[derive(Clone, Debug)]
pub struct Explained {
    /// The decision.
    pub decision: JobDecision,
    /// How it came about.
    pub explanation: Explanation,
    /// How many rules of a bundle the caller is not to learn of.
    pub hidden: BTreeMap<String, u32>,
}

impl Explained {
    /// Takes out rules that did not match because they are for other tenants.
    fn hide_other_tenants(&mut self) {
        for bundle in &mut self.explanation.bundles {
            let before = bundle.rules.len();
            let elsewhere = |criterion: &CriterionExplanation| criterion.name == "tenants";
            bundle.rules.retain(|rule| {
                rule.result == RuleResult::Matched
                    || !rule.criterion.as_ref().is_some_and(elsewhere)
            });
            let hidden = u32::try_from(before - bundle.rules.len()).unwrap_or(u32::MAX);
            self.hidden.insert(bundle.bundle_id.clone(), hidden);
        }
    }
}

/// Decisions under the policy in force and under another one.
#[derive(Clone, Debug)]
pub struct Simulated {
    /// In force.
    pub current: JobDecision,
    /// With the candidates.
    pub candidate: JobDecision,
}

impl Simulated {
    /// Whether they make something else of the job.
    #[must_use]
    pub fn differs(&self) -> bool {
        differ(&self.current, &self.candidate)
    }
}

fn differ(one: &JobDecision, other: &JobDecision) -> bool {
    (one.decision, &one.rule_id, &one.constraints)
        != (other.decision, &other.rule_id, &other.constraints)
}

/// How far a replay is.
#[derive(Clone, Debug, Default)]
pub struct Replayed {
    /// The job, its recorded decision and the other one.
    pub change: Option<(Arc<Job>, JobDecision, JobDecision)>,
    /// Jobs judged.
    pub judged: u64,
    /// Of those, jobs that would have been decided differently.
    pub changed: u64,
    /// Jobs that could not be judged.
    pub undecided: u64,
    /// Whether this is the end.
    pub done: bool,
}

impl Engine {
    /// Says what policy would decide.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `PolicyUnavailable`.
    pub async fn evaluate_policy(&self, caller: &Caller, subject: Subject) -> Result<JobDecision> {
        let subject = self.completed(caller, subject).await?;
        let facts = subject.facts(self.now());
        let judged = self
            .ask(facts, |facts, history| self.kernel().judge(facts, history))
            .await?;
        Ok(judged.decision)
    }

    /// Says what policy would decide, and how it comes to that. Who has no system rights does not
    /// learn of rules that are for other tenants.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `PolicyUnavailable`.
    pub async fn explain_policy(&self, caller: &Caller, subject: Subject) -> Result<Explained> {
        let subject = self.completed(caller, subject).await?;
        let snapshot = self.policy_in_force()?;
        let facts = subject.facts(self.now());
        let explanation = self
            .ask(facts, |facts, history| {
                snapshot.explain(&subject_of(&facts), history)
            })
            .await?;
        let outcome = explanation.outcome.clone();
        let mut explained = Explained {
            decision: judgement(&snapshot, outcome, &facts).decision,
            explanation,
            hidden: BTreeMap::new(),
        };
        if !caller.system {
            explained.hide_other_tenants();
        }
        Ok(explained)
    }

    /// Says what policy would decide with these bundles in the place of those with the same ids.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `Invalid`, `PolicyUnavailable`, `Unavailable`.
    pub async fn simulate_policy(
        &self,
        caller: &Caller,
        subject: Subject,
        candidates: &[PutBundle],
    ) -> Result<Simulated> {
        self.system_only(caller)?;
        let subject = self.completed(caller, subject).await?;
        let (current, candidate) = (self.policy_in_force()?, self.candidate(candidates).await?);
        let facts = subject.facts(self.now());
        let before = self
            .ask(facts, |facts, history| judge_by(&current, facts, history))
            .await?;
        let after = self
            .ask(facts, |facts, history| judge_by(&candidate, facts, history))
            .await?;
        Ok(Simulated {
            current: before.decision,
            candidate: after.decision,
        })
    }

    /// Judges jobs of the caller's tenant again, as they were when they were accepted, as if these
    /// bundles had been in force; newest first. Dropping the receiver stops it.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `TooManyStreams`, `Invalid`, `Unavailable`.
    pub async fn replay_policy(
        &self,
        caller: &Caller,
        candidates: &[PutBundle],
        filter: JobFilter,
    ) -> Result<mpsc::Receiver<Result<Replayed>>> {
        self.system_only(caller)?;
        let candidate = self.candidate(candidates).await?;
        let permit = Arc::clone(self.bulk_operations()).try_acquire_owned();
        let permit = permit.map_err(|_| Error::TooManyStreams {
            limit: crate::bulk::MAX_OPERATIONS,
        })?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (engine, tenant) = (self.clone(), caller.tenant.clone());
        self.spawn_work(async move {
            let _permit = permit;
            let replay = engine.replay_jobs(&tenant, &candidate, &filter, &sender);
            let ended = tokio::select! {
                biased;
                () = engine.stopping().cancelled() => Err(Error::Draining),
                () = sender.closed() => return,
                ended = replay => ended,
            };
            if let Err(error) = ended {
                let _ = sender.send(Err(error)).await;
            }
        });
        Ok(receiver)
    }

    async fn replay_jobs(
        &self,
        tenant: &TenantId,
        candidate: &Snapshot,
        filter: &JobFilter,
        sender: &mpsc::Sender<Result<Replayed>>,
    ) -> Result<()> {
        let index = keyspace::all(tenant);
        let bound = |time: Option<Timestamp>| time.map(|time| time.to_be_bytes().to_vec().into());
        let start = bound(filter.created_after).unwrap_or_default();
        let mut end = bound(filter.created_before);
        let mut told = Replayed::default();
        loop {
            let range = Range {
                index: index.clone(),
                start: bytes::Bytes::clone(&start),
                end: end.clone(),
            };
            let read = self
                .store()
                .range(self.shard(), &[range], BATCH, Order::Descending)
                .await?;
            let members = read.value.into_iter().next().unwrap_or_default();
            let names: Vec<(TenantId, JobId)> = members
                .iter()
                .filter_map(|member| keyspace::parse_by_time(member))
                .map(|(_, id)| (tenant.clone(), id))
                .collect();
            for loaded in self.load_readable(&names).await?.into_iter().flatten() {
                let job = loaded.job;
                if !filter.matches(&job) {
                    continue;
                }
                self.replay_one(candidate, &job, &mut told).await?;
                let news = told.change.is_some() || told.judged.is_multiple_of(TELL_EVERY);
                if news && sender.send(Ok(told.clone())).await.is_err() {
                    return Ok(());
                }
                told.change = None;
            }
            match members.last() {
                Some(last) if members.len() == BATCH => end = Some(last.clone()),
                Some(_) | None => break,
            }
        }
        told.done = true;
        let _ = sender.send(Ok(told)).await;
        Ok(())
    }

    /// Judges one job by other bundles, with the facts of its acceptance.
    async fn replay_one(
        &self,
        candidate: &Snapshot,
        job: &Arc<Job>,
        told: &mut Replayed,
    ) -> Result<()> {
        let recorded = job.decisions.iter().next().or(job.decision.as_ref());
        let Some(recorded) = recorded.filter(|first| first.attempt == 0) else {
            told.undecided += 1;
            return Ok(());
        };
        let whole = match self.join_payloads(job).await {
            Ok(whole) => whole,
            // Its retention was over meanwhile.
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        let facts = crate::kernel::facts_of(&whole, recorded.time);
        // What counters said then is not kept.
        match judge_by(candidate, facts, &History::default()) {
            Ok(judged) => {
                told.judged += 1;
                if differ(&as_judged(recorded), &judged.decision) {
                    told.changed += 1;
                    told.change = Some((Arc::clone(job), recorded.clone(), judged.decision));
                }
            }
            Err(_) => told.undecided += 1,
        }
        Ok(())
    }

    /// The snapshot in force with these bundles in the place of those with the same ids.
    async fn candidate(&self, candidates: &[PutBundle]) -> Result<Snapshot> {
        if candidates.is_empty() {
            return Err(Error::invalid("candidate_bundles", "must not be empty"));
        }
        if candidates.len() > MAX_BUNDLES {
            let text = format!("must be at most {MAX_BUNDLES}");
            return Err(Error::invalid("candidate_bundles", text));
        }
        let record = match self.head().await? {
            Some((head, _)) => self.snapshot_record(&head.snapshot_id).await?,
            None => None,
        };
        let mut bundles: BTreeMap<String, Arc<Bundle>> = match record {
            Some(record) => self.parsed(&record).await?,
            None => BTreeMap::new(),
        };
        for (place, candidate) in candidates.iter().enumerate() {
            let field = format!("candidate_bundles[{place}].content");
            let parsed = parse(&field, &candidate.content)?;
            if candidate.enabled {
                bundles.insert(candidate.id.clone(), Arc::new(parsed));
            } else {
                bundles.remove(&candidate.id);
            }
        }
        Snapshot::new(CANDIDATE.to_owned(), bundles.into_iter().collect())
            .map_err(|problem| Error::invalid("candidate_bundles", problem.to_string()))
    }

    fn policy_in_force(&self) -> Result<Arc<Snapshot>> {
        self.kernel()
            .policy()
            .ok_or_else(|| Error::PolicyUnavailable {
                reason: "the policy has not been loaded".to_owned(),
            })
    }

    /// Asks one question, and reads what its answer needs.
    async fn ask<T>(
        &self,
        facts: Facts<'_>,
        question: impl Fn(Facts<'_>, &History) -> std::result::Result<T, Undecided> + Send + Sync,
    ) -> Result<T> {
        let mut history = History::default();
        loop {
            match question(facts, &history) {
                Ok(answer) => return Ok(answer),
                Err(Undecided::NeedsHistory(counters)) if !counters.is_empty() => {
                    self.read_history(facts.tenant, facts.now, counters, &mut history)
                        .await?;
                }
                Err(undecided) => {
                    let reason = undecided.to_string();
                    return Err(Error::PolicyUnavailable { reason });
                }
            }
        }
    }

    /// The subject as a job of it would be judged.
    async fn completed(&self, caller: &Caller, subject: Subject) -> Result<Completed> {
        let tenant = subject.tenant.unwrap_or_else(|| caller.tenant.clone());
        if tenant != caller.tenant && !caller.system {
            return Err(Error::TenantNotAllowed);
        }
        let mut spec = subject.spec;
        let config = self.config_of(&tenant, &spec).await?;
        self.fill_in(
            &mut spec,
            &tenant,
            coretex_core::routing::LeftOpen::default(),
            &config,
        );
        let principal_id = if subject.principal_id.is_empty() {
            caller.principal_id.clone()
        } else {
            subject.principal_id
        };
        Ok(Completed {
            tenant,
            principal_id,
            spec,
            input: subject.input,
            config,
        })
    }
}

/// A subject with everything that the server adds.
struct Completed {
    tenant: TenantId,
    principal_id: String,
    spec: JobSpec,
    input: Option<Payload>,
    config: Arc<Effective>,
}

impl Completed {
    fn facts(&self, now: Timestamp) -> Facts<'_> {
        Facts {
            tenant: &self.tenant,
            principal_id: &self.principal_id,
            spec: &self.spec,
            input: self.input.as_ref(),
            config: Some(&self.config),
            now,
        }
    }
}

/// A recorded decision as the kernel made it: a permit that was there makes an allowance of what a
/// rule throttles.
fn as_judged(recorded: &JobDecision) -> JobDecision {
    let mut judged = recorded.clone();
    if judged.allows() && !judged.taken.is_empty() {
        judged.decision = coretex_core::policy::Decision::Throttle;
    }
    judged
}
