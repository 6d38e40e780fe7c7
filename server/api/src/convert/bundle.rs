//! Bundles, snapshots and the record of policy changes, read and written.

use coretex_core::policy::diff::{BundleDiff, Change};
use coretex_engine::{AuditEntry, BundleAnswer, MAX_BUNDLE_BYTES, PutBundle, SnapshotAnswer};
use coretex_proto::v1;

use super::{count, time};
use crate::validate::{Fields, MAX_NAME};

/// The longest note or description.
const MAX_NOTE: usize = 4 * 1024;

/// Reads a bundle in `field`.
pub(crate) fn put(fields: &mut Fields, field: &str, bundle: Option<v1::Bundle>) -> PutBundle {
    let Some(bundle) = bundle else {
        fields.refuse(field, "must be set");
        return PutBundle::default();
    };
    fields.within(field, |fields| candidate(fields, bundle))
}

/// Reads a bundle.
pub(crate) fn candidate(fields: &mut Fields, bundle: v1::Bundle) -> PutBundle {
    if bundle.content.is_empty() {
        fields.refuse("content", "must not be empty");
    }
    PutBundle {
        id: fields.name("bundle_id", &bundle.bundle_id),
        content: fields.text("content", bundle.content, MAX_BUNDLE_BYTES),
        enabled: bundle.enabled.unwrap_or(true),
        description: fields.text("description", bundle.description, MAX_NOTE),
        signature: fields.line("signature", bundle.signature, MAX_NAME),
    }
}

/// Reads a note.
pub(crate) fn note(fields: &mut Fields, note: String) -> String {
    fields.text("note", note, MAX_NOTE)
}

/// Writes a bundle.
pub(crate) fn bundle(from: BundleAnswer) -> v1::Bundle {
    let state = if from.published {
        v1::BundleState::Published
    } else {
        v1::BundleState::Draft
    };
    v1::Bundle {
        bundle_id: from.id,
        content: from.content.unwrap_or_default(),
        enabled: Some(from.enabled),
        state: state.into(),
        description: from.description,
        signature: from.signature,
        author: from.author,
        // What cannot be written has none.
        etag: match from.version {
            0 => String::new(),
            version => version.to_string(),
        },
        update_time: Some(time(from.update_time)),
        base: from.base,
        digest: from.digest,
        rule_count: count(from.rules),
    }
}

/// Writes a snapshot.
pub(crate) fn snapshot(from: SnapshotAnswer) -> v1::PolicySnapshot {
    let rules: u32 = from.bundles.iter().map(|bundle| bundle.rules).sum();
    v1::PolicySnapshot {
        snapshot_id: from.id,
        create_time: Some(time(from.create_time)),
        bundles: from.bundles.into_iter().map(bundle).collect(),
        current: from.current,
        rule_count: count(rules),
    }
}

/// Writes what is different in one bundle, one line for each change.
pub(crate) fn change(from: &BundleDiff) -> v1::BundleChange {
    let mut changes = Vec::new();
    if from.change != Change::Changed {
        changes.push(word(from.change).to_owned());
    }
    changes.extend(from.keys.iter().map(|key| format!("{key} changed")));
    let named = |kind: &'static str| {
        move |(name, change): &(String, Change)| format!("{kind} {name} {}", word(*change))
    };
    changes.extend(from.tenants.iter().map(named("tenant")));
    changes.extend(from.counters.iter().map(named("counter")));
    changes.extend(from.rules.iter().map(|rule| match rule.change {
        Change::Changed => format!("rule {}: {} changed", rule.rule_id, rule.keys.join(", ")),
        Change::Added | Change::Removed => format!("rule {} {}", rule.rule_id, word(rule.change)),
    }));
    let moved = from.moved.iter();
    changes.extend(moved.map(|id| format!("rule {id} is tried at another place")));
    v1::BundleChange {
        bundle_id: from.bundle_id.clone(),
        changes,
    }
}

const fn word(change: Change) -> &'static str {
    match change {
        Change::Added => "added",
        Change::Removed => "removed",
        Change::Changed => "changed",
    }
}

/// Writes an entry of the record of changes.
pub(crate) fn audit_entry(from: AuditEntry) -> v1::PolicyAuditEntry {
    v1::PolicyAuditEntry {
        sequence: i32::try_from(from.sequence).unwrap_or(i32::MAX),
        time: Some(time(from.time)),
        principal_id: from.principal_id,
        action: from.action.as_str().to_owned(),
        note: from.note,
        before_snapshot_id: from.before,
        after_snapshot_id: from.after,
        bundle_ids: from.bundle_ids,
    }
}
