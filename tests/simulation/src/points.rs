//! Fault points: the places in the life of a job where something can go wrong, counted as they are
//! reached, and the one fault that strikes at one of them.
//!
//! Commits and publishes are met here, in layers around store and bus of each server. What is sent
//! to a worker or comes from one, and what callers ask, is met where workers and callers are played
//! ([`process`](crate::process), [`lives`](crate::lives)).

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use coretex_bus::{Bus, BusError, BusInfo, Subscription};
use coretex_core::time::Timestamp;
use coretex_store::layers::{Fault, Faulty};
use coretex_store::{
    Batch, CommitError, Committed, Key, LogId, LogPage, Member, Order, Pressure, Range, Read,
    Record, Shard, Store, StoreError, StoreInfo, Usage, Write,
};
use coretex_testbench::{Tap, millis, pass, secs};
use parking_lot::Mutex;

/// A place where something can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A commit of a job.
    Commit,
    /// A commit about leases and workers.
    Lease,
    /// A message to the other servers.
    Publish,
    /// A message to a worker.
    Send,
    /// A message from a worker.
    Receive,
    /// A call of a client.
    Ask,
}

/// What strikes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// The server dies just before.
    KillBefore,
    /// The server dies just after.
    KillAfter,
    /// From here on every call of the server's to the store fails, for three seconds.
    StoreDown,
    /// From here on every call of the server's to the store hangs, for twenty seconds.
    StoreStall,
    /// The commit is refused, and surely not applied.
    Refused,
    /// The commit is refused because too many wait.
    Overloaded,
    /// The commit is not applied, and nobody says so.
    Vanished,
    /// The commit is applied, and nobody says so.
    AnswerLost,
    /// Nobody says what became of the commit, and it is applied a little later.
    Late,
    /// The same, when its caller has long given up.
    VeryLate,
    /// The commit is held up on its way for nine seconds.
    HeldUp,
    /// The answer is held up for nine seconds.
    SlowAnswer,
    /// The message is lost. On a worker's stream, or a caller's: the connection with it.
    Lost,
    /// The message arrives, and the connection breaks; a caller does not get its answer.
    Cut,
    /// The message comes twice.
    Doubled,
    /// The message comes three seconds late.
    Delayed,
    /// The bus refuses it.
    BusDown,
    /// The worker dies just before.
    WorkerDies,
    /// The worker dies just after.
    WorkerDiesAfter,
}

impl Strike {
    /// Every strike.
    pub const ALL: [Self; 19] = [
        Self::KillBefore,
        Self::KillAfter,
        Self::StoreDown,
        Self::StoreStall,
        Self::Refused,
        Self::Overloaded,
        Self::Vanished,
        Self::AnswerLost,
        Self::Late,
        Self::VeryLate,
        Self::HeldUp,
        Self::SlowAnswer,
        Self::Lost,
        Self::Cut,
        Self::Doubled,
        Self::Delayed,
        Self::BusDown,
        Self::WorkerDies,
        Self::WorkerDiesAfter,
    ];

    /// Whether it can strike at such a point.
    #[must_use]
    pub const fn fits(self, point: Point) -> bool {
        use Point::{Ask, Commit, Lease, Publish, Receive, Send};
        match self {
            Self::KillBefore | Self::KillAfter | Self::StoreDown | Self::StoreStall => true,
            Self::Refused
            | Self::Overloaded
            | Self::Vanished
            | Self::AnswerLost
            | Self::Late
            | Self::VeryLate
            | Self::HeldUp
            | Self::SlowAnswer => matches!(point, Commit | Lease),
            Self::Lost => matches!(point, Publish | Send | Receive | Ask),
            Self::Cut => matches!(point, Send | Receive | Ask),
            Self::Doubled => matches!(point, Publish | Receive | Ask),
            Self::Delayed => matches!(point, Publish | Send | Receive | Ask),
            Self::BusDown => matches!(point, Publish),
            Self::WorkerDies | Self::WorkerDiesAfter => matches!(point, Send | Receive),
        }
    }

