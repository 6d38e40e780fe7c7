//! What the log says of approvals: how they differ before and after a change of their job.

use coretex_core::approval::{Approval, ApprovalState};
use coretex_core::id::ApprovalId;
use coretex_core::job::Job;
use coretex_core::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What happened to an approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ApprovalEventKind {
    /// It was asked for.
    Requested,
    /// Somebody voted, and it was not resolved by that.
    Voted,
    /// Nobody resolved it in time, and others may now.
    Escalated,
    /// It is still needed under another policy snapshot.
    Renewed,
    /// It was approved or rejected, has expired or was withdrawn.
    Resolved,
}

/// Something that happened to an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalEvent {
    /// Which.
    pub approval_id: ApprovalId,
    /// What.
    pub kind: ApprovalEventKind,
    /// How it stood then.
    pub state: ApprovalState,
    /// When.
    pub time: Timestamp,
}

/// What a change of a job did to its approvals.
pub(crate) fn changes(before: Option<&Job>, after: &Job) -> Vec<ApprovalEvent> {
    if after.approvals.is_empty() || before.is_some_and(|job| job.approvals == after.approvals) {
        return Vec::new();
    }
    let changed = after.approvals.iter().filter_map(|approval| {
        let known = before.and_then(|job| job.approval(&approval.id));
        kind(known, approval).map(|kind| ApprovalEvent {
            approval_id: approval.id.clone(),
            kind,
            state: approval.state,
            time: after.update_time,
        })
    });
    changed.collect()
}

fn kind(before: Option<&Approval>, after: &Approval) -> Option<ApprovalEventKind> {
    match before {
        None => Some(ApprovalEventKind::Requested),
        Some(before) if before == after => None,
        Some(_) if !after.is_pending() => Some(ApprovalEventKind::Resolved),
        Some(before) if after.escalate_time != before.escalate_time => {
            Some(ApprovalEventKind::Escalated)
        }
        Some(before) if after.votes.len() > before.votes.len() => Some(ApprovalEventKind::Voted),
        Some(_) => Some(ApprovalEventKind::Renewed),
    }
}
