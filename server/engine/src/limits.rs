//! Limits on what a tenant may run and submit: the preconditions that keep them, what it means when
//! one is met, and making room for jobs that ask for it. Counting again is in [`recount`].

mod recount;

use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::{JobId, TenantId};
use coretex_core::job::transition::{Trigger, apply};
use coretex_core::job::{ConcurrencyAction, Job, JobSpec};
use coretex_core::routing::{Routing, Running};
use coretex_core::time::Timestamp;
use coretex_store::{Limit, Order, Precondition, Range, Rate};

use crate::access::Caller;
use crate::dispatch::state::gates::Gate;
use crate::engine::Engine;
use crate::jobs::Intent;
use crate::{Error, Result, keyspace};

/// Holders of a limit that are named.
pub(crate) const NAMED: usize = 10;
/// Holders of one key that are looked at to make room.
const LOOKED_AT: usize = 1_000;
/// How often it is looked for waiting jobs that ask for room.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Who cancels the oldest holder of a key.
const PRINCIPAL: &str = "system:concurrency";

/// A limit that stopped a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// Too many jobs of the tenant wait.
    Waiting,
    /// The tenant submits too fast; it may again at this time.
    SubmitRate(Timestamp),
    /// A rate of the policy has nothing left until this time, or others wait for it.
    Rate(String, Option<Timestamp>),
    /// As many jobs of the tenant run as may.
    Tenant,
    /// As many jobs run with the key as may; some of them.
    Key(Vec<JobId>),
}

/// A precondition that fewer than `limit` jobs of a tenant run.
fn running_below(tenant: &TenantId, limit: u64) -> Precondition {
    Precondition::SizeBelow {
        index: keyspace::open_held(tenant),
        limit,
        name_holders: 0,
    }
}

/// A precondition that fewer than `limit` jobs of a tenant wait.
pub(crate) fn waiting_below(tenant: &TenantId, limit: u64) -> Precondition {
    Precondition::SizeBelow {
        index: keyspace::open_waiting(tenant),
        limit,
        name_holders: 0,
    }
}

/// A precondition that a key has room.
pub(crate) fn key_below(tenant: &TenantId, running: Running<'_>) -> Precondition {
    Precondition::SizeBelow {
        index: keyspace::concurrency(tenant, running.key),
        limit: running.limit.into(),
        name_holders: NAMED,
    }
}

/// What must hold for a job to be handed out.
pub(crate) fn to_run(routing: &Routing, spec: &JobSpec, tenant: &TenantId) -> Vec<Precondition> {
    let most = routing.tenant(tenant).max_running_jobs;
    let of_tenant = most.map(|limit| running_below(tenant, limit));
    let running = routing.concurrency(spec, tenant);
    let of_key = running.map(|running| key_below(tenant, running));
    of_tenant.into_iter().chain(of_key).collect()
}

/// What must hold for a job to be accepted, beside what holds for handing it out.
pub(crate) fn to_submit(routing: &Routing, spec: &JobSpec, tenant: &TenantId) -> Vec<Precondition> {
    let rate = routing.tenant(tenant).submit_rate;
    let bucket = rate.map(|rate| Precondition::Bucket {
        key: keyspace::submit_rate(tenant),
        rate: Rate {
            permits: rate.permits,
            per: rate.per,
            burst: rate.burst,
        },
        cost: 1,
    });
    let refusing = routing
        .concurrency(spec, tenant)
        .filter(|running| running.on_limit == ConcurrencyAction::Reject)
        .map(|running| key_below(tenant, running));
    // What is refused takes nothing from the rate: all conditions are looked at first.
    refusing.into_iter().chain(bucket).collect()
}

/// Which limit stopped a commit about a job of `tenant`.
pub(crate) fn met(tenant: &TenantId, limit: &Limit) -> Met {
    match limit {
        Limit::Bucket { key, at } => match keyspace::parse_policy_rate(tenant, key) {
            Some(bucket) => Met::Rate(bucket, Some(*at)),
            None => Met::SubmitRate(*at),
        },
        Limit::Size { index, .. } if *index == keyspace::open_waiting(tenant) => Met::Waiting,
        Limit::Size { index, .. } if *index == keyspace::open_held(tenant) => Met::Tenant,
        Limit::Size { index, holders } => {
            if let Some(bucket) = keyspace::parse_throttled(tenant, index) {
                return Met::Rate(bucket, None);
            }
            let held_by = holders
                .iter()
                .filter_map(|one| keyspace::parse_by_time(one));
            Met::Key(held_by.map(|(_, id)| id).collect())
        }
    }
}

impl Engine {
    /// A limit kept a job from being handed out: no more like it are tried until there may be room.
    pub(crate) fn limit_met(&self, spec: &JobSpec, tenant: &TenantId, met: &Met) {
        let routing = self.routing();
        let gate = match met {
            Met::Tenant => Gate::Tenant(tenant.clone()),
            Met::Key(_) => match routing.concurrency(spec, tenant) {
                Some(running) => Gate::Key(tenant.clone(), running.key.to_owned()),
                None => return,
            },
            Met::Waiting | Met::SubmitRate(_) | Met::Rate(..) => return,
        };
        let now = self.tick();
        self.dispatcher().lock().gates.met(gate, now);
    }

