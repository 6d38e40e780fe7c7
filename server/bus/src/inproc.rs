//! The in-process engine: the bus of a single node, and of many replicas in one test process.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;

use crate::bus::{MAX_PAYLOAD, QUEUE_CAPACITY};
use crate::subject::{check_group, check_pattern, check_subject, matches};
use crate::{Bus, BusError, BusInfo, Feed, Message, Subscription};

struct Entry {
    id: u64,
    node: u64,
    pattern: Box<str>,
    group: Option<Box<str>>,
    feed: Feed,
}

/// Subscriptions without a wildcard are found by hash, so that a publish does not walk the watches
/// of every tenant; the few patterns are tried one by one.
#[derive(Default)]
struct Table {
    exact: HashMap<Box<str>, Vec<Arc<Entry>>>,
    patterns: Vec<Arc<Entry>>,
}

impl Table {
    fn insert(&mut self, entry: Arc<Entry>) {
        if entry.pattern.contains(['*', '>']) {
            self.patterns.push(entry);
        } else {
            self.exact
                .entry(entry.pattern.clone())
                .or_default()
                .push(entry);
        }
    }

    fn remove(&mut self, pattern: &str, id: u64) {
        if let Some(entries) = self.exact.get_mut(pattern) {
            entries.retain(|entry| entry.id != id);
            if entries.is_empty() {
                self.exact.remove(pattern);
            }
        } else {
            self.patterns.retain(|entry| entry.id != id);
        }
    }

    fn take_node(&mut self, node: u64) -> Vec<Arc<Entry>> {
        let mut taken = Vec::new();
        let mut keep = |entry: &Arc<Entry>| {
            let ours = entry.node == node;
            if ours {
                taken.push(Arc::clone(entry));
            }
            !ours
        };
        self.patterns.retain(&mut keep);
        self.exact.retain(|_, entries| {
            entries.retain(&mut keep);
            !entries.is_empty()
        });
        taken
    }

    fn all<'a>(&'a self, subject: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.exact.get(subject).into_iter().flatten().chain(
            self.patterns
                .iter()
                .filter(move |entry| matches(&entry.pattern, subject)),
        )
    }
}

struct Hub {
    table: RwLock<Table>,
    next_id: AtomicU64,
    /// Where the next message of a group starts looking for a member with room.
    turn: AtomicUsize,
    capacity: usize,
}

/// A bus inside this process.
///
/// [`InProcBus::new`] makes a bus with one handle, [`InProcBus::peer`] one more handle on it, as if
/// another replica had connected.
///
/// ```
/// use coretex_bus::{Bus, InProcBus, subject};
///
/// # async fn example() -> Result<(), coretex_bus::BusError> {
/// let bus = InProcBus::new();
/// let mut doorbell = bus.subscribe(subject::READY_ALL, None).await?;
/// bus.publish(&subject::ready("default"), "look".into()).await?;
/// let message = doorbell.next().await;
/// assert_eq!(message.map(|m| m.payload), Some("look".into()));
/// # Ok(())
/// # }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(example()).unwrap();
/// ```
pub struct InProcBus {
    hub: Arc<Hub>,
    node: u64,
    closed: AtomicBool,
}

impl Default for InProcBus {
    fn default() -> Self {
        Self::new()
    }
}

impl InProcBus {
    /// Makes a new, empty bus.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(QUEUE_CAPACITY)
    }

    /// Makes a bus whose subscriptions hold `capacity` messages each (at least 1).
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            hub: Arc::new(Hub {
                table: RwLock::new(Table::default()),
                next_id: AtomicU64::new(1),
                turn: AtomicUsize::new(0),
                capacity: capacity.max(1),
            }),
            node: 0,
            closed: AtomicBool::new(false),
        }
    }

    /// Makes one more handle on the same bus; draining one does not touch the other.
    #[must_use]
    pub fn peer(&self) -> Self {
        Self {
            hub: Arc::clone(&self.hub),
            node: self.hub.next_id.fetch_add(1, Ordering::Relaxed),
            closed: AtomicBool::new(false),
        }
    }

    fn check_open(&self) -> Result<(), BusError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(BusError::Closed);
        }
        Ok(())
    }

    /// Gives a message to one of a group's members: the next in turn that has room.
    fn offer_to_one(&self, members: &[&Arc<Entry>], message: &Message) {
        let start = self.hub.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = |step: usize| members[start.wrapping_add(step) % members.len()];
        let chosen = (0..members.len())
            .map(in_turn)
            .find(|entry| entry.feed.has_room())
            // Nobody has room: the one whose turn it is counts the loss.
            .unwrap_or_else(|| in_turn(0));
        chosen.feed.offer(message.clone());
    }
}

