//! Many workers in one process, to load a server with sessions: what a worker says, without what a
//! worker is. Each has a slot, beats as it is told, and answers every job with its input.
//!
//! The SDK's worker is left out on purpose: ten thousand of them would take the processors from the
//! server that is measured.

use std::time::Duration;

use coretex::JobState;
use coretex::proto::open_session_request::Message as Out;
use coretex::proto::open_session_response::Message as In;
use coretex::proto::worker_service_client::WorkerServiceClient;
use coretex::proto::{
    OpenSessionRequest, OpenSessionResponse, ServerAssignment, WorkerHeartbeat, WorkerHello,
    WorkerResult,
};
use coretex::proto_time::duration_to_std;
use futures::channel::mpsc;
use futures::{SinkExt, StreamExt, stream};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::{Result, report, worker};

/// Sessions that are opened at the same time.
const OPENING: usize = 64;
/// Messages of one worker on their way out.
const OUTBOX: usize = 8;
/// How often a silent connection is probed: as the SDK does.
const PROBE_INTERVAL: Duration = Duration::from_secs(6);
/// How long a probe may stay unanswered; longer than the SDK waits, since all of these share the
/// machine with the server.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

/// What it is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    server: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    workers: usize,
    /// Over how many connections they come, in turn.
    #[arg(long)]
    connections: usize,
}

/// Connects all of them, says so, and serves until a session ends.
pub(crate) async fn run(args: Args) -> Result<()> {
    let endpoint = Endpoint::from_shared(args.server)?
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PROBE_INTERVAL)
        .keep_alive_timeout(PROBE_TIMEOUT)
        .keep_alive_while_idle(true);
    let channels: Vec<Channel> = (0..args.connections)
        .map(|_| endpoint.connect_lazy())
        .collect();
    let openings = (0..args.workers).map(|n| {
        let channel = channels[n % channels.len()].clone();
        open(channel, args.topic.clone(), n)
    });
    let mut openings = stream::iter(openings).buffer_unordered(OPENING);
    let mut sessions = JoinSet::new();
    while let Some(session) = openings.next().await {
        sessions.spawn(serve(session?));
    }
    report::line(worker::CONNECTED);
    if let Some(ended) = sessions.join_next().await {
        ended??;
    }
    Err("a session has ended".into())
}

struct Session {
    inbound: Streaming<OpenSessionResponse>,
    outbox: mpsc::Sender<OpenSessionRequest>,
    heartbeat: Duration,
}

async fn open(channel: Channel, topic: String, n: usize) -> Result<Session> {
    let (mut outbox, stream) = mpsc::channel(OUTBOX);
    let hello = WorkerHello {
        worker_id: format!("fleet-{n}"),
        topics: vec![topic],
        max_parallel_jobs: 1,
        ..WorkerHello::default()
    };
    say(&mut outbox, Out::Hello(Box::new(hello))).await?;
    let mut service = WorkerServiceClient::new(channel);
    let mut inbound = service.open_session(stream).await?.into_inner();
    let first = inbound.message().await?.and_then(|first| first.message);
    let Some(In::Welcome(welcome)) = first else {
        return Err("the server did not welcome first".into());
    };
    let heartbeat = welcome.heartbeat_interval.ok_or("no heartbeat interval")?;
    Ok(Session {
        inbound,
        outbox,
        heartbeat: duration_to_std(&heartbeat)?,
    })
}

async fn serve(mut session: Session) -> Result<()> {
    // Workers of different machines do not beat at the same moment.
    let first = session.heartbeat.mul_f64(rand::random());
    let mut beat = interval_at(Instant::now() + first, session.heartbeat);
    loop {
        tokio::select! {
            message = session.inbound.message() => {
                let message = message?.ok_or("the server ended a session")?;
                if let Some(In::Assignment(assignment)) = message.message {
                    say(&mut session.outbox, Out::Result(Box::new(done(*assignment)))).await?;
                }
            }
            _ = beat.tick() => {
                say(&mut session.outbox, Out::Heartbeat(WorkerHeartbeat::default())).await?;
            }
        }
    }
}

fn done(assignment: ServerAssignment) -> WorkerResult {
    let job = assignment.job.unwrap_or_default();
    WorkerResult {
        tenant_id: job.tenant_id,
        job_id: job.job_id,
        attempt: assignment.attempt,
        lease_id: assignment.lease_id,
        status: JobState::Succeeded.into(),
        output: job.input,
        ..WorkerResult::default()
    }
}

async fn say(outbox: &mut mpsc::Sender<OpenSessionRequest>, message: Out) -> Result<()> {
    let request = OpenSessionRequest {
        message: Some(message),
    };
    Ok(outbox.send(request).await?)
}
