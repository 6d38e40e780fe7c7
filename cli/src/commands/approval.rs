//! `coretexctl approval ...`.

use coretex::Payload;
use coretex::proto::payload::Data;
use coretex::proto::{
    Approval, ApprovalFilter, ApprovalState, ApprovalVerdict, GetApprovalRequest,
    ListApprovalsRequest, ListApprovalsResponse, ResolveApprovalRequest, WatchApprovalsRequest,
};

use super::Cx;
use super::confirm::{confirm, is_somebody_there, nobody_to_ask};
use crate::args::approval::{Filter, Verb, Vote};
use crate::failure::{Exit, Failure};
use crate::view::Document;

/// The most approvals that a server puts on one page.
const MAX_PAGE: usize = 1_000;

pub(super) async fn run(cx: &Cx<'_>, verb: &Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::List {
            filter,
            limit,
            all,
            page_token,
        } => {
            let limit = if *all { usize::MAX } else { *limit };
            let mut wanted = ApprovalFilter::from(filter);
            if filter.states.is_empty() && !filter.all_states {
                wanted.states = vec![ApprovalState::Pending.into()];
            }
            list(cx, wanted, limit, page_token.clone().unwrap_or_default()).await?;
        }
        Verb::Get { id } => cx.ui.show(&get(cx, &id.approval_id).await?)?,
        Verb::Approve(args) => return vote(cx, args, ApprovalVerdict::Approve).await,
        Verb::Reject(args) => return vote(cx, args, ApprovalVerdict::Reject).await,
        Verb::Watch {
            filter,
            resume_token,
        } => {
            let mut watch = cx.client.watch_approvals(WatchApprovalsRequest {
                filter: Some(filter.into()),
                resume_token: resume_token.clone().unwrap_or_default(),
            });
            while let Some(message) = watch.next().await {
                cx.ui.show_next(&message?)?;
            }
        }
    }
    Ok(Exit::Done)
}

async fn get(cx: &Cx<'_>, approval_id: &str) -> Result<Approval, Failure> {
    let request = GetApprovalRequest {
        approval_id: approval_id.to_owned(),
    };
    let approval = cx.client.get_approval(request).await?.approval;
    approval.ok_or_else(|| Failure::incomplete("approval"))
}

async fn list(
    cx: &Cx<'_>,
    filter: ApprovalFilter,
    limit: usize,
    page_token: String,
) -> Result<(), Failure> {
    let mut all = ListApprovalsResponse {
        next_page_token: page_token,
        ..ListApprovalsResponse::default()
    };
    // Pages are asked for one by one, because the token of the last one is part of the answer.
    loop {
        let wanted = limit.saturating_sub(all.approvals.len()).min(MAX_PAGE);
        if wanted == 0 {
            break;
        }
        let filter = filter.clone();
        let request = ListApprovalsRequest {
            states: filter.states,
            job_id: filter.job_id,
            topics: filter.topics,
            requested_by: filter.requested_by,
            rule_id: filter.rule_id,
            page_size: i32::try_from(wanted).unwrap_or(i32::MAX),
            page_token: std::mem::take(&mut all.next_page_token),
        };
        let mut page = cx.client.list_approvals(request).await?;
        all.approvals.append(&mut page.approvals);
        all.next_page_token = page.next_page_token;
        // A watch from the first page misses nothing of the later ones.
        if all.resume_token.is_empty() {
            all.resume_token = page.resume_token;
        }
        if all.next_page_token.is_empty() {
            break;
        }
    }
    cx.ui.show(&all)?;
    if !all.next_page_token.is_empty() && cx.ui.for_people() {
        cx.ui.note(&format!(
            "there are more: --all, a higher --limit, or --page-token {}",
            all.next_page_token
        ));
    }
    Ok(())
}

async fn vote(cx: &Cx<'_>, args: &Vote, verdict: ApprovalVerdict) -> Result<Exit, Failure> {
    let approval_id = args.id.approval_id.clone();
    let expected_hash = match &args.hash {
        Some(hash) => hash.clone(),
        None => shown(cx, args, verdict).await?,
    };
    let answer = cx.client.resolve_approval(ResolveApprovalRequest {
        approval_id,
        verdict: verdict.into(),
        expected_hash,
        reason: args.reason.clone().unwrap_or_default(),
        answer: args.answer.as_deref().map(answer).transpose()?,
        idempotency_key: args.idempotency_key.clone().unwrap_or_default(),
    });
    let answer = answer.await?;
    cx.ui.show(&answer)?;
    let approval = answer.approval.unwrap_or_default();
    // It was approved, and policy says something else by now.
    if approval.state() == ApprovalState::Withdrawn {
        let message = format!("approval {} was withdrawn", approval.approval_id);
        return Err(Failure::new(Exit::Refused, message).cause(approval.resolution));
    }
    Ok(Exit::Done)
}

/// Shows the approval to whoever votes and asks; the hash of what was shown.
async fn shown(cx: &Cx<'_>, args: &Vote, verdict: ApprovalVerdict) -> Result<String, Failure> {
    if !args.yes && !is_somebody_there() {
        return Err(nobody_to_ask());
    }
    let approval = get(cx, &args.id.approval_id).await?;
    if !args.yes {
        cx.ui.note(&approval.text(cx.ui.err));
        let verb = match verdict {
            ApprovalVerdict::Reject => "reject",
            ApprovalVerdict::Approve | ApprovalVerdict::Unspecified => "approve",
        };
        confirm(&format!("{verb} this?"))?;
    }
    Ok(approval.hash)
}

fn answer(text: &str) -> Result<coretex::well_known::Value, Failure> {
    let wrong = |error: &dyn std::fmt::Display| Failure::usage("--answer is not JSON").cause(error);
    let json = serde_json::from_str(text).map_err(|error| wrong(&error))?;
    match Payload::from_json(&json).data {
        Some(Data::Json(value)) => Ok(value),
        _ => Err(wrong(&"no such value")),
    }
}

impl From<&Filter> for ApprovalFilter {
    fn from(filter: &Filter) -> Self {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Self {
            states: filter
                .states
                .iter()
                .map(|state| ApprovalState::from(*state).into())
                .collect(),
            job_id: text(&filter.job_id),
            topics: filter.topics.clone(),
            requested_by: text(&filter.requested_by),
            rule_id: text(&filter.rule_id),
        }
    }
}
