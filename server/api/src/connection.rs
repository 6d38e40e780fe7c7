//! One accepted connection: counted against a limit, and closed when it does not speak.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use futures::stream::unfold;
use metrics::{Counter, Gauge, counter, gauge};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::options::ApiOptions;

/// What the first words of HTTP/2 take; no request of HTTP/1 is shorter.
const PREFACE: usize = 24;
/// The pause after a failed accept: what it lacks (file descriptors, memory) does not come back at
/// once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections for ever.
pub(crate) fn accept(
    listener: TcpListener,
    options: &ApiOptions,
) -> impl Stream<Item = io::Result<Connection>> + use<> {
    let acceptor = Acceptor {
        listener,
        permits: Arc::new(Semaphore::new(options.max_connections)),
        patience: options.handshake_timeout,
        open: gauge!("grpc_connections_open"),
        refused: counter!("grpc_connections_refused_total"),
    };
    unfold(acceptor, |acceptor| async move {
        let connection = acceptor.next().await;
        Some((Ok(connection), acceptor))
    })
}

struct Acceptor {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    patience: Duration,
    open: Gauge,
    refused: Counter,
}

impl Acceptor {
    async fn next(&self) -> Connection {
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            // Closing it tells the client to try elsewhere; left waiting it would not know.
            let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
                self.refused.increment(1);
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "small messages of a connection may be late");
            }
            self.open.increment(1.0);
            return Connection {
                stream,
                silence: Some(Silence {
                    heard: 0,
                    patience: Box::pin(sleep(self.patience)),
                }),
                open: self.open.clone(),
                _permit: permit,
            };
        }
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    /// Until the client has said what it speaks.
    silence: Option<Silence>,
    open: Gauge,
    _permit: OwnedSemaphorePermit,
}

#[derive(Debug)]
struct Silence {
    heard: usize,
    patience: Pin<Box<Sleep>>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.open.decrement(1.0);
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(silence) = &mut self.silence else {
            return read;
        };
        silence.heard += buffer.filled().len() - before;
        if silence.heard >= PREFACE {
            self.silence = None;
        } else if read.is_pending() && silence.patience.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
