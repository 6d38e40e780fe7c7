//! Jobs that wait for a human, and jobs that humans have ended.

use coretex_core::approval::Approval;
use coretex_core::job::{Job, JobError};

use super::cause;
use crate::types::Cause;

/// Whom a job waits for.
pub(super) fn waits(job: &Job) -> Cause {
    let code = "approval_pending";
    let remedy = "approve or reject it";
    let Some(approval) = job.pending_approval() else {
        return cause(code, "policy asks for a human decision", remedy);
    };
    let cause = cause(code, message(approval), remedy);
    match approval.expire_time {
        Some(at) => cause.until(at),
        None => cause,
    }
}

fn message(approval: &Approval) -> String {
    let roles = approval.approver_roles().join(" or ");
    let missing = approval.missing();
    let who = match missing {
        1 => format!("one more approval by {roles} is missing"),
        _ => format!("{missing} more approvals by {roles} are missing"),
    };
    let rule = match approval.rule_id.as_str() {
        "" => "the default decision".to_owned(),
        rule => format!("rule `{rule}`"),
    };
    let id = &approval.id;
    let why = match approval.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    format!("{who} ({id}), because {rule} asks for it{why}")
}

/// How humans have ended a job; `None` = it was not they.
pub(super) fn refused(job: &Job) -> Option<Cause> {
    let error = job
        .error
        .as_ref()
        .filter(|error| JobError::is_of_approval(error))?;
    let remedy = "run it again, which asks again";
    Some(cause(error.code.clone(), error.message.clone(), remedy))
}
