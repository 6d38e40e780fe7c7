//! API keys: made, listed and revoked, and forgotten long after they were of use.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use coretex_core::id::TenantId;
use coretex_core::time::Timestamp;
use coretex_store::{Batch, CommitError, CommitId, Member, Order, Range, Shard, Version, codec};
use serde::{Deserialize, Serialize};

use super::{Caller, DEFAULT_TENANT, Role, SECRET_PREFIX, SYSTEM_TENANT, hash};
use crate::engine::Engine;
use crate::{Error, Noun, PageRequest, Result, keyspace};

/// `last_used_time` is written at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// The format of the records of API keys.
pub(crate) const KEY_FORMAT: u8 = 1;
/// How long a key that was revoked or has expired is kept, for people who look for it.
const INACTIVE_LIFE: Duration = Duration::from_secs(30 * 24 * 3_600);
/// What the names of those who use a key start with.
pub(super) const KEY_PRINCIPAL: &str = "key:";
/// Keys read at once.
const PAGE: usize = 256;
/// Keys read for one page of a list at most; then it ends, short or empty, with a token.
const SCAN: usize = 2_000;

/// An API key as listed; the secret is never stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id, also the public part of the secret.
    pub key_id: String,
    /// For people.
    pub display_name: String,
    /// Whom it acts for.
    pub tenant: TenantId,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// Teams that it may name.
    #[serde(default)]
    pub team_ids: BTreeSet<String>,
    /// Tenants whose jobs its workers get; empty = its own.
    #[serde(default)]
    pub tenants_served: BTreeSet<String>,
    /// May act for any tenant.
    #[serde(default)]
    pub system: bool,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it ends by itself.
    #[serde(default)]
    pub expire_time: Option<Timestamp>,
    /// When it was last used, to about a minute.
    #[serde(default)]
    pub last_used_time: Option<Timestamp>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoke_time: Option<Timestamp>,
    /// SHA-256 of the secret part.
    #[serde(with = "serde_bytes")]
    pub secret_hash: Vec<u8>,
}

/// What a new key should be.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// For people.
    pub display_name: String,
    /// Whom it acts for; `None` = the caller's tenant.
    pub tenant: Option<TenantId>,
    /// What it may do.
    pub roles: BTreeSet<Role>,
    /// Teams that it may name.
    pub team_ids: BTreeSet<String>,
    /// Tenants whose jobs its workers get.
    pub tenants_served: BTreeSet<String>,
    /// When it ends by itself.
    pub expire_time: Option<Timestamp>,
}

impl ApiKey {
    /// The name of whoever uses it.
    pub(crate) fn principal_id(&self) -> String {
        format!("{KEY_PRINCIPAL}{}", self.key_id)
    }

    /// Since when, or from when on, it opens nothing.
    fn end_time(&self) -> Option<Timestamp> {
        match (self.revoke_time, self.expire_time) {
            (Some(revoked), Some(expires)) => Some(revoked.min(expires)),
            (revoked, expires) => revoked.or(expires),
        }
    }

    /// Whether it opens anything at `now`.
    pub(crate) fn works(&self, now: Timestamp) -> bool {
        self.end_time().is_none_or(|end| end > now)
    }
}

/// The place of a key in the index.
struct Place {
    tenant: TenantId,
    create_time: Timestamp,
    key_id: String,
}

impl Place {
    fn of(key: &ApiKey) -> Self {
        Self {
            tenant: key.tenant.clone(),
            create_time: key.create_time,
            key_id: key.key_id.clone(),
        }
    }

    fn member(&self) -> Member {
        keyspace::api_key_place(&self.tenant, self.create_time, &self.key_id)
    }

    fn parse(member: &[u8]) -> Option<Self> {
        let (tenant, create_time, key_id) = keyspace::parse_api_key_place(member)?;
        Some(Self {
            tenant,
            create_time,
            key_id,
        })
    }

    /// Where a list goes on, within a tenant.
    fn token(&self) -> String {
        format!("{}-{}", self.create_time.as_micros(), self.key_id)
    }

    fn parse_token(tenant: &TenantId, token: &str) -> Result<Self> {
        let parsed = token.split_once('-').and_then(|(time, key_id)| {
            coretex_core::id::check_id(key_id).ok()?;
            Some(Self {
                tenant: tenant.clone(),
                create_time: Timestamp::from_micros(time.parse().ok()?),
                key_id: key_id.to_owned(),
            })
        });
        parsed.ok_or(Error::PageTokenInvalid)
    }
}

