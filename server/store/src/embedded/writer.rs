//! The one writer: groups of commits, recovery from I/O errors, upkeep once a second.
//!
//! Runs on a thread of its own or inside the calls of its users; either way it owns everything
//! that writes.
//!
//! Over 500 lines because serving, failing, reopening and upkeep are one state machine.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use coretex_core::time::Timestamp;
use parking_lot::RwLock;
use redb::{Database, ReadableDatabase, ReadableTable, StorageError, WriteTransaction};

use crate::pressure::LastPressure;
use crate::{CommitError, Committed, Durability, Pressure, StoreError};

use super::disk::Disk;
use super::group::{Group, Known, Tables, Trouble, log_ends, write_clock};
use super::layout::{EXPIRY, LOG, STATE, log_key};
use super::open::{Files, open_database, panic_text};
use super::options::{EmbeddedOptions, GroupReport};
use super::queue::{Item, Queue, Request};
use super::upkeep;

/// How often the disk is measured and what is over is removed while nothing else happens.
const TICK: Duration = Duration::from_secs(1);
/// How long the writer waits for commits before it removes more of what is over. Callers that have
/// just been answered come back within it, and groups remove what is over on the way; a removal of
/// its own between every two groups would cost them an fsync each.
const LULL: Duration = Duration::from_millis(10);
/// What is over is removed in steps of this many rows, so that commits need not wait long.
const UPKEEP_ROWS: usize = 512;

/// What the writer shares with readers and callers.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: EmbeddedOptions,
    pub(super) disk: Arc<Disk>,
    pub(super) files: Option<Files>,
    pub(super) queue: Queue,
    /// `None` while it is reopened and after the store was closed.
    pub(super) database: RwLock<Option<Database>>,
    /// A read met an I/O error, after which the database answers nothing until it is reopened.
    pub(super) suspect: AtomicBool,
    pressure: LastPressure,
    time: AtomicU64,
    epoch: AtomicU64,
}

impl Shared {
    pub(super) fn new(
        options: EmbeddedOptions,
        disk: Arc<Disk>,
        files: Option<Files>,
        database: Database,
        time: Timestamp,
    ) -> Self {
        Self {
            queue: Queue::new(
                options.queue_commits,
                options.queue_bytes,
                options.group_commits,
            ),
            options,
            disk,
            files,
            database: RwLock::new(Some(database)),
            suspect: AtomicBool::new(false),
            pressure: LastPressure::default(),
            time: AtomicU64::new(time.as_micros()),
            epoch: AtomicU64::new(0),
        }
    }

    /// Store time: the clock, but never before an earlier answer.
    pub(super) fn now(&self) -> Timestamp {
        let clock = self.options.clock.now().as_micros();
        let earlier = self.time.fetch_max(clock, Ordering::AcqRel);
        Timestamp::from_micros(clock.max(earlier))
    }

    /// How often commits that were acknowledged may have been lost.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn pressure(&self) -> Pressure {
        self.pressure.get()
    }

    fn set_pressure(&self, pressure: Pressure) {
        self.pressure.set(pressure);
    }
}

/// Why commits are refused now.
enum Obstacle {
    /// The disk has almost no space left; the database is well.
    Full,
    /// Writes failed: the database is open over a layer in memory, or not at all.
    Failed(String),
}

/// What a request is answered, before it is known whether the group is written.
enum Answer {
    Commit(Result<Committed, CommitError>),
    Trim(Result<(), StoreError>),
}

/// How a group ended that did not end well.
enum Failure {
    /// Nothing of it was applied.
    NotApplied(String),
    /// It may have been applied.
    Unknown(String),
}

