//! Operations on many things: they go on where they were, and end when they cannot.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::sync::Arc;

use coretex::Code;
use coretex::proto::{BulkProgress, CancelJobsRequest, CancelJobsResponse};
use parking_lot::Mutex;
use support::FakeServer;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

fn progress(done_count: i32, page_token: &str) -> Result<CancelJobsResponse, Status> {
    Ok(CancelJobsResponse {
        progress: Some(BulkProgress {
            matched_count: done_count,
            done_count,
            finished: page_token.is_empty(),
            page_token: page_token.into(),
            ..BulkProgress::default()
        }),
    })
}

/// What each call says in turn, and the tokens that it was asked to go on from.
fn script(
    server: &FakeServer,
    calls: Vec<Vec<Result<CancelJobsResponse, Status>>>,
) -> Arc<Mutex<Vec<String>>> {
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&tokens);
    let mut calls = calls.into_iter();
    server.fake.cancel_many.set(move |request| {
        asked.lock().push(request.into_inner().page_token);
        let messages = calls.next().unwrap_or_default();
        let (send, stream) = mpsc::channel(messages.len() + 1);
        for message in messages {
            send.try_send(message).unwrap();
        }
        futures::future::ok(ReceiverStream::new(stream))
    });
    tokens
}

#[tokio::test(start_paused = true)]
async fn a_broken_operation_goes_on_from_its_last_token() {
    let server = FakeServer::start();
    let calls = vec![
        vec![progress(0, "a"), progress(5, "b")],
        vec![progress(5, "b"), Err(Status::unavailable("away"))],
        vec![progress(5, "b"), progress(9, "c"), progress(12, "")],
    ];
    let tokens = script(&server, calls);
    let mut bulk = server.client().cancel_jobs(CancelJobsRequest::default());
    let mut seen = Vec::new();
    while let Some(next) = bulk.next().await {
        seen.push(next.unwrap().done_count);
    }
    assert_eq!(seen, [0, 5, 5, 5, 9, 12]);
    assert_eq!(*tokens.lock(), ["", "b", "b"]);
}

#[tokio::test(start_paused = true)]
async fn what_no_patience_helps_against_ends_the_operation() {
    let server = FakeServer::start();
    let calls = vec![vec![progress(3, "a"), Err(Status::invalid_argument("no"))]];
    let tokens = script(&server, calls);
    let bulk = server.client().cancel_jobs(CancelJobsRequest::default());
    let error = bulk.finish().await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(tokens.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn patience_ends_when_nothing_is_done_any_more() {
    let server = FakeServer::start();
    // Every further call is answered with an empty stream.
    script(&server, vec![vec![progress(4, "a")]]);
    let bulk = server.client().cancel_jobs(CancelJobsRequest::default());
    let error = bulk.finish().await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable);
}
