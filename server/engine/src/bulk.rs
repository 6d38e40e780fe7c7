//! One thing done to many jobs: page by page, at a rate, with progress, resumable.
//!
//! What is done is a [`BulkWork`]; those of jobs are in [`jobs::bulk`](crate::jobs), those of dead
//! letters in [`dlq::bulk`](crate::dlq). Nothing of an operation is stored: what it did is in the
//! records of the jobs, and where it was is in the tokens that it hands out. So every item has to be
//! something that may be done twice.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use coretex_core::id::{JobId, TenantId};
use coretex_core::job::Job;
use coretex_core::time::Timestamp;
use coretex_store::codec;
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::access::Caller;
use crate::access::streams::Opened;
use crate::engine::Engine;
use crate::jobs::list::{Position, Scan};
use crate::{Error, Result};

/// The most items of one operation a second.
pub const MAX_BULK_RATE: u32 = 1_000;
/// The same for what makes new jobs, unless the caller says otherwise: workers have to run them.
pub(crate) const CAREFUL_RATE: u32 = 100;
/// Operations at once in this process; each has at most [`AT_ONCE`] items under way.
pub(crate) const MAX_OPERATIONS: usize = 16;
/// Items of one operation under way at once.
const AT_ONCE: u32 = 16;
/// Records read at once.
const PAGE: usize = 128;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(500);
/// Messages that may wait for the reader; further ones are left out, for each says everything.
const BUFFER: usize = 4;
/// How much later than the beginning of an operation something may seem to have happened before it:
/// replicas and the store agree on the time to within this.
const LEEWAY: Duration = Duration::from_millis(100);
/// Failures that are told of.
const MAX_FAILURES: usize = 10;

/// How an operation is carried out.
#[derive(Clone, Debug, Default)]
pub struct BulkOptions {
    /// Items a second, at most [`MAX_BULK_RATE`]; 0 = the operation's default.
    pub rate: u32,
    /// Count what would be done, and do nothing.
    pub dry_run: bool,
    /// Go on where an earlier call was; empty = from the start.
    pub page_token: String,
    /// Names the operation, so that what makes new jobs makes each once; empty = a new one.
    pub idempotency_key: String,
}

/// How far an operation is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BulkProgress {
    /// Jobs that matched so far.
    pub matched: u64,
    /// Those for which it was done.
    pub done: u64,
    /// Those for which nothing was left to do: somebody else was faster.
    pub skipped: u64,
    /// Those that refused.
    pub failed: u64,
    /// The first of those that refused since this call began.
    pub failures: Vec<(JobId, Error)>,
    /// Whether this was all.
    pub finished: bool,
    /// Goes on from here.
    pub page_token: String,
    /// The name of the operation.
    pub idempotency_key: String,
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Did {
    /// It was done.
    It,
    /// Nothing was left to do.
    Nothing,
}

/// What is done to each of many jobs.
pub(crate) trait BulkWork: Send + Sync + 'static {
    /// Items a second where the caller does not say.
    const RATE: u32;

    /// What tells this operation from others, for its tokens.
    fn identity(&self, tenant: &TenantId) -> Result<[u8; 8]>;

    /// A walk over everything that can match and was there before `until`: what comes later is not
    /// touched, or an operation on a busy tenant might never end.
    fn scan<'a>(&self, engine: &'a Engine, tenant: &'a TenantId, until: Timestamp) -> Scan<'a>;

    /// Whether `job` is one of them, in the operation named `key`.
    fn matches(&self, job: &Job, key: &str) -> bool;

    /// Does it.
    fn one(
        &self,
        engine: &Engine,
        caller: &Caller,
        id: &JobId,
        key: &str,
    ) -> impl Future<Output = Result<Did>> + Send;
}

/// Where an operation is.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Place {
    operation: [u8; 8],
    key: String,
    until: Timestamp,
    after: Option<Position>,
    /// Matched, done, skipped, failed.
    counts: [u64; 4],
}

impl Place {
    fn encode(&self) -> Result<String> {
        Ok(BASE64.encode(codec::encode(1, self)?))
    }

    fn decode(text: &str) -> Result<Self> {
        let bytes = BASE64.decode(text).map_err(|_| Error::PageTokenInvalid)?;
        let decoded = codec::decode::<Self>(&bytes);
        Ok(decoded.map_err(|_| Error::PageTokenInvalid)?.1)
    }
}

/// The idempotency key of the new job that the operation named `key` makes of `id`.
pub(crate) fn key_of(key: &str, id: &JobId) -> String {
    let mut digest = Sha256::new();
    digest.update(key.as_bytes());
    digest.update([0]);
    digest.update(id.as_bytes());
    let digest = digest.finalize();
    let hex: String = digest[..16].iter().map(|b| format!("{b:02x}")).collect();
    format!("bulk:{hex}")
}

