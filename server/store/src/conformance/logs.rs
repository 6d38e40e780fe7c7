//! The log of a shard.

use crate::{Shard, Write};

use super::Making;
use super::support::{SHARD, apply, b, creation};

/// Ids are dense and in commit order, several entries of one batch next to each other.
pub async fn ids_are_dense_under_load(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let mut writers = Vec::new();
    for writer in 0..16 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            let mut last = 0;
            for round in 0..20 {
                let mut write = creation(&format!("{writer}/{round}"), "");
                for part in 0..=round % 3 {
                    write.append(b(format!("{writer}/{round}/{part}")));
                }
                let committed = apply(&store, write).await;
                let id = committed.last_log_id.unwrap();
                assert!(id > last);
                last = id;
                let parts = round % 3 + 1;
                let page = store
                    .tail(SHARD, id + 1 - parts, parts as usize)
                    .await
                    .unwrap();
                for (part, entry) in page.value.entries.iter().enumerate() {
                    assert_eq!(entry.value, b(format!("{writer}/{round}/{part}")));
                }
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let page = store.tail(SHARD, 1, usize::MAX).await.unwrap().value;
    let ids: Vec<_> = page.entries.iter().map(|entry| entry.id).collect();
    assert_eq!(ids, (1..page.next).collect::<Vec<_>>());
    // 20 rounds of 1, 2 or 3 entries.
    assert_eq!(page.next - 1, 16 * 39);
    assert_eq!(page.first, 1);
}

/// A page has at most `limit` entries and says where the log begins and ends, also when empty.
pub async fn tail_pages_and_names_the_ends(make: fn(u16) -> Making) {
    let fixture = make(1).await;
    let store = fixture.store();
    let empty = store.tail(SHARD, 1, 10).await.unwrap().value;
    assert_eq!((empty.entries.len(), empty.first, empty.next), (0, 1, 1));
    let mut write = creation("key", "");
    for number in 1..=10 {
        write.append(b(number.to_string()));
    }
    apply(&store, write).await;
    for (from, limit, ids) in [
        (0, 3, vec![1, 2, 3]),
        (1, 3, vec![1, 2, 3]),
        (9, 10, vec![9, 10]),
        (11, 10, vec![]),
        (99, 10, vec![]),
        (5, 0, vec![]),
    ] {
        let page = store.tail(SHARD, from, limit).await.unwrap().value;
        let found: Vec<_> = page.entries.iter().map(|entry| entry.id).collect();
        assert_eq!(found, ids, "from {from}, limit {limit}");
        for entry in page.entries {
            assert_eq!(entry.value, b(entry.id.to_string()));
        }
        assert_eq!((page.first, page.next), (1, 11));
    }
}

/// Trimming moves the beginning and nothing else; ids are never given out twice.
pub async fn trim_keeps_offsets(make: fn(u16) -> Making) {
    let mut fixture = make(1).await;
    let store = fixture.store();
    let entries = |from: u32, to: u32| {
        (from..=to).map(|n| Write::Append {
            value: b(n.to_string()),
        })
    };
    let mut write = creation("key", "");
    write.writes.extend(entries(1, 2_000));
    apply(&store, write).await;
    store.trim(SHARD, 1_501).await.unwrap();
    let page = store.tail(SHARD, 1, 2).await.unwrap().value;
    assert_eq!((page.first, page.next), (1_501, 2_001));
    assert_eq!(page.entries[0].id, 1_501);
    assert_eq!(page.entries[0].value, b("1501"));
    // Backwards is no change.
    store.trim(SHARD, 5).await.unwrap();
    assert_eq!(store.tail(SHARD, 1, 1).await.unwrap().value.first, 1_501);
    // All of it, and more than all of it.
    store.trim(SHARD, 9_999).await.unwrap();
    let page = store.tail(SHARD, 1, 2).await.unwrap().value;
    assert_eq!(
        (page.entries.len(), page.first, page.next),
        (0, 2_001, 2_001)
    );
    store.trim(Shard::Sys, 10).await.unwrap();
    let mut write = creation("after", "");
    write.append(b("after"));
    assert_eq!(apply(&store, write).await.last_log_id, Some(2_001));
    drop(store);
    if fixture.reopen(super::End::Closed).await {
        let page = fixture.store().tail(SHARD, 1, 5).await.unwrap().value;
        assert_eq!(
            (page.entries.len(), page.first, page.next),
            (1, 2_001, 2_002)
        );
        let page = fixture.store().tail(Shard::Sys, 1, 5).await.unwrap().value;
        assert_eq!((page.first, page.next), (1, 1));
    }
}
