//! Tables and properties of queues.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const fn at(millis: u64) -> Tick {
    Tick::new(Duration::from_millis(millis))
}

fn key(tenant: &str, shape: u64, class: u8, accepted: u64, job: &str) -> ReadyKey {
    let priority = [Priority::Critical, Priority::Interactive, Priority::Batch][usize::from(class)];
    ReadyKey {
        tenant: TenantId::from_trusted(tenant),
        shape: Shape(shape),
        priority,
        accepted: Timestamp::from_micros(accepted),
        job_id: JobId::from_trusted(job),
    }
}

#[test]
fn a_queue_is_known_empty_after_an_empty_read_only() {
    let mut guard = QueueGuard::new();
    assert!(!guard.is_known_empty(at(0)));
    let read = guard.begin_read(at(0));
    assert!(!guard.is_known_empty(at(1)));
    guard.finish_read(read, true);
    assert!(guard.is_known_empty(at(2)));
    let read = guard.begin_read(at(3));
    guard.finish_read(read, false);
    assert!(!guard.is_known_empty(at(4)));
}

#[test]
fn an_add_during_the_read_spoils_it() {
    let mut guard = QueueGuard::new();
    let read = guard.begin_read(at(0));
    guard.added();
    guard.finish_read(read, true);
    assert!(!guard.is_known_empty(at(1)));
    // Also when the read began while the add was under way.
    guard.begin_add();
    let read = guard.begin_read(at(2));
    guard.finish_read(read, true);
    assert!(!guard.is_known_empty(at(3)));
    guard.end_add();
    assert!(!guard.is_known_empty(at(3)));
    guard.finish_read(read, true);
    assert!(!guard.is_known_empty(at(3)));
    let read = guard.begin_read(at(4));
    guard.finish_read(read, true);
    assert!(guard.is_known_empty(at(5)));
    guard.begin_add();
    assert!(!guard.is_known_empty(at(5)));
}

#[test]
fn an_empty_read_is_not_believed_for_long() {
    let mut guard = QueueGuard::new();
    let read = guard.begin_read(at(1_000));
    guard.finish_read(read, true);
    assert!(guard.is_known_empty(at(2_999)));
    assert!(!guard.is_known_empty(at(3_000)));
    // An older read that answers late does not make it older.
    let (old, new) = (guard.begin_read(at(3_000)), guard.begin_read(at(4_000)));
    guard.finish_read(new, true);
    guard.finish_read(old, true);
    assert!(guard.is_known_empty(at(5_999)));
}

#[test]
fn members_sort_in_serving_order_within_tenant_and_shape() {
    let keys = [
        key("t", 7, 0, 9, "z"),
        key("t", 7, 1, 3, "a"),
        key("t", 7, 1, 3, "b"),
        key("t", 7, 1, 4, "a"),
        key("t", 7, 2, 1, "a"),
        key("t", 8, 0, 0, "a"),
        key("t-", 0, 0, 0, "a"),
    ];
    let members: Vec<_> = keys.iter().map(ReadyKey::encode).collect();
    assert!(members.is_sorted());
}

#[test]
fn malformed_members_are_refused() {
    let good = key("t", 7, 1, 3, "a").encode();
    for length in 0..good.len() {
        assert_eq!(
            ReadyKey::decode(&good[..length]),
            Err(MalformedKey),
            "{length}"
        );
    }
    let mut bad = good.clone();
    bad[2 + 8] = 3;
    assert_eq!(ReadyKey::decode(&bad), Err(MalformedKey));
    let mut bad = good;
    bad[0] = 0;
    assert_eq!(ReadyKey::decode(&bad), Err(MalformedKey));
}

/// Walks `members` as the engine does: one member from each position on.
fn skip_scan(members: &BTreeSet<Vec<u8>>) -> Vec<(String, u64)> {
    let (mut from, mut heads) = (Vec::new(), Vec::new());
    while let Some(member) = members.range(from..).next() {
        let Ok(key) = ReadyKey::decode(member) else {
            break;
        };
        from = after_shape(&key.tenant, key.shape);
        heads.push((key.tenant.to_string(), key.shape.0));
    }
    heads
}

