//! Approvals: asked for, voted on, granted, used; who sees them and who has a vote.

mod faults;
mod lists;
mod policy;
mod votes;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use coretex_core::approval::{Approval, ApprovalState, ApprovalVerdict};
use coretex_core::id::{ApprovalId, JobId};
use coretex_core::job::{Job, JobSpec, JobState};
use coretex_core::payload::Payload;
use coretex_core::policy::Decision;
use coretex_core::policy::terms::{ApprovalTerms, OnExpire};
use coretex_engine::{
    ApprovalFilter, Caller, Error, JobEdits, PageRequest, ResolveApproval, Resolved, Role,
    SubmitJob,
};

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, caller, hello, pass, request, secs, with,
};

/// A sweep has come by.
pub(crate) const SWEPT: Duration = secs(3);

pub(crate) fn approver(name: &str) -> Caller {
    caller("acme", &format!("key:{name}"), &[Role::Approver])
}

pub(crate) fn submitter(name: &str) -> Caller {
    caller("acme", &format!("key:{name}"), &[Role::Submitter])
}

/// A bench whose kernel asks for approvals of these terms.
pub(crate) async fn asking(terms: ApprovalTerms) -> (Bench, Arc<Script>) {
    asking_on(terms, Setup::default()).await
}

pub(crate) async fn asking_on(terms: ApprovalTerms, setup: Setup) -> (Bench, Arc<Script>) {
    let kernel = Script::new(Answer::Allow);
    kernel.ask("rule-1", terms);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..setup
    })
    .await;
    (bench, kernel)
}

pub(crate) async fn submit(bench: &Bench, request: SubmitJob) -> Arc<Job> {
    let who = submitter("sam");
    let submitted = bench.engine.submit_job(&who, request).await;
    submitted.unwrap().answer.job
}

/// The last approval of a job.
pub(crate) async fn approval_of(bench: &Bench, id: &JobId) -> Approval {
    bench.job(id).await.approvals.last().unwrap().clone()
}

pub(crate) fn vote(approval: &Approval, verdict: ApprovalVerdict) -> ResolveApproval {
    ResolveApproval {
        approval_id: approval.id.clone(),
        verdict,
        expected_hash: approval.hash.clone(),
        reason: "looked at it".to_owned(),
        answer: None,
        idempotency_key: String::new(),
    }
}

pub(crate) async fn resolves(
    bench: &Bench,
    who: &str,
    approval: &Approval,
    verdict: ApprovalVerdict,
) -> Result<Resolved, Error> {
    let vote = vote(approval, verdict);
    bench.engine.resolve_approval(&approver(who), vote).await
}

pub(crate) async fn approves(
    bench: &Bench,
    who: &str,
    approval: &Approval,
) -> Result<Resolved, Error> {
    resolves(bench, who, approval, ApprovalVerdict::Approve).await
}

