//! Random batches, resends, trims and pauses, compared with a model of a few maps.
//!
//! The model knows nothing of groups, pages or purging. One family of records has a time to live:
//! when the engine forgets such a record is its own affair, so its commits are not compared.
//!
//! Over 500 lines because the model and what compares an engine with it change together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::{
    Batch, CommitError, CommitId, Limit, Member, Order, Precondition, Range, Rate, Version, Write,
};

use super::support::{SHARD, b};
use super::{End, Fixture, Making};

const KEYS: u8 = 4;
const INDEXES: u8 = 3;
const MEMBERS: u8 = 5;
const BUCKETS: u8 = 2;
const RATE: Rate = Rate {
    permits: 3,
    per: Duration::from_secs(1),
    burst: 4,
};
/// One permit in the model's unit: what three microseconds refill.
const PERMIT: u64 = 1_000_000;

/// What is said of a record.
#[derive(Clone, Copy, Debug)]
enum Claim {
    /// What is so.
    Right,
    /// There is none.
    Absent,
    /// It is at the version before its present one, or at the one that it had.
    Earlier,
}

/// A precondition, true or false by the state in which it is met.
#[derive(Clone, Debug)]
enum Check {
    Record { key: u8, claim: Claim },
    Size { index: u8, limit: u8, name: u8 },
    Bucket { bucket: u8, cost: u8 },
    Pointer { key: u8, right: bool },
}

#[derive(Clone, Debug)]
enum Change {
    Put { key: u8, value: u8 },
    PutShort { key: u8, value: u8, millis: u16 },
    Delete { key: u8 },
    Add { index: u8, member: u8 },
    Remove { index: u8, member: u8 },
    Append { value: u8 },
}

#[derive(Clone, Debug)]
enum Step {
    Commit {
        identity: u8,
        checks: Vec<Check>,
        changes: Vec<Change>,
    },
    Resend {
        back: usize,
    },
    Trim {
        before: u8,
    },
    Pause {
        millis: u16,
    },
    Reopen,
}

fn check_strategy() -> impl Strategy<Value = Check> {
    // Mostly true, or hardly any batch would apply.
    let right = prop::bool::weighted(0.9);
    let claim = prop_oneof![
        18 => Just(Claim::Right),
        1 => Just(Claim::Absent),
        1 => Just(Claim::Earlier),
    ];
    prop_oneof![
        (0..KEYS, claim).prop_map(|(key, claim)| Check::Record { key, claim }),
        (0..INDEXES, 0..6_u8, 0..4_u8).prop_map(|(index, limit, name)| Check::Size {
            index,
            limit,
            name
        }),
        (0..BUCKETS, 1..4_u8).prop_map(|(bucket, cost)| Check::Bucket { bucket, cost }),
        (0..KEYS, right).prop_map(|(key, right)| Check::Pointer { key, right }),
    ]
}

fn change_strategy() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => (0..KEYS, any::<u8>()).prop_map(|(key, value)| Change::Put { key, value }),
        1 => (0..2_u8, any::<u8>(), 1..900_u16)
            .prop_map(|(key, value, millis)| Change::PutShort { key, value, millis }),
        1 => (0..KEYS).prop_map(|key| Change::Delete { key }),
        4 => (0..INDEXES, 0..MEMBERS).prop_map(|(index, member)| Change::Add { index, member }),
        3 => (0..INDEXES, 0..MEMBERS).prop_map(|(index, member)| Change::Remove { index, member }),
        2 => any::<u8>().prop_map(|value| Change::Append { value }),
    ]
}

fn step_strategy() -> impl Strategy<Value = Step> {
    let commit = (
        0..KEYS,
        prop::collection::vec(check_strategy(), 0..3),
        prop::collection::vec(change_strategy(), 0..6),
    )
        .prop_map(|(identity, checks, changes)| Step::Commit {
            identity,
            checks,
            changes,
        });
    prop_oneof![
        20 => commit,
        4 => (0..12_usize).prop_map(|back| Step::Resend { back }),
        2 => (0..20_u8).prop_map(|before| Step::Trim { before }),
        2 => (0..1_500_u16).prop_map(|millis| Step::Pause { millis }),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Clone, Debug, Default)]