    /// Whether somebody cannot know what became of a commit.
    #[must_use]
    pub const fn leaves_doubt(self) -> bool {
        matches!(
            self,
            Self::Vanished | Self::AnswerLost | Self::Late | Self::VeryLate
        )
    }

    /// Whether a server, a worker, or the connection between them, may be gone for good.
    #[must_use]
    pub const fn is_violent(self) -> bool {
        matches!(
            self,
            Self::KillBefore
                | Self::KillAfter
                | Self::StoreStall
                | Self::Lost
                | Self::Cut
                | Self::WorkerDies
                | Self::WorkerDiesAfter
        )
    }

    fn fault(self) -> Option<Fault> {
        Some(match self {
            Self::Refused => Fault::Before(CommitError::Unavailable {
                reason: "simulated".to_owned(),
            }),
            Self::Overloaded => Fault::Before(CommitError::Overloaded {
                retry_after: millis(20),
            }),
            Self::Vanished => Fault::Before(CommitError::Unknown {
                reason: "simulated".to_owned(),
            }),
            Self::AnswerLost => Fault::After,
            Self::Late => Fault::Late(millis(300)),
            Self::VeryLate => Fault::Late(secs(14)),
            Self::HeldUp => Fault::Delay(secs(9)),
            Self::SlowAnswer => Fault::SlowAnswer(secs(9)),
            Self::KillBefore => Fault::Stall,
            Self::KillAfter => Fault::StallAfter,
            Self::StoreDown
            | Self::StoreStall
            | Self::Lost
            | Self::Cut
            | Self::Doubled
            | Self::Delayed
            | Self::BusDown
            | Self::WorkerDies
            | Self::WorkerDiesAfter => return None,
        })
    }
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

#[derive(Debug, Default)]
struct State {
    /// Points count from here on.
    open: bool,
    met: Vec<Point>,
    plan: Option<(usize, Strike)>,
}

/// Counts points, and says what strikes at each.
#[derive(Debug, Default)]
pub(crate) struct Points {
    state: Mutex<State>,
}

impl Points {
    /// Begins to count; `plan` strikes at the point of this number, if it fits there.
    pub(crate) fn open(&self, plan: Option<(usize, Strike)>) {
        *self.state.lock() = State {
            open: true,
            met: Vec::new(),
            plan,
        };
    }

    /// Stops counting; what was met.
    pub(crate) fn close(&self) -> Vec<Point> {
        std::mem::take(&mut *self.state.lock()).met
    }

    /// A point is reached.
    pub(crate) fn reach(&self, point: Point) -> Option<Strike> {
        let mut state = self.state.lock();
        if !state.open {
            return None;
        }
        let number = state.met.len();
        state.met.push(point);
        let (at, strike) = state.plan?;
        (at == number && strike.fits(point)).then_some(strike)
    }
}

/// The store goes away and comes back.
pub(crate) fn take_store_away(link: &Arc<Faulty>, strike: Strike) {
    let time = if strike == Strike::StoreDown {
        link.take_down();
        secs(3)
    } else {
        link.pause();
        secs(20)
    };
    let link = Arc::clone(link);
    tokio::spawn(async move {
        pass(time).await;
        link.restore();
    });
}

/// A server's store, where its commits are points.
#[derive(Debug)]
pub(crate) struct WatchedStore {
    pub(crate) inner: Arc<Tap>,
    pub(crate) link: Arc<Faulty>,
    pub(crate) points: Arc<Points>,
}

#[async_trait]
impl Store for WatchedStore {
    fn info(&self) -> StoreInfo {
        self.inner.info()
    }

