//! What a subscriber holds: a bounded queue that its engine feeds and never waits for.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// One delivered message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The subject it was published on (never a pattern).
    pub subject: Arc<str>,
    /// The bytes, shared between subscribers.
    pub payload: Bytes,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Message>,
    lost: u64,
    /// No more will be fed.
    ended: bool,
    /// The reader is gone; nothing is kept for it.
    dropped: bool,
}

struct Shared {
    state: Mutex<State>,
    capacity: usize,
    /// Wakes the reader.
    filled: Notify,
    /// Wakes whoever waits for the reader to finish.
    emptied: Notify,
}

/// The receiving end of a subscription.
///
/// When the reader is slower than its subject, new messages are lost rather than held: a doorbell
/// that rings while one is already waiting says nothing new.
pub struct Subscription {
    shared: Arc<Shared>,
    on_drop: Option<Box<dyn FnOnce() + Send + Sync>>,
}

/// The engine's end of a subscription.
#[derive(Clone)]
pub struct Feed {
    shared: Arc<Shared>,
}

impl Subscription {
    /// Makes both ends of a queue for `capacity` messages (at least 1). For engines.
    #[must_use]
    pub fn channel(capacity: usize) -> (Feed, Self) {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::default()),
            capacity: capacity.max(1),
            filled: Notify::new(),
            emptied: Notify::new(),
        });
        let feed = Feed {
            shared: Arc::clone(&shared),
        };
        (
            feed,
            Self {
                shared,
                on_drop: None,
            },
        )
    }

    /// Runs `action` once when the subscription is dropped. For engines, to unsubscribe.
    #[must_use]
    pub fn on_drop(mut self, action: impl FnOnce() + Send + Sync + 'static) -> Self {
        self.on_drop = Some(Box::new(action));
        self
    }

    /// The next message, waiting for it; `None` once the bus has been drained or closed. Dropping
    /// the future loses nothing.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            // The permit of `Notify` is kept when nobody waits, and there is one reader only, so a
            // message that comes between the check and the await is not slept through.
            let filled = self.shared.filled.notified();
            {
                let mut state = self.shared.state.lock();
                if let Some(message) = state.queue.pop_front() {
                    if state.queue.is_empty() {
                        self.shared.emptied.notify_waiters();
                    }
                    return Some(message);
                }
                if state.ended {
                    return None;
                }
            }
            filled.await;
        }
    }

    /// The next message if one is held.
    pub fn try_next(&mut self) -> Option<Message> {
        let mut state = self.shared.state.lock();
        let message = state.queue.pop_front();
        if state.queue.is_empty() {
            self.shared.emptied.notify_waiters();
        }
        message
    }

    /// How many messages this subscription has lost so far because its queue was full (or unread
    /// at the end of a drain). Only grows.
    #[must_use]
    pub fn lagged(&self) -> u64 {
        self.shared.state.lock().lost
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state.lock();
            state.dropped = true;
            state.queue.clear();
        }
        self.shared.emptied.notify_waiters();
        if let Some(action) = self.on_drop.take() {
            action();
        }
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("Subscription")
            .field("held", &state.queue.len())
            .field("lagged", &state.lost)
            .field("ended", &state.ended)
            .finish_non_exhaustive()
    }
}

impl Feed {
    /// Offers a message without waiting. A full queue counts it as lost; an ended or dropped
    /// subscription ignores it. Returns whether it is held now.
    pub fn offer(&self, message: Message) -> bool {
        let mut state = self.shared.state.lock();
        if state.ended || state.dropped {
            return false;
        }
        if state.queue.len() >= self.shared.capacity {
            state.lost = state.lost.saturating_add(1);
            return false;
        }
        state.queue.push_back(message);
        drop(state);
        self.shared.filled.notify_one();
        true
    }

    /// Counts messages that the engine itself had to throw away before they got here.
    pub fn add_lost(&self, count: u64) {
        let mut state = self.shared.state.lock();
        state.lost = state.lost.saturating_add(count);
    }

    /// Whether another message would be held.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let state = self.shared.state.lock();
        !state.ended && !state.dropped && state.queue.len() < self.shared.capacity
    }

    /// Feeds no more: the reader gets what is held and then `None`.
    pub fn end(&self) {
        self.shared.state.lock().ended = true;
        self.shared.filled.notify_one();
        self.shared.emptied.notify_waiters();
    }

    /// Ends and throws away what is held, counting it as lost.
    pub fn cut(&self) {
        {
            let mut state = self.shared.state.lock();
            state.ended = true;
            let unread = u64::try_from(state.queue.len()).unwrap_or(u64::MAX);
            state.lost = state.lost.saturating_add(unread);
            state.queue.clear();
        }
        self.shared.filled.notify_one();
        self.shared.emptied.notify_waiters();
    }

    /// Waits until the reader has taken everything held, or is gone.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.shared.emptied.notified();
            tokio::pin!(emptied);
            // `notify_waiters` keeps no permit: register before looking.
            emptied.as_mut().enable();
            if self.shared.state.lock().queue.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed")
            .field("capacity", &self.shared.capacity)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Message {
        Message {
            subject: "a".into(),
            payload: Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    #[tokio::test]
    async fn a_full_queue_loses_new_messages_and_counts_them() {
        let (feed, mut subscription) = Subscription::channel(2);
        assert!(feed.offer(message("1")));
        assert!(feed.offer(message("2")));
        assert!(!feed.has_room());
        assert!(!feed.offer(message("3")));
        assert_eq!(subscription.lagged(), 1);
        assert_eq!(subscription.next().await, Some(message("1")));
        assert!(feed.offer(message("4")));
        assert_eq!(subscription.next().await, Some(message("2")));
        assert_eq!(subscription.try_next(), Some(message("4")));
        assert_eq!(subscription.try_next(), None);
    }

    #[tokio::test]
    async fn an_ended_queue_is_read_to_its_end_and_a_cut_one_is_not() {
        let (feed, mut subscription) = Subscription::channel(4);
        feed.offer(message("1"));
        feed.end();
        assert!(!feed.offer(message("2")));
        assert_eq!(subscription.next().await, Some(message("1")));
        assert_eq!(subscription.next().await, None);

        let (feed, mut subscription) = Subscription::channel(4);
        feed.offer(message("1"));
        feed.cut();
        assert_eq!(subscription.next().await, None);
        assert_eq!(subscription.lagged(), 1);
    }

    #[tokio::test]
    async fn waiting_for_the_reader_ends_when_it_read_or_left() {
        let (feed, mut subscription) = Subscription::channel(4);
        feed.offer(message("1"));
        let (_, read) = tokio::join!(feed.emptied(), subscription.next());
        assert_eq!(read, Some(message("1")));
        feed.offer(message("2"));
        let waiter = tokio::spawn({
            let feed = feed.clone();
            async move { feed.emptied().await }
        });
        drop(subscription);
        assert!(waiter.await.is_ok());
    }
}
