//! A TCP proxy that can hold, cut and redirect.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Default)]
struct State {
    target: AtomicU16,
    /// Answers of the server that went over connections that were held.
    answered: AtomicU64,
}

/// A proxy in front of one server at a time.
pub struct Proxy {
    pub port: u16,
    state: Arc<State>,
    /// Connections with lower numbers keep what their clients send.
    held: watch::Sender<u64>,
    /// Connections with lower numbers are cut.
    cut: watch::Sender<u64>,
    next: Arc<AtomicU64>,
}

impl Proxy {
    /// Starts a proxy in front of a port.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            port: listener.local_addr().unwrap().port(),
            state: Arc::default(),
            held: watch::Sender::new(0),
            cut: watch::Sender::new(0),
            next: Arc::new(AtomicU64::new(0)),
        };
        proxy.state.target.store(target, Ordering::Release);
        let (state, next) = (proxy.state.clone(), proxy.next.clone());
        let (held, cut) = (proxy.held.subscribe(), proxy.cut.subscribe());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let number = next.fetch_add(1, Ordering::AcqRel);
                let (state, held, cut) = (state.clone(), held.clone(), cut.clone());
                tokio::spawn(async move {
                    let port = state.target.load(Ordering::Acquire);
                    if let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await {
                        carry(number, client, server, &state, held, cut).await;
                    }
                });
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// From now on the connections that there are keep what their clients send.
    pub fn hold(&self) {
        self.held.send_replace(self.next.load(Ordering::Acquire));
    }

    /// From now on all connections, new ones too, keep what their clients send.
    pub fn hold_all(&self) {
        self.held.send_replace(u64::MAX);
    }

    /// What was kept goes on.
    pub fn release(&self) {
        self.held.send_replace(0);
    }

    /// Cuts every connection and sends new ones elsewhere.
    pub fn redirect(&self, target: u16) {
        self.state.target.store(target, Ordering::Release);
        self.cut.send_replace(self.next.load(Ordering::Acquire));
    }

    /// How many answers came back over connections that had been held.
    pub fn answered(&self) -> u64 {
        self.state.answered.load(Ordering::Acquire)
    }
}

async fn carry(
    number: u64,
    client: TcpStream,
    server: TcpStream,
    state: &State,
    mut held: watch::Receiver<u64>,
    mut cut: watch::Receiver<u64>,
) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let was_held = AtomicU64::new(0);
    let up = async {
        let mut buffer = vec![0; 64 * 1024];
        // Also what came before its client went away is delivered.
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            was_held.fetch_or(u64::from(*held.borrow() > number), Ordering::AcqRel);
            if held.wait_for(|held| *held <= number).await.is_err() {
                return;
            }
            if to_server.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
        // The server answers what it has got before it sees the end.
        let _ = to_server.shutdown().await;
    };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
            state
                .answered
                .fetch_add(was_held.load(Ordering::Acquire), Ordering::AcqRel);
            // A client that has gone away does not stop the server's answers.
            let _ = to_client.write_all(&buffer[..read]).await;
        }
    };
    tokio::select! {
        _ = cut.wait_for(|cut| *cut > number) => {}
        () = async { tokio::join!(up, down); } => {}
    }
}
