//! The services of the scripted server.

use std::future::Future;
use std::pin::Pin;

use coretex::proto::access_service_server::AccessService;
use coretex::proto::approval_service_server::ApprovalService;
use coretex::proto::config_service_server::ConfigService;
use coretex::proto::dlq_service_server::DlqService;
use coretex::proto::job_service_server::JobService;
use coretex::proto::system_service_server::SystemService;
use coretex::proto::worker_service_server::WorkerService;
use coretex::proto::*;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::session::FakeSession;

type Script<Req, Resp> = Box<dyn FnMut(Req) -> Result<Resp, Status> + Send>;
type Reply<'a, Resp> = Pin<Box<dyn Future<Output = Result<Response<Resp>, Status>> + Send + 'a>>;

/// What the server answers to one RPC, and what it was asked.
pub(crate) struct Hook<Req, Resp> {
    script: Mutex<Option<Script<Req, Resp>>>,
    asked: Mutex<Vec<Req>>,
}

impl<Req, Resp> Default for Hook<Req, Resp> {
    fn default() -> Self {
        Self {
            script: Mutex::new(None),
            asked: Mutex::default(),
        }
    }
}

impl<Req: Clone, Resp> Hook<Req, Resp> {
    pub(crate) fn set(&self, script: impl FnMut(Req) -> Result<Resp, Status> + Send + 'static) {
        *self.script.lock() = Some(Box::new(script));
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Req> {
        self.asked.lock().clone()
    }

    /// The only request so far.
    pub(crate) fn only(&self) -> Req {
        let mut asked = self.asked();
        assert_eq!(asked.len(), 1, "there should have been one request");
        asked.remove(0)
    }

    fn call(&self, request: Req) -> Result<Resp, Status> {
        self.asked.lock().push(request.clone());
        match &mut *self.script.lock() {
            Some(script) => script(request),
            None => Err(Status::unimplemented("not in the script")),
        }
    }
}

/// What a watch says, and whether it then stays open.
pub(crate) struct Watched {
    pub(crate) messages: Vec<WatchJobsResponse>,
    pub(crate) stays: bool,
}

macro_rules! fake {
    ($($name:ident: $request:ident => $response:ty;)+) => {
        /// The scripted server.
        #[derive(Default)]
        pub(crate) struct Fake {
            open: Option<mpsc::Sender<FakeSession>>,
            /// The `authorization` of every call.
            pub(crate) credentials: Mutex<Vec<String>>,
            /// Keeps watches open.
            watches: Mutex<Vec<mpsc::Sender<Result<WatchJobsResponse, Status>>>>,
            pub(crate) watch: Hook<WatchJobsRequest, Watched>,
            pub(crate) output: Hook<ReadJobOutputRequest, Vec<ReadJobOutputResponse>>,
            $(pub(crate) $name: Hook<$request, $response>,)+
        }
    };
}

fake! {
    submit_job: SubmitJobRequest => SubmitJobResponse;
    submit_jobs: SubmitJobsRequest => SubmitJobsResponse;
    get_job: GetJobRequest => GetJobResponse;
    list_jobs: ListJobsRequest => ListJobsResponse;
    count_jobs: CountJobsRequest => CountJobsResponse;
    wait_job: WaitJobRequest => WaitJobResponse;
    cancel_job: CancelJobRequest => CancelJobResponse;
    diagnose_job: DiagnoseJobRequest => DiagnoseJobResponse;
    list_job_events: ListJobEventsRequest => ListJobEventsResponse;
    list_job_decisions: ListJobDecisionsRequest => ListJobDecisionsResponse;
    list_job_attempts: ListJobAttemptsRequest => ListJobAttemptsResponse;
    rerun_job: RerunJobRequest => RerunJobResponse;
    cancel_jobs: CancelJobsRequest => Vec<CancelJobsResponse>;
    rerun_jobs: RerunJobsRequest => Vec<RerunJobsResponse>;
    list_approvals: ListApprovalsRequest => ListApprovalsResponse;
    get_approval: GetApprovalRequest => GetApprovalResponse;
    resolve_approval: ResolveApprovalRequest => ResolveApprovalResponse;
    watch_approvals: WatchApprovalsRequest => Vec<WatchApprovalsResponse>;
    list_dlq_entries: ListDlqEntriesRequest => ListDlqEntriesResponse;
    get_dlq_entry: GetDlqEntryRequest => GetDlqEntryResponse;
    retry_dlq_entry: RetryDlqEntryRequest => RetryDlqEntryResponse;
    retry_dlq_entries: RetryDlqEntriesRequest => Vec<RetryDlqEntriesResponse>;
    delete_dlq_entry: DeleteDlqEntryRequest => DeleteDlqEntryResponse;
    purge_dlq: PurgeDlqRequest => Vec<PurgeDlqResponse>;
    list_workers: ListWorkersRequest => ListWorkersResponse;
    get_worker: GetWorkerRequest => GetWorkerResponse;
    drain_worker: DrainWorkerRequest => DrainWorkerResponse;
    list_pools: ListPoolsRequest => ListPoolsResponse;
    pause_pool: PausePoolRequest => PausePoolResponse;
    resume_pool: ResumePoolRequest => ResumePoolResponse;
    list_pauses: ListPausesRequest => ListPausesResponse;
    set_config: SetConfigRequest => SetConfigResponse;
    get_config: GetConfigRequest => GetConfigResponse;
    list_configs: ListConfigsRequest => ListConfigsResponse;
    delete_config: DeleteConfigRequest => DeleteConfigResponse;
    list_config_revisions: ListConfigRevisionsRequest => ListConfigRevisionsResponse;
    get_effective_config: GetEffectiveConfigRequest => GetEffectiveConfigResponse;
    create_api_key: CreateApiKeyRequest => CreateApiKeyResponse;
    list_api_keys: ListApiKeysRequest => ListApiKeysResponse;
    revoke_api_key: RevokeApiKeyRequest => RevokeApiKeyResponse;
    who_am_i: WhoAmIRequest => WhoAmIResponse;
    get_status: GetStatusRequest => GetStatusResponse;
}

impl Fake {
    pub(crate) fn new(open: mpsc::Sender<FakeSession>) -> Self {
        Self {
            open: Some(open),
            ..Self::default()
        }
    }

