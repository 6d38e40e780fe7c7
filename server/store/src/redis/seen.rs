//! What this process has seen of the store: its time, and how far each shard had come.
//!
//! A server that lost commits answers like any other, so every answer is compared with what was
//! known before its question was sent.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use coretex_core::time::Timestamp;
use parking_lot::Mutex;

use crate::Shard;

#[derive(Debug, Default)]
struct Past {
    /// The process that answered last.
    run_id: String,
    /// The identity of the store that answered last.
    store: u128,
    /// Commits of each shard.
    commits: BTreeMap<Shard, u64>,
}

/// How far a shard had come when a question was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    epoch: u64,
    commits: u64,
}

/// The memory of one store handle.
#[derive(Debug, Default)]
pub(super) struct Seen {
    past: Mutex<Past>,
    epoch: AtomicU64,
    time: AtomicU64,
}

impl Seen {
    /// Changes when commits are lost.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Store time for an answer: what the store said, but never before an earlier answer.
    pub(super) fn time(&self, micros: u64) -> Timestamp {
        let earlier = self.time.fetch_max(micros, Ordering::AcqRel);
        Timestamp::from_micros(micros.max(earlier))
    }

    /// How far a shard has come, to be taken before a question is sent.
    pub(super) fn mark(&self, shard: Shard) -> Mark {
        let past = self.past.lock();
        Mark {
            epoch: self.epoch(),
            commits: past.commits.get(&shard).copied().unwrap_or(0),
        }
    }

    /// From now on the shard is looked at on every new connection.
    pub(super) fn watch(&self, shard: Shard) {
        self.past.lock().commits.entry(shard).or_default();
    }

    /// The marks of all shards that were ever asked.
    pub(super) fn marks(&self) -> Vec<(Shard, Mark)> {
        let past = self.past.lock();
        let epoch = self.epoch();
        let mark = |(shard, commits): (&Shard, &u64)| {
            let commits = *commits;
            (*shard, Mark { epoch, commits })
        };
        past.commits.iter().map(mark).collect()
    }

    /// Takes note of an answer to a question that was sent after `mark`.
    pub(super) fn saw(&self, shard: Shard, mark: Mark, commits: u64) {
        let mut past = self.past.lock();
        if mark.epoch != self.epoch() {
            // The question is older than the loss, so its answer says nothing about later ones.
            return;
        }
        if commits < mark.commits {
            let run_id = past.run_id.clone();
            self.lost(&mut past, shard, mark.commits, commits, &run_id);
            return;
        }
        let known = past.commits.entry(shard).or_default();
        *known = commits.max(*known);
    }

    /// Takes note of a new connection: who answered, and how far the shards were that had `marks`.
    pub(super) fn connected(
        &self,
        run_id: &str,
        store: Option<u128>,
        found: &[(Shard, Mark, u64)],
    ) {
        let mut past = self.past.lock();
        let other_process = past.run_id != run_id && !past.run_id.is_empty();
        let other_store = store.is_some_and(|store| past.store != store && past.store != 0);
        past.run_id = run_id.to_owned();
        past.store = store.unwrap_or(past.store);
        let epoch = self.epoch();
        let find = |wrong: fn(u64, u64) -> bool| {
            found
                .iter()
                .find(|(_, mark, commits)| mark.epoch == epoch && wrong(*commits, mark.commits))
        };
        let behind = find(|commits, seen| commits < seen);
        if let Some((shard, mark, commits)) = behind {
            self.lost(&mut past, *shard, mark.commits, *commits, run_id);
            for (shard, _, commits) in found {
                past.commits.insert(*shard, *commits);
            }
        } else if other_store {
            tracing::error!(run_id, "another store answers at the address of this one");
            past.commits.clear();
            self.epoch.fetch_add(1, Ordering::AcqRel);
        } else if other_process
            && let Some((shard, mark, commits)) = find(|commits, seen| commits > seen)
        {
            // Others committed meanwhile, perhaps after a loss: nobody can tell from here.
            tracing::warn!(
                ?shard,
                seen = mark.commits,
                found = commits,
                run_id,
                "the redis server was replaced; commits may have been lost"
            );
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
    }

    fn lost(&self, past: &mut Past, shard: Shard, seen: u64, found: u64, run_id: &str) {
        tracing::error!(
            ?shard,
            seen,
            found,
            run_id,
            "redis has lost commits that it had acknowledged"
        );
        past.commits.insert(shard, found);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHARD: Shard = Shard::Data(0);

    #[test]
    fn a_shard_that_falls_behind_is_a_loss_once() {
        let seen = Seen::default();
        let start = seen.mark(SHARD);
        seen.saw(SHARD, start, 10);
        let (first, second) = (seen.mark(SHARD), seen.mark(SHARD));
        seen.saw(SHARD, first, 10);
        assert_eq!(seen.epoch(), 0);
        seen.saw(SHARD, first, 7);
        seen.saw(SHARD, second, 7);
        assert_eq!(seen.epoch(), 1);
        // It goes on from there.
        let next = seen.mark(SHARD);
        seen.saw(SHARD, next, 8);
        assert_eq!(seen.epoch(), 1);
    }

    #[test]
    fn an_answer_that_was_overtaken_is_no_loss() {
        let seen = Seen::default();
        let early = seen.mark(SHARD);
        let late = seen.mark(SHARD);
        seen.saw(SHARD, late, 5);
        seen.saw(SHARD, early, 4);
        assert_eq!(seen.epoch(), 0);
        assert_eq!(seen.mark(SHARD).commits, 5);
    }

    #[test]
    fn another_process_is_a_loss_unless_it_has_exactly_what_was_seen() {
        let seen = Seen::default();
        seen.connected("one", Some(1), &[]);
        seen.saw(SHARD, seen.mark(SHARD), 10);
        let found = |commits| [(SHARD, seen.mark(SHARD), commits)];
        seen.connected("two", Some(1), &found(10));
        assert_eq!(seen.epoch(), 0);
        seen.connected("two", Some(1), &found(11));
        assert_eq!(seen.epoch(), 0);
        seen.connected("three", Some(1), &found(12));
        assert_eq!(seen.epoch(), 1);
        seen.connected("three", Some(1), &found(3));
        assert_eq!(seen.epoch(), 2);
        seen.connected("three", Some(2), &found(3));
        assert_eq!(seen.epoch(), 3);
    }

    #[test]
    fn time_does_not_run_backwards() {
        let seen = Seen::default();
        assert_eq!(seen.time(5).as_micros(), 5);
        assert_eq!(seen.time(3).as_micros(), 5);
        assert_eq!(seen.time(6).as_micros(), 6);
    }
}
