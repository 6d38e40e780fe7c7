//! Sizes and rates: exact, whoever asks at the same time.

use std::sync::Arc;
use std::time::Duration;

use coretex_core::time::Timestamp;

use crate::{CommitError, Limit, Precondition, Rate, Store};

use super::Making;
use super::support::{apply, b, batch, creation, members, size, size_below};

/// 64 callers fight for the places of an index: never more than the limit get one.
pub async fn sizes_are_never_exceeded(make: fn(u16) -> Making) {
    const PLACES: u64 = 5;
    let fixture = make(1).await;
    let store = fixture.store();
    let mut callers = Vec::new();
    for caller in 0..64 {
        let store = store.clone();
        callers.push(tokio::spawn(async move {
            let mut wins = 0;
            for round in 0..10 {
                let member = format!("{caller}/{round}");
                let mut enter = creation(&format!("enter/{member}"), "");
                enter.preconditions.push(size_below("running", PLACES, 0));
                enter.add(b("running"), b(&member));
                match store.commit(enter).await {
                    Ok(_) => {
                        assert!(size(&store, "running").await <= PLACES);
                        let mut leave = creation(&format!("leave/{member}"), "");
                        leave.remove(b("running"), b(&member));
                        apply(&store, leave).await;
                        wins += 1;
                    }
                    Err(CommitError::LimitReached(Limit::Size { index, holders })) => {
                        assert_eq!((index, holders), (b("running"), vec![]));
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            wins
        }));
    }
    let mut wins = 0;
    for caller in callers {
        wins += caller.await.unwrap();
    }
    assert!(wins >= PLACES);
    assert_eq!(size(&store, "running").await, 0);

    // All at once and nobody leaves: exactly as many as there are places.
    let mut callers = Vec::new();
    for caller in 0..64 {
        let store = store.clone();
        callers.push(tokio::spawn(async move {
            let mut enter = creation(&format!("stay/{caller}"), "");
            enter.preconditions.push(size_below("running", PLACES, 0));
            enter.add(b("running"), b(format!("stay/{caller}")));
            store.commit(enter).await.is_ok()
        }));
    }
    let mut winners = 0;
    for caller in callers {
        winners += u64::from(caller.await.unwrap());
    }
    assert_eq!(winners, PLACES);
    assert_eq!(members(&store, "running").await.len() as u64, PLACES);
}

/// The error names the first members, as many as were asked for.
pub async fn holders_are_named(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    for member in ["c", "a", "b"] {
        let mut enter = creation(member, "");
        enter.add(b("lock"), b(member));
        apply(&store, enter).await;
    }
    let holders = [
        (0, vec![]),
        (2, vec![b("a"), b("b")]),
        (9, vec![b("a"), b("b"), b("c")]),
    ];
    for (name_holders, expected) in holders {
        let mut enter = creation("d", "");
        enter
            .preconditions
            .push(size_below("lock", 3, name_holders));
        assert_eq!(
            store.commit(enter).await,
            Err(CommitError::LimitReached(Limit::Size {
                index: b("lock"),
                holders: expected,
            }))
        );
    }
}

/// The size is the number of members before the batch: repeated adds and removes do not count.
pub async fn sizes_count_members_not_writes(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    for round in 0..5 {
        let mut again = creation(&format!("again/{round}"), "");
        again
            .add(b("set"), b("one"))
            .remove(b("set"), b("none"))
            .add(b("set"), b("two"))
            .remove(b("set"), b("two"));
        apply(&store, again).await;
        assert_eq!(size(&store, "set").await, 1);
    }
    // What the batch itself adds is not counted.
    let mut three = creation("three", "");
    three.preconditions.push(size_below("set", 2, 0));
    three.add(b("set"), b("x")).add(b("set"), b("y"));
    apply(&store, three).await;
    assert_eq!(size(&store, "set").await, 3);
    // Nor does it make room for itself.
    let mut swap = creation("swap", "");
    swap.preconditions.push(size_below("set", 3, 0));
    swap.remove(b("set"), b("x"));
    assert!(store.commit(swap).await.is_err());
}

fn rate(permits: u32, per: Duration, burst: u32) -> Rate {
    Rate {
        permits,
        per,
        burst,
    }
}

async fn take(store: &Arc<dyn Store>, key: &str, rate: Rate, cost: u32) -> Result<(), Timestamp> {
    let mut batch = batch();
    let name = b(format!("take/{:032x}", batch.commit_id.0));
    batch.create(name, b(""));
    batch.preconditions.push(Precondition::Bucket {
        key: b(key),
        rate,
        cost,
    });
    match store.commit(batch).await {
        Ok(_) => Ok(()),
        Err(CommitError::LimitReached(Limit::Bucket { key: named, at })) => {
            assert_eq!(named, b(key));
            Err(at)
        }
        Err(error) => panic!("{error}"),
    }
}

/// However many ask at once, a full bucket grants its burst and no more.
pub async fn buckets_grant_exactly_their_burst(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let slow = rate(1, Duration::from_secs(3600), 7);
    let mut callers = Vec::new();
    for _ in 0..64 {
        let store = store.clone();
        callers.push(tokio::spawn(async move {
            take(&store, "slow", slow, 1).await.is_ok()
        }));
    }
    let mut granted = 0;
    for caller in callers {
        granted += u32::from(caller.await.unwrap());
    }
    assert_eq!(granted, 7);
    // Costs above one: 7 permits hold two threes.
    assert_eq!(take(&store, "threes", slow, 3).await, Ok(()));
    assert_eq!(take(&store, "threes", slow, 3).await, Ok(()));
    assert!(take(&store, "threes", slow, 3).await.is_err());
    assert_eq!(take(&store, "threes", slow, 1).await, Ok(()));
}

/// A refusal names the time at which it works, and it works then and not before.
pub async fn buckets_refill_on_time(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    // A third of a second is no whole number of microseconds.
    let thirds = rate(3, Duration::from_secs(1), 2);
    assert_eq!(take(&store, "thirds", thirds, 2).await, Ok(()));
    let start = store.time().await.unwrap();
    let at = take(&store, "thirds", thirds, 1).await.unwrap_err();
    assert!(at.since(start) <= Duration::from_micros(333_334));
    fixture.advance(at.since(store.time().await.unwrap())).await;
    assert_eq!(take(&store, "thirds", thirds, 1).await, Ok(()));
    if !fixture.exact_time() {
        return;
    }
    let start = store.time().await.unwrap();
    let mut granted = 0;
    // The bucket was empty up to a fraction of a microsecond, so 30 s are worth 90 permits.
    while store.time().await.unwrap().since(start) < Duration::from_secs(30) {
        match take(&store, "thirds", thirds, 1).await {
            Ok(()) => granted += 1,
            Err(at) => {
                let now = store.time().await.unwrap();
                let early = at.since(now).saturating_sub(Duration::from_micros(1));
                fixture.advance(early).await;
                assert!(
                    take(&store, "thirds", thirds, 1).await.is_err(),
                    "too early"
                );
                fixture.advance(Duration::from_micros(1)).await;
            }
        }
    }
    assert!((89..=90).contains(&granted), "{granted}");
    // A long pause fills it up to its burst, not more.
    fixture.advance(Duration::from_secs(3600)).await;
    assert_eq!(take(&store, "thirds", thirds, 2).await, Ok(()));
    assert!(take(&store, "thirds", thirds, 1).await.is_err());
}

/// A batch that another check refuses leaves every bucket as it was; so does one whose second
/// bucket is empty.
pub async fn a_refused_batch_takes_no_permits(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let one = rate(1, Duration::from_secs(3600), 1);
    assert_eq!(take(&store, "empty", one, 1).await, Ok(()));
    let bucket = |key: &str| Precondition::Bucket {
        key: b(key),
        rate: one,
        cost: 1,
    };
    for _ in 0..3 {
        let mut both = creation("both", "");
        both.preconditions.extend([bucket("full"), bucket("empty")]);
        assert!(store.commit(both).await.is_err());
        let mut twice = creation("twice", "");
        twice.preconditions.extend([bucket("full"), bucket("full")]);
        assert!(store.commit(twice).await.is_err(), "one batch, one permit");
    }
    assert_eq!(take(&store, "full", one, 1).await, Ok(()));
}
