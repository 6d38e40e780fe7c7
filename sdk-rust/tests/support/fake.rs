//! The services of the scripted server.

use std::future::Future;
use std::pin::Pin;

use coretex::proto::access_service_server::AccessService;
use coretex::proto::job_service_server::JobService;
use coretex::proto::worker_service_server::WorkerService;
use coretex::proto::*;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::session::FakeSession;

type Reply<Resp> = Pin<Box<dyn Future<Output = Result<Resp, Status>> + Send>>;
type Script<Req, Resp> = Box<dyn FnMut(Request<Req>) -> Reply<Resp> + Send>;

/// What the server answers to one RPC.
pub struct Hook<Req, Resp>(Mutex<Option<Script<Req, Resp>>>);

impl<Req, Resp> Default for Hook<Req, Resp> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<Req, Resp> Hook<Req, Resp> {
    pub fn set<Fut>(&self, mut script: impl FnMut(Request<Req>) -> Fut + Send + 'static)
    where
        Fut: Future<Output = Result<Resp, Status>> + Send + 'static,
    {
        *self.0.lock() = Some(Box::new(move |request| Box::pin(script(request))));
    }

    async fn call(&self, request: Request<Req>) -> Result<Response<Resp>, Status> {
        let reply = match &mut *self.0.lock() {
            Some(script) => script(request),
            None => return Err(Status::unimplemented("not in the script")),
        };
        reply.await.map(Response::new)
    }
}

/// A watch that a client has opened.
pub struct FakeWatch {
    pub request: WatchJobsRequest,
    pub send: mpsc::Sender<Result<WatchJobsResponse, Status>>,
}

pub struct Fake {
    open: mpsc::Sender<FakeSession>,
    watch: mpsc::Sender<FakeWatch>,
    /// Refuses sessions with this.
    pub refusal: Mutex<Option<Status>>,
    pub submit: Hook<SubmitJobRequest, SubmitJobResponse>,
    pub submit_many: Hook<SubmitJobsRequest, SubmitJobsResponse>,
    pub get: Hook<GetJobRequest, GetJobResponse>,
    pub list: Hook<ListJobsRequest, ListJobsResponse>,
    pub wait: Hook<WaitJobRequest, WaitJobResponse>,
    pub cancel: Hook<CancelJobRequest, CancelJobResponse>,
    pub cancel_many: Hook<CancelJobsRequest, ReceiverStream<Result<CancelJobsResponse, Status>>>,
    /// The messages of a stream, and how it ends if not well.
    pub output: Hook<ReadJobOutputRequest, Vec<Result<ReadJobOutputResponse, Status>>>,
    pub create_key: Hook<CreateApiKeyRequest, CreateApiKeyResponse>,
}

impl Fake {
    pub fn new(open: mpsc::Sender<FakeSession>, watch: mpsc::Sender<FakeWatch>) -> Self {
        Self {
            open,
            watch,
            refusal: Mutex::default(),
            submit: Hook::default(),
            submit_many: Hook::default(),
            get: Hook::default(),
            list: Hook::default(),
            wait: Hook::default(),
            cancel: Hook::default(),
            cancel_many: Hook::default(),
            output: Hook::default(),
            create_key: Hook::default(),
        }
    }
}

/// RPCs that no script needs, in the form that `async_trait` makes: it does not look into macros.
macro_rules! unscripted {
    ($($name:ident ($request:ident) -> $response:ident;)+) => {
        $(
            fn $name<'a, 'b>(
                &'a self,
                _: Request<$request>,
            ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'b>>
            where
                'a: 'b,
                Self: 'b,
            {
                Box::pin(async { Err(Status::unimplemented("not in the script")) })
            }
        )+
    };
}

#[tonic::async_trait]
impl JobService for Fake {
    type WatchJobsStream = ReceiverStream<Result<WatchJobsResponse, Status>>;
    type CancelJobsStream = ReceiverStream<Result<CancelJobsResponse, Status>>;
    type RerunJobsStream = ReceiverStream<Result<RerunJobsResponse, Status>>;
    type ReadJobOutputStream =
        futures::stream::BoxStream<'static, Result<ReadJobOutputResponse, Status>>;

    async fn cancel_jobs(
        &self,
        request: Request<CancelJobsRequest>,
    ) -> Result<Response<Self::CancelJobsStream>, Status> {
        self.cancel_many.call(request).await
    }

    async fn rerun_jobs(
        &self,
        _: Request<RerunJobsRequest>,
    ) -> Result<Response<Self::RerunJobsStream>, Status> {
        Err(Status::unimplemented("not in the script"))
    }

    async fn read_job_output(
        &self,
        request: Request<ReadJobOutputRequest>,
    ) -> Result<Response<Self::ReadJobOutputStream>, Status> {
        let messages = self.output.call(request).await?.into_inner();
        let stream: Self::ReadJobOutputStream = Box::pin(futures::stream::iter(messages));
        Ok(Response::new(stream))
    }

    async fn submit_job(
        &self,
        request: Request<SubmitJobRequest>,
    ) -> Result<Response<SubmitJobResponse>, Status> {
        self.submit.call(request).await
    }

    async fn submit_jobs(
        &self,
        request: Request<SubmitJobsRequest>,
    ) -> Result<Response<SubmitJobsResponse>, Status> {
        self.submit_many.call(request).await
    }

    async fn get_job(
        &self,
        request: Request<GetJobRequest>,
    ) -> Result<Response<GetJobResponse>, Status> {
        self.get.call(request).await
    }

    async fn list_jobs(
        &self,
        request: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        self.list.call(request).await
    }

    async fn wait_job(
        &self,
        request: Request<WaitJobRequest>,
    ) -> Result<Response<WaitJobResponse>, Status> {
        self.wait.call(request).await
    }

    async fn cancel_job(
        &self,
        request: Request<CancelJobRequest>,
    ) -> Result<Response<CancelJobResponse>, Status> {
        self.cancel.call(request).await
    }

    async fn watch_jobs(
        &self,
        request: Request<WatchJobsRequest>,
    ) -> Result<Response<Self::WatchJobsStream>, Status> {
        let (send, stream) = mpsc::channel(1_024);
        let request = request.into_inner();
        let _ = self.watch.try_send(FakeWatch { request, send });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    unscripted! {
        count_jobs(CountJobsRequest) -> CountJobsResponse;
        diagnose_job(DiagnoseJobRequest) -> DiagnoseJobResponse;
        list_job_events(ListJobEventsRequest) -> ListJobEventsResponse;
        list_job_decisions(ListJobDecisionsRequest) -> ListJobDecisionsResponse;
        list_job_attempts(ListJobAttemptsRequest) -> ListJobAttemptsResponse;
        rerun_job(RerunJobRequest) -> RerunJobResponse;
    }
}

#[tonic::async_trait]
impl AccessService for Fake {
    async fn create_api_key(
        &self,
        request: Request<CreateApiKeyRequest>,
    ) -> Result<Response<CreateApiKeyResponse>, Status> {
        self.create_key.call(request).await
    }

    unscripted! {
        list_api_keys(ListApiKeysRequest) -> ListApiKeysResponse;
        revoke_api_key(RevokeApiKeyRequest) -> RevokeApiKeyResponse;
        who_am_i(WhoAmIRequest) -> WhoAmIResponse;
    }
}

#[tonic::async_trait]
impl WorkerService for Fake {
    type OpenSessionStream = ReceiverStream<Result<OpenSessionResponse, Status>>;

    async fn open_session(
        &self,
        request: Request<Streaming<OpenSessionRequest>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        if let Some(refusal) = &*self.refusal.lock() {
            return Err(Status::new(refusal.code(), refusal.message()));
        }
        let (send, stream) = mpsc::channel(1_024);
        let _ = self
            .open
            .try_send(FakeSession::new(request.into_inner(), send));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    unscripted! {
        list_workers(ListWorkersRequest) -> ListWorkersResponse;
        get_worker(GetWorkerRequest) -> GetWorkerResponse;
        drain_worker(DrainWorkerRequest) -> DrainWorkerResponse;
        list_pools(ListPoolsRequest) -> ListPoolsResponse;
        pause_pool(PausePoolRequest) -> PausePoolResponse;
        resume_pool(ResumePoolRequest) -> ResumePoolResponse;
        list_pauses(ListPausesRequest) -> ListPausesResponse;
    }
}
