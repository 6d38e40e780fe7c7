//! What the configuration of its place does to a job that is submitted.

use std::sync::Arc;

use coretex_core::config::Effective;
use coretex_core::id::TenantId;
use coretex_core::job::{Job, JobSpec, Keep};
use coretex_core::payload::Payload;
use coretex_core::routing::LeftOpen;

use crate::engine::{Engine, Retention};
use crate::{Error, Result, Violation};

impl Engine {
    /// The configuration in force for a job.
    pub(crate) async fn config_of(
        &self,
        tenant: &TenantId,
        spec: &JobSpec,
    ) -> Result<Arc<Effective>> {
        self.effective_config(tenant, &spec.team_id, "", "").await
    }

    /// Fills in what a submitter left open: what the configuration says of the topic goes before
    /// what the routing table says, and that before what the configuration says of all jobs. Cuts
    /// what goes beyond limits that can be kept so.
    pub(crate) fn fill_in(
        &self,
        spec: &mut JobSpec,
        tenant: &TenantId,
        open: LeftOpen,
        config: &Effective,
    ) {
        let open = config.typed.fill_in_topic(spec, open);
        let open = self.routing().fill_in(spec, tenant, open);
        config.typed.fill_in_clocks(spec, open);
        config.typed.cut(spec);
        coretex_core::policy::fold_labels(spec);
    }

    /// For how long a job is kept that is accepted under a configuration.
    pub(crate) fn keep(&self, config: &Effective) -> Option<Keep> {
        keep(&config.typed.retention, &self.options().retention)
    }

    /// The most jobs of a tenant that may wait under a configuration.
    pub(crate) fn max_waiting_jobs(&self, config: &Effective) -> u64 {
        let own = config.typed.limits.max_waiting_jobs;
        let server = self.limits().max_waiting_jobs;
        own.map_or(server, |own| own.min(server))
    }
}

/// Refuses a job that does not keep the limits of its configuration.
pub(crate) fn check_limits(
    spec: &JobSpec,
    input: Option<&Payload>,
    config: &Effective,
) -> Result<()> {
    let bytes = input.map_or(0, Payload::size);
    let exceeded = config.typed.exceeded(spec, bytes);
    if exceeded.is_empty() {
        return Ok(());
    }
    let violation = |one: &coretex_core::config::Exceeded| {
        let key = one.pointer.trim_start_matches('/').replace('/', ".");
        let scope = config.origin(one.pointer);
        let scope = scope.map_or_else(String::new, |name| format!(" of {name}"));
        let rule = format!(
            "must have at most {} {}, says `{key}` in the configuration{scope}",
            one.limit, one.unit
        );
        Violation::new(one.field, rule)
    };
    Err(Error::Invalid(exceeded.iter().map(violation).collect()))
}

/// A configuration only shortens what the server keeps.
fn keep(own: &coretex_core::config::sections::Retention, server: &Retention) -> Option<Keep> {
    let ended = own.jobs.filter(|own| *own < server.jobs);
    // A dead letter is kept for no shorter than its job would be without one.
    let least = ended.unwrap_or(server.jobs);
    let dead = own.dead_letters.map(|own| own.max(least));
    let dead = dead.filter(|own| *own < server.of_dead_letters());
    (ended.is_some() || dead.is_some()).then_some(Keep { ended, dead })
}

/// When a job that has ended is deleted, at the latest.
pub(crate) fn expires(job: &Job, server: &Retention) -> coretex_core::time::Timestamp {
    let kept = match job.dead_letter {
        Some(_) => server.of_dead_letters(),
        None => server.jobs,
    };
    let by_server = job.end_time.unwrap_or(job.update_time) + kept;
    job.expires().map_or(by_server, |own| own.min(by_server))
}
