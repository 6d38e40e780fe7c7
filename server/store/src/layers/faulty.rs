//! A store that misbehaves on request, for simulations and tests of what stands on a store.

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::sync::Arc;
use std::time::Duration;

use coretex_core::time::IdGen;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::{Batch, CommitError, Committed, Store, StoreError};

use super::{Call, Layer, layer};

/// What happens to one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It goes through.
    None,
    /// It is refused with this error and never sent.
    Before(CommitError),
    /// It is applied, if it can be, and answered `Unknown`.
    After,
    /// It is answered `Unknown` now and sent after this pause, as a command that was held up on
    /// its way. Needs a runtime.
    Late(Duration),
    /// It is sent after this pause.
    Delay(Duration),
    /// It is sent, and answered after this pause.
    SlowAnswer(Duration),
    /// It is never sent and never answered.
    Stall,
    /// It is sent and never answered.
    StallAfter,
}

/// How often what happens to commits that no script is left for. Shares of one; what is left over
/// goes through.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FaultRates {
    /// Refused as `Unavailable` without being sent.
    pub before: f64,
    /// Applied and answered `Unknown`.
    pub after: f64,
    /// Answered `Unknown` and sent later.
    pub late: f64,
    /// Sent later.
    pub delay: f64,
    /// The longest pause of those that are sent later.
    pub longest_delay: Duration,
}

#[derive(Debug, Default)]
struct Plan {
    script: VecDeque<Fault>,
    rates: FaultRates,
}

/// The state of the way to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    /// Every call is refused.
    Down,
    /// Every call waits.
    Paused,
}

/// A store with faults: scripted ones first, then by rates from a seed.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn Store>,
    ids: Arc<dyn IdGen>,
    plan: Mutex<Plan>,
    way: Mutex<Way>,
    /// Rings when the way changes. Those who wait go on in the order in which they came, so that a
    /// seed tells what happens.
    changed: Notify,
}

impl Faulty {
    /// Wraps a store; without a script and rates it does nothing. What happens by rates, and how
    /// long a pause is, comes from `ids`.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, ids: Arc<dyn IdGen>) -> Self {
        Self {
            inner,
            ids,
            plan: Mutex::default(),
            way: Mutex::new(Way::Open),
            changed: Notify::new(),
        }
    }

    /// Appends to the script: one entry for each commit to come.
    pub fn script(&self, faults: impl IntoIterator<Item = Fault>) {
        self.plan.lock().script.extend(faults);
    }

    /// Sets what happens when the script is over.
    pub fn rates(&self, rates: FaultRates) {
        self.plan.lock().rates = rates;
    }

    /// From now on every call is refused as `Unavailable`, until [`Self::restore`].
    pub fn take_down(&self) {
        self.set(Way::Down);
    }

    /// From now on every call waits, as at a process that is stopped, until [`Self::restore`].
    pub fn pause(&self) {
        self.set(Way::Paused);
    }

    /// Ends [`Self::take_down`] and [`Self::pause`]; calls that waited go on.
    pub fn restore(&self) {
        self.set(Way::Open);
    }

    fn set(&self, way: Way) {
        *self.way.lock() = way;
        self.changed.notify_waiters();
    }

    /// Waits while paused; false = down.
    async fn way_is_open(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            let way = *self.way.lock();
            if way != Way::Paused {
                return way == Way::Open;
            }
            changed.await;
        }
    }

    fn next(&self) -> Fault {
        let mut plan = self.plan.lock();
        if let Some(fault) = plan.script.pop_front() {
            return fault;
        }
        let rates = plan.rates;
        drop(plan);
        if rates == FaultRates::default() {
            return Fault::None;
        }
        let pause = || rates.longest_delay.mul_f64(self.ids.fraction());
        let mut share = self.ids.fraction();
        for (rate, fault) in [
            (rates.before, 0_u8),
            (rates.after, 1),
            (rates.late, 2),
            (rates.delay, 3),
        ] {
            if share < rate {
                return match fault {
                    0 => Fault::Before(injected()),
                    1 => Fault::After,
                    2 => Fault::Late(pause()),
                    _ => Fault::Delay(pause()),
                };
            }
            share -= rate;
        }
        Fault::None
    }
}

fn injected() -> CommitError {
    CommitError::Unavailable {
        reason: "injected".to_owned(),
    }
}

fn unknown() -> CommitError {
    CommitError::Unknown {
        reason: "injected".to_owned(),
    }
}

impl Layer for Faulty {
    fn inner(&self) -> &dyn Store {
        self.inner.as_ref()
    }

    async fn call<T: Send>(
        &self,
        _call: Call,
        inner: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        if self.way_is_open().await {
            return inner.await;
        }
        Err(StoreError::Unavailable {
            reason: "injected".to_owned(),
        })
    }

    async fn send(&self, batch: Batch) -> Result<Committed, CommitError> {
        if !self.way_is_open().await {
            return Err(injected());
        }
        match self.next() {
            Fault::None => self.inner.commit(batch).await,
            Fault::Before(error) => Err(error),
            Fault::After => {
                // What it would have said is what the caller must not know.
                drop(self.inner.commit(batch).await);
                Err(unknown())
            }
            Fault::Late(pause) => {
                let inner = self.inner.clone();
                tokio::spawn(async move {
                    sleep(pause).await;
                    drop(inner.commit(batch).await);
                });
                Err(unknown())
            }
            Fault::Delay(pause) => {
                sleep(pause).await;
                self.inner.commit(batch).await
            }
            Fault::SlowAnswer(pause) => {
                let answer = self.inner.commit(batch).await;
                sleep(pause).await;
                answer
            }
            Fault::Stall => pending().await,
            Fault::StallAfter => {
                drop(self.inner.commit(batch).await);
                pending().await
            }
        }
    }
}

layer!(Faulty);
