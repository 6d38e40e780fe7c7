//! `JobService`: submitting jobs, showing them, and saying why they do or do not run.
//!
//! Batches are in [`batch`], streams in [`watch`] and [`output`], the pages of histories in
//! [`history`], many at once in [`bulk`].

mod batch;
mod bulk;
mod history;
mod list;
mod output;
mod watch;

use coretex_core::id::JobId;
use coretex_engine::{Engine, MAX_CANCEL_GRACE};
use coretex_proto::v1;
use coretex_proto::v1::job_service_server::JobService;
use tonic::{Request, Response, Status, async_trait};

use crate::bulk::Bulk;
use crate::call::answer;
use crate::convert;
use crate::convert::job::View;
use crate::convert::query::{self, visible};
use crate::convert::submit;
use crate::problem::Result as Outcome;
use crate::validate::{MAX_TEXT, check};
use watch::Watch;

/// The service over an engine.
#[derive(Clone, Debug)]
pub(crate) struct Jobs {
    engine: Engine,
}

impl Jobs {
    pub(crate) const fn new(engine: Engine) -> Self {
        Self { engine }
    }
}

/// Reads the id of an existing job.
fn job_id(id: &str) -> Outcome<JobId> {
    check(|fields| fields.job("job_id", id))
}

#[async_trait]
impl JobService for Jobs {
    type WatchJobsStream = Watch;
    type CancelJobsStream = Bulk<v1::CancelJobsResponse>;
    type RerunJobsStream = Bulk<v1::RerunJobsResponse>;
    type ReadJobOutputStream = output::Pieces;

    async fn submit_job(
        &self,
        request: Request<v1::SubmitJobRequest>,
    ) -> Result<Response<v1::SubmitJobResponse>, Status> {
        answer(request, |call, request| async move {
            let (limits, trace) = (self.engine.limits(), call.trace_id());
            let mut submit = check(|fields| submit::read(fields, request, limits, trace))?;
            submit.wait = submit.wait.map(|wait| call.wait(wait));
            let submitted = self.engine.submit_job(&call.caller, submit).await?;
            let view = visible(View::Full, &call.caller);
            Ok(v1::SubmitJobResponse {
                job: Some(convert::job::answer(&submitted.answer, view)),
                replayed: submitted.replayed,
            })
        })
        .await
    }

    async fn submit_jobs(
        &self,
        request: Request<v1::SubmitJobsRequest>,
    ) -> Result<Response<v1::SubmitJobsResponse>, Status> {
        answer(request, |call, request| async move {
            batch::submit(&self.engine, &call, request.requests).await
        })
        .await
    }

    async fn get_job(
        &self,
        request: Request<v1::GetJobRequest>,
    ) -> Result<Response<v1::GetJobResponse>, Status> {
        answer(request, |call, request| async move {
            let (id, view) = check(|fields| {
                let id = fields.job("job_id", &request.job_id);
                let view = query::view(fields, request.view, View::Full, &call.caller);
                (id, view)
            })?;
            let found = self
                .engine
                .get_job(&call.caller, &id, view.is_full())
                .await?;
            Ok(v1::GetJobResponse {
                job: Some(convert::job::answer(&found, view)),
            })
        })
        .await
    }

    async fn list_jobs(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        answer(request, |call, request| async move {
            list::list(&self.engine, &call.caller, request).await
        })
        .await
    }

    async fn count_jobs(
        &self,
        request: Request<v1::CountJobsRequest>,
    ) -> Result<Response<v1::CountJobsResponse>, Status> {
        answer(request, |call, request| async move {
            let filter = check(|fields| query::filter(fields, "filter", request.filter))?;
            let found = self.engine.count_jobs(&call.caller, &filter).await?;
            Ok(v1::CountJobsResponse {
                count: convert::count(found.count),
                capped: found.capped,
            })
        })
        .await
    }

    async fn wait_job(
        &self,
        request: Request<v1::WaitJobRequest>,
    ) -> Result<Response<v1::WaitJobResponse>, Status> {
        answer(request, |call, request| async move {
            let max = self.engine.limits().max_wait;
            let (id, timeout, view) = check(|fields| {
                let id = fields.job("job_id", &request.job_id);
                let range = std::time::Duration::ZERO..=max;
                let timeout = fields.duration("timeout", request.timeout, &range);
                let view = query::view(fields, request.view, View::Full, &call.caller);
                (id, timeout.unwrap_or(max), view)
            })?;
            let (wait, full) = (call.wait(timeout), view.is_full());
            let found = self.engine.wait_job(&call.caller, &id, wait, full).await?;
            Ok(v1::WaitJobResponse {
                job: Some(convert::job::answer(&found, view)),
            })
        })
        .await
    }

