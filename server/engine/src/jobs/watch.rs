//! Watches: the shard's log, filtered, resumable.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use coretex_core::id::JobId;
use coretex_store::{LogId, codec};
use std::time::Duration;
use tokio::sync::mpsc;

use crate::access::Caller;
use crate::commits::LogEntry;
use crate::engine::Engine;
use crate::jobs::list::narrowed;
use crate::types::{WatchItem, WatchTarget};
use crate::{Error, JobFilter, Result};

/// Log entries read at once.
const PAGE: usize = 256;
/// Messages that may wait for a reader; one that is further behind for long is cut.
const BUFFER: usize = 256;
/// The same where messages carry payloads, of which each may have two of a mebibyte.
const FULL_BUFFER: usize = 16;
/// How long a reader may leave its buffer full.
const PATIENCE: Duration = Duration::from_secs(10);
/// The log is looked at this often without a bell: the bound on what a lost one can cost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A resume token: the next log entry, marked so that nothing else is taken for one.
pub(crate) fn token(next: LogId) -> String {
    BASE64.encode([b"w1".as_slice(), &next.to_be_bytes()].concat())
}

fn parse_token(text: &str) -> Result<LogId> {
    let bytes = BASE64.decode(text).map_err(|_| Error::ResumeTokenInvalid)?;
    let rest = bytes.strip_prefix(b"w1").ok_or(Error::ResumeTokenInvalid)?;
    let next = rest.try_into().map_err(|_| Error::ResumeTokenInvalid)?;
    Ok(u64::from_be_bytes(next))
}

/// Whom a watch tells what.
struct Watch {
    engine: Engine,
    caller: Caller,
    filter: JobFilter,
    job: Option<JobId>,
    full: bool,
    sender: mpsc::Sender<Result<WatchItem>>,
}

impl Engine {
    /// A token from which a watch sees everything that happens from now on.
    pub(crate) async fn resume_token_now(&self) -> Result<String> {
        Ok(token(
            self.store()
                .tail(self.shard(), LogId::MAX, 0)
                .await?
                .value
                .next,
        ))
    }

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
        self.refuse_when_draining()?;
        let permit = std::sync::Arc::clone(self.watches())
            .try_acquire_owned()
            .map_err(|_| Error::TooManyStreams {
                limit: self.limits().max_watches,
            })?;
        let page = self.store().tail(self.shard(), LogId::MAX, 0).await?.value;
        let from = if resume_token.is_empty() {
            page.next
        } else {
            let from = parse_token(&resume_token)?;
            if from < page.first || from > page.next {
                return Err(Error::ResumeTokenInvalid);
            }
            from
        };
        let (filter, job) = match target {
            WatchTarget::Filter(filter) => (narrowed(caller, &filter), None),
            WatchTarget::Job(id) => {
                // Read after `from` was taken, so nothing falls between.
                self.visible(caller, &id).await?;
                (JobFilter::default(), Some(id))
            }
        };
        let buffer = if full { FULL_BUFFER } else { BUFFER };
        let (sender, receiver) = mpsc::channel(buffer + 1);
        // A place for the reason of the end: a reader that is cut for being slow has left no other.
        let parting = sender.clone().try_reserve_owned().ok();
        let watch = Watch {
            engine: self.clone(),
            caller: caller.clone(),
            filter,
            job,
            full,
            sender,
        };
        let opened = self.opened_by(&caller.principal_id);
        self.spawn_work(async move {
            let _permit = permit;
            let stop = watch.engine.stopping().clone();
            let ended = tokio::select! {
                biased;
                ended = watch.run(from) => ended,
                () = stop.cancelled() => Err(Error::Draining),
                () = opened.useless() => Err(Error::CredentialInvalid),
                () = watch.sender.closed() => Ok(()),
            };
            if let (Err(error), Some(parting)) = (ended, parting) {
                parting.send(Err(error));
            }
        });
        Ok(receiver)
    }
}

impl Watch {
    async fn run(&self, mut from: LogId) -> Result<()> {
        let mut bell = self.engine.log_bell();
        let epoch = self.engine.store().epoch();
        self.send(WatchItem::Checkpoint {
            resume_token: token(from),
        })
        .await?;
        let ended = self.target_has_ended().await?;
        loop {
            if ended.is_some_and(|end| from >= end) {
                // Its end was told before the watch began.
                return self.tell_last(from).await;
            }
            bell.mark_unchanged();
            let page = self
                .engine
                .store()
                .tail(self.engine.shard(), from, PAGE)
                .await?
                .value;
            // Trimmed past the reader, or taken back: then other entries have these ids.
            let rewound = self.engine.store().epoch() != epoch;
            if from < page.first || from > page.next || rewound {
                return Err(Error::ResumeTokenInvalid);
            }
            let read = page.entries.len();
            for entry in page.entries {
                from = entry.id + 1;
                if self
                    .tell(entry.id, &codec::decode::<LogEntry>(&entry.value)?.1)
                    .await?
                {
                    return Ok(());
                }
            }
            if read < PAGE {
                // A bell that cannot ring any more means that the engine is gone.
                let _ = tokio::time::timeout(LOOK_EVERY, bell.changed()).await;
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
            self.send(WatchItem::Event {
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
            self.send(item).await?;
        }
        let ended = entry
            .events
            .last()
            .is_some_and(|event| event.to.is_terminal());
        Ok(self.job.is_some() && ended)
    }

    async fn send(&self, item: WatchItem) -> Result<()> {
        match tokio::time::timeout(PATIENCE, self.sender.send(Ok(item))).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::WatchTooSlow),
        }
    }
}
