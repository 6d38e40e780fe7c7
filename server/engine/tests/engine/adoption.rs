//! Sessions that break, and what becomes of their attempts.

use coretex_core::id::LeaseId;
use coretex_core::job::history::EventType;
use coretex_core::job::{JobState, WorkerLossPolicy};
use coretex_engine::{AttemptRef, FromWorker, Hello, Limits, ToWorker};
use coretex_store::layers::Fault;

use crate::support::{
    ADMIN, Bench, Setup, Worker, admin, hello, id, millis, named, pass, request, secs, succeeded,
    with,
};

fn again(worker: &str, running: &[&AttemptRef]) -> Hello {
    Hello {
        running: running.iter().map(|one| (*one).clone()).collect(),
        ..hello(worker, &["job.a"], 4)
    }
}

async fn with_attempt(bench: &Bench) -> (Worker, AttemptRef) {
    let mut worker = bench.connect(hello("w", &["job.a"], 4)).await;
    bench.submit(request("job.a")).await;
    let attempt = worker.assignment().await;
    worker.started(&attempt).await;
    (worker, attempt)
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_comes_back_keeps_its_attempts() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = with_attempt(&bench).await;
    for round in 0..20 {
        worker.cut().await;
        pass(secs(14)).await;
        worker = bench.connect(again("w", &[&attempt])).await;
        assert_eq!(worker.session.welcome.kept, std::slice::from_ref(&attempt));
        pass(millis(300)).await;
        let job = bench.job(&attempt.job_id).await;
        assert_eq!(
            (job.attempt, job.redispatches, job.failures),
            (1, 0, 0),
            "round {round}"
        );
    }
    assert!(worker.succeed(&attempt).await);
    let job = bench.job(&attempt.job_id).await;
    assert_eq!(job.state, JobState::Succeeded);
    assert_eq!(job.attempts.iter().len(), 1);
    let adopted = job
        .events
        .iter()
        .filter(|event| event.kind == EventType::Adopted)
        .count();
    assert_eq!(adopted, 20);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_server_takes_the_attempts_over() {
    let mut bench = Bench::new().await;
    let (_worker, attempt) = with_attempt(&bench).await;
    pass(secs(1)).await;
    bench.crash().await;
    pass(secs(10)).await;
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.kept, std::slice::from_ref(&attempt));
    worker.beat_for(secs(30)).await;
    assert!(worker.inbox.try_recv().is_err());
    assert!(worker.succeed(&attempt).await);
    let job = bench.job(&attempt.job_id).await;
    assert_eq!(
        (job.state, job.attempt, job.redispatches),
        (JobState::Succeeded, 1, 0)
    );
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_orderly_restart_loses_nothing_either() {
    let mut bench = Bench::new().await;
    let (mut worker, attempt) = with_attempt(&bench).await;
    let engine = bench.engine.clone();
    let drain = tokio::spawn(async move { engine.drain(secs(5)).await });
    assert!(matches!(worker.next().await, ToWorker::Drain { .. }));
    worker.cut().await;
    drain.await.unwrap();
    bench.crash().await;
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.kept, std::slice::from_ref(&attempt));
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.job(&attempt.job_id).await.redispatches, 0);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_result_may_come_on_another_connection_without_a_listing() {
    let mut bench = Bench::new().await;
    let (worker, attempt) = with_attempt(&bench).await;
    worker.cut().await;
    let mut worker = bench.connect(again("w", &[])).await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.state(&attempt.job_id).await, JobState::Succeeded);
    // Also at a server that has started since.
    worker.cut().await;
    let (_worker, attempt) = with_attempt(&bench).await;
    bench.crash().await;
    let mut worker = bench.connect(again("w", &[])).await;
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.job(&attempt.job_id).await.redispatches, 0);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn only_exact_leases_are_kept() {
    let bench = Bench::new().await;
    let (worker, attempt) = with_attempt(&bench).await;
    worker.cut().await;
    let wrong = AttemptRef {
        lease_id: LeaseId::new(7),
        ..attempt.clone()
    };
    let number = AttemptRef {
        attempt: 9,
        ..attempt.clone()
    };
    let nobody = AttemptRef {
        job_id: id("nobody"),
        ..attempt.clone()
    };
    let listed = [&wrong, &number, &nobody];
    let worker = bench.connect(again("w", &listed)).await;
    assert_eq!(worker.session.welcome.kept, []);
    assert_eq!(worker.session.welcome.revoked.len(), 3);
    worker.cut().await;
    // What was claimed wrongly was not taken from who has it.
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.kept.len(), 1);
    assert!(worker.succeed(&attempt).await);
    assert_eq!(bench.job(&attempt.job_id).await.redispatches, 0);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn after_the_window_the_job_is_queued_again_and_counted() {
    let bench = Bench::new().await;
    let (worker, attempt) = with_attempt(&bench).await;
    pass(secs(1)).await;
    let cut = bench.now();
    worker.cut().await;
    pass(secs(14)).await;
    let job = bench.job(&attempt.job_id).await;
    assert_eq!((job.state, job.redispatches), (JobState::Running, 0));
    assert_eq!(bench.cause(&attempt.job_id).await, "worker_disconnected");
    pass(secs(2)).await;
    let job = bench.job(&attempt.job_id).await;
    assert_eq!(
        (job.state, job.redispatches, job.failures),
        (JobState::Pending, 1, 0)
    );
    let waited = job.events.last().unwrap().time.since(cut);
    assert!(waited >= secs(15) && waited <= secs(16), "{waited:?}");
    // Who comes back now has to stop.
    let mut worker = bench.connect(again("w", &[&attempt])).await;
    assert_eq!(
        worker.session.welcome.revoked,
        std::slice::from_ref(&attempt)
    );
    let second = worker.assignment().await;
    assert_eq!(second.attempt, 2);
    assert!(
        !worker.succeed(&attempt).await,
        "a result of the old attempt"
    );
    assert!(worker.succeed(&second).await);
    let job = bench.job(&attempt.job_id).await;
    assert!(job.attempts.iter().next().unwrap().late_result);
    bench.audit().await;
}

