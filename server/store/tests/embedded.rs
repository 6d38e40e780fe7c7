//! The conformance suite against the embedded engine: with a thread on disk, inline in memory, and
//! the two in between.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coretex_store::conformance::{End, Fixture, Making, ManualClock};
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, WriterMode};
use coretex_store::{Durability, Store, store_conformance};

use common::copy_files;

struct Embedded {
    store: Option<Arc<EmbeddedStore>>,
    clock: Arc<ManualClock>,
    options: EmbeddedOptions,
    copy: Option<tempfile::TempDir>,
    /// Kept for its drop.
    _directory: Option<tempfile::TempDir>,
}

impl Embedded {
    fn boxed(shards: u16, durability: Durability, writer: WriterMode) -> Box<dyn Fixture> {
        let clock = Arc::new(ManualClock::default());
        let directory = (durability != Durability::Ephemeral).then(|| tempfile::tempdir().unwrap());
        let mut options = match &directory {
            Some(directory) => EmbeddedOptions::directory(directory.path(), clock.clone(), 1),
            None => EmbeddedOptions::memory(clock.clone(), 1),
        };
        options.durability = durability;
        options.shards = shards;
        options.writer = writer;
        Box::new(Self {
            store: Some(Arc::new(EmbeddedStore::open(options.clone()).unwrap())),
            clock,
            options,
            copy: None,
            _directory: directory,
        })
    }

    async fn close(&mut self) {
        let store = self.store.take().unwrap();
        store.close(Duration::from_secs(30)).await;
    }

    fn open(&mut self) {
        self.store = Some(Arc::new(EmbeddedStore::open(self.options.clone()).unwrap()));
    }
}

#[async_trait]
impl Fixture for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone().unwrap()
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn exact_time(&self) -> bool {
        true
    }

    async fn reopen(&mut self, end: End) -> bool {
        // Kills need a process of their own: see the tests of crashes.
        if self.options.path.is_none() || end == End::Killed {
            return false;
        }
        self.close().await;
        self.open();
        true
    }

    async fn keep_copy(&mut self) -> bool {
        let Some(path) = self.options.path.clone() else {
            return false;
        };
        self.close().await;
        let copy = tempfile::tempdir().unwrap();
        copy_files(&path, copy.path());
        self.copy = Some(copy);
        self.open();
        true
    }

    async fn go_back(&mut self) {
        self.close().await;
        let (path, copy) = (self.options.path.as_ref(), self.copy.as_ref());
        copy_files(copy.unwrap().path(), path.unwrap());
        self.open();
    }
}

fn thread_fsync(shards: u16) -> Making {
    Box::pin(async move { Embedded::boxed(shards, Durability::Fsync, WriterMode::Thread) })
}

fn thread_async(shards: u16) -> Making {
    Box::pin(async move { Embedded::boxed(shards, Durability::Async, WriterMode::Thread) })
}

fn thread_memory(shards: u16) -> Making {
    Box::pin(async move { Embedded::boxed(shards, Durability::Ephemeral, WriterMode::Thread) })
}

fn inline_memory(shards: u16) -> Making {
    Box::pin(async move { Embedded::boxed(shards, Durability::Ephemeral, WriterMode::Inline) })
}

store_conformance!(fsync, crate::thread_fsync);
store_conformance!(asynchronous, crate::thread_async);
store_conformance!(memory, crate::thread_memory);
store_conformance!(inline, crate::inline_memory);
