//! Approvals through the service: what approvers see, what their votes come to, what is refused.

use std::sync::Arc;

use coretex_core::policy::evaluate::History;
use coretex_core::policy::terms::ApprovalTerms;
use coretex_core::policy::{Decision, JobDecision};
use coretex_engine::{Facts, Judgement, Kernel, Limits, Role, Undecided};
use coretex_proto::v1;
use coretex_proto::v1::approval_service_client::ApprovalServiceClient;
use prost_types::Value;
use prost_types::value::Kind;
use tonic::{Code, Request};

use crate::jobs::{get, submit};
use crate::support::{Harness, Served, engine, fields, metadata, reason, submission};

/// Asks for an approval of every job: `job.two` needs two of them.
#[derive(Debug)]
struct Asks;

impl Kernel for Asks {
    fn snapshot(&self) -> String {
        "asks".to_owned()
    }

    fn judge(&self, facts: Facts<'_>, _: &History) -> Result<Judgement, Undecided> {
        let (what, snapshot) = (Decision::RequireApproval, self.snapshot());
        let mut decision = JobDecision::plain(what, snapshot, facts.now);
        decision.reason = "money moves".to_owned();
        decision.rule_id = "pay".to_owned();
        let mut judgement = Judgement::from(decision);
        judgement.terms = Some(ApprovalTerms {
            required: if facts.spec.topic.as_str() == "job.two" {
                2
            } else {
                1
            },
            expires_after: Some(std::time::Duration::from_secs(3_600)),
            ..ApprovalTerms::default()
        });
        Ok(judgement)
    }
}

async fn harness(dev: bool) -> Harness {
    let engine = engine::engine_of(dev, Limits::default(), Arc::new(Asks)).await;
    Harness::with(engine, |_| {})
}

fn approvals(harness: &Harness) -> ApprovalServiceClient<Served> {
    ApprovalServiceClient::new(harness.service.clone())
}