impl Engine {
    /// Makes an API key. The secret is not kept; this is the only time that it is seen.
    ///
    /// # Errors
    /// `TenantNotAllowed` for another tenant without system rights, `RoleNotAllowed` for a role
    /// that grants more than the caller has, `Invalid`.
    pub async fn create_api_key(
        &self,
        caller: &Caller,
        new: NewApiKey,
    ) -> Result<(ApiKey, String)> {
        let tenant = new.tenant.clone().unwrap_or_else(|| caller.tenant.clone());
        if tenant != caller.tenant && !caller.system {
            return Err(Error::TenantNotAllowed);
        }
        if new.roles.is_empty() {
            return Err(Error::invalid("roles", "must name at least one role"));
        }
        if !caller.roles.contains(&Role::Admin)
            && let Some(role) = new.roles.iter().find(|role| !caller.roles.contains(role))
        {
            return Err(Error::RoleNotAllowed {
                role: role.name().to_owned(),
            });
        }
        let foreign = |served: &String| *served != *tenant.as_str();
        if !caller.system && new.tenants_served.iter().any(foreign) {
            return Err(Error::TenantNotAllowed);
        }
        if new.expire_time.is_some_and(|expire| expire <= self.now()) {
            return Err(Error::invalid("expire_time", "must be in the future"));
        }
        let system =
            tenant.as_str() == SYSTEM_TENANT && caller.system && new.roles.contains(&Role::Admin);
        self.store_new_key(tenant, new, system).await
    }

    async fn store_new_key(
        &self,
        tenant: TenantId,
        new: NewApiKey,
        system: bool,
    ) -> Result<(ApiKey, String)> {
        let key_id = format!("{:016x}", self.ids().random() as u64);
        let secret = format!(
            "{SECRET_PREFIX}{key_id}.{:032x}{:032x}",
            self.ids().random(),
            self.ids().random()
        );
        let key = ApiKey {
            key_id: key_id.clone(),
            display_name: new.display_name,
            tenant: tenant.clone(),
            roles: new.roles,
            team_ids: new.team_ids,
            tenants_served: new.tenants_served,
            system,
            create_time: self.now(),
            expire_time: new.expire_time,
            last_used_time: None,
            revoke_time: None,
            secret_hash: hash(&secret),
        };
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch.create(keyspace::api_key(&key_id), codec::encode(KEY_FORMAT, &key)?);
        batch.add(keyspace::API_KEYS, Place::of(&key).member());
        self.store().commit(batch).await?;
        tracing::info!(%key_id, %tenant, "api key created");
        Ok((key, secret))
    }

    /// Lists the keys of the caller's tenant, newest first; the token names where to go on. Those
    /// that open nothing any more are left out unless `inactive`.
    ///
    /// # Errors
    /// `PageTokenInvalid`, `Unavailable`.
    pub async fn list_api_keys(
        &self,
        caller: &Caller,
        page: PageRequest,
        inactive: bool,
    ) -> Result<(Vec<ApiKey>, String)> {
        let prefix = keyspace::api_key_prefix(&caller.tenant);
        let mut range = Range::prefix(keyspace::API_KEYS, &prefix);
        if !page.token.is_empty() {
            range.end = Some(Place::parse_token(&caller.tenant, &page.token)?.member());
        }
        let now = self.now();
        let (mut found, mut looked_at) = (Vec::new(), 0);
        loop {
            let (keys, more) = self.keys_in(range.clone(), Order::Descending).await?;
            for (place, key) in keys {
                looked_at += 1;
                let shown = |key: &ApiKey| inactive || key.works(now);
                found.extend(key.map(|(key, _)| key).filter(shown));
                if found.len() == page.size || looked_at == SCAN {
                    return Ok((found, place.token()));
                }
                range.end = Some(place.member());
            }
            if !more {
                return Ok((found, String::new()));
            }
        }
    }

