//! Watches of approvals: the shard's log, filtered, resumable.

use coretex_store::LogId;
use tokio::sync::mpsc;

use super::{ApprovalAnswer, ApprovalEvent};
use crate::access::Caller;
use crate::commits::LogEntry;
use crate::engine::Engine;
use crate::feed::{Feed, Reader, token};
use crate::{ApprovalFilter, Error, Result};

/// Messages that may wait for a reader. Each may hold an input that stands in the record.
const BUFFER: usize = 64;

/// One message of a watch.
#[derive(Clone, Debug)]
pub enum ApprovalWatchItem {
    /// The first message: everything before it is in the lists.
    Checkpoint {
        /// Resume from here.
        resume_token: String,
    },
    /// Something happened.
    Event {
        /// What.
        event: ApprovalEvent,
        /// The approval as it is now.
        answer: Box<ApprovalAnswer>,
        /// Resume after this.
        resume_token: String,
    },
}

impl Engine {
    /// Streams what happens to approvals. The first item is a checkpoint.
    ///
    /// # Errors
    /// `ResumeTokenInvalid`, `TooManyStreams`, `Unavailable`. In the stream: as
    /// [`Self::watch_jobs`].
    pub async fn watch_approvals(
        &self,
        caller: &Caller,
        filter: &ApprovalFilter,
        resume_token: &str,
    ) -> Result<mpsc::Receiver<Result<ApprovalWatchItem>>> {
        let opening = self.open_watch()?;
        let feed = self.feed(resume_token).await?;
        let (caller, filter) = (caller.clone(), filter.narrowed(caller));
        let engine = self.clone();
        Ok(
            self.run_watch(opening, &caller.clone(), BUFFER, |reader| async move {
                engine.tell_approvals(feed, &caller, &filter, &reader).await
            }),
        )
    }

    async fn tell_approvals(
        &self,
        mut feed: Feed,
        caller: &Caller,
        filter: &ApprovalFilter,
        reader: &Reader<ApprovalWatchItem>,
    ) -> Result<()> {
        let resume_token = token(feed.position());
        reader
            .send(ApprovalWatchItem::Checkpoint { resume_token })
            .await?;
        loop {
            for (id, entry) in feed.next().await? {
                let own = entry.tenant == caller.tenant && !entry.approvals.is_empty();
                if own {
                    self.tell_changes(id, &entry, caller, filter, reader)
                        .await?;
                }
            }
        }
    }

    async fn tell_changes(
        &self,
        id: LogId,
        entry: &LogEntry,
        caller: &Caller,
        filter: &ApprovalFilter,
        reader: &Reader<ApprovalWatchItem>,
    ) -> Result<()> {
        let loaded = match self.visible(caller, &entry.job_id).await {
            Ok(loaded) => loaded,
            // Deleted since, or not for this reader's eyes.
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error),
        };
        // As the approval was at the event, not as it is by now.
        let wanted: Vec<_> = entry
            .approvals
            .iter()
            .filter_map(|event| {
                let approval = loaded.job.approval(&event.approval_id)?;
                let matches = filter.matches(&loaded.job, approval, event.state);
                matches.then(|| (event, approval.clone()))
            })
            .collect();
        let count = wanted.len();
        for (position, (event, approval)) in wanted.into_iter().enumerate() {
            // Only the last event of an entry moves the token, so that a resume repeats an entry
            // rather than cutting it.
            let next = if position + 1 == count { id + 1 } else { id };
            let answer = ApprovalAnswer {
                approval,
                job: std::sync::Arc::clone(&loaded.job),
            };
            let item = ApprovalWatchItem::Event {
                event: event.clone(),
                answer: Box::new(answer),
                resume_token: token(next),
            };
            reader.send(item).await?;
        }
        Ok(())
    }
}
