//! Sorted indexes: order, bounds, pages, counts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

use crate::{Index, Member, Order, Range};

use super::Making;
use super::support::{SHARD, apply, b, batch, creation, members, size};

/// Members come in byte order, in both directions, within half-open bounds.
pub async fn byte_order_and_bounds(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let sorted: Vec<Member> = [
        b"\x00".as_slice(),
        b"\x00\x00",
        b"\x00\xff",
        b"a",
        b"a\x00",
        b"aa",
        b"b",
        b"\x7f",
        b"\x80",
        b"\xff",
        b"\xff\xff",
    ]
    .into_iter()
    .map(Bytes::from_static)
    .collect();
    let mut write = creation("key", "");
    for member in sorted.iter().rev() {
        write.add(b("order"), member.clone());
    }
    apply(&store, write).await;
    let model: BTreeSet<Member> = sorted.iter().cloned().collect();
    let mut bounds = sorted.clone();
    bounds.push(Bytes::new());
    for start in &bounds {
        for end in bounds.iter().map(Some).chain([None]) {
            let range = Range {
                index: b("order"),
                start: start.clone(),
                end: end.cloned(),
            };
            let inside: Vec<Member> = model
                .iter()
                .filter(|member| *member >= start && end.is_none_or(|end| *member < end))
                .cloned()
                .collect();
            let ranges = [range.clone()];
            for limit in [0, 1, 3, 100] {
                let up = store.range(SHARD, &ranges, limit, Order::Ascending).await;
                let expected: Vec<_> = inside.iter().take(limit).cloned().collect();
                assert_eq!(up.unwrap().value, [expected], "{range:?}");
                let down = store.range(SHARD, &ranges, limit, Order::Descending).await;
                let expected: Vec<_> = inside.iter().rev().take(limit).cloned().collect();
                assert_eq!(down.unwrap().value, [expected], "{range:?}");
                let count = store.count(SHARD, &range, limit as u64).await.unwrap();
                assert_eq!(count.value, inside.len().min(limit) as u64, "{range:?}");
            }
        }
    }
    for prefix in [b"a".as_slice(), b"\x00", b"\xff", b"\xff\xff", b"none"] {
        let ranges = [Range::prefix(b("order"), prefix)];
        let found = store.range(SHARD, &ranges, 100, Order::Ascending).await;
        let expected: Vec<_> = sorted
            .iter()
            .filter(|member| member.starts_with(prefix))
            .cloned()
            .collect();
        assert_eq!(found.unwrap().value, [expected]);
    }
}

/// An index whose name begins another one's name is a different index.
pub async fn names_do_not_run_into_each_other(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let pairs: [(&[u8], &[u8]); 6] = [
        (b"i", b"ndex"),
        (b"in", b"dex"),
        (b"index", b"\x00"),
        (b"index\x00", b"m"),
        (b"index\xff", b"m"),
        (b"\xff", b"\xff"),
    ];
    let mut write = creation("key", "");
    for (index, member) in pairs {
        write.add(Bytes::from_static(index), Bytes::from_static(member));
    }
    apply(&store, write).await;
    for (index, member) in pairs {
        let range = Range::all(Index::from_static(index));
        let ranges = [range.clone()];
        let found = store.range(SHARD, &ranges, 10, Order::Ascending).await;
        assert_eq!(found.unwrap().value, [vec![Bytes::from_static(member)]]);
        assert_eq!(store.count(SHARD, &range, 10).await.unwrap().value, 1);
    }
    // Nor do the names of records, indexes and buckets mix.
    assert_eq!(size(&store, "key").await, 0);
}

