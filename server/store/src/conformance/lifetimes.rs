//! How records end, and what outlives the process.

use std::time::Duration;

use crate::{CommitError, Durability, Precondition, Rate, Shard};

use super::support::{SHARD, apply, b, batch, creation, fresh, put, record, sight, size, value};
use super::{End, Fixture, Making};

/// A deleted record is gone for readers and still known to resends; a new one goes on counting.
pub async fn deletes_leave_tombstones(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let create = creation("key", "v1");
    apply(&store, create.clone()).await;
    let mut delete = batch();
    delete.delete(b("key"), 1);
    delete.append(b("deleted"));
    let committed = apply(&store, delete.clone()).await;
    assert_eq!(committed.versions, Vec::<u64>::new());
    assert_eq!(record(&store, "key").await, None);
    // Both are still recognised, in any order and often.
    for _ in 0..2 {
        assert!(apply(&store, delete.clone()).await.resent);
        let again = apply(&store, create.clone()).await;
        assert!(again.resent);
        assert_eq!(again.versions, [1]);
    }
    assert_eq!(record(&store, "key").await, None);
    assert_eq!(store.tail(SHARD, 1, 9).await.unwrap().value.next, 2);
    for version in 1..4 {
        let mut stale = batch();
        stale.replace(b("key"), version, b("stale"));
        let conflict = Err(CommitError::Conflict { key: b("key") });
        assert_eq!(store.commit(stale).await, conflict);
    }
    let reborn = apply(&store, creation("key", "v3")).await;
    assert_eq!(reborn.versions, [3]);
    assert_eq!(record(&store, "key").await.unwrap().commits.len(), 3);
}

/// A record with a time to live is there before and gone after, to the microsecond where time is
/// exact.
pub async fn records_expire(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let ttl = Duration::from_millis(400);
    let write = || {
        let mut write = batch();
        write
            .preconditions
            .push(Precondition::Absent { key: b("short") });
        write.writes.push(put("short", "lived", Some(ttl)));
        write
    };
    apply(&store, write()).await;
    let conflict = Err(CommitError::Conflict { key: b("short") });
    assert_eq!(store.commit(write()).await, conflict);
    let early = if fixture.exact_time() {
        ttl - Duration::from_micros(1)
    } else {
        Duration::from_millis(1)
    };
    fixture.advance(early).await;
    assert_eq!(value(&store, "short").await, Some(b("lived")));
    fixture.advance(ttl - early).await;
    assert_eq!(record(&store, "short").await, None);
    let mut at = batch();
    at.replace(b("short"), 1, b("no"));
    assert_eq!(store.commit(at).await, conflict);
    let committed = apply(&store, write()).await;
    assert!(!committed.resent);
    assert_eq!(value(&store, "short").await, Some(b("lived")));
    // Long after, when upkeep has had its turn, too.
    fixture.advance(ttl).await;
    fixture.advance(Duration::from_secs(1)).await;
    apply(&store, creation("other", "")).await;
    apply(&store, write()).await;
    assert_eq!(value(&store, "short").await, Some(b("lived")));
}

/// The last write says how long a record lives.
pub async fn a_later_write_replaces_the_time_to_live(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let ttl = Duration::from_millis(300);
    for (key, then) in [("kept", None), ("longer", Some(ttl * 20))] {
        let mut write = batch();
        write
            .preconditions
            .push(Precondition::Absent { key: b(key) });
        write.writes.push(put(key, "1", Some(ttl)));
        apply(&store, write).await;
        let mut write = batch();
        write.preconditions.push(Precondition::At {
            key: b(key),
            version: 1,
        });
        write.writes.push(put(key, "2", then));
        apply(&store, write).await;
    }
    fixture.advance(ttl * 2).await;
    fixture.advance(Duration::from_secs(1)).await;
    apply(&store, creation("other", "")).await;
    assert_eq!(value(&store, "kept").await, Some(b("2")));
    assert_eq!(value(&store, "longer").await, Some(b("2")));
    assert_eq!(record(&store, "kept").await.unwrap().version, 2);
}

