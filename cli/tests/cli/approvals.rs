//! Approvals: what is shown before somebody says yes, and what is sent then.

use coretex::proto::*;
use coretex::{Code, ErrorReason, JobState};
use serde_json::json;

use crate::support::{Scene, job, refusal};

const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn approval(approval_id: &str, state: ApprovalState) -> Approval {
    Approval {
        approval_id: approval_id.into(),
        kind: ApprovalKind::Job.into(),
        state: state.into(),
        job_id: "j".into(),
        title: "job.pay: money moves".into(),
        hash: HASH.into(),
        subject: Some(ApprovalSubject {
            topic: "job.pay".into(),
            metadata: Some(JobMetadata {
                risk_tags: vec!["money".into()],
                ..JobMetadata::default()
            }),
            input: Some(Payload::from_json(&json!({
                "to": "x".repeat(5_000),
                "evil": "\u{1b}[2J",
                "end": "of it",
            }))),
            ..ApprovalSubject::default()
        }),
        rule_id: "pay/large".into(),
        reason: "money moves".into(),
        requested_by: "key:sam".into(),
        approver_roles: vec!["approver".into(), "admin".into()],
        required_approvals: 2,
        missing_approvals: 1,
        votes: vec![ApprovalVote {
            principal_id: "key:ann".into(),
            verdict: ApprovalVerdict::Approve.into(),
            reason: "seen it".into(),
            time: None,
        }],
        ..Approval::default()
    }
}

fn shows(scene: &Scene) {
    scene.fake.get_approval.set(|request| {
        Ok(GetApprovalResponse {
            approval: Some(approval(&request.approval_id, ApprovalState::Pending)),
        })
    });
}

fn resolves(scene: &Scene, state: ApprovalState, job_state: JobState) {
    scene.fake.resolve_approval.set(move |request| {
        let resolution = "policy denies the job: closed".to_owned();
        Ok(ResolveApprovalResponse {
            approval: Some(Approval {
                resolution,
                ..approval(&request.approval_id, state)
            }),
            job: Some(job("j", job_state)),
            replayed: false,
        })
    });
}

