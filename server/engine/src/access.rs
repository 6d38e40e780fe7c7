//! Who may call: API keys, roles and permissions.

use std::collections::BTreeSet;

use coretex_core::id::TenantId;
use coretex_core::time::Timestamp;
use serde::{Deserialize, Serialize};

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
    let read = matches!(
        permission,
        "jobs.read" | "workers.read" | "pools.read" | "system.read" | "access.self"
    );
    match role {
        Role::Admin => true,
        Role::Operator => {
            read || matches!(
                permission,
                "jobs.submit" | "jobs.cancel" | "workers.drain" | "pools.pause"
            )
        }
        Role::Approver | Role::Viewer => read,
        Role::Submitter => {
            matches!(
                permission,
                "jobs.read"
                    | "jobs.submit"
                    | "jobs.cancel"
                    | "workers.read"
                    | "pools.read"
                    | "access.self"
            )
        }
        Role::Worker => matches!(permission, "sessions.open" | "access.self"),
        Role::Auditor => read || permission == "access.read",
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