/// Everything that was acknowledged is there after an orderly end.
pub async fn data_survives_a_reopening(make: fn(u16) -> Making) {
    let fixture = make(2).await;
    survives(fixture, End::Closed).await;
}

/// Everything that was acknowledged is there after a kill, if the engine says so.
pub async fn data_survives_a_kill(make: fn(u16) -> Making) {
    let fixture = make(2).await;
    if fixture.store().info().durability == Durability::Fsync {
        survives(fixture, End::Killed).await;
    }
}

/// As long as nothing acknowledged is lost, the epoch stays as it is, whatever is read, refused,
/// deleted or trimmed.
pub async fn the_epoch_stands_still(make: fn(u16) -> Making) {
    let mut fixture = make(2).await;
    let store = fixture.store();
    let epoch = store.epoch();
    for round in 1..=20_u64 {
        let mut write = creation(&format!("{round}"), "");
        write.append(b("entry"));
        apply(&store, write.clone()).await;
        assert!(apply(&store, write).await.resent);
        let again = creation(&round.to_string(), "");
        assert!(store.commit(again).await.is_err());
        let mut delete = batch();
        delete.delete(b(round.to_string()), 1);
        apply(&store, delete).await;
        store.trim(SHARD, round).await.unwrap();
        assert_eq!(record(&store, "1").await, None);
        store.tail(Shard::Sys, 1, 9).await.unwrap();
        assert_eq!(store.epoch(), epoch);
    }
    drop(store);
    if fixture.reopen(End::Closed).await {
        let store = fixture.store();
        let epoch = store.epoch();
        apply(&store, creation("after", "")).await;
        assert_eq!(record(&store, "1").await, None);
        assert_eq!(store.epoch(), epoch);
    }
}

async fn survives(mut fixture: Box<dyn Fixture>, end: End) {
    let store = fixture.store();
    let rate = Rate {
        permits: 1,
        per: Duration::from_secs(36_000),
        burst: 1,
    };
    let bucket = Precondition::Bucket {
        key: b("bucket"),
        rate,
        cost: 1,
    };
    let mut first = creation("key", "v1");
    first.preconditions.push(bucket.clone());
    first.add(b("index"), b("a")).add(b("index"), b("b"));
    first.append(b("one")).append(b("two"));
    apply(&store, first.clone()).await;
    let gone = creation("gone", "");
    apply(&store, gone.clone()).await;
    let mut delete = batch();
    delete.delete(b("gone"), 1);
    apply(&store, delete.clone()).await;
    for number in 0..200 {
        let mut more = creation(&format!("many/{number:03}"), &"x".repeat(number * 10));
        more.add(b("many"), b(format!("{number:03}")));
        more.append(b(number.to_string()));
        apply(&store, more).await;
    }
    let mut keys = vec![b("key"), b("gone")];
    keys.extend((0..200).map(|number| b(format!("many/{number:03}"))));
    let indexes = [b("index"), b("many")];
    let before = sight(&store, &keys, &indexes).await;
    let time = store.time().await.unwrap();
    drop(store);
    if !fixture.reopen(end).await {
        return;
    }
    let store = fixture.store();
    assert!(store.time().await.unwrap() >= time || end == End::Killed);
    assert_eq!(sight(&store, &keys, &indexes).await, before);
    // So are the identity of old commits, versions, limits and the end of the log.
    assert!(apply(&store, first).await.resent);
    assert!(apply(&store, gone).await.resent);
    assert!(apply(&store, delete).await.resent);
    let mut empty = creation("empty", "");
    empty.preconditions.push(bucket);
    assert!(matches!(
        store.commit(empty).await,
        Err(CommitError::LimitReached(_))
    ));
    let mut next = crate::Batch::new(SHARD, fresh());
    next.replace(b("key"), 1, b("v2")).append(b("next"));
    next.add(b("index"), b("c"));
    let committed = apply(&store, next).await;
    assert_eq!(
        (committed.versions, committed.last_log_id),
        (vec![2], Some(203))
    );
    assert_eq!(size(&store, "index").await, 3);
}
