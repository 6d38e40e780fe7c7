//! One connection: its opening, and what comes in over it.

use std::sync::Arc;
use std::time::Duration;

use coretex_proto::time::duration_to_std;
use coretex_proto::v1::open_session_request::Message as Out;
use coretex_proto::v1::open_session_response::Message as In;
use coretex_proto::v1::worker_service_client::WorkerServiceClient;
use coretex_proto::v1::{AttemptRef, OpenSessionResponse, ServerAssignment, ServerWelcome};
use tokio::time::Instant;
use tonic::{Code, Request, Streaming};

use super::attempt::Attempt;
use super::message;
use super::outbox::Outbox;
use super::shared::Shared;
use crate::Error;

/// How long a server may take from the connection to its welcome. Longer than taking over a few
/// hundred attempts needs, shorter than their adoption window.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Used when the server names no interval.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(5);
/// The most often a server can make a worker beat.
const MIN_HEARTBEAT: Duration = Duration::from_millis(100);
/// The time to stop for a cancel without a grace: the server's own default.
const DEFAULT_CANCEL_GRACE: Duration = Duration::from_secs(30);

/// An open session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) inbound: Streaming<OpenSessionResponse>,
    pub(super) outbox: Outbox,
    pub(super) heartbeat: Duration,
    pub(super) worker_id: String,
    pub(super) session_id: String,
    pub(super) opened: Instant,
}

/// What to do after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on.
    Continue,
    /// Open another session, and use this one until then.
    HandOver,
}

/// Opens a session at the server whose turn it is, and gives it what the process still runs. On
/// failure the table is without a connection.
pub(super) async fn open(shared: &Arc<Shared>, turn: usize) -> Result<Session, Error> {
    let (channel, server) = shared.client.shared.transport.fresh_channel(turn);
    let server = server.to_owned();
    let (hello, outbox, stream) = shared.with(|table| {
        let running = table.detach();
        let (outbox, stream) = Outbox::new(table.outbox_capacity());
        (shared.hello(running, table.limit()), outbox, stream)
    });
    outbox.push(Out::Hello(Box::new(hello)));
    let mut request = Request::new(stream);
    shared
        .client
        .shared
        .transport
        .authorize(request.metadata_mut());
    let opening = async move {
        let mut service = WorkerServiceClient::new(channel);
        let mut inbound = service.open_session(request).await?.into_inner();
        let first = inbound.message().await?.and_then(|first| first.message);
        match first {
            Some(In::Welcome(welcome)) => Ok((inbound, welcome)),
            Some(_) => Err(Error::local(
                Code::Internal,
                "the server did not welcome first",
            )),
            None => Err(Error::local(
                Code::Unavailable,
                "the server ended the session",
            )),
        }
    };
    let (inbound, welcome): (_, ServerWelcome) =
        match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
            Ok(opened) => opened.map_err(|error: Error| error.at_server(&server))?,
            Err(_) => return Err(Error::deadline(OPEN_TIMEOUT)),
        };
    tracing::info!(
        worker_id = welcome.worker_id,
        session_id = welcome.session_id,
        kept = welcome.kept.len(),
        revoked = welcome.revoked.len(),
        "session opened"
    );
    let now = Instant::now();
    shared.change(|table| table.attach(outbox.clone(), &welcome.revoked, now));
    let heartbeat = welcome.heartbeat_interval.as_ref();
    let heartbeat = heartbeat.and_then(|interval| duration_to_std(interval).ok());
    Ok(Session {
        inbound,
        outbox,
        heartbeat: heartbeat.unwrap_or(DEFAULT_HEARTBEAT).max(MIN_HEARTBEAT),
        worker_id: welcome.worker_id,
        session_id: welcome.session_id,
        opened: now,
    })
}

impl Session {
    /// Does what a message asks for.
    pub(super) fn handle(&self, shared: &Arc<Shared>, response: OpenSessionResponse) -> Next {
        let now = Instant::now();
        match response.message {
            Some(In::Assignment(assignment)) => self.assign(shared, *assignment, now),
            Some(In::StartConfirmed(of)) => shared.change(|table| table.confirm(&of.lease_id)),
            Some(In::Cancel(cancel)) => {
                let grace = cancel.grace.as_ref();
                let grace = grace.and_then(|grace| duration_to_std(grace).ok());
                let of = AttemptRef {
                    tenant_id: cancel.tenant_id,
                    job_id: cancel.job_id,
                    attempt: cancel.attempt,
                    lease_id: cancel.lease_id,
                };
                let grace = grace.unwrap_or(DEFAULT_CANCEL_GRACE);
                shared.change(|table| table.cancel(&of, cancel.reason, grace, now));
            }
            Some(In::Revoke(revoke)) => {
                let of = AttemptRef {
                    tenant_id: revoke.tenant_id,
                    job_id: revoke.job_id,
                    attempt: revoke.attempt,
                    lease_id: revoke.lease_id,
                };
                shared.change(|table| table.revoke(&of, now));
            }
            Some(In::ResultAck(ack)) => {
                if !ack.applied {
                    tracing::info!(
                        job_id = ack.job_id,
                        attempt = ack.attempt,
                        "result came too late"
                    );
                }
                shared.change(|table| {
                    table.acknowledge(&ack.lease_id);
                    Vec::new()
                });
            }
            Some(In::Drain(_)) => return Next::HandOver,
            Some(In::OutputAck(ack)) => {
                shared.with(|table| table.acknowledge_output(&ack, now));
                shared.streamed.notify_one();
            }
            // What a newer server says besides is not for this worker.
            Some(In::Welcome(_)) | None => {}
        }
        Next::Continue
    }

    fn assign(&self, shared: &Arc<Shared>, assignment: ServerAssignment, now: Instant) {
        let (attempt, job, valid_for) = Attempt::new(assignment, now);
        if shared.router.find(&attempt.topic).is_none() {
            let why = "the worker does not serve this topic";
            self.outbox.push(message::reject(&attempt.reference, why));
            return;
        }
        shared.change(|table| table.assign(attempt, job, valid_for, now, &self.outbox));
    }
}
