//! From the outbox to its endpoint: again and again, less and less often, for an hour.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coretex_core::time::Timestamp;
use coretex_store::{Member, Order, Range};
use futures::future::join_all;

use super::{Entry, Notice, Notifier, outbox};
use crate::approvals::{ApprovalAnswer, ApprovalEvent};
use crate::engine::Engine;
use crate::{Error, Result, keyspace, telemetry};

/// How often an outbox is looked at without a bell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Notices on their way at once.
const AT_ONCE: usize = 16;
/// How long one delivery may take, whatever the notifier does.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a notice is tried to be delivered.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3_600);
/// Pauses between two tries: as long as it has been tried already, within these bounds.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What becomes of an entry.
enum After {
    Gone,
    Again(Timestamp),
}

impl Engine {
    pub(super) async fn run_outbox(self, notifier: Arc<dyn Notifier>, endpoint: String) {
        loop {
            let rang = self.notices_bell().notified();
            let sent = if self.owns_shard() {
                self.deliver_due(&*notifier, &endpoint).await
            } else {
                Ok(0)
            };
            match sent {
                Ok(AT_ONCE) => continue,
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, endpoint, "outbox not emptied yet"),
            }
            let _ = tokio::time::timeout(LOOK_EVERY, rang).await;
        }
    }

    /// Delivers what is due; how many were tried.
    async fn deliver_due(&self, notifier: &dyn Notifier, endpoint: &str) -> Result<usize> {
        let index = outbox(endpoint);
        let next = self.now() + Duration::from_micros(1);
        let due = Range {
            end: Some(next.to_be_bytes().to_vec().into()),
            ..Range::all(index.clone())
        };
        let read = self
            .store()
            .range(self.shard(), &[due], AT_ONCE, Order::Ascending)
            .await?;
        let members: Vec<Member> = read.value.into_iter().flatten().collect();
        if members.is_empty() {
            return Ok(0);
        }
        // Before anything is sent: whoever takes over meanwhile makes the commit fail.
        let key = keyspace::notices_of(endpoint);
        let read = self
            .store()
            .get(self.shard(), std::slice::from_ref(&key))
            .await?;
        let known = read.value.into_iter().flatten().next();
        let tries = members
            .iter()
            .map(|member| self.deliver_one(notifier, endpoint, member));
        let outcomes = join_all(tries).await;
        let tried = members.len();
        let version = known.map(|record| record.version);
        self.write_notices(key, version, Bytes::from_static(b"1"), |batch| {
            for (member, (entry, after)) in members.into_iter().zip(outcomes) {
                batch.remove(index.clone(), member);
                if let (Some(entry), After::Again(due)) = (entry, after) {
                    batch.add(index.clone(), Entry { due, ..entry }.encode());
                }
            }
        })
        .await?;
        Ok(tried)
    }

    async fn deliver_one(
        &self,
        notifier: &dyn Notifier,
        endpoint: &str,
        member: &[u8],
    ) -> (Option<Entry>, After) {
        let Some(entry) = Entry::decode(member) else {
            tracing::error!(endpoint, "malformed member in an outbox");
            telemetry::bug("outbox_member");
            return (None, After::Gone);
        };
        let delivered = match self.notice(endpoint, &entry).await {
            // Its job was deleted: there is nothing to tell any more.
            Ok(None) => Ok(()),
            Ok(Some(notice)) => {
                let delivery = notifier.deliver(endpoint, &notice);
                let late = || Err("it takes too long".to_owned());
                tokio::time::timeout(PATIENCE, delivery)
                    .await
                    .unwrap_or_else(|_| late())
            }
            Err(error) => Err(error.to_string()),
        };
        let Err(reason) = delivered else {
            telemetry::notice(endpoint, "delivered");
            return (Some(entry), After::Gone);
        };
        let now = self.now();
        let tried_for = now.since(entry.first);
        let approval_id = &entry.approval_id;
        if tried_for >= GIVE_UP_AFTER {
            tracing::error!(endpoint, %approval_id, reason, "notice given up");
            telemetry::notice(endpoint, "given_up");
            telemetry::notices_lost(endpoint, 1);
            return (Some(entry), After::Gone);
        }
        tracing::warn!(endpoint, %approval_id, reason, "notice not delivered; trying again");
        telemetry::notice(endpoint, "failed");
        let pause = tried_for.clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        // Spread, so that those that failed together do not come together again.
        let pause = pause.mul_f64(0.75 + 0.5 * self.ids().fraction());
        (Some(entry), After::Again(now + pause))
    }

    /// What there is to tell; `None` when its job is gone.
    async fn notice(&self, endpoint: &str, entry: &Entry) -> Result<Option<Notice>> {
        let loaded = match self.load(&entry.tenant, &entry.job_id).await {
            Ok(loaded) => loaded,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(approval) = loaded.job.approval(&entry.approval_id).cloned() else {
            return Ok(None);
        };
        Ok(Some(Notice {
            id: entry.id(endpoint),
            tenant: entry.tenant.clone(),
            event: ApprovalEvent {
                approval_id: entry.approval_id.clone(),
                kind: entry.kind,
                state: entry.state,
                time: entry.time,
            },
            answer: ApprovalAnswer {
                approval,
                job: loaded.job,
            },
        }))
    }
}
