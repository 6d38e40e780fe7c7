//! One connection to one server, which never comes back once it is lost.
//!
//! The client library would reconnect by itself, keep what is published meanwhile and send it when
//! the server is back, however late. So each connection has a client of its own that may not
//! reconnect: what was on its way is lost with it, and [`supervisor`](super::supervisor) opens the
//! next one.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerAddr, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::error::Refusal;
use super::options::{Credentials, endpoint_of, read};
use super::{NatsError, NatsOptions};
use crate::{BusError, Feed};

/// Where a client goes that has lost its server: nobody can listen on port 0, so the one reconnect
/// that it is allowed fails at once without leaving the machine, and it ends.
const NOWHERE: &str = "nats://127.0.0.1:0";
/// Messages that the client may hold for one subscription before our own queue gets them. Only a
/// burst between two turns of the scheduler can fill it, because our side never waits.
const CLIENT_QUEUE: usize = 65_536;
/// Commands (publishes above all) that wait for the connection's own task. It writes them at once,
/// unless the server takes nothing.
const CLIENT_COMMANDS: usize = 2_048;
/// How long a publish waits for a place among those commands.
const PUBLISH_PATIENCE: Duration = Duration::from_millis(100);
/// Different complaints of a server that are worth a warning each, on one connection. Whoever
/// publishes where it must not is told for every message.
const COMPLAINTS: usize = 20;
/// The loss of a connection is told; this is how soon it is found out if the telling got lost.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the client tells about its connection.
#[derive(Default)]
struct Watch {
    gone: AtomicBool,
    noticed: Notify,
    /// Who loses a message when the client's own queue for a subscription overflows.
    feeds: Mutex<HashMap<u64, Feed>>,
    complaints: Mutex<BTreeSet<String>>,
}

impl Watch {
    fn hear(&self, event: Event) {
        match event {
            Event::Disconnected | Event::Closed => {
                self.gone.store(true, Ordering::Release);
                self.noticed.notify_one();
            }
            Event::SlowConsumer(sid) => {
                if let Some(feed) = self.feeds.lock().get(&sid) {
                    feed.add_lost(1);
                }
            }
            Event::ServerError(error) => {
                let mut complaints = self.complaints.lock();
                if complaints.len() < COMPLAINTS && complaints.insert(error.to_string()) {
                    tracing::warn!(%error, "nats server complains");
                }
            }
            Event::LameDuckMode => tracing::info!("nats server is about to stop"),
            Event::Connected | Event::Draining | Event::ClientError(_) => {}
        }
    }
}

/// A connection.
pub(super) struct Link {
    client: Client,
    watch: Arc<Watch>,
    /// The number that the client gives the next subscription. It does not tell; it counts from 1.
    next_sid: AtomicU64,
    pub(super) endpoint: String,
}

/// One subscription on one connection. Dropping it unsubscribes.
pub(super) struct Flow {
    subscriber: Subscriber,
    _listed: Listed,
}

/// The entry of a subscription among those who lose messages.
struct Listed {
    sid: u64,
    watch: Arc<Watch>,
}

impl Link {
    /// Connects and logs in.
    pub(super) async fn open(options: &NatsOptions, server: &ServerAddr) -> Result<Self, Refusal> {
        let endpoint = endpoint_of(server);
        let watch = Arc::new(Watch::default());
        let connect = log_in(ConnectOptions::new(), options)
            .await
            .map_err(Refusal::Final)?;
        let connect = with_certificates(connect, options)
            .require_tls(options.tls)
            .name(&options.name)
            .connection_timeout(options.connect_timeout)
            .ping_interval(options.ping_interval)
            .client_capacity(CLIENT_COMMANDS)
            .subscription_capacity(CLIENT_QUEUE)
            .ignore_discovered_servers()
            .max_reconnects(1)
            // Our own supervisor waits between tries.
            .reconnect_delay_callback(|_| Duration::ZERO)
            .event_callback({
                let watch = Arc::clone(&watch);
                move |event| {
                    watch.hear(event);
                    std::future::ready(())
                }
            });
        let client = connect
            .connect(server.clone())
            .await
            .map_err(|error| Refusal::from_client(&error, &endpoint))?;
        let settled = client.set_server_pool(NOWHERE).await;
        settled.map_err(|_| Refusal::Later(format!("{endpoint}: connection closed at once")))?;
        Ok(Self {
            client,
            watch,
            next_sid: AtomicU64::new(1),
            endpoint,
        })
    }

    /// Whether the connection is there, as far as is known.
    pub(super) fn is_up(&self) -> bool {
        !self.watch.gone.load(Ordering::Acquire)
            && self.client.connection_state() == State::Connected
    }

    /// Returns when the connection is lost.
    pub(super) async fn lost(&self) {
        while self.is_up() {
            // One waiter only, so a permit that comes before the wait is not lost.
            let _ = tokio::time::timeout(LOOK_EVERY, self.watch.noticed.notified()).await;
        }
    }

    /// The version of the server.
    pub(super) fn server_version(&self) -> String {
        self.client.server_info().version
    }

