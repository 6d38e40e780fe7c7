//! Changes of documents: each is one commit of the document, its revision before, what its tenant
//! has of them, and the news.

use coretex_core::config::{ConfigName, document};
use coretex_store::{Batch, CommitError, CommitId, Key, Order, Range, Shard, Write, codec};
use serde_json::Value as Json;

use super::record::{self, CONFIG_FORMAT, ConfigRecord, Found, PastRecord, UsageRecord};
use super::{ConfigDocument, Expected, MAX_CONFIG_BYTES, MAX_CONFIGS};
use super::{MAX_PAST_BYTES, MAX_REVISIONS, check_scope};
use crate::access::Caller;
use crate::engine::Engine;
use crate::{Error, Noun, Result, Violation, keyspace, news};

/// How often a change is tried again after losing against others of its tenant.
const MAX_TRIES: u32 = 64;

/// What a change is about, as it was read.
struct Before {
    found: Option<Found>,
    usage: UsageRecord,
    usage_version: Option<u64>,
}

/// One try came to nothing.
enum Lost {
    /// Somebody else was faster.
    Race,
    /// The tenant has no room.
    NoRoom(Error),
    Failed(Error),
}

impl From<Error> for Lost {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<coretex_store::StoreError> for Lost {
    fn from(error: coretex_store::StoreError) -> Self {
        Self::Failed(error.into())
    }
}

impl Engine {
    /// Writes a document. This replica goes by it when it answers, the others within a second. Whoever
    /// repeats the call while nobody else has written gets the same answer.
    ///
    /// # Errors
    /// `Invalid` with every problem of the document, `EtagMismatch`, `TenantNotAllowed` for the
    /// document of the installation, `TooManyConfigs`, `Contention`, `Unavailable`,
    /// `OutcomeUnknown`.
    pub async fn set_config(
        &self,
        caller: &Caller,
        name: &ConfigName,
        data: &Json,
        expected: &Expected,
        validate_only: bool,
    ) -> Result<ConfigDocument> {
        check_scope(caller, name)?;
        let data = document::check(data, &self.config_ceilings()).map_err(|problems| {
            let wrong = problems.into_iter();
            Error::Invalid(
                wrong
                    .map(|one| Violation::new(format!("data{}", one.pointer), one.message))
                    .collect(),
            )
        })?;
        let found = self
            .change_config(caller, name, Some(&data), expected, validate_only)
            .await?;
        let mut document = found
            .document(name)?
            .ok_or_else(|| Error::no_config(name.to_string()))?;
        if validate_only {
            document.etag = String::new();
        }
        Ok(document)
    }

    /// Deletes a document. Its revisions are kept, and this is one of them.
    ///
    /// # Errors
    /// `NotFound`, and those of [`Self::set_config`].
    pub async fn delete_config(
        &self,
        caller: &Caller,
        name: &ConfigName,
        expected: &Expected,
    ) -> Result<()> {
        check_scope(caller, name)?;
        self.change_config(caller, name, None, expected, false)
            .await
            .map(|_| ())
    }

    async fn change_config(
        &self,
        caller: &Caller,
        name: &ConfigName,
        data: Option<&Json>,
        expected: &Expected,
        validate_only: bool,
    ) -> Result<Found> {
        let data = data.map(Json::to_string).unwrap_or_default();
        for attempt in 0..MAX_TRIES {
            let before = self.read_config(caller, name).await?;
            let current = before
                .found
                .as_ref()
                .filter(|found| !found.record.is_deleted());
            if data.is_empty() && current.is_none() {
                return Err(Error::no_config(name.to_string()));
            }
            if let Err(mismatch) = expected.check(current.map(Found::etag).as_deref()) {
                return match current {
                    Some(found)
                        if self
                            .is_repeated(caller, name, found, &data, expected)
                            .await? =>
                    {
                        Ok(found.clone())
                    }
                    Some(_) | None => Err(mismatch),
                };
            }
            match self
                .try_change_config(caller, name, &before, &data, validate_only)
                .await
            {
                Ok(found) => return Ok(found),
                Err(Lost::Race) => self.pause(attempt).await,
                Err(Lost::NoRoom(error)) => {
                    // Who only asks makes no room.
                    if validate_only || !self.forget_deleted_config(caller, name).await? {
                        return Err(error);
                    }
                }
                Err(Lost::Failed(error)) => return Err(error),
            }
        }
        Err(Error::Contention)
    }

