//! Sessions: which are opened, when they end, and what becomes of old ones. Attempts of sessions
//! that break are in `adoption` and `losses`.

use coretex_core::id::LeaseId;
use coretex_core::job::JobState;
use coretex_engine::{AttemptRef, Error, FromWorker, Limits, ToWorker};

use crate::support::{
    Bench, Setup, Worker, admin, again, hello, id, millis, pass, request, secs, with_attempt,
};

#[tokio::test(start_paused = true)]
async fn a_silent_session_ends_and_its_attempts_are_lost_with_it() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = with_attempt(&bench).await;
    worker.beat_for(secs(20)).await;
    assert!(worker.inbox.try_recv().is_err());
    worker.beat().await;
    pass(secs(28)).await;
    worker.beat().await;
    pass(secs(29)).await;
    let shown = bench.engine.get_worker(&admin(), &wid("w")).await.unwrap();
    assert_eq!((shown.active_jobs, shown.connected), (1, true));
    assert_eq!(bench.job(&attempt.job_id).await.redispatches, 0);
    pass(secs(3)).await;
    assert!(worker.is_closed(millis(1)).await);
    // The time in which its worker might have come back has passed in silence.
    let gone = bench.engine.get_worker(&admin(), &wid("w")).await;
    assert!(matches!(gone, Err(Error::NotFound { .. })));
    let job = bench.job(&attempt.job_id).await;
    assert_eq!((job.state, job.redispatches), (JobState::Pending, 1));
    let worker = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.revoked, [attempt]);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_may_come_back_while_its_old_session_is_only_silent() {
    let bench = Bench::new().await;
    let (_silent, attempt) = with_attempt(&bench).await;
    pass(secs(25)).await;
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.kept, std::slice::from_ref(&attempt));
    worker.beat_for(secs(20)).await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.job(&attempt.job_id).await.redispatches, 0);
    bench.audit().await;
}

fn wid(name: &str) -> coretex_core::id::WorkerId {
    coretex_core::id::WorkerId::parse(name).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_old_half_open_connection_gets_nothing_more() {
    let bench = Bench::new().await;
    let (mut old, attempt) = with_attempt(&bench).await;
    let other = bench.job_of(request("job.a")).await;
    let unlisted = old.assignment().await;
    // The worker has noticed that its connection is dead, the server has not. It lists one of two.
    let mut new = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(new.session.welcome.kept, std::slice::from_ref(&attempt));
    for _ in 0..4 {
        bench.submit(request("job.a")).await;
    }
    // Three slots are free at the new one; nothing goes into the void.
    let more = new.assignments(3).await;
    assert!(old.is_closed(secs(1)).await, "the old connection is closed");
    for attempt in more.iter().chain([&attempt]) {
        assert!(new.succeed(attempt).await);
        if let Ok(ToWorker::Assignment { attempt, .. }) = new.inbox.try_recv() {
            assert!(new.succeed(&attempt).await);
        }
    }
    // What it did not list is lost after the window, not before.
    new.beat_for(secs(10)).await;
    assert!(bench.state(&other).await.is_held());
    new.beat_for(secs(8)).await;
    let again = loop {
        let attempt = new.assignment().await;
        if attempt.job_id == other {
            break attempt;
        }
        assert!(new.succeed(&attempt).await);
    };
    assert_eq!(again.attempt, 2);
    assert!(!new.succeed(&unlisted).await);
    assert!(new.succeed(&again).await);
    assert_eq!(bench.job(&other).await.redispatches, 1);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn two_workers_of_one_name_are_two_workers() {
    let bench = Bench::new().await;
    let mut one = bench.connect(hello("same", &["job.a"], 1)).await;
    let mut two = bench.connect(hello("same", &["job.a"], 1)).await;
    bench.submit(request("job.a")).await;
    bench.submit(request("job.a")).await;
    let (first, second) = (one.assignment().await, two.assignment().await);
    // Neither ends the other's attempt.
    two.cut().await;
    assert!(one.succeed(&first).await);
    let mut three = Worker::connect(&bench.engine, again("same", &[&second])).await;
    assert!(three.succeed(&second).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_never_reads_is_cut_with_bounded_memory() {
    let bench = Bench::with(Setup {
        limits: Limits {
            max_parallel_jobs: 10_000,
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let nobody = AttemptRef {
        tenant: coretex_core::id::TenantId::parse("acme").unwrap(),
        job_id: id("nobody"),
        attempt: 1,
        lease_id: LeaseId::new(1),
    };
    let mut sent = 0;
    loop {
        let message = FromWorker::Started(nobody.clone());
        if worker.session.receive(message).await.is_err() {
            break;
        }
        sent += 1;
        assert!(sent < 5_000, "never cut");
        if sent % 100 == 0 {
            pass(millis(300)).await;
        }
    }
    assert!(worker.inbox.len() <= 300, "{} messages", worker.inbox.len());
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn more_sessions_than_allowed_are_refused() {
    let bench = Bench::with(Setup {
        limits: Limits {
            max_sessions: 3,
            ..Limits::default()
        },
        ..Setup::default()
    })
    .await;
    let mut sessions = Vec::new();
    for number in 0..3 {
        sessions.push(
            bench
                .connect(hello(&format!("w{number}"), &["job.a"], 1))
                .await,
        );
    }
    let refused = bench
        .engine
        .open_session(&admin(), hello("x", &["job.a"], 1))
        .await;
    assert_eq!(
        refused.err(),
        Some(coretex_engine::Error::TooManyStreams { limit: 3 })
    );
    sessions.pop();
    bench.connect(hello("x", &["job.a"], 1)).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_makes_no_sense_is_refused() {
    let bench = Bench::new().await;
    let mut none = hello("w", &["job.a"], 1);
    none.topics.clear();
    let mut idle = hello("w", &["job.a"], 1);
    idle.max_parallel_jobs = 0;
    let mut greedy = hello("w", &["job.a"], 1);
    greedy.max_parallel_jobs = 10_001;
    let mut many = hello("w", &["job.a"], 1);
    many.topics = (0..300)
        .map(|n| crate::support::topic(&format!("job.t{n}")))
        .collect();
    for hello in [none, idle, greedy, many] {
        let refused = bench.engine.open_session(&admin(), hello).await;
        assert!(matches!(refused, Err(coretex_engine::Error::Invalid(_))));
    }
    assert_eq!(bench.engine.status(&admin()).await.unwrap().workers, 0);
    bench.audit().await;
}