    fn note<T>(&self, request: &Request<T>) {
        let credential = request.metadata().get("authorization");
        let credential = credential.map_or("", |value| value.to_str().unwrap());
        self.credentials.lock().push(credential.to_owned());
    }
}

/// Unary RPCs answered by their hooks, in the form that `async_trait` makes of them: it does not
/// look into macros.
macro_rules! hooked {
    ($($name:ident ($request:ident) -> $response:ident;)+) => {
        $(
            fn $name<'a, 'b>(&'a self, request: Request<$request>) -> Reply<'b, $response>
            where
                'a: 'b,
                Self: 'b,
            {
                self.note(&request);
                Box::pin(async move { self.$name.call(request.into_inner()).map(Response::new) })
            }
        )+
    };
}

type Messages<T> = ReceiverStream<Result<T, Status>>;

/// A stream that says these and ends.
fn messages<T>(all: Vec<T>) -> Response<Messages<T>> {
    let (send, stream) = mpsc::channel(all.len() + 1);
    for message in all {
        let _ = send.try_send(Ok(message));
    }
    Response::new(ReceiverStream::new(stream))
}

#[tonic::async_trait]
impl JobService for Fake {
    type WatchJobsStream = ReceiverStream<Result<WatchJobsResponse, Status>>;
    type CancelJobsStream = Messages<CancelJobsResponse>;
    type RerunJobsStream = Messages<RerunJobsResponse>;
    type ReadJobOutputStream = ReceiverStream<Result<ReadJobOutputResponse, Status>>;

    async fn cancel_jobs(
        &self,
        request: Request<CancelJobsRequest>,
    ) -> Result<Response<Self::CancelJobsStream>, Status> {
        self.cancel_jobs.call(request.into_inner()).map(messages)
    }

    async fn rerun_jobs(
        &self,
        request: Request<RerunJobsRequest>,
    ) -> Result<Response<Self::RerunJobsStream>, Status> {
        self.rerun_jobs.call(request.into_inner()).map(messages)
    }

    async fn read_job_output(
        &self,
        request: Request<ReadJobOutputRequest>,
    ) -> Result<Response<Self::ReadJobOutputStream>, Status> {
        let pieces = self.output.call(request.into_inner())?;
        let (send, stream) = mpsc::channel(pieces.len() + 1);
        for piece in pieces {
            let _ = send.try_send(Ok(piece));
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn watch_jobs(
        &self,
        request: Request<WatchJobsRequest>,
    ) -> Result<Response<Self::WatchJobsStream>, Status> {
        let watched = self.watch.call(request.into_inner())?;
        let (send, stream) = mpsc::channel(watched.messages.len() + 1);
        for message in watched.messages {
            let _ = send.try_send(Ok(message));
        }
        if watched.stays {
            self.watches.lock().push(send);
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    hooked! {
        submit_job(SubmitJobRequest) -> SubmitJobResponse;
        submit_jobs(SubmitJobsRequest) -> SubmitJobsResponse;
        get_job(GetJobRequest) -> GetJobResponse;
        list_jobs(ListJobsRequest) -> ListJobsResponse;
        count_jobs(CountJobsRequest) -> CountJobsResponse;
        wait_job(WaitJobRequest) -> WaitJobResponse;
        cancel_job(CancelJobRequest) -> CancelJobResponse;
        diagnose_job(DiagnoseJobRequest) -> DiagnoseJobResponse;
        list_job_events(ListJobEventsRequest) -> ListJobEventsResponse;
        list_job_decisions(ListJobDecisionsRequest) -> ListJobDecisionsResponse;
        list_job_attempts(ListJobAttemptsRequest) -> ListJobAttemptsResponse;
        rerun_job(RerunJobRequest) -> RerunJobResponse;
    }
}

#[tonic::async_trait]
impl DlqService for Fake {
    type RetryDlqEntriesStream = Messages<RetryDlqEntriesResponse>;
    type PurgeDlqStream = Messages<PurgeDlqResponse>;

    async fn retry_dlq_entries(
        &self,
        request: Request<RetryDlqEntriesRequest>,
    ) -> Result<Response<Self::RetryDlqEntriesStream>, Status> {
        self.retry_dlq_entries
            .call(request.into_inner())
            .map(messages)
    }

    async fn purge_dlq(
        &self,
        request: Request<PurgeDlqRequest>,
    ) -> Result<Response<Self::PurgeDlqStream>, Status> {
        self.purge_dlq.call(request.into_inner()).map(messages)
    }

    hooked! {
        list_dlq_entries(ListDlqEntriesRequest) -> ListDlqEntriesResponse;
        get_dlq_entry(GetDlqEntryRequest) -> GetDlqEntryResponse;
        retry_dlq_entry(RetryDlqEntryRequest) -> RetryDlqEntryResponse;
        delete_dlq_entry(DeleteDlqEntryRequest) -> DeleteDlqEntryResponse;
    }
}

#[tonic::async_trait]
impl ConfigService for Fake {
    hooked! {
        set_config(SetConfigRequest) -> SetConfigResponse;
        get_config(GetConfigRequest) -> GetConfigResponse;
        list_configs(ListConfigsRequest) -> ListConfigsResponse;
        delete_config(DeleteConfigRequest) -> DeleteConfigResponse;
        list_config_revisions(ListConfigRevisionsRequest) -> ListConfigRevisionsResponse;
        get_effective_config(GetEffectiveConfigRequest) -> GetEffectiveConfigResponse;
    }
}

#[tonic::async_trait]
impl ApprovalService for Fake {
    type WatchApprovalsStream = Messages<WatchApprovalsResponse>;

    async fn watch_approvals(
        &self,
        request: Request<WatchApprovalsRequest>,
    ) -> Result<Response<Self::WatchApprovalsStream>, Status> {
        self.watch_approvals
            .call(request.into_inner())
            .map(messages)
    }

    hooked! {
        list_approvals(ListApprovalsRequest) -> ListApprovalsResponse;
        get_approval(GetApprovalRequest) -> GetApprovalResponse;
        resolve_approval(ResolveApprovalRequest) -> ResolveApprovalResponse;
    }
}

#[tonic::async_trait]
impl AccessService for Fake {
    hooked! {
        create_api_key(CreateApiKeyRequest) -> CreateApiKeyResponse;
        list_api_keys(ListApiKeysRequest) -> ListApiKeysResponse;
        revoke_api_key(RevokeApiKeyRequest) -> RevokeApiKeyResponse;
        who_am_i(WhoAmIRequest) -> WhoAmIResponse;
    }
}

#[tonic::async_trait]
impl SystemService for Fake {
    hooked! {
        get_status(GetStatusRequest) -> GetStatusResponse;
    }
}

#[tonic::async_trait]
impl WorkerService for Fake {
    type OpenSessionStream = ReceiverStream<Result<OpenSessionResponse, Status>>;

    async fn open_session(
        &self,
        request: Request<Streaming<OpenSessionRequest>>,
    ) -> Result<Response<Self::OpenSessionStream>, Status> {
        let (send, stream) = mpsc::channel(1_024);
        let session = FakeSession::new(request.into_inner(), send);
        if let Some(open) = &self.open {
            let _ = open.try_send(session);
        }
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    hooked! {
        list_workers(ListWorkersRequest) -> ListWorkersResponse;
        get_worker(GetWorkerRequest) -> GetWorkerResponse;
        drain_worker(DrainWorkerRequest) -> DrainWorkerResponse;
        list_pools(ListPoolsRequest) -> ListPoolsResponse;
        pause_pool(PausePoolRequest) -> PausePoolResponse;
        resume_pool(ResumePoolRequest) -> ResumePoolResponse;
        list_pauses(ListPausesRequest) -> ListPausesResponse;
    }
}
