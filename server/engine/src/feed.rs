//! The shard's log as a feed, and readers that are told of it: what all watches share.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use coretex_store::{LogId, codec};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use crate::access::Caller;
use crate::commits::LogEntry;
use crate::engine::Engine;
use crate::{Error, Result};

/// Log entries read at once.
const PAGE: usize = 256;
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

/// The log from some entry on.
pub(crate) struct Feed {
    engine: Engine,
    from: LogId,
    epoch: u64,
    bell: watch::Receiver<u64>,
    /// The last read has found the end.
    idle: bool,
}

impl Feed {
    /// The entry that comes next.
    pub(crate) const fn position(&self) -> LogId {
        self.from
    }

    /// The next entries. At the end of the log it waits for more, at most a second: there may be
    /// none.
    ///
    /// # Errors
    /// `ResumeTokenInvalid` when the log was trimmed past the reader or the store was taken back;
    /// `Unavailable`, `DataLoss`.
    pub(crate) async fn next(&mut self) -> Result<Vec<(LogId, LogEntry)>> {
        if self.idle {
            // A bell that cannot ring any more means that the engine is gone.
            let _ = tokio::time::timeout(LOOK_EVERY, self.bell.changed()).await;
        }
        self.bell.mark_unchanged();
        let store = self.engine.store();
        let read = store.tail(self.engine.shard(), self.from, PAGE).await?;
        let page = read.value;
        // Trimmed past the reader, or taken back: then other entries have these ids.
        let rewound = store.epoch() != self.epoch;
        if self.from < page.first || self.from > page.next || rewound {
            return Err(Error::ResumeTokenInvalid);
        }
        self.idle = page.entries.len() < PAGE;
        let mut entries = Vec::with_capacity(page.entries.len());
        for entry in page.entries {
            self.from = entry.id + 1;
            entries.push((entry.id, codec::decode::<LogEntry>(&entry.value)?.1));
        }
        Ok(entries)
    }
}

/// Who is told.
#[derive(Debug)]
pub(crate) struct Reader<T>(mpsc::Sender<Result<T>>);

impl<T> Reader<T> {
    /// # Errors
    /// `WatchTooSlow` when the reader has left its buffer full for too long.
    pub(crate) async fn send(&self, item: T) -> Result<()> {
        match tokio::time::timeout(PATIENCE, self.0.send(Ok(item))).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::WatchTooSlow),
        }
    }
}

impl Engine {
    /// A token from which a watch sees everything that happens from now on.
    pub(crate) async fn resume_token_now(&self) -> Result<String> {
        let end = self.store().tail(self.shard(), LogId::MAX, 0).await?;
        Ok(token(end.value.next))
    }

    /// The log from a token on; without one, from now on.
    ///
    /// # Errors
    /// `ResumeTokenInvalid`, `Unavailable`.
    pub(crate) async fn feed(&self, resume_token: &str) -> Result<Feed> {
        let page = self.store().tail(self.shard(), LogId::MAX, 0).await?.value;
        let from = if resume_token.is_empty() {
            page.next
        } else {
            let from = parse_token(resume_token)?;
            if from < page.first || from > page.next {
                return Err(Error::ResumeTokenInvalid);
            }
            from
        };
        Ok(Feed {
            engine: self.clone(),
            from,
            epoch: self.store().epoch(),
            bell: self.log_bell(),
            idle: false,
        })
    }

    /// A place for one more watch.
    ///
    /// # Errors
    /// `TooManyStreams`, `Draining`.
    pub(crate) fn open_watch(&self) -> Result<OwnedSemaphorePermit> {
        self.refuse_when_draining()?;
        Arc::clone(self.watches())
            .try_acquire_owned()
            .map_err(|_| Error::TooManyStreams {
                limit: self.limits().max_watches,
            })
    }

    /// Runs a watch until it ends, its reader goes away, its credential ends or the engine stops.
    /// Why it ended is the last that the reader is told.
    pub(crate) fn run_watch<T, F>(
        &self,
        opening: OwnedSemaphorePermit,
        caller: &Caller,
        buffer: usize,
        run: impl FnOnce(Reader<T>) -> F,
    ) -> mpsc::Receiver<Result<T>>
    where
        T: Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(buffer + 1);
        // A place for the reason of the end: a reader that is cut for being slow has left no other.
        let parting = sender.clone().try_reserve_owned().ok();
        let work = run(Reader(sender.clone()));
        let opened = self.opened_by(&caller.principal_id);
        let stop = self.stopping().clone();
        self.spawn_work(async move {
            let _opening = opening;
            let ended = tokio::select! {
                biased;
                ended = work => ended,
                () = stop.cancelled() => Err(Error::Draining),
                () = opened.useless() => Err(Error::CredentialInvalid),
                () = sender.closed() => Ok(()),
            };
            if let (Err(error), Some(parting)) = (ended, parting) {
                parting.send(Err(error));
            }
        });
        receiver
    }
}
