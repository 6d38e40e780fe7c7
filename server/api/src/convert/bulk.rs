//! How far an operation on many things is.

use coretex_core::id::JobId;
use coretex_engine::{BulkProgress, Error};
use coretex_proto::v1;

use super::count;
use crate::problem::Problem;
use crate::status;

/// Writes a progress.
pub(crate) fn progress(from: BulkProgress, request_id: &str) -> v1::BulkProgress {
    let failures = from.failures.into_iter();
    v1::BulkProgress {
        matched_count: count(from.matched),
        done_count: count(from.done),
        skipped_count: count(from.skipped),
        failed_count: count(from.failed),
        failures: failures.map(|one| failure(one, request_id)).collect(),
        finished: from.finished,
        page_token: from.page_token,
        idempotency_key: from.idempotency_key,
    }
}

fn failure((id, error): (JobId, Error), request_id: &str) -> v1::BulkFailure {
    let status = status::rpc(Problem::Engine(error), Some(request_id));
    v1::BulkFailure {
        job_id: id.to_string(),
        status: Some(status),
    }
}
