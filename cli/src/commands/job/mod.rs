//! `coretexctl job ...`: the verbs that only look, and cancel. The others have files of their own.

mod batch;
mod batch_line;
mod follow;
pub(super) mod input;
mod many;
mod output;
mod request;
mod submit;
mod wait;
mod watch;

use coretex::proto::{
    CancelJobRequest, CountJobsRequest, DiagnoseJobRequest, GetJobRequest, JobFilter,
    ListJobAttemptsRequest, ListJobDecisionsRequest, ListJobEventsRequest, ListJobsRequest,
    ListJobsResponse, OutputChannel,
};
use coretex::proto_time::duration_from_std;
use coretex::{Job, JobState, JobView};

use super::Cx;
use crate::args::job::{Filter, Verb};
use crate::failure::{Exit, Failure};

pub(super) use follow::check as check_follow;
pub(super) use request::edits;
pub(super) use submit::submitted;

/// The most jobs that a server puts on one page.
const MAX_PAGE: usize = 1_000;

pub(super) async fn run(cx: &Cx<'_>, verb: &Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Submit(args) => return Box::pin(submit::submit(cx, args)).await,
        Verb::Rerun(args) => return Box::pin(submit::rerun(cx, args)).await,
        Verb::Wait { id, limits } => return follow::wait(cx, &id.job_id, limits).await,
        Verb::Watch {
            job_id,
            filter,
            resume_token,
        } => {
            return watch::watch(cx, job_id.as_deref(), filter, resume_token.as_deref()).await;
        }
        Verb::Output { read } => {
            return output::read(cx, read, OutputChannel::Output).await;
        }
        Verb::Logs { read } => return output::read(cx, read, OutputChannel::Log).await,
        Verb::Get { id, basic } => {
            let view = if *basic {
                JobView::Basic
            } else {
                JobView::Full
            };
            cx.ui.show(&get(cx, &id.job_id, view).await?)?;
        }
        Verb::List {
            filter,
            limit,
            all,
            page_token,
            full,
        } => {
            let view = if *full { JobView::Full } else { JobView::Basic };
            let limit = if *all { usize::MAX } else { *limit };
            list(
                cx,
                filter.into(),
                view,
                limit,
                page_token.clone().unwrap_or_default(),
            )
            .await?;
        }
        Verb::Count { filter } => {
            let filter = Some(filter.into());
            cx.ui
                .show(&cx.client.count_jobs(CountJobsRequest { filter }).await?)?;
        }
        Verb::Cancel(args) => {
            if let Some(filter) = many::filter(&args.which, &args.pace)? {
                return Box::pin(many::cancel(cx, args, filter)).await;
            }
            let request = CancelJobRequest {
                job_id: args.which.job_id.clone().unwrap_or_default(),
                reason: args.reason.clone().unwrap_or_default(),
                grace: args.grace.map(duration_from_std),
                force: args.force,
            };
            let answer = cx.client.cancel_job(request).await?;
            let job = answer.job.ok_or_else(|| Failure::incomplete("job"))?;
            cx.ui.show(&job)?;
        }
        Verb::Diagnose { id } => {
            let job_id = id.job_id.clone();
            cx.ui.show(
                &cx.client
                    .diagnose_job(DiagnoseJobRequest { job_id })
                    .await?,
            )?;
        }
        Verb::Events { id } => {
            let job_id = id.job_id.clone();
            let request = ListJobEventsRequest {
                job_id,
                ..ListJobEventsRequest::default()
            };
            cx.ui.show(&cx.client.list_job_events(request).await?)?;
        }
        Verb::Attempts { id } => {
            let job_id = id.job_id.clone();
            let request = ListJobAttemptsRequest {
                job_id,
                ..ListJobAttemptsRequest::default()
            };
            cx.ui.show(&cx.client.list_job_attempts(request).await?)?;
        }
        Verb::Decisions { id } => {
            let job_id = id.job_id.clone();
            let request = ListJobDecisionsRequest {
                job_id,
                ..ListJobDecisionsRequest::default()
            };
            cx.ui.show(&cx.client.list_job_decisions(request).await?)?;
        }
    }
    Ok(Exit::Done)
}

async fn get(cx: &Cx<'_>, job_id: &str, view: JobView) -> Result<Job, Failure> {
    let request = GetJobRequest {
        job_id: job_id.to_owned(),
        view: view.into(),
    };
    let answer = cx.client.get_job(request).await?;
    answer.job.ok_or_else(|| Failure::incomplete("job"))
}

async fn list(
    cx: &Cx<'_>,
    filter: JobFilter,
    view: JobView,
    limit: usize,
    page_token: String,
) -> Result<(), Failure> {
    let mut all = ListJobsResponse {
        next_page_token: page_token,
        ..ListJobsResponse::default()
    };
    // Pages are asked for one by one, because the token of the last one is part of the answer.
    loop {
        let wanted = limit.saturating_sub(all.jobs.len()).min(MAX_PAGE);
        if wanted == 0 {
            break;
        }
        let request = ListJobsRequest {
            filter: Some(filter.clone()),
            view: view.into(),
            page_size: i32::try_from(wanted).unwrap_or(i32::MAX),
            page_token: std::mem::take(&mut all.next_page_token),
        };
        let mut page = cx.client.list_jobs(request).await?;
        all.jobs.append(&mut page.jobs);
        all.next_page_token = page.next_page_token;
        if all.resume_token.is_empty() {
            all.resume_token = page.resume_token;
        }
        if all.next_page_token.is_empty() {
            break;
        }
    }
    cx.ui.show(&all)?;
    if !all.next_page_token.is_empty() && cx.ui.for_people() {
        cx.ui.note(&format!(
            "there are more: --all, a higher --limit, or --page-token {}",
            all.next_page_token
        ));
    }
    Ok(())
}

impl From<&Filter> for JobFilter {
    fn from(filter: &Filter) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            states: filter
                .states
                .iter()
                .map(|state| JobState::from(*state).into())
                .collect(),
            topics: filter.topics.clone(),
            labels: filter.labels.iter().cloned().collect(),
            principal_id: text(&filter.principal),
            team_id: text(&filter.team),
            trace_id: text(&filter.trace),
            run_id: text(&filter.run),
            worker_id: text(&filter.worker),
            parent_job_id: text(&filter.parent),
            created_after: filter.created_after,
            created_before: filter.created_before,
        }
    }
}
