//! The calls of `JobService`.

use std::time::Duration;

use coretex_proto::time::duration_to_std;
use coretex_proto::v1::job_service_client::JobServiceClient;
use coretex_proto::v1::{
    CancelJobsRequest, CancelJobsResponse, RerunJobRequest, RerunJobResponse, RerunJobsRequest,
    RerunJobsResponse, SubmitJobRequest, SubmitJobResponse, SubmitJobsRequest, SubmitJobsResponse,
    WaitJobRequest, WaitJobResponse,
};

use super::bulk::{Bulk, Call};
use super::call::unary;
use super::items::paged;
use super::{Client, MAX_SERVER_WAIT};
use crate::Error;
use crate::payload_store::fit;

unary! {
    /// Shows one job.
    JobServiceClient::get_job("/coretex.v1.JobService/GetJob", GetJobRequest) -> GetJobResponse;
    /// Shows a page of jobs, newest first. See also [`all_jobs`](Self::all_jobs).
    JobServiceClient::list_jobs("/coretex.v1.JobService/ListJobs", ListJobsRequest)
        -> ListJobsResponse;
    /// Counts jobs, up to a bound.
    JobServiceClient::count_jobs("/coretex.v1.JobService/CountJobs", CountJobsRequest)
        -> CountJobsResponse;
    /// Ends a job.
    JobServiceClient::cancel_job("/coretex.v1.JobService/CancelJob", CancelJobRequest)
        -> CancelJobResponse;
    /// Says why a job is not running and what would start it, or how it ended.
    JobServiceClient::diagnose_job("/coretex.v1.JobService/DiagnoseJob", DiagnoseJobRequest)
        -> DiagnoseJobResponse;
    /// Shows what happened to a job.
    JobServiceClient::list_job_events("/coretex.v1.JobService/ListJobEvents", ListJobEventsRequest)
        -> ListJobEventsResponse;
    /// Shows what the safety kernel decided about a job.
    JobServiceClient::list_job_decisions(
        "/coretex.v1.JobService/ListJobDecisions",
        ListJobDecisionsRequest
    ) -> ListJobDecisionsResponse;
    /// Shows how often a job was tried, by whom, and how that ended.
    JobServiceClient::list_job_attempts(
        "/coretex.v1.JobService/ListJobAttempts",
        ListJobAttemptsRequest
    ) -> ListJobAttemptsResponse;
}

paged! {
    /// All jobs that match, newest first.
    all_jobs = list_jobs(ListJobsRequest) -> jobs: Job;
    /// All kept events of a job, oldest first.
    all_job_events = list_job_events(ListJobEventsRequest) -> events: JobEvent;
    /// All kept decisions about a job, oldest first.
    all_job_decisions = list_job_decisions(ListJobDecisionsRequest) -> decisions: JobDecision;
    /// All kept attempts of a job, oldest first.
    all_job_attempts = list_job_attempts(ListJobAttemptsRequest) -> attempts: JobAttempt;
}

/// How long the server may wait within a call; what the server will not accept counts as its most.
fn server_wait(wait: Option<&prost_types::Duration>) -> Duration {
    let wait = wait.and_then(|wait| duration_to_std(wait).ok());
    wait.unwrap_or_default().min(MAX_SERVER_WAIT)
}

impl Client {
    /// Submits a job. [`submit`](Self::submit) is more convenient.
    ///
    /// Fills the idempotency key when neither it nor a job id is given, so that the call can be
    /// repeated safely; hands a large input to the payload store.
    ///
    /// # Errors
    /// What the contract names for the RPC, and local errors when no answer comes.
    pub async fn submit_job(
        &self,
        mut request: SubmitJobRequest,
    ) -> Result<SubmitJobResponse, Error> {
        self.complete(&mut request).await?;
        let limit = self.deadline() + server_wait(request.wait.as_ref());
        let path = "/coretex.v1.JobService/SubmitJob";
        self.call(path, limit, request, |channel, request| async move {
            JobServiceClient::new(channel).submit_job(request).await
        })
        .await
    }

