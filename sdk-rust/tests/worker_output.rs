//! What handlers stream reaches the server whole, in order, before the result, whatever the
//! connection does; and readers go on where they were.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coretex::proto::open_session_request::Message as FromWorker;
use coretex::proto::open_session_response::Message as ToWorker;
use coretex::proto::{
    OutputChannel, ReadJobOutputRequest, ReadJobOutputResponse, ServerOutputAck, WorkerOutput,
};
use coretex::{Code, Error, JobState, Worker};
use parking_lot::Mutex;
use support::session::{FakeSession, attempt_of};
use support::{FakeServer, soon};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Status;

const LOG: OutputChannel = OutputChannel::Log;

/// A worker whose handler streams so many lines, of so many bytes, and returns; and how many lines
/// it has got rid of.
fn spawn(
    server: &FakeServer,
    lines: usize,
    size: usize,
) -> (JoinHandle<Result<(), Error>>, Arc<AtomicUsize>) {
    let streamed = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&streamed);
    let worker = Worker::new(server.client())
        .topic("job.test")
        .signals(false);
    let worker = worker.handler(move |ctx, _job| {
        let count = Arc::clone(&count);
        async move {
            for line in 1..=lines {
                ctx.log(format!("{line:0size$}")).await;
                count.fetch_add(1, Ordering::SeqCst);
            }
            Ok("done")
        }
    });
    (tokio::spawn(worker.run()), streamed)
}

async fn piece(session: &mut FakeSession) -> WorkerOutput {
    match session.next().await {
        Some(FromWorker::Output(output)) => output,
        other => panic!("expected output, got {other:?}"),
    }
}

/// The next lines are these.
async fn lines(session: &mut FakeSession, range: std::ops::RangeInclusive<i32>) {
    for sequence in range {
        let piece = piece(session).await;
        assert_eq!(piece.sequence, sequence);
        assert_eq!(piece.channel(), LOG);
        let text = String::from_utf8(piece.chunk.to_vec()).unwrap();
        assert_eq!(text.trim_start_matches('0'), sequence.to_string());
        assert!(piece.time.is_some());
        assert_eq!(piece.lease_id, attempt_of("j").lease_id);
    }
}

fn stored(session: &FakeSession, sequence: i32, resend: bool) {
    let of = attempt_of("j");
    session.send(ToWorker::OutputAck(ServerOutputAck {
        tenant_id: of.tenant_id,
        job_id: of.job_id,
        attempt: of.attempt,
        lease_id: of.lease_id,
        sequence,
        channel: LOG.into(),
        resend,
    }));
}

