//! Recomputes what follows from the documents of configuration and compares it with what the store
//! holds: their earlier states, their index entries, how much of them a tenant has.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use coretex_core::time::Timestamp;
use coretex_store::embedded::EmbeddedStore;
use coretex_store::{Order, Range, Shard, Store, codec};
use serde::Deserialize;

use crate::Names;

#[derive(Deserialize)]
struct Document {
    revision: u32,
    #[serde(default)]
    data: String,
    create_time: Timestamp,
    update_time: Timestamp,
    #[serde(default)]
    past: Vec<u32>,
}

#[derive(Deserialize)]
struct Past {
    #[serde(default)]
    data: String,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
struct Usage {
    documents: u32,
    bytes: u64,
}

const SCOPES: [&[u8]; 5] = [b"system", b"org", b"team", b"workflow", b"step"];

/// The parts of a key after its family.
fn parts<'k>(key: &'k Bytes, family: &str) -> Option<Vec<&'k [u8]>> {
    let rest = key.strip_prefix(family.as_bytes())?;
    // The number at the end of a key of an earlier state may hold zeros.
    Some(rest.splitn(4, |byte| *byte == 0).collect())
}

/// Checks everything that the store holds of configuration.
pub async fn audit(store: &EmbeddedStore, names: &Names) {
    let keys = names.keys(Shard::Sys);
    let records = store.get(Shard::Sys, &keys).await.unwrap().value;
    let (mut usage, mut should) = (BTreeMap::new(), BTreeMap::<Vec<u8>, Usage>::new());
    let mut entries = BTreeMap::<Bytes, BTreeSet<Bytes>>::new();
    let (mut past, mut expected) = (BTreeMap::new(), BTreeMap::new());
    for (key, record) in keys.iter().zip(records) {
        let Some(record) = record else { continue };
        if let Some(owner) = parts(key, "config-usage/") {
            let (_, found) = codec::decode::<Usage>(&record.value).unwrap();
            usage.insert(owner.concat(), found);
        } else if parts(key, "config-past/").is_some() {
            let (_, found) = codec::decode::<Past>(&record.value).unwrap();
            past.insert(key.clone(), found.data.len() as u32);
        } else if let Some(parts) = parts(key, "config/") {
            let (_, document) = codec::decode::<Document>(&record.value).unwrap();
            let (owner, scope, id) = (parts[0], parts[1], parts[2]);
            let of = should.entry(owner.to_vec()).or_default();
            of.documents += 1;
            of.bytes += document.data.len() as u64;
            let first = document.revision - document.past.len() as u32;
            for (number, bytes) in (first..).zip(&document.past) {
                of.bytes += u64::from(*bytes);
                let name = [owner, scope, id, &number.to_be_bytes()].join(&0);
                expected.insert(Bytes::from([b"config-past/", &name[..]].concat()), *bytes);
            }
            let (family, time) = match document.data.as_str() {
                "" => ("configs-deleted/", document.update_time),
                _ => ("configs/", document.create_time),
            };
            let scope = 1 + SCOPES.iter().position(|known| *known == scope).unwrap() as u8;
            let member = [&time.to_be_bytes()[..], &[scope], id].concat();
            let index = Bytes::from([family.as_bytes(), owner].concat());
            entries.entry(index).or_default().insert(member.into());
        }
    }
    assert_eq!(past, expected, "earlier states of documents");
    for (owner, should) in should {
        let found = usage.remove(&owner);
        assert_eq!(found, Some(should), "{}", String::from_utf8_lossy(&owner));
    }
    for (owner, rest) in usage {
        assert_eq!(
            rest,
            Usage::default(),
            "{}",
            String::from_utf8_lossy(&owner)
        );
    }
    for index in names.indexes(Shard::Sys) {
        if !index.starts_with(b"configs") {
            continue;
        }
        let all = [Range::all(index.clone())];
        let found = store.range(Shard::Sys, &all, 100_000, Order::Ascending);
        let found: BTreeSet<Bytes> = found.await.unwrap().value.into_iter().flatten().collect();
        assert_eq!(
            found,
            entries.remove(&index).unwrap_or_default(),
            "{index:?}"
        );
    }
    assert_eq!(entries, BTreeMap::new(), "indexes that were never written");
}