/// Whether `job` was made by the operation named `key`.
pub(crate) fn made_by(job: &Job, key: &str) -> bool {
    let made = job.rerun_of.as_ref().map(|id| key_of(key, id));
    made.is_some_and(|made| made == job.idempotency_key)
}

/// Why an operation stops before its end.
enum Halt {
    /// The reader has gone: there is nobody to tell.
    Gone,
    Because(Error),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Because(error)
    }
}

struct Operation<W> {
    engine: Engine,
    caller: Caller,
    work: W,
    rate: u32,
    dry_run: bool,
    place: Place,
    failures: Vec<(JobId, Error)>,
    told: Instant,
    sender: mpsc::Sender<Result<BulkProgress>>,
    opened: Opened,
}

impl Engine {
    /// Begins an operation, or goes on with one. The first message names it, the last is
    /// `finished` or an error; the operation stops when nobody reads any more.
    pub(crate) async fn begin_bulk<W: BulkWork>(
        &self,
        caller: &Caller,
        work: W,
        options: BulkOptions,
    ) -> Result<mpsc::Receiver<Result<BulkProgress>>> {
        self.refuse_when_draining()?;
        let permits = std::sync::Arc::clone(self.bulk_operations());
        let permit = permits
            .try_acquire_owned()
            .map_err(|_| Error::TooManyStreams {
                limit: MAX_OPERATIONS,
            })?;
        let operation = work.identity(&caller.tenant)?;
        let place = if options.page_token.is_empty() {
            let named = Some(options.idempotency_key).filter(|key| !key.is_empty());
            Place {
                operation,
                key: named.unwrap_or_else(|| format!("{:032x}", self.ids().random())),
                until: self.store().time().await?.max(self.now()) + LEEWAY,
                after: None,
                counts: [0; 4],
            }
        } else {
            let place = Place::decode(&options.page_token)?;
            let other_key =
                !options.idempotency_key.is_empty() && options.idempotency_key != place.key;
            if place.operation != operation || other_key {
                return Err(Error::PageTokenInvalid);
            }
            place
        };
        let (sender, receiver) = mpsc::channel(BUFFER + 1);
        // A place for the last message, however slow the reader is.
        let parting = sender.clone().try_reserve_owned().ok();
        let rate = match options.rate {
            0 => W::RATE,
            given => given.min(MAX_BULK_RATE),
        };
        let mut run = Operation {
            engine: self.clone(),
            caller: caller.clone(),
            work,
            rate,
            dry_run: options.dry_run,
            place,
            failures: Vec::new(),
            told: Instant::now(),
            sender,
            opened: self.opened_by(&caller.principal_id),
        };
        self.spawn_work(async move {
            let _permit = permit;
            let ended = run.run().await;
            let last = match ended {
                Ok(()) => run.progress(true),
                Err(Halt::Because(error)) => {
                    run.tell();
                    Err(error)
                }
                Err(Halt::Gone) => return,
            };
            if let Some(parting) = parting {
                parting.send(last);
            }
        });
        Ok(receiver)
    }
}

impl<W: BulkWork> Operation<W> {
    async fn run(&mut self) -> std::result::Result<(), Halt> {
        self.tell();
        let engine = self.engine.clone();
        let tenant = self.caller.tenant.clone();
        let mut scan = self.work.scan(&engine, &tenant, self.place.until);
        scan.after = self.place.after.clone();
        // A tenth of a second's worth at once, so that the rate holds over short times too.
        let wave = (self.rate / 10).clamp(1, AT_ONCE);
        let mut next = Instant::now();
        while let Some(batch) = scan.next_batch(PAGE).await? {
            let end = batch.last().map(|(position, _)| position.clone());
            scan.after.clone_from(&end);
            let found: Vec<Position> = batch
                .into_iter()
                .filter(|(_, loaded)| {
                    let job = loaded.as_ref().map(|loaded| &*loaded.job);
                    job.is_some_and(|job| self.work.matches(job, &self.place.key))
                })
                .map(|(position, _)| position)
                .collect();
            if self.dry_run {
                self.place.counts[0] += found.len() as u64;
            } else {
                for items in found.chunks(wave as usize) {
                    self.turn(next).await?;
                    next = Instant::now()
                        + Duration::from_secs_f64(items.len() as f64 / f64::from(self.rate));
                    self.settle(items).await?;
                }
            }
            self.place.after = end;
            self.tell_sometimes()?;
        }
        Ok(())
    }

