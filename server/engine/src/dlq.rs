//! Dead letters: get, list, retry, delete.
//!
//! A dead letter is a mark on the record of a job that ended badly; its entry has the id of the job.
//! Many at once are in [`bulk`]. How long they are kept is the sweeper's business.

mod bulk;

use coretex_core::id::{JobId, TenantId};
use coretex_core::job::Job;
use coretex_core::job::transition::dead_letter::{Settled, settle};
use coretex_core::time::Timestamp;
use coretex_store::CommitError;

use crate::access::Caller;
use crate::commits::Loaded;
use crate::configs::submit::expires;
use crate::engine::Engine;
use crate::jobs::Intent;
use crate::jobs::list::{PAGE_BYTES, SCAN, Scan, Token, is_forbidden, list_id, size_of};
use crate::types::{JobAnswer, JobEdits, PageRequest, Submitted};
use crate::{DlqFilter, Error, Result, keyspace};

/// A dead letter.
#[derive(Clone, Debug)]
pub struct DlqAnswer {
    /// Its job, with everything that it remembers.
    pub answer: JobAnswer,
    /// When it is deleted, its job with it, unless somebody deals with it before.
    pub expire_time: Timestamp,
}

/// A page of dead letters.
#[derive(Clone, Debug)]
pub struct DlqPage {
    /// Newest first.
    pub entries: Vec<DlqAnswer>,
    /// Empty = the end.
    pub next_page_token: String,
}

impl Engine {
    /// Gets a dead letter; `full` with payloads that stand apart.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `DataLoss`.
    pub async fn get_dlq_entry(
        &self,
        caller: &Caller,
        id: &JobId,
        full: bool,
    ) -> Result<DlqAnswer> {
        let loaded = self.visible_entry(caller, id).await?;
        self.dlq_answer(loaded, full).await
    }

