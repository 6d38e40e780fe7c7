//! The engine on NATS servers: the bus of many replicas.
//!
//! Core NATS only, and one connection per handle. The connection is watched and opened again for
//! ever ([`NatsOptions`] says how patiently); the subscriptions of the handle move to every new one.
//! While it is away a publish fails at once, and nothing is kept to be sent later: a doorbell that
//! rings minutes late is worth nothing, and whoever listens looks into the store from time to time
//! anyway. What was handed to a connection when it broke is lost with it, or still delivered by a
//! server that was only paused: at most what was published within three ping intervals.

mod error;
mod link;
mod members;
mod options;
mod supervisor;

pub use error::NatsError;
pub use options::NatsOptions;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::{Mutex, watch};

use crate::bus::MAX_PAYLOAD;
use crate::subject::{check_group, check_pattern, check_subject};
use crate::{Bus, BusError, BusInfo, Subscription};
use link::Link;
use members::Members;
use supervisor::Caller;

/// What a drain spends at most, of its grace, on the way to the server and back.
const ROUND_TRIP: Duration = Duration::from_secs(2);

/// What a handle has of a connection.
enum State {
    Up(Arc<Link>),
    Down(String),
    Closed,
}

/// What the handle shares with its supervisor.
struct Shared {
    state: RwLock<State>,
    members: Members,
    /// Subscribing on a connection and moving to another one take turns.
    turn: Mutex<()>,
    /// As the last server said.
    max_payload: AtomicUsize,
    /// The same.
    version: RwLock<String>,
    stop: watch::Sender<bool>,
}

impl Shared {
    /// The connection, if there is one.
    fn link(&self) -> Result<Arc<Link>, BusError> {
        let reason = match &*self.state.read() {
            State::Up(link) if link.is_up() => return Ok(Arc::clone(link)),
            State::Up(_) => "connection lost".to_owned(),
            State::Down(reason) => reason.clone(),
            State::Closed => return Err(BusError::Closed),
        };
        Err(BusError::Unavailable { reason })
    }

    /// Changes the state, unless the handle is closed: then it stays so.
    fn replace(&self, next: State) -> bool {
        let mut state = self.state.write();
        let open = !matches!(*state, State::Closed);
        if open {
            *state = next;
        }
        open
    }

    /// Puts the subscriptions on a new connection and then uses it.
    async fn put_up(&self, link: Arc<Link>) -> Result<Arc<Link>, BusError> {
        let _turn = self.turn.lock().await;
        self.members.attach(&link).await?;
        self.max_payload
            .store(link.max_payload().min(MAX_PAYLOAD), Ordering::Relaxed);
        *self.version.write() = link.server_version();
        if self.replace(State::Up(Arc::clone(&link))) {
            Ok(link)
        } else {
            Err(BusError::Closed)
        }
    }

    /// Returns when the handle is closed.
    async fn stopped(&self) {
        // An error would mean that the sender is gone, which lives as long as `self`.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Closes the handle; returns the connection it had.
    fn close(&self) -> Option<Arc<Link>> {
        let last = std::mem::replace(&mut *self.state.write(), State::Closed);
        self.stop.send_replace(true);
        match last {
            State::Up(link) => Some(link),
            State::Down(_) | State::Closed => None,
        }
    }
}

/// One member (one replica) of the bus that NATS servers make.
///
/// Dropping it ends its subscriptions and may lose what was published a moment ago; [`Bus::drain`]
/// before that lets them be read and sends it.
///
/// ```no_run
/// use coretex_bus::nats::{NatsBus, NatsOptions};
/// use coretex_bus::{Bus, subject};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let options = NatsOptions::new("tls://one:4222,tls://two:4222")?
///     .credentials_file("/etc/coretex/bus.creds")
///     .name("coretexd r-1");
/// let bus = NatsBus::connect(options).await?;
/// let mut doorbell = bus.subscribe(subject::READY_ALL, None).await?;
/// bus.publish(&subject::ready("default"), "look".into()).await?;
/// doorbell.next().await;
/// # Ok(())
/// # }
/// ```
pub struct NatsBus {
    shared: Arc<Shared>,
    options: Arc<NatsOptions>,
}

impl NatsBus {
    /// Connects, waiting a bounded time for a server that is not there yet.
    ///
    /// # Errors
    /// [`NatsError::Options`], [`NatsError::Credentials`] and [`NatsError::Tls`] at once,
    /// [`NatsError::Unreachable`] when the startup timeout is over.
    pub async fn connect(options: NatsOptions) -> Result<Self, NatsError> {
        options.check().await?;
        let options = Arc::new(options);
        let mut caller = Caller::new(Arc::clone(&options));
        let link = Arc::new(caller.first().await?);
        tracing::info!(endpoint = link.endpoint, "nats connected");
        let shared = Arc::new(Shared {
            max_payload: AtomicUsize::new(link.max_payload().min(MAX_PAYLOAD)),
            version: RwLock::new(link.server_version()),
            state: RwLock::new(State::Up(Arc::clone(&link))),
            members: Members::default(),
            turn: Mutex::new(()),
            stop: watch::Sender::new(false),
        });
        tokio::spawn(supervisor::run(Arc::clone(&shared), caller, link));
        Ok(Self { shared, options })
    }

    /// The version of the server that was last connected to.
    #[must_use]
    pub fn server_version(&self) -> String {
        self.shared.version.read().clone()
    }

    /// How many subscriptions this handle keeps.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.shared.members.count()
    }
}

#[async_trait]
impl Bus for NatsBus {
    async fn publish(&self, subject: &str, payload: Bytes) -> Result<(), BusError> {
        check_subject(subject)?;
        let limit = self.shared.max_payload.load(Ordering::Relaxed);
        if payload.len() > limit {
            return Err(BusError::TooLarge {
                size: payload.len(),
                limit,
            });
        }
        let link = self.shared.link()?;
        link.publish(subject.to_owned(), payload).await
    }

    async fn subscribe(
        &self,
        subject: &str,
        group: Option<&str>,
    ) -> Result<Subscription, BusError> {
        check_pattern(subject)?;
        group.map_or(Ok(()), check_group)?;
        let _turn = self.shared.turn.lock().await;
        let link = self.shared.link()?;
        self.shared
            .members
            .add(&link, subject, group, self.options.queue_capacity)
            .await
    }

    async fn drain(&self, grace: Duration) {
        let until = members::deadline(grace);
        let last = self.shared.close();
        let closing = async {
            // A subscribe that has passed its look at the state finishes first.
            let _turn = self.shared.turn.lock().await;
            let link = last?;
            let there_and_back = tokio::time::timeout(ROUND_TRIP, link.round_trip()).await;
            there_and_back.ok()?.ok()?;
            link.close().await;
            Some(())
        };
        let closed = tokio::time::timeout_at(until, closing).await;
        let closed = matches!(closed, Ok(Some(())));
        if !closed {
            tracing::debug!("bus drained without its server");
        }
        self.shared.members.finish(until, closed).await;
    }

    fn info(&self) -> BusInfo {
        BusInfo {
            engine: "nats",
            endpoint: self.options.endpoint(),
            max_payload: self.shared.max_payload.load(Ordering::Relaxed),
            queue_capacity: self.options.queue_capacity,
        }
    }

    fn healthy(&self) -> bool {
        self.shared.link().is_ok()
    }
}

impl Drop for NatsBus {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.members.end();
    }
}

impl fmt::Debug for NatsBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsBus")
            .field("endpoint", &self.options.endpoint())
            .field("healthy", &self.healthy())
            .finish_non_exhaustive()
    }
}
