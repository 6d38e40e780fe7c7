//! A worker's connection comes and goes; its jobs and results do not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coretex::proto::open_session_request::Message as FromWorker;
use coretex::worker::{CancelReason, WorkerStatus};
use coretex::{Code, Error, JobFailure, JobState, Worker, WorkerHandle};
use support::session::{assignment, attempt_of};
use support::{FakeServer, soon};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Status;

const SECOND: Duration = Duration::from_secs(1);

/// What handlers tell the test.
#[derive(Debug, PartialEq)]
enum Seen {
    Began(String),
    Stopped(String, CancelReason),
}

/// A worker whose handlers run for 30 seconds, or until they are asked to stop.
fn spawn(
    worker: Worker,
) -> (
    WorkerHandle,
    JoinHandle<Result<(), Error>>,
    mpsc::Receiver<Seen>,
) {
    let (tell, seen) = mpsc::channel(1_024);
    let worker = worker.topic("job.test").signals(false);
    let worker = worker.max_parallel_jobs(4).handler(move |ctx, job| {
        let tell = tell.clone();
        async move {
            tell.send(Seen::Began(job.job_id.clone())).await.unwrap();
            tokio::select! {
                () = tokio::time::sleep(30 * SECOND) => Ok("done"),
                why = ctx.cancelled() => {
                    tell.send(Seen::Stopped(job.job_id.clone(), why.clone())).await.unwrap();
                    Err(JobFailure::new("stopped", why.to_string()))
                }
            }
        }
    });
    (worker.handle(), tokio::spawn(worker.run()), seen)
}

#[tokio::test(start_paused = true)]
async fn after_a_cut_what_is_kept_goes_on_and_what_is_revoked_stops() {
    let mut server = FakeServer::start();
    let (_handle, _running, mut seen) = spawn(Worker::new(server.client()));
    let mut session = server.welcomed().await;
    for job in ["kept", "revoked"] {
        session.assign(job);
        session.started().await;
        assert_eq!(seen.recv().await, Some(Seen::Began(job.into())));
    }
    server.cut();
    let mut session = server.session().await;
    assert_eq!(session.running(), ["lease-kept", "lease-revoked"]);
    assert_eq!(session.hello.running[0].tenant_id, "default");
    session.welcome(vec![attempt_of("kept")], vec![attempt_of("revoked")]);
    let stopped = Seen::Stopped("revoked".into(), CancelReason::Revoked);
    assert_eq!(seen.recv().await, Some(stopped));
    // The start may not have been heard: it is told again.
    assert_eq!(session.started().await.job_id, "kept");
    let result = session.result().await;
    assert_eq!(
        (result.job_id.as_str(), result.status()),
        ("kept", JobState::Succeeded)
    );
    session.ack(&result);
    session.settle().await;
    assert_eq!(session.arrived(), None, "nothing about the revoked attempt");
    assert_eq!(seen.try_recv().ok(), None, "nothing ran twice");
}