fn signed<T>(key: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let bearer = format!("Bearer {key}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    request
}

fn vote(approval: &v1::Approval, verdict: v1::ApprovalVerdict) -> v1::ResolveApprovalRequest {
    v1::ResolveApprovalRequest {
        approval_id: approval.approval_id.clone(),
        verdict: verdict.into(),
        expected_hash: approval.hash.clone(),
        reason: "looked at it".to_owned(),
        ..v1::ResolveApprovalRequest::default()
    }
}

async fn listed(harness: &Harness, key: &str) -> Vec<v1::Approval> {
    let request = signed(key, v1::ListApprovalsRequest::default());
    let answer = approvals(harness).list_approvals(request).await.unwrap();
    answer.into_inner().approvals
}

async fn read(harness: &Harness, key: &str, id: &str) -> Result<v1::Approval, tonic::Status> {
    let request = v1::GetApprovalRequest {
        approval_id: id.to_owned(),
    };
    let answer = approvals(harness)
        .get_approval(signed(key, request))
        .await?;
    Ok(answer.into_inner().approval.unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_approver_sees_what_he_approves_and_his_vote_lets_it_run() {
    let harness = harness(false).await;
    let submitter = harness.key("acme", &[Role::Submitter]).await;
    let approver = harness.key("acme", &[Role::Approver]).await;
    let mut request = submission("job.pay");
    request.labels.insert("env".to_owned(), "prod".to_owned());
    request.estimated_cost = Some(2.5);
    request.metadata = Some(v1::JobMetadata {
        risk_tags: vec!["money".to_owned()],
        ..v1::JobMetadata::default()
    });
    let job = harness.jobs().submit_job(signed(&submitter, request)).await;
    let job = job.unwrap().into_inner().job.unwrap();
    assert_eq!(job.state(), v1::JobState::ApprovalRequired);
    assert_eq!(job.waiting_reason, "approval_pending");
    let id = job.decision.as_ref().unwrap().approval_id.clone();

    let shown = read(&harness, &approver, &id).await.unwrap();
    assert_eq!(shown.kind(), v1::ApprovalKind::Job);
    assert_eq!(shown.state(), v1::ApprovalState::Pending);
    assert_eq!(
        (shown.job_id.as_str(), shown.rule_id.as_str()),
        (job.job_id.as_str(), "pay")
    );
    assert_eq!(shown.title, "job.pay: money moves");
    assert_eq!(shown.requested_by, job.principal_id);
    assert_eq!(shown.approver_roles, ["admin", "approver"]);
    assert_eq!((shown.required_approvals, shown.missing_approvals), (1, 1));
    assert_eq!(shown.on_expire(), v1::ExpiryAction::Reject);
    assert_eq!(shown.hash.len(), 64);
    assert!(shown.expire_time.is_some() && shown.resolve_time.is_none());
    let subject = shown.subject.as_ref().unwrap();
    assert_eq!(subject.labels["env"], "prod");
    assert_eq!(subject.metadata.as_ref().unwrap().risk_tags, ["money"]);
    assert_eq!(subject.estimated_cost, Some(2.5));
    assert_eq!(
        subject.input,
        Some(v1::Payload::from_json(&serde_json::json!({ "n": 1 })))
    );
    assert_eq!(subject.input_bytes, 7);
    // Lists have no inputs, and viewers read none.
    let in_list = listed(&harness, &approver).await.remove(0);
    assert_eq!(in_list.subject.unwrap().input, None);
    let viewer = harness.key("acme", &[Role::Viewer]).await;
    let seen = read(&harness, &viewer, &id).await.unwrap();
    assert_eq!(seen.subject.unwrap().input, None);

    let mut yes = vote(&shown, v1::ApprovalVerdict::Approve);
    yes.answer = Some(Value {
        kind: Some(Kind::NumberValue(5.0)),
    });
    let resolved = approvals(&harness)
        .resolve_approval(signed(&approver, yes.clone()))
        .await;
    let resolved = resolved.unwrap().into_inner();
    assert!(!resolved.replayed);
    let job = resolved.job.unwrap();
    assert_eq!((job.state(), job.input), (v1::JobState::Pending, None));
    assert_eq!(job.decision.unwrap().decision(), v1::PolicyDecision::Allow);
    let approval = resolved.approval.unwrap();
    assert_eq!(approval.state(), v1::ApprovalState::Approved);
    assert_eq!(approval.votes[0].verdict(), v1::ApprovalVerdict::Approve);
    assert_eq!(approval.votes[0].reason, "looked at it");
    assert_eq!(
        approval.answer.as_ref().unwrap().kind,
        Some(Kind::NumberValue(5.0))
    );
    let again = approvals(&harness)
        .resolve_approval(signed(&approver, yes))
        .await;
    assert!(again.unwrap().into_inner().replayed);
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_says_why() {
    let harness = harness(false).await;
    let admin = harness.key("acme", &[Role::Admin]).await;
    let request = signed(&admin, submission("job.pay"));
    harness.jobs().submit_job(request).await.unwrap();
    let shown = listed(&harness, &admin).await.remove(0);
    let keys = [
        harness.key("acme", &[Role::Approver]).await,
        harness.key("acme", &[Role::Operator]).await,
        harness.key("acme", &[Role::Submitter]).await,
        harness.key("other", &[Role::Admin]).await,
    ];
    let [approver, operator, submitter, stranger] = keys;
    let no = |key: String, change: fn(&mut v1::ResolveApprovalRequest)| {
        let mut vote = vote(&shown, v1::ApprovalVerdict::Reject);
        change(&mut vote);
        let mut client = approvals(&harness);
        async move { client.resolve_approval(signed(&key, vote)).await.err() }
    };
    let nothing = |_: &mut v1::ResolveApprovalRequest| ();
    let other_hash = |vote: &mut v1::ResolveApprovalRequest| vote.expected_hash = "0".repeat(64);
    type Change = fn(&mut v1::ResolveApprovalRequest);
    let cases: [(String, Change, Code, &str); 5] = [
        (
            admin.clone(),
            nothing,
            Code::PermissionDenied,
            "APPROVER_IS_REQUESTER",
        ),
        (
            operator,
            nothing,
            Code::PermissionDenied,
            "APPROVER_ROLE_MISSING",
        ),
        (
            submitter.clone(),
            nothing,
            Code::PermissionDenied,
            "PERMISSION_MISSING",
        ),
        (stranger, nothing, Code::NotFound, "APPROVAL_NOT_FOUND"),
        (
            approver.clone(),
            other_hash,
            Code::FailedPrecondition,
            "APPROVAL_HASH_MISMATCH",
        ),
    ];
    for (key, change, code, why) in cases {
        let status = no(key, change).await.unwrap();
        assert_eq!((status.code(), reason(&status).as_str()), (code, why));
        if why == "APPROVER_ROLE_MISSING" {
            assert_eq!(
                metadata(&status, "roles").as_deref(),
                Some("admin,approver")
            );
        }
    }
    let empty = no(approver.clone(), |vote| {
        *vote = v1::ResolveApprovalRequest::default()
    })
    .await;
    let empty = empty.unwrap();
    assert_eq!(fields(&empty), ["verdict", "expected_hash", "approval_id"]);
    // Who may not see the job does not see its approval.
    let hidden = read(&harness, &submitter, &shown.approval_id)
        .await
        .unwrap_err();
    assert_eq!(reason(&hidden), "APPROVAL_NOT_FOUND");
    assert!(listed(&harness, &submitter).await.is_empty());
    // It has not changed by all that.
    let unchanged = read(&harness, &approver, &shown.approval_id).await.unwrap();
    assert_eq!(unchanged.state(), v1::ApprovalState::Pending);
    assert!(no(approver.clone(), nothing).await.is_none());
    let yes = vote(&shown, v1::ApprovalVerdict::Approve);
    let late = approvals(&harness)
        .resolve_approval(signed(&approver, yes))
        .await;
    let late = late.unwrap_err();
    assert_eq!(reason(&late), "APPROVAL_ALREADY_RESOLVED");
    assert_eq!(metadata(&late, "state").as_deref(), Some("rejected"));
}

#[tokio::test(start_paused = true)]
async fn a_list_is_filtered_paged_and_goes_on_as_a_watch() {
    let harness = harness(true).await;
    let mut ids = Vec::new();
    for number in 0..5 {
        let topic = if number % 2 == 0 {
            "job.pay"
        } else {
            "job.two"
        };
        ids.push(submit(&harness, submission(topic)).await.job_id);
        // Ids of one instant have no order.
        tokio::time::advance(std::time::Duration::from_millis(2)).await;
    }
    let mut client = approvals(&harness);
    let mut request = v1::ListApprovalsRequest {
        states: vec![v1::ApprovalState::Pending.into()],
        topics: vec!["job.pay".to_owned()],
        page_size: 2,
        ..v1::ListApprovalsRequest::default()
    };
    let first = client
        .list_approvals(request.clone())
        .await
        .unwrap()
        .into_inner();
    request.page_token = first.next_page_token;
    let second = client
        .list_approvals(request.clone())
        .await
        .unwrap()
        .into_inner();
    let found: Vec<_> = first.approvals.iter().chain(&second.approvals).collect();
    let found: Vec<_> = found.iter().map(|one| one.job_id.as_str()).collect();
    assert_eq!(found, [ids[4].as_str(), ids[2].as_str(), ids[0].as_str()]);
    request.rule_id = "other".to_owned();
    let other = client.list_approvals(request).await.unwrap_err();
    assert_eq!(reason(&other), "PAGE_TOKEN_INVALID");

    let watch = v1::WatchApprovalsRequest {
        filter: Some(v1::ApprovalFilter {
            topics: vec!["job.two".to_owned()],
            ..v1::ApprovalFilter::default()
        }),
        resume_token: first.resume_token,
    };
    let mut stream = client.watch_approvals(watch).await.unwrap().into_inner();
    let checkpoint = stream.message().await.unwrap().unwrap();
    assert!(checkpoint.checkpoint && checkpoint.approval.is_none());
    // Two have to approve: the only principal there is does so once.
    let two = submit(&harness, submission("job.two")).await;
    let asked = stream.message().await.unwrap().unwrap();
    let event = asked.event.unwrap();
    assert_eq!(event.r#type(), v1::ApprovalEventType::Requested);
    let approval = asked.approval.unwrap();
    assert_eq!(
        (&approval.job_id, approval.required_approvals),
        (&two.job_id, 2)
    );
    assert_eq!(approval.subject.as_ref().unwrap().input, None);
    let yes = vote(&approval, v1::ApprovalVerdict::Approve);
    let voted = client.resolve_approval(yes).await.unwrap().into_inner();
    assert_eq!(voted.approval.unwrap().missing_approvals, 1);
    let event = stream.message().await.unwrap().unwrap().event.unwrap();
    assert_eq!(event.r#type(), v1::ApprovalEventType::Voted);
    let no = vote(&approval, v1::ApprovalVerdict::Reject);
    client.resolve_approval(no).await.unwrap();
    let event = stream.message().await.unwrap().unwrap().event.unwrap();
    assert_eq!(event.r#type(), v1::ApprovalEventType::Resolved);
    assert_eq!(event.state(), v1::ApprovalState::Rejected);
    let ended = harness.jobs().get_job(get(&two.job_id)).await;
    let ended = ended.unwrap().into_inner().job.unwrap();
    assert_eq!(ended.state(), v1::JobState::Denied);
}
