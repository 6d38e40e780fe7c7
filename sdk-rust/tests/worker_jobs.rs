//! A worker runs jobs: in parallel, within its limit, and brings back every kind of result.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coretex::proto::open_session_request::Message as FromWorker;
use coretex::worker::{CancelReason, Load};
use coretex::{Error, JobExt, JobFailure, JobState, Json, PayloadExt, Worker, WorkerHandle};
use support::session::{HEARTBEAT, assignment, attempt_of};
use support::{FakeServer, soon};
use tokio::sync::{Barrier, Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn worker(server: &FakeServer) -> Worker {
    Worker::new(server.client())
        .topic("job.test")
        .signals(false)
}

fn spawn(worker: Worker) -> (WorkerHandle, JoinHandle<Result<(), Error>>) {
    (worker.handle(), tokio::spawn(worker.run()))
}

#[tokio::test(start_paused = true)]
async fn a_job_is_started_run_and_its_result_sent_until_it_is_acknowledged() {
    let mut server = FakeServer::start();
    let (handle, running) = spawn(
        worker(&server)
            .worker_id("w-1")
            .pool("fast")
            .capability("gpu")
            .label("zone", "a")
            .handler(|ctx, job| async move {
                assert_eq!((ctx.job_id(), ctx.attempt()), ("a", 1));
                let name: String = job.input_as()?;
                Ok(Json(format!("hello {name}")))
            }),
    );
    let mut session = server.welcomed().await;
    assert_eq!(session.hello.worker_id, "w-1");
    assert_eq!(session.hello.pool, "fast");
    assert_eq!(session.hello.topics, ["job.test"]);
    assert_eq!(session.hello.capabilities, ["gpu"]);
    assert_eq!(session.hello.labels["zone"], "a");
    assert_eq!(session.hello.max_parallel_jobs, 1);
    assert_eq!(session.hello.sdk.as_ref().unwrap().language, "rust");

    session.assign("a");
    assert_eq!(session.started().await.lease_id, "lease-a");
    let result = session.result().await;
    assert_eq!(result.status(), JobState::Succeeded);
    let text: String = result.output.as_ref().unwrap().parse().unwrap();
    assert_eq!(text, "hello a");

    let begin = Instant::now();
    assert_eq!(session.result().await, result, "sent again");
    assert!(begin.elapsed() >= 2 * HEARTBEAT);
    session.ack(&result);
    session.settle().await;
    assert_eq!(session.arrived(), None, "nothing is sent after the ack");
    handle.drain();
    session.closed().await;
    drop(session);
    soon("the end", running).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn jobs_run_in_parallel_up_to_the_limit_and_stale_ones_are_given_back() {
    let mut server = FakeServer::start();
    let together = Arc::new(Barrier::new(3));
    let most = Arc::new(AtomicUsize::new(0));
    let now = Arc::new(AtomicUsize::new(0));
    let (meet, peak) = (Arc::clone(&together), Arc::clone(&most));
    let (_handle, _running) = spawn(worker(&server).max_parallel_jobs(3).handler(
        move |_ctx, job| {
            let (meet, peak, now) = (Arc::clone(&meet), Arc::clone(&peak), Arc::clone(&now));
            async move {
                peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Passes only when three run at once.
                if job.job_id.starts_with("first") {
                    meet.wait().await;
                }
                tokio::time::sleep(10 * SECOND).await;
                now.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            }
        },
    ));
    let mut session = server.welcomed().await;
    for job in ["first-1", "first-2", "first-3", "patient"] {
        session.assign(job);
    }
    let mut hasty = assignment("hasty");
    hasty.valid_for = Some(prost_types::Duration {
        seconds: 4,
        nanos: 0,
    });
    session.assign_with(hasty);

    let begin = Instant::now();
    let reject = session.reject().await;
    assert_eq!(reject.job_id, "hasty");
    assert!(begin.elapsed() >= 4 * SECOND && begin.elapsed() < 5 * SECOND);
    for _ in 0..3 {
        let result = session.result().await;
        assert!(result.job_id.starts_with("first"), "{}", result.job_id);
        session.ack(&result);
    }
    assert_eq!(
        session.result().await.job_id,
        "patient",
        "started when a slot was free"
    );
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn the_limit_can_be_changed_while_it_runs() {
    let mut server = FakeServer::start();
    let (handle, _running) = spawn(worker(&server).handler(|_ctx, _job| async {
        std::future::pending::<()>().await;
        Ok(())
    }));
    let mut session = server.welcomed().await;
    session.assign("a");
    session.assign("b");
    assert_eq!(session.started().await.job_id, "a");
    handle.set_max_parallel_jobs(2);
    let mut seen = Vec::new();
    for _ in 0..2 {
        match session.any().await {
            Some(FromWorker::Capacity(capacity)) => {
                seen.push(capacity.max_parallel_jobs.to_string())
            }
            Some(FromWorker::Started(started)) => seen.push(started.job_id),
            Some(FromWorker::Heartbeat(_)) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    while seen.len() < 2 {
        seen.push(session.started().await.job_id);
    }
    assert_eq!(seen, ["2", "b"]);
    server.cut();
    let mut session = server.welcomed().await;
    assert_eq!(session.hello.max_parallel_jobs, 2);
    // In a hello 0 would mean 1, so it is said again after the welcome.
    handle.set_max_parallel_jobs(0);
    for _ in 0..2 {
        match session.next().await {
            Some(FromWorker::Capacity(capacity)) => assert_eq!(capacity.max_parallel_jobs, 0),
            other => panic!("unexpected {other:?}"),
        }
        server.cut();
        session = server.welcomed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_wants_confirmation_starts_only_after_it() {
    let mut server = FakeServer::start();
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let (_handle, _running) = spawn(worker(&server).max_parallel_jobs(2).handler(
        move |_ctx, _job| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(()) }
        },
    ));
    let mut session = server.welcomed().await;
    for job in ["a", "b"] {
        let mut careful = assignment(job);
        careful.job.as_mut().unwrap().confirm_start = true;
        session.assign_with(careful);
        assert_eq!(session.started().await.job_id, job);
    }
    session.settle().await;
    assert_eq!(runs.load(Ordering::SeqCst), 0, "not before the word");
    session.cancel("b", SECOND);
    let never_ran = session.result().await;
    assert_eq!(
        (never_ran.job_id.as_str(), never_ran.status()),
        ("b", JobState::Cancelled)
    );
    session.confirm("a");
    session.confirm("b");
    assert_eq!(session.result().await.job_id, "a");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn panics_and_errors_are_failed_results_and_the_worker_goes_on() {
    let mut server = FakeServer::start();
    let (_handle, _running) = spawn(worker(&server).handler(|ctx, job| async move {
        ctx.add_artifact("trace");
        match job.job_id.as_str() {
            "panics" => panic!("no {}", "way"),
            "fails" => Err(JobFailure::new("rate_limited", "slow down").with("limit", "5")),
            "io" => Err(std::io::Error::other("disk on fire").into()),
            "input" => Ok(Json(job.input_as::<u64>()?)),
            _ => Ok(Json(1)),
        }
    }));
    let mut session = server.welcomed().await;
    let table = [
        ("panics", "panic", "no way"),
        ("fails", "rate_limited", "slow down"),
        ("io", "error", "disk on fire"),
        ("input", "input_invalid", "u64"),
    ];
    for (job, code, text) in table {
        session.assign(job);
        let result = session.result().await;
        assert_eq!(result.status(), JobState::Failed);
        assert_eq!(result.artifact_ids, ["trace"]);
        let error = result.error.as_ref().unwrap();
        assert_eq!(error.code, code);
        assert!(error.message.contains(text), "{}", error.message);
        assert_eq!(error.metadata.contains_key("limit"), job == "fails");
        session.ack(&result);
    }
    session.assign("good");
    assert_eq!(session.result().await.status(), JobState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn topics_have_handlers_of_their_own_and_foreign_ones_are_given_back() {
    let mut server = FakeServer::start();
    let worker = Worker::new(server.client())
        .signals(false)
        .route("job.a", |_ctx, _job| async { Ok("from a") })
        .route("job.b", |_ctx, _job| async { Ok("from b") });
    let (_handle, _running) = spawn(worker);
    let mut session = server.welcomed().await;
    for (topic, text) in [("job.a", "from a"), ("job.b", "from b")] {
        let mut on_topic = assignment(topic);
        on_topic.job.as_mut().unwrap().topic = topic.into();
        session.assign_with(on_topic);
        let result = session.result().await;
        assert_eq!(result.output.as_ref().unwrap().to_text().unwrap(), text);
        session.ack(&result);
    }
    session.assign("foreign");
    assert_eq!(session.reject().await.job_id, "foreign");
}

#[tokio::test(start_paused = true)]
async fn a_cancel_reaches_the_handler_which_decides_how_to_answer() {
    let mut server = FakeServer::start();
    let (_handle, _running) = spawn(worker(&server).max_parallel_jobs(3).handler(
        |ctx, job| async move {
            match job.job_id.as_str() {
                "stops" => {
                    let why = ctx.cancelled().await;
                    let left = ctx.stop_deadline().unwrap() - Instant::now();
                    assert_eq!(left, 30 * SECOND);
                    assert_eq!(why, CancelReason::Requested("no longer needed".into()));
                    Err(JobFailure::new("stopped", why.to_string()))
                }
                "finishes" => {
                    ctx.cancelled().await;
                    Ok(Json("in time"))
                }
                _ => std::future::pending().await,
            }
        },
    ));
    let mut session = server.welcomed().await;
    for job in ["stops", "finishes", "deaf"] {
        session.assign(job);
        session.started().await;
    }
    session.cancel("stops", 30 * SECOND);
    let result = session.result().await;
    assert_eq!(result.status(), JobState::Cancelled);
    session.ack(&result);
    session.cancel("finishes", 30 * SECOND);
    let result = session.result().await;
    assert_eq!(result.status(), JobState::Succeeded);
    session.ack(&result);

    let begin = Instant::now();
    session.cancel("deaf", 7 * SECOND);
    let result = session.result().await;
    assert_eq!(
        (result.job_id.as_str(), result.status()),
        ("deaf", JobState::Cancelled)
    );
    assert!(begin.elapsed() >= 7 * SECOND && begin.elapsed() < 8 * SECOND);
    session.ack(&result);

    session.cancel("unknown", SECOND);
    let result = session.result().await;
    assert_eq!(
        (result.job_id.as_str(), result.status()),
        ("unknown", JobState::Cancelled)
    );
}

#[tokio::test(start_paused = true)]
async fn a_revoked_attempt_is_stopped_and_answered_once() {
    let mut server = FakeServer::start();
    let (reasons, mut seen) = mpsc::channel(1_024);
    let (_handle, _running) = spawn(worker(&server).handler(move |ctx, _job| {
        let reasons = reasons.clone();
        async move {
            reasons.send(ctx.cancelled().await).await.unwrap();
            Ok(())
        }
    }));
    let mut session = server.welcomed().await;
    session.assign("a");
    session.started().await;
    session.revoke("a");
    assert_eq!(session.result().await.job_id, "a");
    assert_eq!(seen.recv().await, Some(CancelReason::Revoked));
    session.settle().await;
    assert_eq!(
        session.arrived(),
        None,
        "not sent again although nobody acknowledged"
    );
    session.assign("b");
    assert_eq!(session.started().await.job_id, "b", "the slot is free");
}

#[tokio::test(start_paused = true)]
async fn the_time_limit_is_known_and_ends_a_deaf_handler_when_the_server_is_silent() {
    let mut server = FakeServer::start();
    let (_handle, _running) = spawn(worker(&server).handler(|ctx, _job| async move {
        assert_eq!(ctx.remaining(), Some(60 * SECOND));
        tokio::time::sleep(20 * SECOND).await;
        assert_eq!(ctx.remaining(), Some(40 * SECOND));
        ctx.cancelled().await;
        assert_eq!(ctx.cancel_reason(), Some(CancelReason::TimeLimit));
        assert_eq!(ctx.remaining(), Some(Duration::ZERO));
        std::future::pending::<()>().await;
        Ok(())
    }));
    let mut session = server.welcomed().await;
    let mut limited = assignment("a");
    limited.time_limit = Some(prost_types::Duration {
        seconds: 60,
        nanos: 0,
    });
    session.assign_with(limited);
    let begin = Instant::now();
    let result = session.result().await;
    assert_eq!(result.error.unwrap().code, "timeout");
    assert!(begin.elapsed() > 60 * SECOND && begin.elapsed() < 75 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_tell_how_busy_the_worker_is() {
    let mut server = FakeServer::start();
    let load = || Load {
        cpu_percent: 12.5,
        gpu_percent: f64::INFINITY,
    };
    let worker = worker(&server).load(load).handler(|_ctx, _job| async {
        std::future::pending::<()>().await;
        Ok(())
    });
    let (_handle, _running) = spawn(worker);
    let mut session = server.welcomed().await;
    let beat = session.heartbeat().await;
    assert_eq!(
        (beat.active_jobs, beat.cpu_load, beat.gpu_utilization),
        (0, 12.5, 0.0)
    );
    session.assign("a");
    session.started().await;
    let begin = Instant::now();
    assert_eq!(session.heartbeat().await.active_jobs, 1);
    session.heartbeat().await;
    assert!(begin.elapsed() >= HEARTBEAT && begin.elapsed() <= 2 * HEARTBEAT);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_progress_becomes_a_trickle_that_ends_with_the_latest() {
    let mut server = FakeServer::start();
    let done = Arc::new(Notify::new());
    let wait = Arc::clone(&done);
    let (_handle, _running) = spawn(worker(&server).handler(move |ctx, _job| {
        let wait = Arc::clone(&wait);
        async move {
            for step in 0..=1_000 {
                ctx.progress(step / 10, format!("step {step}"));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            wait.notified().await;
            ctx.progress(250, "x".repeat(10_000));
            wait.notified().await;
            Ok(())
        }
    }));
    let mut session = server.welcomed().await;
    session.assign("a");
    let mut reports = 0;
    loop {
        match session.next().await {
            Some(FromWorker::Progress(progress)) => {
                reports += 1;
                assert_eq!(progress.lease_id, "lease-a");
                if progress.message == "step 1000" {
                    assert_eq!(progress.percent, 100);
                    break;
                }
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!((3..=8).contains(&reports), "{reports} reports in a second");
    done.notify_one();
    match session.next().await {
        Some(FromWorker::Progress(progress)) => {
            assert_eq!((progress.percent, progress.message.len()), (100, 1_024));
        }
        other => panic!("unexpected {other:?}"),
    }
    done.notify_one();
    session.result().await;
}

#[tokio::test(start_paused = true)]
async fn an_output_over_the_limit_is_a_failed_result_that_says_so() {
    let mut server = FakeServer::start();
    let client = server.builder().payload_limit(100).build().unwrap();
    let worker = Worker::new(client).topic("job.test").signals(false);
    let (_handle, _running) = spawn(worker.handler(|_ctx, _job| async { Ok("x".repeat(200)) }));
    let mut session = server.welcomed().await;
    session.assign("a");
    let result = session.result().await;
    assert_eq!(result.status(), JobState::Failed);
    let error = result.error.unwrap();
    assert_eq!(error.code, "output_too_large");
    assert!(error.message.contains("limit"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_assignment_runs_once() {
    let mut server = FakeServer::start();
    let runs = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&runs);
    let worker = worker(&server).max_parallel_jobs(4);
    let (_handle, _running) = spawn(worker.handler(move |_ctx, _job| {
        count.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::time::sleep(SECOND).await;
            Ok(())
        }
    }));
    let mut session = server.welcomed().await;
    session.assign("a");
    session.assign("a");
    assert_eq!(session.result().await.lease_id, attempt_of("a").lease_id);
    session.assign("a");
    assert_eq!(session.result().await.lease_id, attempt_of("a").lease_id);
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}
