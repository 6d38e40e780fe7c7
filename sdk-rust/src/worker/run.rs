//! One connection after the other for as long as the worker lives, and the way out.

use std::sync::Arc;
use std::time::Duration;

use coretex_proto::v1::WorkerHeartbeat;
use coretex_proto::v1::open_session_request::Message as Out;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, sleep, sleep_until};
use tonic::{Code, Status};

use super::load::Probe;
use super::session::{self, Next, Session};
use super::shared::Shared;
use super::{Orders, Stop, WorkerHandle, WorkerStatus};
use crate::Error;
use crate::backoff::Backoff;

/// Pauses between connections. The longest is far below the adoption window, or attempts would be
/// lost because the worker was too polite.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A session that lasted this long was a good one: the next trouble is new trouble.
const GOOD_SESSION: Duration = Duration::from_secs(1);
/// At least this long between two reports of progress to the server.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// How long handlers have to stop after the drain grace.
const STOP_NOTICE: Duration = Duration::from_secs(2);
/// How long the worker stays after that, to bring away the last results.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How many messages are handled before everything else gets its turn.
const BATCH: usize = 64;

/// What a running worker gets from its description.
pub(super) struct Outside<'a> {
    pub(super) orders: watch::Receiver<Orders>,
    pub(super) status: &'a watch::Sender<WorkerStatus>,
    pub(super) handle: WorkerHandle,
    pub(super) signals: bool,
    pub(super) probe: Probe,
}

/// Ends a task with its owner.
struct Owned(JoinHandle<()>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How far the worker is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Working,
    /// What runs may finish until then.
    Draining {
        until: Instant,
    },
    /// What runs has been told to stop; nobody waits longer than until then.
    Stopping {
        until: Instant,
    },
}

/// Follows the orders from outside.
struct Departure {
    orders: watch::Receiver<Orders>,
    grace: Duration,
    /// How many may run at once, as last ordered.
    limit: usize,
    way: Way,
}

impl Departure {
    /// Does what is due. True when it is time to leave.
    fn step(&mut self, shared: &Arc<Shared>) -> bool {
        let now = Instant::now();
        let orders = *self.orders.borrow_and_update();
        if self.way == Way::Working {
            if self.limit != orders.max_parallel_jobs {
                self.limit = orders.max_parallel_jobs;
                shared.change(|table| table.set_limit(orders.max_parallel_jobs, now));
            }
            if orders.stop == Stop::No {
                return false;
            }
            tracing::info!(grace = ?self.grace, "draining");
            shared.with(super::table::Table::drain);
            let until = now
                .checked_add(self.grace)
                .unwrap_or(now + Duration::from_secs(86_400));
            self.way = Way::Draining { until };
        }
        if let Way::Draining { until } = self.way
            && (now >= until || orders.stop == Stop::Now)
        {
            let end = now + STOP_NOTICE;
            shared.with(|table| table.shut_down(end));
            self.way = Way::Stopping {
                until: end + LAST_WORDS,
            };
        }
        let over = matches!(self.way, Way::Stopping { until } if now >= until);
        over || shared.with(|table| table.is_empty())
    }

    /// Returns when it is time to leave. May be dropped and called again.
    async fn time(&mut self, shared: &Arc<Shared>) {
        while !self.step(shared) {
            let next = match self.way {
                Way::Working => None,
                Way::Draining { until } | Way::Stopping { until } => Some(until),
            };
            tokio::select! {
                // The sender lives as long as the worker.
                _ = self.orders.changed() => {}
                () = shared.settled.notified() => {}
                () = at(next) => {}
            }
        }
    }
}

/// Waits for a point in time that may not exist.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Why a session is over.
enum Ended {
    Lost(Error),
    Leave,
}

pub(super) async fn run(shared: &Arc<Shared>, outside: Outside<'_>) -> Result<(), Error> {
    let signals = outside.signals.then(|| watch_signals(&outside.handle));
    let _signals = signals.transpose()?;
    let mut departure = Departure {
        orders: outside.orders,
        grace: shared.config.drain_grace,
        limit: shared.with(|table| table.limit()),
        way: Way::Working,
    };
    let mut probe = outside.probe;
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut ever_connected = false;
    for turn in 0.. {
        outside.status.send_replace(WorkerStatus::Connecting);
        let opened = tokio::select! {
            opened = session::open(shared, turn) => opened,
            () = departure.time(shared) => break,
        };
        let error = match opened {
            Ok(session) => {
                ever_connected = true;
                let opened = session.opened;
                let work = serve(shared, session, outside.status, &mut departure, &mut probe);
                match work.await {
                    Ended::Leave => break,
                    Ended::Lost(error) => {
                        if opened.elapsed() >= GOOD_SESSION {
                            backoff.reset();
                        }
                        error
                    }
                }
            }
            Err(error) if !ever_connected && hopeless(&error) => return Err(error),
            Err(error) => error,
        };
        let pause = backoff.next(shared.client.shared.entropy.fraction());
        let pause = pause.max(error.retry_after().unwrap_or_default().min(LONGEST_PAUSE));
        tracing::warn!(%error, ?pause, "not connected, trying again");
        tokio::select! {
            () = sleep(pause) => {}
            () = departure.time(shared) => break,
        }
    }
    tracing::info!("left");
    Ok(())
}

/// Whether a first session was refused for a reason that time does not change.
fn hopeless(error: &Error) -> bool {
    match error.code() {
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::InvalidArgument
        | Code::FailedPrecondition
        | Code::Unimplemented => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => false,
    }
}

