//! Atomicity, conditions, identity of batches.
//!
//! Over 500 lines because every promise about commits is a test of its own; read together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use crate::{
    Batch, CommitError, Precondition, Rate, Shard, StoreError, Version, Write, prefix_end,
};

use super::Making;
use super::support::{
    SHARD, apply, b, batch, creation, fresh, members, put, record, sight, size_below, value,
};

const RATE: Rate = Rate {
    permits: 1,
    per: Duration::from_secs(3600),
    burst: 2,
};

fn bucket(key: &str, cost: u32) -> Precondition {
    Precondition::Bucket {
        key: b(key),
        rate: RATE,
        cost,
    }
}

/// A reader sees all of a batch or nothing of it, never some.
pub async fn atomic_for_readers(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let mut first = batch();
    first.create(b("left"), b("0")).create(b("right"), b("0"));
    let mut version = apply(&store, first).await.version;
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..4 {
        let (store, done) = (store.clone(), done.clone());
        readers.push(tokio::spawn(async move {
            let mut looks = 0_u64;
            while !done.load(Ordering::Acquire) {
                let read = store.get(SHARD, &[b("left"), b("right")]).await.unwrap();
                assert_eq!(read.value[0], read.value[1]);
                looks += 1;
                tokio::task::yield_now().await;
            }
            looks
        }));
    }
    for round in 1..200_u64 {
        let mut both = batch();
        both.replace(b("left"), version, b(round.to_string()))
            .replace(b("right"), version, b(round.to_string()));
        let before = version;
        version = apply(&store, both).await.version;
        // One batch that fails half-way through its checks between every two that apply.
        let mut half = batch();
        half.replace(b("left"), version, b("no"))
            .replace(b("right"), before, b("no"));
        assert_eq!(
            store.commit(half).await,
            Err(CommitError::Conflict { key: b("right") })
        );
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        assert!(reader.await.unwrap() > 0);
    }
}

/// Whatever check fails, and wherever it stands, no write and no permit of the batch remains.
pub async fn a_failed_check_changes_nothing(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let mut setup = creation("there", "old");
    setup
        .add(b("full"), b("m"))
        .append(b("entry"))
        .writes
        .push(put("pointer", "p1", None));
    let there = apply(&store, setup).await.version;
    let mut drain = creation("drain", "");
    drain.preconditions.push(bucket("empty", 2));
    apply(&store, drain).await;

    let moved = Precondition::Pointer {
        key: b("pointer"),
        value: b("p2"),
    };
    let conflict = |key: &str| CommitError::Conflict { key: b(key) };
    let failing = [
        (
            Precondition::Absent { key: b("there") },
            Some(conflict("there")),
        ),
        (
            Precondition::At {
                key: b("there"),
                version: there + 1,
            },
            Some(conflict("there")),
        ),
        (
            Precondition::At {
                key: b("nowhere"),
                version: there,
            },
            Some(conflict("nowhere")),
        ),
        (size_below("full", 1, 0), None),
        (size_below("any", 0, 0), None),
        (bucket("empty", 1), None),
        (moved, Some(CommitError::PointerMoved { key: b("pointer") })),
    ];
    let keys: Vec<_> = ["there", "new", "pointer", "nowhere"].map(b).into();
    let indexes: Vec<_> = ["full", "other", "any"].map(b).into();
    let before = sight(&store, &keys, &indexes).await;
    for (check, expected) in failing {
        for last in [false, true] {
            let mut attempt = creation("new", "value");
            attempt.preconditions.push(bucket("half", 1));
            let position = if last { attempt.preconditions.len() } else { 0 };
            attempt.preconditions.insert(position, check.clone());
            attempt
                .add(b("other"), b("x"))
                .remove(b("full"), b("m"))
                .append(b("never"))
                .writes
                .extend([
                    Write::Delete { key: b("there") },
                    put("pointer", "p9", None),
                ]);
            let error = store.commit(attempt).await.unwrap_err();
            match &expected {
                Some(expected) => assert_eq!(&error, expected),
                None => assert!(matches!(error, CommitError::LimitReached(_)), "{error:?}"),
            }
            assert!(!error.outcome_unknown());
            let after = sight(&store, &keys, &indexes).await;
            assert_eq!(after, before, "{check:?}, last: {last}");
        }
    }
    // The permits that the failed batches asked for are all there.
    let mut both = creation("both", "");
    both.preconditions.push(bucket("half", 2));
    apply(&store, both).await;
}

