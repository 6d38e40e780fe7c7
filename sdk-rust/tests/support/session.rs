//! A worker's session from the side of the scripted server.

use std::time::Duration;

use coretex::Payload;
use coretex::proto::open_session_request::Message as FromWorker;
use coretex::proto::open_session_response::Message as ToWorker;
use coretex::proto::*;
use coretex::proto_time::duration_from_std;
use futures::FutureExt;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::soon;

pub const TENANT: &str = "default";
/// The interval between heartbeats that the server asks for.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// The attempt number 1 of a job, with a lease made of its name.
pub fn attempt_of(job_id: &str) -> AttemptRef {
    AttemptRef {
        tenant_id: TENANT.into(),
        job_id: job_id.into(),
        attempt: 1,
        lease_id: format!("lease-{job_id}"),
    }
}

/// An assignment of attempt 1, valid for a minute, to be changed by the test.
pub fn assignment(job_id: &str) -> ServerAssignment {
    ServerAssignment {
        job: Some(Job {
            job_id: job_id.into(),
            tenant_id: TENANT.into(),
            topic: "job.test".into(),
            input: Some(Payload::from_json(&serde_json::json!(job_id))),
            ..Job::default()
        }),
        attempt: 1,
        lease_id: attempt_of(job_id).lease_id,
        valid_for: Some(duration_from_std(Duration::from_secs(60))),
        ..ServerAssignment::default()
    }
}

pub struct FakeSession {
    pub hello: WorkerHello,
    from_worker: Streaming<OpenSessionRequest>,
    to_worker: mpsc::Sender<Result<OpenSessionResponse, Status>>,
}

impl FakeSession {
    pub fn new(
        from_worker: Streaming<OpenSessionRequest>,
        to_worker: mpsc::Sender<Result<OpenSessionResponse, Status>>,
    ) -> Self {
        Self {
            hello: WorkerHello::default(),
            from_worker,
            to_worker,
        }
    }

    pub async fn read_hello(&mut self) {
        match self.any().await {
            Some(FromWorker::Hello(hello)) => self.hello = *hello,
            other => panic!("expected hello, got {other:?}"),
        }
    }

    /// The lease ids that the worker said it still holds, sorted.
    pub fn running(&self) -> Vec<String> {
        let leases = self.hello.running.iter().map(|of| of.lease_id.clone());
        let mut leases: Vec<String> = leases.collect();
        leases.sort();
        leases
    }

    pub fn send(&self, message: ToWorker) {
        let _ = self.to_worker.try_send(Ok(OpenSessionResponse {
            message: Some(message),
        }));
    }

    /// Ends the session with a status.
    pub fn fail(self, status: Status) {
        let _ = self.to_worker.try_send(Err(status));
    }

    pub fn welcome(&self, kept: Vec<AttemptRef>, revoked: Vec<AttemptRef>) {
        self.send(ToWorker::Welcome(ServerWelcome {
            worker_id: self.hello.worker_id.clone(),
            session_id: "session".into(),
            heartbeat_interval: Some(duration_from_std(HEARTBEAT)),
            adoption_window: Some(duration_from_std(Duration::from_secs(15))),
            kept,
            revoked,
        }));
    }

    pub fn welcome_all(&self) {
        self.welcome(self.hello.running.clone(), Vec::new());
    }

    pub fn assign(&self, job_id: &str) {
        self.assign_with(assignment(job_id));
    }

    pub fn assign_with(&self, assignment: ServerAssignment) {
        self.send(ToWorker::Assignment(Box::new(assignment)));
    }

    pub fn ack(&self, result: &WorkerResult) {
        self.send(ToWorker::ResultAck(ServerResultAck {
            tenant_id: result.tenant_id.clone(),
            job_id: result.job_id.clone(),
            attempt: result.attempt,
            lease_id: result.lease_id.clone(),
            applied: true,
        }));
    }

    pub fn cancel(&self, job_id: &str, grace: Duration) {
        let of = attempt_of(job_id);
        self.send(ToWorker::Cancel(ServerCancel {
            tenant_id: of.tenant_id,
            job_id: of.job_id,
            attempt: of.attempt,
            lease_id: of.lease_id,
            reason: "no longer needed".into(),
            grace: Some(duration_from_std(grace)),
        }));
    }

    pub fn revoke(&self, job_id: &str) {
        let of = attempt_of(job_id);
        self.send(ToWorker::Revoke(ServerRevoke {
            tenant_id: of.tenant_id,
            job_id: of.job_id,
            attempt: of.attempt,
            lease_id: of.lease_id,
            reason: "elsewhere".into(),
        }));
    }

    pub fn confirm(&self, job_id: &str) {
        let of = attempt_of(job_id);
        self.send(ToWorker::StartConfirmed(ServerStartConfirmed {
            tenant_id: of.tenant_id,
            job_id: of.job_id,
            attempt: of.attempt,
            lease_id: of.lease_id,
        }));
    }

    pub fn drain(&self) {
        self.send(ToWorker::Drain(ServerDrain { deadline: None }));
    }

    /// The next message of any kind; `None` when the worker has closed its side or is gone.
    pub async fn any(&mut self) -> Option<FromWorker> {
        let message = soon("a message of the worker", self.from_worker.message()).await;
        message.ok().flatten()?.message
    }

    /// The next message but heartbeats and `started`.
    pub async fn next(&mut self) -> Option<FromWorker> {
        loop {
            match self.any().await {
                Some(FromWorker::Heartbeat(_) | FromWorker::Started(_)) => {}
                other => return other,
            }
        }
    }

    /// The next message but heartbeats, if one has come already.
    pub fn arrived(&mut self) -> Option<FromWorker> {
        while let Some(Ok(Some(message))) = self.from_worker.message().now_or_never() {
            match message.message {
                Some(FromWorker::Heartbeat(_)) | None => {}
                other => return other,
            }
        }
        None
    }

    pub async fn started(&mut self) -> WorkerStarted {
        loop {
            match self.any().await {
                Some(FromWorker::Heartbeat(_)) => {}
                Some(FromWorker::Started(started)) => return started,
                other => panic!("expected started, got {other:?}"),
            }
        }
    }

    pub async fn heartbeat(&mut self) -> WorkerHeartbeat {
        loop {
            match self.any().await {
                Some(FromWorker::Heartbeat(beat)) => return beat,
                Some(FromWorker::Started(_)) => {}
                other => panic!("expected heartbeat, got {other:?}"),
            }
        }
    }

    /// Lets so much time pass that everything that was sent has been dealt with, and what was not
    /// acknowledged has been sent again.
    pub async fn settle(&mut self) {
        for _ in 0..6 {
            self.heartbeat().await;
        }
    }

    pub async fn result(&mut self) -> WorkerResult {
        match self.next().await {
            Some(FromWorker::Result(result)) => *result,
            other => panic!("expected result, got {other:?}"),
        }
    }

    pub async fn reject(&mut self) -> WorkerReject {
        match self.next().await {
            Some(FromWorker::Reject(reject)) => reject,
            other => panic!("expected reject, got {other:?}"),
        }
    }

    /// Waits until the worker has closed its side.
    pub async fn closed(&mut self) {
        while let Some(message) = self.any().await {
            assert!(
                matches!(message, FromWorker::Heartbeat(_) | FromWorker::Drain(_)),
                "expected the end, got {message:?}"
            );
        }
    }
}
