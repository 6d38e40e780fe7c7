//! Who may call: API keys, roles and permissions.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::TenantId;
use coretex_core::lease::Tick;
use coretex_core::time::Timestamp;
use coretex_store::{Batch, CommitError, CommitId, Member, Order, Range, Shard, codec};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::engine::Engine;
use crate::{Error, Noun, PageRequest, Result, keyspace};

/// The tenant whose admins may act for any tenant.
pub const SYSTEM_TENANT: &str = "system";
/// The tenant of the first admin key and of `--dev`.
pub const DEFAULT_TENANT: &str = "default";

/// A role, per tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything in the tenant.
    Admin,
    /// Pools, workers, config, dead letters, any cancel.
    Operator,
    /// Approvals.
    Approver,
    /// Own jobs and runs.
    Submitter,
    /// Sessions, its jobs' artifacts.
    Worker,
    /// Reads, without payloads.
    Viewer,
    /// Reads and audit.
    Auditor,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 7] = [
        Self::Admin,
        Self::Operator,
        Self::Approver,
        Self::Submitter,
        Self::Worker,
        Self::Viewer,
        Self::Auditor,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Operator => "operator",
            Self::Approver => "approver",
            Self::Submitter => "submitter",
            Self::Worker => "worker",
            Self::Viewer => "viewer",
            Self::Auditor => "auditor",
        }
    }

    /// Parses the name on the wire.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == text)
    }
}

/// Who calls, from the credential. Made once per request by the authentication layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The credential's name: `key:<key_id>` or `dev`.
    pub principal_id: String,
    /// The tenant it acts for.
    pub tenant: TenantId,
    /// Teams that it may name.
    pub team_ids: BTreeSet<String>,
    /// Its roles.
    pub roles: BTreeSet<Role>,
    /// Tenants whose jobs its workers get; empty = its own tenant only.
    pub tenants_served: BTreeSet<String>,
    /// May act for any tenant and make keys for any.
    pub system: bool,
}

impl Caller {
    /// Whether the role table grants `permission` (a name such as `jobs.submit`).
    #[must_use]
    pub fn may(&self, permission: &str) -> bool {
        self.roles.iter().any(|role| grants(*role, permission))
    }

    /// Whether it sees payloads of jobs: everybody but those who are only viewers or auditors.
    #[must_use]
    pub fn sees_payloads(&self) -> bool {
        self.roles.iter().any(|role| {
            matches!(
                role,
                Role::Admin | Role::Operator | Role::Approver | Role::Submitter
            )
        })
    }

    /// Whether it sees only jobs that it submitted itself.
    #[must_use]
    pub fn own_jobs_only(&self) -> bool {
        !self.roles.iter().any(|role| {
            matches!(
                role,
                Role::Admin | Role::Operator | Role::Approver | Role::Viewer | Role::Auditor
            )
        })
    }
}

/// The one table from roles to permissions.
#[must_use]
pub fn grants(role: Role, permission: &str) -> bool {
    // Whoever has a valid credential may ask who it is.
    if permission == "authenticated" {
        return true;
    }
    let read = matches!(
        permission,
        "jobs.read" | "workers.read" | "pools.read" | "system.read"
    );
    match role {
        Role::Admin => true,
        Role::Operator => {
            read || matches!(permission, "jobs.submit" | "jobs.cancel" | "workers.drain")
        }
        Role::Approver | Role::Viewer => read,
        Role::Submitter => {
            matches!(
                permission,
                "jobs.read" | "jobs.submit" | "jobs.cancel" | "workers.read" | "pools.read"
            )
        }
        Role::Worker => permission == "workers.connect",
        Role::Auditor => read || permission == "keys.read",
    }
}

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

