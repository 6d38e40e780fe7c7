//! Pauses: what operators have stopped from being handed out, kept in the store and known to every
//! replica within a second.

use std::sync::Arc;

use coretex_core::pause::{MAX_PAUSES, Pause, PauseScope, Pauses};
use coretex_store::{Batch, CommitError, CommitId, Key, Member, Order, Range, Shard, codec};

use crate::access::Caller;
use crate::engine::Engine;
use crate::sessions::workers::paged;
use crate::types::PageRequest;
use crate::{Error, Result, keyspace, news};

const FORMAT: u8 = 1;
/// The most pauses that a tenant makes for itself.
const MAX_PAUSES_OF_TENANT: usize = 100;
/// Pauses that only callers with system rights make.
const RESERVED: usize = 100;
/// How often a change is tried again after losing against another one.
const MAX_TRIES: u32 = 8;

impl Engine {
    /// Stops handing out the jobs of a scope. What runs goes on. A scope that is paused already
    /// stays so, with its first reason.
    ///
    /// # Errors
    /// `TenantNotAllowed` for a scope beyond the caller's tenant, `TooManyPauses`, `Unavailable`,
    /// `OutcomeUnknown`.
    pub async fn pause_jobs(
        &self,
        caller: &Caller,
        scope: PauseScope,
        reason: String,
    ) -> Result<Pause> {
        check_scope(caller, &scope)?;
        let key = keyspace::pause(&scope);
        for attempt in 0..MAX_TRIES {
            if let Some((pause, _)) = self.read_pause(&key).await? {
                self.pauses_changed().await?;
                return Ok(pause);
            }
            self.check_count(caller)?;
            let pause = Pause {
                scope: scope.clone(),
                reason: reason.clone(),
                principal_id: caller.principal_id.clone(),
                time: self.now(),
            };
            let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
            batch.create(key.clone(), codec::encode(FORMAT, &pause)?);
            batch.add(keyspace::PAUSED, keyspace::paused(&scope));
            news::announce(&mut batch);
            match self.store().commit(batch).await {
                Ok(_) => {
                    tracing::warn!(%scope, principal_id = %caller.principal_id, reason, "paused");
                    self.pauses_changed().await?;
                    return Ok(pause);
                }
                Err(CommitError::Conflict { .. }) => self.pause(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    /// A tenant leaves room for the others, and all of them for who runs the installation.
    fn check_count(&self, caller: &Caller) -> Result<()> {
        let pauses = self.pauses();
        let own = |pause: &&Pause| pause.scope.tenant.as_ref() == Some(&caller.tenant);
        let (count, limit) = if caller.system {
            (pauses.iter().count(), MAX_PAUSES)
        } else if pauses.iter().count() >= MAX_PAUSES - RESERVED {
            (MAX_PAUSES, MAX_PAUSES - RESERVED)
        } else {
            (pauses.iter().filter(own).count(), MAX_PAUSES_OF_TENANT)
        };
        if count >= limit {
            return Err(Error::TooManyPauses { limit });
        }
        Ok(())
    }

    /// Hands out the jobs of a scope again; `None` when it was not paused.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `Unavailable`, `OutcomeUnknown`.
    pub async fn resume_jobs(&self, caller: &Caller, scope: PauseScope) -> Result<Option<Pause>> {
        check_scope(caller, &scope)?;
        let key = keyspace::pause(&scope);
        for attempt in 0..MAX_TRIES {
            let Some((pause, version)) = self.read_pause(&key).await? else {
                self.pauses_changed().await?;
                return Ok(None);
            };
            let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
            batch.delete(key.clone(), version);
            batch.remove(keyspace::PAUSED, keyspace::paused(&scope));
            news::announce(&mut batch);
            match self.store().commit(batch).await {
                Ok(_) => {
                    tracing::warn!(%scope, principal_id = %caller.principal_id, "resumed");
                    self.pauses_changed().await?;
                    return Ok(Some(pause));
                }
                Err(CommitError::Conflict { .. }) => self.pause(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    /// The pauses that hold up jobs of the caller's tenant, by scope; the token names where to go on.
    ///
    /// # Errors
    /// `PageTokenInvalid`, `Unavailable`.
    pub async fn list_pauses(
        &self,
        caller: &Caller,
        page: PageRequest,
    ) -> Result<(Vec<Pause>, String)> {
        self.read_pauses().await?;
        let concerns = |pause: &&Pause| {
            let tenant = pause.scope.tenant.as_ref();
            caller.system || tenant.is_none_or(|tenant| *tenant == caller.tenant)
        };
        let mut pauses: Vec<Pause> = self.pauses().iter().filter(concerns).cloned().collect();
        for pause in &mut pauses {
            if !caller.system && pause.scope.tenant.is_none() {
                // Who runs the installation is none of a tenant's business.
                pause.principal_id.clear();
            }
        }
        let name = |pause: &Pause| {
            let member = keyspace::paused(&pause.scope);
            String::from_utf8_lossy(&member).into_owned()
        };
        pauses.sort_by_key(name);
        paged(pauses, &page, name)
    }

    /// What is paused, as far as this replica knows.
    pub(crate) fn pauses(&self) -> Arc<Pauses> {
        Arc::clone(&self.dispatcher().lock().pauses)
    }

    /// Takes over what is paused from the store.
    pub(crate) async fn read_pauses(&self) -> Result<()> {
        let since = self.dispatcher().lock().pause_changes;
        let range = [Range::all(keyspace::PAUSED)];
        let read = self
            .store()
            .range(Shard::Sys, &range, MAX_PAUSES, Order::Ascending)
            .await?;
        let members: Vec<Member> = read.value.into_iter().flatten().collect();
        let keys: Vec<Key> = members
            .iter()
            .map(|member| keyspace::pause_of(member))
            .collect();
        let mut pauses = Vec::with_capacity(keys.len());
        if !keys.is_empty() {
            let records = self.store().get(Shard::Sys, &keys).await?.value;
            for record in records.into_iter().flatten() {
                pauses.push(codec::decode::<Pause>(&record.value)?.1);
            }
        }
        let pauses = Pauses::new(pauses);
        let changed = {
            let mut state = self.dispatcher().lock();
            if state.pause_changes != since {
                // Somebody has changed them here since; that one's read knows of it.
                return Ok(());
            }
            let changed = *state.pauses != pauses;
            if changed {
                state.pauses = Arc::new(pauses);
                state.fleet_changed();
            }
            changed
        };
        if changed {
            self.dispatcher().wake();
        }
        Ok(())
    }

    /// Takes over a change of this replica, and makes the others look sooner.
    async fn pauses_changed(&self) -> Result<()> {
        self.dispatcher().lock().pause_changes += 1;
        self.read_pauses().await?;
        self.tell_news();
        Ok(())
    }

    async fn read_pause(&self, key: &Key) -> Result<Option<(Pause, u64)>> {
        let read = self
            .store()
            .get(Shard::Sys, std::slice::from_ref(key))
            .await?;
        let Some(record) = read.value.into_iter().next().flatten() else {
            return Ok(None);
        };
        let (_, pause) = codec::decode::<Pause>(&record.value)?;
        Ok(Some((pause, record.version)))
    }
}

/// Who is not of the system pauses for its own tenant only.
fn check_scope(caller: &Caller, scope: &PauseScope) -> Result<()> {
    let own = scope.tenant.as_ref() == Some(&caller.tenant);
    if own || caller.system {
        Ok(())
    } else {
        Err(Error::TenantNotAllowed)
    }
}