#[tokio::test(start_paused = true)]
async fn a_result_survives_cuts_until_it_is_acknowledged() {
    let mut server = FakeServer::start();
    let (_handle, _running, _seen) = spawn(Worker::new(server.client()));
    let mut session = server.welcomed().await;
    session.assign("a");
    let first = session.result().await;
    server.cut();
    let mut session = server.session().await;
    assert_eq!(
        session.running(),
        ["lease-a"],
        "finished, but not acknowledged"
    );
    session.welcome_all();
    assert_eq!(session.result().await, first);
    // This one ends in good order, but again without an acknowledgement.
    drop(session);
    let mut session = server.welcomed().await;
    assert_eq!(session.result().await, first);
    session.ack(&first);
    session.settle().await;
    server.cut();
    assert_eq!(server.session().await.running(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_result_made_while_disconnected_is_sent_after_the_welcome() {
    let mut server = FakeServer::start();
    let (_handle, _running, mut seen) = spawn(Worker::new(server.client()));
    let session = server.welcomed().await;
    session.assign("a");
    session.assign("b");
    seen.recv().await.unwrap();
    seen.recv().await.unwrap();
    server.refuse(true);
    server.cut();
    drop(session);
    tokio::time::sleep(60 * SECOND).await;
    server.refuse(false);
    let mut session = server.session().await;
    assert_eq!(session.running(), ["lease-a", "lease-b"]);
    assert_eq!(session.arrived(), None, "no result before the welcome");
    session.welcome(vec![attempt_of("a")], vec![attempt_of("b")]);
    let result = session.result().await;
    assert_eq!(result.job_id, "a");
    session.ack(&result);
    session.settle().await;
    assert_eq!(
        session.arrived(),
        None,
        "the result of the revoked attempt is dropped"
    );
}

#[tokio::test(start_paused = true)]
async fn twenty_cuts_during_one_job_end_in_one_run_and_one_result() {
    let mut server = FakeServer::start();
    let (_handle, _running, mut seen) = spawn(Worker::new(server.client()));
    let mut session = server.welcomed().await;
    session.assign("a");
    session.started().await;
    for cut in 0..20 {
        // Broken, ended with an error, ended in good order, never welcomed: all the same.
        match cut % 4 {
            0 => server.cut(),
            1 => session.fail(Status::unavailable("restarting")),
            2 => drop(session),
            _ => {
                server.cut();
                drop(server.session().await);
            }
        }
        session = server.welcomed().await;
        assert_eq!(session.running(), ["lease-a"]);
    }
    let result = session.result().await;
    assert_eq!(result.status(), JobState::Succeeded);
    session.ack(&result);
    session.settle().await;
    assert_eq!(session.arrived(), None);
    assert_eq!(seen.recv().await, Some(Seen::Began("a".into())));
    assert_eq!(seen.try_recv().ok(), None);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_was_not_confirmed_is_asked_for_again() {
    let mut server = FakeServer::start();
    let (_handle, _running, mut seen) = spawn(Worker::new(server.client()));
    let mut session = server.welcomed().await;
    let mut careful = assignment("a");
    careful.job.as_mut().unwrap().confirm_start = true;
    session.assign_with(careful);
    session.started().await;
    server.cut();
    let mut session = server.welcomed().await;
    assert_eq!(session.running(), ["lease-a"]);
    assert_eq!(session.started().await.lease_id, "lease-a");
    assert_eq!(seen.try_recv().ok(), None);
    session.confirm("a");
    assert_eq!(seen.recv().await, Some(Seen::Began("a".into())));
}

#[tokio::test(start_paused = true)]
async fn it_reconnects_for_ever_without_hammering() {
    let mut server = FakeServer::start();
    server.refuse(true);
    let (mut handle, running, _seen) = spawn(Worker::new(server.client()));
    tokio::time::sleep(3_600 * SECOND).await;
    assert!(!running.is_finished());
    assert_eq!(handle.status(), WorkerStatus::Connecting);
    let tries = server.connections();
    assert!((1_000..4_000).contains(&tries), "{tries} tries in an hour");
    server.refuse(false);
    let session = server.welcomed().await;
    assert!(handle.connected().await);
    let expected = session.hello.worker_id.clone();
    assert!(matches!(
        handle.status(),
        WorkerStatus::Connected { worker_id, .. } if worker_id == expected
    ));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_time_does_not_change_ends_the_first_try_only() {
    let mut server = FakeServer::start();
    *server.fake.refusal.lock() = Some(Status::permission_denied("topic not allowed"));
    let (_handle, running, _seen) = spawn(Worker::new(server.client()));
    let error = soon("the end", running).await.unwrap().err().unwrap();
    assert_eq!(error.code(), Code::PermissionDenied);

    *server.fake.refusal.lock() = None;
    let (_handle, running, _seen) = spawn(Worker::new(server.client()));
    let session = server.welcomed().await;
    *server.fake.refusal.lock() = Some(Status::permission_denied("for a while"));
    drop(session);
    tokio::time::sleep(60 * SECOND).await;
    assert!(!running.is_finished());
    *server.fake.refusal.lock() = None;
    server.welcomed().await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_topic_or_handler_is_told_so() {
    let server = FakeServer::start();
    let no_topic = Worker::new(server.client()).handler(|_ctx, _job| async { Ok(()) });
    let no_handler = Worker::new(server.client()).topic("job.test");
    for worker in [no_topic, no_handler] {
        let error = worker.run().await.err().unwrap();
        assert_eq!(error.code(), Code::InvalidArgument);
    }
}

#[tokio::test(start_paused = true)]
async fn a_draining_server_hands_the_worker_over_without_a_gap() {
    let mut server = FakeServer::start();
    let (_handle, _running, mut seen) = spawn(Worker::new(server.client()));
    let mut old = server.welcomed().await;
    old.assign("a");
    old.started().await;
    old.drain();
    let mut new = server.session().await;
    assert_eq!(new.running(), ["lease-a"]);
    // Between the hello and the welcome nothing may fall through.
    old.assign("late");
    assert_eq!(old.reject().await.job_id, "late");
    new.welcome_all();
    old.closed().await;
    let result = new.result().await;
    assert_eq!(
        (result.job_id.as_str(), result.status()),
        ("a", JobState::Succeeded)
    );
    assert_eq!(seen.recv().await, Some(Seen::Began("a".into())));
    assert_eq!(seen.try_recv().ok(), None);
}

#[tokio::test(start_paused = true)]
async fn while_no_other_server_is_there_the_draining_one_is_used() {
    let mut server = FakeServer::start();
    let (_handle, _running, _seen) = spawn(Worker::new(server.client()));
    let mut old = server.welcomed().await;
    old.assign("a");
    old.started().await;
    server.refuse(true);
    old.drain();
    let result = old.result().await;
    assert_eq!(result.status(), JobState::Succeeded);
    old.ack(&result);
    old.settle().await;
    server.refuse(false);
    let new = server.welcomed().await;
    assert_eq!(new.running(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn draining_finishes_what_runs_gives_back_the_rest_and_leaves() {
    let mut server = FakeServer::start();
    let worker = Worker::new(server.client()).drain_grace(60 * SECOND);
    let (handle, running, mut seen) = spawn(worker);
    let mut session = server.welcomed().await;
    for job in ["a", "b", "c", "d"] {
        session.assign(job);
        session.started().await;
        seen.recv().await.unwrap();
    }
    session.assign("waits");
    // One may be on its way already; by the second the assignment has arrived.
    session.heartbeat().await;
    session.heartbeat().await;
    handle.drain();
    assert!(matches!(session.next().await, Some(FromWorker::Drain(_))));
    assert_eq!(session.reject().await.job_id, "waits");
    session.assign("late");
    assert_eq!(session.reject().await.job_id, "late");
    // Even a cut on the way out does not lose the results.
    server.cut();
    let mut session = server.welcomed().await;
    assert_eq!(session.running().len(), 4);
    assert!(matches!(session.next().await, Some(FromWorker::Drain(_))));
    for _ in 0..4 {
        let result = session.result().await;
        assert_eq!(result.status(), JobState::Succeeded);
        session.ack(&result);
    }
    session.closed().await;
    drop(session);
    soon("the end", running).await.unwrap().unwrap();
    assert_eq!(handle.status(), WorkerStatus::Stopped);
}

#[tokio::test(start_paused = true)]
async fn after_the_grace_handlers_are_stopped_and_their_jobs_left_to_others() {
    let mut server = FakeServer::start();
    let worker = Worker::new(server.client()).drain_grace(10 * SECOND);
    let (handle, running, mut seen) = spawn(worker);
    let mut session = server.welcomed().await;
    session.assign("a");
    session.started().await;
    seen.recv().await.unwrap();
    let begin = Instant::now();
    handle.drain();
    let stopped = Seen::Stopped("a".into(), CancelReason::Shutdown);
    assert_eq!(seen.recv().await, Some(stopped));
    assert!(begin.elapsed() >= 10 * SECOND);
    session.closed().await;
    drop(session);
    soon("the end", running).await.unwrap().unwrap();
    assert!(begin.elapsed() < 12 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_cannot_connect_can_still_be_stopped() {
    let server = FakeServer::start();
    server.refuse(true);
    let (handle, running, _seen) = spawn(Worker::new(server.client()));
    tokio::time::sleep(10 * SECOND).await;
    handle.drain();
    let begin = Instant::now();
    soon("the end", running).await.unwrap().unwrap();
    assert!(begin.elapsed() < SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_deaf_handler_does_not_keep_the_worker() {
    let mut server = FakeServer::start();
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Guard(Arc<AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let count = Arc::clone(&dropped);
    let worker = Worker::new(server.client())
        .topic("job.test")
        .signals(false);
    let worker = worker.handler(move |_ctx, _job| {
        let guard = Guard(Arc::clone(&count));
        async move {
            std::future::pending::<()>().await;
            drop(guard);
            Ok(())
        }
    });
    let handle = worker.handle();
    let running = tokio::spawn(worker.run());
    let mut session = server.welcomed().await;
    session.assign("a");
    session.started().await;
    handle.stop();
    let begin = Instant::now();
    session.closed().await;
    drop(session);
    soon("the end", running).await.unwrap().unwrap();
    assert!(begin.elapsed() < 5 * SECOND);
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
}
