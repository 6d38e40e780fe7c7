//! The policy: which bundles are in force, and the kernel that decides by them.
//!
//! A snapshot is a set of bundles; its id follows from their content. The head says which snapshot
//! shall be in force, the pointer of each data shard which one is: commits that accept, approve or
//! hand out a job have the pointer as a precondition. Who changes the policy writes the head and then
//! moves the pointers; should that one stop between the two, whoever hears of the new head moves
//! them. A replica decides by the snapshot of the pointer, loads it when a commit or the news tell
//! of another, and decides nothing while it cannot.
//!
//! Bundles are in [`bundles`], putting them in force is in [`publish`], files beside the server in
//! [`base`], questions in [`ask`].

mod ask;
pub(crate) mod base;
pub(crate) mod bundles;
mod history;
mod kernel;
mod publish;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
pub use coretex_core::policy::MAX_BUNDLES;
use coretex_core::policy::signature::PublicKeys;
use coretex_core::policy::{Bundle, Snapshot};
use coretex_core::time::Timestamp;
use coretex_store::{Batch, CommitError, CommitId, Key, Record, Shard, codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use ask::{Explained, Replayed, Simulated, Subject};
pub use base::BaseBundle;
pub use bundles::{BundleAnswer, PutBundle};
pub use history::SnapshotAnswer;
pub use kernel::PolicyKernel;
pub use publish::Published;

use crate::engine::Engine;
use crate::{Error, Result, keyspace};

/// The most bytes of one bundle.
pub const MAX_BUNDLE_BYTES: usize = 1024 * 1024;
/// The most bytes of all bundles of a snapshot.
pub(crate) const MAX_SNAPSHOT_BYTES: usize = 16 * 1024 * 1024;
/// Snapshots that are kept.
const MAX_SNAPSHOTS: usize = 100;
/// Changes of the policy that stay on record.
const MAX_AUDIT: u64 = 10_000;
/// How ids of bundles from files begin.
pub const BASE_PREFIX: &str = "base-";
/// How often a change is tried again after losing against another one.
const MAX_TRIES: u32 = 16;

pub(crate) const BUNDLE_FORMAT: u8 = 1;
pub(crate) const SNAPSHOT_FORMAT: u8 = 1;
pub(crate) const HEAD_FORMAT: u8 = 1;
pub(crate) const AUDIT_FORMAT: u8 = 1;

/// Which signatures count.
#[derive(Clone, Debug, Default)]
pub struct Signatures {
    /// Keys whose signatures count.
    pub keys: PublicKeys,
    /// Whether every bundle must have one.
    pub required: bool,
}

/// A bundle as one snapshot has it; its content stands apart, under its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    pub(crate) id: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) rules: u32,
    /// From a file beside the server.
    #[serde(default)]
    pub(crate) base: bool,
    #[serde(default)]
    pub(crate) signature: String,
    #[serde(default)]
    pub(crate) description: String,
    pub(crate) author: String,
    pub(crate) update_time: Timestamp,
}

/// All bundles that are in force together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    pub(crate) id: String,
    pub(crate) create_time: Timestamp,
    /// By id.
    pub(crate) bundles: Vec<Member>,
}

/// Which snapshot shall be in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// The number of the last change.
    pub(crate) sequence: u64,
    pub(crate) snapshot_id: String,
    /// What the files beside the server held when they were last taken over.
    #[serde(default)]
    pub(crate) base_digest: String,
}

/// One change of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number, from 1, without gaps.
    pub sequence: u64,
    /// When.
    pub time: Timestamp,
    /// Who.
    pub principal_id: String,
    /// What.
    pub action: Action,
    /// Why, as its author said.
    pub note: String,
    /// The snapshot before; empty for the first.
    pub before: String,
    /// The snapshot after.
    pub after: String,
    /// The bundles that were published.
    pub bundle_ids: Vec<String>,
}

/// How the policy was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Drafts were put in force.
    Publish,
    /// An earlier snapshot was put in force.
    Rollback,
    /// Files beside the server have changed.
    Base,
}

impl Action {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Rollback => "rollback",
            Self::Base => "base",
        }
    }
}

/// The digest of a content, in hex.
pub(crate) fn digest(content: &str) -> String {
    hex::encode(Sha256::digest(content.as_bytes()))
}