/// A member that moves between indexes in one commit is in exactly one of them, whenever several
/// ranges are read together.
pub async fn several_ranges_from_one_instant(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let mut first = creation("ball", "");
    first.add(b("left"), b("ball"));
    let mut version = apply(&store, first).await.version;
    let done = Arc::new(AtomicBool::new(false));
    let mut readers = Vec::new();
    for _ in 0..4 {
        let (store, done) = (store.clone(), done.clone());
        readers.push(tokio::spawn(async move {
            let ranges = ["left", "right"].map(|side| Range::all(b(side)));
            let mut seen = [0_u64; 2];
            while !done.load(Ordering::Acquire) {
                let read = store.range(SHARD, &ranges, 10, Order::Ascending).await;
                let sides = read.unwrap().value;
                assert_eq!(sides[0].len() + sides[1].len(), 1);
                seen[sides[1].len()] += 1;
                tokio::task::yield_now().await;
            }
            seen
        }));
    }
    for round in 1..300_u64 {
        let (from, to) = if round % 2 == 1 {
            ("left", "right")
        } else {
            ("right", "left")
        };
        let mut throw = batch();
        throw
            .replace(b("ball"), version, b(""))
            .remove(b(from), b("ball"))
            .add(b(to), b("ball"));
        version = apply(&store, throw).await.version;
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        let seen = reader.await.unwrap();
        assert!(seen[0] + seen[1] > 0);
    }
}

/// Whoever pages through an index by the last member seen meets each member that stays exactly
/// once, in order, whatever comes and goes meanwhile.
pub async fn paging_has_no_gaps_or_repeats_under_load(make: fn(u16) -> Making) {
    const STAY: u32 = 300;
    let fixture = make(1).await;
    let store = fixture.store();
    let mut write = creation("setup", "");
    for number in 0..STAY {
        write.add(b("list"), b(format!("{number:04}/stays")));
    }
    apply(&store, write).await;
    let done = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..4_u32 {
        let (store, done) = (store.clone(), done.clone());
        writers.push(tokio::spawn(async move {
            let mut round = 0_u32;
            while !done.load(Ordering::Acquire) {
                let place = round.wrapping_mul(7_919).wrapping_add(writer * 101) % STAY;
                let mut come = creation(&format!("come/{writer}/{round}"), "");
                come.add(b("list"), b(format!("{place:04}/comes/{writer}")));
                come.remove(
                    b("list"),
                    b(format!("{:04}/comes/{writer}", (place + 13) % STAY)),
                );
                apply(&store, come).await;
                round += 1;
            }
        }));
    }
    for order in [Order::Ascending, Order::Descending] {
        for page_size in [7, 64] {
            let mut seen: Vec<Member> = Vec::new();
            let mut range = Range::all(b("list"));
            loop {
                let ranges = [range.clone()];
                let mut read = store.range(SHARD, &ranges, page_size, order).await.unwrap();
                let page = read.value.pop().unwrap();
                let Some(last) = page.last().cloned() else {
                    break;
                };
                match order {
                    // The next member after `last` is `last` and a zero byte.
                    Order::Ascending => range.start = [last.as_ref(), b"\x00"].concat().into(),
                    Order::Descending => range.end = Some(last),
                }
                seen.extend(page);
            }
            if order == Order::Descending {
                seen.reverse();
            }
            assert!(seen.windows(2).all(|pair| pair[0] < pair[1]));
            let stays: Vec<_> = seen.into_iter().filter(|m| m.ends_with(b"stays")).collect();
            let expected: Vec<_> = (0..STAY).map(|n| b(format!("{n:04}/stays"))).collect();
            assert_eq!(stays, expected);
        }
    }
    done.store(true, Ordering::Release);
    for writer in writers {
        writer.await.unwrap();
    }
}

/// The kept count of every index equals the number of its members, after any load.
pub async fn counts_agree_with_ranges(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let mut writers = Vec::new();
    for writer in 0..16_u32 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            for round in 0..30_u32 {
                let mut write = creation(&format!("{writer}/{round}"), "");
                for step in 0..6_u32 {
                    let n = writer.wrapping_mul(31) ^ round.wrapping_mul(17) ^ step.wrapping_mul(7);
                    let index = b(format!("index/{}", n % 3));
                    let member = b(format!("{}", n % 40));
                    if (n / 3) % 3 == 0 {
                        write.remove(index, member);
                    } else {
                        write.add(index, member);
                    }
                }
                apply(&store, write).await;
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let mut sizes = BTreeMap::new();
    for index in ["index/0", "index/1", "index/2", "index/none"] {
        let found = members(&store, index).await.len() as u64;
        assert_eq!(size(&store, index).await, found, "{index}");
        let capped = store.count(SHARD, &Range::all(b(index)), 3).await.unwrap();
        assert_eq!(capped.value, found.min(3));
        sizes.insert(index, found);
    }
    assert_eq!(sizes["index/none"], 0);
    assert!(sizes["index/0"] > 0);
}
