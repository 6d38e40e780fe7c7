//! What a delivery says: enough to show somebody that there is something to decide, and where.
//! Inputs of jobs do not leave the server this way.

use coretex_core::time::Timestamp;
use coretex_engine::Notice;
use serde_json::{Value, json};

use crate::config::notify::event_name;

/// The body of a delivery.
pub(super) fn of(notice: &Notice) -> String {
    let (approval, job) = (&notice.answer.approval, &notice.answer.job);
    let metadata = &job.spec.metadata;
    let hash: String = approval
        .hash
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let body = json!({
        "delivery_id": notice.id,
        "type": format!("approval.{}", event_name(notice.event.kind)),
        "time": time(notice.event.time),
        "tenant_id": notice.tenant.as_str(),
        // As it was when it happened; the approval is as it is now.
        "state": notice.event.state.name(),
        "approval": {
            "approval_id": approval.id.as_str(),
            "state": approval.state.name(),
            "job_id": job.id.as_str(),
            "hash": hash,
            "rule_id": approval.rule_id,
            "reason": approval.reason,
            "requested_by": job.principal_id,
            "approver_roles": approval.approver_roles(),
            "missing_approvals": approval.missing(),
            "create_time": time(approval.create_time),
            "expire_time": approval.expire_time.map(time),
            "resolution": approval.resolution,
            "subject": {
                "topic": job.spec.topic.as_str(),
                "team_id": job.spec.team_id,
                "labels": job.spec.labels,
                "capability": metadata.capability,
                "risk_tags": metadata.risk_tags,
            },
        },
    });
    body.to_string()
}

/// Seconds since 1970, with their fraction.
fn time(time: Timestamp) -> Value {
    json!(time.as_micros() as f64 / 1_000_000.0)
}
