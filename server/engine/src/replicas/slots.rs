//! What this replica's workers hold, compared with what the store says that they hold: a message
//! that was lost, a commit whose outcome was never learnt and a change that another replica made
//! all show here.

use coretex_core::id::{JobId, TenantId};

use crate::engine::Engine;
use crate::sessions::GivenUp;
use crate::types::{SessionEnd, ToWorker};
use crate::{Error, Result, telemetry};

impl Engine {
    /// Compares the slots in memory with the held index, which is the truth. What is missing on
    /// either side counts after two looks in a row, so that a commit under way is no finding.
    pub(super) async fn compare_slots(&self) -> Result<()> {
        let held = self.held_of(&self.replica(), usize::MAX >> 1).await?;
        let found = self.dispatcher().lock().compare(held, self.tick());
        if !found.stale.is_empty() {
            telemetry::bug("slot_without_entry");
            tracing::warn!(
                count = found.stale.len(),
                "slots without a held entry were freed"
            );
            for (session, attempt) in found.stale {
                let reason = "the attempt is not current".to_owned();
                self.tell(&session, ToWorker::Revoke { attempt, reason });
            }
            self.dispatcher().wake();
        }
        if !found.unknown.is_empty() {
            tracing::warn!(
                count = found.unknown.len(),
                "held entries without a slot are given up"
            );
        }
        self.for_each_bounded(found.unknown, |entry| async move {
            let reason = "the assignment was never sent";
            self.give_up(&entry, GivenUp::Lost(reason)).await;
        })
        .await;
        self.for_each_bounded(found.behind, |(tenant, id)| async move {
            self.catch_up(&tenant, &id).await;
        })
        .await;
        Ok(())
    }

    /// Takes over what another replica has made of a job: whoever waits for it here is told, and
    /// so are workers that run it.
    pub(super) async fn catch_up(&self, tenant: &TenantId, id: &JobId) {
        let loaded = match self.load(tenant, id).await {
            Ok(loaded) => loaded,
            // Nothing of it is left; the comparison frees what is held for it.
            Err(Error::NotFound { .. }) => return,
            Err(error) => {
                tracing::debug!(%error, job_id = %id, "a change by another replica was not read");
                return;
            }
        };
        if loaded.job.state.is_terminal() {
            self.waiters().ended(&loaded);
        }
        let (replica, now) = (self.replica(), self.now());
        let told = self.dispatcher().lock().catch_up(&replica, &loaded, now);
        let changed = !told.is_empty();
        for (session, message) in told {
            match message {
                Some(message) => {
                    self.tell(&session, message);
                }
                None => self.end_session(&session, SessionEnd::Superseded),
            }
        }
        if changed {
            self.dispatcher().wake();
        }
    }
}
