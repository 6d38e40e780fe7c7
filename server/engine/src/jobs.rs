//! Jobs: submit, get, wait, cancel.
//!
//! Lists are in [`list`], streams in [`watch`] and [`output`], reasons in [`diagnose`], reruns in
//! [`rerun`], many at once in [`bulk`].

pub(crate) mod bulk;
pub(crate) mod diagnose;
pub(crate) mod list;
pub(crate) mod output;
mod rerun;
pub(crate) mod watch;

use std::sync::Arc;
use std::time::Duration;

use coretex_core::config::Effective;
use coretex_core::id::{JobId, TenantId};
use coretex_core::job::JobSpec;
use coretex_core::job::transition::{NewJob, Trigger, accept, apply};
use coretex_core::payload::Payload;
use coretex_core::routing::Route;
use coretex_store::{CommitError, Pressure, codec};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::access::Caller;
use crate::commits::{Extras, IdempotencyRecord, Loaded};
use crate::configs::submit::check_limits;
use crate::dlq::settled;
use crate::engine::{Engine, MAX_CANCEL_GRACE};
use crate::kernel::Facts;
use crate::keyspace::HeldEntry;
use crate::limits::{self, Met};
use crate::rulings::{Ruling, Turn};
use crate::types::{JobAnswer, SubmitJob, Submitted};
use crate::{Error, Result, keyspace, telemetry};

/// The most labels of a job.
pub const MAX_LABELS: usize = 64;
/// An idempotency key lives as long as its job, and at least this long.
pub(crate) const IDEMPOTENCY_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// A submit, worked out.
pub(crate) struct Intent {
    pub(crate) id: JobId,
    /// The caller chose the id.
    pub(crate) named: bool,
    pub(crate) spec: Arc<JobSpec>,
    pub(crate) input: Option<Payload>,
    pub(crate) key: String,
    pub(crate) fingerprint: Vec<u8>,
    pub(crate) trace_id: String,
    pub(crate) rerun_of: Option<JobId>,
    /// The job whose dead letter this retries, to be taken off in the same commit.
    pub(crate) settles: Option<Loaded>,
    /// The configuration in force for it.
    pub(crate) config: Arc<Effective>,
}

impl Engine {
    /// Accepts a job: durable before it answers. A denied or waiting job is an accepted one.
    ///
    /// # Errors
    /// `AlreadyExists`, `IdempotencyKeyReused`, `TeamNotAllowed`, `TooManyWaitingJobs`, `Invalid`
    /// for limits of the configuration, `StoreFull`, `Draining`, `Unavailable`, `OutcomeUnknown`.
    pub async fn submit_job(&self, caller: &Caller, request: SubmitJob) -> Result<Submitted> {
        self.check_submit(caller, &request.spec)?;
        let now = self.now();
        let fingerprint = fingerprint(
            request.job_id.as_ref(),
            &request.spec,
            request.input.as_ref(),
        )?;
        let named = request.job_id.is_some();
        let id = request
            .job_id
            .unwrap_or_else(|| JobId::from_trusted(&self.ids().sortable(now)));
        let trace_id = self.trace_id(request.trace_id);
        let mut spec = request.spec;
        // After the fingerprint: the same request is the same under other tables and documents.
        let config = self.config_of(&caller.tenant, &spec).await?;
        self.fill_in(&mut spec, &caller.tenant, request.left_open, &config);
        check_limits(&spec, request.input.as_ref(), &config)?;
        let intent = Intent {
            id,
            named,
            spec: Arc::new(spec),
            input: request.input,
            key: request.idempotency_key,
            fingerprint,
            trace_id,
            rerun_of: None,
            settles: None,
            config,
        };
        let Some(wait) = request.wait else {
            return self.accept(caller, intent).await;
        };
        self.accept_and_wait(caller, intent, wait).await
    }

