//! What is stored of documents, in the shard `sys`: each document with its current state, each
//! earlier state by itself, and per tenant how much of both there is.

use coretex_core::config::{ConfigName, ConfigScope};
use coretex_core::id::TenantId;
use coretex_core::time::Timestamp;
use coretex_store::{Key, Record, codec};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{ConfigDocument, ConfigRevision};
use crate::{Result, keyspace};

/// The format of all three records.
pub(crate) const CONFIG_FORMAT: u8 = 1;

/// Whose document it is; that of the installation is nobody's.
pub(crate) fn owner<'a>(tenant: &'a TenantId, name: &ConfigName) -> &'a [u8] {
    match name.scope {
        ConfigScope::System => b"",
        ConfigScope::Org | ConfigScope::Team | ConfigScope::Workflow | ConfigScope::Step => {
            tenant.as_bytes()
        }
    }
}

/// The key of a document.
pub(crate) fn key(tenant: &TenantId, name: &ConfigName) -> Key {
    keyspace::config(owner(tenant, name), name)
}

/// A document: its current state, and which of the earlier ones are kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ConfigRecord {
    pub(crate) revision: u32,
    /// What it says, as JSON text; empty = it is deleted.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) data: String,
    pub(crate) create_time: Timestamp,
    pub(crate) update_time: Timestamp,
    pub(crate) principal_id: String,
    /// The bytes of each earlier state that is kept, oldest first; the last is that of the revision
    /// before this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) past: Vec<u32>,
}

/// An earlier state of a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PastRecord {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) data: String,
    pub(crate) etag: String,
    pub(crate) time: Timestamp,
    pub(crate) principal_id: String,
}

/// How much a tenant has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UsageRecord {
    /// Documents, deleted ones included.
    pub(crate) documents: u32,
    /// Bytes of what documents say and said.
    pub(crate) bytes: u64,
}

/// A document as it was read.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) record: ConfigRecord,
    pub(crate) version: u64,
}

impl Found {
    pub(crate) fn read(record: &Record) -> Result<Self> {
        let (_, found) = codec::decode::<ConfigRecord>(&record.value)?;
        Ok(Self {
            record: found,
            version: record.version,
        })
    }

    pub(crate) fn etag(&self) -> String {
        self.version.to_string()
    }

    /// The document, unless it is deleted.
    pub(crate) fn document(&self, name: &ConfigName) -> Result<Option<ConfigDocument>> {
        let Some(data) = parse(&self.record.data)? else {
            return Ok(None);
        };
        Ok(Some(ConfigDocument {
            name: name.clone(),
            data,
            etag: self.etag(),
            revision: self.record.revision,
            create_time: self.record.create_time,
            update_time: self.record.update_time,
            principal_id: self.record.principal_id.clone(),
        }))
    }

    /// Its current state.
    pub(crate) fn current(&self) -> Result<ConfigRevision> {
        Ok(ConfigRevision {
            revision: self.record.revision,
            data: parse(&self.record.data)?,
            etag: self.etag(),
            time: self.record.update_time,
            principal_id: self.record.principal_id.clone(),
        })
    }
}

impl ConfigRecord {
    pub(crate) fn is_deleted(&self) -> bool {
        self.data.is_empty()
    }

    /// Bytes of what it says and said.
    pub(crate) fn bytes(&self) -> u64 {
        let past: u64 = self.past.iter().map(|bytes| u64::from(*bytes)).sum();
        past + self.data.len() as u64
    }

    /// The oldest revision that is kept.
    pub(crate) fn first(&self) -> u32 {
        let past = u32::try_from(self.past.len()).unwrap_or(u32::MAX);
        self.revision.saturating_sub(past)
    }
}

impl PastRecord {
    pub(crate) fn revision(self, revision: u32) -> Result<ConfigRevision> {
        Ok(ConfigRevision {
            revision,
            data: parse(&self.data)?,
            etag: self.etag,
            time: self.time,
            principal_id: self.principal_id,
        })
    }
}

/// What a document says; `None` = it is deleted.
pub(crate) fn parse(data: &str) -> Result<Option<Json>> {
    if data.is_empty() {
        return Ok(None);
    }
    serde_json::from_str(data)
        .map(Some)
        .map_err(|error| crate::Error::DataLoss {
            what: format!("a document of configuration: {error}"),
        })
}
