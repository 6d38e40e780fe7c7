//! A worker's session from the side of the scripted server.

use std::time::Duration;

use coretex::proto::open_session_request::Message as FromWorker;
use coretex::proto::open_session_response::Message as ToWorker;
use coretex::proto::*;
use coretex::proto_time::duration_from_std;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::PATIENCE;

pub(crate) struct FakeSession {
    pub(crate) hello: WorkerHello,
    from_worker: Streaming<OpenSessionRequest>,
    to_worker: mpsc::Sender<Result<OpenSessionResponse, Status>>,
}

impl FakeSession {
    pub(super) fn new(
        from_worker: Streaming<OpenSessionRequest>,
        to_worker: mpsc::Sender<Result<OpenSessionResponse, Status>>,
    ) -> Self {
        Self {
            hello: WorkerHello::default(),
            from_worker,
            to_worker,
        }
    }

    pub(super) async fn read_hello(&mut self) {
        match self.any().await {
            Some(FromWorker::Hello(hello)) => self.hello = *hello,
            other => panic!("expected hello, got {other:?}"),
        }
        self.send(ToWorker::Welcome(ServerWelcome {
            worker_id: self.hello.worker_id.clone(),
            session_id: "session".into(),
            heartbeat_interval: Some(duration_from_std(Duration::from_secs(5))),
            adoption_window: Some(duration_from_std(Duration::from_secs(15))),
            kept: self.hello.running.clone(),
            ..ServerWelcome::default()
        }));
    }

    fn send(&self, message: ToWorker) {
        let message = Some(message);
        self.to_worker
            .try_send(Ok(OpenSessionResponse { message }))
            .unwrap();
    }

    /// Hands out attempt 2 of a job with this input.
    pub(crate) fn assign(&self, job_id: &str, input: Option<Payload>) {
        self.send(ToWorker::Assignment(Box::new(ServerAssignment {
            job: Some(Job {
                job_id: job_id.into(),
                tenant_id: "default".into(),
                topic: "job.x".into(),
                input,
                ..Job::default()
            }),
            attempt: 2,
            lease_id: format!("lease-{job_id}"),
            valid_for: Some(duration_from_std(Duration::from_secs(60))),
            time_limit: Some(duration_from_std(Duration::from_secs(3_600))),
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            ..ServerAssignment::default()
        })));
    }

    pub(crate) fn cancel(&self, job_id: &str, grace: Duration) {
        self.send(ToWorker::Cancel(ServerCancel {
            tenant_id: "default".into(),
            job_id: job_id.into(),
            attempt: 2,
            lease_id: format!("lease-{job_id}"),
            reason: "no longer needed".into(),
            grace: Some(duration_from_std(grace)),
        }));
    }

    pub(crate) async fn any(&mut self) -> Option<FromWorker> {
        let message = tokio::time::timeout(PATIENCE, self.from_worker.message()).await;
        message.unwrap().ok().flatten()?.message
    }

    /// The next result, acknowledged.
    pub(crate) async fn result(&mut self) -> WorkerResult {
        loop {
            match self.any().await {
                Some(FromWorker::Result(result)) => {
                    self.send(ToWorker::ResultAck(ServerResultAck {
                        tenant_id: result.tenant_id.clone(),
                        job_id: result.job_id.clone(),
                        attempt: result.attempt,
                        lease_id: result.lease_id.clone(),
                        applied: true,
                    }));
                    return *result;
                }
                Some(_) => {}
                None => panic!("the worker left without a result"),
            }
        }
    }

    /// The next report of progress.
    pub(crate) async fn progress(&mut self) -> WorkerProgress {
        loop {
            match self.any().await {
                Some(FromWorker::Progress(progress)) => return progress,
                Some(_) => {}
                None => panic!("the worker left without a report"),
            }
        }
    }

    /// Waits until the worker says that it wants to leave.
    pub(crate) async fn draining(&mut self) {
        loop {
            match self.any().await {
                Some(FromWorker::Drain(_)) => return,
                Some(_) => {}
                None => panic!("the worker left without a word"),
            }
        }
    }

    /// Waits until the worker has closed its side, and closes ours.
    pub(crate) async fn closed(mut self) {
        while self.any().await.is_some() {}
    }
}