    async fn accept_and_wait(
        &self,
        caller: &Caller,
        intent: Intent,
        wait: Duration,
    ) -> Result<Submitted> {
        let deadline = Instant::now() + wait.min(self.limits().max_wait);
        let place = self
            .waiters()
            .register((caller.tenant.clone(), intent.id.clone()));
        let submitted = self.accept(caller, intent).await?;
        let known = Loaded {
            job: Arc::clone(&submitted.answer.job),
            version: submitted.answer.version,
        };
        let (place, known) = if submitted.replayed {
            // A replayed key may stand for a job of another id, which may have ended since it was
            // read.
            drop(place);
            let place = self.waiters().register(Self::name_of(&known.job));
            let known = self.load(&known.job.tenant, &known.job.id).await?;
            (place, known)
        } else {
            (place, known)
        };
        let loaded = self.wait_ended(place, deadline, known).await?;
        let answer = self.answer(loaded, true).await?;
        Ok(Submitted {
            answer,
            replayed: submitted.replayed,
        })
    }

    fn check_submit(&self, caller: &Caller, spec: &JobSpec) -> Result<()> {
        self.refuse_when_draining()?;
        if !spec.team_id.is_empty() && !caller.team_ids.contains(&spec.team_id) {
            return Err(Error::TeamNotAllowed {
                team_id: spec.team_id.clone(),
            });
        }
        match self.store().pressure() {
            Pressure::Normal => Ok(()),
            Pressure::High => Err(Error::StoreFull),
            Pressure::ReadOnly => Err(Error::Unavailable {
                reason: "the store takes no writes".to_owned(),
            }),
        }
    }

    fn trace_id(&self, given: String) -> String {
        if given.is_empty() {
            format!("{:032x}", self.ids().random())
        } else {
            given
        }
    }

