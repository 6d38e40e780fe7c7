//! A worker's side of a session, message by message, for workers that do not keep to the rules.

use coretex_proto::v1::open_session_request::Message as Out;
use coretex_proto::v1::open_session_response::Message as In;
use coretex_proto::v1::worker_service_client::WorkerServiceClient;
use coretex_proto::v1::{
    AttemptRef, JobState, OpenSessionRequest, OpenSessionResponse, Payload, ServerAssignment,
    ServerWelcome, WorkerHello, WorkerResult,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use super::in_time;
use super::wire::authorize;

/// Messages on their way out that may wait for the connection.
const OUTBOX: usize = 16;

/// A stream on which nothing has been said yet.
#[derive(Debug)]
pub struct RawStream {
    sender: mpsc::Sender<OpenSessionRequest>,
    inbound: Streaming<OpenSessionResponse>,
}

impl RawStream {
    /// Opens a stream; with a key unless that is empty.
    ///
    /// # Errors
    /// What the server says instead.
    pub async fn open(channel: Channel, key: &str) -> Result<Self, Status> {
        let (sender, receiver) = mpsc::channel(OUTBOX);
        let mut request = Request::new(ReceiverStream::new(receiver));
        authorize(request.metadata_mut(), key);
        let mut service = WorkerServiceClient::new(channel);
        let opening = in_time("a session", service.open_session(request)).await?;
        Ok(Self {
            sender,
            inbound: opening.into_inner(),
        })
    }

    /// Says something. False when the stream has ended.
    pub async fn say(&self, message: impl Into<Option<Out>>) -> bool {
        let request = OpenSessionRequest {
            message: message.into(),
        };
        in_time("the server to read", self.sender.send(request))
            .await
            .is_ok()
    }

    /// The next message of the server.
    ///
    /// # Errors
    /// How the server ended the stream; OK when it gave no reason.
    pub async fn next(&mut self) -> Result<In, Status> {
        let next = in_time("the server to say something", self.inbound.message()).await?;
        match next.and_then(|response| response.message) {
            Some(message) => Ok(message),
            None => Err(Status::ok("the stream ended")),
        }
    }

    /// How the server ends the stream, whatever it says before.
    pub async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }
}

/// An open session.
#[derive(Debug)]
pub struct RawWorker {
    /// What the server said first.
    pub welcome: ServerWelcome,
    /// The stream.
    pub stream: RawStream,
}

impl RawWorker {
    /// Opens a session; with a key unless that is empty.
    ///
    /// # Errors
    /// What the server says instead of a welcome.
    ///
    /// # Panics
    /// It says something else first.
    pub async fn open(channel: Channel, key: &str, hello: WorkerHello) -> Result<Self, Status> {
        let mut stream = RawStream::open(channel, key).await?;
        stream.say(Out::Hello(Box::new(hello))).await;
        match stream.next().await? {
            In::Welcome(welcome) => Ok(Self { welcome, stream }),
            other => panic!("the server does not welcome first: {other:?}"),
        }
    }

    /// The next assignment; what else the server says is passed over.
    ///
    /// # Panics
    /// The server ends the session.
    pub async fn assignment(&mut self) -> ServerAssignment {
        loop {
            match self.stream.next().await {
                Ok(In::Assignment(assignment)) => return *assignment,
                Ok(_) => {}
                Err(status) => panic!("no assignment but {status}"),
            }
        }
    }

    /// Whether the server applied a result of the attempt, when it says so; what else it says is
    /// passed over.
    ///
    /// # Panics
    /// The server ends the session.
    pub async fn acknowledged(&mut self, lease_id: &str) -> bool {
        loop {
            match self.stream.next().await {
                Ok(In::ResultAck(ack)) if ack.lease_id == lease_id => return ack.applied,
                Ok(_) => {}
                Err(status) => panic!("no acknowledgement but {status}"),
            }
        }
    }
}

/// What a worker says of itself that serves one topic.
#[must_use]
pub fn hello(topic: &str, max_parallel_jobs: i32) -> WorkerHello {
    WorkerHello {
        topics: vec![topic.to_owned()],
        max_parallel_jobs,
        protocol_version: 1,
        ..WorkerHello::default()
    }
}

/// The attempt of an assignment.
#[must_use]
pub fn attempt_of(assignment: &ServerAssignment) -> AttemptRef {
    let job = assignment.job.clone().unwrap_or_default();
    AttemptRef {
        tenant_id: job.tenant_id,
        job_id: job.job_id,
        attempt: assignment.attempt,
        lease_id: assignment.lease_id.clone(),
    }
}

/// A good result of an attempt.
#[must_use]
pub fn success(attempt: &AttemptRef, output: Payload) -> Out {
    Out::Result(Box::new(WorkerResult {
        tenant_id: attempt.tenant_id.clone(),
        job_id: attempt.job_id.clone(),
        attempt: attempt.attempt,
        lease_id: attempt.lease_id.clone(),
        status: JobState::Succeeded.into(),
        output: Some(output),
        ..WorkerResult::default()
    }))
}