    /// Submits up to 1,000 jobs; each is accepted or refused by itself. [`Error::from_item`] decodes
    /// why one was refused.
    ///
    /// Completes each request as [`submit_job`](Self::submit_job) does.
    ///
    /// # Errors
    /// What the contract names for the RPC, and local errors when no answer comes.
    pub async fn submit_jobs(
        &self,
        mut request: SubmitJobsRequest,
    ) -> Result<SubmitJobsResponse, Error> {
        for item in &mut request.requests {
            self.complete(item).await?;
        }
        let path = "/coretex.v1.JobService/SubmitJobs";
        let limit = self.deadline();
        self.call(path, limit, request, |channel, request| async move {
            JobServiceClient::new(channel).submit_jobs(request).await
        })
        .await
    }

    /// Makes a new job like an old one. Fills the idempotency key when it is empty.
    ///
    /// # Errors
    /// What the contract names for the RPC, and local errors when no answer comes.
    pub async fn rerun_job(&self, mut request: RerunJobRequest) -> Result<RerunJobResponse, Error> {
        if request.idempotency_key.is_empty() {
            request.idempotency_key = self.shared.entropy.id();
        }
        if let Some(edits) = &mut request.edits {
            self.fit(&mut edits.input).await?;
        }
        let path = "/coretex.v1.JobService/RerunJob";
        let limit = self.deadline();
        self.call(path, limit, request, |channel, request| async move {
            JobServiceClient::new(channel).rerun_job(request).await
        })
        .await
    }

    /// Ends every job that matches. Goes on by itself where it was, when the connection breaks.
    pub fn cancel_jobs(&self, request: CancelJobsRequest) -> Bulk {
        self.bulk(Call {
            request,
            resume: |request, progress| request.page_token.clone_from(&progress.page_token),
            open: |channel, request| async move {
                JobServiceClient::new(channel).cancel_jobs(request).await
            },
            progress: |message: CancelJobsResponse| message.progress,
        })
    }

    /// Makes a new job like each that matches and has ended. Goes on by itself where it was, when
    /// the connection breaks; makes no job twice. Fills the idempotency key when it is empty.
    ///
    /// # Errors
    /// Those of the payload store. What the contract names for the RPC comes as the last item.
    pub async fn rerun_jobs(&self, mut request: RerunJobsRequest) -> Result<Bulk, Error> {
        if request.idempotency_key.is_empty() && request.page_token.is_empty() {
            request.idempotency_key = self.shared.entropy.id();
        }
        if let Some(edits) = &mut request.edits {
            self.fit(&mut edits.input).await?;
        }
        Ok(self.bulk(Call {
            request,
            resume: |request, progress| request.page_token.clone_from(&progress.page_token),
            open: |channel, request| async move {
                JobServiceClient::new(channel).rerun_jobs(request).await
            },
            progress: |message: RerunJobsResponse| message.progress,
        }))
    }

    /// Waits once for a job, at most 60 seconds; the job in the answer may not have ended.
    /// [`wait_ended`](Self::wait_ended) asks again until it has.
    ///
    /// # Errors
    /// What the contract names for the RPC, and local errors when no answer comes.
    pub async fn wait_job(&self, request: WaitJobRequest) -> Result<WaitJobResponse, Error> {
        let wait = match &request.timeout {
            None => MAX_SERVER_WAIT,
            timeout => server_wait(timeout.as_ref()),
        };
        let path = "/coretex.v1.JobService/WaitJob";
        let limit = self.deadline() + wait;
        self.call(path, limit, request, |channel, request| async move {
            JobServiceClient::new(channel).wait_job(request).await
        })
        .await
    }

    async fn complete(&self, request: &mut SubmitJobRequest) -> Result<(), Error> {
        // With a job id the call is repeatable already; a random key would make two calls with the
        // same id differ.
        if request.idempotency_key.is_empty() && request.job_id.is_empty() {
            request.idempotency_key = self.shared.entropy.id();
        }
        self.fit(&mut request.input).await
    }

    pub(crate) async fn fit(
        &self,
        payload: &mut Option<coretex_proto::v1::Payload>,
    ) -> Result<(), Error> {
        let shared = &self.shared;
        fit(&*shared.payload_store, shared.payload_limit, payload).await
    }
}