#[tokio::test(start_paused = true)]
async fn a_job_waits_for_a_human_and_runs_when_he_agrees() {
    let (bench, kernel) = asking(ApprovalTerms::default()).await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    pass(secs(2)).await;
    let job = submit(&bench, request("job.a")).await;
    assert_eq!(job.state, JobState::ApprovalRequired);
    let approval = job.approvals.first().unwrap();
    let decision = job.decision.as_ref().unwrap();
    assert_eq!(decision.approval_id, approval.id.as_str());
    assert_eq!(
        (decision.decision, &*decision.rule_id),
        (Decision::RequireApproval, "rule-1")
    );
    // It costs no slot and no worker, however long it takes.
    worker.quiet(secs(20)).await;
    assert_eq!(bench.audit().await.held.len(), 0);
    assert_eq!(bench.cause(&job.id).await, "approval_pending");

    let resolved = approves(&bench, "ann", approval).await.unwrap();
    assert!(!resolved.replayed);
    assert_eq!(resolved.answer.approval.state, ApprovalState::Approved);
    assert_eq!(resolved.job.job.state, JobState::Pending);
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, job.id);
    assert!(worker.succeed(&attempt).await);
    let done = bench.job(&job.id).await;
    let decision = done.decision.as_ref().unwrap();
    assert_eq!(decision.decision, Decision::Allow);
    assert_eq!(decision.approval_id, approval.id.as_str());
    // Submit, vote: nobody else has judged.
    assert_eq!(kernel.asked(), 2);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_good_for_every_attempt_of_one_job_and_for_no_other() {
    let (mut bench, kernel) = asking(ApprovalTerms::default()).await;
    let job = submit(&bench, with("job.a", |spec| spec.retry.max_attempts = 3)).await;
    let approval = approval_of(&bench, &job.id).await;
    approves(&bench, "ann", &approval).await.unwrap();
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let first = worker.assignment().await;
    worker.fail(&first, "broken").await;
    // A newer policy asks for the same.
    bench.enforce("script-2").await;
    kernel.publish("script-2");
    let second = worker.assignment().await;
    assert_eq!(
        (second.job_id.as_str(), second.attempt),
        (job.id.as_str(), 2)
    );
    let used = bench.job(&job.id).await;
    let decision = used.decision.as_ref().unwrap();
    assert_eq!(decision.policy_snapshot, "script-2");
    assert_eq!(decision.approval_id, approval.id.as_str());
    assert_eq!(used.approvals.len(), 1);
    // Another process takes over, and the worker is lost with the first.
    bench.crash().await;
    pass(secs(60)).await;
    let mut worker = bench.connect(hello("w2", &["job.a"], 1)).await;
    let third = worker.assignment().await;
    assert_eq!(third.job_id, job.id);
    worker.fail(&third, "broken").await;
    let fourth = worker.assignment().await;
    worker.fail(&fourth, "broken").await;
    let ended = bench.ended(&job.id, secs(60)).await;
    assert_eq!(ended.state, JobState::Failed);

    // A rerun and a retried dead letter are other jobs.
    let edits = JobEdits::default();
    let engine = &bench.engine;
    let again = engine.rerun_job(&ADMIN, &job.id, edits.clone(), String::new());
    let again = again.await.unwrap().answer.job;
    let retried = engine.retry_dlq_entry(&ADMIN, &job.id, edits, String::new());
    let retried = retried.await.unwrap().answer.job;
    for other in [again, retried] {
        assert_eq!(other.state, JobState::ApprovalRequired);
        assert_ne!(other.approvals[0].id, approval.id);
        assert_ne!(other.approvals[0].hash, approval.hash);
    }
    worker.quiet(secs(10)).await;
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_that_a_client_sends_grants_anything() {
    let (bench, _) = asking(ApprovalTerms::default()).await;
    let job = submit(&bench, request("job.a")).await;
    let approval = approval_of(&bench, &job.id).await;
    approves(&bench, "ann", &approval).await.unwrap();
    let claims = |spec: &mut JobSpec| {
        for (key, value) in [
            ("approval_id", approval.id.as_str()),
            ("approved", "true"),
            ("approval_granted", "true"),
            ("coretex.approval", approval.id.as_str()),
        ] {
            spec.labels.insert(key.to_owned(), value.to_owned());
        }
        spec.metadata.actor_id = "key:ann".to_owned();
        spec.memory_id = approval.id.to_string();
        spec.parent_job_id = Some(job.id.clone());
    };
    let other = submit(&bench, with("job.a", claims)).await;
    assert_eq!(other.state, JobState::ApprovalRequired);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn one_rejection_ends_the_job() {
    let terms = ApprovalTerms {
        required: 2,
        ..ApprovalTerms::default()
    };
    let (bench, _) = asking(terms).await;
    let job = submit(&bench, request("job.a")).await;
    let approval = approval_of(&bench, &job.id).await;
    let first = approves(&bench, "ann", &approval).await.unwrap();
    assert_eq!(first.answer.approval.state, ApprovalState::Pending);
    assert_eq!(first.job.job.state, JobState::ApprovalRequired);
    let no = resolves(&bench, "bob", &approval, ApprovalVerdict::Reject)
        .await
        .unwrap();
    assert_eq!(no.answer.approval.state, ApprovalState::Rejected);
    assert_eq!(no.job.job.state, JobState::Denied);
    let entry = bench
        .engine
        .get_dlq_entry(&ADMIN, &job.id, false)
        .await
        .unwrap();
    let letter = entry.answer.job.dead_letter.as_ref().unwrap();
    assert_eq!(letter.code, "approval_rejected");
    let diagnosis = bench.engine.diagnose_job(&ADMIN, &job.id).await.unwrap();
    assert_eq!(diagnosis.causes[0].code, "approval_rejected");
    assert!(diagnosis.causes[0].message.contains("key:bob"));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn nobody_answers_in_time() {
    let terms = ApprovalTerms {
        expires_after: Some(secs(100)),
        ..ApprovalTerms::default()
    };
    let (bench, _) = asking(terms).await;
    let job = submit(&bench, request("job.a")).await;
    pass(secs(95)).await;
    assert_eq!(bench.state(&job.id).await, JobState::ApprovalRequired);
    pass(secs(10)).await;
    let ended = bench.job(&job.id).await;
    assert_eq!(ended.state, JobState::Denied);
    assert_eq!(ended.dead_letter.as_ref().unwrap().code, "approval_expired");
    let approval = approval_of(&bench, &job.id).await;
    assert_eq!(approval.state, ApprovalState::Expired);
    let late = approves(&bench, "ann", &approval).await.err();
    let state = ApprovalState::Expired;
    assert_eq!(late, Some(Error::ApprovalResolved { state }));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_escalation_is_by_the_clock_and_survives_a_crash() {
    let terms = ApprovalTerms {
        expires_after: Some(secs(100)),
        on_expire: OnExpire::Escalate,
        escalate_to: vec!["operator".to_owned()],
        ..ApprovalTerms::default()
    };
    let (mut bench, _) = asking(terms).await;
    let job = submit(&bench, request("job.a")).await;
    let approval = approval_of(&bench, &job.id).await;
    let operator = caller("acme", "key:olga", &[Role::Operator]);
    let early = vote(&approval, ApprovalVerdict::Approve);
    let early = bench.engine.resolve_approval(&operator, early).await;
    assert!(matches!(early, Err(Error::ApprovalRoleMissing { .. })));
    pass(secs(80)).await;
    bench.crash().await;
    pass(secs(30)).await;
    let escalated = approval_of(&bench, &job.id).await;
    assert_eq!(escalated.state, ApprovalState::Pending);
    assert!(escalated.escalate_time.is_some());
    let diagnosis = bench.engine.diagnose_job(&ADMIN, &job.id).await.unwrap();
    let cause = &diagnosis.causes[0];
    assert!(cause.message.contains("operator"), "{}", cause.message);
    assert_eq!(cause.until_time, escalated.expire_time);
    let yes = vote(&escalated, ApprovalVerdict::Approve);
    let yes = bench.engine.resolve_approval(&operator, yes).await.unwrap();
    assert_eq!(yes.job.job.state, JobState::Pending);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_cancel_withdraws_it_and_a_pending_one_outlives_any_retention() {
    let (bench, _) = asking(ApprovalTerms::default()).await;
    let kept = submit(&bench, request("job.a")).await;
    let gone = submit(&bench, request("job.a")).await;
    let cancelled = bench
        .engine
        .cancel_job(&ADMIN, &gone.id, "no".to_owned(), None, false);
    assert_eq!(cancelled.await.unwrap().job.state, JobState::Cancelled);
    let withdrawn = approval_of(&bench, &gone.id).await;
    assert_eq!(withdrawn.state, ApprovalState::Withdrawn);
    let late = approves(&bench, "ann", &withdrawn).await.err();
    let state = ApprovalState::Withdrawn;
    assert_eq!(late, Some(Error::ApprovalResolved { state }));
    // A month.
    crate::support::jump(secs(31 * 24 * 3_600)).await;
    let get = |id: &ApprovalId| {
        let (engine, id) = (bench.engine.clone(), id.clone());
        async move { engine.get_approval(&ADMIN, &id, true).await }
    };
    assert!(matches!(
        get(&withdrawn.id).await,
        Err(Error::NotFound { .. })
    ));
    let pending = approval_of(&bench, &kept.id).await;
    assert!(get(&pending.id).await.unwrap().approval.is_pending());
    approves(&bench, "ann", &pending).await.unwrap();
    let audit = bench.audit().await;
    assert_eq!(audit.members.get("approvals"), Some(&1));
    assert_eq!(audit.members.get("pending-approvals"), Some(&0));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_stands_still_however_often_it_is_judged_again() {
    let (bench, kernel) = asking(ApprovalTerms::default()).await;
    let limited = with("job.a", |spec| spec.deadline_after = Some(secs(60)));
    let job = submit(&bench, limited).await;
    for number in 2..5 {
        pass(secs(90)).await;
        let snapshot = format!("script-{number}");
        bench.enforce(&snapshot).await;
        kernel.publish(&snapshot);
    }
    pass(secs(90)).await;
    let approval = approval_of(&bench, &job.id).await;
    assert_eq!(approval.policy_snapshot, "script-4");
    let resolved = approves(&bench, "ann", &approval).await.unwrap();
    let left = resolved.job.job.deadline.unwrap().since(bench.now());
    assert!((secs(59)..=secs(61)).contains(&left), "{left:?}");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn an_approver_sees_the_whole_input() {
    let (bench, _) = asking(ApprovalTerms::default()).await;
    let text = format!("\"{}\"", "x".repeat(40_000));
    let large = SubmitJob {
        input: Some(Payload::json(text.clone().into())),
        ..request("job.a")
    };
    let job = submit(&bench, large).await;
    let id = &job.approvals[0].id;
    let found = bench.engine.get_approval(&approver("ann"), id, true).await;
    let input = found.unwrap().job.input.clone().unwrap();
    assert_eq!(input.size(), text.len() as u64);
    assert!(!input.is_apart());
    let listed = bench
        .engine
        .list_approvals(
            &approver("ann"),
            &ApprovalFilter::default(),
            PageRequest {
                size: 10,
                token: String::new(),
            },
        )
        .await
        .unwrap();
    assert!(listed.approvals[0].job.input.as_ref().unwrap().is_apart());
}
