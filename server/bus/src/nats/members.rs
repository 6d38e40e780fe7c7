//! The subscriptions of one handle, which outlive connections, and the tasks that feed them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::link::{Flow, Link};
use crate::{BusError, Feed, Message, Subscription};

/// Connections whose messages a feeding task has still to finish; it takes an ended one at once.
const PENDING_FLOWS: usize = 4;
/// Messages after which a feeding task lets others run.
const TURN: u32 = 1_024;
/// Payloads up to here are copied: a slice would keep the whole read buffer of the connection alive
/// for as long as a doorbell lies in a queue.
const COPIED: usize = 4_096;

struct Member {
    pattern: Box<str>,
    group: Option<Box<str>>,
    feed: Feed,
    flows: mpsc::Sender<Flow>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Table {
    members: HashMap<u64, Member>,
    next_id: u64,
}

/// All subscriptions of a handle.
#[derive(Clone, Default)]
pub(super) struct Members {
    table: Arc<Mutex<Table>>,
}

impl Members {
    /// Subscribes on a connection and on all that follow it.
    pub(super) async fn add(
        &self,
        link: &Link,
        pattern: &str,
        group: Option<&str>,
        capacity: usize,
    ) -> Result<Subscription, BusError> {
        let (feed, subscription) = Subscription::channel(capacity);
        let flow = link.subscribe(pattern, group, Some(&feed)).await?;
        let (flows, pending) = mpsc::channel(PENDING_FLOWS);
        // There is room: nothing has been sent yet.
        let _ = flows.try_send(flow);
        let task = tokio::spawn(tokio::task::unconstrained(feeding(feed.clone(), pending)));
        let id = {
            let mut table = self.table.lock();
            let id = table.next_id;
            table.next_id += 1;
            let member = Member {
                pattern: pattern.into(),
                group: group.map(Into::into),
                feed,
                flows,
                task,
            };
            table.members.insert(id, member);
            id
        };
        let table = Arc::downgrade(&self.table);
        Ok(subscription.on_drop(move || {
            let left = table
                .upgrade()
                .and_then(|table| table.lock().members.remove(&id));
            if let Some(member) = left {
                // Drops its flow, which unsubscribes.
                member.task.abort();
            }
        }))
    }

    /// Subscribes everything again, on a new connection.
    pub(super) async fn attach(&self, link: &Link) -> Result<usize, BusError> {
        let wanted: Vec<_> = {
            let table = self.table.lock();
            let wanted = table.members.values().map(|member| {
                (
                    member.pattern.clone(),
                    member.group.clone(),
                    member.feed.clone(),
                    member.flows.clone(),
                )
            });
            wanted.collect()
        };
        let count = wanted.len();
        for (pattern, group, feed, flows) in wanted {
            let flow = link
                .subscribe(&pattern, group.as_deref(), Some(&feed))
                .await?;
            // Fails for a subscription that was dropped meanwhile; the flow unsubscribes itself.
            let _ = flows.send(flow).await;
        }
        Ok(count)
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.table.lock().members.len()
    }

    /// Ends all of them: what they hold is read within `until`, and what is unread then is lost.
    /// `closed` says that their connection is closed, so that what it still gives is fed first.
    pub(super) async fn finish(&self, until: Instant, closed: bool) {
        let mut leaving = self.take();
        for member in &mut leaving {
            // Nothing follows the flow it has: the task ends when that ends.
            member.flows = mpsc::channel(1).0;
            if !closed {
                member.task.abort();
            }
        }
        let mut unread = 0;
        for member in &mut leaving {
            let read = async {
                let _ = (&mut member.task).await;
                member.feed.end();
                member.feed.emptied().await;
            };
            if tokio::time::timeout_at(until, read).await.is_err() {
                unread += 1;
                member.task.abort();
                member.feed.cut();
            }
        }
        if unread > 0 {
            tracing::warn!(
                subscriptions = unread,
                "bus drain ended with unread messages"
            );
        }
    }

    /// Ends all of them now; what they hold can still be read.
    pub(super) fn end(&self) {
        for member in self.take() {
            member.task.abort();
            member.feed.end();
        }
    }

    fn take(&self) -> Vec<Member> {
        let members = std::mem::take(&mut self.table.lock().members);
        members.into_values().collect()
    }
}

/// Moves messages of one subscription from its connections, one after the other, to its queue.
///
/// Never waits for the reader, and is not interrupted by the runtime's budget: so the client's own
/// queue in front of it stays short, and messages are lost in ours, which counts them.
async fn feeding(feed: Feed, mut pending: mpsc::Receiver<Flow>) {
    let mut turn = 0;
    while let Some(mut flow) = pending.recv().await {
        while let Some(message) = flow.next().await {
            feed.offer(Message {
                subject: message.subject.as_str().into(),
                payload: own(message.payload),
            });
            turn += 1;
            if turn == TURN {
                turn = 0;
                tokio::task::yield_now().await;
            }
        }
    }
    feed.end();
}

fn own(payload: Bytes) -> Bytes {
    if payload.len() <= COPIED {
        Bytes::copy_from_slice(&payload)
    } else {
        payload
    }
}

/// The time in which a drain's steps share its grace.
pub(super) fn deadline(grace: Duration) -> Instant {
    let now = Instant::now();
    // A grace of ages means no deadline anyone lives to see.
    now.checked_add(grace)
        .unwrap_or_else(|| now + Duration::from_secs(365 * 24 * 3_600))
}
