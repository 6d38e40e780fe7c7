//! The stream of a session, both ways.
//!
//! Bounded throughout: one message is read at a time, a few wait to be written, and they are
//! converted only when the transport takes them. A worker that does not read loses its session.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use coretex_engine::{Engine, Error, Session, SessionEnd, ToWorker, Welcome};
use coretex_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::{Status, Streaming};
use tracing::Instrument;

use crate::call::Call;
use crate::convert::session as convert;
use crate::problem::{Problem, Result};

/// Messages that wait for the transport, beside what it buffers itself.
const OUTBOX: usize = 16;
/// How long the first message may take.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// How long the outbox may stay full. One in which something waits is looked at as often: a worker
/// that has taken nothing between two looks does not read.
const READ_PATIENCE: Duration = Duration::from_secs(10);
/// How long the reason for an end may wait for a full outbox.
const PARTING_PATIENCE: Duration = Duration::from_secs(1);

/// Something to write.
#[derive(Debug)]
enum Outgoing {
    Welcome(Welcome),
    Message(ToWorker),
    Failed(Status),
}

/// The stream of responses of one session.
#[derive(Debug)]
pub(crate) struct Outbox {
    receiver: mpsc::Receiver<Outgoing>,
    taken: Arc<AtomicU64>,
}

/// What writes to an [`Outbox`].
struct Writer {
    sender: mpsc::Sender<Outgoing>,
    /// How many messages the transport has taken.
    taken: Arc<AtomicU64>,
}

impl Writer {
    async fn deliver(&self, outgoing: Outgoing) -> Result<()> {
        // A closed outbox ends the session in `run`.
        match self.sender.send_timeout(outgoing, READ_PATIENCE).await {
            Ok(()) | Err(mpsc::error::SendTimeoutError::Closed(_)) => Ok(()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => Err(Problem::WorkerTooSlow),
        }
    }

    /// Messages that wait, and how many have been taken before them.
    fn waiting(&self) -> (usize, u64) {
        let waiting = self.sender.max_capacity() - self.sender.capacity();
        (waiting, self.taken.load(Ordering::Relaxed))
    }
}

impl Stream for Outbox {
    type Item = std::result::Result<v1::OpenSessionResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.receiver.poll_recv(cx).map(|next| {
            self.taken.fetch_add(1, Ordering::Relaxed);
            next.map(|outgoing| match outgoing {
                Outgoing::Welcome(welcome) => Ok(convert::welcome(&welcome)),
                Outgoing::Message(message) => Ok(convert::write(message)),
                Outgoing::Failed(status) => Err(status),
            })
        })
    }
}

/// Starts a session; it ends with the stream of either side.
pub(crate) fn open(
    engine: Engine,
    call: Call,
    inbound: Streaming<v1::OpenSessionRequest>,
) -> Outbox {
    let (sender, receiver) = mpsc::channel(OUTBOX);
    let taken = Arc::new(AtomicU64::new(0));
    let writer = Writer {
        sender,
        taken: Arc::clone(&taken),
    };
    let span = tracing::info_span!("session", request_id = %call.request_id);
    tokio::spawn(run(engine, call, inbound, writer).instrument(span));
    Outbox { receiver, taken }
}

async fn run(
    engine: Engine,
    call: Call,
    mut inbound: Streaming<v1::OpenSessionRequest>,
    writer: Writer,
) {
    let ended = tokio::select! {
        ended = converse(&engine, &call, &mut inbound, &writer) => ended,
        () = writer.sender.closed() => Ok(()),
    };
    if let Err(problem) = ended {
        let status = call.status(problem);
        tracing::debug!(code = ?status.code(), "session refused or ended");
        // One that does not read does not read this either.
        let _ = writer
            .sender
            .send_timeout(Outgoing::Failed(status), PARTING_PATIENCE)
            .await;
    }
}

