//! The layers around a store, in virtual time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failed step of a test should stop the test"
)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use coretex_store::conformance::{End, Fixture, Making, ManualClock, SeededIds};
use coretex_store::embedded::{EmbeddedOptions, EmbeddedStore, WriterMode};
use coretex_store::layers::{Fault, FaultRates, Faulty, Metered, Resend, ResendPolicy};
use coretex_store::{CommitError, Store, StoreError, store_conformance};
use tokio::time::Instant;

use common::{SHARD, b, creation};

fn engine(clock: Arc<ManualClock>) -> Arc<dyn Store> {
    let mut options = EmbeddedOptions::memory(clock, 1);
    options.writer = WriterMode::Inline;
    Arc::new(EmbeddedStore::open(options).unwrap())
}

/// A faulty store, and the same one with resending on top.
fn pair() -> (Arc<Faulty>, Resend) {
    let inner = engine(Arc::new(ManualClock::default()));
    let faulty = Arc::new(Faulty::new(inner, Arc::new(SeededIds::new(1))));
    let resend = Resend::new(faulty.clone(), ResendPolicy::default());
    (faulty, resend)
}

fn unknown() -> CommitError {
    CommitError::Unknown {
        reason: "injected".to_owned(),
    }
}

fn unavailable() -> CommitError {
    CommitError::Unavailable {
        reason: "injected".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_settled_exactly_once() {
    let (faulty, store) = pair();
    let overloaded = CommitError::Overloaded {
        retry_after: Duration::from_secs(2),
    };
    faulty.script([
        Fault::After,
        Fault::Before(unavailable()),
        Fault::Before(overloaded),
        Fault::Before(unknown()),
        Fault::None,
    ]);
    let start = Instant::now();
    let mut batch = creation("key", "value");
    batch.append(b("entry"));
    let version = batch.commit_id.version();
    let committed = store.commit(batch).await.unwrap();
    assert!(committed.resent);
    assert_eq!(committed.version, version);
    assert!(start.elapsed() > Duration::from_secs(2));
    assert_eq!(store.tail(SHARD, 1, 10).await.unwrap().value.next, 2);

    // Not applied the first time: then by the resend.
    faulty.script([Fault::Before(unknown()), Fault::None]);
    let committed = store.commit(creation("other", "value")).await.unwrap();
    assert!(!committed.resent);
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_not_sent_again() {
    let (faulty, store) = pair();
    faulty.script([Fault::Before(unavailable())]);
    let refused = store.commit(creation("key", "1")).await;
    assert_eq!(refused, Err(unavailable()));
    store.commit(creation("key", "2")).await.unwrap();
    let conflict = store.commit(creation("key", "3")).await;
    assert_eq!(conflict, Err(CommitError::Conflict { key: b("key") }));
    // A conflict settles an unknown outcome too: what was sent first was not applied.
    faulty.script([Fault::Before(unknown()), Fault::None]);
    let conflict = store.commit(creation("key", "4")).await;
    assert_eq!(conflict, Err(CommitError::Conflict { key: b("key") }));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_ends_in_unknown() {
    let (faulty, store) = pair();
    for fault in [
        vec![Fault::Before(unknown()); 100],
        vec![Fault::Stall],
        vec![Fault::StallAfter],
        vec![Fault::After, Fault::Stall],
    ] {
        faulty.script(fault);
        let start = Instant::now();
        let answer = store.commit(creation("key", "value")).await.unwrap_err();
        assert!(answer.outcome_unknown(), "{answer:?}");
        assert!(start.elapsed() <= ResendPolicy::default().deadline);
        assert!(start.elapsed() > Duration::from_secs(9));
        // What is left of the script is not for the next round.
        while store.commit(creation("key", "")).await == Err(unknown()) {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_arrives_late_is_applied_once_and_found() {
    let (faulty, store) = pair();
    faulty.script([Fault::Late(Duration::from_secs(60)), Fault::None]);
    let mut batch = creation("key", "value");
    batch.append(b("entry"));
    let committed = store.commit(batch.clone()).await.unwrap();
    assert!(!committed.resent, "the resend overtook the first send");
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(store.tail(SHARD, 1, 10).await.unwrap().value.next, 2);
    assert!(store.commit(batch).await.unwrap().resent);
}

#[tokio::test(start_paused = true)]
async fn outages_and_pauses_hold_every_call() {
    let (faulty, store) = pair();
    let store = Arc::new(store);
    faulty.take_down();
    let read = store.get(SHARD, &[b("key")]).await;
    assert!(matches!(read, Err(StoreError::Unavailable { .. })));
    assert!(store.time().await.is_err());
    assert_eq!(store.commit(creation("key", "")).await, Err(unavailable()));
    faulty.restore();
    assert!(store.get(SHARD, &[b("key")]).await.is_ok());
    faulty.pause();
    let paused = store.clone();
    let waiting = tokio::spawn(async move { paused.get(SHARD, &[b("key")]).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!waiting.is_finished());
    faulty.restore();
    assert!(waiting.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn rates_follow_their_seed() {
    async fn outcomes(seed: u64) -> Vec<String> {
        let inner = engine(Arc::new(ManualClock::default()));
        let faulty = Faulty::new(inner, Arc::new(SeededIds::new(seed)));
        faulty.rates(FaultRates {
            before: 0.2,
            after: 0.2,
            late: 0.1,
            delay: 0.2,
            longest_delay: Duration::from_millis(50),
        });
        let mut outcomes = Vec::new();
        for number in 0..200 {
            let batch = creation(&format!("key/{number}"), "");
            outcomes.push(match faulty.commit(batch).await {
                Ok(_) => "applied".to_owned(),
                Err(error) => error.to_string(),
            });
        }
        outcomes
    }
    let first = outcomes(5).await;
    assert_eq!(first, outcomes(5).await);
    assert_ne!(first, outcomes(6).await);
    for (outcome, at_least) in [("applied", 70), ("unavailable", 20), ("unknown", 30)] {
        let seen = first.iter().filter(|text| text.contains(outcome)).count();
        assert!(seen >= at_least, "{seen} {outcome}");
    }
}

/// All layers around an engine are a store like any other.
struct Wrapped {
    store: Arc<dyn Store>,
    clock: Arc<ManualClock>,
}

#[async_trait]
impl Fixture for Wrapped {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    fn exact_time(&self) -> bool {
        true
    }

    async fn reopen(&mut self, _end: End) -> bool {
        false
    }

    async fn keep_copy(&mut self) -> bool {
        false
    }

    async fn go_back(&mut self) {}
}

fn wrapped(shards: u16) -> Making {
    Box::pin(async move {
        let clock = Arc::new(ManualClock::default());
        let mut options = EmbeddedOptions::memory(clock.clone(), 1);
        options.shards = shards;
        let engine = Arc::new(EmbeddedStore::open(options).unwrap());
        let faulty = Arc::new(Faulty::new(engine, Arc::new(SeededIds::new(1))));
        let resend = Arc::new(Resend::new(faulty, ResendPolicy::default()));
        let store = Arc::new(Metered::new(resend));
        Box::new(Wrapped { store, clock }) as Box<dyn Fixture>
    })
}

store_conformance!(layered, crate::wrapped);
