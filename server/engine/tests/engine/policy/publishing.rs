//! Bundles in the store: drafts, publishing, going back, and what every replica makes of it.
//!
//! Over 500 lines because its scenarios share their bundles and their steps.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use coretex_core::job::{Job, JobState};
use coretex_core::policy::Decision;
use coretex_engine::{
    Action, Caller, Engine, Error, Expected, PageRequest, Published, PutBundle, Signatures,
};
use coretex_store::layers::Fault;
use coretex_store::{Batch, CommitId, Shard, Store};

use crate::support::{ADMIN, Bench, Setup, admin, hello, millis, named, pass, request, secs};

pub(super) static SYSTEM: LazyLock<Caller> = LazyLock::new(|| Caller {
    system: true,
    ..admin()
});

pub(super) async fn bench() -> Bench {
    Bench::with(setup()).await
}

pub(super) fn setup() -> Setup {
    Setup {
        policy: Some(Signatures::default()),
        exclusive: false,
        ..Setup::default()
    }
}

pub(super) const ALLOW: &str = "version: 1\nrules:\n  - {id: all, decision: allow}\n";
pub(super) const DENY: &str =
    "version: 1\nrules:\n  - {id: none, decision: deny, reason: not today}\n";

pub(super) fn bundle(id: &str, content: &str) -> PutBundle {
    PutBundle {
        id: id.to_owned(),
        content: content.to_owned(),
        enabled: true,
        ..PutBundle::default()
    }
}

pub(super) async fn put(engine: &Engine, id: &str, content: &str) {
    let put = engine.put_bundle(&SYSTEM, bundle(id, content), Expected::Anything, false);
    put.await.unwrap();
}

/// Writes a bundle and puts it in force.
pub(super) async fn publish(engine: &Engine, id: &str, content: &str) -> Published {
    put(engine, id, content).await;
    // Snapshots stand in the order of their times.
    pass(millis(1)).await;
    let ids = [id.to_owned()];
    let published = engine.publish_bundles(&SYSTEM, &ids, "because", "", false);
    published.await.unwrap()
}

async fn verdict(bench: &Bench, engine: &Engine) -> Arc<Job> {
    let submitted = engine.submit_job(&ADMIN, request("job.a")).await.unwrap();
    bench.job(&submitted.answer.job.id).await
}

