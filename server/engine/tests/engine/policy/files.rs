//! Bundles from files beside the server.

use coretex_core::job::JobState;
use coretex_engine::{Action, BaseBundle, Engine, PageRequest};

use super::publishing::{ALLOW, DENY, SYSTEM, bench, publish};
use crate::support::{ADMIN, pass, request, secs};

fn file(name: &str, content: &str) -> BaseBundle {
    BaseBundle {
        name: name.to_owned(),
        content: Ok(content.to_owned()),
        signature: String::new(),
    }
}

async fn state(engine: &Engine) -> JobState {
    let submitted = engine.submit_job(&ADMIN, request("job.a")).await.unwrap();
    submitted.answer.job.state
}

async fn changes(engine: &Engine) -> Vec<Action> {
    let page = PageRequest {
        size: 100,
        token: String::new(),
    };
    let (entries, _) = engine.list_policy_audit(&SYSTEM, page).await.unwrap();
    entries.iter().map(|entry| entry.action).collect()
}

#[tokio::test(start_paused = true)]
async fn files_are_in_force_beside_what_was_published_and_follow_their_changes() {
    let bench = bench().await;
    let engine = &bench.engine;
    assert_eq!(state(engine).await, JobState::Denied);
    engine
        .set_base_bundles(vec![file("a", ALLOW)])
        .await
        .unwrap();
    assert_eq!(state(engine).await, JobState::Pending);
    let found = engine.get_bundle(&SYSTEM, "base-a", true).await.unwrap();
    assert!(found.base && found.published);
    // The strictest of all decides.
    publish(engine, "own", DENY).await;
    assert_eq!(state(engine).await, JobState::Denied);
    publish(engine, "own", ALLOW).await;
    engine
        .set_base_bundles(vec![file("a", DENY)])
        .await
        .unwrap();
    assert_eq!(state(engine).await, JobState::Denied);
    engine.set_base_bundles(Vec::new()).await.unwrap();
    assert_eq!(state(engine).await, JobState::Pending);
    let count = changes(engine).await.len();
    engine.set_base_bundles(Vec::new()).await.unwrap();
    pass(secs(5)).await;
    assert_eq!(changes(engine).await.len(), count, "nothing has changed");
}

#[tokio::test(start_paused = true)]
async fn a_bad_file_takes_neither_the_good_ones_nor_its_last_good_content_down() {
    let bench = bench().await;
    let engine = &bench.engine;
    let good = vec![file("a", ALLOW), file("b", DENY)];
    engine.set_base_bundles(good).await.unwrap();
    assert_eq!(state(engine).await, JobState::Denied);
    let unread = BaseBundle {
        content: Err("permission denied".to_owned()),
        ..file("b", "")
    };
    for bad in [file("b", "version: 1\nrules: 7\n"), unread] {
        engine
            .set_base_bundles(vec![file("a", ALLOW), bad])
            .await
            .unwrap();
        assert_eq!(
            state(engine).await,
            JobState::Denied,
            "its rules are still there"
        );
        let problems = engine.policy_problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("b: "), "{problems:?}");
    }
    // A good one beside a bad one changes.
    let bad = file("b", "nonsense: [");
    engine
        .set_base_bundles(vec![file("a", DENY), bad.clone()])
        .await
        .unwrap();
    let found = engine.get_bundle(&SYSTEM, "base-a", true).await.unwrap();
    assert_eq!(found.content.as_deref(), Some(DENY));
    engine
        .set_base_bundles(vec![file("a", ALLOW), file("b", ALLOW)])
        .await
        .unwrap();
    assert!(engine.policy_problems().is_empty());
    assert_eq!(state(engine).await, JobState::Pending);
}

#[tokio::test(start_paused = true)]
async fn going_back_counts_until_the_files_change_or_somebody_reloads() {
    let mut bench = bench().await;
    bench
        .engine
        .set_base_bundles(vec![file("a", ALLOW)])
        .await
        .unwrap();
    let old = bench
        .engine
        .get_snapshot(&SYSTEM, "", "")
        .await
        .unwrap()
        .0
        .id;
    bench
        .engine
        .set_base_bundles(vec![file("a", DENY)])
        .await
        .unwrap();
    let back = bench.engine.rollback_policy(&SYSTEM, &old, "", "").await;
    back.unwrap();
    pass(secs(5)).await;
    assert_eq!(state(&bench.engine).await, JobState::Pending);
    // Also after a restart with the same files.
    bench.crash().await;
    pass(secs(40)).await;
    bench
        .engine
        .set_base_bundles(vec![file("a", DENY)])
        .await
        .unwrap();
    pass(secs(5)).await;
    assert_eq!(state(&bench.engine).await, JobState::Pending);
    bench.engine.reload_policy(&SYSTEM).await.unwrap();
    assert_eq!(state(&bench.engine).await, JobState::Denied);
}

#[tokio::test(start_paused = true)]
async fn the_files_of_the_owner_of_the_shard_count() {
    let bench = bench().await;
    let (other, _tap) = bench.another().await.unwrap();
    bench
        .engine
        .set_base_bundles(vec![file("a", ALLOW)])
        .await
        .unwrap();
    other.set_base_bundles(vec![file("a", DENY)]).await.unwrap();
    pass(secs(5)).await;
    assert_eq!(state(&other).await, JobState::Pending);
    // Its successor brings its own.
    bench.kill();
    pass(secs(60)).await;
    assert_eq!(state(&other).await, JobState::Denied);
}