#[async_trait]
impl Bus for InProcBus {
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        check_subject(subject)?;
        if payload.len() > MAX_PAYLOAD {
            return Err(BusError::TooLarge {
                size: payload.len(),
                limit: MAX_PAYLOAD,
            });
        }
        self.check_open()?;
        let message = Message {
            subject: subject.into(),
            payload,
        };
        let table = self.hub.table.read();
        let mut groups: Vec<(&str, Vec<&Arc<Entry>>)> = Vec::new();
        for entry in table.all(subject) {
            match entry.group.as_deref() {
                None => {
                    entry.feed.offer(message.clone());
                }
                Some(group) => match groups.iter_mut().find(|(name, _)| *name == group) {
                    Some((_, members)) => members.push(entry),
                    None => groups.push((group, vec![entry])),
                },
            }
        }
        for (_, members) in &groups {
            self.offer_to_one(members, &message);
        }
        Ok(())
    }

    async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
    ) -> Result<Subscription, BusError> {
        check_pattern(subject)?;
        group.map_or(Ok(()), check_group)?;
        let (feed, subscription) = Subscription::channel(self.hub.capacity);
        let id = self.hub.next_id.fetch_add(1, Ordering::Relaxed);
        {
            let mut table = self.hub.table.write();
            // Looked at under the lock that a drain takes, so no subscription slips past it.
            self.check_open()?;
            table.insert(Arc::new(Entry {
                id,
                node: self.node,
                pattern: subject.into(),
                group: group.map(Into::into),
                feed,
            }));
        }
        let hub = Arc::downgrade(&self.hub);
        let pattern: Box<str> = subject.into();
        Ok(subscription.on_drop(move || {
            if let Some(hub) = hub.upgrade() {
                hub.table.write().remove(&pattern, id);
            }
        }))
    }

    async fn drain(&self, grace: Duration) {
        let ours = {
            let mut table = self.hub.table.write();
            self.closed.store(true, Ordering::Release);
            table.take_node(self.node)
        };
        for entry in &ours {
            entry.feed.end();
        }
        let all_read = async {
            for entry in &ours {
                entry.feed.emptied().await;
            }
        };
        if tokio::time::timeout(grace, all_read).await.is_err() {
            tracing::warn!(?grace, "bus drain ended with unread messages");
            for entry in &ours {
                entry.feed.cut();
            }
        }
    }

    fn info(&self) -> BusInfo {
        BusInfo {
            engine: "inproc",
            endpoint: String::new(),
            max_payload: MAX_PAYLOAD,
            queue_capacity: self.hub.capacity,
        }
    }

    fn healthy(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }
}

impl fmt::Debug for InProcBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InProcBus")
            .field("node", &self.node)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn dropped_subscriptions_leave_nothing_behind() -> Result<(), BusError> {
        let bus = InProcBus::new();
        let exact = bus.subscribe("a.b", None).await?;
        let other = bus.subscribe("a.b", Some("g")).await?;
        let pattern = bus.subscribe("a.>", None).await?;
        drop((exact, pattern));
        {
            let table = bus.hub.table.read();
            assert!(table.patterns.is_empty());
            assert_eq!(table.exact.len(), 1);
        }
        drop(other);
        assert!(bus.hub.table.read().exact.is_empty());
        Ok(())
    }

    #[tokio::test]
    async fn a_group_prefers_a_member_with_room() -> Result<(), BusError> {
        let bus = InProcBus::with_capacity(1);
        let mut first = bus.subscribe("a", Some("g")).await?;
        let mut second = bus.subscribe("a", Some("g")).await?;
        bus.publish("a", "1".into()).await?;
        bus.publish("a", "2".into()).await?;
        assert_eq!(first.lagged() + second.lagged(), 0);
        assert!(first.try_next().is_some() && second.try_next().is_some());
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_does_not_wait_past_its_grace() -> Result<(), BusError> {
        let bus = InProcBus::new();
        let mut unread = bus.subscribe("a", None).await?;
        bus.publish("a", "1".into()).await?;
        let begin = tokio::time::Instant::now();
        bus.drain(Duration::from_secs(3)).await;
        assert_eq!(begin.elapsed(), Duration::from_secs(3));
        assert_eq!(unread.next().await, None);
        assert_eq!(unread.lagged(), 1);
        Ok(())
    }
}
