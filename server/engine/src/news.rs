//! News: what says that something of which every replica keeps a copy has changed, without a read of
//! all of it every second.
//!
//! The record `news` (shard `sys`) is put by every change of pauses and configuration, in the same
//! commit. Every replica reads its version once a second, along with the leases, and when somebody
//! rings; when it is another one than at the last look, the copies are read again or dropped. What
//! the copies are and how they are used stands elsewhere; [`Engine::news_changed`] names them.

use std::time::Duration;

use bytes::Bytes;
use coretex_core::lease::Tick;
use coretex_store::{Batch, Record, Shard, Version, Write};
use parking_lot::Mutex;

use crate::engine::Engine;
use crate::{Result, keyspace};

/// A replica that has not read the news for this long takes no new work: its copies are older than
/// they may be.
const MOST_BEHIND: Duration = Duration::from_secs(5);

/// What this replica knows of the news.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// The version that its copies are not older than; `None` = they may be of any age. The version
    /// of a record that does not exist is 0.
    seen: Mutex<Option<Version>>,
    /// When the record was last read and followed.
    read: Mutex<Tick>,
}

/// Makes a batch tell the news: every replica looks again at what it has copies of.
pub(crate) fn announce(batch: &mut Batch) {
    let value = Bytes::copy_from_slice(&batch.commit_id.0.to_be_bytes());
    batch.writes.push(Write::Put {
        key: keyspace::news(),
        value,
        ttl: None,
    });
}

impl Engine {
    /// Reads the news by itself, because somebody rang.
    pub(crate) async fn read_news(&self) -> Result<()> {
        let read = self.store().get(Shard::Sys, &[keyspace::news()]).await?;
        let record = read.value.into_iter().next().flatten();
        self.hear_news(record.as_ref()).await
    }

    /// Follows the news as they were just read: when they are others than at the last look, all
    /// copies are made anew.
    pub(crate) async fn hear_news(&self, record: Option<&Record>) -> Result<()> {
        let version = record.map_or(0, |record| record.version);
        let asked = self.tick();
        if *self.news().seen.lock() != Some(version) {
            self.news_changed().await?;
            // Only now: a copy that could not be read is read at the next look.
            *self.news().seen.lock() = Some(version);
        }
        let mut read = self.news().read.lock();
        *read = asked.max(*read);
        Ok(())
    }

    /// Makes every copy anew of which the news tell. Whoever adds one adds it here.
    async fn news_changed(&self) -> Result<()> {
        if self.kernel().follows_store() {
            self.follow_policy().await;
        }
        self.configs().forget();
        self.read_pauses().await
    }

    /// The store may have lost what was read: the next look takes nothing for known.
    pub(crate) fn forget_news(&self) {
        *self.news().seen.lock() = None;
    }

    /// Whether the copies may be older than they may be used.
    pub(crate) fn is_behind_the_news(&self) -> bool {
        self.tick().since(*self.news().read.lock()) > MOST_BEHIND
    }
}
