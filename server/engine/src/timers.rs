//! The clocks of jobs: near ones are held in memory, far ones stand in the index `due`.
//!
//! A timer only says "look now": what has run out is decided from the record, in one conditional
//! commit, so firing twice or late changes nothing but the time.

use std::collections::BTreeSet;
use std::time::Duration;

use coretex_core::id::{JobId, TenantId};
use coretex_core::job::Job;
use coretex_core::job::clock::{Due, due, next_due};
use coretex_core::job::transition::{Trigger, apply};
use coretex_core::time::Timestamp;
use coretex_store::{Order, Range};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::engine::Engine;
use crate::rulings::in_line;
use crate::{Error, keyspace};

/// How far ahead the index is read.
const HORIZON: Duration = Duration::from_secs(2);
/// What is due for this long is fired by whoever sees it.
const OVERDUE: Duration = Duration::from_secs(1);
/// How often.
const READ_EVERY: Duration = Duration::from_secs(1);
/// Timers held at once; what is beyond is found by the next read.
const MAX_ARMED: usize = 50_000;
/// Entries of one read.
const PAGE: usize = 4_096;

type Armed = (Timestamp, TenantId, JobId);

/// Timers that fire within the horizon.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    armed: Mutex<BTreeSet<Armed>>,
    rearmed: Notify,
}

impl Timers {
    /// Holds the next clock of a written job if it is near. A replica arms what it commits, so
    /// that nothing nearer than the next read of the index is missed.
    pub(crate) fn arm(&self, job: &Job, now: Timestamp) {
        if let Some(at) = next_due(job)
            && at <= now + HORIZON
        {
            self.put((at, job.tenant.clone(), job.id.clone()));
        }
    }

    fn put(&self, timer: Armed) {
        let mut armed = self.armed.lock();
        if armed.len() >= MAX_ARMED {
            // The latest gives way; the next read of the index brings it again.
            if armed.last().is_none_or(|last| *last <= timer) {
                return;
            }
            armed.pop_last();
        }
        let earliest = armed.first().is_none_or(|first| timer.0 < first.0);
        armed.insert(timer);
        drop(armed);
        if earliest {
            self.rearmed.notify_one();
        }
    }

    fn next(&self) -> Option<Timestamp> {
        self.armed.lock().first().map(|first| first.0)
    }

    fn take_due(&self, now: Timestamp, limit: usize) -> Vec<Armed> {
        let mut armed = self.armed.lock();
        let mut taken = Vec::new();
        while taken.len() < limit
            && armed.first().is_some_and(|first| first.0 <= now)
            && let Some(first) = armed.pop_first()
        {
            taken.push(first);
        }
        taken
    }
}

impl Engine {
    /// Fires timers until the engine stops.
    pub(crate) async fn run_timers(self) {
        let mut read = tokio::time::interval(READ_EVERY);
        read.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let now = self.now();
            let pause = self.timers().next().map_or(READ_EVERY, |at| at.since(now));
            tokio::select! {
                biased;
                _ = read.tick() => if let Err(error) = self.read_due().await {
                    tracing::warn!(%error, "due index not read; trying again in a second");
                },
                () = tokio::time::sleep(pause) => {}
                () = self.timers().rearmed.notified() => {}
            }
            loop {
                let due = self.timers().take_due(self.now(), PAGE);
                if due.is_empty() {
                    break;
                }
                let engine = &self;
                engine
                    .for_each_bounded(due, |(_, tenant, id)| async move {
                        engine.fire(&tenant, &id).await;
                    })
                    .await;
            }
        }
    }

    async fn read_due(&self) -> crate::Result<()> {
        // The owner of the shard reads ahead. The others read what the owner should have fired by
        // now: it may be gone, and until its lease is over nobody else is the owner.
        let end = if self.owns_shard() {
            self.now() + HORIZON
        } else {
            self.now() - OVERDUE
        };
        let mut start = bytes::Bytes::new();
        // As many pages as there is room for: what is due at one instant may be many jobs.
        for _ in 0..MAX_ARMED.div_ceil(PAGE) {
            let range = Range {
                index: keyspace::DUE,
                start,
                end: Some(end.to_be_bytes().to_vec().into()),
            };
            let asked = Instant::now();
            let read = self
                .store()
                .range(self.shard(), &[range], PAGE, Order::Ascending)
                .await?;
            self.observe(asked, read.time);
            let members = read.value.into_iter().next().unwrap_or_default();
            for member in &members {
                match keyspace::parse_timed(member) {
                    Some(timer) => self.timers().put(timer),
                    None => {
                        tracing::error!("malformed member in the due index");
                        crate::telemetry::bug("due_member");
                    }
                }
            }
            match members.last() {
                Some(last) if members.len() == PAGE => {
                    start = [last.as_ref(), &[0]].concat().into();
                }
                Some(_) | None => break,
            }
        }
        Ok(())
    }

    async fn fire_due(&self, tenant: &TenantId, id: &JobId) -> crate::Result<()> {
        let loaded = self.load(tenant, id).await?;
        match due(&loaded.job, self.now()) {
            None => Ok(()),
            Some(Due::Judge) => {
                let wanted = |job: &Job, now| due(job, now) == Some(Due::Judge);
                self.judge_again(loaded, wanted).await.map(|_| ())
            }
            Some(Due::Eligible) if !in_line(&loaded.job).is_empty() => {
                self.serve_rate(loaded).await
            }
            Some(_) => {
                let fraction = self.ids().fraction();
                let fired = self.change(tenant, id, Some(loaded), |job, now| {
                    apply(job, Trigger::Due { fraction }, now)
                });
                fired.await.map(|_| ())
            }
        }
    }

    /// Does what the clocks of a job ask for.
    pub(crate) async fn fire(&self, tenant: &TenantId, id: &JobId) {
        let fired = self.fire_due(tenant, id).await;
        match fired {
            // A refusal means that the clock no longer runs.
            Ok(()) | Err(Error::NotFound { .. }) => {}
            // The entry still stands in the index; the next read brings it again.
            Err(error) => tracing::warn!(%error, %tenant, job_id = %id, "timer not applied yet"),
        }
    }
}
