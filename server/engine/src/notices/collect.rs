//! From the log into the outboxes.

use std::sync::Arc;
use std::time::Duration;

use coretex_core::time::Timestamp;
use coretex_store::{LogId, LogPage, Member, Order, Range, codec};
use serde::{Deserialize, Serialize};

use super::{Entry, Notifier, outbox};
use crate::approvals::ApprovalEventKind;
use crate::commits::LogEntry;
use crate::engine::Engine;
use crate::{Result, keyspace, telemetry};

/// The format of how far the log has been read.
const FORMAT: u8 = 1;
/// Log entries read at once.
const PAGE: usize = 512;
/// How often the log is looked at without a bell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Entries that may be read again after a crash because nothing in them was worth a commit.
const UNWRITTEN: u64 = 20_000;
/// Notices that wait for one endpoint. Where more come, they are not told.
const MAX_WAITING: u64 = 10_000;
/// Pending approvals that are told of anew when a part of the log was missed.
const MAX_RECALLED: usize = 10_000;

/// How far the log has been read.
#[derive(Serialize, Deserialize)]
struct Cursor {
    next: LogId,
}

/// The same, with the version of its record.
struct Place {
    next: LogId,
    /// What stands in the store.
    written: LogId,
    version: Option<u64>,
}

impl Engine {
    pub(super) async fn run_collect_notices(self, notifier: Arc<dyn Notifier>) {
        let mut bell = self.log_bell();
        let mut place = None;
        loop {
            if !self.owns_shard() {
                place = None;
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            bell.mark_unchanged();
            match self.collect_notices(&*notifier, &mut place).await {
                Ok(true) => {}
                Ok(false) => {
                    let _ = tokio::time::timeout(LOOK_EVERY, bell.changed()).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "notices not collected; trying again in a second");
                    place = None;
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        }
    }

    /// Reads one page of the log; whether there may be more.
    async fn collect_notices(
        &self,
        notifier: &dyn Notifier,
        known: &mut Option<Place>,
    ) -> Result<bool> {
        let place = match known {
            Some(place) => place,
            none => none.insert(self.notices_place().await?),
        };
        let store = self.store();
        let page = store.tail(self.shard(), place.next, PAGE).await?.value;
        let now = self.now();
        let mut found = Vec::new();
        if place.next < page.first || place.next > page.next {
            // What was trimmed is lost; what still waits is told of once more.
            tracing::warn!(
                next = place.next,
                first = page.first,
                "a part of the log was missed"
            );
            found = self.pending_notices(now).await?;
            place.next = page.next;
        } else {
            read(&page, now, &mut found)?;
            place.next += page.entries.len() as u64;
        }
        let more = page.entries.len() == PAGE;
        let new = place.version.is_none();
        if !found.is_empty() || new || place.next - place.written.min(place.next) > UNWRITTEN {
            self.put_notices(notifier, place, &found).await?;
        }
        Ok(more)
    }

    async fn notices_place(&self) -> Result<Place> {
        let key = keyspace::notices();
        let read = self
            .store()
            .get(self.shard(), std::slice::from_ref(&key))
            .await?;
        if let Some(record) = read.value.into_iter().flatten().next() {
            let (_, Cursor { next }) = codec::decode(&record.value)?;
            return Ok(Place {
                next,
                written: next,
                version: Some(record.version),
            });
        }
        // Nobody was told of anything before: what happens from now on is told.
        let end = self.store().tail(self.shard(), LogId::MAX, 0).await?;
        Ok(Place {
            next: end.value.next,
            written: end.value.next,
            version: None,
        })
    }

    /// Puts notices into the outboxes of those who want them, with how far the log was read.
    async fn put_notices(
        &self,
        notifier: &dyn Notifier,
        place: &mut Place,
        found: &[Entry],
    ) -> Result<()> {
        let mut adds: Vec<(bytes::Bytes, Member)> = Vec::new();
        for endpoint in notifier.endpoints() {
            let wanted = found
                .iter()
                .filter(|entry| endpoint.wants(&entry.tenant, entry.kind));
            let mut wanted: Vec<Member> = wanted.map(Entry::encode).collect();
            if wanted.is_empty() {
                continue;
            }
            let index = outbox(&endpoint.name);
            let all = Range::all(index.clone());
            let waiting = self.store().count(self.shard(), &all, MAX_WAITING).await?;
            let room = usize::try_from(MAX_WAITING.saturating_sub(waiting.value)).unwrap_or(0);
            if wanted.len() > room {
                let lost = wanted.len() - room;
                tracing::error!(endpoint = endpoint.name, lost, "too many notices wait");
                telemetry::notices_lost(&endpoint.name, lost);
                wanted.truncate(room);
            }
            adds.extend(wanted.into_iter().map(|member| (index.clone(), member)));
        }
        let value = codec::encode(FORMAT, &Cursor { next: place.next })?;
        let version = self
            .write_notices(keyspace::notices(), place.version, value, |batch| {
                for (index, member) in adds {
                    batch.add(index, member);
                }
            })
            .await?;
        place.version = Some(version);
        place.written = place.next;
        self.notices_bell().notify_waiters();
        Ok(())
    }

    /// Every approval that waits, as if it had just been asked for.
    async fn pending_notices(&self, now: Timestamp) -> Result<Vec<Entry>> {
        let all = Range::all(keyspace::PENDING_APPROVALS);
        let read = self
            .store()
            .range(self.shard(), &[all], MAX_RECALLED, Order::Ascending)
            .await?;
        let members = read.value.into_iter().flatten();
        let places = members.filter_map(|member| keyspace::parse_pending(&member));
        Ok(places
            .map(|(tenant, approval_id, job_id)| Entry {
                due: now,
                first: now,
                time: now,
                kind: ApprovalEventKind::Requested,
                state: coretex_core::approval::ApprovalState::Pending,
                tenant,
                approval_id,
                job_id,
            })
            .collect())
    }
}

fn read(page: &LogPage, now: Timestamp, found: &mut Vec<Entry>) -> Result<()> {
    for entry in &page.entries {
        let entry = codec::decode::<LogEntry>(&entry.value)?.1;
        for event in entry.approvals {
            found.push(Entry {
                due: now,
                first: now,
                time: event.time,
                kind: event.kind,
                state: event.state,
                tenant: entry.tenant.clone(),
                approval_id: event.approval_id,
                job_id: entry.job_id.clone(),
            });
        }
    }
    Ok(())
}