    /// Whether a document is what this very request has made of what the caller expected: the answer
    /// to the first try was lost.
    async fn is_repeated(
        &self,
        caller: &Caller,
        name: &ConfigName,
        found: &Found,
        data: &str,
        expected: &Expected,
    ) -> Result<bool> {
        let Found { record: now, .. } = found;
        if now.data != data || now.principal_id != caller.principal_id {
            return Ok(false);
        }
        let Expected::Etag(etag) = expected else {
            // It was made out of nothing, or of something that was deleted.
            let deleted = now.past.last().is_some_and(|bytes| *bytes == 0);
            return Ok(now.revision == 1 || deleted);
        };
        let owner = record::owner(&caller.tenant, name);
        let before = now.revision.saturating_sub(1);
        let key = keyspace::config_revision(owner, name, before);
        let read = self.store().get(Shard::Sys, &[key]).await?;
        let Some(record) = read.value.into_iter().next().flatten() else {
            return Ok(false);
        };
        let (_, past) = codec::decode::<PastRecord>(&record.value)?;
        Ok(past.etag == *etag)
    }

    async fn read_config(&self, caller: &Caller, name: &ConfigName) -> Result<Before> {
        let owner = record::owner(&caller.tenant, name);
        let keys = [keyspace::config(owner, name), keyspace::config_usage(owner)];
        let mut read = self.store().get(Shard::Sys, &keys).await?.value.into_iter();
        let found = read.next().flatten();
        let usage = read.next().flatten();
        Ok(Before {
            found: found.as_ref().map(Found::read).transpose()?,
            usage_version: usage.as_ref().map(|record| record.version),
            usage: match usage {
                Some(record) => codec::decode(&record.value)?.1,
                None => UsageRecord::default(),
            },
        })
    }

    async fn try_change_config(
        &self,
        caller: &Caller,
        name: &ConfigName,
        before: &Before,
        data: &str,
        validate_only: bool,
    ) -> std::result::Result<Found, Lost> {
        let owner = record::owner(&caller.tenant, name);
        let key = keyspace::config(owner, name);
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        let (old, now) = (before.found.as_ref(), self.now());
        let mut new = ConfigRecord {
            revision: old.map_or(0, |old| old.record.revision) + 1,
            data: data.to_owned(),
            create_time: now,
            update_time: now,
            principal_id: caller.principal_id.clone(),
            past: Vec::new(),
        };
        if let Some(old) = old {
            if !old.record.is_deleted() {
                new.create_time = old.record.create_time;
            }
            for dropped in keep_past(&mut new, &old.record) {
                let key = keyspace::config_revision(owner, name, dropped);
                batch.writes.push(Write::Delete { key });
            }
            let past = PastRecord {
                data: old.record.data.clone(),
                etag: old.etag(),
                time: old.record.update_time,
                principal_id: old.record.principal_id.clone(),
            };
            batch.writes.push(Write::Put {
                key: keyspace::config_revision(owner, name, old.record.revision),
                value: codec::encode(CONFIG_FORMAT, &past)?,
                ttl: None,
            });
        }
        let old_bytes = old.map_or(0, |old| old.record.bytes());
        let usage = UsageRecord {
            documents: before.usage.documents + u32::from(old.is_none()),
            bytes: (before.usage.bytes + new.bytes()).saturating_sub(old_bytes),
        };
        // Whatever makes it smaller is always allowed.
        if usage.documents > MAX_CONFIGS
            || (usage.bytes > MAX_CONFIG_BYTES && usage.bytes > before.usage.bytes)
        {
            return Err(Lost::NoRoom(Error::TooManyConfigs {
                documents: MAX_CONFIGS,
                bytes: MAX_CONFIG_BYTES,
            }));
        }
        if validate_only {
            return Ok(Found {
                record: new,
                version: 0,
            });
        }
        write(&mut batch, &key, old.map(|old| old.version), &new)?;
        let usage_key = keyspace::config_usage(owner);
        write(&mut batch, &usage_key, before.usage_version, &usage)?;
        move_entries(
            &mut batch,
            owner,
            name,
            old.map(|old| &old.record),
            Some(&new),
        );
        news::announce(&mut batch);
        let version = batch.commit_id.version();
        match self.store().commit(batch).await {
            Ok(_) => {}
            Err(CommitError::Conflict { .. }) => return Err(Lost::Race),
            Err(error) => return Err(Lost::Failed(error.into())),
        }
        tracing::info!(
            config = %name,
            revision = new.revision,
            deleted = new.is_deleted(),
            principal_id = %caller.principal_id,
            "configuration changed"
        );
        self.configs_changed();
        Ok(Found {
            record: new,
            version,
        })
    }

