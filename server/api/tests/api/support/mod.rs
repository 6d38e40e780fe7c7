//! The API over an engine of its own, called without a network.
#![allow(
    dead_code,
    unreachable_pub,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by several tests"
)]

pub mod engine;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use coretex_api::{Api, ApiOptions};
use coretex_core::id::TenantId;
use coretex_engine::{Caller, Engine, NewApiKey, Role};
use coretex_proto::v1;
use coretex_proto::v1::job_service_client::JobServiceClient;
use coretex_proto::v1::open_session_request::Message as Said;
use coretex_proto::v1::open_session_response::Message as Told;
use coretex_proto::v1::worker_service_client::WorkerServiceClient;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

pub type Served = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

pub const SUBMIT: &str = "/coretex.v1.JobService/SubmitJob";
pub const WHO_AM_I: &str = "/coretex.v1.AccessService/WhoAmI";

/// An engine and its API.
pub struct Harness {
    pub engine: Engine,
    pub api: Api,
    pub service: Served,
}

impl Harness {
    /// Everybody is let in, as in development mode.
    pub async fn open() -> Self {
        Self::with(engine::engine(true).await, |_| {})
    }

    /// Credentials are needed.
    pub async fn closed() -> Self {
        Self::with(engine::engine(false).await, |_| {})
    }

    pub fn with(engine: Engine, change: impl FnOnce(&mut ApiOptions)) -> Self {
        let mut options = ApiOptions::new(engine::SeededIds::new(9));
        change(&mut options);
        let api = Api::new(engine.clone(), options);
        let service = BoxCloneSyncService::new(api.service().unwrap());
        Self {
            engine,
            api,
            service,
        }
    }

    pub fn jobs(&self) -> JobServiceClient<Served> {
        JobServiceClient::new(self.service.clone()).max_decoding_message_size(4 * 1024 * 1024)
    }

    pub fn workers(&self) -> WorkerServiceClient<Served> {
        WorkerServiceClient::new(self.service.clone())
    }

    /// A key of `tenant` with these roles.
    pub async fn key(&self, tenant: &str, roles: &[Role]) -> String {
        let new = NewApiKey {
            display_name: "test".to_owned(),
            tenant: Some(TenantId::parse(tenant).unwrap()),
            roles: roles.iter().copied().collect(),
            team_ids: BTreeSet::new(),
            tenants_served: BTreeSet::new(),
            expire_time: None,
        };
        let made = self.engine.create_api_key(&system(), new).await;
        made.unwrap().1
    }