/// 64 writers that compare and swap one record lose no update and see no version twice.
pub async fn compare_and_swap_under_64_writers(make: fn(u16) -> Making) {
    const ROUNDS: u64 = 8;
    let fixture = make(1).await;
    let store = fixture.store();
    let first = apply(&store, creation("counter", "0")).await.version;
    let mut writers = Vec::new();
    for _ in 0..64 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let mut versions: Vec<Version> = Vec::new();
            for _ in 0..ROUNDS {
                loop {
                    let current = record(&store, "counter").await.unwrap();
                    let number: u64 = std::str::from_utf8(&current.value)
                        .unwrap()
                        .parse()
                        .unwrap();
                    let mut swap = batch();
                    swap.replace(b("counter"), current.version, b((number + 1).to_string()));
                    match store.commit(swap).await {
                        Ok(committed) => {
                            versions.push(committed.version);
                            break;
                        }
                        Err(CommitError::Conflict { key }) => assert_eq!(key, b("counter")),
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            versions
        }));
    }
    let mut versions = vec![first];
    for writer in writers {
        versions.extend(writer.await.unwrap());
    }
    let end = record(&store, "counter").await.unwrap();
    assert!(versions.contains(&end.version));
    versions.sort_unstable();
    versions.dedup();
    assert_eq!(versions.len() as u64, 64 * ROUNDS + 1);
    assert_eq!(end.value, b((64 * ROUNDS).to_string()));
    assert_eq!(end.commits.len(), 8);
}

