//! Bundles from files beside the server. Those of the replica that owns the shard count: it puts them
//! in force when they are others than the ones that were last taken over.

use std::sync::Arc;

use coretex_core::time::Timestamp;
use coretex_store::{Batch, CommitError, CommitId, Shard, codec};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::publish::Change;
use super::{
    Action, AuditEntry, BASE_PREFIX, HEAD_FORMAT, Head, MAX_TRIES, Member, SNAPSHOT_FORMAT,
    SnapshotRecord, digest, snapshot_id,
};
use crate::access::Caller;
use crate::engine::Engine;
use crate::{Result, keyspace};

/// Who changes the policy when files have changed.
const PRINCIPAL: &str = "system";

/// A bundle from a file beside the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseBundle {
    /// The name of the file, without its ending; its id is this behind [`BASE_PREFIX`].
    pub name: String,
    /// What it holds, or why it could not be read.
    pub content: std::result::Result<String, String>,
    /// Its signature; empty = none.
    pub signature: String,
}

impl BaseBundle {
    fn id(&self) -> String {
        format!("{BASE_PREFIX}{}", self.name)
    }
}

/// What this replica knows of its files.
#[derive(Debug, Default)]
pub(crate) struct Base {
    /// What they hold; `None` until they have been read.
    files: Mutex<Option<Arc<Vec<BaseBundle>>>>,
    /// Files that could not be read, or hold what cannot be in force.
    problems: Mutex<Vec<String>>,
    /// The files that were last taken over, or found to be, since this replica owns the shard.
    taken: Mutex<Option<Arc<Vec<BaseBundle>>>>,
}

/// Bundles with those of files among them.
struct Merged {
    /// By id.
    members: Vec<Member>,
    /// Contents that may not be in the store, by digest.
    contents: Vec<(String, String)>,
    problems: Vec<String>,
    /// Names what the files hold and which of them can be in force.
    digest: String,
}

impl Engine {
    /// Takes over what the files beside the server hold. One that could not be read or cannot be in
    /// force counts as it was before, and is a problem.
    ///
    /// # Errors
    /// `Unavailable`, `OutcomeUnknown`: they are taken over within a second of the store's return.
    pub async fn set_base_bundles(&self, mut files: Vec<BaseBundle>) -> Result<()> {
        files.sort_by(|a, b| a.name.cmp(&b.name));
        *self.base().files.lock() = Some(Arc::new(files));
        self.keep_base().await
    }

    /// What is wrong with files; what they held before stays in force.
    #[must_use]
    pub fn policy_problems(&self) -> Vec<String> {
        self.base().problems.lock().clone()
    }

    /// Puts the files in force now, whoever owns the shard, also where an earlier snapshot was put
    /// in force meanwhile; the snapshot that is in force then.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `Unavailable`, `OutcomeUnknown`.
    pub async fn reload_policy(&self, caller: &Caller) -> Result<String> {
        self.system_only(caller)?;
        self.take_over_base(&caller.principal_id, true).await?;
        self.follow_policy_strictly().await?;
        Ok(self.kernel().snapshot())
    }

    /// Looks whether the files are others than those that were last taken over, if this replica
    /// owns the shard.
    pub(super) async fn keep_base(&self) -> Result<()> {
        let files = self.base().files.lock().clone();
        if !self.owns_shard() {
            // Whoever owns it meanwhile may take over others.
            *self.base().taken.lock() = None;
            return Ok(());
        }
        if files.is_none() || *self.base().taken.lock() == files {
            return Ok(());
        }
        self.take_over_base(PRINCIPAL, false).await?;
        *self.base().taken.lock() = files;
        Ok(())
    }

    async fn take_over_base(&self, principal_id: &str, anyway: bool) -> Result<()> {
        let Some(files) = self.base().files.lock().clone() else {
            return Ok(());
        };
        for attempt in 0..MAX_TRIES {
            let Some((head, version)) = self.head().await? else {
                return self.make_first_head().await;
            };
            let before = self.snapshot_record(&head.snapshot_id).await?;
            let before = before.map(|record| record.bundles).unwrap_or_default();
            let merged = self.with_base(&before, &files, self.now());
            *self.base().problems.lock() = merged.problems;
            let known = head.base_digest == merged.digest;
            if known && (!anyway || merged.members == before) {
                return Ok(());
            }
            let change = Change {
                action: Action::Base,
                principal_id: principal_id.to_owned(),
                note: "files beside the server".to_owned(),
                bundle_ids: files.iter().map(BaseBundle::id).collect(),
                members: merged.members,
                contents: merged.contents,
                base_digest: merged.digest,
            };
            if self
                .put_in_force(change, head, version, None)
                .await?
                .is_some()
            {
                return Ok(());
            }
            self.pause(attempt).await;
        }
        Err(crate::Error::Contention)
    }

