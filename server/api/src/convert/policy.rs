//! Decisions of the safety kernel and the limits that come with them.

use coretex_core::policy::{Constraints, Decision, JobDecision, Remediation};
use coretex_proto::v1;

use super::{count, duration, time};

/// Writes a decision; `sequence` is its place in the job's history.
pub(crate) fn decision(decision: &JobDecision, sequence: u32) -> v1::JobDecision {
    v1::JobDecision {
        decision: verdict(decision.decision).into(),
        reason: decision.reason.clone(),
        rule_id: decision.rule_id.clone(),
        policy_snapshot: decision.policy_snapshot.clone(),
        constraints: decision.constraints.as_ref().map(constraints),
        approval_id: decision.approval_id.clone(),
        remediations: decision.remediations.iter().map(remediation).collect(),
        sequence: count(sequence),
        decide_time: Some(time(decision.time)),
        attempt: count(decision.attempt),
    }
}

pub(crate) const fn verdict(decision: Decision) -> v1::PolicyDecision {
    match decision {
        Decision::Allow => v1::PolicyDecision::Allow,
        Decision::Deny => v1::PolicyDecision::Deny,
        Decision::RequireApproval => v1::PolicyDecision::RequireApproval,
        Decision::Throttle => v1::PolicyDecision::Throttle,
        Decision::AllowWithConstraints => v1::PolicyDecision::AllowWithConstraints,
    }
}

fn remediation(remediation: &Remediation) -> v1::Remediation {
    v1::Remediation {
        remediation_id: remediation.id.clone(),
        title: remediation.title.clone(),
        summary: remediation.summary.clone(),
        replacement_topic: remediation.replacement_topic.clone(),
        replacement_capability: remediation.replacement_capability.clone(),
        add_labels: remediation.add_labels.clone(),
        remove_labels: remediation.remove_labels.clone(),
    }
}

/// Writes the limits of a decision. A part that limits nothing is left out.
pub(crate) fn constraints(from: &Constraints) -> v1::PolicyConstraints {
    v1::PolicyConstraints {
        budgets: unless_default(v1::BudgetConstraints {
            max_runtime: from.max_runtime.map(duration),
            max_retries: from.max_retries.map(count),
            max_artifact_bytes: from
                .max_artifact_bytes
                .map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            max_concurrent_jobs: from.max_concurrent_jobs.map(count),
        }),
        sandbox: unless_default(v1::SandboxProfile {
            isolated: from.isolated,
            network_allowlist: from.network_allowlist.clone(),
            fs_read_only: from.fs_read_only.clone(),
            fs_read_write: from.fs_read_write.clone(),
        }),
        toolchain: unless_default(v1::ToolchainConstraints {
            allowed_tools: from.allowed_tools.clone(),
            allowed_commands: from.allowed_commands.clone(),
        }),
        diff: unless_default(v1::DiffConstraints {
            max_files: from.max_files.map(count),
            max_lines: from.max_lines.map(count),
            deny_path_globs: from.deny_path_globs.clone(),
        }),
        redaction_level: from.redaction_level.clone(),
    }
}

/// The message, unless it says nothing.
pub(crate) fn unless_default<T: Default + PartialEq>(message: T) -> Option<T> {
    (message != T::default()).then_some(message)
}
