//! The policy moves while a human decides: votes are judged again, and so is who waits.

use coretex_core::approval::{ApprovalState, ApprovalVerdict};
use coretex_core::job::JobState;
use coretex_core::policy::evaluate::RateTaken;
use coretex_core::policy::terms::ApprovalTerms;
use coretex_core::policy::{Constraints, Decision};
use coretex_core::routing::Rate;
use coretex_engine::Error;

use super::{SWEPT, approval_of, approves, asking, resolves, submit};
use crate::support::{Answer, Bench, Script, hello, pass, request, secs};

async fn moves(bench: &Bench, kernel: &Script, snapshot: &str) {
    bench.enforce(snapshot).await;
    kernel.publish(snapshot);
}

/// What the deciding vote meets.
#[derive(Clone, Copy, Debug)]
enum Now {
    Same,
    Allows,
    Denies,
    AsksOtherwise,
    IsBroken,
}

#[tokio::test(start_paused = true)]
async fn the_deciding_vote_is_judged_under_the_policy_of_its_commit() {
    for (now, approval, state) in [
        (Now::Same, ApprovalState::Approved, JobState::Pending),
        (Now::Allows, ApprovalState::Approved, JobState::Pending),
        (Now::Denies, ApprovalState::Withdrawn, JobState::Denied),
        (
            Now::AsksOtherwise,
            ApprovalState::Withdrawn,
            JobState::ApprovalRequired,
        ),
        (
            Now::IsBroken,
            ApprovalState::Pending,
            JobState::ApprovalRequired,
        ),
    ] {
        let (bench, kernel) = asking(ApprovalTerms::default()).await;
        let job = submit(&bench, request("job.a")).await;
        let asked = approval_of(&bench, &job.id).await;
        // No sweep has come by yet.
        moves(&bench, &kernel, "script-2").await;
        match now {
            Now::Same => {}
            Now::Allows => kernel.say(Answer::Allow),
            Now::Denies => kernel.say(Answer::Deny),
            Now::AsksOtherwise => kernel.ask("rule-2", ApprovalTerms::default()),
            Now::IsBroken => kernel.say(Answer::Trouble),
        }
        let resolved = approves(&bench, "ann", &asked).await;
        if matches!(now, Now::IsBroken) {
            assert!(matches!(resolved, Err(Error::Unavailable { .. })));
            assert_eq!(approval_of(&bench, &job.id).await, asked);
        } else {
            let resolved = resolved.unwrap();
            assert_eq!(resolved.answer.approval.state, approval, "{now:?}");
            assert_eq!(resolved.answer.approval.votes.len(), 1);
            assert_eq!(resolved.job.job.state, state, "{now:?}");
        }
        let after = bench.job(&job.id).await;
        assert_eq!((after.state, after.approvals[0].state), (state, approval));
        match now {
            Now::AsksOtherwise => {
                let new = approval_of(&bench, &job.id).await;
                assert_ne!(new.id, asked.id);
                assert!(new.votes.is_empty());
                approves(&bench, "ann", &new).await.unwrap();
                assert_eq!(bench.state(&job.id).await, JobState::Pending);
            }
            Now::Denies => {
                let code = &after.dead_letter.as_ref().unwrap().code;
                assert_eq!(code, "safety_denied");
                assert!(after.approvals[0].resolution.contains("policy denies"));
            }
            Now::Same | Now::Allows | Now::IsBroken => {}
        }
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vote_under_a_kernel_that_is_behind_grants_nothing() {
    let (bench, kernel) = asking(ApprovalTerms::default()).await;
    let job = submit(&bench, request("job.a")).await;
    let asked = approval_of(&bench, &job.id).await;
    bench.enforce("script-2").await;
    assert_eq!(
        approves(&bench, "ann", &asked).await.err(),
        Some(Error::Contention)
    );
    assert_eq!(approval_of(&bench, &job.id).await, asked);
    // A rejection needs no policy.
    let no = resolves(&bench, "ann", &asked, ApprovalVerdict::Reject).await;
    assert_eq!(no.unwrap().job.job.state, JobState::Denied);
    kernel.publish("script-2");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_judged_again_after_the_policy_has_moved() {
    for (answer, approval, state) in [
        (
            Answer::Approval,
            ApprovalState::Pending,
            JobState::ApprovalRequired,
        ),
        (Answer::Allow, ApprovalState::Withdrawn, JobState::Pending),
        (Answer::Deny, ApprovalState::Withdrawn, JobState::Denied),
        (
            Answer::Throttle(secs(60)),
            ApprovalState::Withdrawn,
            JobState::Scheduled,
        ),
    ] {
        let (bench, kernel) = asking(ApprovalTerms::default()).await;
        let mut ids = Vec::new();
        for _ in 0..120 {
            ids.push(submit(&bench, request("job.a")).await.id.clone());
        }
        pass(SWEPT).await;
        let asked = kernel.asked();
        moves(&bench, &kernel, "script-2").await;
        kernel.say(answer);
        pass(SWEPT).await;
        for id in &ids {
            let job = bench.job(id).await;
            assert_eq!(
                (job.state, job.approvals[0].state),
                (state, approval),
                "{answer:?}"
            );
            assert_eq!(job.approvals.len(), 1);
            assert_eq!(job.decision.as_ref().unwrap().policy_snapshot, "script-2");
        }
        // Once each, and never again.
        pass(secs(30)).await;
        assert_eq!(kernel.asked() - asked, 120);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sweep_goes_on_after_a_crash_and_after_trouble_and_is_not_fast() {
    let (mut bench, kernel) = asking(ApprovalTerms::default()).await;
    for _ in 0..400 {
        submit(&bench, request("job.a")).await;
    }
    pass(SWEPT).await;
    let asked = kernel.asked();
    moves(&bench, &kernel, "script-2").await;
    kernel.say(Answer::Trouble);
    pass(secs(2)).await;
    kernel.say(Answer::Allow);
    let before = kernel.asked();
    assert!(before > asked);
    pass(secs(6)).await;
    bench.crash().await;
    pass(secs(30)).await;
    let audit = bench.audit().await;
    assert_eq!(audit.members.get("pending-approvals"), Some(&0));
    assert!(audit.jobs.iter().all(|job| job.state == JobState::Pending));

    // A thousand take two seconds at least.
    let (bench, kernel) = asking(ApprovalTerms::default()).await;
    for _ in 0..1_000 {
        submit(&bench, request("job.a")).await;
    }
    pass(SWEPT).await;
    let asked = kernel.asked();
    moves(&bench, &kernel, "script-2").await;
    let mut most = 0;
    for _ in 0..5 {
        let before = kernel.asked();
        pass(secs(1)).await;
        most = most.max(kernel.asked() - before);
    }
    assert!(most <= 500, "{most} in a second");
    assert_eq!(kernel.asked() - asked, 1_000);
}

#[tokio::test(start_paused = true)]
async fn a_claim_under_another_rule_asks_again_and_one_grant_after_another_is_kept() {
    let (bench, kernel) = asking(ApprovalTerms::default()).await;
    let job = submit(&bench, request("job.a")).await;
    let first = approval_of(&bench, &job.id).await;
    approves(&bench, "ann", &first).await.unwrap();
    moves(&bench, &kernel, "script-2").await;
    kernel.ask("rule-2", ApprovalTerms::default());
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    worker.quiet(secs(3)).await;
    let second = approval_of(&bench, &job.id).await;
    assert!(second.is_pending() && second.rule_id == "rule-2");
    // The first was given, and stays that.
    let states: Vec<_> = bench
        .job(&job.id)
        .await
        .approvals
        .iter()
        .map(|one| one.state)
        .collect();
    assert_eq!(states, [ApprovalState::Approved, ApprovalState::Pending]);
    // The first rule again: what was granted then is good now.
    moves(&bench, &kernel, "script-3").await;
    kernel.ask("rule-1", ApprovalTerms::default());
    pass(SWEPT).await;
    let attempt = worker.assignment().await;
    assert_eq!(attempt.job_id, job.id);
    let job = bench.job(&job.id).await;
    let decision = job.decision.as_ref().unwrap();
    assert_eq!(decision.approval_id, first.id.as_str());
    assert_eq!(job.approvals[1].state, ApprovalState::Withdrawn);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_approved_keeps_to_rates_and_limits() {
    let (bench, kernel) = asking(ApprovalTerms::default()).await;
    kernel.limit(vec![RateTaken {
        bucket: "bundle/slow".to_owned(),
        rate: Rate {
            permits: 1,
            per: secs(10),
            burst: 1,
        },
    }]);
    let mut worker = bench.connect(hello("w", &["job.a"], 4)).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        let job = submit(&bench, request("job.a")).await;
        // Who only waits takes nothing from a rate.
        let decision = job.decision.as_ref().unwrap();
        assert_eq!(decision.decision, Decision::RequireApproval);
        ids.push(job.id.clone());
    }
    let mut states = Vec::new();
    for id in &ids {
        let approval = approval_of(&bench, id).await;
        let resolved = approves(&bench, "ann", &approval).await.unwrap();
        states.push(resolved.job.job.state);
        assert_eq!(resolved.answer.approval.state, ApprovalState::Approved);
    }
    assert_eq!(
        states,
        [JobState::Pending, JobState::Scheduled, JobState::Scheduled]
    );
    worker.assignment().await;
    worker.quiet(secs(8)).await;
    pass(secs(3)).await;
    let second = worker.assignment().await;
    let decision = bench.job(&second.job_id).await.decision.clone().unwrap();
    assert_eq!(decision.decision, Decision::Allow);
    assert_eq!(decision.taken, ["bundle/slow"]);
    assert!(!decision.approval_id.is_empty());
    pass(secs(11)).await;
    worker.assignment().await;
    let none: Option<Constraints> = None;
    assert_eq!(decision.constraints, none);
    bench.audit().await;
}