    /// Lists dead letters, newest first.
    ///
    /// # Errors
    /// `PageTokenInvalid`, `Unavailable`, `DataLoss`.
    pub async fn list_dlq_entries(
        &self,
        caller: &Caller,
        filter: &DlqFilter,
        page: PageRequest,
        full: bool,
    ) -> Result<DlqPage> {
        let filter = &narrowed(caller, filter);
        let list = dlq_list_id(&caller.tenant, filter)?;
        let mut found = DlqPage {
            entries: Vec::new(),
            next_page_token: String::new(),
        };
        let mut scan = self.dlq_scan(&caller.tenant, filter);
        if !page.token.is_empty() {
            let token = Token::decode(&page.token, list)?;
            scan.after = Some((token.time, token.id));
        }
        if is_forbidden(caller, &filter.principal_id) {
            return Ok(found);
        }
        let mut bytes = 0;
        let mut whole = true;
        'pages: while found.entries.len() < page.size && scan.read < SCAN {
            let Some(batch) = scan.next_batch(page.size).await? else {
                break;
            };
            for (position, loaded) in batch {
                if found.entries.len() == page.size {
                    whole = false;
                    break 'pages;
                }
                let Some(loaded) = loaded.filter(|loaded| filter.matches(&loaded.job)) else {
                    scan.after = Some(position);
                    continue;
                };
                bytes += size_of(&loaded, full) + size_of_attempts(&loaded.job);
                if bytes > PAGE_BYTES && !found.entries.is_empty() {
                    // It begins the next page.
                    whole = false;
                    break 'pages;
                }
                scan.after = Some(position);
                match self.dlq_answer(loaded, full).await {
                    Ok(entry) => found.entries.push(entry),
                    // Deleted since its record was read.
                    Err(Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if let Some((time, id)) = scan.after.clone().filter(|_| !whole || !scan.ended) {
            found.next_page_token = Token { list, time, id }.encode()?;
        }
        Ok(found)
    }

    /// Runs the job of a dead letter again as a new, linked job, judged afresh, and takes the dead
    /// letter off in the same commit: of several who try, one succeeds.
    ///
    /// # Errors
    /// `NotFound`, also for the second who tries; those of [`Self::submit_job`].
    pub async fn retry_dlq_entry(
        &self,
        caller: &Caller,
        id: &JobId,
        edits: JobEdits,
        idempotency_key: String,
    ) -> Result<Submitted> {
        let before = match self.visible(caller, id).await {
            Ok(before) => before,
            Err(Error::NotFound { .. }) => return Err(Error::no_dlq_entry(id.as_str())),
            Err(error) => return Err(error),
        };
        let mut intent = self.again(caller, &before, edits, idempotency_key).await?;
        // A key stands for what it was used for: a rerun of the same job is something else.
        intent.fingerprint.push(b'd');
        let settled = before.job.dead_letter.is_none();
        intent.settles = Some(before);
        if settled && let Some(replayed) = self.renew_settled(caller, &mut intent).await? {
            return Ok(replayed);
        }
        self.accept(caller, intent).await
    }

    /// Throws a dead letter away. The job is kept for as long as others that have ended.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `OutcomeUnknown`.
    pub async fn delete_dlq_entry(&self, caller: &Caller, id: &JobId) -> Result<()> {
        let known = self.visible_entry(caller, id).await?;
        let changed = self
            .change(&caller.tenant, id, Some(known), |job, now| {
                settle(job, Settled::Deleted, &caller.principal_id, now)
            })
            .await;
        match changed {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(Error::NotFound { .. }) => Err(Error::no_dlq_entry(id.as_str())),
            Err(error) => Err(error),
        }
    }

    /// After a commit of `intent` that lost against another change: reads again the job whose dead
    /// letter it takes off. When somebody else has dealt with that, the intent is at its end, and
    /// either it was carried out before under the same key, or there is nothing to retry.
    pub(crate) async fn renew_settled(
        &self,
        caller: &Caller,
        intent: &mut Intent,
    ) -> Result<Option<Submitted>> {
        let Some(known) = &mut intent.settles else {
            return Ok(None);
        };
        let id = known.job.id.clone();
        match self.load(&caller.tenant, &id).await {
            Ok(loaded) if loaded.job.dead_letter.is_some() => {
                *known = loaded;
                return Ok(None);
            }
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        if !intent.key.is_empty() {
            let key = keyspace::idempotency(&caller.tenant, &intent.key);
            if let Some(replayed) = self.replay(caller, intent, &key).await? {
                return Ok(Some(replayed));
            }
        }
        Err(Error::no_dlq_entry(id.as_str()))
    }

    async fn visible_entry(&self, caller: &Caller, id: &JobId) -> Result<Loaded> {
        match self.visible(caller, id).await {
            Ok(loaded) if loaded.job.dead_letter.is_some() => Ok(loaded),
            Ok(_) | Err(Error::NotFound { .. }) => Err(Error::no_dlq_entry(id.as_str())),
            Err(error) => Err(error),
        }
    }

    async fn dlq_answer(&self, loaded: Loaded, full: bool) -> Result<DlqAnswer> {
        let expire_time = expires(&loaded.job, &self.options().retention);
        Ok(DlqAnswer {
            answer: self.answer(loaded, full).await?,
            expire_time,
        })
    }

    /// A walk over the dead letters that `filter` can match.
    fn dlq_scan<'a>(&'a self, tenant: &'a TenantId, filter: &DlqFilter) -> Scan<'a> {
        let mut scan = Scan::over(self, tenant, vec![keyspace::dead_letters(tenant)]);
        scan.newest = filter.created_before;
        scan.oldest = filter.created_after.unwrap_or(Timestamp::ZERO);
        scan
    }
}

/// What the commit of `intent` makes of the job whose dead letter it retries. One without a dead
/// letter is a conflict with whoever has taken it off.
pub(crate) fn settled(
    caller: &Caller,
    intent: &Intent,
    now: Timestamp,
) -> std::result::Result<Option<(Loaded, Job)>, CommitError> {
    let Some(before) = &intent.settles else {
        return Ok(None);
    };
    let how = Settled::RetriedAs(&intent.id);
    match settle(&before.job, how, &caller.principal_id, now) {
        Ok(settled) => Ok(Some((before.clone(), settled.job))),
        Err(_) => Err(CommitError::Conflict {
            key: keyspace::job(&before.job.tenant, &before.job.id),
        }),
    }
}

/// The filter as the caller may use it.
fn narrowed(caller: &Caller, filter: &DlqFilter) -> DlqFilter {
    let mut filter = filter.clone();
    if caller.own_jobs_only() && filter.principal_id.is_empty() {
        filter.principal_id.clone_from(&caller.principal_id);
    }
    filter
}

fn dlq_list_id(tenant: &TenantId, filter: &DlqFilter) -> Result<[u8; 8]> {
    list_id(tenant, &("dlq", filter))
}

/// About how many bytes the attempts of a job take in a response.
fn size_of_attempts(job: &Job) -> usize {
    job.attempts
        .iter()
        .map(|attempt| {
            let error = attempt.error.as_ref();
            256 + error.map_or(0, |error| {
                let facts = error.metadata.iter();
                let facts: usize = facts.map(|(key, value)| key.len() + value.len() + 8).sum();
                error.code.len() + error.message.len() + facts
            })
        })
        .sum()
}