async fn lose(bench: &Bench, times: usize) {
    for _ in 0..times {
        let mut worker = bench.connect(hello("w", &["job.a"], 4)).await;
        worker.assignment().await;
        worker.cut().await;
        pass(secs(17)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn losses_have_a_budget_of_their_own() {
    let bench = Bench::new().await;
    let job = bench
        .job_of(with("job.a", |spec| {
            spec.max_redispatch = 2;
            spec.retry.max_attempts = 2;
        }))
        .await;
    lose(&bench, 2).await;
    assert_eq!(bench.state(&job).await, JobState::Pending);
    lose(&bench, 1).await;
    let job = bench.job(&job).await;
    assert_eq!(
        (job.state, job.redispatches, job.failures),
        (JobState::Failed, 2, 0)
    );
    assert_eq!(job.error.as_ref().unwrap().code, "worker_lost");
    let never = with("job.a", |spec| spec.max_redispatch = 0);
    let never = bench.job_of(never).await;
    lose(&bench, 1).await;
    assert_eq!(bench.state(&never).await, JobState::Failed);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn at_most_once_means_at_most_once() {
    let bench = Bench::new().await;
    let job = bench
        .job_of(with("job.a", |spec| {
            spec.on_worker_loss = WorkerLossPolicy::Fail;
        }))
        .await;
    lose(&bench, 1).await;
    let job = bench.job(&job).await;
    assert_eq!((job.state, job.attempt), (JobState::Failed, 1));
    assert_eq!(job.error.as_ref().unwrap().code, "worker_lost");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_never_sent_is_no_loss() {
    // The outcome of the commit stays unknown for longer than anybody resends it.
    let bench = Bench::with(Setup {
        resend: false,
        ..Setup::default()
    })
    .await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    pass(secs(2)).await;
    bench.faulty.script([Fault::After]);
    let mut job = named("job.a", "j");
    job.spec.on_worker_loss = WorkerLossPolicy::Fail;
    let answer = bench.engine.submit_job(&admin(), job).await;
    assert_eq!(answer.err(), Some(coretex_engine::Error::OutcomeUnknown));
    assert_eq!(bench.state(&id("j")).await, JobState::Dispatched);
    worker.beat_for(secs(15)).await;
    let second = worker.assignment().await;
    assert_eq!(second.attempt, 2);
    let job = bench.job(&id("j")).await;
    assert_eq!((job.redispatches, job.failures), (0, 0));
    assert!(worker.succeed(&second).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_session_ends_and_its_worker_may_come_back() {
    let bench = Bench::new().await;
    let (mut worker, attempt) = with_attempt(&bench).await;
    worker.beat_for(secs(20)).await;
    assert!(worker.inbox.try_recv().is_err());
    worker.beat().await;
    pass(secs(28)).await;
    worker.beat().await;
    pass(secs(29)).await;
    assert_eq!(
        bench
            .engine
            .get_worker(&admin(), &wid("w"))
            .await
            .unwrap()
            .active_jobs,
        1
    );
    pass(secs(2)).await;
    assert!(worker.is_closed(millis(1)).await);
    assert!(bench.engine.get_worker(&admin(), &wid("w")).await.is_err());
    let mut worker = bench.connect(again("w", &[&attempt])).await;
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
async fn a_cancel_while_the_worker_was_away_is_told_when_it_is_back() {
    for restart in [false, true] {
        let mut bench = Bench::new().await;
        let (worker, attempt) = with_attempt(&bench).await;
        pass(secs(1)).await;
        worker.cut().await;
        let reason = "not wanted".to_owned();
        let cancel = bench
            .engine
            .cancel_job(&ADMIN, &attempt.job_id, reason, None, false);
        cancel.await.unwrap();
        if restart {
            bench.crash().await;
        }
        pass(secs(5)).await;
        let mut worker = bench.connect(again("w", &[&attempt])).await;
        assert_eq!(worker.session.welcome.kept.len(), 1);
        let ToWorker::Cancel {
            attempt: which,
            reason,
            grace,
        } = worker.next().await
        else {
            panic!("not told");
        };
        assert_eq!((&which, reason.as_str()), (&attempt, "not wanted"));
        assert!(
            grace <= secs(25) && grace >= secs(24),
            "what is left of it: {grace:?}"
        );
        worker
            .finish(&attempt, coretex_core::job::transition::Outcome::Cancelled)
            .await;
        assert!(worker.ack().await);
        assert_eq!(bench.state(&attempt.job_id).await, JobState::Cancelled);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_adoption_at_the_last_moment_is_not_undone() {
    // Right when the window ends, the loss is being decided while the adoption commits.
    for offset in 0..40_u64 {
        let bench = Bench::new().await;
        let (worker, attempt) = with_attempt(&bench).await;
        worker.cut().await;
        pass(secs(14) + millis(500) + millis(25 * offset)).await;
        bench.tap.slow_reads(millis(60));
        let mut worker = bench.connect(again("w", &[&attempt])).await;
        bench.tap.slow_reads(std::time::Duration::ZERO);
        let kept = worker.session.welcome.kept.len() == 1;
        pass(secs(3)).await;
        let job = bench.job(&attempt.job_id).await;
        if kept {
            assert!(
                job.state.is_held(),
                "offset {offset}: kept, then {:?}",
                job.events
            );
            assert_eq!((job.attempt, job.redispatches), (1, 0));
            assert!(worker.succeed(&attempt).await);
        } else {
            assert_eq!(job.redispatches, 1);
        }
        bench.audit().await;
    }
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
    assert_eq!(refused.err(), Some(coretex_engine::Error::TooManyStreams));
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

#[tokio::test(start_paused = true)]
async fn a_damaged_record_stops_nobody_else() {
    let bench = Bench::new().await;
    let (worker, attempt) = with_attempt(&bench).await;
    let healthy = bench.job_of(request("job.a")).await;
    pass(secs(1)).await;
    // Somebody scribbles over the record.
    let key = bytes::Bytes::from(format!("job/acme\0{}", attempt.job_id).into_bytes());
    let store: &dyn coretex_store::Store = &*bench.base;
    let shard = coretex_store::Shard::Data(0);
    let found = store.get(shard, std::slice::from_ref(&key)).await.unwrap();
    let mut batch = coretex_store::Batch::new(shard, coretex_store::CommitId(77));
    let version = found.value[0].as_ref().unwrap().version;
    batch.replace(key, version, bytes::Bytes::from_static(b"\x01nonsense"));
    store.commit(batch).await.unwrap();
    worker.cut().await;
    pass(secs(20)).await;
    // The other attempt of the lost session was given up, and silent sessions still end.
    let job = bench.job(&healthy).await;
    assert_eq!(job.redispatches, 1, "{:?}", job.events);
    let mut silent = bench.connect(hello("x", &["job.other"], 1)).await;
    assert!(silent.is_closed(secs(32)).await);
}

#[tokio::test(start_paused = true)]
async fn attempts_move_between_servers() {
    let bench = Bench::with(Setup {
        exclusive: false,
        ..Setup::default()
    })
    .await;
    let (other, _tap) = bench.another().await.unwrap();
    pass(secs(20)).await;
    let (worker, attempt) = with_attempt(&bench).await;
    worker.cut().await;
    pass(secs(5)).await;
    let mut worker = Worker::connect(&other, again("w", &[&attempt])).await;
    assert_eq!(worker.session.welcome.kept.len(), 1);
    // The first one's window ends: it must not take the attempt away.
    worker.beat_for(secs(40)).await;
    assert!(worker.inbox.try_recv().is_err());
    let job = bench.job(&attempt.job_id).await;
    assert_eq!((job.attempt, job.redispatches), (1, 0));
    assert!(worker.succeed(&attempt).await);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn the_attempts_of_a_dead_server_are_given_up_by_another() {
    let bench = Bench::with(Setup {
        exclusive: false,
        ..Setup::default()
    })
    .await;
    let (other, _tap) = bench.another().await.unwrap();
    pass(secs(20)).await;
    let (_worker, attempt) = with_attempt(&bench).await;
    bench.tap.kill();
    let mut worker = Worker::connect(&other, hello("x", &["job.a"], 1)).await;
    worker.beat_for(secs(45)).await;
    let second = worker.assignment().await;
    assert_eq!((second.attempt, &second.job_id), (2, &attempt.job_id));
    worker.finish(&second, succeeded()).await;
    assert!(worker.ack().await);
    let audit = bench.audit().await;
    assert!(audit.held.is_empty());
}
