//! Putting bundles in force, and going back.
//!
//! One commit to the head decides: it creates the snapshot and the entry of the record of changes,
//! and drops what is too old. Contents were written before; one that another change has dropped in
//! between makes the commit fail, because the head has changed.

use std::collections::BTreeSet;

use bytes::Bytes;
use coretex_store::{
    Batch, CommitError, CommitId, Order, Precondition, Range, Shard, Write, codec,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::bundles::not_found;
use super::{
    AUDIT_FORMAT, Action, AuditEntry, HEAD_FORMAT, Head, MAX_AUDIT, MAX_SNAPSHOT_BYTES,
    MAX_SNAPSHOTS, MAX_TRIES, Member, SNAPSHOT_FORMAT, SnapshotRecord, snapshot_id,
};
use crate::access::Caller;
use crate::engine::Engine;
use crate::error::Noun;
use crate::{Error, Result, keyspace};

/// The format of records of idempotency keys.
const KEY_FORMAT: u8 = 1;
/// How long such a key is remembered.
const KEY_LIFE: std::time::Duration = std::time::Duration::from_secs(7 * 24 * 3_600);
/// Entries of the record of changes that one change drops at most.
pub(super) const DROPPED: usize = 64;

/// What came of putting something in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The snapshot in force.
    pub snapshot_id: String,
    /// The one before.
    pub previous: String,
    /// An earlier request with the same key did it.
    pub replayed: bool,
}

/// What an idempotency key of a change of the policy stands for.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeyRecord {
    #[serde(with = "serde_bytes")]
    fingerprint: Vec<u8>,
    snapshot_id: String,
    previous: String,
}

/// A change of the policy, worked out.
pub(super) struct Change {
    pub(super) action: Action,
    pub(super) principal_id: String,
    pub(super) note: String,
    /// All bundles of the snapshot, by id.
    pub(super) members: Vec<Member>,
    /// Contents that may not be in the store, by digest.
    pub(super) contents: Vec<(String, String)>,
    pub(super) bundle_ids: Vec<String>,
    pub(super) base_digest: String,
}

/// A request to change the policy, as its key knows it.
pub(super) struct Request<'a> {
    key: &'a str,
    fingerprint: Vec<u8>,
}

impl Request<'_> {
    fn new<'a>(key: &'a str, caller: &Caller, parts: &[&str]) -> Request<'a> {
        let mut hash = Sha256::new();
        for part in [caller.principal_id.as_str()].iter().chain(parts) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Request {
            key,
            fingerprint: hash.finalize().to_vec(),
        }
    }
}

impl Engine {
    /// Puts drafts in force; all of them when `ids` is empty. When it has returned, nothing is
    /// accepted, approved or handed out under the policy before.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `NotFound`, `Invalid`, `SignatureInvalid`, `IdempotencyKeyReused`,
    /// `Unavailable`, `OutcomeUnknown`.
    pub async fn publish_bundles(
        &self,
        caller: &Caller,
        ids: &[String],
        note: &str,
        key: &str,
        validate_only: bool,
    ) -> Result<Published> {
        self.system_only(caller)?;
        let mut parts: Vec<&str> = vec!["publish", note];
        parts.extend(ids.iter().map(String::as_str));
        let request = Request::new(key, caller, &parts);
        for attempt in 0..MAX_TRIES {
            if let Some(replayed) = self.replayed(&request).await? {
                return Ok(replayed);
            }
            let (head, version) = self.made_head().await?;
            let before = self.snapshot_record(&head.snapshot_id).await?;
            let mut members = before.map(|record| record.bundles).unwrap_or_default();
            let (mut contents, mut published) = (Vec::new(), Vec::new());
            let drafts = self.bundle_records().await?;
            if let Some(id) = ids
                .iter()
                .find(|id| !drafts.iter().any(|(draft, _)| draft.id == **id))
            {
                return Err(not_found(id));
            }
            for (draft, _) in drafts {
                if !ids.is_empty() && !ids.contains(&draft.id) {
                    continue;
                }
                members.retain(|member| member.id != draft.id);
                published.push(draft.id.clone());
                if draft.enabled {
                    let member = draft.member();
                    contents.push((member.digest.clone(), draft.content));
                    members.push(member);
                }
            }
            members.sort_by(|a, b| a.id.cmp(&b.id));
            let change = Change {
                action: Action::Publish,
                principal_id: caller.principal_id.clone(),
                note: note.to_owned(),
                members,
                contents,
                bundle_ids: published,
                base_digest: head.base_digest.clone(),
            };
            if validate_only {
                self.check_change(&change).await?;
                return Ok(Published {
                    snapshot_id: snapshot_id(&change.members),
                    previous: head.snapshot_id,
                    replayed: false,
                });
            }
            match self
                .put_in_force(change, head, version, Some(&request))
                .await?
            {
                Some(published) => return Ok(published),
                None => self.pause(attempt).await,
            }
        }
        Err(Error::Contention)
    }

