//! Many dead letters at once: retried, or thrown away. How that is carried out is in
//! [`bulk`](crate::bulk).

use coretex_core::id::{JobId, TenantId};
use coretex_core::job::Job;
use coretex_core::time::Timestamp;
use coretex_store::Order;
use tokio::sync::mpsc;

use super::narrowed;
use crate::access::Caller;
use crate::bulk::{
    BulkOptions, BulkProgress, BulkWork, CAREFUL_RATE, Did, MAX_BULK_RATE, key_of, made_by,
};
use crate::engine::Engine;
use crate::jobs::list::{Scan, is_forbidden, list_id};
use crate::types::JobEdits;
use crate::{DlqFilter, Result};

struct RetryAll {
    filter: DlqFilter,
    edits: JobEdits,
    nothing: bool,
}

struct Purge {
    filter: DlqFilter,
    nothing: bool,
}

/// A walk over what `filter` can match and was there before `until`, oldest first.
fn scan_until<'a>(
    engine: &'a Engine,
    tenant: &'a TenantId,
    filter: &DlqFilter,
    until: Timestamp,
) -> Scan<'a> {
    let mut scan = engine.dlq_scan(tenant, filter);
    scan.order = Order::Ascending;
    scan.newest = Some(scan.newest.map_or(until, |newest| newest.min(until)));
    scan
}

impl BulkWork for RetryAll {
    const RATE: u32 = CAREFUL_RATE;

    fn identity(&self, tenant: &TenantId) -> Result<[u8; 8]> {
        list_id(tenant, &("dlq retry", &self.filter, &self.edits))
    }

    fn scan<'a>(&self, engine: &'a Engine, tenant: &'a TenantId, until: Timestamp) -> Scan<'a> {
        let mut scan = scan_until(engine, tenant, &self.filter, until);
        scan.ended = self.nothing;
        scan
    }

    /// What the operation made itself when it was called before, and has failed again, is not
    /// retried.
    fn matches(&self, job: &Job, key: &str) -> bool {
        self.filter.matches(job) && !made_by(job, key)
    }

    async fn one(&self, engine: &Engine, caller: &Caller, id: &JobId, key: &str) -> Result<Did> {
        let key = key_of(key, id);
        engine
            .retry_dlq_entry(caller, id, self.edits.clone(), key)
            .await?;
        Ok(Did::It)
    }
}

impl BulkWork for Purge {
    const RATE: u32 = MAX_BULK_RATE;

    fn identity(&self, tenant: &TenantId) -> Result<[u8; 8]> {
        list_id(tenant, &("dlq purge", &self.filter))
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
        engine.delete_dlq_entry(caller, id).await?;
        Ok(Did::It)
    }
}

impl Engine {
    /// Retries every dead letter that matches, oldest first, as [`Self::retry_dlq_entry`] does,
    /// under idempotency keys that follow from the operation's own.
    ///
    /// # Errors
    /// `PageTokenInvalid`, `TooManyStreams`, `Unavailable`. In the stream: what would stop the next
    /// one, too.
    pub async fn retry_dlq_entries(
        &self,
        caller: &Caller,
        filter: &DlqFilter,
        edits: JobEdits,
        options: BulkOptions,
    ) -> Result<mpsc::Receiver<Result<BulkProgress>>> {
        let filter = narrowed(caller, filter);
        let work = RetryAll {
            nothing: is_forbidden(caller, &filter.principal_id),
            filter,
            edits,
        };
        self.begin_bulk(caller, work, options).await
    }

    /// Throws every dead letter away that matches, oldest first.
    ///
    /// # Errors
    /// As [`Self::retry_dlq_entries`].
    pub async fn purge_dlq(
        &self,
        caller: &Caller,
        filter: &DlqFilter,
        options: BulkOptions,
    ) -> Result<mpsc::Receiver<Result<BulkProgress>>> {
        let filter = narrowed(caller, filter);
        let work = Purge {
            nothing: is_forbidden(caller, &filter.principal_id),
            filter,
        };
        self.begin_bulk(caller, work, options).await
    }
}
