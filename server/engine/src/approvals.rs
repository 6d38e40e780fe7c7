//! Approvals: get one, and find the job in whose record it stands.
//!
//! They are opened, withdrawn and counted by the state machine of jobs, in the commit that changes
//! the job. Lists are in [`list`], votes in [`resolve`], streams in [`watch`], what happens after
//! the policy has moved in [`sweep`], what the log says of them in [`changes`].

pub(crate) mod changes;
mod list;
mod resolve;
mod sweep;
mod watch;

use std::sync::Arc;

use coretex_core::approval::Approval;
use coretex_core::id::{ApprovalId, JobId};
use coretex_core::job::Job;
use coretex_store::{Order, Range};

pub use changes::{ApprovalEvent, ApprovalEventKind};
pub use list::ApprovalPage;
pub use resolve::{MAX_ANSWER, ResolveApproval, Resolved};
pub use watch::ApprovalWatchItem;

use crate::access::Caller;
use crate::commits::Loaded;
use crate::engine::Engine;
use crate::{Error, Result, keyspace};

/// An approval, and what it is about.
#[derive(Clone, Debug)]
pub struct ApprovalAnswer {
    /// The approval.
    pub approval: Approval,
    /// Its job; the input is whole when it was asked for.
    pub job: Arc<Job>,
}

impl Engine {
    /// Gets an approval; `full` with the whole input of its job.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `DataLoss`.
    pub async fn get_approval(
        &self,
        caller: &Caller,
        id: &ApprovalId,
        full: bool,
    ) -> Result<ApprovalAnswer> {
        let loaded = self.find_approval(caller, id).await?;
        self.approval_answer(&loaded, id, full).await
    }

    /// Reads the job of an approval that the caller may see.
    async fn find_approval(&self, caller: &Caller, id: &ApprovalId) -> Result<Loaded> {
        let job_id = self.job_of_approval(caller, id).await?;
        match self.visible(caller, &job_id).await {
            Ok(loaded) if loaded.job.approval(id).is_some() => Ok(loaded),
            Ok(_) | Err(Error::NotFound { .. }) => Err(Error::no_approval(id.as_str())),
            Err(error) => Err(error),
        }
    }

    async fn job_of_approval(&self, caller: &Caller, id: &ApprovalId) -> Result<JobId> {
        let index = keyspace::approvals(&caller.tenant);
        let range = Range::prefix(index, &keyspace::approval_prefix(id));
        let read = self
            .store()
            .range(self.shard(), &[range], 1, Order::Ascending)
            .await?;
        let found = read.value.into_iter().flatten().next();
        let place = found.and_then(|member| keyspace::parse_approval_place(&member));
        let (_, job_id) = place.ok_or_else(|| Error::no_approval(id.as_str()))?;
        Ok(job_id)
    }

    async fn approval_answer(
        &self,
        loaded: &Loaded,
        id: &ApprovalId,
        full: bool,
    ) -> Result<ApprovalAnswer> {
        let found = loaded.job.approval(id).cloned();
        let approval = found.ok_or_else(|| Error::no_approval(id.as_str()))?;
        let job = if full {
            self.join_payloads(&loaded.job).await?
        } else {
            Arc::clone(&loaded.job)
        };
        Ok(ApprovalAnswer { approval, job })
    }
}
