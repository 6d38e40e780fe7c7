//! Approvals: one, many, votes, and what happens to them.

use coretex::proto::{
    Approval, ApprovalEventType, ApprovalState, ApprovalSubject, ApprovalVerdict, ExpiryAction,
    ListApprovalsResponse, PolicyConstraints, ResolveApprovalResponse, WatchApprovalsResponse,
};
use coretex::{Payload, PayloadExt};

use super::job::{state_name as job_state_name, state_tint as job_state_tint};
use super::{
    Fields, Grid, Paint, Tint, age, clean, clean_lines, documents, pairs, short, size, time,
};

documents! {
    Approval => details;
    ListApprovalsResponse => list;
    ResolveApprovalResponse => resolved;
    WatchApprovalsResponse => event;
}

fn state_name(state: ApprovalState) -> &'static str {
    short(state.as_str_name(), "APPROVAL_STATE_")
}

const fn state_tint(state: ApprovalState) -> Tint {
    match state {
        ApprovalState::Approved => Tint::Good,
        ApprovalState::Rejected | ApprovalState::Expired => Tint::Bad,
        ApprovalState::Pending => Tint::Waiting,
        ApprovalState::Unspecified | ApprovalState::Withdrawn => Tint::Plain,
    }
}

/// Everything that an approver has to know.
fn details(approval: &Approval, paint: Paint) -> String {
    let subject = approval.subject.clone().unwrap_or_default();
    let mut fields = Fields::new(paint);
    fields.add("approval", approval.approval_id.as_str());
    let state = approval.state();
    fields.tinted("state", state_tint(state), state_name(state));
    fields.add("resolution", approval.resolution.as_str());
    fields.add("job", approval.job_id.as_str());
    fields.add("topic", subject.topic.as_str());
    fields.add("asked by", approval.requested_by.as_str());
    fields.add("rule", rule(approval));
    fields.add("reason", approval.reason.as_str());
    risk(&mut fields, &subject);
    fields.add("constraints", constraints(subject.constraints.as_ref()));
    if state == ApprovalState::Pending {
        let roles = approval.approver_roles.join(" or ");
        let missing = approval.missing_approvals;
        fields.add("waits for", format!("{missing} more by {roles}"));
        let then = match approval.on_expire() {
            ExpiryAction::Escalate if approval.escalate_time.is_none() => {
                format!(", then also {}", approval.escalate_to.join(" or "))
            }
            _ => ", then it is rejected".to_owned(),
        };
        if approval.expire_time.is_some() {
            let until = time(approval.expire_time.as_ref());
            fields.add("until", format!("{until}{then}"));
        }
    }
    fields.add("asked", time(approval.create_time.as_ref()));
    fields.add("hash", approval.hash.as_str());
    let mut text = fields.finish();
    for vote in &approval.votes {
        text.push_str(&clean(&format!(
            "{}  {}  {}  {}",
            time(vote.time.as_ref()),
            short(vote.verdict().as_str_name(), "APPROVAL_VERDICT_"),
            vote.principal_id,
            vote.reason
        )));
        text.push('\n');
    }
    if let Some(input) = &subject.input {
        text.push_str(&format!("{}\n{}\n", paint.bold("input"), whole(input)));
    } else if subject.input_bytes > 0 {
        let bytes = size(subject.input_bytes);
        text.push_str(&format!("input of {bytes}, not shown\n"));
    }
    text
}

fn rule(approval: &Approval) -> String {
    match approval.rule_id.as_str() {
        "" => format!("(default), snapshot {}", approval.policy_snapshot),
        rule => format!("{rule}, snapshot {}", approval.policy_snapshot),
    }
}

