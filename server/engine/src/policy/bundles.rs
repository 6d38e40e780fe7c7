//! Bundles as they were last written: put, get, list, delete. What is in force is a snapshot.

use coretex_core::time::Timestamp;
use coretex_store::{Batch, CommitError, CommitId, Order, Range, Shard, codec};
use serde::{Deserialize, Serialize};

use super::{
    BASE_PREFIX, BUNDLE_FORMAT, MAX_BUNDLE_BYTES, MAX_BUNDLES, MAX_TRIES, Member, digest, parse,
};
use crate::access::Caller;
use crate::configs::Expected;
use crate::engine::Engine;
use crate::error::Noun;
use crate::sessions::workers::paged;
use crate::types::PageRequest;
use crate::{Error, Result, keyspace};

/// A bundle as it was last written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BundleRecord {
    pub(crate) id: String,
    pub(crate) content: String,
    pub(crate) enabled: bool,
    pub(crate) description: String,
    pub(crate) signature: String,
    pub(crate) author: String,
    pub(crate) update_time: Timestamp,
    pub(crate) rules: u32,
}

impl BundleRecord {
    /// As a snapshot has it.
    pub(super) fn member(&self) -> Member {
        Member {
            id: self.id.clone(),
            digest: digest(&self.content),
            size: self.content.len() as u64,
            rules: self.rules,
            base: false,
            signature: self.signature.clone(),
            description: self.description.clone(),
            author: self.author.clone(),
            update_time: self.update_time,
        }
    }
}

/// A bundle to be written.
#[derive(Clone, Debug, Default)]
pub struct PutBundle {
    /// Its id.
    pub id: String,
    /// Its rules.
    pub content: String,
    /// Whether they count once it is published.
    pub enabled: bool,
    /// For people.
    pub description: String,
    /// In base64; empty = none.
    pub signature: String,
}

/// A bundle.
#[derive(Clone, Debug)]
pub struct BundleAnswer {
    /// Its id.
    pub id: String,
    /// Its rules; `None` in lists.
    pub content: Option<String>,
    /// Whether they count once it is published.
    pub enabled: bool,
    /// Whether it is in force as it stands.
    pub published: bool,
    /// For people.
    pub description: String,
    /// In base64; empty = none.
    pub signature: String,
    /// Who wrote it.
    pub author: String,
    /// Names this version; 0 = cannot be written.
    pub version: u64,
    /// When it was written.
    pub update_time: Timestamp,
    /// From a file beside the server.
    pub base: bool,
    /// The digest of its content.
    pub digest: String,
    /// How many rules it has.
    pub rules: u32,
}

impl BundleAnswer {
    fn of_record(record: BundleRecord, version: u64, in_force: &[Member]) -> Self {
        let digest = digest(&record.content);
        let published = in_force.iter().find(|member| member.id == record.id);
        let published = match published {
            Some(member) => record.enabled && member.digest == digest,
            None => !record.enabled,
        };
        Self {
            id: record.id,
            content: Some(record.content),
            enabled: record.enabled,
            published,
            description: record.description,
            signature: record.signature,
            author: record.author,
            version,
            update_time: record.update_time,
            base: false,
            digest,
            rules: record.rules,
        }
    }

    /// As it is in force.
    pub(super) fn of_member(member: &Member, content: Option<String>) -> Self {
        Self {
            id: member.id.clone(),
            content,
            enabled: true,
            published: true,
            description: member.description.clone(),
            signature: member.signature.clone(),
            author: member.author.clone(),
            version: 0,
            update_time: member.update_time,
            base: member.base,
            digest: member.digest.clone(),
            rules: member.rules,
        }
    }
}

pub(super) fn not_found(id: &str) -> Error {
    Error::NotFound {
        noun: Noun::Bundle,
        id: id.to_owned(),
    }
}

impl Engine {
    /// The policy is of the installation: whoever changes or reads it acts for all tenants.
    pub(super) fn system_only(&self, caller: &Caller) -> Result<()> {
        if caller.system {
            Ok(())
        } else {
            Err(Error::TenantNotAllowed)
        }
    }

