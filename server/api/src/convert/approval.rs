//! Approvals as callers see them, which of them a request is about, and votes.

use coretex_core::approval::{Approval, ApprovalState, ApprovalVerdict, Vote};
use coretex_core::id::{ApprovalId, Topic};
use coretex_core::job::Job;
use coretex_core::policy::terms::OnExpire;
use coretex_engine::{
    ApprovalAnswer, ApprovalEvent, ApprovalEventKind, ApprovalFilter, MAX_ANSWER, ResolveApproval,
};
use coretex_proto::v1;

use super::job::{self, View};
use super::{count, json, policy, submit, text, time};
use crate::validate::{Fields, MAX_LIST, MAX_NAME, MAX_TEXT, principal};

/// The length of a hash in bytes.
const HASH: usize = 32;

/// Writes an approval; in the FULL view with the input of its job.
pub(crate) fn write(from: &ApprovalAnswer, view: View) -> v1::Approval {
    let ApprovalAnswer { approval, job } = from;
    let groups: Vec<_> = approval
        .groups()
        .into_iter()
        .map(|group| v1::ApproverGroup {
            roles: group.roles,
            required: count(group.required),
        })
        .collect();
    let answer = approval.answer.as_ref();
    v1::Approval {
        approval_id: approval.id.to_string(),
        kind: v1::ApprovalKind::Job.into(),
        state: state(approval.state).into(),
        job_id: job.id.to_string(),
        run_id: String::new(),
        step_id: String::new(),
        title: title(approval, job),
        hash: hex(&approval.hash),
        subject: Some(subject(job, view)),
        rule_id: approval.rule_id.clone(),
        policy_snapshot: approval.policy_snapshot.clone(),
        reason: approval.reason.clone(),
        requested_by: job.principal_id.clone(),
        approver_roles: approval.approver_roles(),
        required_approvals: groups.iter().map(|group| group.required).max().unwrap_or(1),
        groups,
        missing_approvals: count(approval.missing()),
        reason_required: approval.terms.reason_required,
        votes: approval.votes.iter().map(vote_of).collect(),
        form_schema: None,
        answer: answer.and_then(|text| json::read(text.as_bytes()).ok()),
        create_time: Some(time(approval.create_time)),
        expire_time: approval.expire_time.map(time),
        on_expire: match approval.terms.on_expire {
            OnExpire::Reject => v1::ExpiryAction::Reject,
            OnExpire::Escalate => v1::ExpiryAction::Escalate,
        }
        .into(),
        escalate_to: approval.terms.escalate_to.clone(),
        escalate_time: approval.escalate_time.map(time),
        resolve_time: approval.resolve_time.map(time),
        resolution: approval.resolution.clone(),
    }
}

fn title(approval: &Approval, job: &Job) -> String {
    match approval.reason.as_str() {
        "" => job.spec.topic.to_string(),
        reason => format!("{}: {reason}", job.spec.topic),
    }
}

fn subject(of: &Job, view: View) -> v1::ApprovalSubject {
    let written = job::write(of, view);
    let decision = of.decision.as_ref();
    v1::ApprovalSubject {
        topic: written.topic,
        team_id: written.team_id,
        priority: written.priority,
        labels: written.labels,
        metadata: written.metadata,
        budget: written.budget,
        estimated_cost: written.estimated_cost,
        input: written.input,
        input_bytes: of
            .input
            .as_ref()
            .map_or(0, |input| i64::try_from(input.size()).unwrap_or(i64::MAX)),
        constraints: decision
            .and_then(|decision| decision.constraints.as_ref())
            .map(policy::constraints),
        rerun_of_job_id: text(of.rerun_of.as_ref()),
        not_before: written.not_before,
    }
}

fn vote_of(vote: &Vote) -> v1::ApprovalVote {
    let verdict = match vote.verdict {
        ApprovalVerdict::Approve => v1::ApprovalVerdict::Approve,
        ApprovalVerdict::Reject => v1::ApprovalVerdict::Reject,
    };
    v1::ApprovalVote {
        principal_id: vote.principal_id.clone(),
        verdict: verdict.into(),
        reason: vote.reason.clone(),
        time: Some(time(vote.time)),
    }
}

/// Writes something that happened.
pub(crate) fn event(event: &ApprovalEvent) -> v1::ApprovalEvent {
    let kind = match event.kind {
        ApprovalEventKind::Requested => v1::ApprovalEventType::Requested,
        ApprovalEventKind::Voted => v1::ApprovalEventType::Voted,
        ApprovalEventKind::Escalated => v1::ApprovalEventType::Escalated,
        ApprovalEventKind::Renewed => v1::ApprovalEventType::Renewed,
        ApprovalEventKind::Resolved => v1::ApprovalEventType::Resolved,
    };
    v1::ApprovalEvent {
        approval_id: event.approval_id.to_string(),
        r#type: kind.into(),
        state: state(event.state).into(),
        time: Some(time(event.time)),
    }
}