struct Kept {
    version: Version,
    value: Option<Bytes>,
    expires: Option<u64>,
    commits: Vec<CommitId>,
}

impl Kept {
    fn live(&self, now: u64) -> bool {
        self.value.is_some() && self.expires.is_none_or(|expires| expires > now)
    }
}

#[derive(Default)]
struct Model {
    /// Microseconds since the beginning.
    now: u64,
    records: BTreeMap<Bytes, Kept>,
    indexes: BTreeMap<Bytes, BTreeSet<Member>>,
    log: Vec<Bytes>,
    first: u64,
    /// Level and the time at which it was that.
    buckets: BTreeMap<Bytes, (u64, u64)>,
}

type Applied = (Version, Option<u64>, bool);

impl Model {
    fn kept(&self, key: &Bytes) -> Kept {
        self.records.get(key).cloned().unwrap_or_default()
    }

    fn commit(&mut self, batch: &Batch) -> Result<Applied, CommitError> {
        let mut levels = BTreeMap::new();
        let known = batch.preconditions.iter().any(|check| match check {
            Precondition::Absent { key } | Precondition::At { key, .. } => {
                self.kept(key).commits.contains(&batch.commit_id)
            }
            _ => false,
        });
        if known {
            return Ok((batch.commit_id.version(), None, true));
        }
        for check in &batch.preconditions {
            self.check(check, &mut levels)?;
        }
        let mut last = None;
        for write in &batch.writes {
            match write {
                Write::Put { key, value, ttl } => {
                    let expires = ttl.map(|ttl| self.now + ttl.as_micros() as u64);
                    self.write(key, batch.commit_id, Some(value.clone()), expires);
                }
                Write::Delete { key } => {
                    self.write(key, batch.commit_id, None, None);
                }
                Write::Add { index, member } => {
                    let members = self.indexes.entry(index.clone()).or_default();
                    members.insert(member.clone());
                }
                Write::Remove { index, member } => {
                    let members = self.indexes.entry(index.clone()).or_default();
                    members.remove(member);
                }
                Write::Append { value } => {
                    self.log.push(value.clone());
                    last = Some(self.log.len() as u64);
                }
            }
        }
        for (bucket, level) in levels {
            self.buckets.insert(bucket, (level, self.now));
        }
        Ok((batch.commit_id.version(), last, false))
    }

    fn write(&mut self, key: &Bytes, id: CommitId, value: Option<Bytes>, expires: Option<u64>) {
        let kept = self.records.entry(key.clone()).or_default();
        kept.version = id.version();
        kept.value = value;
        kept.expires = expires;
        kept.commits.push(id);
        if kept.commits.len() > 8 {
            kept.commits.remove(0);
        }
    }

