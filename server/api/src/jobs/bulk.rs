//! Many jobs at once: cancelled, or run again.

use std::time::Duration;

use coretex_engine::{Engine, MAX_CANCEL_GRACE};
use coretex_proto::v1;

use crate::bulk::{Bulk, options, refuse_empty};
use crate::call::Call;
use crate::convert::{query, submit};
use crate::problem::Result;
use crate::validate::{MAX_TEXT, check};

/// Cancels jobs.
pub(super) async fn cancel(
    engine: &Engine,
    call: Call,
    request: v1::CancelJobsRequest,
) -> Result<Bulk<v1::CancelJobsResponse>> {
    let force = request.force;
    let (filter, reason, grace, options) = check(|fields| {
        refuse_empty(fields, request.filter.as_ref(), request.all);
        let filter = query::filter(fields, "filter", request.filter);
        let reason = fields.text("reason", request.reason, MAX_TEXT);
        let range = Duration::ZERO..=MAX_CANCEL_GRACE;
        let grace = fields.duration("grace", request.grace, &range);
        let (rate, dry_run) = (request.rate, request.dry_run);
        let options = options(fields, rate, dry_run, request.page_token, String::new());
        (filter, reason, grace, options)
    })?;
    let items = engine
        .cancel_jobs(&call.caller, &filter, reason, grace, force, options)
        .await?;
    let wrap = |progress| v1::CancelJobsResponse {
        progress: Some(progress),
    };
    Ok(Bulk::new(call, items, wrap))
}

/// Runs jobs again.
pub(super) async fn rerun(
    engine: &Engine,
    call: Call,
    request: v1::RerunJobsRequest,
) -> Result<Bulk<v1::RerunJobsResponse>> {
    let (filter, edits, options) = check(|fields| {
        refuse_empty(fields, request.filter.as_ref(), request.all);
        let filter = query::filter(fields, "filter", request.filter);
        let edits = submit::edits(fields, request.edits, engine.limits());
        let (rate, dry_run, key) = (request.rate, request.dry_run, request.idempotency_key);
        let options = options(fields, rate, dry_run, request.page_token, key);
        (filter, edits, options)
    })?;
    let items = engine
        .rerun_jobs(&call.caller, &filter, edits, options)
        .await?;
    let wrap = |progress| v1::RerunJobsResponse {
        progress: Some(progress),
    };
    Ok(Bulk::new(call, items, wrap))
}
