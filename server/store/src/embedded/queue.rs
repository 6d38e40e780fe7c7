//! The bounded queue between callers and the writer.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::{Batch, CommitError, Committed, LogId, StoreError};

/// What a caller wants, and where the answer goes.
#[derive(Debug)]
pub(super) enum Request {
    /// A commit.
    Commit {
        batch: Batch,
        reply: oneshot::Sender<Result<Committed, CommitError>>,
    },
    /// Log entries to drop.
    Trim {
        shard: u16,
        before: LogId,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

/// A request and its size in bytes.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) request: Request,
    pub(super) bytes: usize,
}

/// Why a request was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Too much is waiting; a fair pause.
    Full(Duration),
    /// The store is closed.
    Closed,
}

/// With fewer callers than this a group is not worth waiting for.
const CROWD: usize = 8;

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    bytes: usize,
    closed: bool,
    /// How many were served or waiting when the last group was done.
    company: usize,
    /// The writer sleeps until so many wait; 0 = it does not sleep.
    wanted: usize,
}

/// Requests that wait for the writer.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    wake: Condvar,
    max_commits: usize,
    max_bytes: usize,
    group_commits: usize,
    /// How long a group took last, in microseconds.
    pub(super) pace: AtomicU64,
}

impl Queue {
    pub(super) fn new(max_commits: usize, max_bytes: usize, group_commits: usize) -> Self {
        Self {
            waiting: Mutex::default(),
            wake: Condvar::new(),
            max_commits,
            max_bytes,
            group_commits,
            pace: AtomicU64::new(5_000),
        }
    }

    /// Adds a request.
    pub(super) fn push(&self, item: Item) -> Result<(), Refusal> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(Refusal::Closed);
        }
        let full = waiting.items.len() >= self.max_commits
            // One request is always taken, however large.
            || (waiting.bytes + item.bytes > self.max_bytes && !waiting.items.is_empty());
        if full {
            let groups = waiting.items.len() / self.group_commits + 1;
            let micros = self
                .pace
                .load(Ordering::Relaxed)
                .saturating_mul(groups as u64);
            return Err(Refusal::Full(Duration::from_micros(
                micros.clamp(5_000, 1_000_000),
            )));
        }
        waiting.bytes += item.bytes;
        waiting.items.push_back(item);
        let wake = waiting.wanted > 0 && waiting.items.len() >= waiting.wanted;
        if wake {
            waiting.wanted = 0;
        }
        drop(waiting);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Moves the next group into `group`, waiting up to `patience` for its first request, and then
    /// up to `linger` for as many as were under way when the last group was answered: callers who
    /// were just answered tend to come back at once, and a larger group costs less per commit.
    /// Tells whether the queue is closed and empty.
    pub(super) fn take(
        &self,
        group: &mut Vec<Item>,
        max_bytes: usize,
        patience: Duration,
        linger: Duration,
    ) -> bool {
        let mut waiting = self.waiting.lock();
        if waiting.items.is_empty() && !waiting.closed {
            waiting.wanted = 1;
            self.wake.wait_for(&mut waiting, patience);
            waiting.wanted = 0;
        }
        let company = waiting.company.min(self.group_commits);
        let missing = !waiting.items.is_empty() && waiting.items.len() < company;
        if missing && company >= CROWD && !waiting.closed && !linger.is_zero() {
            waiting.wanted = company;
            self.wake.wait_for(&mut waiting, linger);
            waiting.wanted = 0;
        }
        let mut bytes = 0;
        while group.len() < self.group_commits {
            match waiting.items.front() {
                Some(item) if group.is_empty() || bytes + item.bytes <= max_bytes => {}
                _ => break,
            }
            if let Some(item) = waiting.items.pop_front() {
                bytes += item.bytes;
                waiting.bytes -= item.bytes;
                group.push(item);
            }
        }
        waiting.company = 0;
        group.is_empty() && waiting.closed
    }

    /// Takes note of how many callers were served or waiting at once.
    pub(super) fn answered(&self, served: usize) {
        let mut waiting = self.waiting.lock();
        waiting.company = served + waiting.items.len();
    }

    /// Requests that wait now.
    pub(super) fn len(&self) -> usize {
        self.waiting.lock().items.len()
    }

    /// Takes no more requests; those inside are still served.
    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.wake.notify_one();
    }

    /// Gives up what still waits.
    pub(super) fn abandon(&self) -> Vec<Item> {
        let mut waiting = self.waiting.lock();
        waiting.closed = true;
        waiting.bytes = 0;
        std::mem::take(&mut waiting.items).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommitId, Shard};

    fn item(bytes: usize) -> Item {
        Item {
            request: Request::Commit {
                batch: Batch::new(Shard::Sys, CommitId(1)),
                reply: oneshot::channel().0,
            },
            bytes,
        }
    }

    #[test]
    fn groups_are_bounded_by_commits_and_bytes() {
        let queue = Queue::new(100, 1_000_000, 3);
        for bytes in [10, 10, 10, 10, 90, 200] {
            assert_eq!(queue.push(item(bytes)), Ok(()));
        }
        let mut sizes = Vec::new();
        while queue.len() > 0 {
            let mut group = Vec::new();
            assert!(!queue.take(&mut group, 100, Duration::ZERO, Duration::ZERO));
            sizes.push(group.iter().map(|item| item.bytes).collect::<Vec<_>>());
        }
        assert_eq!(sizes, [vec![10, 10, 10], vec![10, 90], vec![200]]);
    }

    #[test]
    fn a_full_queue_refuses_and_a_closed_one_drains() {
        let queue = Queue::new(2, 100, 10);
        assert_eq!(queue.push(item(500)), Ok(()));
        assert!(matches!(queue.push(item(1)), Err(Refusal::Full(_))));
        let mut group = Vec::new();
        queue.take(&mut group, 1_000, Duration::ZERO, Duration::ZERO);
        for _ in 0..2 {
            assert_eq!(queue.push(item(1)), Ok(()));
        }
        assert!(matches!(queue.push(item(1)), Err(Refusal::Full(_))));
        queue.close();
        assert_eq!(queue.push(item(1)), Err(Refusal::Closed));
        group.clear();
        assert!(!queue.take(&mut group, 1_000, Duration::from_secs(60), Duration::ZERO));
        assert_eq!(group.len(), 2);
        group.clear();
        assert!(queue.take(&mut group, 1_000, Duration::from_secs(60), Duration::ZERO));
        assert!(group.is_empty());
    }
}
