//! Limits as reasons why a job does not run.

use coretex_core::job::Job;
use coretex_store::{Order, Range};

use super::{Cause, cause};
use crate::access::Caller;
use crate::dispatch::state::gates::Gate;
use crate::engine::Engine;
use crate::limits::NAMED;
use crate::{Result, keyspace};

impl Engine {
    /// The limit that keeps a job from running, as far as this replica has met it.
    pub(super) fn limit_met_cause(&self, job: &Job) -> Option<Cause> {
        Some(self.limit_cause(job, &self.limits_met(job)?))
    }

    fn limit_cause(&self, job: &Job, gate: &Gate) -> Cause {
        let routing = self.routing();
        match gate {
            Gate::Tenant(tenant) => {
                let most = routing.tenant(tenant).max_running_jobs.unwrap_or_default();
                cause(
                    "tenant_limit",
                    format!("{most} jobs of the tenant run, which is as many as may"),
                    "wait until one of them is over, or raise max_running_jobs of the tenant",
                )
            }
            Gate::Key(tenant, key) => {
                let running = routing.concurrency(&job.spec, tenant);
                let most = running.map_or(0, |running| running.limit);
                cause(
                    "concurrency_key",
                    format!(
                        "{most} jobs run with the concurrency key `{key}`, which is as many as may"
                    ),
                    "wait until one of the holders is over, or cancel one",
                )
            }
        }
    }

    /// Puts in front what the store says of the limits of a job: this replica may not have met
    /// them, or not know that there is room again.
    pub(super) async fn add_limits(
        &self,
        job: &Job,
        caller: &Caller,
        causes: &mut Vec<Cause>,
    ) -> Result<()> {
        let routing = self.routing();
        let mut limits = Vec::new();
        if let Some(most) = routing.tenant(&job.tenant).max_running_jobs {
            let index = keyspace::open_held(&job.tenant);
            limits.push((Gate::Tenant(job.tenant.clone()), index, most));
        }
        if let Some(running) = routing.concurrency(&job.spec, &job.tenant) {
            let index = keyspace::concurrency(&job.tenant, running.key);
            let gate = Gate::Key(job.tenant.clone(), running.key.to_owned());
            limits.push((gate, index, running.limit.into()));
        }
        let mut met = Vec::new();
        for (gate, index, most) in limits {
            let all = Range::all(index);
            if self.store().count(self.shard(), &all, most).await?.value < most {
                continue;
            }
            let mut cause = self.limit_cause(job, &gate);
            cause.holders = self.limit_holders(caller, job, all).await?;
            met.push(cause);
        }
        met.append(causes);
        *causes = met;
        Ok(())
    }

    /// The jobs that hold a limit, as far as the caller sees them.
    async fn limit_holders(&self, caller: &Caller, job: &Job, all: Range) -> Result<Vec<String>> {
        let read = self
            .store()
            .range(self.shard(), &[all], NAMED, Order::Ascending)
            .await?;
        let ids = read.value.into_iter().flatten();
        let ids = ids.filter_map(|member| Some(keyspace::parse_by_time(&member)?.1));
        let names: Vec<_> = ids.map(|id| (job.tenant.clone(), id)).collect();
        let loaded = self.load_readable(&names).await?.into_iter().flatten();
        let visible = loaded.filter(|loaded| {
            !caller.own_jobs_only() || loaded.job.principal_id == caller.principal_id
        });
        Ok(visible.map(|loaded| loaded.job.id.to_string()).collect())
    }
}
