//! Connections, sessions and watches beyond what the server is told to hold.

use std::time::Duration;

use coretex::ErrorReason;
use coretex::proto::{ListWorkersRequest, WatchJobsRequest};
use coretex_tests::cluster::server::{Options, Server};
use coretex_tests::cluster::session::{RawWorker, hello};
use coretex_tests::cluster::{PATIENCE, in_time};
use coretex_tests::poll;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let server = Server::start(Options::new().set("CORETEX_LIMITS_MAX_CONNECTIONS", "10")).await;
    let client = server.client();
    client.get_status(Default::default()).await.unwrap();
    let mut streams = Vec::new();
    for _ in 0..30 {
        streams.push(TcpStream::connect(server.address()).await.unwrap());
    }
    let mut open = Vec::new();
    for mut stream in streams {
        let closed = tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await;
        if closed.is_err() {
            open.push(stream);
        }
    }
    assert_eq!(open.len(), 9, "one connection is the client's");
    client.get_status(Default::default()).await.unwrap();
    let newcomer = server
        .client()
        .with_attempts(1)
        .with_deadline(Duration::from_secs(5));
    assert!(newcomer.get_status(Default::default()).await.is_err());
    drop(open);
    poll::until_async("room for a newcomer", PATIENCE, async || {
        let answer = newcomer.get_status(Default::default()).await;
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_watches_beyond_the_limit_are_refused_with_a_reason() {
    let options = Options::new()
        .set("CORETEX_LIMITS_MAX_SESSIONS", "3")
        .set("CORETEX_LIMITS_MAX_WATCHES", "2");
    let server = Server::start(options).await;
    let channel = server.channel().await;
    let mut workers = Vec::new();
    for _ in 0..3 {
        let worker = RawWorker::open(channel.clone(), "", hello("job.x", 1)).await;
        workers.push(worker.unwrap());
    }
    let refused = RawWorker::open(channel.clone(), "", hello("job.x", 1)).await;
    let error = coretex::Error::from(refused.unwrap_err());
    assert_eq!(
        error.reason(),
        Some(ErrorReason::TooManyStreams),
        "{error:?}"
    );
    assert!(error.retry_after().is_some());
    workers.pop();
    let again = poll::until_async("a session to be free", PATIENCE, async || {
        let opened = RawWorker::open(channel.clone(), "", hello("job.x", 1)).await;
        opened.map_err(|status| status.to_string())
    })
    .await;
    workers.push(again);

    let client = server.client();
    let mut watches = Vec::new();
    for _ in 0..2 {
        let mut watch = client.watch(WatchJobsRequest::default());
        in_time("the checkpoint", watch.next())
            .await
            .unwrap()
            .unwrap();
        watches.push(watch);
    }
    let mut service = coretex::proto::job_service_client::JobServiceClient::new(channel.clone());
    let refused = service.watch_jobs(WatchJobsRequest::default()).await;
    let error = coretex::Error::from(refused.unwrap_err());
    assert_eq!(
        error.reason(),
        Some(ErrorReason::TooManyStreams),
        "{error:?}"
    );
    watches.pop();
    poll::until_async("a watch to be free", PATIENCE, async || {
        let opened = service.watch_jobs(WatchJobsRequest::default()).await;
        opened.map(drop).map_err(|status| status.to_string())
    })
    .await;
    let workers = client
        .list_workers(ListWorkersRequest::default())
        .await
        .unwrap();
    assert_eq!(workers.workers.len(), 3);
}
