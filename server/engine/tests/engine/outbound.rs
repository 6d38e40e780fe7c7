//! What waits to be sent to a worker: how much it may be, and why sessions end.

use bytes::Bytes;
use coretex_core::job::JobState;
use coretex_core::payload::{Content, Payload};
use coretex_engine::{SessionEnd, SubmitJob, ToWorker};

use crate::support::{Bench, hello, pass, request, secs, succeeded};

const MIB: usize = 1024 * 1024;

fn heavy(bytes: usize) -> SubmitJob {
    SubmitJob {
        input: Some(Payload {
            content: Content::Raw(Bytes::from(vec![7; bytes])),
            content_type: String::new(),
        }),
        ..request("job.heavy")
    }
}

async fn counted(bench: &Bench, ids: &[coretex_core::id::JobId], state: JobState) -> usize {
    let mut count = 0;
    for id in ids {
        count += usize::from(bench.state(id).await == state);
    }
    count
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_reads_slowly_is_sent_no_more_than_it_has_room_for() {
    let bench = Bench::new().await;
    let mut slow = bench.connect(hello("slow", &["job.heavy"], 64)).await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(bench.job_of(heavy(MIB)).await);
    }
    pass(secs(3)).await;
    assert_eq!(slow.inbox.len(), 4, "four mebibytes wait for it");
    assert_eq!(counted(&bench, &ids, JobState::Pending).await, 6);
    assert_eq!(bench.cause(&ids[9]).await, "all_workers_busy");

    // What it reads makes room, whether it answers or not.
    let first = slow.assignment().await;
    pass(secs(3)).await;
    assert_eq!(slow.inbox.len(), 4);
    assert_eq!(counted(&bench, &ids, JobState::Pending).await, 5);

    // Another worker gets what the slow one has no room for.
    let mut quick = bench.connect(hello("quick", &["job.heavy"], 64)).await;
    let taken = quick.assignments(5).await;
    assert_eq!(counted(&bench, &ids, JobState::Pending).await, 0);
    for attempt in taken {
        quick.finish(&attempt, succeeded()).await;
    }
    slow.finish(&first, succeeded()).await;
    for attempt in slow.assignments(4).await {
        slow.finish(&attempt, succeeded()).await;
    }
    for id in &ids {
        assert!(bench.ended(id, secs(5)).await.state == JobState::Succeeded);
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_input_larger_than_the_room_is_sent_alone() {
    let mut setup = crate::support::Setup::default();
    setup.limits.max_payload_bytes = 16 * MIB;
    let bench = Bench::with(setup).await;
    let mut worker = bench.connect(hello("w", &["job.heavy"], 8)).await;
    for _ in 0..3 {
        bench.submit(heavy(6 * MIB)).await;
    }
    pass(secs(2)).await;
    assert_eq!(worker.inbox.len(), 1);
    let mut seen = 0;
    while let Some(message) = worker.next_within(secs(3)).await {
        assert!(matches!(message, ToWorker::Assignment { .. }));
        drop(message);
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[tokio::test(start_paused = true)]
async fn small_inputs_are_bounded_by_slots_alone() {
    let bench = Bench::new().await;
    let worker = bench.connect(hello("w", &["job.heavy"], 100)).await;
    for _ in 0..100 {
        bench.submit(heavy(1_000)).await;
    }
    pass(secs(1)).await;
    assert_eq!(worker.inbox.len(), 100);
}

#[tokio::test(start_paused = true)]
async fn a_session_knows_why_it_has_ended() {
    let bench = Bench::new().await;
    let mut silent = bench.connect(hello("silent", &["job.a"], 1)).await;
    assert_eq!(silent.session.why_ended(), None);
    assert!(silent.is_closed(secs(32)).await);
    assert_eq!(silent.session.why_ended(), Some(SessionEnd::Silent));

    let mut old = bench.connect(hello("w", &["job.a"], 1)).await;
    bench.submit(request("job.a")).await;
    let attempt = old.assignment().await;
    let mut again = hello("w", &["job.a"], 1);
    again.running = vec![attempt];
    let _new = bench.connect(again).await;
    assert!(old.is_closed(secs(1)).await);
    assert_eq!(old.session.why_ended(), Some(SessionEnd::Superseded));
}