const fn state(state: ApprovalState) -> v1::ApprovalState {
    match state {
        ApprovalState::Pending => v1::ApprovalState::Pending,
        ApprovalState::Approved => v1::ApprovalState::Approved,
        ApprovalState::Rejected => v1::ApprovalState::Rejected,
        ApprovalState::Expired => v1::ApprovalState::Expired,
        ApprovalState::Withdrawn => v1::ApprovalState::Withdrawn,
    }
}

const fn read_state(state: v1::ApprovalState) -> Option<ApprovalState> {
    match state {
        v1::ApprovalState::Unspecified => None,
        v1::ApprovalState::Pending => Some(ApprovalState::Pending),
        v1::ApprovalState::Approved => Some(ApprovalState::Approved),
        v1::ApprovalState::Rejected => Some(ApprovalState::Rejected),
        v1::ApprovalState::Expired => Some(ApprovalState::Expired),
        v1::ApprovalState::Withdrawn => Some(ApprovalState::Withdrawn),
    }
}

/// Reads the id of an approval.
pub(crate) fn id(fields: &mut Fields, id: &str) -> ApprovalId {
    fields.id(
        "approval_id",
        id,
        ApprovalId::parse,
        ApprovalId::from_trusted,
    )
}

/// Reads a vote.
pub(crate) fn vote(fields: &mut Fields, request: v1::ResolveApprovalRequest) -> ResolveApproval {
    let verdict = match fields.value("verdict", request.verdict) {
        Some(v1::ApprovalVerdict::Approve) => ApprovalVerdict::Approve,
        Some(v1::ApprovalVerdict::Reject) => ApprovalVerdict::Reject,
        Some(v1::ApprovalVerdict::Unspecified) | None => {
            fields.refuse_once("verdict", "must be set");
            ApprovalVerdict::Reject
        }
    };
    let expected_hash = unhex(&request.expected_hash);
    if request.expected_hash.is_empty() {
        fields.refuse(
            "expected_hash",
            "must be set: the hash of the approval as it was shown",
        );
    } else if expected_hash.is_none() {
        fields.refuse("expected_hash", "must be 64 hex digits");
    }
    ResolveApproval {
        approval_id: id(fields, &request.approval_id),
        verdict,
        expected_hash: expected_hash.unwrap_or_default(),
        reason: fields.text("reason", request.reason, MAX_TEXT),
        answer: request.answer.and_then(|value| answer(fields, &value)),
        idempotency_key: submit::idempotency_key(fields, request.idempotency_key),
    }
}

fn answer(fields: &mut Fields, value: &prost_types::Value) -> Option<String> {
    let mut text = Vec::new();
    if let Err(error) = json::write(value, &mut text) {
        fields.refuse("answer", error.to_string());
    } else if text.len() > MAX_ANSWER {
        let rule = format!("must be at most {MAX_ANSWER} bytes long as json text");
        fields.refuse("answer", rule);
    }
    String::from_utf8(text).ok()
}

/// Reads the filter in `filter`. None selects everything.
pub(crate) fn filter(fields: &mut Fields, filter: Option<v1::ApprovalFilter>) -> ApprovalFilter {
    filter.map_or_else(ApprovalFilter::default, |filter| {
        fields.within("filter", |fields| read_filter(fields, filter))
    })
}

/// The filter of a list, whose parts stand in the request itself.
pub(crate) fn listed(request: &mut v1::ListApprovalsRequest) -> v1::ApprovalFilter {
    v1::ApprovalFilter {
        states: std::mem::take(&mut request.states),
        job_id: std::mem::take(&mut request.job_id),
        topics: std::mem::take(&mut request.topics),
        requested_by: std::mem::take(&mut request.requested_by),
        rule_id: std::mem::take(&mut request.rule_id),
    }
}

/// Reads a filter.
pub(crate) fn read_filter(fields: &mut Fields, filter: v1::ApprovalFilter) -> ApprovalFilter {
    let states = fields.values::<v1::ApprovalState>("states", &filter.states);
    ApprovalFilter {
        states: states.into_iter().filter_map(read_state).collect(),
        job_id: (!filter.job_id.is_empty()).then(|| fields.job("job_id", &filter.job_id)),
        topics: fields.ids("topics", &filter.topics, MAX_LIST, Topic::parse),
        requested_by: fields
            .optional_id("requested_by", &filter.requested_by, principal)
            .unwrap_or_default(),
        rule_id: fields.line("rule_id", filter.rule_id, MAX_NAME),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads 64 hex digits.
fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() != 2 * HASH || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
    (0..HASH).map(|place| byte(2 * place)).collect()
}

#[cfg(test)]
mod tests;
