//! Callers that wait for a job to end.

use std::collections::HashMap;
use std::time::Duration;

use coretex_core::id::{JobId, TenantId};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::Result;
use crate::commits::Loaded;
use crate::engine::Engine;

type Name = (TenantId, JobId);

/// How often it is looked for ends that no message told of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Jobs read at once for that.
const PAGE: usize = 256;
/// Who waits reads the job itself as often, whatever was heard.
const REREAD_EVERY: Duration = Duration::from_secs(10);

/// Who waits for which job in this replica.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    waiting: Mutex<HashMap<Name, Vec<oneshot::Sender<Loaded>>>>,
}

/// One caller's place; leaves the map when dropped.
#[derive(Debug)]
pub(crate) struct Wait<'a> {
    waiters: &'a Waiters,
    name: Name,
    receiver: oneshot::Receiver<Loaded>,
}

impl Waiters {
    /// Takes a place. Everything that ends after this is heard of.
    pub(crate) fn register(&self, name: Name) -> Wait<'_> {
        let (sender, receiver) = oneshot::channel();
        self.waiting
            .lock()
            .entry(name.clone())
            .or_default()
            .push(sender);
        Wait {
            waiters: self,
            name,
            receiver,
        }
    }

    /// Jobs that are waited for.
    fn names(&self) -> Vec<Name> {
        self.waiting.lock().keys().cloned().collect()
    }

    /// Whether anybody waits for a job.
    pub(crate) fn waits_for(&self, tenant: &TenantId, id: &JobId) -> bool {
        self.waiting
            .lock()
            .contains_key(&(tenant.clone(), id.clone()))
    }

    /// Tells who waits that a job has ended.
    pub(crate) fn ended(&self, after: &Loaded) {
        let name = Engine::name_of(&after.job);
        let Some(senders) = self.waiting.lock().remove(&name) else {
            return;
        };
        for sender in senders {
            // Who has left in the meantime need not know.
            let _ = sender.send(after.clone());
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.receiver.close();
        let mut waiting = self.waiters.waiting.lock();
        if let Some(senders) = waiting.get_mut(&self.name) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                waiting.remove(&self.name);
            }
        }
    }
}

impl Engine {
    /// Looks every second for the ends of jobs that are waited for here and may have ended at other
    /// replicas, until the engine stops: their messages are doorbells, and may be lost.
    pub(crate) async fn run_waits(self) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            let names = self.waiters().names();
            for page in names.chunks(PAGE) {
                match self.load_readable(page).await {
                    Ok(found) => found
                        .iter()
                        .flatten()
                        .filter(|loaded| loaded.job.state.is_terminal())
                        .for_each(|loaded| self.waiters().ended(loaded)),
                    Err(error) => {
                        tracing::debug!(%error, "jobs that are waited for were not read");
                        break;
                    }
                }
            }
        }
    }

    /// Waits until the job has ended, at most until `deadline`; answers with the job as it is then.
    pub(crate) async fn wait_ended(
        &self,
        mut wait: Wait<'_>,
        deadline: Instant,
        known: Loaded,
    ) -> Result<Loaded> {
        if known.job.state.is_terminal() {
            return Ok(known);
        }
        let (tenant, id) = (known.job.tenant.clone(), known.job.id.clone());
        loop {
            let next = deadline.min(Instant::now() + REREAD_EVERY);
            tokio::select! {
                biased;
                told = &mut wait.receiver => if let Ok(loaded) = told { return Ok(loaded) },
                () = tokio::time::sleep_until(next) => {}
                () = self.stopping().cancelled() => return self.load(&tenant, &id).await,
            }
            let loaded = self.load(&tenant, &id).await?;
            if loaded.job.state.is_terminal() || Instant::now() >= deadline {
                return Ok(loaded);
            }
        }
    }
}