    /// Judge, place, one commit; then hand out, if a slot was free.
    pub(crate) async fn accept(&self, caller: &Caller, mut intent: Intent) -> Result<Submitted> {
        let (mut queue, mut wait) = (false, None);
        for attempt in 0..16 {
            let ruling = self.rule_on(caller, &intent, wait.as_ref()).await;
            let rates = ruling.rates.clone();
            match self.try_accept(caller, &intent, ruling, queue).await {
                Ok(loaded) => {
                    self.replace_oldest(&loaded.job);
                    let answer = self.answer(loaded, true).await?;
                    return Ok(Submitted {
                        answer,
                        replayed: false,
                    });
                }
                Err(CommitError::Conflict { key }) => {
                    if let Some(replayed) = self.replay(caller, &intent, &key).await? {
                        return Ok(replayed);
                    }
                    if let Some(replayed) = self.renew_settled(caller, &mut intent).await? {
                        return Ok(replayed);
                    }
                    self.pause(attempt).await;
                }
                // Judge again under the new snapshot.
                Err(CommitError::PointerMoved { .. }) => self.policy_moved(attempt).await,
                Err(CommitError::LimitReached(limit)) => {
                    let met = limits::met(&caller.tenant, &limit);
                    if let Met::Rate(bucket, at) = met {
                        wait = Some(self.turn(&caller.tenant, &rates, &bucket, at, None).await?);
                        continue;
                    }
                    self.limit_met(&intent.spec, &caller.tenant, &met);
                    self.refuse_at_limit(caller, &intent, met)?;
                    // It waits for room.
                    queue = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    /// What policy says about a new job.
    async fn rule_on(&self, caller: &Caller, intent: &Intent, wait: Option<&Turn>) -> Ruling {
        let facts = Facts {
            tenant: &caller.tenant,
            principal_id: &caller.principal_id,
            spec: &intent.spec,
            input: intent.input.as_ref(),
            config: None,
            now: self.now(),
        };
        self.rule_new(facts, &intent.id, wait).await
    }

    /// One try; with `queue` the job waits even where a worker has a free slot.
    async fn try_accept(
        &self,
        caller: &Caller,
        intent: &Intent,
        ruling: Ruling,
        queue: bool,
    ) -> std::result::Result<Loaded, CommitError> {
        let now = self.now();
        let routing = self.routing();
        let permits = ruling.preconditions(&caller.tenant, "");
        let (input, input_apart) = match intent.input.clone() {
            Some(payload) => {
                let (kept, apart) = payload.split();
                (Some(kept), apart)
            }
            None => (None, None),
        };
        let new = NewJob {
            id: intent.id.clone(),
            tenant: caller.tenant.clone(),
            spec: Arc::clone(&intent.spec),
            principal_id: caller.principal_id.clone(),
            trace_id: intent.trace_id.clone(),
            fingerprint: intent.fingerprint.clone(),
            idempotency_key: intent.key.clone(),
            rerun_of: intent.rerun_of.clone(),
            input,
            unmapped: match routing.route(&intent.spec.topic, &caller.tenant) {
                Route::Unmapped(why) => Some(why.to_string()),
                Route::Open | Route::Mapped(..) => None,
            },
            keep: self.keep(&intent.config),
        };
        let mut job = accept(new, ruling.verdict, now);
        let reservation = (!queue).then(|| self.reserve_for_new(&job)).flatten();
        if let Some(reservation) = &reservation {
            match apply(&job, reservation.trigger(&job, &routing), now) {
                Ok(dispatched) => job = dispatched.job,
                Err(refusal) => tracing::error!(%refusal, "fast path refused"),
            }
        }
        let fast = job.lease.is_some();
        let idempotency = (!intent.key.is_empty()).then(|| {
            let record = IdempotencyRecord {
                job_id: intent.id.clone(),
                fingerprint: intent.fingerprint.clone(),
                create_time: now,
            };
            (keyspace::idempotency(&caller.tenant, &intent.key), record)
        });
        let waits = !job.state.is_terminal() && !job.state.is_held();
        let mut limits = limits::to_submit(&routing, &intent.spec, &caller.tenant);
        limits.extend(permits);
        if fast {
            limits.extend(limits::to_run(&routing, &intent.spec, &caller.tenant));
        } else if waits {
            limits.push(limits::waiting_below(
                &caller.tenant,
                self.max_waiting_jobs(&intent.config),
            ));
        }
        let extras = Extras {
            snapshot: ruling.snapshot,
            counts: ruling.counts,
            idempotency,
            input_apart,
            limits,
            also: settled(caller, intent, now)?,
            vote_key: None,
        };
        let (engine, sent) = (self.clone(), self.tick());
        let entry = HeldEntry::of_lease(&job);
        let input = intent.input.clone();
        let config = Arc::clone(&intent.config);
        // From here on the caller may go away at any await; what was committed is still handed out.
        let work = async move {
            let written = engine.write(None, job, extras).await;
            let loaded = written.inspect_err(|error| engine.perhaps_committed(error, entry))?;
            telemetry::accepted(fast);
            if let Some(reservation) = reservation.filter(|_| fast) {
                let mut whole = loaded.job.as_ref().clone();
                whole.input = input;
                engine
                    .hand_out(&loaded, Arc::new(whole), config, reservation, sent)
                    .await;
            }
            Ok(loaded)
        };
        self.spawn_work(work).await.unwrap_or_else(|failed| {
            Err(CommitError::Unknown {
                reason: failed.to_string(),
            })
        })
    }

    /// What a conflicting submit means: the same request again, or another one under the same name.
    pub(crate) async fn replay(
        &self,
        caller: &Caller,
        intent: &Intent,
        conflict: &coretex_store::Key,
    ) -> Result<Option<Submitted>> {
        let tenant = &caller.tenant;
        let by_key =
            !intent.key.is_empty() && *conflict == keyspace::idempotency(tenant, &intent.key);
        let id = if by_key {
            match self.idempotency(tenant, &intent.key).await? {
                // Gone in the meantime.
                None => return Ok(None),
                Some(record) if record.fingerprint != intent.fingerprint => {
                    let job_id = self.named_to(caller, record.job_id).await?;
                    return Err(Error::IdempotencyKeyReused { job_id });
                }
                Some(record) => record.job_id,
            }
        } else {
            intent.id.clone()
        };
        let loaded = match self.load(tenant, &id).await {
            Ok(loaded) => loaded,
            // The key outlives the job: the request was carried out, and is not again.
            Err(Error::NotFound { .. }) if by_key => return Err(Error::no_job(id.as_str())),
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        // Whoever sees only its own jobs is not shown another's by guessing its request.
        let hidden = caller.own_jobs_only() && loaded.job.principal_id != caller.principal_id;
        if by_key && hidden {
            return Err(Error::IdempotencyKeyReused { job_id: None });
        }
        if !by_key {
            if !intent.named {
                return Ok(None);
            }
            if hidden {
                return Err(Error::AlreadyExists { id: id.to_string() });
            }
            // The same job under another key is not the same request.
            let other_key = !intent.key.is_empty() && loaded.job.idempotency_key != intent.key;
            if other_key || loaded.job.fingerprint != intent.fingerprint {
                return Err(Error::AlreadyExists { id: id.to_string() });
            }
        }
        let answer = self.answer(loaded, true).await?;
        Ok(Some(Submitted {
            answer,
            replayed: true,
        }))
    }

    /// The id of a job, if the caller may see the job. One that is gone is told to those who see
    /// every job of the tenant.
    async fn named_to(&self, caller: &Caller, id: JobId) -> Result<Option<JobId>> {
        if !caller.own_jobs_only() {
            return Ok(Some(id));
        }
        match self.visible(caller, &id).await {
            Ok(_) => Ok(Some(id)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn idempotency(&self, tenant: &TenantId, key: &str) -> Result<Option<IdempotencyRecord>> {
        let key = keyspace::idempotency(tenant, key);
        let read = self.store().get(self.shard(), &[key]).await?;
        let Some(record) = read.value.into_iter().next().flatten() else {
            return Ok(None);
        };
        Ok(Some(codec::decode::<IdempotencyRecord>(&record.value)?.1))
    }

    /// Reads a job that the caller may see.
    pub(crate) async fn visible(&self, caller: &Caller, id: &JobId) -> Result<Loaded> {
        let loaded = self.load(&caller.tenant, id).await?;
        if caller.own_jobs_only() && loaded.job.principal_id != caller.principal_id {
            return Err(Error::no_job(id.as_str()));
        }
        Ok(loaded)
    }

    pub(crate) async fn answer(&self, loaded: Loaded, full: bool) -> Result<JobAnswer> {
        let job = if full {
            self.join_payloads(&loaded.job).await?
        } else {
            loaded.job
        };
        let waiting_reason = self.waiting_reason(&job);
        Ok(JobAnswer {
            job,
            version: loaded.version,
            waiting_reason,
        })
    }

    /// Gets a job; `full` with payloads that stand apart.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `DataLoss`.
    pub async fn get_job(&self, caller: &Caller, id: &JobId, full: bool) -> Result<JobAnswer> {
        let loaded = self.visible(caller, id).await?;
        self.answer(loaded, full).await
    }

    /// Waits until the job has ended, at most `timeout` (60 s); answers with the job as it is then.
    ///
    /// # Errors
    /// As [`Self::get_job`].
    pub async fn wait_job(
        &self,
        caller: &Caller,
        id: &JobId,
        timeout: Duration,
        full: bool,
    ) -> Result<JobAnswer> {
        let deadline = Instant::now() + timeout.min(self.limits().max_wait);
        let place = self.waiters().register((caller.tenant.clone(), id.clone()));
        let known = self.visible(caller, id).await?;
        let loaded = self.wait_ended(place, deadline, known).await?;
        self.answer(loaded, full).await
    }

    /// Asks for a job to stop. Idempotent; an ended job is answered unchanged.
    ///
    /// # Errors
    /// `Invalid` for a grace beyond [`MAX_CANCEL_GRACE`], `NotFound`, `Unavailable`,
    /// `OutcomeUnknown`.
    pub async fn cancel_job(
        &self,
        caller: &Caller,
        id: &JobId,
        reason: String,
        grace: Option<Duration>,
        force: bool,
    ) -> Result<JobAnswer> {
        let grace = grace.unwrap_or(self.timing().cancel_grace);
        if grace > MAX_CANCEL_GRACE {
            let most = format!("must be at most {}s", MAX_CANCEL_GRACE.as_secs());
            return Err(Error::invalid("grace", most));
        }
        let known = self.visible(caller, id).await?;
        let changed = self
            .change(&caller.tenant, id, Some(known), |job, now| {
                let trigger = Trigger::CancelRequested {
                    principal_id: caller.principal_id.clone(),
                    reason: reason.clone(),
                    grace,
                    force,
                };
                apply(job, trigger, now)
            })
            .await?;
        let loaded = match changed {
            Ok(changed) => changed.after,
            Err((_, unchanged)) => unchanged,
        };
        self.answer(loaded, false).await
    }
}

/// SHA-256 of what was asked for, without the key and the wait.
fn fingerprint(id: Option<&JobId>, spec: &JobSpec, input: Option<&Payload>) -> Result<Vec<u8>> {
    let canonical = codec::encode(1, &(id, spec, input))?;
    Ok(Sha256::digest(&canonical).to_vec())
}