    async fn watch_jobs(
        &self,
        request: Request<v1::WatchJobsRequest>,
    ) -> Result<Response<Self::WatchJobsStream>, Status> {
        answer(request, |call, request| async move {
            watch::open(&self.engine, call, request).await
        })
        .await
    }

    async fn cancel_job(
        &self,
        request: Request<v1::CancelJobRequest>,
    ) -> Result<Response<v1::CancelJobResponse>, Status> {
        answer(request, |call, request| async move {
            let (id, reason, grace) = check(|fields| {
                let id = fields.job("job_id", &request.job_id);
                let reason = fields.text("reason", request.reason, MAX_TEXT);
                let range = std::time::Duration::ZERO..=MAX_CANCEL_GRACE;
                (id, reason, fields.duration("grace", request.grace, &range))
            })?;
            let cancelled = self
                .engine
                .cancel_job(&call.caller, &id, reason, grace, request.force)
                .await?;
            Ok(v1::CancelJobResponse {
                job: Some(convert::job::answer(&cancelled, View::Basic)),
            })
        })
        .await
    }

    async fn cancel_jobs(
        &self,
        request: Request<v1::CancelJobsRequest>,
    ) -> Result<Response<Self::CancelJobsStream>, Status> {
        answer(request, |call, request| async move {
            bulk::cancel(&self.engine, call, request).await
        })
        .await
    }

    async fn diagnose_job(
        &self,
        request: Request<v1::DiagnoseJobRequest>,
    ) -> Result<Response<v1::DiagnoseJobResponse>, Status> {
        answer(request, |call, request| async move {
            let id = job_id(&request.job_id)?;
            let diagnosis = self.engine.diagnose_job(&call.caller, &id).await?;
            Ok(convert::diagnosis::write(diagnosis))
        })
        .await
    }

    async fn list_job_events(
        &self,
        request: Request<v1::ListJobEventsRequest>,
    ) -> Result<Response<v1::ListJobEventsResponse>, Status> {
        answer(request, |call, request| async move {
            let job = history::job(&self.engine, &call.caller, &request).await?;
            history::events(&job, &request)
        })
        .await
    }

    async fn list_job_decisions(
        &self,
        request: Request<v1::ListJobDecisionsRequest>,
    ) -> Result<Response<v1::ListJobDecisionsResponse>, Status> {
        answer(request, |call, request| async move {
            let job = history::job(&self.engine, &call.caller, &request).await?;
            history::decisions(&job, &request)
        })
        .await
    }

    async fn list_job_attempts(
        &self,
        request: Request<v1::ListJobAttemptsRequest>,
    ) -> Result<Response<v1::ListJobAttemptsResponse>, Status> {
        answer(request, |call, request| async move {
            let job = history::job(&self.engine, &call.caller, &request).await?;
            history::attempts(&job, &request)
        })
        .await
    }

    async fn read_job_output(
        &self,
        request: Request<v1::ReadJobOutputRequest>,
    ) -> Result<Response<Self::ReadJobOutputStream>, Status> {
        answer(request, |call, request| async move {
            output::open(&self.engine, call, request).await
        })
        .await
    }

    async fn rerun_job(
        &self,
        request: Request<v1::RerunJobRequest>,
    ) -> Result<Response<v1::RerunJobResponse>, Status> {
        answer(request, |call, request| async move {
            let limits = self.engine.limits();
            let (id, edits, key) = check(|fields| {
                let id = fields.job("job_id", &request.job_id);
                let edits = submit::edits(fields, request.edits, limits);
                (
                    id,
                    edits,
                    submit::idempotency_key(fields, request.idempotency_key),
                )
            })?;
            let submitted = self.engine.rerun_job(&call.caller, &id, edits, key).await?;
            let view = visible(View::Full, &call.caller);
            Ok(v1::RerunJobResponse {
                job: Some(convert::job::answer(&submitted.answer, view)),
                replayed: submitted.replayed,
            })
        })
        .await
    }

    async fn rerun_jobs(
        &self,
        request: Request<v1::RerunJobsRequest>,
    ) -> Result<Response<Self::RerunJobsStream>, Status> {
        answer(request, |call, request| async move {
            bulk::rerun(&self.engine, call, request).await
        })
        .await
    }
}