    /// Writes a bundle as a draft; with `validate_only` only checks it.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `Invalid`, `SignatureInvalid`, `EtagMismatch`, `TooManyBundles`,
    /// `Unavailable`, `OutcomeUnknown`.
    pub async fn put_bundle(
        &self,
        caller: &Caller,
        put: PutBundle,
        expected: Expected,
        validate_only: bool,
    ) -> Result<BundleAnswer> {
        self.system_only(caller)?;
        if put.id.starts_with(BASE_PREFIX) {
            let text =
                format!("must not begin with `{BASE_PREFIX}`: those are files of the server");
            return Err(Error::invalid("bundle.bundle_id", text));
        }
        if put.content.len() > MAX_BUNDLE_BYTES {
            let text = format!("must be at most {MAX_BUNDLE_BYTES} bytes long");
            return Err(Error::invalid("bundle.content", text));
        }
        let parsed = parse("bundle.content", &put.content)?;
        self.check_signature(&put.id, &put.content, &put.signature)?;
        let rules = u32::try_from(parsed.rules.len()).unwrap_or(u32::MAX);
        let key = keyspace::bundle(&put.id);
        for attempt in 0..MAX_TRIES {
            let found = self.policy_document::<BundleRecord>(key.clone()).await?;
            let version = found.as_ref().map(|(_, version)| *version);
            expected.check(version.map(|version| version.to_string()).as_deref())?;
            let record = BundleRecord {
                id: put.id.clone(),
                content: put.content.clone(),
                enabled: put.enabled,
                description: put.description.clone(),
                signature: put.signature.clone(),
                author: caller.principal_id.clone(),
                update_time: self.now(),
                rules,
            };
            if validate_only {
                let version = version.unwrap_or_default();
                return Ok(BundleAnswer::of_record(
                    record,
                    version,
                    &self.in_force().await?,
                ));
            }
            let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
            let value = codec::encode(BUNDLE_FORMAT, &record)?;
            match version {
                Some(version) => batch.replace(key.clone(), version, value),
                None => batch.create(key.clone(), value),
            };
            if version.is_none() {
                batch
                    .preconditions
                    .push(coretex_store::Precondition::SizeBelow {
                        index: keyspace::BUNDLES,
                        limit: MAX_BUNDLES as u64,
                        name_holders: 0,
                    });
                batch.add(keyspace::BUNDLES, keyspace::member(&put.id));
            }
            match self.store().commit(batch).await {
                Ok(committed) => {
                    let in_force = self.in_force().await?;
                    return Ok(BundleAnswer::of_record(
                        record,
                        committed.version,
                        &in_force,
                    ));
                }
                Err(CommitError::Conflict { .. }) => self.pause(attempt).await,
                Err(CommitError::LimitReached(_)) => {
                    return Err(Error::TooManyBundles { limit: MAX_BUNDLES });
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    /// Gets a bundle as it was last written, or as it is in force.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `NotFound`, `Unavailable`, `DataLoss`.
    pub async fn get_bundle(
        &self,
        caller: &Caller,
        id: &str,
        published: bool,
    ) -> Result<BundleAnswer> {
        self.system_only(caller)?;
        let in_force = self.in_force().await?;
        if !published && let Some((record, version)) = self.bundle_record(id).await? {
            return Ok(BundleAnswer::of_record(record, version, &in_force));
        }
        let member = in_force.iter().find(|member| member.id == id);
        let member = member.ok_or_else(|| not_found(id))?;
        let contents = self.contents(std::slice::from_ref(member)).await?;
        Ok(BundleAnswer::of_member(
            member,
            contents.into_values().next(),
        ))
    }

    /// Lists bundles by id, without content.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `PageTokenInvalid`, `Unavailable`, `DataLoss`.
    pub async fn list_bundles(
        &self,
        caller: &Caller,
        page: PageRequest,
    ) -> Result<(Vec<BundleAnswer>, String)> {
        self.system_only(caller)?;
        let in_force = self.in_force().await?;
        let mut bundles = Vec::new();
        for (record, version) in self.bundle_records().await? {
            let answer = BundleAnswer::of_record(record, version, &in_force);
            bundles.push(BundleAnswer {
                content: None,
                ..answer
            });
        }
        let known: Vec<String> = bundles.iter().map(|bundle| bundle.id.clone()).collect();
        let others = in_force.iter().filter(|member| !known.contains(&member.id));
        bundles.extend(others.map(|member| BundleAnswer::of_member(member, None)));
        bundles.sort_by(|a, b| a.id.cmp(&b.id));
        paged(bundles, &page, |bundle| bundle.id.clone())
    }

    /// Deletes a bundle that is not in force.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `NotFound`, `BundleInForce`, `EtagMismatch`, `Unavailable`,
    /// `OutcomeUnknown`.
    pub async fn delete_bundle(&self, caller: &Caller, id: &str, expected: Expected) -> Result<()> {
        self.system_only(caller)?;
        for attempt in 0..MAX_TRIES {
            let in_force = self.in_force().await?;
            let found = self.bundle_record(id).await?;
            if in_force.iter().any(|member| member.id == id) {
                return Err(Error::BundleInForce {
                    bundle_id: id.to_owned(),
                });
            }
            let Some((_, version)) = found else {
                return Err(not_found(id));
            };
            expected.check(Some(&version.to_string()))?;
            let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
            batch.delete(keyspace::bundle(id), version);
            batch.remove(keyspace::BUNDLES, keyspace::member(id));
            match self.store().commit(batch).await {
                Ok(_) => return Ok(()),
                Err(CommitError::Conflict { .. }) => self.pause(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }

    pub(super) async fn bundle_record(&self, id: &str) -> Result<Option<(BundleRecord, u64)>> {
        self.policy_document(keyspace::bundle(id)).await
    }

    /// All bundles as they were last written, by id.
    pub(super) async fn bundle_records(&self) -> Result<Vec<(BundleRecord, u64)>> {
        let range = Range::all(keyspace::BUNDLES);
        let read = self
            .store()
            .range(Shard::Sys, &[range], MAX_BUNDLES, Order::Ascending)
            .await?;
        let mut records = Vec::new();
        // One at a time: together they may be more than an answer of the store should hold.
        for name in read.value.into_iter().flatten() {
            let Ok(id) = std::str::from_utf8(&name) else {
                continue;
            };
            records.extend(self.bundle_record(id).await?);
        }
        Ok(records)
    }

    /// The bundles in force.
    pub(super) async fn in_force(&self) -> Result<Vec<Member>> {
        let Some((head, _)) = self.head().await? else {
            return Ok(Vec::new());
        };
        let record = self.snapshot_record(&head.snapshot_id).await?;
        Ok(record.map(|record| record.bundles).unwrap_or_default())
    }
}