/// The id of the snapshot of these bundles, which are sorted by id.
pub(crate) fn snapshot_id(bundles: &[Member]) -> String {
    let mut hash = Sha256::new();
    for bundle in bundles {
        hash.update(bundle.id.as_bytes());
        hash.update([0]);
        hash.update(bundle.digest.as_bytes());
        hash.update([0]);
    }
    hex::encode(hash.finalize())
}

/// Checks a content; how many rules it has.
///
/// # Errors
/// What is wrong, each with its line and column, as violations of `field`.
pub(crate) fn parse(field: &str, content: &str) -> Result<Bundle> {
    Bundle::parse(content).map_err(|problems| {
        let violations = problems.iter().map(|problem| {
            let text = format!("{}:{}: {}", problem.line, problem.column, problem.message);
            crate::Violation::new(field, text)
        });
        Error::Invalid(violations.collect())
    })
}

fn decode<T: DeserializeOwned>(record: Option<Record>) -> Result<Option<(T, u64)>> {
    let Some(record) = record else {
        return Ok(None);
    };
    let (_, value) = codec::decode::<T>(&record.value)?;
    Ok(Some((value, record.version)))
}

impl Engine {
    /// Reads a document of the policy.
    async fn policy_document<T: DeserializeOwned>(&self, key: Key) -> Result<Option<(T, u64)>> {
        let read = self.store().get(Shard::Sys, &[key]).await?;
        decode(read.value.into_iter().next().flatten())
    }

    async fn head(&self) -> Result<Option<(Head, u64)>> {
        self.policy_document(keyspace::policy_head()).await
    }

    async fn snapshot_record(&self, id: &str) -> Result<Option<SnapshotRecord>> {
        let found = self
            .policy_document::<SnapshotRecord>(keyspace::snapshot(id))
            .await?;
        Ok(found.map(|(record, _)| record))
    }

    /// The contents of bundles, by digest. One that is missing or was changed is lost data.
    async fn contents(&self, bundles: &[Member]) -> Result<BTreeMap<String, String>> {
        let mut contents = BTreeMap::new();
        // One at a time: together they may be more than an answer of the store should hold.
        for bundle in bundles {
            if contents.contains_key(&bundle.digest) {
                continue;
            }
            let key = keyspace::bundle_content(&bundle.digest);
            let read = self.store().get(Shard::Sys, &[key]).await?;
            let found = read.value.into_iter().next().flatten();
            let text = found.and_then(|record| String::from_utf8(record.value.to_vec()).ok());
            let text = text
                .filter(|text| digest(text) == bundle.digest)
                .ok_or_else(|| Error::DataLoss {
                    what: format!("the content of bundle `{}`", bundle.id),
                })?;
            contents.insert(bundle.digest.clone(), text);
        }
        Ok(contents)
    }

    /// Makes what decides by a snapshot.
    async fn compile(&self, record: &SnapshotRecord) -> Result<Snapshot> {
        let contents = self.contents(&record.bundles).await?;
        let mut bundles = Vec::with_capacity(record.bundles.len());
        for member in &record.bundles {
            let content = contents.get(&member.digest).map_or("", String::as_str);
            self.check_signature(&member.id, content, &member.signature)?;
            bundles.push((member.id.clone(), Arc::new(parse(&member.id, content)?)));
        }
        Snapshot::new(record.id.clone(), bundles)
            .map_err(|problem| Error::invalid("bundles", problem.to_string()))
    }

    /// Whether a bundle has the signature that it needs.
    pub(crate) fn check_signature(&self, id: &str, content: &str, signature: &str) -> Result<()> {
        let signatures = &self.options().signatures;
        if signature.is_empty() && !signatures.required {
            return Ok(());
        }
        signatures
            .keys
            .verify(id, content, signature)
            .map_err(|problem| Error::SignatureInvalid {
                bundle_id: id.to_owned(),
                reason: problem.to_string(),
            })
    }

