//! What `coretexctl policy` asks a server.

use std::path::PathBuf;

use coretex::JobPriority;
use coretex::proto::{
    Budget, Bundle, EvaluatePolicyRequest, ExplainPolicyRequest, GetSnapshotRequest, JobDecision,
    JobFilter, JobMetadata, ListPolicyAuditRequest, ListPolicyAuditResponse, ListSnapshotsRequest,
    ListSnapshotsResponse, PolicyDecision, PolicySubject, PublishBundlesRequest,
    ReloadPolicyRequest, ReplayPolicyRequest, RollbackPolicyRequest, RuleResult,
    SimulatePolicyRequest,
};

use crate::args::policy::{Subject, Verb};
use crate::commands::confirm::confirm;
use crate::commands::{Cx, bundle, job};
use crate::failure::{Exit, Failure};

/// The most entries that a server puts on one page.
const MAX_PAGE: usize = 1_000;

pub(super) async fn run(cx: &Cx<'_>, verb: &Verb) -> Result<Exit, Failure> {
    match verb {
        // Done before there was a connection.
        Verb::Check { .. } | Verb::Test { .. } => Ok(Exit::Done),
        Verb::Evaluate(args) => {
            let subject = Some(subject(args)?);
            let request = EvaluatePolicyRequest { subject };
            let answer = cx.client.evaluate_policy(request).await?;
            cx.ui.show(&answer)?;
            Ok(allowed(answer.decision.as_ref()))
        }
        Verb::Explain { subject: args, all } => {
            let subject = Some(subject(args)?);
            let request = ExplainPolicyRequest { subject };
            let mut answer = cx.client.explain_policy(request).await?;
            if !all && cx.ui.for_people() {
                for bundle in &mut answer.bundles {
                    bundle
                        .rules
                        .retain(|rule| rule.result() != RuleResult::NotMatched);
                }
            }
            cx.ui.show(&answer)?;
            Ok(allowed(answer.decision.as_ref()))
        }
        Verb::Simulate {
            subject: args,
            bundles,
        } => {
            let request = SimulatePolicyRequest {
                subject: Some(subject(args)?),
                candidate_bundles: candidates(bundles)?,
            };
            let answer = cx.client.simulate_policy(request).await?;
            cx.ui.show(&answer)?;
            Ok(same(!answer.differs))
        }
        Verb::Replay {
            bundles,
            since,
            until,
            topics,
        } => {
            let request = ReplayPolicyRequest {
                candidate_bundles: candidates(bundles)?,
                created_after: *since,
                created_before: *until,
                filter: Some(JobFilter {
                    topics: topics.clone(),
                    ..JobFilter::default()
                }),
            };
            replay(cx, request).await
        }
        Verb::Publish {
            bundle_ids,
            note,
            validate_only,
        } => {
            let request = PublishBundlesRequest {
                bundle_ids: bundle_ids.clone(),
                note: note.clone().unwrap_or_default(),
                validate_only: *validate_only,
                ..PublishBundlesRequest::default()
            };
            let answer = cx.client.publish_bundles(request).await?;
            if *validate_only {
                cx.ui
                    .note("nothing is wrong with them; nothing was changed");
            }
            cx.ui.show(&answer)?;
            Ok(Exit::Done)
        }
        Verb::Rollback {
            snapshot_id,
            note,
            yes,
        } => {
            if !yes {
                confirm(&format!("put snapshot {snapshot_id} in force?"))?;
            }
            let request = RollbackPolicyRequest {
                snapshot_id: snapshot_id.clone(),
                note: note.clone().unwrap_or_default(),
                ..RollbackPolicyRequest::default()
            };
            cx.ui.show(&cx.client.rollback_policy(request).await?)?;
            Ok(Exit::Done)
        }
        Verb::Reload => {
            let answer = cx.client.reload_policy(ReloadPolicyRequest {}).await?;
            cx.ui.show(&answer)?;
            Ok(same(answer.problems.is_empty()))
        }
        Verb::Snapshots { limit } => snapshots(cx, *limit).await,
        Verb::Diff { from, to } => {
            let request = GetSnapshotRequest {
                snapshot_id: to.clone().unwrap_or_default(),
                compare_with: from.clone(),
            };
            let answer = cx.client.get_snapshot(request).await?;
            cx.ui.show(&answer)?;
            Ok(same(answer.changes.is_empty()))
        }
        Verb::Audit { limit } => audit(cx, *limit).await,
    }
}