/// Works in one session, and in those that servers on their way out hand it over to.
async fn serve(
    shared: &Arc<Shared>,
    mut session: Session,
    status: &watch::Sender<WorkerStatus>,
    departure: &mut Departure,
    probe: &mut Probe,
) -> Ended {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut handover: Option<BoxFuture<'static, Result<Session, Error>>> = None;
    let mut turn = 0;
    let mut beat = heartbeat(&session);
    // The server may be left from now on, so only here it counts as connected.
    announce(status, &session);
    let mut quiet_until = Instant::now();
    // Reported or streamed while there was no connection.
    let mut progress_waits = true;
    let mut output_at = Some(Instant::now());
    loop {
        let expiry = shared.with(|table| table.expire(Instant::now()));
        let flush = progress_waits.then_some(quiet_until);
        tokio::select! {
            message = session.inbound.message() => {
                match receive(shared, &mut session, message) {
                    Ok(Next::Continue) => {}
                    Ok(Next::HandOver) if handover.is_none() => {
                        handover = Some(open_another(shared, turn, Duration::ZERO));
                    }
                    Ok(Next::HandOver) => {}
                    Err(error) => {
                        shared.with(super::table::Table::detach);
                        return Ended::Lost(error);
                    }
                }
            }
            _ = beat.tick() => {
                let load = probe.measure();
                let active = shared.with(|table| {
                    table.resend_overdue(Instant::now());
                    table.active()
                });
                output_at = Some(Instant::now());
                session.outbox.push(Out::Heartbeat(WorkerHeartbeat {
                    active_jobs: i32::try_from(active).unwrap_or(i32::MAX),
                    cpu_load: load.cpu_percent,
                    gpu_utilization: load.gpu_percent,
                }));
            }
            () = shared.progressed.notified() => progress_waits = true,
            () = shared.streamed.notified() => {
                output_at = shared.with(|table| table.flush_output(Instant::now()));
            }
            () = at(output_at) => {
                output_at = shared.with(|table| table.flush_output(Instant::now()));
            }
            () = at(flush) => {
                progress_waits = false;
                quiet_until = Instant::now() + PROGRESS_INTERVAL;
                shared.with(super::table::Table::flush_progress);
            }
            () = at(expiry) => {}
            () = departure.time(shared) => {
                farewell(session).await;
                return Ended::Leave;
            }
            opened = async { Some(handover.as_mut()?.await) }, if handover.is_some() => {
                turn += 1;
                match opened {
                    Some(Ok(next)) => {
                        handover = None;
                        session.outbox.close();
                        session = next;
                        output_at = Some(Instant::now());
                        beat = heartbeat(&session);
                        announce(status, &session);
                        backoff.reset();
                    }
                    Some(Err(error)) => {
                        // Better this server for as long as it lasts than none.
                        let outbox = session.outbox.clone();
                        shared.change(|table| table.reattach(outbox, Instant::now()));
                        output_at = Some(Instant::now());
                        let pause = backoff.next(shared.client.shared.entropy.fraction());
                        tracing::debug!(%error, ?pause, "no other server yet");
                        handover = Some(open_another(shared, turn, pause));
                    }
                    None => {}
                }
            }
        }
    }
}

fn announce(status: &watch::Sender<WorkerStatus>, session: &Session) {
    status.send_replace(WorkerStatus::Connected {
        worker_id: session.worker_id.clone(),
        session_id: session.session_id.clone(),
    });
}

fn heartbeat(session: &Session) -> tokio::time::Interval {
    let mut beat = tokio::time::interval(session.heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

fn open_another(
    shared: &Arc<Shared>,
    turn: usize,
    pause: Duration,
) -> BoxFuture<'static, Result<Session, Error>> {
    let shared = Arc::clone(shared);
    async move {
        sleep(pause).await;
        session::open(&shared, turn).await
    }
    .boxed()
}

/// Handles a message and those that have already come after it.
fn receive(
    shared: &Arc<Shared>,
    session: &mut Session,
    first: Result<Option<coretex_proto::v1::OpenSessionResponse>, Status>,
) -> Result<Next, Error> {
    let mut message = first;
    let mut next = Next::Continue;
    let mut handled = 0;
    loop {
        match message {
            Ok(Some(message)) => {
                if session.handle(shared, message) == Next::HandOver {
                    next = Next::HandOver;
                }
            }
            Ok(None) => {
                return Err(Error::local(
                    Code::Unavailable,
                    "the server ended the session",
                ));
            }
            Err(status) => return Err(Error::from(status)),
        }
        handled += 1;
        if handled == BATCH {
            return Ok(next);
        }
        match session.inbound.message().now_or_never() {
            Some(ready) => message = ready,
            None => return Ok(next),
        }
    }
}

/// Ends a session in good order: what is queued is sent, then the server closes its side.
async fn farewell(mut session: Session) {
    session.outbox.close();
    let rest = async { while let Ok(Some(_)) = session.inbound.message().await {} };
    // A server that does not close is left without a word.
    let _ = tokio::time::timeout(LAST_WORDS, rest).await;
}

/// Turns signals into orders.
#[cfg(unix)]
fn watch_signals(handle: &WorkerHandle) -> Result<Owned, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |error: std::io::Error| {
        Error::local(Code::Internal, format!("cannot listen to signals: {error}"))
    };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let handle = handle.clone();
    Ok(Owned(tokio::spawn(async move {
        let mut first = true;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if std::mem::take(&mut first) {
                handle.drain();
            } else {
                handle.stop();
            }
        }
    })))
}

/// Turns Ctrl-C into orders.
#[cfg(not(unix))]
fn watch_signals(handle: &WorkerHandle) -> Result<Owned, Error> {
    let handle = handle.clone();
    Ok(Owned(tokio::spawn(async move {
        let mut first = true;
        while tokio::signal::ctrl_c().await.is_ok() {
            if std::mem::take(&mut first) {
                handle.drain();
            } else {
                handle.stop();
            }
        }
    })))
}
