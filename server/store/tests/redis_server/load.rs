//! Writers that go on whatever happens, and what must be true of their commits afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use coretex_store::layers::{Resend, ResendPolicy};
use coretex_store::{CommitError, Store, Version};
use tokio::task::JoinHandle;

use super::super::common::{SHARD, b, creation};
use super::until;

/// A store that settles unknown outcomes for up to 30 s.
pub fn resending(store: Arc<dyn Store>) -> Arc<dyn Store> {
    let policy = ResendPolicy {
        deadline: Duration::from_secs(30),
        ..ResendPolicy::default()
    };
    Arc::new(Resend::new(store, policy))
}

#[derive(Default)]
struct Told {
    /// With the versions that they were told.
    acknowledged: Vec<(String, Version)>,
    /// Nobody said what became of them.
    open: BTreeSet<String>,
    /// Said to be surely not applied.
    refused: BTreeSet<String>,
}

/// Writers at work.
pub struct Load {
    store: Arc<dyn Store>,
    done: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<Told>>,
}

impl Load {
    /// Starts writers, each of which creates one record after the other with a log entry and an
    /// index entry.
    pub fn start(store: Arc<dyn Store>, writers: usize) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicUsize::new(0));
        let work = |writer: usize| {
            let (store, done, count) = (store.clone(), done.clone(), count.clone());
            tokio::spawn(async move {
                let mut told = Told::default();
                let mut round = 0_u64;
                while !done.load(Ordering::Acquire) {
                    round += 1;
                    let name = format!("{writer}/{round}");
                    let mut batch = creation(&name, "value");
                    batch.append(b(&name)).add(b("all"), b(&name));
                    match store.commit(batch).await {
                        Ok(committed) => {
                            told.acknowledged.push((name, committed.version));
                            count.fetch_add(1, Ordering::AcqRel);
                        }
                        Err(CommitError::Unknown { .. }) => {
                            told.open.insert(name);
                        }
                        Err(CommitError::Unavailable { .. } | CommitError::Overloaded { .. }) => {
                            told.refused.insert(name);
                            tokio::task::yield_now().await;
                        }
                        Err(error) => panic!("{name}: {error}"),
                    }
                }
                told
            })
        };
        Self {
            writers: (0..writers).map(work).collect(),
            store,
            done,
            count,
        }
    }

    /// Waits until so many more commits are acknowledged.
    pub async fn acknowledged(&self, more: usize) {
        let wanted = self.count.load(Ordering::Acquire) + more;
        until("commits are acknowledged", || async {
            (self.count.load(Ordering::Acquire) >= wanted).then_some(())
        })
        .await;
    }

    /// Ends the writers and compares: what was acknowledged is there exactly once, what was
    /// refused is not, what is open at most once.
    pub async fn finish(self) -> usize {
        self.done.store(true, Ordering::Release);
        let mut told = Told::default();
        for writer in self.writers {
            let part = writer.await.unwrap();
            told.acknowledged.extend(part.acknowledged);
            told.open.extend(part.open);
            told.refused.extend(part.refused);
        }
        let page = self.store.tail(SHARD, 1, usize::MAX).await.unwrap().value;
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        for entry in &page.entries {
            let name = String::from_utf8(entry.value.to_vec()).unwrap();
            *times.entry(name).or_default() += 1;
        }
        for (name, _) in &told.acknowledged {
            assert_eq!(times.remove(name), Some(1), "{name} was acknowledged");
        }
        for (name, times) in times {
            assert_eq!(times, 1, "{name}");
            assert!(told.open.contains(&name), "{name} was refused");
        }
        for part in told.acknowledged.chunks(1_000) {
            let keys: Vec<_> = part.iter().map(|(name, _)| b(name)).collect();
            let found = self.store.get(SHARD, &keys).await.unwrap().value;
            for ((name, version), record) in part.iter().zip(found) {
                assert_eq!(
                    record.map(|record| record.version),
                    Some(*version),
                    "{name}"
                );
            }
        }
        told.acknowledged.len()
    }
}
