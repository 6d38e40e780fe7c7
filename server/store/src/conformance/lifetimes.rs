//! How records end, and what outlives the process.

use std::time::Duration;

use crate::{CommitError, Durability, Precondition, Rate, Shard};

use super::support::{SHARD, apply, b, batch, creation, fresh, put, record, sight, size, value};
use super::{End, Fixture, Making};

/// A deleted record is gone for readers and still known to resends; none of its versions holds for
/// a new one.
pub async fn deletes_leave_tombstones(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let create = creation("key", "v1");
    let version = apply(&store, create.clone()).await.version;
    let mut delete = batch();
    delete.delete(b("key"), version);
    delete.append(b("deleted"));
    let deleted = apply(&store, delete.clone()).await.version;
    assert_eq!(record(&store, "key").await, None);
    // Both are still recognised, in any order and often.
    for _ in 0..2 {
        assert!(apply(&store, delete.clone()).await.resent);
        let again = apply(&store, create.clone()).await;
        assert_eq!((again.resent, again.version), (true, version));
    }
    assert_eq!(record(&store, "key").await, None);
    assert_eq!(store.tail(SHARD, 1, 9).await.unwrap().value.next, 2);
    let refused = async || {
        for version in [version, deleted, 0] {
            let mut stale = batch();
            stale.replace(b("key"), version, b("stale"));
            let conflict = Err(CommitError::Conflict { key: b("key") });
            assert_eq!(store.commit(stale).await, conflict);
        }
    };
    refused().await;
    let reborn = apply(&store, creation("key", "v3")).await;
    refused().await;
    let found = record(&store, "key").await.unwrap();
    assert_eq!((found.version, found.commits.len()), (reborn.version, 3));
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
    let version = apply(&store, write()).await.version;
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
    at.replace(b("short"), version, b("no"));
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
    let mut last = 0;
    for (key, then) in [("kept", None), ("longer", Some(ttl * 20))] {
        let mut write = batch();
        write
            .preconditions
            .push(Precondition::Absent { key: b(key) });
        write.writes.push(put(key, "1", Some(ttl)));
        let version = apply(&store, write).await.version;
        let mut write = batch();
        write.preconditions.push(Precondition::At {
            key: b(key),
            version,
        });
        write.writes.push(put(key, "2", then));
        last = apply(&store, write).await.version;
    }
    fixture.advance(ttl * 2).await;
    fixture.advance(Duration::from_secs(1)).await;
    apply(&store, creation("other", "")).await;
    assert_eq!(value(&store, "kept").await, Some(b("2")));
    assert_eq!(value(&store, "longer").await, Some(b("2")));
    assert_eq!(record(&store, "longer").await.unwrap().version, last);
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

/// A store that went back in time makes no version again that it has lost: who still holds one
/// overwrites nothing of what came instead, and a batch that was decided on one is not applied. One
/// that was decided on what stands is, whichever time it is sent.
pub async fn lost_versions_are_not_made_again(make: fn(u16) -> Making) {
    let mut fixture = make(1).await;
    let store = fixture.store();
    apply(&store, creation("key", "kept")).await;
    drop(store);
    if !fixture.keep_copy().await {
        return;
    }
    let store = fixture.store();
    let kept = record(&store, "key").await.unwrap();
    let replace = |key: &str, version, text: &str| {
        let mut batch = batch();
        batch.replace(b(key), version, b(text));
        batch
    };
    let mut held = vec![kept.version];
    for number in 1..=3 {
        let lost = replace("key", held[number - 1], "lost");
        held.push(apply(&store, lost).await.version);
    }
    let born = apply(&store, creation("born", "lost")).await.version;
    let unrelated = creation("unrelated", "sent twice");
    let told = apply(&store, unrelated.clone()).await.version;
    let decided = [
        replace("key", held[3], "stale"),
        replace("born", born, "stale"),
    ];
    drop(store);
    fixture.go_back().await;

    let store = fixture.store();
    assert_eq!(record(&store, "key").await, Some(kept.clone()));
    // As often as the record was written before the loss.
    let mut version = kept.version;
    for _ in 1..=3 {
        version = apply(&store, replace("key", version, "new")).await.version;
        assert!(!held.contains(&version));
    }
    let instead = apply(&store, creation("born", "new")).await.version;
    assert_ne!(instead, born);
    for batch in decided {
        let answer = store.commit(batch).await;
        assert!(
            matches!(answer, Err(CommitError::Conflict { .. })),
            "{answer:?}"
        );
    }
    for (key, held) in held
        .iter()
        .map(|held| ("key", *held))
        .chain([("born", born)])
    {
        let mut delete = batch();
        delete.delete(b(key), held);
        let conflict = Err(CommitError::Conflict { key: b(key) });
        assert_eq!(store.commit(delete).await, conflict);
        assert_eq!(value(&store, key).await, Some(b("new")));
    }
    let again = apply(&store, unrelated).await;
    assert_eq!((again.resent, again.version), (false, told));
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
        let version = apply(&store, write.clone()).await.version;
        assert!(apply(&store, write).await.resent);
        let again = creation(&round.to_string(), "");
        assert!(store.commit(again).await.is_err());
        let mut delete = batch();
        delete.delete(b(round.to_string()), version);
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
    let version = apply(&store, first.clone()).await.version;
    let gone = creation("gone", "");
    let there = apply(&store, gone.clone()).await.version;
    let mut delete = batch();
    delete.delete(b("gone"), there);
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
    next.replace(b("key"), version, b("v2")).append(b("next"));
    next.add(b("index"), b("c"));
    assert_eq!(apply(&store, next).await.last_log_id, Some(203));
    assert_eq!(size(&store, "index").await, 3);
}