fn page(size: usize, token: &str) -> PageRequest {
    PageRequest {
        size,
        token: token.to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_bundle_nothing_runs_and_a_draft_changes_nothing() {
    let bench = bench().await;
    let denied = verdict(&bench, &bench.engine).await;
    assert_eq!(denied.state, JobState::Denied);
    let reason = &denied.decision.as_ref().unwrap().reason;
    assert!(!reason.is_empty());
    put(&bench.engine, "first", ALLOW).await;
    assert_eq!(verdict(&bench, &bench.engine).await.state, JobState::Denied);
    let listed = bench.engine.list_bundles(&SYSTEM, page(10, "")).await;
    assert!(!listed.unwrap().0[0].published);
    let published = publish(&bench.engine, "first", ALLOW).await;
    assert_ne!(published.snapshot_id, published.previous);
    let allowed = verdict(&bench, &bench.engine).await;
    assert_eq!(allowed.state, JobState::Pending);
    let decision = allowed.decision.as_ref().unwrap();
    assert_eq!(decision.rule_id, "all");
    assert_eq!(decision.policy_snapshot, published.snapshot_id);
    let found = bench.engine.get_bundle(&SYSTEM, "first", false).await;
    assert!(found.unwrap().published);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn only_the_system_writes_and_reads_the_policy() {
    let bench = bench().await;
    let engine = &bench.engine;
    let denied = Error::TenantNotAllowed;
    let put = engine.put_bundle(&ADMIN, bundle("b", ALLOW), Expected::Anything, false);
    assert_eq!(put.await.unwrap_err(), denied);
    let published = engine.publish_bundles(&ADMIN, &[], "", "", false);
    assert_eq!(published.await.unwrap_err(), denied);
    let back = engine.rollback_policy(&ADMIN, "s", "", "");
    assert_eq!(back.await.unwrap_err(), denied);
    assert_eq!(engine.reload_policy(&ADMIN).await.unwrap_err(), denied);
    let listed = engine.list_bundles(&ADMIN, page(10, "")).await;
    assert_eq!(listed.map(|_| ()).unwrap_err(), denied);
    let snapshot = engine.get_snapshot(&ADMIN, "", "").await;
    assert_eq!(snapshot.map(|_| ()).unwrap_err(), denied);
    let deleted = engine.delete_bundle(&ADMIN, "b", Expected::Anything).await;
    assert_eq!(deleted.unwrap_err(), denied);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_bundle_is_told_with_its_place_and_nothing_is_stored() {
    let bench = bench().await;
    let content = "version: 1\nrules:\n  - id: a\n    decision: alow\n    matsch: {}\n";
    let put = bench
        .engine
        .put_bundle(&SYSTEM, bundle("b", content), Expected::Anything, false);
    let Err(Error::Invalid(violations)) = put.await else {
        panic!("taken");
    };
    assert!(violations.len() >= 2, "{violations:?}");
    for violation in &violations {
        assert_eq!(violation.field, "bundle.content");
        let place = violation.description.split(':').next().unwrap();
        assert!(matches!(place, "4" | "5"), "{violation:?}");
    }
    for (id, content) in [("base-b", ALLOW), ("b", &"#".repeat(1024 * 1024 + 1))] {
        let put = bench
            .engine
            .put_bundle(&SYSTEM, bundle(id, content), Expected::Anything, false);
        assert!(matches!(put.await, Err(Error::Invalid(_))));
    }
    let listed = bench.engine.list_bundles(&SYSTEM, page(10, "")).await;
    assert!(listed.unwrap().0.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_etag_tells_who_was_first() {
    let bench = bench().await;
    let engine = &bench.engine;
    let write = |content: &str, etag| {
        let put = bundle("b", content);
        async move { engine.put_bundle(&SYSTEM, put, etag, false).await }
    };
    let first = write(ALLOW, Expected::Nothing).await.unwrap();
    let again = write(DENY, Expected::Nothing).await.unwrap_err();
    let current = Some(first.version.to_string());
    assert_eq!(again, Error::EtagMismatch { current });
    let second = write(DENY, Expected::Etag(first.version.to_string()))
        .await
        .unwrap();
    assert_ne!(second.version, first.version);
    assert!(
        write(ALLOW, Expected::Etag(first.version.to_string()))
            .await
            .is_err()
    );
    let missing = engine.put_bundle(
        &SYSTEM,
        bundle("c", ALLOW),
        Expected::Etag("7".to_owned()),
        false,
    );
    assert_eq!(
        missing.await.unwrap_err(),
        Error::EtagMismatch { current: None }
    );
    // Of many that read the same, one wins.
    let mut tries = tokio::task::JoinSet::new();
    for n in 0..16 {
        let engine = engine.clone();
        let content = format!("{ALLOW}# {n}\n");
        tries.spawn(async move {
            let etag = Expected::Etag(second.version.to_string());
            engine
                .put_bundle(&SYSTEM, bundle("b", &content), etag, false)
                .await
        });
    }
    let outcomes = tries.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bundle_in_force_is_deleted_only_after_it_was_published_disabled() {
    let bench = bench().await;
    let engine = &bench.engine;
    publish(engine, "b", ALLOW).await;
    let kept = engine.delete_bundle(&SYSTEM, "b", Expected::Anything).await;
    assert!(matches!(kept, Err(Error::BundleInForce { .. })));
    let off = PutBundle {
        enabled: false,
        ..bundle("b", ALLOW)
    };
    engine
        .put_bundle(&SYSTEM, off, Expected::Anything, false)
        .await
        .unwrap();
    assert_eq!(verdict(&bench, engine).await.state, JobState::Pending);
    engine
        .publish_bundles(&SYSTEM, &[], "", "", false)
        .await
        .unwrap();
    assert_eq!(verdict(&bench, engine).await.state, JobState::Denied);
    engine
        .delete_bundle(&SYSTEM, "b", Expected::Anything)
        .await
        .unwrap();
    for missing in [
        engine
            .delete_bundle(&SYSTEM, "b", Expected::Anything)
            .await
            .unwrap_err(),
        engine
            .get_bundle(&SYSTEM, "b", false)
            .await
            .map(|_| ())
            .unwrap_err(),
    ] {
        assert!(matches!(missing, Error::NotFound { .. }));
    }
    let unknown = ["b".to_owned()];
    let published = engine
        .publish_bundles(&SYSTEM, &unknown, "", "", false)
        .await;
    assert!(matches!(published, Err(Error::NotFound { .. })));
}

#[tokio::test(start_paused = true)]
async fn an_earlier_policy_comes_back_and_every_change_is_on_record() {
    let bench = bench().await;
    let engine = &bench.engine;
    let first = publish(engine, "b", ALLOW).await;
    let second = publish(engine, "b", DENY).await;
    assert_eq!(second.previous, first.snapshot_id);
    assert_eq!(verdict(&bench, engine).await.state, JobState::Denied);
    let id = first.snapshot_id.clone();
    let back = engine
        .rollback_policy(&SYSTEM, &id, "too strict", "")
        .await
        .unwrap();
    assert_eq!(
        (&back.snapshot_id, &back.previous),
        (&id, &second.snapshot_id)
    );
    assert_eq!(verdict(&bench, engine).await.state, JobState::Pending);
    let missing = engine.rollback_policy(&SYSTEM, "nothing", "", "").await;
    assert!(matches!(missing, Err(Error::NotFound { .. })));
    let (entries, next) = engine
        .list_policy_audit(&SYSTEM, page(2, ""))
        .await
        .unwrap();
    assert_eq!(entries[0].action, Action::Rollback);
    assert_eq!(
        (entries[0].note.as_str(), entries[0].sequence),
        ("too strict", 4)
    );
    assert_eq!(
        (&entries[0].before, &entries[0].after),
        (&second.snapshot_id, &id)
    );
    assert_eq!(entries[1].bundle_ids, ["b"]);
    let (rest, next) = engine
        .list_policy_audit(&SYSTEM, page(10, &next))
        .await
        .unwrap();
    let sequences: Vec<u64> = rest.iter().map(|entry| entry.sequence).collect();
    assert_eq!((sequences.as_slice(), next.as_str()), (&[2, 1][..], ""));
    let (snapshots, next) = engine.list_snapshots(&SYSTEM, page(2, "")).await.unwrap();
    let ids: Vec<&String> = snapshots.iter().map(|one| &one.id).collect();
    assert_eq!(ids, [&second.snapshot_id, &first.snapshot_id]);
    assert_eq!(
        snapshots.iter().map(|one| one.current).collect::<Vec<_>>(),
        [false, true]
    );
    let (snapshots, next) = engine
        .list_snapshots(&SYSTEM, page(2, &next))
        .await
        .unwrap();
    assert_eq!((snapshots.len(), next.as_str()), (1, ""));
    let (found, _) = engine
        .get_snapshot(&SYSTEM, &second.snapshot_id, "")
        .await
        .unwrap();
    assert_eq!(found.bundles[0].content.as_deref(), Some(DENY));
}

#[tokio::test(start_paused = true)]
async fn the_same_key_publishes_once() {
    let bench = bench().await;
    let engine = &bench.engine;
    put(engine, "b", ALLOW).await;
    let first = engine
        .publish_bundles(&SYSTEM, &[], "n", "k", false)
        .await
        .unwrap();
    put(engine, "b", DENY).await;
    let again = engine
        .publish_bundles(&SYSTEM, &[], "n", "k", false)
        .await
        .unwrap();
    assert!(again.replayed && !first.replayed);
    assert_eq!(again.snapshot_id, first.snapshot_id);
    assert_eq!(verdict(&bench, engine).await.state, JobState::Pending);
    let other = engine.publish_bundles(&SYSTEM, &[], "m", "k", false).await;
    assert!(matches!(other, Err(Error::IdempotencyKeyReused { .. })));
    let only = engine
        .publish_bundles(&SYSTEM, &[], "n", "", true)
        .await
        .unwrap();
    assert_ne!(only.snapshot_id, first.snapshot_id);
    assert_eq!(verdict(&bench, engine).await.state, JobState::Pending);
    let (entries, _) = engine
        .list_policy_audit(&SYSTEM, page(10, ""))
        .await
        .unwrap();
    assert_eq!(entries.len(), 2, "{entries:?}");
}

/// Of three replicas one hears no doorbell. When publishing has returned, none of them accepts or
/// hands out anything under the policy before.
#[tokio::test(start_paused = true)]
async fn after_a_publish_no_replica_goes_on_under_the_policy_before() {
    let bench = bench().await;
    let (near, _tap) = bench.another().await.unwrap();
    let (deaf, _deaf) = bench.apart().await.unwrap();
    let engines = [bench.engine.clone(), near, deaf];
    let old = publish(&engines[0], "b", ALLOW).await.snapshot_id;
    pass(secs(3)).await;
    for round in 0..6 {
        let content = if round % 2 == 0 { DENY } else { ALLOW };
        let state = if round % 2 == 0 {
            JobState::Denied
        } else {
            JobState::Pending
        };
        let published = publish(&engines[round % 3], "b", content).await;
        for engine in &engines {
            let job = verdict(&bench, engine).await;
            assert_eq!(job.state, state, "round {round}");
            let decision = job.decision.as_ref().unwrap();
            assert_eq!(decision.policy_snapshot, published.snapshot_id);
        }
    }
    // What waits is judged again by whoever hands it out.
    let waiting = engines[2]
        .submit_job(&ADMIN, named("job.late", "late"))
        .await
        .unwrap();
    assert_eq!(waiting.answer.job.state, JobState::Pending);
    publish(&engines[0], "b", DENY).await;
    let mut worker =
        crate::support::Worker::connect(&engines[2], hello("w", &["job.late"], 1)).await;
    worker.quiet(secs(5)).await;
    let job = bench.job(&waiting.answer.job.id).await;
    assert_eq!(job.state, JobState::Denied);
    assert_eq!(job.decisions.last().unwrap().policy_snapshot, old);
    bench.audit().await;
}

/// Whoever stops after the head was written leaves the pointers to the others; before, nothing has
/// happened.
#[tokio::test(start_paused = true)]
async fn a_publish_that_breaks_off_anywhere_is_done_or_not() {
    let unavailable = || coretex_store::CommitError::Unavailable {
        reason: "injected".to_owned(),
    };
    // The draft is written; then come its content, the head and the pointer.
    for step in 0..4 {
        for fault in [Fault::Before(unavailable()), Fault::After] {
            let bench = Bench::with(Setup {
                resend: false,
                ..setup()
            })
            .await;
            let (other, _tap) = bench.apart().await.unwrap();
            publish(&bench.engine, "b", ALLOW).await;
            pass(secs(2)).await;
            put(&bench.engine, "b", DENY).await;
            let mut faults = vec![Fault::None; step];
            faults.push(fault.clone());
            bench.faulty.script(faults);
            let published = bench
                .engine
                .publish_bundles(&SYSTEM, &[], "", "", false)
                .await;
            bench.kill();
            pass(secs(3)).await;
            let (entries, _) = other
                .list_policy_audit(&SYSTEM, page(10, ""))
                .await
                .unwrap();
            let done = entries.len() == 3;
            assert!(done || published.is_err(), "step {step}: lost");
            let submitted = other.submit_job(&ADMIN, request("job.a")).await.unwrap();
            let state = submitted.answer.job.state;
            let expected = if done {
                JobState::Denied
            } else {
                JobState::Pending
            };
            assert_eq!(state, expected, "step {step}, {fault:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_many_that_publish_at_once_each_is_on_record_and_one_is_in_force() {
    let bench = bench().await;
    let (other, _tap) = bench.apart().await.unwrap();
    let engines = [bench.engine.clone(), other];
    for n in 0..8 {
        put(&bench.engine, &format!("b{n}"), &format!("{ALLOW}# {n}\n")).await;
    }
    let mut tries = tokio::task::JoinSet::new();
    for n in 0..8 {
        let engine = engines[n % 2].clone();
        tries.spawn(async move {
            let ids = [format!("b{n}")];
            engine.publish_bundles(&SYSTEM, &ids, "", "", false).await
        });
    }
    for outcome in tries.join_all().await {
        outcome.unwrap();
    }
    let (entries, _) = bench
        .engine
        .list_policy_audit(&SYSTEM, page(20, ""))
        .await
        .unwrap();
    assert_eq!(entries.len(), 9);
    for pair in entries.windows(2) {
        assert_eq!(pair[0].before, pair[1].after, "{entries:?}");
    }
    let (snapshot, _) = bench.engine.get_snapshot(&SYSTEM, "", "").await.unwrap();
    assert_eq!(
        (snapshot.bundles.len(), &snapshot.id),
        (8, &entries[0].after)
    );
    for engine in &engines {
        let job = verdict(&bench, engine).await;
        assert_eq!(job.decision.as_ref().unwrap().policy_snapshot, snapshot.id);
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_cannot_be_loaded_lets_jobs_wait() {
    let mut bench = bench().await;
    publish(&bench.engine, "b", ALLOW).await;
    let (snapshot, _) = bench.engine.get_snapshot(&SYSTEM, "", "").await.unwrap();
    let key = format!("bundle-content/{}", snapshot.bundles[0].digest);
    overwrite(&bench, &key, "version: 1\n# forged\n").await;
    bench.crash().await;
    let job = verdict(&bench, &bench.engine).await;
    assert_eq!(job.state, JobState::Pending);
    assert!(job.judge_at.is_some() && job.decision.is_none());
    assert_eq!(bench.cause(&job.id).await, "undecided");
    // Mended, it goes on by itself.
    overwrite(&bench, &key, ALLOW).await;
    pass(secs(40)).await;
    let job = bench.job(&job.id).await;
    assert_eq!(job.decision.as_ref().unwrap().decision, Decision::Allow);
    assert_eq!(bench.cause(&job.id).await, "no_workers");
    bench.audit().await;
}

/// Writes a document behind the engine's back.
async fn overwrite(bench: &Bench, key: &str, text: &str) {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let found = bench.base.get(Shard::Sys, std::slice::from_ref(&key)).await;
    let version = found.unwrap().value[0].as_ref().unwrap().version;
    let mut batch = Batch::new(Shard::Sys, CommitId(u128::from(version) + 1));
    batch.replace(key, version, Bytes::copy_from_slice(text.as_bytes()));
    bench.base.commit(batch).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_policy_survives_restarts_and_a_store_that_is_away() {
    let mut bench = bench().await;
    let published = publish(&bench.engine, "b", ALLOW).await;
    bench.crash().await;
    let job = verdict(&bench, &bench.engine).await;
    let decision = job.decision.as_ref().unwrap();
    assert_eq!(decision.policy_snapshot, published.snapshot_id);
    bench.faulty.take_down();
    pass(secs(20)).await;
    let refused = bench.engine.submit_job(&ADMIN, request("job.a")).await;
    assert!(refused.is_err());
    bench.faulty.restore();
    pass(secs(5)).await;
    assert_eq!(
        verdict(&bench, &bench.engine).await.state,
        JobState::Pending
    );
}

#[tokio::test(start_paused = true)]
async fn old_snapshots_go_and_what_others_use_of_them_stays() {
    let bench = bench().await;
    let engine = &bench.engine;
    publish(
        engine,
        "stays",
        "version: 1\nrules: [{id: s, decision: allow}]\n",
    )
    .await;
    for n in 0..120 {
        publish(engine, "b", &format!("{ALLOW}# {n}\n")).await;
    }
    let mut kept = 0;
    let mut token = String::new();
    loop {
        let (snapshots, next) = engine
            .list_snapshots(&SYSTEM, page(1_000, &token))
            .await
            .unwrap();
        for snapshot in &snapshots {
            kept += 1;
            // Every one that is kept is whole.
            engine
                .get_snapshot(&SYSTEM, &snapshot.id, "")
                .await
                .unwrap();
        }
        token = next;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(kept, 100);
    let sys = bench.names.keys(Shard::Sys);
    let mut contents = 0;
    for key in sys.iter().filter(|key| key.starts_with(b"bundle-content/")) {
        let found = bench
            .base
            .get(Shard::Sys, std::slice::from_ref(key))
            .await
            .unwrap();
        contents += usize::from(found.value[0].is_some());
    }
    assert_eq!(contents, 101);
}

#[tokio::test(start_paused = true)]
async fn a_change_under_way_elsewhere_does_not_hold_up_a_submit() {
    let bench = bench().await;
    publish(&bench.engine, "b", ALLOW).await;
    let (other, _tap) = bench.apart().await.unwrap();
    pass(secs(2)).await;
    put(&other, "b", &format!("{ALLOW}# again\n")).await;
    let publishing = other.publish_bundles(&SYSTEM, &[], "", "", false);
    let submits = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..50 {
            let begun = tokio::time::Instant::now();
            bench
                .engine
                .submit_job(&ADMIN, request("job.a"))
                .await
                .unwrap();
            slowest = slowest.max(begun.elapsed());
            pass(millis(1)).await;
        }
        slowest
    };
    let (published, slowest) = tokio::join!(publishing, submits);
    published.unwrap();
    assert!(slowest < millis(500), "{slowest:?}");
}