fn allowed(decision: Option<&JobDecision>) -> Exit {
    let verdict = decision.map_or(PolicyDecision::Unspecified, JobDecision::decision);
    same(matches!(
        verdict,
        PolicyDecision::Allow | PolicyDecision::AllowWithConstraints
    ))
}

fn same(good: bool) -> Exit {
    if good { Exit::Done } else { Exit::Refused }
}

fn subject(args: &Subject) -> Result<PolicySubject, Failure> {
    let policy = &args.policy;
    let budget = policy.max_total_tokens.map(|max_total_tokens| Budget {
        max_total_tokens,
        ..Budget::default()
    });
    let priority = args.priority.map_or(JobPriority::Unspecified, Into::into);
    Ok(PolicySubject {
        tenant_id: args.of_tenant.clone().unwrap_or_default(),
        team_id: args.team.clone().unwrap_or_default(),
        topic: args.topic.clone(),
        principal_id: args.principal.clone().unwrap_or_default(),
        priority: priority.into(),
        labels: args.labels.iter().cloned().collect(),
        metadata: Some(JobMetadata {
            capability: policy.capability.clone().unwrap_or_default(),
            risk_tags: policy.risk_tags.clone(),
            pack_id: policy.pack.clone().unwrap_or_default(),
            actor_id: policy.actor.clone().unwrap_or_default(),
            ..JobMetadata::default()
        }),
        budget,
        estimated_cost: policy.estimated_cost,
        input: job::input::payload(&args.input)?,
    })
}

fn candidates(files: &[PathBuf]) -> Result<Vec<Bundle>, Failure> {
    files.iter().map(|file| bundle::candidate(file)).collect()
}

async fn replay(cx: &Cx<'_>, request: ReplayPolicyRequest) -> Result<Exit, Failure> {
    let mut stream = cx.client.replay_policy(request).await?;
    loop {
        let message = stream.message().await.map_err(coretex::Error::from)?;
        let Some(message) = message else {
            return Err(Failure::incomplete("end of the replay"));
        };
        if let Some(change) = &message.change {
            cx.ui.show_next(change)?;
        }
        if message.done {
            cx.ui.note(&format!(
                "{} judged, {} would differ, {} could not be judged",
                message.judged, message.changed, message.undecided
            ));
            return Ok(same(message.changed == 0));
        }
    }
}

async fn snapshots(cx: &Cx<'_>, limit: usize) -> Result<Exit, Failure> {
    let mut all = ListSnapshotsResponse::default();
    loop {
        let request = ListSnapshotsRequest {
            page_size: page(limit - all.snapshots.len()),
            page_token: std::mem::take(&mut all.next_page_token),
        };
        let next = cx.client.list_snapshots(request).await?;
        all.snapshots.extend(next.snapshots);
        all.next_page_token = next.next_page_token;
        if all.next_page_token.is_empty() || all.snapshots.len() >= limit {
            cx.ui.show(&all)?;
            return Ok(Exit::Done);
        }
    }
}

async fn audit(cx: &Cx<'_>, limit: usize) -> Result<Exit, Failure> {
    let mut all = ListPolicyAuditResponse::default();
    loop {
        let request = ListPolicyAuditRequest {
            page_size: page(limit - all.entries.len()),
            page_token: std::mem::take(&mut all.next_page_token),
        };
        let next = cx.client.list_policy_audit(request).await?;
        all.entries.extend(next.entries);
        all.next_page_token = next.next_page_token;
        if all.next_page_token.is_empty() || all.entries.len() >= limit {
            cx.ui.show(&all)?;
            return Ok(Exit::Done);
        }
    }
}

/// How much of a list is asked for at once.
fn page(left: usize) -> i32 {
    i32::try_from(left.clamp(1, MAX_PAGE)).unwrap_or_default()
}