    /// Puts an earlier snapshot in force.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `NotFound`, `SignatureInvalid`, `IdempotencyKeyReused`, `Unavailable`,
    /// `OutcomeUnknown`.
    pub async fn rollback_policy(
        &self,
        caller: &Caller,
        id: &str,
        note: &str,
        key: &str,
    ) -> Result<Published> {
        self.system_only(caller)?;
        let request = Request::new(key, caller, &["rollback", id, note]);
        for attempt in 0..MAX_TRIES {
            if let Some(replayed) = self.replayed(&request).await? {
                return Ok(replayed);
            }
            let (head, version) = self.made_head().await?;
            let record = self.snapshot_record(id).await?;
            let record = record.ok_or_else(|| no_snapshot(id))?;
            let change = Change {
                action: Action::Rollback,
                principal_id: caller.principal_id.clone(),
                note: note.to_owned(),
                members: record.bundles,
                contents: Vec::new(),
                bundle_ids: Vec::new(),
                base_digest: head.base_digest.clone(),
            };
            match self
                .put_in_force(change, head, version, Some(&request))
                .await?
            {
                Some(published) => return Ok(published),
                None => self.pause(attempt).await,
            }
        }
        Err(Error::Contention)
    }

    /// The head; made where there is none.
    async fn made_head(&self) -> Result<(Head, u64)> {
        if let Some(found) = self.head().await? {
            return Ok(found);
        }
        self.make_first_head().await?;
        self.head().await?.ok_or(Error::Contention)
    }

    /// What an earlier request with the same key did.
    async fn replayed(&self, request: &Request<'_>) -> Result<Option<Published>> {
        if request.key.is_empty() {
            return Ok(None);
        }
        let key = keyspace::policy_key(request.key);
        let Some((record, _)) = self.policy_document::<KeyRecord>(key).await? else {
            return Ok(None);
        };
        if record.fingerprint != request.fingerprint {
            return Err(Error::IdempotencyKeyReused { job_id: None });
        }
        // Its pointers may not have been moved by then.
        self.follow_policy_strictly().await?;
        Ok(Some(Published {
            snapshot_id: record.snapshot_id,
            previous: record.previous,
            replayed: true,
        }))
    }

    /// Whether these bundles can be in force together.
    async fn check_change(&self, change: &Change) -> Result<()> {
        let bytes: u64 = change.members.iter().map(|member| member.size).sum();
        if bytes > MAX_SNAPSHOT_BYTES as u64 {
            let text = format!("all bundles together must be at most {MAX_SNAPSHOT_BYTES} bytes");
            return Err(Error::invalid("bundle_ids", text));
        }
        if change.members.len() > super::MAX_BUNDLES {
            return Err(Error::TooManyBundles {
                limit: super::MAX_BUNDLES,
            });
        }
        let mut bundles = Vec::with_capacity(change.members.len());
        for member in &change.members {
            let fresh = change
                .contents
                .iter()
                .find(|(digest, _)| *digest == member.digest);
            let content = match fresh {
                Some((_, content)) => content.clone(),
                None => self
                    .contents(std::slice::from_ref(member))
                    .await?
                    .into_values()
                    .next()
                    .unwrap_or_default(),
            };
            self.check_signature(&member.id, &content, &member.signature)?;
            let parsed = super::parse(&format!("bundles.{}", member.id), &content)?;
            bundles.push((member.id.clone(), std::sync::Arc::new(parsed)));
        }
        super::Snapshot::new(snapshot_id(&change.members), bundles)
            .map(|_| ())
            .map_err(|problem| Error::invalid("bundle_ids", problem.to_string()))
    }

