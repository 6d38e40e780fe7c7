//! Snapshots that are kept, what is different between them, and who put what in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use coretex_core::policy::Bundle;
use coretex_core::policy::diff::{BundleDiff, diff};
use coretex_core::time::Timestamp;
use coretex_store::{Order, Range, Shard};

use super::publish::{DROPPED, no_snapshot};
use super::{AuditEntry, BundleAnswer, MAX_SNAPSHOTS, SnapshotRecord};
use crate::access::Caller;
use crate::engine::Engine;
use crate::sessions::workers::paged;
use crate::types::PageRequest;
use crate::{Error, Result, keyspace};

/// A snapshot.
#[derive(Clone, Debug)]
pub struct SnapshotAnswer {
    /// Its id.
    pub id: String,
    /// When it was first put in force.
    pub create_time: Timestamp,
    /// Its bundles; in lists without content.
    pub bundles: Vec<BundleAnswer>,
    /// Whether it is in force.
    pub current: bool,
}

impl Engine {
    /// The snapshots that are kept, newest first.
    pub(super) async fn snapshot_places(&self, limit: usize) -> Result<Vec<(Timestamp, String)>> {
        let range = Range::all(keyspace::SNAPSHOTS);
        let read = self
            .store()
            .range(Shard::Sys, &[range], limit, Order::Descending)
            .await?;
        let places = read.value.into_iter().flatten();
        Ok(places
            .filter_map(|member| keyspace::parse_snapshot_place(&member))
            .collect())
    }

    /// Lists snapshots, newest first.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `PageTokenInvalid`, `Unavailable`, `DataLoss`.
    pub async fn list_snapshots(
        &self,
        caller: &Caller,
        page: PageRequest,
    ) -> Result<(Vec<SnapshotAnswer>, String)> {
        self.system_only(caller)?;
        let current = self.head().await?.map(|(head, _)| head.snapshot_id);
        let places = self.snapshot_places(MAX_SNAPSHOTS + DROPPED).await?;
        // Names that ascend while times descend.
        let name =
            |(time, id): &(Timestamp, String)| format!("{:020}.{id}", u64::MAX - time.as_micros());
        let (places, next) = paged(places, &page, name)?;
        let mut snapshots = Vec::with_capacity(places.len());
        for (_, id) in places {
            if let Some(record) = self.snapshot_record(&id).await? {
                snapshots.push(answer(&record, current.as_deref()));
            }
        }
        Ok((snapshots, next))
    }

    /// Gets a snapshot, the one in force when `id` is empty, with the contents of its bundles; and
    /// what is different from `other`, unless that is empty.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `NotFound`, `Unavailable`, `DataLoss`.
    pub async fn get_snapshot(
        &self,
        caller: &Caller,
        id: &str,
        other: &str,
    ) -> Result<(SnapshotAnswer, Vec<BundleDiff>)> {
        self.system_only(caller)?;
        let current = self.head().await?.map(|(head, _)| head.snapshot_id);
        let wanted = match (id, &current) {
            ("", Some(current)) => current,
            (id, _) => id,
        };
        let record = self.snapshot_record(wanted).await?;
        let record = record.ok_or_else(|| no_snapshot(wanted))?;
        let contents = self.contents(&record.bundles).await?;
        let mut snapshot = answer(&record, current.as_deref());
        for bundle in &mut snapshot.bundles {
            bundle.content = contents.get(&bundle.digest).cloned();
        }
        let mut changes = Vec::new();
        if !other.is_empty() {
            let before = self.snapshot_record(other).await?;
            let before = before.ok_or_else(|| no_snapshot(other))?;
            let (before, after) = (self.parsed(&before).await?, self.parsed(&record).await?);
            changes = diff(&by_name(&before), &by_name(&after));
        }
        Ok((snapshot, changes))
    }

    /// Lists the changes of the policy, newest first.
    ///
    /// # Errors
    /// `TenantNotAllowed`, `PageTokenInvalid`, `Unavailable`, `DataLoss`.
    pub async fn list_policy_audit(
        &self,
        caller: &Caller,
        page: PageRequest,
    ) -> Result<(Vec<AuditEntry>, String)> {
        self.system_only(caller)?;
        let end = match page.token.as_str() {
            "" => None,
            token => Some(token.parse::<u64>().map_err(|_| Error::PageTokenInvalid)?),
        };
        let range = Range {
            end: end.map(keyspace::numbered),
            ..Range::all(keyspace::POLICY_AUDIT)
        };
        let read = self
            .store()
            .range(Shard::Sys, &[range], page.size + 1, Order::Descending)
            .await?;
        let numbers = read.value.into_iter().flatten();
        let mut numbers: Vec<u64> = numbers
            .filter_map(|member| keyspace::parse_numbered(&member))
            .collect();
        let more = numbers.len() > page.size;
        numbers.truncate(page.size);
        let mut entries = Vec::with_capacity(numbers.len());
        for number in &numbers {
            let key = keyspace::policy_audit(*number);
            let found = self.policy_document::<AuditEntry>(key).await?;
            entries.extend(found.map(|(entry, _)| entry));
        }
        let next = numbers.last().filter(|_| more);
        Ok((entries, next.map(u64::to_string).unwrap_or_default()))
    }
}

fn by_name(bundles: &BTreeMap<String, Arc<Bundle>>) -> Vec<(&str, &Bundle)> {
    let pairs = bundles.iter();
    pairs
        .map(|(name, bundle)| (name.as_str(), &**bundle))
        .collect()
}

fn answer(record: &SnapshotRecord, current: Option<&str>) -> SnapshotAnswer {
    SnapshotAnswer {
        id: record.id.clone(),
        create_time: record.create_time,
        bundles: record
            .bundles
            .iter()
            .map(|member| BundleAnswer::of_member(member, None))
            .collect(),
        current: current == Some(record.id.as_str()),
    }
}
