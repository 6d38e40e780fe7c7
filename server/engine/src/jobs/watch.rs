//! Watches: the shard's log, filtered, resumable.

use coretex_core::id::JobId;
use coretex_store::LogId;
use tokio::sync::mpsc;

use crate::access::Caller;
use crate::commits::LogEntry;
use crate::engine::Engine;
use crate::feed::{Feed, Reader, token};
use crate::jobs::list::narrowed;
use crate::types::{WatchItem, WatchTarget};
use crate::{Error, JobFilter, Result};

/// Messages that may wait for a reader; one that is further behind for long is cut.
const BUFFER: usize = 256;
/// The same where messages carry payloads, of which each may have two of a mebibyte.
const FULL_BUFFER: usize = 16;
/// Whom a watch tells what.
struct Watch {
    engine: Engine,
    caller: Caller,
    filter: JobFilter,
    job: Option<JobId>,
    full: bool,
    reader: Reader<WatchItem>,
}

impl Engine {
    /// Streams what happens to jobs. The first item is a checkpoint; a watch of one job ends after
    /// the job has ended.
    ///
    /// # Errors
    /// `ResumeTokenInvalid`, `NotFound` for one job, `TooManyStreams`, `Unavailable`. In the
    /// stream: `WatchTooSlow`, `ResumeTokenInvalid` when the log was trimmed past the reader,
    /// `CredentialInvalid` when the credential was revoked or has expired.
    pub async fn watch_jobs(
        &self,
        caller: &Caller,
        target: WatchTarget,
        resume_token: String,
        full: bool,
    ) -> Result<mpsc::Receiver<Result<WatchItem>>> {
        let opening = self.open_watch()?;
        let feed = self.feed(&resume_token).await?;
        let (filter, job) = match target {
            WatchTarget::Filter(filter) => (narrowed(caller, &filter), None),
            WatchTarget::Job(id) => {
                // Read after the place in the log was taken, so nothing falls between.
                self.visible(caller, &id).await?;
                (JobFilter::default(), Some(id))
            }
        };
        let buffer = if full { FULL_BUFFER } else { BUFFER };
        let (engine, caller) = (self.clone(), caller.clone());
        Ok(
            self.run_watch(opening, &caller.clone(), buffer, move |reader| {
                let watch = Watch {
                    engine,
                    caller,
                    filter,
                    job,
                    full,
                    reader,
                };
                watch.run(feed)
            }),
        )
    }
}

impl Watch {
    async fn run(self, mut feed: Feed) -> Result<()> {
        let resume_token = token(feed.position());
        self.reader
            .send(WatchItem::Checkpoint { resume_token })
            .await?;
        let ended = self.target_has_ended().await?;
        loop {
            if ended.is_some_and(|end| feed.position() >= end) {
                // Its end was told before the watch began.
                return self.tell_last(feed.position()).await;
            }
            for (id, entry) in feed.next().await? {
                if self.tell(id, &entry).await? {
                    return Ok(());
                }
            }
        }
    }

    /// For one job: whether it has ended already. The log tells of that below the answer, if it
    /// still tells of it at all.
    async fn target_has_ended(&self) -> Result<Option<LogId>> {
        let Some(id) = &self.job else {
            return Ok(None);
        };
        let loaded = self.engine.visible(&self.caller, id).await?;
        if !loaded.job.state.is_terminal() {
            return Ok(None);
        }
        let store = self.engine.store();
        let page = store.tail(self.engine.shard(), LogId::MAX, 0).await?;
        Ok(Some(page.value.next))
    }

    /// Tells how a job ended whose end is not in the part of the log that is read.
    async fn tell_last(&self, from: LogId) -> Result<()> {
        let Some(id) = &self.job else {
            return Ok(());
        };
        let loaded = self.engine.visible(&self.caller, id).await?;
        if let Some(event) = loaded.job.events.last().cloned() {
            let answer = self.engine.answer(loaded, self.full).await?;
            self.reader
                .send(WatchItem::Event {
                    event,
                    answer,
                    resume_token: token(from),
                })
                .await?;
        }
        Ok(())
    }

    /// Tells of one change, if it is the reader's business; true when that was the last.
    async fn tell(&self, id: LogId, entry: &LogEntry) -> Result<bool> {
        if entry.tenant != self.caller.tenant
            || self.job.as_ref().is_some_and(|job| *job != entry.job_id)
        {
            return Ok(false);
        }
        let loaded = match self.engine.visible(&self.caller, &entry.job_id).await {
            Ok(loaded) => loaded,
            // Deleted since, or not for this reader's eyes.
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        // As the job was at the event, not as it is by now: a slow reader misses nothing.
        let wanted: Vec<_> = entry
            .events
            .iter()
            .filter(|event| self.filter.matches_at(&loaded.job, event))
            .collect();
        if wanted.is_empty() {
            return Ok(false);
        }
        let answer = match self.engine.answer(loaded, self.full).await {
            Ok(answer) => answer,
            Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        let last = wanted.len() - 1;
        for (position, event) in wanted.into_iter().enumerate() {
            // Only the last event of an entry moves the token, so that a resume repeats an entry
            // rather than cutting it.
            let next = if position == last { id + 1 } else { id };
            let item = WatchItem::Event {
                event: event.clone(),
                answer: answer.clone(),
                resume_token: token(next),
            };
            self.reader.send(item).await?;
        }
        let ended = entry
            .events
            .last()
            .is_some_and(|event| event.to.is_terminal());
        Ok(self.job.is_some() && ended)
    }
}
