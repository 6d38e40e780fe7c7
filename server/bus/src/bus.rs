//! The contract every engine keeps.

use std::fmt::Debug;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{BusError, Subscription};

/// Messages one subscription holds. A doorbell is answered within microseconds; thousands waiting
/// mean that the reader is stuck, and then more memory would not help it.
pub(crate) const QUEUE_CAPACITY: usize = 4_096;
/// The largest payload of every engine, the same as the default of nats-server, so that what works
/// on a single node also works on a cluster.
pub(crate) const MAX_PAYLOAD: usize = 1024 * 1024;

/// What an engine says about itself, for status pages and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusInfo {
    /// The engine's name as in the configuration: `inproc`, `nats`.
    pub engine: &'static str,
    /// Where it is connected, without credentials; empty when it is inside this process.
    pub endpoint: String,
    /// The largest payload it carries, in bytes.
    pub max_payload: usize,
    /// How many messages one subscription holds before it loses new ones.
    pub queue_capacity: usize,
}

/// Best-effort publish and subscribe. Every handle is one member (one replica) of a bus.
///
/// Subjects are dotted tokens as in NATS. A subscription may use `*` for one token and a last `>`
/// for one or more.
///
/// On a good day: a message reaches every subscription without a group and exactly one member of
/// every group that matches, at most once each; messages that one handle publishes one after the
/// other reach a subscription in that order.
///
/// On a bad day, when the connection of a network engine is away: publishes fail and nothing is
/// kept to be sent later, subscriptions stay and hear again once it is back, and nothing tells them
/// what they missed.
#[async_trait]
pub trait Bus: Send + Sync + Debug {
    /// Offers a message to whoever listens now. Never waits for a subscriber: one that is behind
    /// loses the message and learns how many it lost ([`Subscription::lagged`]).
    ///
    /// # Errors
    /// [`BusError::InvalidSubject`] (wildcards included), [`BusError::TooLarge`],
    /// [`BusError::Closed`] after [`Bus::drain`], [`BusError::Unavailable`] while disconnected.
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError>;

    /// Listens to a subject or pattern. When this returns, every later publish of this handle is
    /// offered. All subscriptions with the same `group` name, on whatever handle and pattern, share
    /// the messages they match: each goes to one of them. Dropping the subscription ends it.
    ///
    /// # Errors
    /// [`BusError::InvalidSubject`] (also for a group name, see
    /// [`check_group`](crate::subject::check_group)), [`BusError::Closed`],
    /// [`BusError::Unavailable`].
    async fn subscribe(&self, subject: &str, group: Option<&str>)
    -> Result<Subscription, BusError>;

    /// Stops this handle: publishes and subscribes fail from now on, subscriptions deliver what
    /// they hold and then end. Returns when everything held has been read or `grace` is over; what
    /// is unread then is thrown away and counted as lost. Other handles are not touched. May be
    /// called again.
    async fn drain(&self, grace: Duration);

    /// Describes the engine.
    fn info(&self) -> BusInfo;

    /// Whether a publish made now would reach the engine. False after a drain and while the
    /// connection is away.
    fn healthy(&self) -> bool;
}
