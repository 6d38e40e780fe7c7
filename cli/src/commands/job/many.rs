//! `coretexctl job cancel --filter` and `job rerun --filter`: many jobs in one call.

use coretex::proto::{CancelJobsRequest, JobFilter, RerunJobsRequest};
use coretex::proto_time::duration_from_std;

use super::{follow, request};
use crate::args::bulk::{Pace, Which};
use crate::args::job::{Cancel, Rerun};
use crate::commands::{Cx, bulk};
use crate::failure::{Exit, Failure};

/// The filter that was given, when it is not about one job. Flags that mean nothing for one are
/// refused.
pub(super) fn filter(which: &Which, pace: &Pace) -> Result<Option<JobFilter>, Failure> {
    if which.job_id.is_some() {
        return match pace.given() {
            Some(flag) => Err(Failure::usage(format!("{flag} needs --filter or --all"))),
            None => Ok(None),
        };
    }
    let filter = which.filter().map_err(Failure::usage)?;
    Ok(Some((&filter).into()))
}

pub(super) async fn cancel(cx: &Cx<'_>, args: &Cancel, filter: JobFilter) -> Result<Exit, Failure> {
    let from = &args.pace.from;
    let request = CancelJobsRequest {
        filter: Some(filter),
        all: args.which.all,
        reason: args.reason.clone().unwrap_or_default(),
        grace: args.grace.map(duration_from_std),
        force: args.force,
        rate: args.pace.rate.unwrap_or_default(),
        dry_run: from.dry_run,
        page_token: from.page_token.clone().unwrap_or_default(),
    };
    if !args.yes && !from.dry_run {
        let count = CancelJobsRequest {
            dry_run: true,
            ..request.clone()
        };
        bulk::ask("cancel", "jobs", cx.client.cancel_jobs(count)).await?;
    }
    bulk::follow(cx, cx.client.cancel_jobs(request)).await
}

pub(super) async fn rerun(cx: &Cx<'_>, args: &Rerun, filter: JobFilter) -> Result<Exit, Failure> {
    follow::check(&args.follow)?;
    if args.follow.wait || args.follow.watch {
        return Err(Failure::usage("--wait and --watch are for one job"));
    }
    let from = &args.pace.from;
    let request = RerunJobsRequest {
        filter: Some(filter),
        all: args.which.all,
        edits: request::edits(&args.edits)?,
        rate: args.pace.rate.unwrap_or_default(),
        dry_run: from.dry_run,
        idempotency_key: args.idempotency_key.clone().unwrap_or_default(),
        page_token: from.page_token.clone().unwrap_or_default(),
    };
    let stream = cx.client.rerun_jobs(request).await?;
    bulk::follow(cx, stream).await
}