/// From hello to the end. Dropping it ends the engine's session as cut.
async fn converse(
    engine: &Engine,
    call: &Call,
    inbound: &mut Streaming<v1::OpenSessionRequest>,
    writer: &Writer,
) -> Result<()> {
    let limits = engine.limits();
    let first = timeout(HELLO_PATIENCE, next(inbound)).await;
    let first = match first {
        Ok(read) => read?,
        Err(_) => None,
    };
    let hello = convert::hello(first.ok_or(Problem::HelloExpected)?, limits)?;
    let mut session = engine.open_session(&call.caller, hello).await?;
    let outbound = session.outbound();
    writer
        .deliver(Outgoing::Welcome(session.welcome.clone()))
        .await?;

    let mut said_farewell = false;
    // The engine's side first: when it has closed the session, what the worker still says is moot.
    let ended = tokio::select! {
        biased;
        closed = forward(outbound, writer) => closed.map(|()| Ended::ByEngine),
        left = listen(engine, &session, inbound, &mut said_farewell) => left.map(|()| Ended::ByWorker),
    };
    match ended {
        Ok(Ended::ByWorker) => {
            // A stream that just stops may be a broken connection, whatever it looks like: only
            // one that was announced is a farewell.
            session.end(said_farewell).await;
            Ok(())
        }
        Ok(Ended::ByEngine) => Err(why_ended(engine, &session)),
        // The engine refuses messages of a session that it has ended.
        Err(Problem::Engine(Error::Protocol { .. }))
            if engine.is_draining() || session.why_ended().is_some() =>
        {
            Err(why_ended(engine, &session))
        }
        Err(problem) => Err(problem),
    }
}

enum Ended {
    ByWorker,
    ByEngine,
}

/// Reads until the worker's stream ends.
async fn listen(
    engine: &Engine,
    session: &Session,
    inbound: &mut Streaming<v1::OpenSessionRequest>,
    said_farewell: &mut bool,
) -> Result<()> {
    while let Some(message) = next(inbound).await? {
        let message = convert::message(message, engine.limits())?;
        *said_farewell |= matches!(message, coretex_engine::FromWorker::Drain);
        session.receive(message).await?;
    }
    Ok(())
}

async fn next(
    inbound: &mut Streaming<v1::OpenSessionRequest>,
) -> Result<Option<v1::OpenSessionRequest>> {
    inbound
        .message()
        .await
        .map_err(|status| unreadable(&status))
}

/// Writes until the engine closes the session.
async fn forward(mut outbound: mpsc::Receiver<ToWorker>, writer: &Writer) -> Result<()> {
    let mut look = tokio::time::interval(READ_PATIENCE);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = None;
    loop {
        tokio::select! {
            message = outbound.recv() => match message {
                Some(message) => writer.deliver(Outgoing::Message(message)).await?,
                None => return Ok(()),
            },
            _ = look.tick() => {
                let (waiting, taken) = writer.waiting();
                if waiting > 0 && seen == Some(taken) {
                    return Err(Problem::WorkerTooSlow);
                }
                seen = (waiting > 0).then_some(taken);
            }
        }
    }
}

/// Why the engine has ended a session.
fn why_ended(engine: &Engine, session: &Session) -> Problem {
    match session.why_ended() {
        Some(SessionEnd::Silent) => Problem::HeartbeatMissed,
        Some(SessionEnd::Superseded) => Problem::SessionSuperseded,
        Some(SessionEnd::TooSlow) => Problem::WorkerTooSlow,
        Some(SessionEnd::CredentialInvalid) => Error::CredentialInvalid.into(),
        Some(SessionEnd::Fenced) => Error::Unavailable {
            reason: "this server was taken for dead by the others".to_owned(),
        }
        .into(),
        // The worker's own doing, which is not told to it, or the end of the server.
        Some(SessionEnd::Left | SessionEnd::Cut) | None if engine.is_draining() => {
            Error::Draining.into()
        }
        Some(SessionEnd::Left | SessionEnd::Cut) | None => Problem::WorkerTooSlow,
    }
}

/// Why nothing more can be read: a broken connection, or what is no message.
fn unreadable(status: &Status) -> Problem {
    match status.code() {
        tonic::Code::OutOfRange | tonic::Code::ResourceExhausted => Problem::RequestTooLarge,
        _ => Problem::Undecodable {
            description: status.message().to_owned(),
        },
    }
}