#[tokio::test(start_paused = true)]
async fn what_is_streamed_comes_before_the_result_and_again_until_it_is_stored() {
    let mut server = FakeServer::start();
    let (_running, _) = spawn(&server, 10, 1);
    let mut session = server.welcomed().await;
    session.assign("j");
    lines(&mut session, 1..=10).await;
    assert_eq!(session.result().await.status(), JobState::Succeeded);
    stored(&session, 4, false);
    session.heartbeat().await;
    server.cut();
    let mut session = server.welcomed().await;
    lines(&mut session, 5..=10).await;
    session.result().await;
    // The server has lost some on its way: the result comes again after them.
    stored(&session, 7, true);
    let begin = Instant::now();
    lines(&mut session, 8..=10).await;
    assert!(begin.elapsed() >= Duration::from_millis(100));
    let result = session.result().await;
    session.ack(&result);
    session.settle().await;
    assert!(session.arrived().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_result_that_waits_for_output_is_told_at_once_when_nobody_wants_that() {
    let mut server = FakeServer::start();
    let (_running, _) = spawn(&server, 3, 1);
    let mut session = server.welcomed().await;
    session.assign("j");
    lines(&mut session, 1..=3).await;
    session.result().await;
    // The server has taken neither, and by now the attempt is over.
    stored(&session, 0, true);
    session.revoke("j");
    assert_eq!(session.result().await.status(), JobState::Succeeded);
    session.settle().await;
    assert!(session.arrived().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_handler_waits_for_a_server_that_stores_nothing() {
    let mut server = FakeServer::start();
    let (_running, streamed) = spawn(&server, 100, 30_000);
    let mut session = server.welcomed().await;
    session.assign("j");
    // About 256 KiB are on their way, and not more while nothing is stored.
    lines(&mut session, 1..=8).await;
    session.heartbeat().await;
    assert_eq!(streamed.load(Ordering::SeqCst), 8);
    stored(&session, 3, false);
    lines(&mut session, 9..=11).await;
    // What nothing is heard of is sent again after a while.
    lines(&mut session, 4..=11).await;
    stored(&session, 11, false);
    lines(&mut session, 12..=19).await;
    stored(&session, 19, false);
    lines(&mut session, 20..=27).await;
    // It is not the worker's any more: the handler is not held up.
    session.revoke("j");
    soon("the end of the handler", async {
        while streamed.load(Ordering::SeqCst) < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(session.result().await.status(), JobState::Succeeded);
}

#[tokio::test(start_paused = true)]
async fn long_lines_and_parts_are_cut_and_line_ends_are_not_sent() {
    let mut server = FakeServer::start();
    let worker = Worker::new(server.client())
        .topic("job.test")
        .signals(false);
    let worker = worker.handler(|ctx, _job| async move {
        ctx.log("one\n").await;
        ctx.log("").await;
        ctx.log("ä".repeat(20_000)).await;
        ctx.output(vec![7; 70_000]).await;
        ctx.output("").await;
        Ok(())
    });
    let _running = tokio::spawn(worker.run());
    let mut session = server.welcomed().await;
    session.assign("j");
    let (mut log, mut output) = (Vec::new(), Vec::new());
    while let Some(FromWorker::Output(piece)) = session.next().await {
        let channel = if piece.channel() == LOG {
            &mut log
        } else {
            &mut output
        };
        assert_eq!(piece.sequence as usize, channel.len() + 1);
        channel.push(piece.chunk);
    }
    assert_eq!(log[..2], ["one", ""]);
    assert_eq!(log[2..].concat(), "ä".repeat(20_000).into_bytes());
    assert!(log.iter().all(|line| std::str::from_utf8(line).is_ok()));
    assert_eq!(output.concat(), vec![7; 70_000]);
    assert!(output.len() == 3 && output.iter().all(|piece| piece.len() <= 32 * 1024));
}

#[tokio::test(start_paused = true)]
async fn a_reader_goes_on_after_the_last_piece() {
    let server = FakeServer::start();
    let asked: Arc<Mutex<Vec<ReadJobOutputRequest>>> = Arc::default();
    let notes = Arc::clone(&asked);
    server.fake.output.set(move |request| {
        let request = request.into_inner();
        let call = {
            let mut notes = notes.lock();
            notes.push(request);
            notes.len() as i32
        };
        let piece = |sequence: i32| {
            Ok(ReadJobOutputResponse {
                sequence,
                resume_token: format!("after {sequence}"),
                ..ReadJobOutputResponse::default()
            })
        };
        async move {
            match call {
                1 => Ok(vec![
                    piece(5),
                    piece(6),
                    Err(Status::unavailable("stopping")),
                ]),
                2 => Err(Status::unavailable("not yet")),
                _ => Ok(vec![piece(7)]),
            }
        }
    });
    let mut output = server.client().read_output(ReadJobOutputRequest {
        job_id: "j".into(),
        from_sequence: 5,
        follow: true,
        ..ReadJobOutputRequest::default()
    });
    let mut read = Vec::new();
    while let Some(piece) = output.next().await {
        read.push(piece.unwrap().sequence);
    }
    assert_eq!(read, [5, 6, 7]);
    let asked = asked.lock();
    let from: Vec<_> = asked
        .iter()
        .map(|request| (request.from_sequence, request.resume_token.as_str()))
        .collect();
    assert_eq!(from, [(5, ""), (0, "after 6"), (0, "after 6")]);
}

#[tokio::test(start_paused = true)]
async fn a_reader_is_told_what_time_does_not_change() {
    let server = FakeServer::start();
    server
        .fake
        .output
        .set(|_| async { Err(Status::not_found("no such job")) });
    let mut output = server.client().read_output(ReadJobOutputRequest::default());
    let error = output.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(output.next().await.is_none());
}
