//! `coretexctl job watch` and `submit --watch`: events, one line each, as they come.

use coretex::proto::watch_jobs_request::Target;
use coretex::proto::{
    JobEvent, JobEventType, ListJobEventsRequest, WatchJobsRequest, WatchJobsResponse,
};
use coretex::{Job, JobExt, JobView};

use super::{get, wait};
use crate::args::job::{Filter, WaitLimits};
use crate::commands::Cx;
use crate::failure::{Exit, Failure};

/// `coretexctl job watch`.
pub(super) async fn watch(
    cx: &Cx<'_>,
    job_id: Option<&str>,
    filter: &Filter,
    resume_token: Option<&str>,
) -> Result<Exit, Failure> {
    let resume_token = resume_token.unwrap_or_default().to_owned();
    match job_id {
        Some(job_id) => {
            Box::pin(one(cx, job_id, resume_token, |_| false)).await?;
        }
        None => {
            let mut watch = cx.client.watch(WatchJobsRequest {
                target: Some(Target::Filter(filter.into())),
                resume_token,
                ..WatchJobsRequest::default()
            });
            while let Some(message) = watch.next().await {
                cx.ui.show_next(&message?)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// Prints what happens to a job until it has ended or a limit is met; returns it as it then stands.
pub(super) async fn until_ended(
    cx: &Cx<'_>,
    job_id: &str,
    limits: &WaitLimits,
) -> Result<Job, Failure> {
    let enough = |job: &Job| limits.no_approval_wait && wait::needs_approval(job);
    let watch = Box::pin(one(cx, job_id, String::new(), enough));
    match limits.timeout {
        None => watch.await,
        Some(timeout) => match tokio::time::timeout(timeout, watch).await {
            Ok(job) => job,
            Err(_) => get(cx, job_id, JobView::Basic).await,
        },
    }
}

/// Prints what has happened to a job (unless it goes on from a token) and what happens, until it
/// has ended or `enough` says so.
async fn one(
    cx: &Cx<'_>,
    job_id: &str,
    resume_token: String,
    enough: impl Fn(&Job) -> bool,
) -> Result<Job, Failure> {
    let mut history_is_due = resume_token.is_empty();
    let mut printed = 0;
    let mut last = None;
    let mut watch = cx.client.watch(WatchJobsRequest {
        target: Some(Target::JobId(job_id.to_owned())),
        resume_token,
        view: JobView::Full.into(),
    });
    while let Some(message) = watch.next().await {
        let message = message?;
        if std::mem::take(&mut history_is_due) {
            // Read after the watch has begun, so nothing is missed; what comes twice is left out.
            for event in history(cx, job_id).await? {
                printed = event.sequence;
                let event = Some(event);
                cx.ui.show_next(&WatchJobsResponse {
                    event,
                    ..WatchJobsResponse::default()
                })?;
            }
        }
        // Checkpoints and progress are not part of the history.
        let kept = message
            .event
            .as_ref()
            .filter(|event| event.r#type() != JobEventType::Progressed);
        let sequence = kept.map_or(0, |event| event.sequence);
        if sequence == 0 || sequence > printed {
            printed = printed.max(sequence);
            cx.ui.show_next(&message)?;
        }
        if let Some(job) = message.job {
            let stop = job.ended() || enough(&job);
            last = Some(job);
            // After the end the server closes the stream, when it has sent the last events.
            if stop && last.as_ref().is_some_and(|job| !job.ended()) {
                break;
            }
        }
    }
    match last {
        Some(job) => Ok(job),
        None => get(cx, job_id, JobView::Full).await,
    }
}

async fn history(cx: &Cx<'_>, job_id: &str) -> Result<Vec<JobEvent>, Failure> {
    let request = ListJobEventsRequest {
        job_id: job_id.to_owned(),
        ..ListJobEventsRequest::default()
    };
    Ok(cx.client.list_job_events(request).await?.events)
}