    /// Calls `path` with one message and reads the whole answer.
    pub async fn call(&self, path: &str, headers: &[(&'static str, &str)], body: Bytes) -> Answer {
        Answer::read(self.send(path, headers, body).await).await
    }

    /// Calls `path` with one message and reads the answer as far as its first part: a stream that
    /// has begun counts as good.
    pub async fn begin(&self, path: &str, headers: &[(&'static str, &str)], body: Bytes) -> Status {
        let response = self.send(path, headers, body).await;
        if let Some(status) = Status::from_header_map(response.headers()) {
            return status;
        }
        let first = response.into_body().frame().await.unwrap().unwrap();
        let trailers = first.trailers_ref().and_then(Status::from_header_map);
        trailers.unwrap_or_else(|| Status::ok(""))
    }

    async fn send(
        &self,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Response<Body> {
        let mut request = Request::post(path).version(http::Version::HTTP_2);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = Body::new(Full::new(body));
        let request = request.body(body).unwrap();
        self.service.clone().oneshot(request).await.unwrap()
    }
}

/// A caller with every right.
pub fn system() -> Caller {
    Caller {
        principal_id: "system".to_owned(),
        tenant: TenantId::from_trusted("system"),
        team_ids: BTreeSet::new(),
        roles: BTreeSet::from([Role::Admin]),
        tenants_served: BTreeSet::new(),
        system: true,
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub http: http::StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub status: Status,
}

impl Answer {
    pub async fn read(response: Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let collected = body.collect().await.unwrap();
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let status = Status::from_header_map(&parts.headers)
            .or_else(|| Status::from_header_map(&trailers))
            .unwrap_or_else(|| Status::unknown("no status"));
        Self {
            http: parts.status,
            headers: parts.headers,
            body: collected.to_bytes(),
            status,
        }
    }

    pub fn code(&self) -> Code {
        self.status.code()
    }

    pub fn reason(&self) -> String {
        reason(&self.status)
    }
}

/// The reason of a status; empty when it has none.
pub fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info();
    info.map(|info| info.reason.clone()).unwrap_or_default()
}

/// The fields that a status complains about.
pub fn fields(status: &Status) -> Vec<String> {
    let details = status.get_error_details();
    let bad = details.bad_request().map(|bad| &bad.field_violations);
    let fields = bad.into_iter().flatten().map(|field| field.field.clone());
    fields.collect()
}

/// A value of the metadata of a status.
pub fn metadata(status: &Status, key: &str) -> Option<String> {
    let details = status.get_error_details();
    details.error_info()?.metadata.get(key).cloned()
}

/// A message as the transport carries it.
pub fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len().try_into().unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

/// A message without content, which every RPC can decode.
pub fn empty() -> Bytes {
    Bytes::from_static(&[0; 5])
}

pub fn submission(topic: &str) -> v1::SubmitJobRequest {
    v1::SubmitJobRequest {
        topic: topic.to_owned(),
        input: Some(v1::Payload::from_json(&serde_json::json!({ "n": 1 }))),
        ..v1::SubmitJobRequest::default()
    }
}

/// A worker driven by hand.
pub struct Worker {
    pub said: mpsc::Sender<v1::OpenSessionRequest>,
    pub told: Streaming<v1::OpenSessionResponse>,
}

pub fn hello(topic: &str, max_parallel_jobs: i32) -> Said {
    Said::Hello(Box::new(v1::WorkerHello {
        worker_id: "w".to_owned(),
        topics: vec![topic.to_owned()],
        max_parallel_jobs,
        ..v1::WorkerHello::default()
    }))
}

impl Worker {
    /// Opens the stream and says the first thing.
    pub async fn open(harness: &Harness, first: Said) -> Self {
        let (said, stream) = mpsc::channel(16);
        let mut client = harness.workers();
        let opened = client.open_session(ReceiverStream::new(stream)).await;
        let told = opened.unwrap().into_inner();
        let worker = Self { said, told };
        worker.say(first).await;
        worker
    }

    /// Opens a session that is welcome.
    pub async fn connect(harness: &Harness, topic: &str, slots: i32) -> Self {
        let mut worker = Self::open(harness, hello(topic, slots)).await;
        assert!(matches!(worker.hear().await, Ok(Some(Told::Welcome(_)))));
        worker
    }

    pub async fn say(&self, message: Said) {
        let message = Some(message);
        let sent = self.said.send(v1::OpenSessionRequest { message }).await;
        sent.expect("the server still listens");
    }

    /// The next thing the server says, within ten seconds.
    pub async fn hear(&mut self) -> Result<Option<Told>, Status> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.told.message());
        let next = next.await.expect("a message within ten seconds")?;
        Ok(next.and_then(|response| response.message))
    }

    /// The next assignment.
    pub async fn assignment(&mut self) -> v1::ServerAssignment {
        match self.hear().await {
            Ok(Some(Told::Assignment(assignment))) => *assignment,
            other => panic!("not an assignment: {other:?}"),
        }
    }

    /// Ends an attempt well and waits until that is stored.
    pub async fn succeed(&mut self, assignment: &v1::ServerAssignment, output: v1::Payload) {
        let job = assignment.job.as_ref().unwrap();
        let result = v1::WorkerResult {
            tenant_id: job.tenant_id.clone(),
            job_id: job.job_id.clone(),
            attempt: assignment.attempt,
            lease_id: assignment.lease_id.clone(),
            status: v1::JobState::Succeeded.into(),
            output: Some(output),
            ..v1::WorkerResult::default()
        };
        self.say(Said::Result(Box::new(result))).await;
        match self.hear().await {
            Ok(Some(Told::ResultAck(ack))) => assert!(ack.applied),
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }
}
