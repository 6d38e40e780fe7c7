//! The policy: written, put in force and asked through a real server, over several of them, and
//! across their death.

use coretex::proto::{
    ApprovalVerdict, Bundle, BundleState, ConfigScope, CreateApiKeyRequest, EvaluatePolicyRequest,
    ExplainPolicyRequest, GetSnapshotRequest, ListApprovalsRequest, ListBundlesRequest,
    ListPolicyAuditRequest, PolicyDecision, PolicySubject, PublishBundlesRequest, PutBundleRequest,
    ReplayPolicyRequest, ResolveApprovalRequest, RollbackPolicyRequest, RuleResult,
    SetConfigRequest, SimulatePolicyRequest, SubmitJobRequest,
};
use coretex::{Client, Code, ErrorReason, JobState, to_payload};
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::server::Server;
use coretex_tests::cluster::worker::RunningWorker;
use serde_json::json;

use crate::support::{get, result, until_state};

const SPEND: &str = "
version: 1
rules:
  - id: large
    match: {topics: [job.spend]}
    when: input.amount > 100
    decision: require_approval
    reason: more than 100
    approval: {roles: [approver], reason_required: true}
  - id: huge
    priority: 10
    match: {topics: [job.spend]}
    when: input.amount > 1000
    decision: deny
    reason: more than 1000
  - {id: rest, decision: allow}
";

fn bundle(id: &str, content: &str) -> Bundle {
    Bundle {
        bundle_id: id.to_owned(),
        content: content.to_owned(),
        ..Bundle::default()
    }
}

async fn put(client: &Client, id: &str, content: &str) {
    let request = PutBundleRequest {
        bundle: Some(bundle(id, content)),
        etag: "*".to_owned(),
        ..PutBundleRequest::default()
    };
    let written = client.put_bundle(request).await.unwrap().bundle.unwrap();
    assert_eq!(written.state(), BundleState::Draft);
}

async fn publish(client: &Client, id: &str, content: &str) -> String {
    put(client, id, content).await;
    let request = PublishBundlesRequest {
        bundle_ids: vec![id.to_owned()],
        note: "a test".to_owned(),
        ..PublishBundlesRequest::default()
    };
    client.publish_bundles(request).await.unwrap().snapshot_id
}

fn spending(amount: u64) -> Option<PolicySubject> {
    Some(PolicySubject {
        topic: "job.spend".to_owned(),
        input: Some(to_payload(&json!({"amount": amount})).unwrap()),
        ..PolicySubject::default()
    })
}

async fn submitted(client: &Client, amount: u64) -> coretex::Job {
    let request = SubmitJobRequest {
        topic: "job.spend".to_owned(),
        input: Some(to_payload(&json!({"amount": amount})).unwrap()),
        ..SubmitJobRequest::default()
    };
    client.submit_job(request).await.unwrap().job.unwrap()
}

async fn echo(client: &Client) -> RunningWorker {
    RunningWorker::serve(client.clone(), "job.spend", 4, |_, job| async move {
        Ok(job.input)
    })
    .await
}

async fn key(client: &Client, role: &str) -> String {
    let request = CreateApiKeyRequest {
        display_name: role.to_owned(),
        roles: vec![role.to_owned()],
        ..CreateApiKeyRequest::default()
    };
    client.create_api_key(request).await.unwrap().secret
}

async fn nothing_runs_without_a_policy_and_what_is_published_decides(pair: &Pair) {
    let nothing = "version: 1\n";
    let server = Server::start(pair.options().secured().policy("nothing", nothing)).await;
    let client = server.client_with(&server.admin_key());
    let _worker = echo(&client).await;
    let denied = submitted(&client, 1).await;
    assert_eq!(denied.state(), JobState::Denied);
    let first = publish(&client, "spend", SPEND).await;
    // Allowed, denied, and waiting for somebody.
    assert_eq!(
        result(client.submit("job.spend", json!({"amount": 5})))
            .await
            .state(),
        JobState::Succeeded
    );
    let denied = submitted(&client, 5_000).await;
    let decision = denied.decision.clone().unwrap();
    assert_eq!(denied.state(), JobState::Denied);
    assert_eq!(
        (decision.rule_id.as_str(), decision.reason.as_str()),
        ("huge", "more than 1000")
    );
    assert_eq!(decision.policy_snapshot, first);
    let waiting = submitted(&client, 500).await;
    assert_eq!(waiting.state(), JobState::ApprovalRequired);
    // Who asked has no vote; somebody else with the role has.
    let approver = server.client_with(&key(&client, "approver").await);
    let page = approver
        .list_approvals(ListApprovalsRequest::default())
        .await
        .unwrap();
    let approval = page
        .approvals
        .into_iter()
        .find(|one| one.job_id == waiting.job_id)
        .unwrap();
    let vote = ResolveApprovalRequest {
        approval_id: approval.approval_id.clone(),
        verdict: ApprovalVerdict::Approve.into(),
        expected_hash: approval.hash.clone(),
        reason: "I know them".to_owned(),
        ..ResolveApprovalRequest::default()
    };
    let own = client.resolve_approval(vote.clone()).await.unwrap_err();
    assert_eq!(own.code(), Code::PermissionDenied);
    approver.resolve_approval(vote).await.unwrap();
    until_state(&client, &waiting.job_id, JobState::Succeeded).await;
    // The configuration only takes away.
    let config = SetConfigRequest {
        scope: ConfigScope::Org.into(),
        data: json!({"safety": {"denied_topics": ["job.spend"]}})
            .as_object()
            .map(coretex::proto_value::struct_from_json),
        etag: "*".to_owned(),
        ..SetConfigRequest::default()
    };
    client.set_config(config).await.unwrap();
    assert_eq!(submitted(&client, 5).await.state(), JobState::Denied);
}

