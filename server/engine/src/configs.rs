//! Documents of configuration: written, read, listed and deleted, each with its revisions.
//!
//! What one may say, and what comes out of several, is in `coretex_core::config`. What is stored is
//! in [`record`], the configuration in force and the copies of it in [`effective`], and what it does
//! to a job that is submitted in [`submit`].

mod change;
pub(crate) mod effective;
mod list;
pub(crate) mod record;
pub(crate) mod submit;

use std::time::Duration;

use coretex_core::config::sections::Ceilings;
use coretex_core::config::{ConfigName, ConfigScope};
use coretex_core::time::Timestamp;
use serde_json::Value as Json;

use crate::access::Caller;
use crate::engine::Engine;
use crate::{Error, MAX_LABELS, Result};

/// The most documents of one tenant, deleted ones whose revisions are kept included.
pub const MAX_CONFIGS: u32 = 10_000;
/// The most bytes of all documents of one tenant and their revisions.
pub const MAX_CONFIG_BYTES: u64 = 64 * 1024 * 1024;
/// The most revisions of one document that are kept, the current one included.
pub const MAX_REVISIONS: usize = 100;
/// The most bytes of the revisions of one document beside the current one; the oldest go first.
const MAX_PAST_BYTES: u64 = 1024 * 1024;

/// A document as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigDocument {
    /// Which.
    pub name: ConfigName,
    /// What it says, keys sorted.
    pub data: Json,
    /// Names this state of it; empty for one that was only validated.
    pub etag: String,
    /// How often it has been changed; goes on counting where it was deleted in between.
    pub revision: u32,
    /// When it was made.
    pub create_time: Timestamp,
    /// When it was last changed.
    pub update_time: Timestamp,
    /// Who changed it last.
    pub principal_id: String,
}

/// A state that a document had, or has.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigRevision {
    /// Its number, from 1.
    pub revision: u32,
    /// What the document said; `None` = it was deleted.
    pub data: Option<Json>,
    /// The etag of the document while it stood so.
    pub etag: String,
    /// When it came to stand so.
    pub time: Timestamp,
    /// Who made it so.
    pub principal_id: String,
}

/// What must be there for a change to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Nothing,
    /// Whatever.
    Anything,
    /// A document with this etag.
    Etag(String),
}

impl Expected {
    /// What an etag in a request that writes means.
    #[must_use]
    pub fn to_write(etag: String) -> Self {
        match etag.as_str() {
            "" => Self::Nothing,
            "*" => Self::Anything,
            _ => Self::Etag(etag),
        }
    }

    /// What an etag in a request that deletes means.
    #[must_use]
    pub fn to_delete(etag: String) -> Self {
        match etag.as_str() {
            "" | "*" => Self::Anything,
            _ => Self::Etag(etag),
        }
    }

    pub(crate) fn check(&self, current: Option<&str>) -> Result<()> {
        let met = match self {
            Self::Nothing => current.is_none(),
            Self::Anything => true,
            Self::Etag(etag) => current == Some(etag),
        };
        if met {
            return Ok(());
        }
        Err(Error::EtagMismatch {
            current: current.map(str::to_owned),
        })
    }
}

/// The document of the installation is the business of those who run it.
fn check_scope(caller: &Caller, name: &ConfigName) -> Result<()> {
    if name.scope == ConfigScope::System && !caller.system {
        return Err(Error::TenantNotAllowed);
    }
    Ok(())
}

impl Engine {
    /// What documents may ask for at most.
    fn config_ceilings(&self) -> Ceilings {
        let (limits, retention) = (self.limits(), &self.options().retention);
        let least = Duration::from_secs(1);
        Ceilings {
            payload_bytes: limits.max_payload_bytes as u64,
            waiting_jobs: limits.max_waiting_jobs,
            labels: u32::try_from(MAX_LABELS).unwrap_or(u32::MAX),
            kept_jobs: retention.jobs.max(least),
            kept_dead_letters: retention.of_dead_letters().max(least),
            documents: 1,
        }
    }
}
