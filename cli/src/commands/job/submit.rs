//! `coretexctl job submit` and `rerun`, one job at a time. Many are in `batch`.

use coretex::Job;

use super::{batch, follow, many, request};
use crate::args::job::{Rerun, Submit};
use crate::commands::Cx;
use crate::failure::{Exit, Failure};

pub(super) async fn submit(cx: &Cx<'_>, args: &Submit) -> Result<Exit, Failure> {
    follow::check(&args.follow)?;
    let request = request::submit(args)?;
    if let Some(file) = &args.batch {
        return batch::submit(cx, file, &request, &args.follow).await;
    }
    if request.topic.is_empty() {
        let failure = Failure::usage("no topic was given");
        return Err(failure.hint("coretexctl job submit --topic job.NAME --input JSON"));
    }
    let answer = cx.client.submit_job(request).await?;
    submitted(cx, answer.job, answer.replayed, &args.follow).await
}

pub(super) async fn rerun(cx: &Cx<'_>, args: &Rerun) -> Result<Exit, Failure> {
    if let Some(filter) = many::filter(&args.which, &args.pace)? {
        return many::rerun(cx, args, filter).await;
    }
    follow::check(&args.follow)?;
    let job_id = args.which.job_id.as_deref().unwrap_or_default();
    let answer = cx.client.rerun_job(request::rerun(args, job_id)?).await?;
    submitted(cx, answer.job, answer.replayed, &args.follow).await
}

/// Does with a new job what was asked for.
pub(in crate::commands) async fn submitted(
    cx: &Cx<'_>,
    job: Option<Job>,
    replayed: bool,
    how: &crate::args::job::Follow,
) -> Result<Exit, Failure> {
    let job = job.ok_or_else(|| Failure::incomplete("job"))?;
    if replayed {
        cx.ui.note("replayed: the job had been submitted before");
    }
    follow::follow(cx, job, how).await
}