    fn check(
        &self,
        check: &Precondition,
        levels: &mut BTreeMap<Bytes, u64>,
    ) -> Result<(), CommitError> {
        match check {
            Precondition::Absent { key } if self.kept(key).live(self.now) => {
                Err(CommitError::Conflict { key: key.clone() })
            }
            Precondition::At { key, version }
                if !self.kept(key).live(self.now) || self.kept(key).version != *version =>
            {
                Err(CommitError::Conflict { key: key.clone() })
            }
            Precondition::Pointer { key, value }
                if !self.kept(key).live(self.now)
                    || self.kept(key).value.as_ref() != Some(value) =>
            {
                Err(CommitError::PointerMoved { key: key.clone() })
            }
            Precondition::SizeBelow {
                index,
                limit,
                name_holders,
            } => {
                let members = self.indexes.get(index).cloned().unwrap_or_default();
                if (members.len() as u64) < *limit {
                    return Ok(());
                }
                Err(CommitError::LimitReached(Limit::Size {
                    index: index.clone(),
                    holders: members.into_iter().take(*name_holders).collect(),
                }))
            }
            Precondition::Bucket { key, cost, .. } => {
                let full = u64::from(RATE.burst) * PERMIT;
                let level = levels.get(key).copied().unwrap_or_else(|| {
                    self.buckets.get(key).map_or(full, |(level, at)| {
                        full.min(level + (self.now - at) * u64::from(RATE.permits))
                    })
                });
                let cost = u64::from(*cost) * PERMIT;
                if level < cost {
                    let wait = (cost - level).div_ceil(u64::from(RATE.permits));
                    return Err(CommitError::LimitReached(Limit::Bucket {
                        key: key.clone(),
                        // From the beginning; the comparison knows when that was.
                        at: coretex_core::time::Timestamp::from_micros(self.now + wait),
                    }));
                }
                levels.insert(key.clone(), level - cost);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Makes a batch of a step: what is right is known only now.
    fn batch(&self, id: CommitId, identity: u8, checks: &[Check], changes: &[Change]) -> Batch {
        let mut batch = Batch::new(SHARD, id);
        let key = |number: u8| b(format!("key/{number}"));
        let record = |number: u8, claim: Claim| {
            let kept = self.kept(&key(number));
            let key = key(number);
            let at = |key, version| Precondition::At { key, version };
            match (claim, kept.live(self.now)) {
                (Claim::Right, true) | (Claim::Earlier, false) => at(key, kept.version),
                (Claim::Right, false) | (Claim::Absent, _) => Precondition::Absent { key },
                (Claim::Earlier, true) => match kept.commits.iter().rev().nth(1) {
                    Some(earlier) => at(key, earlier.version()),
                    None => at(key, 1),
                },
            }
        };
        batch.preconditions.push(record(identity, Claim::Right));
        for check in checks {
            batch.preconditions.push(match check {
                Check::Record { key, claim } => record(*key, *claim),
                Check::Size { index, limit, name } => Precondition::SizeBelow {
                    index: b(format!("index/{index}")),
                    limit: u64::from(*limit),
                    name_holders: usize::from(*name),
                },
                Check::Bucket { bucket, cost } => Precondition::Bucket {
                    key: b(format!("bucket/{bucket}")),
                    rate: RATE,
                    cost: u32::from(*cost),
                },
                Check::Pointer { key: number, right } => Precondition::Pointer {
                    key: key(*number),
                    value: match (right, self.kept(&key(*number)).value) {
                        (true, Some(value)) => value,
                        _ => b("elsewhere"),
                    },
                },
            });
        }
        let mut written = BTreeSet::new();
        for change in changes {
            let write = match change {
                Change::Put { key: number, value } => Write::Put {
                    key: key(*number),
                    value: Bytes::from(vec![*value; usize::from(*value)]),
                    ttl: None,
                },
                Change::PutShort { key, value, millis } => Write::Put {
                    key: b(format!("short/{key}")),
                    value: Bytes::from(vec![*value; 3]),
                    ttl: Some(Duration::from_millis(u64::from(*millis))),
                },
                Change::Delete { key: number } => Write::Delete { key: key(*number) },
                Change::Add { index, member } => Write::Add {
                    index: b(format!("index/{index}")),
                    member: b(format!("member/{member}")),
                },
                Change::Remove { index, member } => Write::Remove {
                    index: b(format!("index/{index}")),
                    member: b(format!("member/{member}")),
                },
                Change::Append { value } => Write::Append {
                    value: Bytes::from(vec![*value; 5]),
                },
            };
            // One record is written once in a batch.
            if let Write::Put { key, .. } | Write::Delete { key } = &write
                && !written.insert(key.clone())
            {
                continue;
            }
            batch.writes.push(write);
        }
        if !written.contains(&key(identity)) {
            batch.writes.push(Write::Put {
                key: key(identity),
                value: b("identity"),
                ttl: None,
            });
        }
        batch
    }
}

/// Runs random histories against fresh stores.
pub fn check(make: fn(u16) -> Making) {
    let config = Config {
        cases: 48,
        failure_persistence: None,
        ..Config::default()
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let steps = prop::collection::vec(step_strategy(), 1..60);
    let result = TestRunner::new(config).run(&steps, |steps| {
        runtime.block_on(async { play(make(1).await, &steps).await });
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

async fn play(mut fixture: Box<dyn Fixture>, steps: &[Step]) {
    let exact = fixture.exact_time();
    let mut store = fixture.store();
    let beginning = store.time().await.unwrap();
    let mut model = Model {
        first: 1,
        ..Model::default()
    };
    let mut sent: Vec<Batch> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let batch = match step {
            Step::Commit {
                identity,
                checks,
                changes,
            } => {
                let id = CommitId(number as u128 + 1);
                let mut batch = model.batch(id, *identity, checks, changes);
                if !exact {
                    batch
                        .preconditions
                        .retain(|check| !matches!(check, Precondition::Bucket { .. }));
                }
                sent.push(batch.clone());
                Some(batch)
            }
            Step::Resend { back } => sent.iter().rev().nth(*back).cloned(),
            Step::Trim { before } => {
                let before = u64::from(*before);
                store.trim(SHARD, before).await.unwrap();
                model.first = model.first.max(before.min(model.log.len() as u64 + 1));
                None
            }
            Step::Pause { millis } => {
                if exact {
                    let pause = Duration::from_millis(u64::from(*millis));
                    fixture.advance(pause).await;
                    model.now += pause.as_micros() as u64;
                }
                None
            }
            Step::Reopen => {
                drop(store);
                fixture.reopen(End::Closed).await;
                store = fixture.store();
                None
            }
        };
        if let Some(batch) = batch {
            let expected = model.commit(&batch);
            let answer = store.commit(batch.clone()).await;
            compare(&batch, expected, answer, beginning, exact);
        }
        compare_state(&store, &model, exact).await;
    }
}

/// Compares two answers.
fn compare(
    batch: &Batch,
    expected: Result<Applied, CommitError>,
    answer: Result<crate::Committed, CommitError>,
    beginning: coretex_core::time::Timestamp,
    exact: bool,
) {
    match (expected, answer) {
        (Ok(expected), Ok(committed)) => {
            let found = (committed.version, committed.last_log_id, committed.resent);
            assert_eq!(found, expected, "{batch:?}");
        }
        (
            Err(CommitError::LimitReached(Limit::Bucket { key, at })),
            Err(CommitError::LimitReached(Limit::Bucket {
                key: named,
                at: told,
            })),
        ) => {
            assert_eq!(named, key);
            if exact {
                let wait = told.since(beginning).as_micros() as u64;
                assert_eq!(wait, at.as_micros(), "{batch:?}");
            }
        }
        (expected, answer) => {
            assert_eq!(answer.err(), expected.err(), "{batch:?}");
        }
    }
}

async fn compare_state(store: &std::sync::Arc<dyn crate::Store>, model: &Model, exact: bool) {
    let keys: Vec<Bytes> = (0..KEYS).map(|key| b(format!("key/{key}"))).collect();
    let found = store.get(SHARD, &keys).await.unwrap().value;
    for (key, found) in keys.iter().zip(found) {
        let kept = model.kept(key);
        let expected = kept.live(model.now).then(|| crate::Record {
            version: kept.version,
            value: kept.value.unwrap_or_default(),
            commits: kept.commits,
        });
        assert_eq!(found, expected, "{key:?}");
    }
    if exact {
        let keys = ["short/0", "short/1"].map(b);
        let found = store.get(SHARD, &keys).await.unwrap().value;
        for (key, found) in keys.iter().zip(found) {
            let kept = model.kept(key);
            let live = kept.live(model.now);
            let expected = kept
                .value
                .filter(|_| live)
                .map(|value| (kept.version, value));
            let found = found.map(|record| (record.version, record.value));
            assert_eq!(found, expected, "{key:?}");
        }
    }
    for index in (0..INDEXES).map(|index| b(format!("index/{index}"))) {
        let range = Range::all(index.clone());
        let expected = model.indexes.get(&index).cloned().unwrap_or_default();
        let size = store.count(SHARD, &range, u64::MAX).await.unwrap().value;
        assert_eq!(size, expected.len() as u64, "size of {index:?}");
        let ranges = [range];
        let found = store.range(SHARD, &ranges, 100, Order::Ascending).await;
        let expected: Vec<Member> = expected.into_iter().collect();
        assert_eq!(found.unwrap().value, [expected], "{index:?}");
    }
    let page = store.tail(SHARD, 0, 1_000).await.unwrap().value;
    let first = model.first as usize;
    let found: Vec<Bytes> = page.entries.into_iter().map(|entry| entry.value).collect();
    assert_eq!(found, model.log[first - 1..]);
    assert_eq!(
        (page.first, page.next),
        (model.first, model.log.len() as u64 + 1)
    );
}