#[tokio::test]
async fn what_waits_is_listed_and_everything_else_on_request() {
    let scene = Scene::new().await;
    scene.fake.list_approvals.set(|_| {
        Ok(ListApprovalsResponse {
            approvals: vec![approval("a", ApprovalState::Pending)],
            ..ListApprovalsResponse::default()
        })
    });
    let ran = scene.run(&["approval", "list", "--topic", "job.pay"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let row = ran.stdout.lines().nth(1).unwrap();
    for words in ["PENDING", "job.pay", "pay/large", "money moves"] {
        assert!(row.contains(words), "{words}: {row}");
    }
    let args = [
        "approval",
        "list",
        "--state",
        "approved,expired",
        "--job",
        "j",
        "--requested-by",
        "key:sam",
        "--rule",
        "pay/large",
        "--limit",
        "7",
    ];
    scene.run(&args).await;
    scene.run(&["approval", "list", "--all-states"]).await;
    let asked = scene.fake.list_approvals.asked();
    let states = |states: &[ApprovalState]| -> Vec<i32> {
        states.iter().map(|state| (*state).into()).collect()
    };
    assert_eq!(asked[0].states, states(&[ApprovalState::Pending]));
    assert_eq!(asked[0].topics, ["job.pay"]);
    let both = states(&[ApprovalState::Approved, ApprovalState::Expired]);
    assert_eq!((&asked[1].states, asked[1].page_size), (&both, 7));
    assert_eq!(
        (asked[1].job_id.as_str(), asked[1].requested_by.as_str()),
        ("j", "key:sam")
    );
    assert_eq!(asked[1].rule_id, "pay/large");
    assert!(asked[2].states.is_empty());
}

#[tokio::test]
async fn an_approver_sees_the_whole_of_it() {
    let scene = Scene::new().await;
    shows(&scene);
    let ran = scene.run(&["approval", "get", "a"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let shown = &ran.stdout;
    for words in [
        "job.pay",
        "key:sam",
        "pay/large",
        "money",
        "1 more by",
        HASH,
        "key:ann",
        "of it",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(shown.contains(&"x".repeat(5_000)), "an input is not cut");
    assert!(!shown.contains('\u{1b}'), "no escapes reach the terminal");
    let ran = scene.run(&["approval", "get", "a", "-o", "json"]).await;
    assert_eq!(ran.json()["hash"], json!(HASH));
}

#[tokio::test]
async fn a_vote_is_on_what_was_shown() {
    let scene = Scene::new().await;
    shows(&scene);
    resolves(&scene, ApprovalState::Approved, JobState::Pending);
    // Nobody is there to ask.
    let ran = scene.run(&["approval", "approve", "a"]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.stderr.contains("--yes"), "{ran:?}");
    assert!(scene.fake.resolve_approval.asked().is_empty());
    let args = [
        "approval",
        "approve",
        "a",
        "--yes",
        "-m",
        "fine",
        "--answer",
        "{\"limit\": 5}",
        "--idempotency-key",
        "k",
    ];
    let ran = scene.run(&args).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.contains("APPROVED"), "{ran:?}");
    let sent = scene.fake.resolve_approval.only();
    assert_eq!(
        (sent.verdict(), sent.expected_hash.as_str()),
        (ApprovalVerdict::Approve, HASH)
    );
    assert_eq!(
        (sent.reason.as_str(), sent.idempotency_key.as_str()),
        ("fine", "k")
    );
    assert!(sent.answer.is_some());
    // Whoever has looked elsewhere names what he has seen.
    let other = "f".repeat(64);
    scene
        .run(&["approval", "reject", "a", "--yes", "--hash", &other])
        .await;
    let sent = scene.fake.resolve_approval.asked().pop().unwrap();
    assert_eq!(
        (sent.verdict(), sent.expected_hash),
        (ApprovalVerdict::Reject, other)
    );
    assert!(!sent.idempotency_key.is_empty());
    let ran = scene
        .run(&["approval", "reject", "a", "--yes", "--answer", "{"])
        .await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
}

#[tokio::test]
async fn what_policy_takes_back_is_not_done() {
    let scene = Scene::new().await;
    shows(&scene);
    resolves(&scene, ApprovalState::Withdrawn, JobState::Denied);
    let ran = scene.run(&["approval", "approve", "a", "--yes"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stderr.contains("policy denies the job: closed"),
        "{ran:?}"
    );
    scene.fake.resolve_approval.set(|_| {
        let message = "who asked for the job has no vote on its approval";
        let reason = ErrorReason::ApproverIsRequester;
        Err(refusal(Code::PermissionDenied, message, reason))
    });
    let ran = scene.run(&["approval", "approve", "a", "--yes"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.stderr.contains("reason: APPROVER_IS_REQUESTER"),
        "{ran:?}"
    );
}

#[tokio::test]
async fn a_watch_prints_a_line_for_each_thing_that_happens() {
    let scene = Scene::new().await;
    let event = |kind: ApprovalEventType, state: ApprovalState| WatchApprovalsResponse {
        event: Some(ApprovalEvent {
            approval_id: "a".into(),
            r#type: kind.into(),
            state: state.into(),
            time: None,
        }),
        approval: Some(approval("a", state)),
        resume_token: "t".into(),
        checkpoint: false,
    };
    let mut first = true;
    scene.fake.watch_approvals.set(move |_| {
        // The second time the watch would go on for ever.
        if !std::mem::take(&mut first) {
            let reason = ErrorReason::ResumeTokenInvalid;
            return Err(refusal(Code::OutOfRange, "list again", reason));
        }
        let checkpoint = WatchApprovalsResponse {
            checkpoint: true,
            resume_token: "s".into(),
            ..WatchApprovalsResponse::default()
        };
        Ok(vec![
            checkpoint,
            event(ApprovalEventType::Requested, ApprovalState::Pending),
            event(ApprovalEventType::Voted, ApprovalState::Pending),
        ])
    });
    let ran = scene
        .run(&["approval", "watch", "--topic", "job.pay"])
        .await;
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{ran:?}");
    assert!(
        lines[0].contains("requested") && lines[0].contains("money moves"),
        "{ran:?}"
    );
    assert!(lines[1].contains("approved by key:ann"), "{ran:?}");
    // It has gone on where it was, until the server said that this cannot be.
    let asked = scene.fake.watch_approvals.asked();
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[1].resume_token, "t");
    assert_eq!(asked[0].filter.as_ref().unwrap().topics, ["job.pay"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
}