    /// Writes a change, moves the pointers and loads what is in force; `None` when the head has
    /// changed meanwhile.
    pub(super) async fn put_in_force(
        &self,
        change: Change,
        head: Head,
        version: u64,
        request: Option<&Request<'_>>,
    ) -> Result<Option<Published>> {
        self.check_change(&change).await?;
        for (digest, content) in &change.contents {
            self.put_content(digest, content).await?;
        }
        let id = snapshot_id(&change.members);
        let previous = head.snapshot_id.clone();
        let now = self.now();
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        let sequence = head.sequence + 1;
        let next = Head {
            sequence,
            snapshot_id: id.clone(),
            base_digest: change.base_digest.clone(),
        };
        let value = codec::encode(HEAD_FORMAT, &next)?;
        batch.replace(keyspace::policy_head(), version, value);
        let audit = AuditEntry {
            sequence,
            time: now,
            principal_id: change.principal_id,
            action: change.action,
            note: change.note,
            before: previous.clone(),
            after: id.clone(),
            bundle_ids: change.bundle_ids,
        };
        let value = codec::encode(AUDIT_FORMAT, &audit)?;
        batch.create(keyspace::policy_audit(sequence), value);
        batch.add(keyspace::POLICY_AUDIT, keyspace::numbered(sequence));
        if self.snapshot_record(&id).await?.is_none() {
            let record = SnapshotRecord {
                id: id.clone(),
                create_time: now,
                bundles: change.members.clone(),
            };
            let value = codec::encode(SNAPSHOT_FORMAT, &record)?;
            batch.create(keyspace::snapshot(&id), value);
            batch.add(keyspace::SNAPSHOTS, keyspace::snapshot_place(now, &id));
        }
        if let Some(request) = request.filter(|request| !request.key.is_empty()) {
            let record = KeyRecord {
                fingerprint: request.fingerprint.clone(),
                snapshot_id: id.clone(),
                previous: previous.clone(),
            };
            let key = keyspace::policy_key(request.key);
            batch
                .preconditions
                .push(Precondition::Absent { key: key.clone() });
            batch.writes.push(Write::Put {
                key,
                value: codec::encode(KEY_FORMAT, &record)?,
                ttl: Some(KEY_LIFE),
            });
        }
        crate::news::announce(&mut batch);
        self.drop_old(&mut batch, &change.members, &id, &previous, sequence)
            .await?;
        match self.store().commit(batch).await {
            Ok(_) => {
                tracing::warn!(
                    snapshot = id,
                    before = previous,
                    principal_id = audit.principal_id,
                    action = audit.action.as_str(),
                    note = audit.note,
                    "policy changed"
                );
                self.follow_policy_strictly().await?;
                self.tell_news();
                Ok(Some(Published {
                    snapshot_id: id,
                    previous,
                    replayed: false,
                }))
            }
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn put_content(&self, digest: &str, content: &str) -> Result<()> {
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        let value = Bytes::copy_from_slice(content.as_bytes());
        batch.create(keyspace::bundle_content(digest), value);
        match self.store().commit(batch).await {
            // It is named after its content.
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Drops snapshots, contents and entries of the record of changes that are too old.
    async fn drop_old(
        &self,
        batch: &mut Batch,
        members: &[Member],
        id: &str,
        previous: &str,
        sequence: u64,
    ) -> Result<()> {
        let kept = self.snapshot_places(MAX_SNAPSHOTS + DROPPED).await?;
        let (mut used, mut old) = (BTreeSet::new(), Vec::new());
        used.extend(members.iter().map(|member| member.digest.clone()));
        let mut count = 1;
        for (time, kept_id) in kept {
            let Some(record) = self.snapshot_record(&kept_id).await? else {
                continue;
            };
            let stays = count < MAX_SNAPSHOTS || kept_id == id || kept_id == previous;
            count += 1;
            if stays {
                used.extend(record.bundles.into_iter().map(|member| member.digest));
            } else {
                old.push((time, record));
            }
        }
        let mut unused = BTreeSet::new();
        for (time, record) in old {
            let place = keyspace::snapshot_place(time, &record.id);
            batch.remove(keyspace::SNAPSHOTS, place);
            batch.writes.push(Write::Delete {
                key: keyspace::snapshot(&record.id),
            });
            unused.extend(record.bundles.into_iter().map(|member| member.digest));
        }
        for digest in unused.difference(&used) {
            batch.writes.push(Write::Delete {
                key: keyspace::bundle_content(digest),
            });
        }
        let Some(first) = sequence.checked_sub(MAX_AUDIT) else {
            return Ok(());
        };
        let range = Range {
            end: Some(keyspace::numbered(first + 1)),
            ..Range::all(keyspace::POLICY_AUDIT)
        };
        let read = self
            .store()
            .range(Shard::Sys, &[range], DROPPED, Order::Ascending)
            .await?;
        for member in read.value.into_iter().flatten() {
            if let Some(old) = keyspace::parse_numbered(&member) {
                batch.writes.push(Write::Delete {
                    key: keyspace::policy_audit(old),
                });
            }
            batch.remove(keyspace::POLICY_AUDIT, member);
        }
        Ok(())
    }
}

pub(super) fn no_snapshot(id: &str) -> Error {
    Error::NotFound {
        noun: Noun::Snapshot,
        id: id.to_owned(),
    }
}