#[test]
fn the_block_moves_within_the_first_class_only() {
    let candidates: Vec<_> = (0..3)
        .map(|n| key("t", 0, 0, n, "c"))
        .chain((3..20).map(|n| key("t", 0, 1, n, "i")))
        .collect();
    // Three critical jobs, two slots: both blocks lie among them.
    assert_eq!(pick_block(&candidates, 2, 3, 0.0), 0..2);
    assert_eq!(pick_block(&candidates, 2, 3, 0.99), 1..3);
    // More slots than critical jobs: no offset, and the next class fills up.
    assert_eq!(pick_block(&candidates, 5, 3, 0.99), 0..5);
    let rest = &candidates[3..];
    assert_eq!(pick_block(rest, 4, 3, 0.5), 4..8);
    assert_eq!(pick_block(rest, 4, 3, 0.99), 8..12);
    assert_eq!(pick_block(rest, 4, 1, 0.99), 0..4);
    assert_eq!(pick_block(rest, 0, 3, 0.5), 0..0);
    assert_eq!(pick_block(&[], 4, 3, 0.5), 0..0);
}

fn any_key() -> impl Strategy<Value = ReadyKey> {
    let number = prop_oneof![0_u64..4, Just(u64::MAX), any::<u64>()];
    (
        "[a-c]{1,2}",
        number.clone(),
        0_u8..3,
        number,
        "[a-zA-Z0-9_:@\\[\\]-]{1,6}",
    )
        .prop_map(|(tenant, shape, class, accepted, job)| {
            key(&tenant, shape, class, accepted, &job)
        })
}

proptest! {
    #[test]
    fn members_round_trip_and_lie_under_their_prefixes(key in any_key()) {
        let member = key.encode();
        prop_assert_eq!(ReadyKey::decode(&member), Ok(key.clone()));
        prop_assert!(member.starts_with(&tenant_prefix(&key.tenant)));
        prop_assert!(member.starts_with(&shape_prefix(&key.tenant, key.shape)));
        prop_assert!(member < after_shape(&key.tenant, key.shape));
        prop_assert!(member < after_tenant(&key.tenant));
    }

    #[test]
    fn decoding_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Ok(key) = ReadyKey::decode(&bytes) {
            prop_assert_eq!(key.encode(), bytes);
        }
    }

    #[test]
    fn the_skip_scan_sees_every_tenant_and_shape_once(
        keys in proptest::collection::vec(any_key(), 0..40),
    ) {
        let members: BTreeSet<_> = keys.iter().map(ReadyKey::encode).collect();
        let heads = skip_scan(&members);
        let expected: BTreeSet<_> =
            keys.iter().map(|key| (key.tenant.to_string(), key.shape.0)).collect();
        prop_assert_eq!(heads.len(), expected.len());
        prop_assert_eq!(heads.into_iter().collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn merging_is_the_same_as_sorting(
        keys in proptest::collection::vec(any_key(), 0..40), limit in 0_usize..50,
    ) {
        let mut sorted = keys.clone();
        sorted.sort_by(ReadyKey::serving_order);
        let mut lists = std::collections::BTreeMap::<_, Vec<_>>::new();
        for key in sorted.clone() {
            lists.entry((key.tenant.clone(), key.shape)).or_default().push(key);
        }
        sorted.truncate(limit);
        let merged = merge_heads(lists.into_values().collect(), limit);
        let order = |keys: &[ReadyKey]| -> Vec<_> {
            keys.iter().map(|key| (key.priority.class(), key.accepted, key.job_id.clone())).collect()
        };
        prop_assert_eq!(order(&merged), order(&sorted));
    }

    #[test]
    fn a_claimer_tries_everything_once_and_never_passes_a_class_over(
        classes in proptest::collection::vec(0_u8..3, 0..60),
        free in 0_usize..10, replicas in 0_usize..5, fraction in 0.0..1.0,
    ) {
        let mut candidates: Vec<_> = classes
            .iter()
            .enumerate()
            .map(|(n, class)| key("t", 0, *class, n as u64, "j"))
            .collect();
        candidates.sort_by(ReadyKey::serving_order);
        let block = pick_block(&candidates, free, replicas, fraction);
        prop_assert!(block.end <= candidates.len());
        prop_assert_eq!(block.len(), free.min(candidates.len()));
        if let Some(last) = candidates[block.clone()].last() {
            // Whatever the block passes over is of no better class than anything in it.
            let first_class = candidates[0].priority;
            prop_assert!(block.start == 0 || last.priority == first_class);
        }
        let mut tried: Vec<_> = claim_order(&candidates, free, replicas, fraction).collect();
        prop_assert_eq!(&tried[..block.len()], &block.collect::<Vec<_>>()[..]);
        tried.sort_unstable();
        prop_assert_eq!(tried, (0..candidates.len()).collect::<Vec<_>>());
    }
}