    /// Waits until `at`, unless there is a reason to stop.
    async fn turn(&self, at: Instant) -> std::result::Result<(), Halt> {
        let stopping = self.engine.stopping();
        tokio::select! {
            biased;
            () = self.sender.closed() => Err(Halt::Gone),
            () = stopping.cancelled() => Err(Error::Draining.into()),
            () = self.opened.useless() => Err(Error::CredentialInvalid.into()),
            () = tokio::time::sleep_until(at) => Ok(()),
        }
    }

    /// Does it to some, all at once. What is under way comes to its end.
    async fn settle(&mut self, items: &[Position]) -> std::result::Result<(), Halt> {
        let work = items.iter().map(|(_, id)| {
            let (engine, caller) = (&self.engine, &self.caller);
            self.work.one(engine, caller, id, &self.place.key)
        });
        let all = join_all(work).await;
        for (position, mut did) in items.iter().zip(all) {
            while let Err(Error::SubmitRateExceeded { retry_after }) = did {
                // The tenant's own rate is slower than that of the operation.
                self.turn(Instant::now() + retry_after).await?;
                let (engine, caller, key) = (&self.engine, &self.caller, &self.place.key);
                did = self.work.one(engine, caller, &position.1, key).await;
            }
            let count = match did {
                Ok(Did::It) => 1,
                Ok(Did::Nothing) | Err(Error::NotFound { .. } | Error::JobNotEnded) => 2,
                // The next would fare no better: whoever asked goes on from here later.
                Err(error) if stops(&error) => return Err(error.into()),
                Err(error) => {
                    if self.failures.len() < MAX_FAILURES {
                        self.failures.push((position.1.clone(), error));
                    }
                    3
                }
            };
            self.place.counts[0] += 1;
            self.place.counts[count] += 1;
            self.place.after = Some(position.clone());
        }
        self.tell_sometimes()
    }

    fn progress(&self, finished: bool) -> Result<BulkProgress> {
        let [matched, done, skipped, failed] = self.place.counts;
        Ok(BulkProgress {
            matched,
            done,
            skipped,
            failed,
            failures: self.failures.clone(),
            finished,
            page_token: if finished {
                String::new()
            } else {
                self.place.encode()?
            },
            idempotency_key: self.place.key.clone(),
        })
    }

    fn tell_sometimes(&mut self) -> std::result::Result<(), Halt> {
        if self.sender.is_closed() {
            return Err(Halt::Gone);
        }
        if self.engine.stopping().is_cancelled() {
            return Err(Error::Draining.into());
        }
        if self.told.elapsed() >= TELL_EVERY {
            self.tell();
        }
        Ok(())
    }

    /// A reader that is slow hears less: the next message says everything again.
    fn tell(&mut self) {
        self.told = Instant::now();
        let _ = self.sender.try_send(self.progress(false));
    }
}

/// Whether what went wrong with one item would go wrong with the next, too.
fn stops(error: &Error) -> bool {
    match error {
        Error::Unavailable { .. }
        | Error::OutcomeUnknown
        | Error::Overloaded { .. }
        | Error::StoreFull
        | Error::TooManyWaitingJobs { .. }
        | Error::SubmitRateExceeded { .. }
        | Error::TooManyPauses { .. }
        | Error::TooManyConfigs { .. }
        | Error::TooManyStreams { .. }
        | Error::Draining
        | Error::CredentialMissing
        | Error::CredentialInvalid
        | Error::PermissionMissing { .. }
        | Error::TenantNotAllowed
        | Error::FeatureNotAvailable { .. }
        | Error::PageTokenInvalid
        | Error::ResumeTokenInvalid
        | Error::WatchTooSlow
        | Error::PolicyUnavailable { .. }
        | Error::Protocol { .. }
        | Error::Internal { .. } => true,
        Error::Invalid(_)
        | Error::NotFound { .. }
        | Error::AlreadyExists { .. }
        | Error::IdempotencyKeyReused { .. }
        | Error::TeamNotAllowed { .. }
        | Error::RoleNotAllowed { .. }
        | Error::JobNotEnded
        | Error::EtagMismatch { .. }
        | Error::BundleInForce { .. }
        | Error::SignatureInvalid { .. }
        | Error::TooManyBundles { .. }
        | Error::ApprovalHashMismatch
        | Error::ApprovalResolved { .. }
        | Error::ApprovalOwnRequest
        | Error::ApprovalRoleMissing { .. }
        | Error::ConcurrencyLimitReached { .. }
        | Error::PoolNotAllowed { .. }
        | Error::TopicNotAllowed { .. }
        | Error::Contention
        | Error::DataLoss { .. } => false,
    }
}