    /// Revokes a key of the caller's tenant; one that was revoked stays so since the first time.
    /// Other replicas notice within ten seconds.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn revoke_api_key(&self, caller: &Caller, key_id: &str) -> Result<ApiKey> {
        let missing = || Error::NotFound {
            noun: Noun::ApiKey,
            id: key_id.to_owned(),
        };
        for attempt in 0..8 {
            let (mut key, version) = self.read_key(key_id).await?.ok_or_else(missing)?;
            if key.tenant != caller.tenant && !caller.system {
                return Err(missing());
            }
            if key.revoke_time.is_some() {
                return Ok(key);
            }
            key.revoke_time = Some(self.now());
            let value = codec::encode(KEY_FORMAT, &key)?;
            let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
            batch.replace(keyspace::api_key(key_id), version, value);
            let committed = self.store().commit(batch).await;
            // Also when the outcome is not known.
            self.key_cache().forget(key_id);
            match committed {
                Ok(_) => {
                    self.end_streams_of(&key.principal_id());
                    tracing::info!(%key_id, tenant = %key.tenant, "api key revoked");
                    return Ok(key);
                }
                Err(CommitError::Conflict { .. }) => self.pause(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    /// Makes the first admin key of the store. `None` when there is a key that works.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn ensure_admin_key(&self) -> Result<Option<String>> {
        let now = self.now();
        let mut range = Range::all(keyspace::API_KEYS);
        loop {
            let (keys, more) = self.keys_in(range.clone(), Order::Ascending).await?;
            let mut read = keys.iter().filter_map(|(_, key)| key.as_ref());
            if read.any(|(key, _)| key.works(now)) {
                return Ok(None);
            }
            match keys.last() {
                Some((last, _)) if more => range.start = after(&last.member()),
                Some(_) | None => break,
            }
        }
        let new = NewApiKey {
            display_name: "first admin".to_owned(),
            tenant: None,
            roles: BTreeSet::from([Role::Admin]),
            team_ids: BTreeSet::new(),
            tenants_served: BTreeSet::new(),
            expire_time: None,
        };
        let (_, secret) = self
            .store_new_key(TenantId::from_trusted(DEFAULT_TENANT), new, true)
            .await?;
        Ok(Some(secret))
    }

    /// A page of the index with the records, and whether there may be more. A record that is
    /// missing was deleted since.
    async fn keys_in(&self, range: Range, order: Order) -> Result<(Vec<Listed>, bool)> {
        let read = self
            .store()
            .range(Shard::Sys, &[range], PAGE, order)
            .await?;
        let members = read.value.into_iter().next().unwrap_or_default();
        let more = members.len() == PAGE;
        let places: Vec<Place> = members
            .iter()
            .filter_map(|member| Place::parse(member))
            .collect();
        let ids: Vec<&str> = places.iter().map(|place| &*place.key_id).collect();
        let keys = self.read_keys(&ids).await?;
        Ok((places.into_iter().zip(keys).collect(), more))
    }

    /// Reads keys, in the order asked for.
    pub(crate) async fn read_keys(&self, ids: &[&str]) -> Result<Vec<Option<(ApiKey, Version)>>> {
        let names: Vec<_> = ids.iter().map(|id| keyspace::api_key(id)).collect();
        let read = self.store().get(Shard::Sys, &names).await?;
        read.value
            .into_iter()
            .map(|record| {
                let Some(record) = record else {
                    return Ok(None);
                };
                let (_, key) = codec::decode::<ApiKey>(&record.value)?;
                Ok(Some((key, record.version)))
            })
            .collect()
    }

    pub(crate) async fn read_key(&self, key_id: &str) -> Result<Option<(ApiKey, Version)>> {
        let mut found = self.read_keys(&[key_id]).await?;
        Ok(found.pop().flatten())
    }

    /// Deletes keys that have been useless for long.
    pub(crate) async fn sweep_keys(&self) -> Result<()> {
        let kept_since = self.now() - INACTIVE_LIFE;
        let mut range = Range::all(keyspace::API_KEYS);
        loop {
            let (keys, more) = self.keys_in(range.clone(), Order::Ascending).await?;
            for (place, key) in &keys {
                let Some((key, version)) = key else { continue };
                if key.works(kept_since) {
                    continue;
                }
                let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
                batch.delete(keyspace::api_key(&key.key_id), *version);
                batch.remove(keyspace::API_KEYS, place.member());
                match self.store().commit(batch).await {
                    // Somebody tries to use it; the next sweep takes it.
                    Ok(_) | Err(CommitError::Conflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            match keys.last() {
                Some((last, _)) if more => range.start = after(&last.member()),
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Takes over keys from the index that builds before kept, which knew no times.
    pub(crate) async fn adopt_old_keys(&self) -> Result<()> {
        let mut range = Range::all(keyspace::OLD_API_KEYS);
        loop {
            let read = self
                .store()
                .range(Shard::Sys, &[range.clone()], PAGE, Order::Ascending)
                .await?;
            let members = read.value.into_iter().next().unwrap_or_default();
            for member in &members {
                let id = member.rsplit(|byte| *byte == 0).next().unwrap_or_default();
                let id = String::from_utf8_lossy(id);
                let Some((key, version)) = self.read_key(&id).await? else {
                    continue;
                };
                let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
                let value = codec::encode(KEY_FORMAT, &key)?;
                batch.replace(keyspace::api_key(&id), version, value);
                batch.add(keyspace::API_KEYS, Place::of(&key).member());
                batch.remove(keyspace::OLD_API_KEYS, member.clone());
                match self.store().commit(batch).await {
                    // Another replica that starts has done it.
                    Ok(_) | Err(CommitError::Conflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            match members.last() {
                Some(last) if members.len() == PAGE => range.start = after(last),
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Notes that a key is in use. Best effort: nobody waits for it, a conflict is left alone.
    pub(super) fn touch_key(&self, key: &Arc<ApiKey>) {
        let now = self.now();
        if key
            .last_used_time
            .is_some_and(|last| now.since(last) < TOUCH_EVERY)
        {
            return;
        }
        let engine = self.clone();
        let key_id = key.key_id.clone();
        self.spawn_work(async move {
            let Ok(Some((mut key, version))) = engine.read_key(&key_id).await else {
                return;
            };
            key.last_used_time = Some(now);
            let Ok(value) = codec::encode(KEY_FORMAT, &key) else {
                return;
            };
            let mut batch = Batch::new(Shard::Sys, CommitId(engine.ids().random()));
            batch.replace(keyspace::api_key(&key_id), version, value);
            if let Err(error) = engine.store().commit(batch).await {
                tracing::debug!(%error, %key_id, "last use of a key not noted");
            }
        });
    }
}

/// A place in the index, and the record that stands for it.
type Listed = (Place, Option<(ApiKey, Version)>);

/// The first member after `member`.
fn after(member: &[u8]) -> Member {
    Bytes::from([member, &[0]].concat())
}