/// The writer.
pub(super) struct Writer {
    shared: Arc<Shared>,
    known: Known,
    trimmed: BTreeSet<u16>,
    obstacle: Option<Obstacle>,
    ticked: Timestamp,
    /// Something was committed that is not yet on disk (durability `Async`).
    unsynced: bool,
    /// Nothing was committed since the state of the file was last recorded for a fast reopening.
    sealed: bool,
    /// More is over than the last step removed.
    behind: bool,
    /// Callers committed something since the last tick.
    busy: bool,
    items: Vec<Item>,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let mut writer = Self {
            ticked: shared.now(),
            shared,
            known: Known::default(),
            trimmed: BTreeSet::new(),
            obstacle: None,
            unsynced: false,
            sealed: true,
            behind: false,
            busy: false,
            items: Vec::new(),
        };
        writer.measure();
        // Trims that were not finished go on.
        if let Err(error) = writer.find_trims() {
            tracing::warn!(%error, "cannot tell whether a trim was finished");
        }
        writer
    }

    /// Serves the queue until it is closed and empty.
    pub(super) fn run(mut self) {
        loop {
            let mut items = std::mem::take(&mut self.items);
            let patience = if self.behind { LULL } else { TICK };
            let queue = &self.shared.queue;
            let options = &self.shared.options;
            let over = queue.take(&mut items, options.group_bytes, patience, options.linger);
            if over {
                break;
            }
            let idle = items.is_empty();
            if !idle {
                self.serve(&mut items);
            }
            items.clear();
            self.items = items;
            if idle {
                // By the queue's patience: the store's clock may stand still.
                let now = self.shared.now();
                self.tick(now);
            }
        }
        self.close();
    }

    /// Serves one group, and upkeep when a second has passed.
    pub(super) fn serve(&mut self, items: &mut Vec<Item>) {
        let started = self.shared.now();
        if started.since(self.ticked) >= TICK {
            self.tick(started);
        }
        let commits = items.len();
        let bytes = items.iter().map(|item| item.bytes).sum();
        let mut answers = Vec::with_capacity(commits);
        let outcome = match &self.obstacle {
            Some(Obstacle::Full) => Err(Failure::NotApplied("the disk is full".to_owned())),
            Some(Obstacle::Failed(reason)) => Err(Failure::NotApplied(reason.clone())),
            None => self.write(items, &mut answers),
        };
        // Before the answers: who is answered comes back at once.
        self.shared.queue.answered(commits);
        let written = outcome.is_ok();
        let applied = *outcome.as_ref().unwrap_or(&0);
        match outcome {
            Ok(_) => {
                for (item, answer) in items.drain(..).zip(answers) {
                    reply(item, answer);
                }
            }
            Err(failure) => {
                for (position, item) in items.drain(..).enumerate() {
                    // What was refused was surely not applied, but perhaps for a reason that has
                    // gone with the group.
                    let refused = matches!(
                        answers.get(position),
                        Some(Answer::Commit(Err(_)) | Answer::Trim(Err(_)))
                    );
                    fail(item, &failure, refused);
                }
            }
        }
        let took = self.shared.now().since(started);
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.shared.queue.pace.store(micros, Ordering::Relaxed);
        if let Some(observer) = &self.shared.options.observer {
            observer.group(GroupReport {
                commits,
                applied,
                bytes,
                waiting: self.shared.queue.len(),
                took,
                written,
            });
        }
    }

    /// Writes one group; how many commits changed something.
    fn write(&mut self, items: &[Item], answers: &mut Vec<Answer>) -> Result<usize, Failure> {
        let result = catch_unwind(AssertUnwindSafe(|| self.try_write(items, answers)));
        let failure = match result {
            Ok(Ok(applied)) => return Ok(applied),
            Ok(Err(failure)) => failure,
            // Where it gave up is not known.
            Err(panic) => Failure::Unknown(panic_text(panic.as_ref())),
        };
        let (Failure::NotApplied(reason) | Failure::Unknown(reason)) = &failure;
        tracing::error!(reason, "a group of commits failed, reopening the store");
        let reason = reason.clone();
        self.reopen(&reason);
        Err(failure)
    }

    fn try_write(&mut self, items: &[Item], answers: &mut Vec<Answer>) -> Result<usize, Failure> {
        let not_applied = |error: redb::Error| Failure::NotApplied(error.to_string());
        let now = self.shared.now();
        let transaction = self.begin(false).map_err(not_applied)?;
        let tables = Tables::open(&transaction).map_err(|error| not_applied(error.into()))?;
        let mut group = Group::new(tables, &mut self.known, now);
        for item in items {
            let answer = match &item.request {
                Request::Commit { batch, .. } => Answer::Commit(
                    group
                        .commit(batch)
                        .map_err(|error| not_applied(error.into()))?,
                ),
                Request::Trim { shard, before, .. } => match group.trim(*shard, *before) {
                    Ok(()) => {
                        self.trimmed.insert(*shard);
                        Answer::Trim(Ok(()))
                    }
                    Err(Trouble::Damaged(what)) => Answer::Trim(Err(StoreError::DataLoss { what })),
                    Err(Trouble::Storage(error)) => return Err(not_applied(error.into())),
                },
            };
            answers.push(answer);
        }
        let applied = group.applied;
        if applied == 0 {
            drop(group);
            transaction
                .abort()
                .map_err(|error| not_applied(error.into()))?;
            return Ok(0);
        }
        let mut tables = group.finish().map_err(|error| not_applied(error.into()))?;
        // Keeps up with any load that writes at most two rows that expire per commit.
        self.remove_some(&mut tables, now, 2 * applied + 8)
            .map_err(|error| not_applied(error.into()))?;
        drop(tables);
        transaction
            .commit()
            .map_err(|error| Failure::Unknown(error.to_string()))?;
        self.busy = true;
        self.sealed = false;
        self.unsynced = self.shared.options.durability != Durability::Fsync;
        Ok(applied)
    }

    /// Begins a transaction; `quick` when nothing is likely to follow soon, see `settle`.
    fn begin(&self, quick: bool) -> Result<WriteTransaction, redb::Error> {
        let database = self.shared.database.read();
        let Some(database) = database.as_ref() else {
            return Err(redb::Error::DatabaseClosed);
        };
        let mut transaction = database.begin_write()?;
        if self.shared.options.durability == Durability::Fsync {
            transaction.set_quick_repair(quick || self.shared.options.quick_recovery);
        } else {
            transaction.set_durability(redb::Durability::None)?;
        }
        Ok(transaction)
    }

    /// What happens once a second.
    pub(super) fn tick(&mut self, now: Timestamp) {
        self.ticked = now;
        self.measure();
        if self.shared.suspect.swap(false, Ordering::AcqRel) {
            self.reopen("a read failed");
        }
        if matches!(self.obstacle, Some(Obstacle::Failed(_))) {
            self.retry();
        }
        if self.obstacle.is_some() {
            return;
        }
        self.upkeep();
        if self.unsynced || (!self.busy && !self.sealed) {
            self.settle();
        }
        self.busy = false;
    }

    /// Looks how full the disk is.
    fn measure(&mut self) {
        if matches!(self.obstacle, Some(Obstacle::Failed(_))) {
            return;
        }
        let shared = &self.shared;
        let directory = shared.files.as_ref().map(|files| files.directory.as_path());
        let space = upkeep::space(&shared.disk, directory);
        let pressure = upkeep::pressure(shared.disk.used(), space);
        if pressure != shared.pressure() {
            tracing::warn!(?pressure, ?space, "the pressure on the store has changed");
        }
        shared.set_pressure(pressure);
        self.obstacle = (pressure == Pressure::ReadOnly).then_some(Obstacle::Full);
    }

    /// Removes a bounded part of what is over.
    fn upkeep(&mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.try_upkeep()));
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.reopen(&error.to_string()),
            Err(panic) => self.reopen(&panic_text(panic.as_ref())),
        }
    }

    fn try_upkeep(&mut self) -> Result<(), redb::Error> {
        let now = self.shared.now();
        self.behind = !self.trimmed.is_empty() || self.is_due(now)?;
        if !self.behind {
            return Ok(());
        }
        let quick = !self.busy;
        let transaction = self.begin(quick)?;
        let mut tables = Tables::open(&transaction)?;
        self.remove_some(&mut tables, now, UPKEEP_ROWS)?;
        write_clock(&mut tables.state, now)?;
        drop(tables);
        transaction.commit()?;
        self.unsynced = self.shared.options.durability != Durability::Fsync;
        self.sealed = quick && !self.unsynced;
        Ok(())
    }

    /// Removes up to `limit` rows that are over, and as many log entries that were trimmed.
    fn remove_some(
        &mut self,
        tables: &mut Tables<'_>,
        now: Timestamp,
        limit: usize,
    ) -> Result<(), StorageError> {
        upkeep::purge(tables, now.as_micros(), limit)?;
        let logs = &self.known.logs;
        let first = |shard: u16| logs.get(&shard).map(|ends| ends.first);
        upkeep::trim(tables, &mut self.trimmed, first, limit)?;
        Ok(())
    }

    fn is_due(&self, now: Timestamp) -> Result<bool, redb::Error> {
        let database = self.shared.database.read();
        let Some(database) = database.as_ref() else {
            return Ok(false);
        };
        let expiry = database.begin_read()?.open_table(EXPIRY)?;
        Ok(upkeep::next_due(&expiry)?.is_some_and(|due| due <= now.as_micros()))
    }

    /// Finds the logs that still have entries below their first id.
    fn find_trims(&mut self) -> Result<(), redb::Error> {
        let database = self.shared.database.read();
        let Some(database) = database.as_ref() else {
            return Ok(());
        };
        let read = database.begin_read()?;
        let (log, state) = (read.open_table(LOG)?, read.open_table(STATE)?);
        for shard in 0..=self.shared.options.shards {
            // A damaged one is left alone; reads of it say so.
            let Ok(ends) = log_ends(&state, &log, shard) else {
                continue;
            };
            let (low, high) = (log_key(shard, 0), log_key(shard, ends.first));
            if let Some(entry) = ReadableTable::range::<&[u8; 10]>(&log, &low..&high)?.next() {
                entry?;
                self.known.logs.insert(shard, ends);
                self.trimmed.insert(shard);
            }
        }
        Ok(())
    }

    /// Puts on disk what is not yet there, in a form that reopens fast after a crash.
    fn settle(&mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.try_settle()));
        match outcome {
            Ok(Ok(())) => {
                self.unsynced = false;
                self.sealed = !self.busy;
            }
            Ok(Err(error)) => self.reopen(&error.to_string()),
            Err(panic) => self.reopen(&panic_text(panic.as_ref())),
        }
    }

    fn try_settle(&self) -> Result<(), redb::Error> {
        let mut transaction = self.begin(false)?;
        transaction.set_durability(redb::Durability::Immediate)?;
        // A file whose last transaction recorded the state of the allocator is not walked through
        // when it is opened after a crash. That costs a second fsync, and is worth it only when
        // nothing follows at once.
        let options = &self.shared.options;
        transaction.set_quick_repair(
            (!self.busy || options.quick_recovery) && self.shared.files.is_some(),
        );
        let mut tables = Tables::open(&transaction)?;
        write_clock(&mut tables.state, self.shared.now())?;
        drop(tables);
        transaction.commit()?;
        Ok(())
    }

    /// Closes the database after a failure and opens it again, over a layer in memory when the
    /// disk does not take writes.
    fn reopen(&mut self, reason: &str) {
        self.known = Known::default();
        self.shared.set_pressure(Pressure::ReadOnly);
        self.drop_database();
        if self.unsynced {
            // The file has what the last fsync left. Nobody reads it before this is said.
            self.shared.epoch.fetch_add(1, Ordering::AcqRel);
        }
        let probe = self
            .shared
            .files
            .as_ref()
            .map(|files| files.probe.as_path());
        match self.shared.disk.probe(probe) {
            Ok(()) => self.install(None),
            Err(error) => {
                tracing::error!(reason, %error, "the store is read-only: writes fail");
                self.shared.disk.cover();
                self.install(Some(format!("writes fail: {error}")));
            }
        }
    }

    /// Tries whether writes work again.
    fn retry(&mut self) {
        let probe = self
            .shared
            .files
            .as_ref()
            .map(|files| files.probe.as_path());
        if let Err(error) = self.shared.disk.try_writes(probe) {
            self.obstacle = Some(Obstacle::Failed(format!("writes fail: {error}")));
            return;
        }
        self.reopen("writes work again");
        if self.obstacle.is_none() {
            tracing::info!("the store takes writes again");
        }
    }

    fn install(&mut self, obstacle: Option<String>) {
        let shared = &self.shared;
        let opened = open_database(&shared.disk, &shared.options, shared.files.as_ref());
        match opened {
            Ok((database, _)) => {
                *shared.database.write() = Some(database);
                self.obstacle = obstacle.map(Obstacle::Failed);
                self.trimmed.clear();
                if let Err(error) = self.find_trims() {
                    tracing::warn!(%error, "cannot tell whether a trim was finished");
                }
            }
            Err(error) => {
                tracing::error!(%error, "the store cannot be reopened");
                self.obstacle = Some(Obstacle::Failed(error.to_string()));
            }
        }
        self.sealed = false;
        self.unsynced = false;
        if self.obstacle.is_some() {
            self.shared.set_pressure(Pressure::ReadOnly);
        } else {
            self.measure();
        }
    }

    fn drop_database(&self) {
        let database = self.shared.database.write().take();
        // A database in trouble may give up even here.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(database)));
    }

    /// Writes out what is pending and closes the database.
    pub(super) fn close(&mut self) {
        for item in self.shared.queue.abandon() {
            refuse(item, "the store is closed");
        }
        if self.obstacle.is_none() && self.shared.database.read().is_some() {
            self.busy = true;
            self.settle();
        }
        let Some(database) = self.shared.database.write().take() else {
            return;
        };
        let closed = catch_unwind(AssertUnwindSafe(move || database.close()));
        match closed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the store was not closed cleanly"),
            Err(panic) => {
                let error = panic_text(panic.as_ref());
                tracing::warn!(error, "the store was not closed cleanly");
            }
        }
    }
}

