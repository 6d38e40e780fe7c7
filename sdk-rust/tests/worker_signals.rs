//! SIGTERM drains a worker. Over a real socket, and alone in its file: a signal is for the process.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod support;

use std::process::{Command, id};
use std::sync::Arc;

use coretex::proto::open_session_request::Message as FromWorker;
use coretex::proto::worker_service_server::WorkerServiceServer;
use coretex::{Client, Worker};
use support::fake::Fake;
use support::soon;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

#[tokio::test]
async fn sigterm_lets_jobs_finish_and_ends_the_worker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (open, mut sessions) = mpsc::channel(16);
    let (watch, _watches) = mpsc::channel(16);
    let service = WorkerServiceServer::new(Fake::new(open, watch));
    let serving = Server::builder().add_service(service);
    tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));

    let finish = Arc::new(Notify::new());
    let finished = Arc::clone(&finish);
    let client = Client::new(format!("http://{address}")).unwrap();
    let worker = Worker::new(client)
        .topic("job.test")
        .handler(move |_ctx, _job| {
            let finished = Arc::clone(&finished);
            async move {
                finished.notified().await;
                Ok("finished")
            }
        });
    let running = tokio::spawn(worker.run());

    let mut session = soon("a session", sessions.recv()).await.unwrap();
    session.read_hello().await;
    assert!(
        session.hello.worker_id.contains(&id().to_string()),
        "the default name"
    );
    session.welcome_all();
    session.assign("a");
    session.started().await;

    let sent = Command::new("kill")
        .args(["-TERM", &id().to_string()])
        .status();
    assert!(sent.unwrap().success());
    assert!(matches!(session.next().await, Some(FromWorker::Drain(_))));
    assert!(!running.is_finished());
    finish.notify_one();
    let result = session.result().await;
    session.ack(&result);
    session.closed().await;
    drop(session);
    soon("the end", running).await.unwrap().unwrap();
}
