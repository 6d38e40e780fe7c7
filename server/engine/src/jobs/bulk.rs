//! Many jobs at once: cancelled, or run again. How that is carried out is in
//! [`bulk`](crate::bulk).

use std::time::Duration;

use coretex_core::id::{JobId, TenantId};
use coretex_core::job::transition::{Refusal, Trigger, apply};
use coretex_core::job::{Job, JobState};
use coretex_core::time::Timestamp;
use coretex_store::Order;
use tokio::sync::mpsc;

use super::list::{Scan, is_forbidden, list_id, narrowed};
use crate::access::Caller;
use crate::bulk::{
    BulkOptions, BulkProgress, BulkWork, CAREFUL_RATE, Did, MAX_BULK_RATE, key_of, made_by,
};
use crate::engine::{Engine, MAX_CANCEL_GRACE};
use crate::types::JobEdits;
use crate::{Error, JobFilter, Result};

struct CancelAll {
    filter: JobFilter,
    reason: String,
    grace: Duration,
    force: bool,
    nothing: bool,
}

struct RerunAll {
    filter: JobFilter,
    edits: JobEdits,
    nothing: bool,
}

/// Leaves only states for which `keep` holds; whether any is left.
fn keep_states(filter: &mut JobFilter, keep: impl Fn(JobState) -> bool) -> bool {
    if filter.states.is_empty() {
        filter.states.extend(JobState::ALL);
    }
    filter.states.retain(|state| keep(*state));
    !filter.states.is_empty()
}

/// A walk over what `filter` can match and was there before `until`, oldest first.
fn scan_until<'a>(
    engine: &'a Engine,
    tenant: &'a TenantId,
    filter: &JobFilter,
    until: Timestamp,
) -> Scan<'a> {
    let mut scan = Scan::new(engine, tenant, filter);
    scan.order = Order::Ascending;
    scan.newest = Some(scan.newest.map_or(until, |newest| newest.min(until)));
    scan
}

impl BulkWork for CancelAll {
    const RATE: u32 = MAX_BULK_RATE;

    fn identity(&self, tenant: &TenantId) -> Result<[u8; 8]> {
        list_id(tenant, &("cancel", &self.filter, self.force))
    }

    fn scan<'a>(&self, engine: &'a Engine, tenant: &'a TenantId, until: Timestamp) -> Scan<'a> {
        let mut scan = scan_until(engine, tenant, &self.filter, until);
        scan.ended = self.nothing;
        scan
    }

    fn matches(&self, job: &Job, _: &str) -> bool {
        self.filter.matches(job)
    }

    async fn one(&self, engine: &Engine, caller: &Caller, id: &JobId, _: &str) -> Result<Did> {
        let changed = engine
            .change(&caller.tenant, id, None, |job, now| {
                // It may have moved on since it was found.
                if !self.filter.matches(job) {
                    return Err(Refusal::Unchanged);
                }
                let trigger = Trigger::CancelRequested {
                    principal_id: caller.principal_id.clone(),
                    reason: self.reason.clone(),
                    grace: self.grace,
                    force: self.force,
                };
                apply(job, trigger, now)
            })
            .await?;
        Ok(if changed.is_ok() {
            Did::It
        } else {
            Did::Nothing
        })
    }
}

impl BulkWork for RerunAll {
    const RATE: u32 = CAREFUL_RATE;

    fn identity(&self, tenant: &TenantId) -> Result<[u8; 8]> {
        list_id(tenant, &("rerun", &self.filter, &self.edits))
    }

    fn scan<'a>(&self, engine: &'a Engine, tenant: &'a TenantId, until: Timestamp) -> Scan<'a> {
        let mut scan = scan_until(engine, tenant, &self.filter, until);
        scan.ended = self.nothing;
        scan
    }

    /// What the operation made itself when it was called before is not run again.
    fn matches(&self, job: &Job, key: &str) -> bool {
        self.filter.matches(job) && !made_by(job, key)
    }

    async fn one(&self, engine: &Engine, caller: &Caller, id: &JobId, key: &str) -> Result<Did> {
        let key = key_of(key, id);
        engine
            .rerun_job(caller, id, self.edits.clone(), key)
            .await?;
        Ok(Did::It)
    }
}

impl Engine {
    /// Asks for every job to stop that matches and has not ended, oldest first, as
    /// [`Self::cancel_job`] does. Jobs that come later are not touched.
    ///
    /// # Errors
    /// `Invalid`, `PageTokenInvalid`, `TooManyStreams`, `Unavailable`. In the stream: what would
    /// stop the next job, too.
    pub async fn cancel_jobs(
        &self,
        caller: &Caller,
        filter: &JobFilter,
        reason: String,
        grace: Option<Duration>,
        force: bool,
        options: BulkOptions,
    ) -> Result<mpsc::Receiver<Result<BulkProgress>>> {
        let grace = grace.unwrap_or(self.timing().cancel_grace);
        if grace > MAX_CANCEL_GRACE {
            let most = format!("must be at most {}s", MAX_CANCEL_GRACE.as_secs());
            return Err(Error::invalid("grace", most));
        }
        let mut filter = narrowed(caller, filter);
        let any = keep_states(&mut filter, |state| !state.is_terminal());
        let work = CancelAll {
            nothing: !any || is_forbidden(caller, &filter.principal_id),
            filter,
            reason,
            grace,
            force,
        };
        self.begin_bulk(caller, work, options).await
    }

    /// Runs every job again that matches and has ended, oldest first, as [`Self::rerun_job`] does,
    /// under idempotency keys that follow from the operation's own.
    ///
    /// # Errors
    /// As [`Self::cancel_jobs`].
    pub async fn rerun_jobs(
        &self,
        caller: &Caller,
        filter: &JobFilter,
        edits: JobEdits,
        options: BulkOptions,
    ) -> Result<mpsc::Receiver<Result<BulkProgress>>> {
        let mut filter = narrowed(caller, filter);
        let any = keep_states(&mut filter, JobState::is_terminal);
        let work = RerunAll {
            nothing: !any || is_forbidden(caller, &filter.principal_id),
            filter,
            edits,
        };
        self.begin_bulk(caller, work, options).await
    }
}