    /// The bundles in force with those of the files in the place of earlier files.
    fn with_base(&self, before: &[Member], files: &[BaseBundle], now: Timestamp) -> Merged {
        let own = before.iter().filter(|member| !member.base);
        let mut members: Vec<Member> = own.cloned().collect();
        let (mut contents, mut problems) = (Vec::new(), Vec::new());
        let mut hash = Sha256::new();
        for file in files {
            let old = before.iter().find(|member| member.id == file.id());
            let checked = self.check_file(file, now);
            let held = file.content.as_deref().unwrap_or_default();
            let usable = if checked.is_ok() { "usable" } else { "" };
            for part in [&file.name, held, &file.signature, usable] {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part.as_bytes());
            }
            match checked {
                Ok(mut member) => {
                    if let Some(old) = old.filter(|old| old.digest == member.digest) {
                        member.update_time = old.update_time;
                    }
                    contents.push((member.digest.clone(), held.to_owned()));
                    members.push(member);
                }
                Err(reason) => {
                    let problem = format!("{}: {reason}", file.name);
                    tracing::error!(problem, "a policy file cannot be used");
                    problems.push(problem);
                    members.extend(old.cloned());
                }
            }
        }
        members.sort_by(|a, b| a.id.cmp(&b.id));
        Merged {
            members,
            contents,
            problems,
            digest: hex::encode(hash.finalize()),
        }
    }

    /// A file as a snapshot has it, or why it cannot.
    fn check_file(&self, file: &BaseBundle, now: Timestamp) -> std::result::Result<Member, String> {
        let content = file.content.as_ref().map_err(Clone::clone)?;
        let id = file.id();
        let parsed = super::parse(&file.name, content).map_err(|error| told(&error))?;
        self.check_signature(&id, content, &file.signature)
            .map_err(|error| told(&error))?;
        Ok(Member {
            id,
            digest: digest(content),
            size: content.len() as u64,
            rules: u32::try_from(parsed.rules.len()).unwrap_or(u32::MAX),
            base: true,
            signature: file.signature.clone(),
            description: String::new(),
            author: PRINCIPAL.to_owned(),
            update_time: now,
        })
    }

    /// Makes the head of a store that has none, with what files are known.
    pub(super) async fn make_first_head(&self) -> Result<()> {
        let files = self.base().files.lock().clone().unwrap_or_default();
        let now = self.now();
        let merged = self.with_base(&[], &files, now);
        *self.base().problems.lock() = merged.problems;
        for (digest, content) in &merged.contents {
            self.put_content(digest, content).await?;
        }
        let id = snapshot_id(&merged.members);
        let head = Head {
            sequence: 1,
            snapshot_id: id.clone(),
            base_digest: merged.digest,
        };
        let record = SnapshotRecord {
            id: id.clone(),
            create_time: now,
            bundles: merged.members,
        };
        let audit = AuditEntry {
            sequence: 1,
            time: now,
            principal_id: PRINCIPAL.to_owned(),
            action: Action::Base,
            note: "the first policy of this store".to_owned(),
            before: String::new(),
            after: id.clone(),
            bundle_ids: files.iter().map(BaseBundle::id).collect(),
        };
        let mut batch = Batch::new(Shard::Sys, CommitId(self.ids().random()));
        batch.create(keyspace::policy_head(), codec::encode(HEAD_FORMAT, &head)?);
        batch.create(
            keyspace::snapshot(&id),
            codec::encode(SNAPSHOT_FORMAT, &record)?,
        );
        batch.add(keyspace::SNAPSHOTS, keyspace::snapshot_place(now, &id));
        batch.create(
            keyspace::policy_audit(1),
            codec::encode(super::AUDIT_FORMAT, &audit)?,
        );
        batch.add(keyspace::POLICY_AUDIT, keyspace::numbered(1));
        crate::news::announce(&mut batch);
        match self.store().commit(batch).await {
            Ok(_) => {
                self.tell_news();
                Ok(())
            }
            Err(CommitError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// An error in one line.
fn told(error: &crate::Error) -> String {
    match error {
        crate::Error::Invalid(violations) => {
            let lines = violations.iter().map(|one| one.description.as_str());
            lines.collect::<Vec<_>>().join("; ")
        }
        other => other.to_string(),
    }
}
