//! Votes: who has one, the same one again, many at once, and what comes with them.

use coretex_core::approval::{Approval, ApprovalState, ApprovalVerdict};
use coretex_core::id::ApprovalId;
use coretex_core::job::JobState;
use coretex_core::policy::terms::ApprovalTerms;
use coretex_engine::{Caller, Error, Noun, ResolveApproval, Role, SubmitJob};

use super::{approval_of, approver, asking, asking_on, submit, submitter, vote};
use crate::support::{Setup, caller, request, secs};

#[tokio::test(start_paused = true)]
async fn who_may_vote() {
    let (bench, _) = asking(ApprovalTerms::default()).await;
    let both = caller("acme", "key:sam", &[Role::Submitter, Role::Approver]);
    let submitted = bench.engine.submit_job(&both, request("job.a")).await;
    let id = submitted.unwrap().answer.job.id.clone();
    let approval = approval_of(&bench, &id).await;
    let tries = |who: Caller, approval: &Approval| {
        let vote = vote(approval, ApprovalVerdict::Approve);
        let engine = bench.engine.clone();
        async move { engine.resolve_approval(&who, vote).await.err() }
    };
    // Whoever asked, whatever the roles; whoever has no role; another tenant; a guess.
    assert_eq!(
        tries(both, &approval).await,
        Some(Error::ApprovalOwnRequest)
    );
    let roles = vec!["admin".to_owned(), "approver".to_owned()];
    let operator = caller("acme", "key:olga", &[Role::Operator]);
    let missing = Error::ApprovalRoleMissing { roles };
    assert_eq!(tries(operator, &approval).await, Some(missing));
    let missing = Some(Error::NotFound {
        noun: Noun::Approval,
        id: approval.id.to_string(),
    });
    let stranger = caller("other", "key:ann", &[Role::Admin]);
    assert_eq!(tries(stranger, &approval).await, missing);
    let guess = Approval {
        id: ApprovalId::from_trusted("nothing"),
        ..approval.clone()
    };
    let found = tries(approver("ann"), &guess).await;
    assert!(matches!(found, Some(Error::NotFound { .. })));
    // Part of an id is no id.
    let part = Approval {
        id: ApprovalId::from_trusted(&approval.id.as_str()[..8]),
        ..approval.clone()
    };
    let found = tries(approver("ann"), &part).await;
    assert!(matches!(found, Some(Error::NotFound { .. })));
    let shown = Approval {
        hash: vec![0; 32],
        ..approval.clone()
    };
    assert_eq!(
        tries(approver("ann"), &shown).await,
        Some(Error::ApprovalHashMismatch)
    );
    assert_eq!(bench.state(&id).await, JobState::ApprovalRequired);
    assert_eq!(approval_of(&bench, &id).await, approval);
    assert_eq!(tries(approver("ann"), &approval).await, None);
    let late = tries(approver("bob"), &approval).await;
    let state = ApprovalState::Approved;
    assert_eq!(late, Some(Error::ApprovalResolved { state }));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn without_credentials_the_only_principal_answers_itself() {
    let terms = ApprovalTerms {
        roles: vec!["operator".to_owned()],
        ..ApprovalTerms::default()
    };
    let (bench, _) = asking(terms).await;
    let dev = bench.engine.dev_caller().unwrap();
    let submitted = bench.engine.submit_job(&dev, request("job.a")).await;
    let approval = submitted.unwrap().answer.job.approvals[0].clone();
    let vote = vote(&approval, ApprovalVerdict::Approve);
    let resolved = bench.engine.resolve_approval(&dev, vote).await.unwrap();
    assert_eq!(resolved.job.job.state, JobState::Pending);
}

#[tokio::test(start_paused = true)]
async fn the_same_vote_again_is_the_same_vote() {
    let two = ApprovalTerms {
        required: 2,
        reason_required: true,
        ..ApprovalTerms::default()
    };
    let (bench, _) = asking(two).await;
    let job = submit(&bench, request("job.a")).await;
    let approval = approval_of(&bench, &job.id).await;
    let cast = |who: &str, change: fn(&mut ResolveApproval)| {
        let mut vote = vote(&approval, ApprovalVerdict::Approve);
        change(&mut vote);
        let (who, engine) = (approver(who), bench.engine.clone());
        async move { engine.resolve_approval(&who, vote).await }
    };
    let silent = cast("ann", |vote| vote.reason.clear()).await;
    assert!(matches!(silent, Err(Error::Invalid(_))));
    let keyed: fn(&mut ResolveApproval) = |vote| vote.idempotency_key = "k".to_owned();
    assert!(!cast("ann", keyed).await.unwrap().replayed);
    // With the key and without; but nothing else under the key, and nobody else.
    assert!(cast("ann", keyed).await.unwrap().replayed);
    assert!(cast("ann", |_| ()).await.unwrap().replayed);
    let other: fn(&mut ResolveApproval) = |vote| {
        vote.idempotency_key = "k".to_owned();
        vote.verdict = ApprovalVerdict::Reject;
    };
    let reused = Error::IdempotencyKeyReused { job_id: None };
    assert_eq!(cast("ann", other).await.err(), Some(reused.clone()));
    assert_eq!(cast("bob", keyed).await.err(), Some(reused.clone()));
    let job_under_it = SubmitJob {
        idempotency_key: "k".to_owned(),
        ..request("job.a")
    };
    let found = bench
        .engine
        .submit_job(&submitter("sam"), job_under_it)
        .await;
    assert!(matches!(found, Err(Error::IdempotencyKeyReused { .. })));
    assert_eq!(approval_of(&bench, &job.id).await.votes.len(), 1);
    assert_eq!(bench.state(&job.id).await, JobState::ApprovalRequired);
    cast("bob", |_| ()).await.unwrap();
    // Also after it was resolved, and after a day.
    crate::support::jump(secs(25 * 3_600)).await;
    assert!(cast("ann", |_| ()).await.unwrap().replayed);
    assert!(cast("bob", |_| ()).await.unwrap().replayed);
    let late = cast("ann", |vote| vote.verdict = ApprovalVerdict::Reject).await;
    let state = ApprovalState::Approved;
    assert_eq!(late.err(), Some(Error::ApprovalResolved { state }));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn of_many_who_resolve_at_once_one_wins() {
    for seed in 0..8 {
        let setup = Setup {
            seed,
            ..Setup::default()
        };
        let (bench, _) = asking_on(ApprovalTerms::default(), setup).await;
        let job = submit(&bench, request("job.a")).await;
        let approval = approval_of(&bench, &job.id).await;
        let (other, _tap) = bench.another().await.unwrap();
        let votes = (0..12_u8).map(|number| {
            let verdict = match number % 3 {
                0 => ApprovalVerdict::Reject,
                _ => ApprovalVerdict::Approve,
            };
            let engine = if number % 2 == 0 {
                &bench.engine
            } else {
                &other
            };
            let (engine, vote) = (engine.clone(), vote(&approval, verdict));
            let who = approver(&format!("a{number}"));
            async move { engine.resolve_approval(&who, vote).await }
        });
        let done = futures::future::join_all(votes).await;
        let won: Vec<_> = done.iter().flatten().collect();
        assert_eq!(won.len(), 1, "{seed}");
        for lost in done.iter().filter_map(|result| result.as_ref().err()) {
            assert!(matches!(lost, Error::ApprovalResolved { .. }), "{lost:?}");
        }
        let state = won[0].answer.approval.state;
        let after = bench.job(&job.id).await;
        let should = match state {
            ApprovalState::Approved => JobState::Pending,
            _ => JobState::Denied,
        };
        assert_eq!((after.state, after.approvals[0].votes.len()), (should, 1));
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_comes_with_a_vote() {
    let (bench, _) = asking(ApprovalTerms::default()).await;
    let job = submit(&bench, request("job.a")).await;
    let mut vote = vote(
        &approval_of(&bench, &job.id).await,
        ApprovalVerdict::Approve,
    );
    vote.answer = Some("{\"limit\":5}".to_owned());
    let resolved = bench.engine.resolve_approval(&approver("ann"), vote).await;
    let answer = resolved.unwrap().answer.approval.answer;
    assert_eq!(answer.as_deref(), Some("{\"limit\":5}"));
}