/// What could go wrong, and what it may cost.
fn risk(fields: &mut Fields, subject: &ApprovalSubject) {
    let metadata = subject.metadata.clone().unwrap_or_default();
    fields.tinted("risk", Tint::Bad, metadata.risk_tags.join(", "));
    fields.add("capability", metadata.capability);
    fields.add("actor", metadata.actor_id);
    if let Some(call) = metadata.mcp {
        let parts = [call.server, call.tool, call.action, call.resource];
        let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        fields.add("mcp", parts.join(" "));
    }
    fields.add("labels", pairs(&subject.labels));
    fields.add("team", subject.team_id.as_str());
    if let Some(cost) = subject.estimated_cost {
        fields.add("cost", cost.to_string());
    }
    if let Some(budget) = &subject.budget {
        let tokens = budget.max_total_tokens;
        fields.add("budget", format!("{tokens} tokens"));
    }
    fields.add("rerun of", subject.rerun_of_job_id.as_str());
    fields.add("not before", time(subject.not_before.as_ref()));
}

/// What it has to keep to, as the contract writes it.
fn constraints(constraints: Option<&PolicyConstraints>) -> String {
    let value = constraints.map(coretex::proto_json::to_value);
    value.map_or_else(String::new, |value| {
        value.map_or_else(|error| error.to_string(), |value| value.to_string())
    })
}

/// The whole input: who approves it has to see all of it.
fn whole(input: &Payload) -> String {
    match input.to_text() {
        Ok(text) => clean_lines(text.trim_end()),
        Err(_) => match input.to_bytes() {
            Ok(bytes) => bytes.escape_ascii().to_string(),
            Err(error) => error.to_string(),
        },
    }
}

fn list(page: &ListApprovalsResponse, paint: Paint) -> String {
    let head = [
        "APPROVAL", "STATE", "TOPIC", "JOB", "RULE", "MISSING", "AGE", "REASON",
    ];
    let mut grid = Grid::new(paint, &head);
    for approval in &page.approvals {
        let state = approval.state();
        let topic = approval
            .subject
            .as_ref()
            .map(|subject| subject.topic.clone());
        grid.tinted([
            (Tint::Plain, approval.approval_id.clone()),
            (state_tint(state), state_name(state).to_owned()),
            (Tint::Plain, topic.unwrap_or_default()),
            (Tint::Plain, approval.job_id.clone()),
            (Tint::Plain, approval.rule_id.clone()),
            (Tint::Plain, approval.missing_approvals.to_string()),
            (Tint::Plain, age(approval.create_time.as_ref())),
            (Tint::Plain, approval.reason.clone()),
        ]);
    }
    grid.finish()
}

/// What has become of it.
fn resolved(answer: &ResolveApprovalResponse, paint: Paint) -> String {
    let approval = answer.approval.clone().unwrap_or_default();
    let job = answer.job.clone().unwrap_or_default();
    let mut fields = Fields::new(paint);
    fields.add("approval", approval.approval_id.as_str());
    let state = approval.state();
    fields.tinted("state", state_tint(state), state_name(state));
    fields.add("resolution", approval.resolution.as_str());
    if state == ApprovalState::Pending {
        let missing = approval.missing_approvals;
        fields.add("waits for", format!("{missing} more"));
    }
    fields.add("job", job.job_id.as_str());
    let state = job.state();
    fields.tinted("job state", job_state_tint(state), job_state_name(state));
    if let Some(other) = job.decision.filter(|decision| {
        state == coretex::JobState::ApprovalRequired && decision.approval_id != approval.approval_id
    }) {
        fields.add("it needs", other.approval_id);
    }
    fields.finish()
}

/// A line; nothing for a checkpoint.
fn event(message: &WatchApprovalsResponse, paint: Paint) -> String {
    let (Some(event), Some(approval)) = (&message.event, &message.approval) else {
        return String::new();
    };
    let state = event.state();
    let last = approval.votes.last();
    let who = last.filter(|_| event.r#type() == ApprovalEventType::Voted);
    let note = match who {
        Some(vote) if vote.verdict() == ApprovalVerdict::Approve => {
            format!("approved by {}", vote.principal_id)
        }
        _ if approval.state() == state => approval.resolution.clone(),
        _ => String::new(),
    };
    let parts = [
        time(event.time.as_ref()),
        event.approval_id.clone(),
        short(event.r#type().as_str_name(), "APPROVAL_EVENT_TYPE_").to_lowercase(),
        paint.tint(state_tint(state), state_name(state)),
        clean(&approval.title),
        clean(&note),
    ];
    format!("{}\n", parts.join("  ").trim_end())
}
