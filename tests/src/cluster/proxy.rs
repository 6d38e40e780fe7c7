//! A TCP proxy in this process whose connections can be cut, stalled and delayed.
//!
//! What it does to a connection is what networks do: a cut closes both ends, a stall leaves
//! both open and carries nothing (half-open), a delay lets every piece arrive late.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How much is read at once.
const PIECE: usize = 16 * 1024;

/// What happens to connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Weather {
    /// Connections made before the last cut are closed.
    cuts: u64,
    /// Connections made before this many stalls carry nothing.
    stalls: u64,
    /// New ones are closed at once.
    refuses: bool,
    delay: Duration,
}

/// A proxy to one address. Ends, with its connections, when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Starts a proxy to `target` on a free port.
    ///
    /// # Panics
    /// There is none.
    pub async fn start(target: SocketAddr) -> Self {
        let bound = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = bound.unwrap_or_else(|error| panic!("no port for a proxy: {error}"));
        let address = listener
            .local_addr()
            .unwrap_or_else(|error| panic!("a listener has no address: {error}"));
        let weather = watch::Sender::new(Weather::default());
        let accepting = tokio::spawn(accept(listener, target, weather.subscribe()));
        Self {
            address,
            weather,
            accepting,
        }
    }

    /// Where it listens, as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Closes all connections. New ones are carried.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Leaves all connections open and carries nothing on them any more. New ones are carried.
    pub fn stall(&self) {
        self.weather.send_modify(|weather| weather.stalls += 1);
    }

    /// Whether new connections are closed at once.
    pub fn refuse(&self, refuses: bool) {
        self.weather
            .send_modify(|weather| weather.refuses = refuses);
    }

    /// Lets everything arrive this much later.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, weather: watch::Receiver<Weather>) {
    while let Ok((inner, _)) = listener.accept().await {
        if weather.borrow().refuses {
            continue;
        }
        tokio::spawn(carry(inner, target, weather.clone()));
    }
}

/// Carries one connection until either side ends it or it is cut.
async fn carry(client: TcpStream, target: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let born = *weather.borrow();
    let Ok(server) = TcpStream::connect(target).await else {
        return;
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = pump(from_client, to_server, born, weather.clone());
    let down = pump(from_server, to_client, born, weather.clone());
    let cut = weather.wait_for(|weather| weather.cuts != born.cuts);
    tokio::select! {
        _ = cut => {}
        // Whoever ends one direction still hears what the other has to say.
        _ = async { tokio::join!(up, down) } => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    born: Weather,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        let now = *weather.borrow_and_update();
        if now.stalls != born.stalls {
            // Until it is cut.
            return std::future::pending().await;
        }
        if !now.delay.is_zero() {
            let changed = weather.wait_for(|weather| weather.delay.is_zero());
            let _ = tokio::time::timeout(now.delay, changed).await;
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
    }
}

#[cfg(test)]
#[expect(
    clippy::unwrap_used,
    reason = "a test may stop at what it did not expect"
)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;
    use crate::cluster::in_time;

    /// A server that sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        address
    }

    async fn ask(stream: &mut TcpStream) -> io::Result<u8> {
        stream.write_u8(7).await?;
        stream.read_u8().await
    }

    #[tokio::test]
    async fn connections_are_carried_delayed_stalled_and_cut() {
        let proxy = Proxy::start(echo().await).await;
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(in_time("an echo", ask(&mut stream)).await.unwrap(), 7);

        proxy.delay(Duration::from_millis(20));
        let asked = Instant::now();
        assert_eq!(in_time("a late echo", ask(&mut stream)).await.unwrap(), 7);
        assert!(asked.elapsed() >= Duration::from_millis(40));
        proxy.delay(Duration::ZERO);

        proxy.stall();
        let nothing = timeout(Duration::from_millis(50), ask(&mut stream)).await;
        assert!(nothing.is_err(), "a stalled connection carries {nothing:?}");
        let mut other = TcpStream::connect(proxy.address).await.unwrap();
        assert_eq!(in_time("an echo", ask(&mut other)).await.unwrap(), 7);

        proxy.refuse(true);
        proxy.cut();
        for stream in [&mut stream, &mut other] {
            assert!(in_time("the end", ask(stream)).await.is_err());
        }
        let mut refused = TcpStream::connect(proxy.address).await.unwrap();
        assert!(in_time("the end", ask(&mut refused)).await.is_err());
    }
}