async fn questions_change_nothing_and_say_what_would_happen(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    publish(&client, "spend", SPEND).await;
    let evaluate = |amount| EvaluatePolicyRequest {
        subject: spending(amount),
    };
    for (amount, expected) in [
        (5, PolicyDecision::Allow),
        (500, PolicyDecision::RequireApproval),
        (5_000, PolicyDecision::Deny),
    ] {
        let answer = client.evaluate_policy(evaluate(amount)).await.unwrap();
        assert_eq!(answer.decision.unwrap().decision(), expected, "{amount}");
    }
    let request = ExplainPolicyRequest {
        subject: spending(500),
    };
    let explained = client.explain_policy(request).await.unwrap();
    let spend = explained
        .bundles
        .iter()
        .find(|one| one.bundle_id == "spend")
        .unwrap();
    let results: Vec<_> = spend
        .rules
        .iter()
        .map(|rule| (rule.rule_id.as_str(), rule.result()))
        .collect();
    assert_eq!(
        results,
        [
            ("huge", RuleResult::NotMatched),
            ("large", RuleResult::Matched)
        ]
    );
    assert_eq!(
        (spend.rules[0].criterion.as_str(), spend.not_reached_count),
        ("when", 1)
    );
    // Without the field nobody can say: it is never milder for that.
    let unsure = PolicySubject {
        input: None,
        ..spending(1).unwrap()
    };
    let answer = client
        .evaluate_policy(EvaluatePolicyRequest {
            subject: Some(unsure),
        })
        .await;
    assert_eq!(
        answer.unwrap().decision.unwrap().decision(),
        PolicyDecision::Deny
    );
    let mild = SPEND.replace("1000", "9000");
    let request = SimulatePolicyRequest {
        subject: spending(5_000),
        candidate_bundles: vec![bundle("spend", &mild)],
    };
    let simulated = client.simulate_policy(request).await.unwrap();
    assert!(simulated.differs);
    assert_eq!(
        simulated.candidate.unwrap().decision(),
        PolicyDecision::RequireApproval
    );
    for amount in [1, 5_000, 50] {
        submitted(&client, amount).await;
    }
    let request = ReplayPolicyRequest {
        candidate_bundles: vec![bundle("spend", &mild)],
        ..ReplayPolicyRequest::default()
    };
    let mut stream = client.replay_policy(request).await.unwrap();
    let mut last = None;
    let mut changes = 0;
    while let Some(message) = stream.message().await.unwrap() {
        changes += usize::from(message.change.is_some());
        last = Some(message);
    }
    let last = last.unwrap();
    assert_eq!(
        (last.judged, last.changed, changes, last.done),
        (3, 1, 1, true)
    );
}

async fn a_bad_bundle_is_told_with_its_place_and_the_policy_survives_the_server(pair: &Pair) {
    let mut server = Server::start(pair.options()).await;
    let client = server.client();
    let bad = PutBundleRequest {
        bundle: Some(bundle(
            "spend",
            "version: 1\nrules:\n  - {id: a, decision: alow}\n",
        )),
        ..PutBundleRequest::default()
    };
    let refused = client.put_bundle(bad).await.unwrap_err();
    assert_eq!(refused.reason(), Some(ErrorReason::InvalidField));
    let violations = refused.violations();
    assert!(
        violations
            .iter()
            .any(|one| one.description.starts_with("3:")),
        "{violations:?}"
    );
    let first = publish(&client, "spend", SPEND).await;
    let second = publish(
        &client,
        "spend",
        "version: 1\nrules: [{id: none, decision: deny}]\n",
    )
    .await;
    server.kill().await;
    server.restart().await;
    let client = server.client();
    assert_eq!(submitted(&client, 5).await.state(), JobState::Denied);
    let compared = GetSnapshotRequest {
        compare_with: first.clone(),
        ..GetSnapshotRequest::default()
    };
    let compared = client.get_snapshot(compared).await.unwrap();
    assert_eq!(compared.snapshot.unwrap().snapshot_id, second);
    assert!(!compared.changes.is_empty());
    let back = RollbackPolicyRequest {
        snapshot_id: first,
        note: "too strict".to_owned(),
        ..RollbackPolicyRequest::default()
    };
    client.rollback_policy(back).await.unwrap();
    let job = submitted(&client, 5).await;
    assert_ne!(get(&client, &job.job_id).await.state(), JobState::Denied);
    let audit = client
        .list_policy_audit(ListPolicyAuditRequest::default())
        .await
        .unwrap();
    let actions: Vec<_> = audit
        .entries
        .iter()
        .map(|entry| entry.action.as_str())
        .collect();
    assert_eq!(actions[..3], ["rollback", "publish", "publish"]);
    let bundles = client
        .list_bundles(ListBundlesRequest::default())
        .await
        .unwrap();
    let ids: Vec<_> = bundles
        .bundles
        .iter()
        .map(|one| one.bundle_id.as_str())
        .collect();
    assert_eq!(ids, ["base-dev-allow-all", "spend"]);
}

on_both_pairs! {
    nothing_runs_without_a_policy_and_what_is_published_decides,
    questions_change_nothing_and_say_what_would_happen,
    a_bad_bundle_is_told_with_its_place_and_the_policy_survives_the_server,
}