    /// Takes over the policy from the store when the engine starts: makes a first head where there
    /// is none, moves what somebody left behind, and loads what is in force.
    pub(crate) async fn start_policy(&self) -> Result<()> {
        if !self.kernel().follows_store() {
            return self.ensure_policy_pointer().await;
        }
        if self.head().await?.is_none() {
            self.make_first_head().await?;
        }
        self.follow_head().await?;
        match self.load_policy().await {
            Err(error @ Error::Unavailable { .. }) => Err(error),
            Err(error) => {
                tracing::error!(%error, "the policy cannot be used; jobs wait");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// Another policy may have come into force than this replica decides by.
    pub(crate) async fn policy_moved(&self, attempt: u32) {
        if self.kernel().follows_store() {
            self.follow_policy().await;
        }
        self.pause(attempt).await;
    }

    /// Takes over what the store says; on failure nothing is decided until a later try succeeds.
    pub(crate) async fn follow_policy(&self) {
        if let Err(error) = self.follow_head().await {
            tracing::warn!(%error, "policy pointer not moved yet");
        }
        if let Err(error) = self.load_policy().await {
            tracing::warn!(%error, "policy not loaded yet");
        }
    }

    /// The same for whoever has to know that nothing goes on under the policy before.
    pub(super) async fn follow_policy_strictly(&self) -> Result<()> {
        self.follow_head().await?;
        if let Err(error) = self.load_policy().await {
            tracing::warn!(%error, "policy not loaded yet");
        }
        Ok(())
    }

    /// What has to be done about the policy every second: files of the owner, and a policy that
    /// could not be loaded.
    pub(crate) async fn keep_policy(&self) {
        if !self.kernel().follows_store() {
            return;
        }
        if !self.kernel().is_sound() {
            self.follow_policy().await;
        }
        if let Err(error) = self.keep_base().await {
            tracing::warn!(%error, "policy files not taken over yet");
        }
    }

    /// The parsed bundles of a snapshot, by id.
    async fn parsed(&self, record: &SnapshotRecord) -> Result<BTreeMap<String, Arc<Bundle>>> {
        let contents = self.contents(&record.bundles).await?;
        let mut bundles = BTreeMap::new();
        for member in &record.bundles {
            let content = contents.get(&member.digest).map_or("", String::as_str);
            bundles.insert(member.id.clone(), Arc::new(parse(&member.id, content)?));
        }
        Ok(bundles)
    }

    /// Loads the snapshot that the pointer names, unless it is loaded.
    async fn load_policy(&self) -> Result<()> {
        let _turn = self.policy_loads().lock().await;
        let read = self
            .store()
            .get(self.shard(), &[keyspace::policy()])
            .await?;
        let pointer = read.value.into_iter().next().flatten();
        let Some(id) = pointer.and_then(|record| String::from_utf8(record.value.to_vec()).ok())
        else {
            return Err(Error::DataLoss {
                what: "the policy pointer".to_owned(),
            });
        };
        let kernel = self.kernel();
        if kernel.snapshot() == id && kernel.is_sound() {
            return Ok(());
        }
        let compiled = match self.snapshot_record(&id).await {
            Ok(Some(record)) => self.compile(&record).await,
            Ok(None) => Err(Error::DataLoss {
                what: format!("policy snapshot {id}"),
            }),
            Err(error) => Err(error),
        };
        match compiled {
            Ok(snapshot) => {
                tracing::info!(
                    snapshot = id,
                    rules = rule_count(&snapshot),
                    "policy in force"
                );
                kernel.follow(snapshot);
                self.dispatcher().wake();
                Ok(())
            }
            Err(error) => {
                crate::telemetry::policy_trouble();
                kernel.stand_still(&id, &error.to_string());
                Err(error)
            }
        }
    }

    /// Moves the pointer to the snapshot of the head.
    async fn follow_head(&self) -> Result<()> {
        for attempt in 0..MAX_TRIES {
            // The pointer first: a head that is read later is not older, and if the pointer moves in
            // between, the commit fails.
            let read = self
                .store()
                .get(self.shard(), &[keyspace::policy()])
                .await?;
            let found = read.value.into_iter().next().flatten();
            let Some((head, _)) = self.head().await? else {
                // A store that came back empty.
                self.make_first_head().await?;
                continue;
            };
            let value = Bytes::copy_from_slice(head.snapshot_id.as_bytes());
            let mut batch = Batch::new(self.shard(), CommitId(self.ids().random()));
            match found {
                Some(record) if record.value == value => return Ok(()),
                Some(record) => batch.replace(keyspace::policy(), record.version, value),
                None => batch.create(keyspace::policy(), value),
            };
            match self.store().commit(batch).await {
                // Once more: another head may have come meanwhile.
                Ok(_) | Err(CommitError::Conflict { .. }) => self.pause(attempt).await,
                Err(error) => return Err(error.into()),
            }
        }
        Err(Error::Contention)
    }
}

/// How many rules a snapshot has.
fn rule_count(snapshot: &Snapshot) -> usize {
    snapshot
        .bundles()
        .map(|(_, bundle)| bundle.rules.len())
        .sum()
}