/// Answers a request that was never begun.
pub(super) fn refuse(item: Item, reason: &str) {
    fail(item, &Failure::NotApplied(reason.to_owned()), false);
}

fn reply(item: Item, answer: Answer) {
    match (item.request, answer) {
        // A caller that is gone does not want to know.
        (Request::Commit { reply, .. }, Answer::Commit(answer)) => drop(reply.send(answer)),
        (Request::Trim { reply, .. }, Answer::Trim(answer)) => drop(reply.send(answer)),
        (Request::Commit { .. }, Answer::Trim(_)) | (Request::Trim { .. }, Answer::Commit(_)) => {}
    }
}

fn fail(item: Item, failure: &Failure, refused: bool) {
    match item.request {
        Request::Commit { reply, .. } => {
            let error = match failure {
                Failure::Unknown(reason) if !refused => CommitError::Unknown {
                    reason: reason.clone(),
                },
                Failure::Unknown(reason) | Failure::NotApplied(reason) => {
                    CommitError::Unavailable {
                        reason: reason.clone(),
                    }
                }
            };
            let _ = reply.send(Err(error));
        }
        Request::Trim { reply, .. } => {
            let (Failure::Unknown(reason) | Failure::NotApplied(reason)) = failure;
            let _ = reply.send(Err(StoreError::Unavailable {
                reason: reason.clone(),
            }));
        }
    }
}