    /// What it means for a new job that a limit was met: it is refused, or waits.
    pub(crate) fn refuse_at_limit(&self, caller: &Caller, intent: &Intent, met: Met) -> Result<()> {
        let routing = self.routing();
        let running = routing.concurrency(&intent.spec, &caller.tenant);
        match (met, running) {
            (Met::Waiting, _) => Err(Error::TooManyWaitingJobs {
                limit: self.max_waiting_jobs(&intent.config),
            }),
            (Met::SubmitRate(at), _) => Err(Error::SubmitRateExceeded {
                retry_after: at.since(self.now()),
            }),
            (Met::Key(holders), Some(running)) if running.on_limit == ConcurrencyAction::Reject => {
                Err(Error::ConcurrencyLimitReached {
                    key: running.key.to_owned(),
                    limit: running.limit,
                    holders: if caller.own_jobs_only() {
                        Vec::new()
                    } else {
                        holders
                    },
                })
            }
            (Met::Tenant | Met::Key(_) | Met::Rate(..), _) => Ok(()),
        }
    }

    /// Makes room for a new job that waits and asks for it. Should that fail, whoever has its queue
    /// tries again.
    pub(crate) fn replace_oldest(&self, job: &Arc<Job>) {
        let paused = self.pauses();
        if !job.is_ready() || paused.everywhere(&job.tenant, &job.spec.topic).is_some() {
            return;
        }
        let (engine, job) = (self.clone(), Arc::clone(job));
        let routing = self.routing();
        let running = routing.concurrency(&job.spec, &job.tenant);
        if running.is_some_and(|running| running.on_limit == ConcurrencyAction::CancelOldest) {
            self.spawn_work(async move {
                if let Err(error) = engine.make_room(&job).await {
                    tracing::warn!(%error, job_id = %job.id, "no room made yet for a new job");
                }
            });
        }
    }

    /// A job that was handed out is out no more: what waits for its place may be tried.
    pub(crate) fn place_left(&self, before: Option<&Job>, after: &Job) {
        let held = before.filter(|before| before.state.is_held() && !after.state.is_held());
        if let Some(lease) = held.and_then(|before| before.lease.as_ref()) {
            let mut state = self.dispatcher().lock();
            state.gates.left(&after.tenant, &lease.concurrency_key);
            drop(state);
            self.dispatcher().wake();
        }
    }

    /// Cancels the oldest job that holds a key, if a waiting job asks for that and the key is full.
    /// Holders that are being cancelled already make room by themselves, and a job takes the place
    /// only of jobs of the principal that submitted it: it may cancel no other's.
    pub(crate) async fn make_room(&self, waiting: &Job) -> Result<()> {
        let routing = self.routing();
        let Some(running) = routing
            .concurrency(&waiting.spec, &waiting.tenant)
            .filter(|running| running.on_limit == ConcurrencyAction::CancelOldest)
        else {
            return Ok(());
        };
        let tenant = &waiting.tenant;
        let all = Range::all(keyspace::concurrency(tenant, running.key));
        let held = self
            .store()
            .count(self.shard(), &all, u64::MAX)
            .await?
            .value;
        let Some(excess) = (held + 1)
            .checked_sub(running.limit.into())
            .filter(|n| *n > 0)
        else {
            return Ok(());
        };
        let read = self
            .store()
            .range(self.shard(), &[all], LOOKED_AT, Order::Ascending)
            .await?;
        let names: Vec<_> = read
            .value
            .into_iter()
            .flatten()
            .filter_map(|member| keyspace::parse_by_time(&member))
            .map(|(_, id)| (tenant.clone(), id))
            .collect();
        let holders = self.load_readable(&names).await?;
        let holders = holders.into_iter().flatten();
        let (leaving, staying): (Vec<_>, Vec<_>) =
            holders.partition(|loaded| loaded.job.cancel.is_some());
        if leaving.len() as u64 >= excess {
            return Ok(());
        }
        let oldest = staying.into_iter().find(|loaded| {
            let own = loaded.job.principal_id == waiting.principal_id;
            own && loaded.job.state.is_held() && loaded.job.id != waiting.id
        });
        if let Some(loaded) = oldest {
            let id = loaded.job.id.clone();
            let reason = format!(
                "made room for job {} under the concurrency key `{}`",
                waiting.id, running.key
            );
            let grace = self.timing().cancel_grace;
            let cancelled = self.change(tenant, &id, Some(loaded), |job, now| {
                let trigger = Trigger::CancelRequested {
                    principal_id: PRINCIPAL.to_owned(),
                    reason: reason.clone(),
                    grace,
                    force: false,
                };
                apply(job, trigger, now)
            });
            match cancelled.await {
                // One that has ended meanwhile has made room, too.
                Ok(_) | Err(Error::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes room for waiting jobs of this replica's queues that ask for it and have found their
    /// keys full, until the engine stops: whoever accepted them may be gone, and holders may have
    /// come since.
    pub(crate) async fn run_make_room(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let names = self.dispatcher().lock().waiting_at_keys();
            let waiting = match self.load_readable(&names).await {
                Ok(waiting) => waiting,
                Err(error) => {
                    tracing::warn!(%error, "jobs that wait for room not read");
                    continue;
                }
            };
            let waiting = waiting.into_iter().flatten();
            for loaded in waiting.filter(|loaded| loaded.job.is_ready()) {
                let job = &loaded.job;
                if let Err(error) = self.make_room(job).await {
                    tracing::warn!(%error, job_id = %job.id, "no room made yet under a concurrency key");
                }
            }
        }
    }

    /// Why the limits of a job keep it from running, as far as this replica has met them.
    pub(crate) fn limits_met(&self, job: &Job) -> Option<Gate> {
        let routing = self.routing();
        let running = routing.concurrency(&job.spec, &job.tenant);
        let key = running.map_or("", |running| running.key);
        let state = self.dispatcher().lock();
        Gate::of(&job.tenant, key).find(|gate| state.gates.is_met(gate))
    }
}
