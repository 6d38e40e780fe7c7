//! The configuration in force at a place, and the copies of it that this replica keeps.
//!
//! A copy is dropped when the news change (within a second of any change, at once of an own one) and
//! is never put back by somebody who had read before.

use std::collections::HashMap;
use std::sync::Arc;

use coretex_core::config::{ConfigName, Effective, Source};
use coretex_core::id::TenantId;
use coretex_store::{Key, Shard, Version};
use parking_lot::Mutex;

use super::record::{self, Found};
use crate::engine::Engine;
use crate::{Error, Result};

/// Places whose configuration is remembered at once.
const MOST_PLACES: usize = 10_000;
/// About how many bytes they take at most.
const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Reads that go on at once when nothing is remembered: those of one tenant wait for each other.
const LANES: usize = 64;

/// Where in a tenant: its parts may be empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    team: String,
    workflow: String,
    step: String,
}

/// The documents that a configuration was made of: two of the same are one.
type Parts = Vec<(Key, Version)>;

/// What this replica remembers.
#[derive(Debug)]
pub(crate) struct Configs {
    copies: Mutex<Copies>,
    lanes: Vec<tokio::sync::Mutex<()>>,
    empty: Arc<Effective>,
}

#[derive(Debug, Default)]
struct Copies {
    /// How often everything was dropped.
    age: u64,
    places: HashMap<TenantId, HashMap<Place, Arc<Effective>>>,
    count: usize,
    known: HashMap<Parts, Arc<Effective>>,
    bytes: usize,
}

impl Copies {
    fn clear(&mut self) {
        self.places.clear();
        self.known.clear();
        (self.count, self.bytes) = (0, 0);
    }
}

impl Default for Configs {
    fn default() -> Self {
        Self {
            copies: Mutex::default(),
            lanes: (0..LANES).map(|_| tokio::sync::Mutex::default()).collect(),
            empty: Arc::new(Effective::empty()),
        }
    }
}

impl Configs {
    /// Drops every copy.
    pub(crate) fn forget(&self) {
        let mut copies = self.copies.lock();
        copies.age += 1;
        copies.clear();
    }

    fn get(&self, tenant: &TenantId, place: &Place) -> Option<Arc<Effective>> {
        let copies = self.copies.lock();
        copies.places.get(tenant)?.get(place).cloned()
    }

    fn age(&self) -> u64 {
        self.copies.lock().age
    }

    fn known(&self, parts: &Parts) -> Option<Arc<Effective>> {
        self.copies.lock().known.get(parts).cloned()
    }

    /// Remembers what was read when everything had been dropped `age` times.
    fn put(&self, tenant: &TenantId, place: Place, parts: Parts, found: &Arc<Effective>, age: u64) {
        let mut copies = self.copies.lock();
        if copies.age != age {
            return;
        }
        if copies.count >= MOST_PLACES || copies.bytes + found.size > MOST_BYTES {
            copies.clear();
        }
        if !parts.is_empty() && copies.known.insert(parts, Arc::clone(found)).is_none() {
            copies.bytes += found.size;
        }
        let places = copies.places.entry(tenant.clone()).or_default();
        if places.insert(place, Arc::clone(found)).is_none() {
            copies.count += 1;
        }
    }
}

/// The lane of a tenant. Whoever shares it waits a little longer, and nothing else.
fn lane(tenant: &TenantId) -> usize {
    let bytes = tenant.as_bytes().iter();
    bytes.fold(0, |sum, byte| (sum * 31 + usize::from(*byte)) % LANES)
}

impl Engine {
    /// The configuration in force for a team, a workflow or a step of a tenant, each of which may be
    /// empty. At most a second old.
    ///
    /// # Errors
    /// `Unavailable` where the store has to be asked and does not answer; `DataLoss` where a
    /// document holds what this build does not understand.
    pub async fn effective_config(
        &self,
        tenant: &TenantId,
        team: &str,
        workflow: &str,
        step: &str,
    ) -> Result<Arc<Effective>> {
        let place = Place {
            team: team.to_owned(),
            workflow: workflow.to_owned(),
            step: step.to_owned(),
        };
        let configs = self.configs();
        if let Some(found) = configs.get(tenant, &place) {
            return Ok(found);
        }
        let _turn = configs.lanes[lane(tenant)].lock().await;
        // Whoever was before in the lane may have read it.
        if let Some(found) = configs.get(tenant, &place) {
            return Ok(found);
        }
        let age = configs.age();
        let names = ConfigName::chain(tenant, team, workflow, step);
        let (found, parts) = self.read_effective(tenant, names).await?;
        configs.put(tenant, place, parts, &found, age);
        Ok(found)
    }

    async fn read_effective(
        &self,
        tenant: &TenantId,
        names: Vec<ConfigName>,
    ) -> Result<(Arc<Effective>, Parts)> {
        let keys: Vec<Key> = names.iter().map(|name| record::key(tenant, name)).collect();
        let records = self.store().get(Shard::Sys, &keys).await?.value;
        let (mut parts, mut found) = (Parts::new(), Vec::new());
        for ((name, key), record) in names.into_iter().zip(keys).zip(records) {
            let Some(record) = record else { continue };
            parts.push((key, record.version));
            found.push((name, Found::read(&record)?));
        }
        if found.is_empty() {
            return Ok((Arc::clone(&self.configs().empty), parts));
        }
        if let Some(known) = self.configs().known(&parts) {
            return Ok((known, parts));
        }
        let mut documents = Vec::with_capacity(found.len());
        // Those that are deleted count, too: otherwise the sum would go down.
        let version = found.iter().fold(0_u32, |sum, (_, one)| {
            sum.saturating_add(one.record.revision)
        });
        for (name, one) in found {
            let source = Source {
                revision: one.record.revision,
                etag: one.etag(),
                name,
            };
            if let Some(data) = record::parse(&one.record.data)? {
                documents.push((source, data));
            }
        }
        let merged = Effective::new(documents, version).map_err(|problems| {
            let what = problems
                .first()
                .map(|first| format!("configuration at {}: {}", first.pointer, first.message));
            Error::DataLoss {
                what: what.unwrap_or_default(),
            }
        })?;
        Ok((Arc::new(merged), parts))
    }
}
