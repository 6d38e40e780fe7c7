//! Who may call: roles, permissions, and whom a credential stands for.
//!
//! API keys themselves are in [`keys`]; what ends with them is in [`streams`].

pub(crate) mod keys;
pub(crate) mod streams;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use coretex_core::id::TenantId;
use coretex_core::lease::Tick;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use keys::{ApiKey, NewApiKey};

use crate::engine::Engine;
use crate::{Error, Result};

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
        "jobs.read"
            | "approvals.read"
            | "dlq.read"
            | "workers.read"
            | "pools.read"
            | "config.read"
            | "system.read"
            | "policy.evaluate"
            | "policy.read"
    );
    match role {
        Role::Admin => true,
        Role::Operator => {
            read || matches!(
                permission,
                "jobs.output"
                    | "jobs.submit"
                    | "jobs.cancel"
                    | "approvals.resolve"
                    | "dlq.retry"
                    | "dlq.delete"
                    | "workers.drain"
                    | "pools.pause"
                    | "config.write"
            )
        }
        // Streamed output is for whoever sees payloads.
        Role::Approver => read || matches!(permission, "jobs.output" | "approvals.resolve"),
        Role::Viewer => read,
        Role::Submitter => {
            matches!(
                permission,
                "jobs.read"
                    | "jobs.output"
                    | "jobs.submit"
                    | "jobs.cancel"
                    | "approvals.read"
                    | "dlq.read"
                    | "workers.read"
                    | "pools.read"
                    | "policy.evaluate"
            )
        }
        Role::Worker => permission == "workers.connect",
        Role::Auditor => read || matches!(permission, "keys.read" | "policy.audit"),
    }
}

/// How long a key that was found valid is believed without asking the store, and so how long a
/// revocation takes to reach calls at every replica.
const CACHE_FOR: Duration = Duration::from_secs(8);
/// Credentials that are remembered at once.
const CACHE_SIZE: usize = 10_000;
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
    /// Forgets everything: the store may have been taken back.
    pub(crate) fn forget_all(&self) {
        self.known.lock().clear();
    }

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
        if !key.works(self.now()) || !same(&key.secret_hash, &hash(secret)) {
            return Err(Error::CredentialInvalid);
        }
        if self.key_cache().used(key_id) {
            self.touch_key(&key);
        }
        Ok(Caller {
            principal_id: key.principal_id(),
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
}