/// A read that begins after an acknowledgement sees the commit, whoever reads.
pub async fn reads_see_acknowledged_commits(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let mut writers = Vec::new();
    for writer in 0..16 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            for round in 0..20_u64 {
                let (key, member) = (
                    format!("{writer}/{round}"),
                    format!("{writer:02}/{round:03}"),
                );
                let mut write = creation(&key, &member);
                write.add(b("seen"), b(&member)).append(b(&member));
                let committed = apply(&store, write).await;
                let reader = store.clone();
                let look = tokio::spawn(async move {
                    let found = record(&reader, &key).await.unwrap();
                    let expected = (committed.version, &b(&member));
                    assert_eq!((found.version, &found.value), expected);
                    let range = crate::Range {
                        index: b("seen"),
                        start: b(&member),
                        end: prefix_end(member.as_bytes()).map(Bytes::from),
                    };
                    let order = crate::Order::Ascending;
                    let found = reader.range(SHARD, &[range], 10, order).await.unwrap();
                    assert_eq!(found.value, [vec![b(&member)]]);
                    let id = committed.last_log_id.unwrap();
                    let page = reader.tail(SHARD, id, 1).await.unwrap();
                    assert_eq!(page.value.entries[0].value, b(&member));
                    assert!(page.time >= committed.time);
                });
                look.await.unwrap();
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
}

/// A batch that was applied answers so again, while one of its records remembers it.
pub async fn resends_are_recognised(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let mut first = creation("key", "v1");
    first
        .add(b("index"), b("m"))
        .append(b("entry"))
        .preconditions
        .extend([bucket("once", 2), size_below("index", 1, 0)]);
    let committed = apply(&store, first.clone()).await;
    assert!(!committed.resent);
    assert_eq!(committed.version, first.commit_id.version());
    assert_eq!(committed.last_log_id, Some(1));
    let mut version = committed.version;
    for later in 1..=8_u64 {
        // By now the record has another version, the index is full, the bucket empty.
        let again = apply(&store, first.clone()).await;
        assert!(again.resent, "after {later} commits");
        // The version that it made, not the one that stands.
        assert_eq!(again.version, committed.version);
        assert_eq!(again.last_log_id, None);
        let mut next = batch();
        next.replace(b("key"), version, b("later"));
        version = apply(&store, next).await.version;
        assert_eq!(record(&store, "key").await.unwrap().version, version);
    }
    // The ninth commit has pushed it out: now it is like any other batch.
    assert_eq!(
        store.commit(first).await,
        Err(CommitError::Conflict { key: b("key") })
    );
    assert_eq!(members(&store, "index").await, [b("m")]);
    let log = store.tail(SHARD, 1, 10).await.unwrap().value;
    assert_eq!((log.entries.len(), log.next), (1, 2));
    assert_eq!(record(&store, "key").await.unwrap().version, version);

    // Any record that the batch preconditions will do, also when another one was overwritten.
    let mut pair = batch();
    pair.create(b("a"), b("1")).create(b("b"), b("1"));
    let made = apply(&store, pair.clone()).await.version;
    let mut version = made;
    for _ in 1..=9 {
        let mut next = batch();
        next.replace(b("a"), version, b("x"));
        version = apply(&store, next).await.version;
    }
    let again = apply(&store, pair).await;
    assert_eq!((again.resent, again.version), (true, made));
}

/// A caller that stops waiting can settle the outcome by sending the batch again: it is applied
/// once.
pub async fn a_dropped_commit_is_settled_by_its_resend(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let mut tasks = Vec::new();
    for number in 0..64_u32 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let mut write = creation(&format!("dropped/{number}"), "value");
            write.append(b(format!("{number}")));
            {
                let mut sending = store.commit(write.clone());
                // Polled zero to three times, then dropped.
                for _ in 0..number % 4 {
                    let poll = std::future::poll_fn(|context| {
                        Poll::Ready(sending.as_mut().poll(context).is_ready())
                    });
                    if poll.await {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            }
            apply(&store, write).await;
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let log = store.tail(SHARD, 1, 1_000).await.unwrap().value;
    let mut entries: Vec<_> = log.entries.into_iter().map(|entry| entry.value).collect();
    entries.sort_unstable();
    entries.dedup();
    assert_eq!((entries.len(), log.next), (64, 65));
}

/// Batches that break a rule are refused before anything happens.
pub async fn invalid_batches_are_refused(make: fn(u16) -> Making) {
    let fixture = make(2).await;
    let store = fixture.store();
    let long = Bytes::from(vec![b'x'; 1025]);
    let valid = || creation("key", "value");
    let with = |change: &dyn Fn(&mut Batch)| {
        let mut batch = valid();
        change(&mut batch);
        batch
    };
    let mut unidentified = batch();
    unidentified.writes.push(put("key", "value", None));
    let mut elsewhere = batch();
    elsewhere.writes.push(put("key", "value", None));
    elsewhere
        .preconditions
        .push(Precondition::Absent { key: b("other") });
    let mut pointed = batch();
    pointed.writes.push(put("key", "value", None));
    pointed.preconditions.push(Precondition::Pointer {
        key: b("key"),
        value: b("value"),
    });
    let odd_rate = |rate: Rate, cost| Precondition::Bucket {
        key: b("bucket"),
        rate,
        cost,
    };
    let invalid = [
        ("no identity", unidentified),
        ("identity is not written", elsewhere),
        ("a pointer is no identity", pointed),
        ("no such shard", with(&|batch| batch.shard = Shard::Data(2))),
        (
            "an empty key",
            with(&|batch| {
                batch.create(Bytes::new(), b("v"));
            }),
        ),
        (
            "a long key",
            with(&|batch| {
                batch.create(long.clone(), b("v"));
            }),
        ),
        (
            "a long member",
            with(&|batch| {
                batch.add(b("index"), long.clone());
            }),
        ),
        (
            "a long index",
            with(&|batch| {
                batch.remove(long.clone(), b("m"));
            }),
        ),
        (
            "one record twice",
            with(&|batch| {
                batch.writes.push(put("key", "again", None));
            }),
        ),
        (
            "too large",
            with(&|batch| {
                batch.append(Bytes::from(vec![0; 8 * 1024 * 1024]));
            }),
        ),
        (
            "cost over burst",
            with(&|batch| {
                batch.preconditions.push(odd_rate(RATE, 3));
            }),
        ),
        (
            "no permits",
            with(&|batch| {
                batch
                    .preconditions
                    .push(odd_rate(Rate { permits: 0, ..RATE }, 1));
            }),
        ),
        (
            "no period",
            with(&|batch| {
                let per = Duration::ZERO;
                batch.preconditions.push(odd_rate(Rate { per, ..RATE }, 1));
            }),
        ),
    ];
    for (what, batch) in invalid {
        let answer = store.commit(batch).await;
        assert!(
            matches!(answer, Err(CommitError::Invalid { .. })),
            "{what}: {answer:?}"
        );
    }
    assert_eq!(value(&store, "key").await, None);
    let wrong = store.get(Shard::Data(2), &[b("key")]).await;
    assert!(matches!(wrong, Err(StoreError::Invalid { .. })));

    // The largest that is allowed.
    let mut large = valid();
    large.append(Bytes::from(vec![7; 7 * 1024 * 1024]));
    apply(&store, large).await;
    let page = store.tail(SHARD, 1, 1).await.unwrap().value;
    assert_eq!(page.entries[0].value.len(), 7 * 1024 * 1024);
    let name = Bytes::from(vec![0xff; 1024]);
    let mut wide = batch();
    wide.create(name.clone(), b("v"))
        .add(name.clone(), name.clone());
    apply(&store, wide).await;
    let found = store.get(SHARD, std::slice::from_ref(&name)).await.unwrap();
    assert_eq!(found.value[0].as_ref().unwrap().value, b("v"));
    let ranges = [crate::Range::all(name.clone())];
    let order = crate::Order::Descending;
    let found = store.range(SHARD, &ranges, 1, order).await.unwrap();
    assert_eq!(found.value, [vec![name]]);
}

/// A put without a precondition of its own makes a version like any other.
pub async fn blind_writes_are_versioned_too(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    for round in 1..=3_u64 {
        let mut write = creation(&format!("identity/{round}"), "");
        write.writes.push(put("blind", &round.to_string(), None));
        let committed = apply(&store, write.clone()).await;
        let found = record(&store, "blind").await.unwrap();
        let expected = (committed.version, b(round.to_string()));
        assert_eq!((found.version, found.value), expected);
        assert_eq!(found.commits.last(), Some(&write.commit_id));
    }
    // Deleting what is not there is no error, and adding twice adds once.
    let mut odd = creation("identity/odd", "");
    odd.add(b("odd"), b("m"))
        .add(b("odd"), b("m"))
        .remove(b("odd"), b("other"))
        .writes
        .push(Write::Delete { key: b("nobody") });
    apply(&store, odd).await;
    assert_eq!(members(&store, "odd").await, [b("m")]);
    assert_eq!(value(&store, "nobody").await, None);
}

/// The same names in two shards are two things.
pub async fn shards_are_separate(make: fn(u16) -> Making) {
    let fixture = make(3).await;
    let store = fixture.store();
    let shards = [Shard::Sys, Shard::Data(0), Shard::Data(1), Shard::Data(2)];
    assert_eq!(store.info().shards, 3);
    for (number, shard) in shards.into_iter().enumerate() {
        let mut write = Batch::new(shard, fresh());
        write
            .create(b("key"), b(number.to_string()))
            .add(b("index"), b(number.to_string()))
            .append(b(number.to_string()));
        // Full in one shard does not mean full in another.
        write.preconditions.push(size_below("index", 1, 0));
        let committed = apply(&store, write).await;
        assert_eq!(committed.last_log_id, Some(1));
    }
    for (number, shard) in shards.into_iter().enumerate() {
        let expected = b(number.to_string());
        let found = store.get(shard, &[b("key")]).await.unwrap().value;
        assert_eq!(found[0].as_ref().unwrap().value, expected);
        let ranges = [crate::Range::all(b("index"))];
        let order = crate::Order::Ascending;
        let found = store.range(shard, &ranges, 10, order).await.unwrap();
        assert_eq!(found.value, [vec![expected.clone()]]);
        let page = store.tail(shard, 1, 10).await.unwrap().value;
        assert_eq!(page.entries[0].value, expected);
        assert_eq!(page.next, 2);
    }
}

/// A pointer compares bytes; it neither writes nor identifies.
pub async fn pointers_are_compared(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let guarded = |key: &str, expected: &str| {
        let mut batch = creation(key, "");
        batch.preconditions.push(Precondition::Pointer {
            key: b("policy"),
            value: b(expected),
        });
        batch
    };
    let moved = Err(CommitError::PointerMoved { key: b("policy") });
    assert_eq!(store.commit(guarded("a", "p1")).await, moved);
    assert_eq!(
        store.commit(guarded("a", "")).await,
        moved,
        "absent equals nothing"
    );
    let first = apply(&store, creation("policy", "p1")).await.version;
    apply(&store, guarded("a", "p1")).await;
    assert_eq!(store.commit(guarded("b", "p")).await, moved);
    let mut publish = batch();
    publish.replace(b("policy"), first, b("p2"));
    let second = apply(&store, publish).await.version;
    assert_eq!(store.commit(guarded("b", "p1")).await, moved);
    apply(&store, guarded("b", "p2")).await;
    let pointer = record(&store, "policy").await.unwrap();
    assert_eq!((pointer.version, pointer.commits.len()), (second, 2));
    let mut gone = batch();
    gone.delete(b("policy"), second);
    apply(&store, gone).await;
    assert_eq!(store.commit(guarded("c", "p2")).await, moved);
    assert_eq!(store.commit(guarded("c", "")).await, moved);
}

/// Every answer carries a store time, and no later answer an earlier one.
pub async fn time_never_runs_backwards(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let mut last = store.time().await.unwrap();
    for round in 0..20 {
        let committed = apply(&store, creation(&format!("t/{round}"), "")).await;
        assert!(committed.time >= last);
        let read = store.get(SHARD, &[b("t/0")]).await.unwrap();
        assert!(read.time >= committed.time);
        last = store.time().await.unwrap();
        assert!(last >= read.time);
        fixture.advance(Duration::from_millis(1)).await;
        assert!(store.time().await.unwrap() > last, "time passes");
    }
}

/// After `close` every call answers `Unavailable`, and closing again is harmless.
pub async fn a_closed_store_says_so(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    apply(&store, creation("key", "value")).await;
    store.close(Duration::from_secs(10)).await;
    store.close(Duration::from_secs(10)).await;
    let write = store.commit(creation("other", "")).await;
    assert!(
        matches!(write, Err(CommitError::Unavailable { .. })),
        "{write:?}"
    );
    let unavailable = |error: StoreError| matches!(error, StoreError::Unavailable { .. });
    assert!(unavailable(
        store.get(SHARD, &[b("key")]).await.unwrap_err()
    ));
    assert!(unavailable(store.tail(SHARD, 1, 1).await.unwrap_err()));
    assert!(unavailable(store.trim(SHARD, 1).await.unwrap_err()));
    assert!(unavailable(store.time().await.unwrap_err()));
    assert!(unavailable(store.usage().await.unwrap_err()));
}