    /// What is in force has changed: nothing that was read before counts any more, here at once and
    /// elsewhere as soon as they hear of it.
    fn configs_changed(&self) {
        self.configs().forget();
        self.tell_news();
    }

    /// Makes room: forgets the document that was deleted first, and its revisions. False when there
    /// is none.
    async fn forget_deleted_config(&self, caller: &Caller, name: &ConfigName) -> Result<bool> {
        let owner = record::owner(&caller.tenant, name);
        let all = [Range::all(keyspace::configs_deleted(owner))];
        let read = self
            .store()
            .range(Shard::Sys, &all, 1, Order::Ascending)
            .await?;
        let members = read.value.into_iter().flatten();
        let Some(oldest) = members
            .filter_map(|member| keyspace::parse_config_place(&member))
            .map(|(_, name)| name)
            .next()
        else {
            return Ok(false);
        };
        let before = self.read_config(caller, &oldest).await?;
        let Some(old) = before.found.filter(|found| found.record.is_deleted()) else {
            // Somebody has done it, or written it again.
            return Ok(true);
        };
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch.delete(keyspace::config(owner, &oldest), old.version);
        for revision in old.record.first()..old.record.revision {
            let key = keyspace::config_revision(owner, &oldest, revision);
            batch.writes.push(Write::Delete { key });
        }
        let usage = UsageRecord {
            documents: before.usage.documents.saturating_sub(1),
            bytes: before.usage.bytes.saturating_sub(old.record.bytes()),
        };
        let usage_key = keyspace::config_usage(owner);
        write(&mut batch, &usage_key, before.usage_version, &usage)?;
        move_entries(&mut batch, owner, &oldest, Some(&old.record), None);
        match self.store().commit(batch).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Takes over which earlier states are kept, that of `old` now among them; the numbers of those that
/// are dropped.
fn keep_past(new: &mut ConfigRecord, old: &ConfigRecord) -> std::ops::Range<u32> {
    new.past.clone_from(&old.past);
    let bytes = u32::try_from(old.data.len()).unwrap_or(u32::MAX);
    new.past.push(bytes);
    let kept = |past: &[u32]| past.iter().map(|bytes| u64::from(*bytes)).sum::<u64>();
    let mut dropped = 0;
    while new.past.len() - dropped >= MAX_REVISIONS
        || (kept(&new.past[dropped..]) > MAX_PAST_BYTES && dropped + 1 < new.past.len())
    {
        dropped += 1;
    }
    new.past.drain(..dropped);
    let first = old.first();
    first..first + u32::try_from(dropped).unwrap_or(u32::MAX)
}

fn write<T: serde::Serialize>(
    batch: &mut Batch,
    key: &Key,
    version: Option<u64>,
    value: &T,
) -> std::result::Result<(), coretex_store::StoreError> {
    let value = codec::encode(CONFIG_FORMAT, value)?;
    match version {
        Some(version) => batch.replace(key.clone(), version, value),
        None => batch.create(key.clone(), value),
    };
    Ok(())
}

/// The index entries that a document has.
fn entry(
    owner: &[u8],
    name: &ConfigName,
    record: &ConfigRecord,
) -> (coretex_store::Index, coretex_store::Member) {
    if record.is_deleted() {
        let index = keyspace::configs_deleted(owner);
        (index, keyspace::config_place(record.update_time, name))
    } else {
        let index = keyspace::configs(owner);
        (index, keyspace::config_place(record.create_time, name))
    }
}

fn move_entries(
    batch: &mut Batch,
    owner: &[u8],
    name: &ConfigName,
    before: Option<&ConfigRecord>,
    after: Option<&ConfigRecord>,
) {
    let before = before.map(|record| entry(owner, name, record));
    let after = after.map(|record| entry(owner, name, record));
    if before == after {
        return;
    }
    if let Some((index, member)) = before {
        batch.remove(index, member);
    }
    if let Some((index, member)) = after {
        batch.add(index, member);
    }
}

impl Error {
    /// A missing document.
    pub(crate) fn no_config(name: impl Into<String>) -> Self {
        Self::NotFound {
            noun: Noun::Config,
            id: name.into(),
        }
    }
}
