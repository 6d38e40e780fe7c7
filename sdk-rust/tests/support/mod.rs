//! A scripted server in this process: it speaks the real protocol over streams in memory, and does
//! nothing but what a test tells it.
//!
//! Memory instead of sockets lets tests run in virtual time: when everybody waits, time jumps to the
//! next timer. What is awaited here has a limit in virtual time, so a test that would hang fails.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test support: every test file uses a part, and a broken script may panic"
)]

pub mod fake;
pub mod session;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use coretex::proto::access_service_server::AccessServiceServer;
use coretex::proto::job_service_server::JobServiceServer;
use coretex::proto::worker_service_server::WorkerServiceServer;
use coretex::{Client, ClientBuilder};
use fake::{Fake, FakeWatch};
use parking_lot::Mutex;
use session::FakeSession;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;

/// Longer than anything that is waited for, in virtual time.
const PATIENCE: Duration = Duration::from_secs(300);

/// Waits for something that must happen.
pub async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, event).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen"),
    }
}

/// The server, as its test sees it.
pub struct FakeServer {
    pub fake: Arc<Fake>,
    sessions: mpsc::Receiver<FakeSession>,
    watches: mpsc::Receiver<FakeWatch>,
    incoming: mpsc::Sender<Result<DuplexStream, std::io::Error>>,
    pipes: Arc<Mutex<Vec<JoinHandle<()>>>>,
    refuse: Arc<Mutex<bool>>,
}

impl FakeServer {
    pub fn start() -> Self {
        let (incoming, accepted) = mpsc::channel(1_024);
        let (open, sessions) = mpsc::channel(1_024);
        let (watch, watches) = mpsc::channel(1_024);
        let fake = Arc::new(Fake::new(open, watch));
        let serving = Server::builder()
            .add_service(JobServiceServer::from_arc(Arc::clone(&fake)))
            .add_service(AccessServiceServer::from_arc(Arc::clone(&fake)))
            .add_service(WorkerServiceServer::from_arc(Arc::clone(&fake)))
            .serve_with_incoming(ReceiverStream::new(accepted));
        tokio::spawn(serving);
        Self {
            fake,
            sessions,
            watches,
            incoming,
            pipes: Arc::default(),
            refuse: Arc::default(),
        }
    }

    /// A client of this server, to be described further.
    pub fn builder(&self) -> ClientBuilder {
        let incoming = self.incoming.clone();
        let pipes = Arc::clone(&self.pipes);
        let refuse = Arc::clone(&self.refuse);
        Client::builder().connector(move |_uri| {
            let (client, mut client_far) = tokio::io::duplex(64 * 1024);
            let (server, mut server_far) = tokio::io::duplex(64 * 1024);
            let refused = *refuse.lock() || incoming.try_send(Ok(server)).is_err();
            // A pipe in between, so that a test can break it without either end's help.
            let pipe = tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut client_far, &mut server_far).await;
            });
            pipes.lock().push(pipe);
            async move {
                if refused {
                    return Err(std::io::ErrorKind::ConnectionRefused.into());
                }
                Ok(client)
            }
        })
    }

    pub fn client(&self) -> Client {
        self.builder().build().unwrap()
    }

    /// Breaks every connection, as a cable would.
    pub fn cut(&self) {
        for pipe in self.pipes.lock().drain(..) {
            pipe.abort();
        }
    }

    /// Refuses new connections, or takes them again.
    pub fn refuse(&self, refuse: bool) {
        *self.refuse.lock() = refuse;
    }

    /// How many connections have been made and not cut.
    pub fn connections(&self) -> usize {
        self.pipes.lock().len()
    }

    /// The next session that a worker opens; its hello has been read.
    pub async fn session(&mut self) -> FakeSession {
        let mut session = soon("a session", self.sessions.recv()).await.unwrap();
        session.read_hello().await;
        session
    }

    /// The next session, welcomed, with everything that it listed kept.
    pub async fn welcomed(&mut self) -> FakeSession {
        let session = self.session().await;
        session.welcome_all();
        session
    }

    /// Whether a worker has opened another session.
    pub fn has_session(&mut self) -> bool {
        !self.sessions.is_empty()
    }

    /// The next watch that a client opens.
    pub async fn watch(&mut self) -> FakeWatch {
        soon("a watch", self.watches.recv()).await.unwrap()
    }
}