    /// The largest payload that the server takes.
    pub(super) fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Hands a message to the connection.
    pub(super) async fn publish(&self, subject: String, payload: Bytes) -> Result<(), BusError> {
        let handed = self.client.publish(subject, payload);
        match tokio::time::timeout(PUBLISH_PATIENCE, handed).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.unavailable(error)),
            Err(_) => Err(self.unavailable("the server takes no more messages")),
        }
    }

    /// Subscribes; a publish handed over later finds it. `feed` is told what the client loses. Calls
    /// come one at a time.
    pub(super) async fn subscribe(
        &self,
        pattern: &str,
        group: Option<&str>,
        feed: Option<&Feed>,
    ) -> Result<Flow, BusError> {
        let listed = Listed {
            sid: self.next_sid.fetch_add(1, Ordering::Relaxed),
            watch: Arc::clone(&self.watch),
        };
        if let Some(feed) = feed {
            self.watch.feeds.lock().insert(listed.sid, feed.clone());
        }
        let pattern = pattern.to_owned();
        let subscribed = match group {
            Some(group) => self.client.queue_subscribe(pattern, group.to_owned()).await,
            None => self.client.subscribe(pattern).await,
        };
        let subscriber = subscribed.map_err(|error| self.unavailable(error))?;
        Ok(Flow {
            subscriber,
            _listed: listed,
        })
    }

    /// Goes to the server and back: then everything published on this connection before has been
    /// handed to its own subscriptions.
    pub(super) async fn round_trip(&self) -> Result<(), BusError> {
        let inbox = self.client.new_inbox();
        let unique = inbox.rsplit('.').next().unwrap_or(&inbox);
        let subject = format!("coretex.echo.{unique}");
        let mut echo = self.subscribe(&subject, None, None).await?;
        self.publish(subject, Bytes::new()).await?;
        match echo.next().await {
            Some(_) => Ok(()),
            None => Err(self.unavailable("connection lost")),
        }
    }

    /// Unsubscribes everything and closes; flows give what they hold and end.
    pub(super) async fn close(&self) {
        // An error means that it is closed already.
        let _ = self.client.drain().await;
    }

    fn unavailable(&self, reason: impl fmt::Display) -> BusError {
        BusError::Unavailable {
            reason: format!("{}: {reason}", self.endpoint),
        }
    }
}

impl Flow {
    /// The next message; `None` once the connection is lost or closed.
    pub(super) async fn next(&mut self) -> Option<async_nats::Message> {
        self.subscriber.next().await
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.watch.feeds.lock().remove(&self.sid);
    }
}

async fn log_in(
    connect: ConnectOptions,
    options: &NatsOptions,
) -> Result<ConnectOptions, NatsError> {
    Ok(match options.credentials() {
        None => connect,
        Some(Credentials::Password { user, password }) => {
            connect.user_and_password(user.clone(), password.0.clone())
        }
        Some(Credentials::Token(token)) => connect.token(token.0.clone()),
        Some(Credentials::File(file)) => {
            connect.credentials(&read(file).await?).map_err(|error| {
                NatsError::Options(format!("credentials file {}: {error}", file.display()))
            })?
        }
        Some(Credentials::Nkey(file)) => connect.nkey(read(file).await?.trim().to_owned()),
    })
}

fn with_certificates(mut connect: ConnectOptions, options: &NatsOptions) -> ConnectOptions {
    if let Some(file) = &options.root_certificates {
        connect = connect.add_root_certificates(file.clone());
    }
    if let Some((certificate, key)) = &options.client_certificate {
        connect = connect.add_client_certificate(certificate.clone(), key.clone());
    }
    connect
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::TcpListener;

    use super::*;
    use crate::Subscription;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// The numbers of subscriptions are counted here as the client counts them: what it says about
    /// one by number must reach the right one.
    #[tokio::test]
    async fn a_message_that_the_client_loses_is_counted_where_it_belongs() -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        // The least that a server has to say, and the lines that subscribe.
        let server = tokio::spawn(async move {
            let (peer, _) = listener.accept().await?;
            let (read, mut write) = peer.into_split();
            write
                .write_all(b"INFO {\"server_id\":\"x\",\"max_payload\":9}\r\n")
                .await?;
            let mut lines = BufReader::new(read).lines();
            let mut seen = Vec::new();
            while seen.len() < 3 {
                let line = lines.next_line().await?.unwrap_or_default();
                match line.split(' ').next() {
                    Some("PING") => write.write_all(b"PONG\r\n").await?,
                    Some("SUB") => seen.push(line),
                    _ => {}
                }
            }
            Ok::<_, std::io::Error>(seen)
        });
        let options = NatsOptions::new(&format!("nats://{address}"))?;
        let link = Link::open(&options, &options.servers[0])
            .await
            .map_err(Refusal::into_reason)?;
        assert_eq!(link.max_payload(), 9);
        let (feed, subscription) = Subscription::channel(1);
        let (other_feed, other) = Subscription::channel(1);
        let first = link.subscribe("one", None, None).await?;
        let second = link.subscribe("two", Some("g"), Some(&feed)).await?;
        let third = link.subscribe("three", None, Some(&other_feed)).await?;
        let sids = [&first, &second, &third].map(|flow| flow._listed.sid);
        let [one, two, three] = sids;
        assert_eq!(
            server.await??,
            [
                format!("SUB one {one}"),
                format!("SUB two g {two}"),
                format!("SUB three {three}")
            ]
        );
        link.watch.hear(Event::SlowConsumer(two));
        assert_eq!((subscription.lagged(), other.lagged()), (1, 0));
        drop((first, second, third));
        assert!(link.watch.feeds.lock().is_empty());
        Ok(())
    }
}