/// How long a key that was found valid is believed without asking the store, and how long a
/// revocation takes to reach every replica.
const CACHE_FOR: Duration = Duration::from_secs(10);
/// `last_used_time` is written at most this often.
const TOUCH_EVERY: Duration = Duration::from_secs(60);
/// Credentials that are remembered at once.
const CACHE_SIZE: usize = 10_000;
/// The format of the records of API keys.
pub(crate) const KEY_FORMAT: u8 = 1;
/// What every secret starts with, so that scanners find leaked ones.
const SECRET_PREFIX: &str = "ctx_";

/// Credentials that this replica has checked lately.
#[derive(Debug, Default)]
pub(crate) struct KeyCache {
    /// By key id.
    known: Mutex<HashMap<String, Known>>,
}

/// A record as it was read.
#[derive(Debug)]
struct Known {
    key: Arc<ApiKey>,
    read: Tick,
    /// Its secret has been shown since.
    used: bool,
}

impl KeyCache {
    fn get(&self, key_id: &str, now: Tick) -> Option<Arc<ApiKey>> {
        let known = self.known.lock();
        let found = known.get(key_id)?;
        (now.since(found.read) < CACHE_FOR).then(|| Arc::clone(&found.key))
    }

    /// The right secret was shown; true for the first time since the record was read.
    fn used(&self, key_id: &str) -> bool {
        let mut known = self.known.lock();
        known
            .get_mut(key_id)
            .is_some_and(|found| !std::mem::replace(&mut found.used, true))
    }

    fn put(&self, key: &Arc<ApiKey>, now: Tick) {
        let mut known = self.known.lock();
        if known.len() >= CACHE_SIZE {
            known.retain(|_, found| now.since(found.read) < CACHE_FOR);
        }
        if known.len() < CACHE_SIZE {
            let found = Known {
                key: Arc::clone(key),
                read: now,
                used: false,
            };
            known.insert(key.key_id.clone(), found);
        }
    }

    fn forget(&self, key_id: &str) {
        self.known.lock().remove(key_id);
    }
}

fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

/// Compares without giving away by its time how much is equal.
fn same(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0, |difference, (a, b)| difference | (a ^ b))
            == 0
}

impl Engine {
    /// Who a bearer secret belongs to.
    ///
    /// # Errors
    /// `CredentialInvalid` for anything but a live key; `Unavailable` when the store must be asked
    /// and does not answer.
    pub async fn authenticate(&self, secret: &str) -> Result<Caller> {
        let rest = secret
            .strip_prefix(SECRET_PREFIX)
            .ok_or(Error::CredentialInvalid)?;
        let (key_id, _) = rest.split_once('.').ok_or(Error::CredentialInvalid)?;
        if coretex_core::id::check_id(key_id).is_err() {
            return Err(Error::CredentialInvalid);
        }
        let now = self.tick();
        let key = match self.key_cache().get(key_id, now) {
            Some(key) => key,
            None => {
                let (key, _) = self
                    .read_key(key_id)
                    .await?
                    .ok_or(Error::CredentialInvalid)?;
                let key = Arc::new(key);
                self.key_cache().put(&key, now);
                key
            }
        };
        let expired = key.expire_time.is_some_and(|expire| expire <= self.now());
        if expired || !same(&key.secret_hash, &hash(secret)) {
            return Err(Error::CredentialInvalid);
        }
        if self.key_cache().used(key_id) {
            self.touch_key(&key);
        }
        Ok(Caller {
            principal_id: format!("key:{}", key.key_id),
            tenant: key.tenant.clone(),
            team_ids: key.team_ids.clone(),
            roles: key.roles.clone(),
            tenants_served: key.tenants_served.clone(),
            system: key.system,
        })
    }

