//! Reading what a job has streamed: page by page from the store, at the speed of the reader.

use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::JobId;
use coretex_core::job::Job;
use coretex_core::job::output::{Entry, OutputRecord, Page, Position};
use coretex_store::codec;
use tokio::sync::mpsc;

use super::Listener;
use crate::access::Caller;
use crate::engine::Engine;
use crate::types::{OutputFrom, OutputItem, ReadOutput};
use crate::{Error, Result, keyspace};

/// It is looked for more this often without a bell: the bound on what a lost one can cost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One reader. Holds no more than a page, however slow it is.
struct Reader {
    engine: Engine,
    caller: Caller,
    id: JobId,
    wanted: ReadOutput,
    at: Position,
    /// The attempt whose pieces below the asked number are left out, once it is known.
    skipped_of: Option<u32>,
    sender: mpsc::Sender<Result<Vec<OutputItem>>>,
}

impl Engine {
    /// Streams what the attempts of a job have said while they ran, page by page. With `follow` it
    /// ends when the job, or the attempt that is asked for, has ended.
    ///
    /// # Errors
    /// `NotFound`, `TooManyStreams`, `Draining`, `Unavailable`. In the stream also
    /// `ResumeTokenInvalid` when there is no such position, and `CredentialInvalid` when the
    /// credential was revoked or has expired.
    pub async fn read_output(
        &self,
        caller: &Caller,
        id: &JobId,
        wanted: ReadOutput,
    ) -> Result<mpsc::Receiver<Result<Vec<OutputItem>>>> {
        self.refuse_when_draining()?;
        let permit = Arc::clone(self.watches())
            .try_acquire_owned()
            .map_err(|_| Error::TooManyStreams {
                limit: self.limits().max_watches,
            })?;
        self.visible(caller, id).await?;
        let (sender, receiver) = mpsc::channel(2);
        // A place for the reason of the end: a slow reader has left no other.
        let parting = sender.clone().try_reserve_owned().ok();
        let (at, skipped_of) = match wanted.from {
            OutputFrom::Position(at) => (at, Some(0)),
            OutputFrom::Sequence(_) => (Position::default(), wanted.attempt),
        };
        let reader = Reader {
            engine: self.clone(),
            caller: caller.clone(),
            id: id.clone(),
            wanted,
            at,
            skipped_of,
            sender: sender.clone(),
        };
        let opened = self.opened_by(&caller.principal_id);
        self.spawn_work(async move {
            let _permit = permit;
            let stop = reader.engine.stopping().clone();
            let ended = tokio::select! {
                ended = reader.run() => ended,
                () = stop.cancelled() => Err(Error::Draining),
                () = opened.useless() => Err(Error::CredentialInvalid),
                () = sender.closed() => Ok(()),
            };
            if let (Err(error), Some(parting)) = (ended, parting) {
                parting.send(Err(error));
            }
        });
        Ok(receiver)
    }
}

impl Reader {
    async fn run(mut self) -> Result<()> {
        let mut listener = Listener::new(&self.engine, &self.caller.tenant, &self.id);
        loop {
            listener.bell.mark_unchanged();
            // Before what is stored: of a job that has ended nothing more will be.
            let loaded = self.engine.visible(&self.caller, &self.id).await?;
            let over = self.is_over(&loaded.job);
            self.read_on().await?;
            if over || !self.wanted.follow {
                return Ok(());
            }
            // A bell that cannot ring any more means that the engine is gone.
            let _ = tokio::time::timeout(LOOK_EVERY, listener.bell.changed()).await;
        }
    }

    /// Whether nothing more is to be expected.
    fn is_over(&self, job: &Job) -> bool {
        let current = job.lease.as_ref().map(|lease| lease.slot.attempt);
        job.state.is_terminal()
            || self
                .wanted
                .attempt
                .is_some_and(|attempt| attempt <= job.attempt && current != Some(attempt))
    }

    /// Sends everything that is stored by now.
    async fn read_on(&mut self) -> Result<()> {
        let Some(record) = self.record().await? else {
            // Nothing yet: any position but the start is one of another stream.
            return if self.at == Position::default() {
                Ok(())
            } else {
                Err(Error::ResumeTokenInvalid)
            };
        };
        if !record.holds(self.at) {
            return Err(Error::ResumeTokenInvalid);
        }
        while self.at.page < record.pages {
            let page = self.page(self.at.page).await?;
            self.send(&record, page.attempt, &page.entries).await;
            self.at = Position {
                page: self.at.page + 1,
                index: 0,
            };
        }
        self.send(&record, record.attempt, &record.tail).await;
        self.at.index = u32::try_from(record.tail.len()).unwrap_or(u32::MAX);
        Ok(())
    }

    /// Sends the entries of a page from the position on, but for those that are not wanted.
    async fn send(&mut self, record: &OutputRecord, attempt: u32, entries: &[Entry]) {
        if entries.is_empty() {
            return;
        }
        let skipped_of = *self.skipped_of.get_or_insert(attempt);
        let from = match self.wanted.from {
            OutputFrom::Sequence(from) if attempt == skipped_of => from,
            OutputFrom::Sequence(_) | OutputFrom::Position(_) => 0,
        };
        if self.wanted.attempt.is_some_and(|wanted| wanted != attempt) {
            return;
        }
        let page = self.at.page;
        let items: Vec<OutputItem> = (0..)
            .zip(entries)
            .skip(self.at.index as usize)
            .filter(|(_, entry)| {
                // A gap is told to everybody: whatever was asked for from there on is missing.
                self.wanted.channels.contains(&entry.chunk.channel)
                    && (entry.gap || entry.chunk.sequence >= from)
            })
            .map(|(index, entry)| {
                let state = record.channel(entry.chunk.channel);
                OutputItem {
                    attempt,
                    entry: entry.clone(),
                    dropped: entry
                        .gap
                        .then_some((state.dropped_chunks, state.dropped_bytes)),
                    next: Position {
                        page,
                        index: index + 1,
                    },
                }
            })
            .collect();
        if !items.is_empty() {
            // One that has left is noticed by whoever runs this.
            let _ = self.sender.send(Ok(items)).await;
        }
    }

    async fn record(&self) -> Result<Option<OutputRecord>> {
        let key = keyspace::stream(&self.caller.tenant, &self.id);
        let read = self.engine.store().get(self.engine.shard(), &[key]).await?;
        match read.value.into_iter().next().flatten() {
            Some(record) => Ok(Some(codec::decode(&record.value)?.1)),
            None => Ok(None),
        }
    }

    async fn page(&self, number: u32) -> Result<Page> {
        let key = keyspace::stream_page(&self.caller.tenant, &self.id, number);
        let read = self.engine.store().get(self.engine.shard(), &[key]).await?;
        if let Some(record) = read.value.into_iter().next().flatten() {
            return Ok(codec::decode(&record.value)?.1);
        }
        // Deleted since, with its job.
        self.engine.visible(&self.caller, &self.id).await?;
        Err(Error::DataLoss {
            what: "a page of streamed output".to_owned(),
        })
    }
}
