//! The bounded queue between callers and the writer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use crate::{CommitError, Committed};

use super::encode::Encoded;

/// A commit that waits, and where its answer goes.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) commit: Encoded,
    pub(super) reply: oneshot::Sender<Result<Committed, CommitError>>,
}

/// Why a commit was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too much is waiting; a fair pause.
    Full(Duration),
    /// The store is closed.
    Closed,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    closed: bool,
}

/// Commits that wait for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Notify,
    max_commits: usize,
    max_bytes: usize,
    group_commits: usize,
    group_bytes: usize,
    /// How long a group took last, in microseconds.
    pub(super) pace: AtomicU64,
}

impl Queue {
    pub(super) fn new(
        max_commits: usize,
        max_bytes: usize,
        group_commits: usize,
        group_bytes: usize,
    ) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Notify::new(),
            max_commits,
            max_bytes,
            group_commits,
            group_bytes,
            pace: AtomicU64::new(5_000),
        }
    }

    /// Adds a commit.
    pub(super) fn push(&self, item: Item) -> Result<(), Refusal> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Refusal::Closed);
        }
        let full = waiting.items.len() >= self.max_commits
            // One commit is always taken, however large.
            || (waiting.bytes + item.commit.bytes > self.max_bytes && !waiting.items.is_empty());
        if full {
            let groups = (waiting.items.len() / self.group_commits + 1) as u64;
            let micros = self.pace.load(Ordering::Relaxed).saturating_mul(groups);
            let pause = Duration::from_micros(micros.clamp(5_000, 1_000_000));
            return Err(Refusal::Full(pause));
        }
        waiting.bytes += item.commit.bytes;
        waiting.items.push_back(item);
        drop(waiting);
        self.wake.notify_one();
        Ok(())
    }

    /// The next group, when there is one; `None` when the queue is closed and empty. Takes nothing
    /// when it is dropped while it waits.
    pub(super) async fn take(&self) -> Option<Vec<Item>> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                let group = self.next(&mut waiting);
                if !group.is_empty() {
                    return Some(group);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.wake.notified().await;
        }
    }

    fn next(&self, waiting: &mut Waiting) -> Vec<Item> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while group.len() < self.group_commits {
            match waiting.items.front() {
                Some(item) if group.is_empty() || bytes + item.commit.bytes <= self.group_bytes => {
                }
                _ => break,
            }
            if let Some(item) = waiting.items.pop_front() {
                waiting.bytes -= item.commit.bytes;
                // Nobody waits for the answer and nothing was sent: it need not be.
                if !item.reply.is_closed() {
                    bytes += item.commit.bytes;
                    group.push(item);
                }
            }
        }
        group
    }

    /// Commits that wait now.
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().items.len()
    }

    /// Takes no more commits; those inside are still served.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    /// Takes out what has not been served.
    pub(super) fn abandon(&self) -> Vec<Item> {
        let mut waiting = self.waiting.lock();
        waiting.bytes = 0;
        waiting.items.drain(..).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        reason = "a failed step of a test should stop the test"
    )]

    use super::*;

    type Answer = oneshot::Receiver<Result<Committed, CommitError>>;

    fn item(bytes: usize) -> (Item, Answer) {
        let (reply, answer) = oneshot::channel();
        let mut commit = Encoded::default();
        commit.bytes = bytes;
        (Item { commit, reply }, answer)
    }

    #[tokio::test]
    async fn groups_are_bounded_and_what_nobody_waits_for_is_left_out() {
        let queue = Queue::new(10, 1_000, 3, 100);
        let mut answers = Vec::new();
        for bytes in [60, 60, 1, 1, 1, 500] {
            let (item, answer) = item(bytes);
            queue.push(item).unwrap();
            answers.push(answer);
        }
        drop(answers.remove(2));
        let mut sizes: Vec<Vec<usize>> = Vec::new();
        for _ in 0..3 {
            let group = queue.take().await.unwrap();
            sizes.push(group.iter().map(|item| item.commit.bytes).collect());
        }
        assert_eq!(sizes, [vec![60], vec![60, 1, 1], vec![500]]);
        assert_eq!(queue.len(), 0);
    }

    #[tokio::test]
    async fn a_full_queue_says_when_to_come_back() {
        let queue = Queue::new(2, 100, 1, 100);
        let mut answers = Vec::new();
        for (bytes, taken) in [(500, true), (1, false)] {
            let (item, answer) = item(bytes);
            assert_eq!(queue.push(item).is_ok(), taken);
            answers.push(answer);
        }
        let (more, _answer) = item(1);
        assert!(matches!(queue.push(more), Err(Refusal::Full(pause)) if !pause.is_zero()));
        queue.close();
        let (late, _answer) = item(1);
        assert_eq!(queue.push(late), Err(Refusal::Closed));
        assert_eq!(queue.take().await.unwrap().len(), 1);
        assert!(queue.take().await.is_none());
    }
}