    /// Who calls without a credential: in development mode an admin of tenant `default` with
    /// system rights, otherwise nobody.
    #[must_use]
    pub fn dev_caller(&self) -> Option<Caller> {
        self.options().dev.then(|| Caller {
            principal_id: "dev".to_owned(),
            tenant: TenantId::from_trusted(DEFAULT_TENANT),
            team_ids: BTreeSet::new(),
            roles: BTreeSet::from([Role::Admin]),
            tenants_served: BTreeSet::new(),
            system: true,
        })
    }

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
            secret_hash: hash(&secret),
        };
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch.create(keyspace::api_key(&key_id), codec::encode(KEY_FORMAT, &key)?);
        batch.add(keyspace::API_KEYS, key_member(&tenant, &key_id));
        self.store().commit(batch).await?;
        tracing::info!(%key_id, %tenant, "api key created");
        Ok((key, secret))
    }

    /// Lists the keys of the caller's tenant; the token names where to go on.
    ///
    /// # Errors
    /// `PageTokenInvalid`, `Unavailable`.
    pub async fn list_api_keys(
        &self,
        caller: &Caller,
        page: PageRequest,
    ) -> Result<(Vec<ApiKey>, String)> {
        let prefix = key_member(&caller.tenant, "");
        let mut range = Range::prefix(keyspace::API_KEYS, &prefix);
        if !page.token.is_empty() {
            coretex_core::id::check_id(&page.token).map_err(|_| Error::PageTokenInvalid)?;
            let mut start = key_member(&caller.tenant, &page.token).to_vec();
            start.push(0);
            range.start = start.into();
        }
        let read = self
            .store()
            .range(Shard::Sys, &[range], page.size, Order::Ascending)
            .await?;
        let members = read.value.into_iter().next().unwrap_or_default();
        let full = members.len() == page.size;
        let ids: Vec<String> = members
            .iter()
            .map(|member| String::from_utf8_lossy(&member[prefix.len()..]).into_owned())
            .collect();
        let mut keys = Vec::with_capacity(ids.len());
        for id in &ids {
            if let Some((key, _)) = self.read_key(id).await? {
                keys.push(key);
            }
        }
        let next = if full {
            ids.last().cloned().unwrap_or_default()
        } else {
            String::new()
        };
        Ok((keys, next))
    }

    /// Revokes a key of the caller's tenant. Other replicas notice within ten seconds.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`.
    pub async fn revoke_api_key(&self, caller: &Caller, key_id: &str) -> Result<ApiKey> {
        let missing = || Error::NotFound {
            noun: Noun::ApiKey,
            id: key_id.to_owned(),
        };
        for attempt in 0..8 {
            let (key, version) = self.read_key(key_id).await?.ok_or_else(missing)?;
            if key.tenant != caller.tenant && !caller.system {
                return Err(missing());
            }
            let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
            batch.delete(keyspace::api_key(key_id), version);
            batch.remove(keyspace::API_KEYS, key_member(&key.tenant, key_id));
            match self.store().commit(batch).await {
                Ok(_) => {
                    self.key_cache().forget(key_id);
                    tracing::info!(%key_id, tenant = %key.tenant, "api key revoked");
                    return Ok(key);
                }
                Err(CommitError::Conflict { .. }) => self.pause(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    /// Makes the first admin key of the store. `None` when there are keys already.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn ensure_admin_key(&self) -> Result<Option<String>> {
        let range = Range::all(keyspace::API_KEYS);
        let read = self.store().count(Shard::Sys, &range, 1).await?;
        if read.value > 0 {
            return Ok(None);
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

    async fn read_key(&self, key_id: &str) -> Result<Option<(ApiKey, u64)>> {
        let read = self
            .store()
            .get(Shard::Sys, &[keyspace::api_key(key_id)])
            .await?;
        let Some(record) = read.value.into_iter().next().flatten() else {
            return Ok(None);
        };
        let (_, key) = codec::decode::<ApiKey>(&record.value)?;
        Ok(Some((key, record.version)))
    }

    /// Notes that a key is in use. Best effort: nobody waits for it, a conflict is left alone.
    fn touch_key(&self, key: &Arc<ApiKey>) {
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

/// `tenant id`: the member of the index of keys.
fn key_member(tenant: &TenantId, key_id: &str) -> Member {
    let mut member = tenant.as_bytes().to_vec();
    member.push(0);
    member.extend_from_slice(key_id.as_bytes());
    member.into()
}