    fn pressure(&self) -> Pressure {
        self.inner.pressure()
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    async fn get(
        &self,
        shard: Shard,
        keys: &[Key],
    ) -> Result<Read<Vec<Option<Record>>>, StoreError> {
        self.inner.get(shard, keys).await
    }

    async fn range(
        &self,
        shard: Shard,
        ranges: &[Range],
        limit: usize,
        order: Order,
    ) -> Result<Read<Vec<Vec<Member>>>, StoreError> {
        self.inner.range(shard, ranges, limit, order).await
    }

    async fn count(&self, shard: Shard, range: &Range, cap: u64) -> Result<Read<u64>, StoreError> {
        self.inner.count(shard, range, cap).await
    }

    async fn tail(
        &self,
        shard: Shard,
        from: LogId,
        limit: usize,
    ) -> Result<Read<LogPage>, StoreError> {
        self.inner.tail(shard, from, limit).await
    }

    async fn commit(&self, batch: Batch) -> Result<Committed, CommitError> {
        let point = if batch.shard == Shard::Sys {
            Point::Lease
        } else {
            Point::Commit
        };
        tracing::debug!(target: "story", "commit {:x} to {}", batch.commit_id.0, written(&batch));
        let Some(strike) = self.points.reach(point) else {
            return self.inner.commit(batch).await;
        };
        match strike.fault() {
            // It strikes the very next commit that gets there, which is this one.
            Some(fault) => self.link.script([fault]),
            None => take_store_away(&self.link, strike),
        }
        let mut sent = pin!(self.inner.commit(batch));
        if matches!(strike, Strike::KillBefore | Strike::KillAfter) {
            let _ = futures::poll!(&mut sent);
            self.inner.kill();
        }
        sent.await
    }

    async fn trim(&self, shard: Shard, before: LogId) -> Result<(), StoreError> {
        self.inner.trim(shard, before).await
    }

    async fn time(&self) -> Result<Timestamp, StoreError> {
        self.inner.time().await
    }

    async fn usage(&self) -> Result<Usage, StoreError> {
        self.inner.usage().await
    }

    async fn close(&self, grace: Duration) {
        self.inner.close(grace).await;
    }
}

/// What a commit is about.
fn written(batch: &Batch) -> String {
    let first = batch.writes.iter().find_map(|write| match write {
        Write::Put { key, .. } | Write::Delete { key } => Some(key.escape_ascii().to_string()),
        Write::Add { .. } | Write::Remove { .. } | Write::Append { .. } => None,
    });
    first.unwrap_or_default()
}

/// A server's bus, where its messages are points.
#[derive(Debug)]
pub(crate) struct WatchedBus {
    pub(crate) inner: Arc<coretex_bus::Faulty>,
    pub(crate) tap: Arc<Tap>,
    pub(crate) link: Arc<Faulty>,
    pub(crate) points: Arc<Points>,
}

#[async_trait]
impl Bus for WatchedBus {
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        if self.tap.is_dead() {
            return Ok(());
        }
        match self.points.reach(Point::Publish) {
            Some(Strike::KillBefore) => {
                self.tap.kill();
                return Ok(());
            }
            Some(Strike::Lost) => return Ok(()),
            Some(Strike::BusDown) => {
                return Err(BusError::Unavailable {
                    reason: "simulated".to_owned(),
                });
            }
            Some(Strike::Delayed) => {
                let (inner, subject) = (Arc::clone(&self.inner), subject.to_owned());
                tokio::spawn(async move {
                    pass(secs(3)).await;
                    drop(inner.publish(&subject, payload).await);
                });
                return Ok(());
            }
            Some(Strike::Doubled) => self.inner.publish(subject, payload.clone()).await?,
            Some(strike @ (Strike::StoreDown | Strike::StoreStall)) => {
                take_store_away(&self.link, strike);
            }
            Some(Strike::KillAfter) => {
                let told = self.inner.publish(subject, payload).await;
                self.tap.kill();
                return told;
            }
            _ => {}
        }
        self.inner.publish(subject, payload).await
    }

    async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
    ) -> Result<Subscription, BusError> {
        self.inner.subscribe(subject, group).await
    }

    async fn drain(&self, grace: Duration) {
        self.inner.drain(grace).await;
    }

    fn info(&self) -> BusInfo {
        self.inner.info()
    }

    fn healthy(&self) -> bool {
        self.inner.healthy()
    }
}
