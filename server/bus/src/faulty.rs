//! A decorator that loses, doubles, delays and reorders messages by a seed, for simulations.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::dice::Dice;
use crate::{Bus, BusError, BusInfo, Subscription};

/// Messages held back, and messages on their way late. Above it they are lost instead, so that a long simulation with an
/// unlucky plan stays bounded.
const MAX_IN_FLIGHT: usize = 100_000;

/// What goes wrong, each with a chance between 0 (never) and 1 (always).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// The message is never delivered.
    pub lose: f64,
    /// The message is delivered twice; each copy may be late on its own.
    pub double: f64,
    /// The message is delivered late.
    pub delay: f64,
    /// The longest lateness of a delayed or overtaken message.
    pub max_delay: Duration,
    /// The message is held until a later one of this handle has been delivered (or `max_delay` is
    /// over).
    pub reorder: f64,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        lose: 0.0,
        double: 0.0,
        delay: 0.0,
        max_delay: Duration::ZERO,
        reorder: 0.0,
    };

    /// Everything is lost: a partition of this handle's outgoing side.
    pub const LOSE_ALL: Self = Self {
        lose: 1.0,
        ..Self::NONE
    };
}

/// How often each fault has struck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Messages given to publish.
    pub published: u64,
    /// Messages lost.
    pub lost: u64,
    /// Messages delivered twice.
    pub doubled: u64,
    /// Deliveries made late.
    pub delayed: u64,
    /// Messages overtaken by a later one.
    pub reordered: u64,
}

#[derive(Debug)]
struct Held {
    id: u64,
    subject: String,
    payload: Bytes,
}

#[derive(Debug)]
struct Plan {
    dice: Dice,
    faults: Faults,
    counts: FaultCounts,
    down: bool,
    held: VecDeque<Held>,
    next_held: u64,
    in_flight: usize,
}

#[derive(Debug)]
struct Shared {
    inner: Arc<dyn Bus>,
    plan: Mutex<Plan>,
}

/// Wraps a bus handle; what this handle *publishes* goes wrong as [`Faults`] says.
///
/// The luck of the n-th publish depends on the seed and n alone. Lateness uses `tokio::time`, so a
/// test with paused time is exact and quick.
#[derive(Clone, Debug)]
pub struct Faulty {
    shared: Arc<Shared>,
}

/// What luck has decided for one message.
struct Verdict {
    lose: bool,
    hold: bool,
    /// Lateness of the copies to deliver; empty unless neither lost nor held.
    copies: Vec<Duration>,
    late: Duration,
}

impl Faulty {
    /// Wraps `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Bus>, faults: Faults, seed: u64) -> Self {
        Self {
            shared: Arc::new(Shared {
                inner,
                plan: Mutex::new(Plan {
                    dice: Dice::new(seed),
                    faults,
                    counts: FaultCounts::default(),
                    down: false,
                    held: VecDeque::new(),
                    next_held: 0,
                    in_flight: 0,
                }),
            }),
        }
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.shared.plan.lock().faults = faults;
    }

    /// Takes the handle down or up again: while down it is not healthy and calls fail with
    /// [`BusError::Unavailable`]. Existing subscriptions go on.
    pub fn set_down(&self, down: bool) {
        self.shared.plan.lock().down = down;
    }

    /// How often each fault has struck so far.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        self.shared.plan.lock().counts
    }

    fn check_up(&self) -> Result<(), BusError> {
        if self.shared.plan.lock().down {
            return Err(BusError::Unavailable {
                reason: "taken down by the test".to_owned(),
            });
        }
        Ok(())
    }

    fn draw(&self) -> Verdict {
        let mut plan = self.shared.plan.lock();
        let faults = plan.faults;
        plan.counts.published += 1;
        let lose = plan.dice.strikes(faults.lose);
        let double = plan.dice.strikes(faults.double);
        let hold = plan.dice.strikes(faults.reorder);
        let late = faults.max_delay.mul_f64(plan.dice.fraction());
        let mut copies = Vec::new();
        for _ in 0..2 {
            let strikes = plan.dice.strikes(faults.delay);
            let lateness = faults.max_delay.mul_f64(plan.dice.fraction());
            copies.push(if strikes { lateness } else { Duration::ZERO });
        }
        if lose {
            plan.counts.lost += 1;
            copies.clear();
        } else if hold {
            copies.clear();
        } else {
            if double {
                plan.counts.doubled += 1;
            } else {
                copies.truncate(1);
            }
        }
        Verdict {
            lose,
            hold: hold && !lose,
            copies,
            late,
        }
    }

    /// Keeps a message back until the next publish, or until `late` is over.
    fn hold(&self, subject: &str, payload: Bytes, late: Duration) {
        let id = {
            let mut plan = self.shared.plan.lock();
            if plan.held.len() >= MAX_IN_FLIGHT {
                plan.counts.lost += 1;
                return;
            }
            let id = plan.next_held;
            plan.next_held += 1;
            plan.held.push_back(Held {
                id,
                subject: subject.to_owned(),
                payload,
            });
            id
        };
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            tokio::time::sleep(late).await;
            let held = {
                let mut plan = shared.plan.lock();
                let at = plan.held.iter().position(|held| held.id == id);
                at.and_then(|at| plan.held.remove(at))
            };
            if let Some(held) = held {
                deliver(&shared, &held.subject, held.payload).await;
            }
        });
    }

    /// Delivers what was held, now that a later message has overtaken it.
    async fn release(&self, held: VecDeque<Held>) {
        for held in held {
            self.shared.plan.lock().counts.reordered += 1;
            deliver(&self.shared, &held.subject, held.payload).await;
        }
    }

    fn send_later(&self, subject: &str, payload: Bytes, late: Duration) {
        {
            let mut plan = self.shared.plan.lock();
            if plan.in_flight >= MAX_IN_FLIGHT {
                plan.counts.lost += 1;
                return;
            }
            plan.in_flight += 1;
            plan.counts.delayed += 1;
        }
        let shared = Arc::clone(&self.shared);
        let subject = subject.to_owned();
        tokio::spawn(async move {
            tokio::time::sleep(late).await;
            deliver(&shared, &subject, payload).await;
            shared.plan.lock().in_flight -= 1;
        });
    }
}

/// Delivers a late message. An error (the bus was closed meanwhile) is one more way to lose it.
async fn deliver(shared: &Shared, subject: &str, payload: Bytes) {
    if shared.inner.publish(subject, payload).await.is_err() {
        shared.plan.lock().counts.lost += 1;
    }
}

#[async_trait]
impl Bus for Faulty {
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        self.check_up()?;
        crate::subject::check_subject(subject)?;
        let verdict = self.draw();
        if verdict.lose {
            return Ok(());
        }
        if verdict.hold {
            self.hold(subject, payload, verdict.late);
            return Ok(());
        }
        let overtaken = std::mem::take(&mut self.shared.plan.lock().held);
        let mut outcome = Ok(());
        for late in verdict.copies {
            if late.is_zero() {
                outcome = self.shared.inner.publish(subject, payload.clone()).await;
            } else {
                self.send_later(subject, payload.clone(), late);
            }
        }
        self.release(overtaken).await;
        outcome
    }

    async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
    ) -> Result<Subscription, BusError> {
        self.check_up()?;
        self.shared.inner.subscribe(subject, group).await
    }

    async fn drain(&self, grace: Duration) {
        self.shared.inner.drain(grace).await;
    }

    fn info(&self) -> BusInfo {
        self.shared.inner.info()
    }

    fn healthy(&self) -> bool {
        !self.shared.plan.lock().down && self.shared.inner.healthy()
    }
}
