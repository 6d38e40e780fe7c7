//! Every step fails, or has an unknown outcome: there is no half of an approval.

use coretex_core::approval::ApprovalState;
use coretex_core::job::JobState;
use coretex_core::policy::terms::ApprovalTerms;
use coretex_engine::Error;
use coretex_store::CommitError;
use coretex_store::layers::Fault;

use super::{approval_of, approves, asking_on, submit, submitter, vote};
use crate::support::{ADMIN, Setup, millis, pass, request, secs};

#[tokio::test(start_paused = true)]
async fn a_step_that_fails_has_done_nothing_or_everything() {
    let unavailable = || {
        Fault::Before(CommitError::Unavailable {
            reason: "away".to_owned(),
        })
    };
    for fault in [unavailable(), Fault::After, Fault::Late(millis(300))] {
        for resend in [true, false] {
            let setup = Setup {
                resend,
                ..Setup::default()
            };
            let (bench, _) = asking_on(ApprovalTerms::default(), setup).await;
            pass(secs(2)).await;
            // Asking for it.
            bench.faulty.script([fault.clone()]);
            let named = crate::support::named("job.a", "j");
            let submitted = bench
                .engine
                .submit_job(&submitter("sam"), named.clone())
                .await;
            pass(secs(1)).await;
            bench.audit().await;
            if submitted.is_err() {
                let again = bench.engine.submit_job(&submitter("sam"), named).await;
                assert_eq!(again.unwrap().answer.job.state, JobState::ApprovalRequired);
            }
            let job = bench.job(&crate::support::id("j")).await;
            assert_eq!(job.approvals.len(), 1);
            // Giving it.
            let approval = approval_of(&bench, &job.id).await;
            bench.faulty.script([fault.clone()]);
            let resolved = approves(&bench, "ann", &approval).await;
            bench.audit().await;
            if let Err(error) = resolved {
                let told = matches!(error, Error::Unavailable { .. } | Error::OutcomeUnknown);
                assert!(told, "{error:?}");
                let again = approves(&bench, "ann", &approval).await.unwrap();
                assert_eq!(again.replayed, fault == Fault::After);
            }
            let after = bench.job(&job.id).await;
            assert_eq!(after.state, JobState::Pending);
            assert_eq!(after.approvals[0].votes.len(), 1);
            // Withdrawing one.
            let other = submit(&bench, request("job.b")).await;
            bench.faulty.script([fault.clone()]);
            let cancel = || {
                bench
                    .engine
                    .cancel_job(&ADMIN, &other.id, String::new(), None, false)
            };
            if cancel().await.is_err() {
                cancel().await.unwrap();
            }
            let approval = approval_of(&bench, &other.id).await;
            assert_eq!(approval.state, ApprovalState::Withdrawn);
            bench.audit().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_vote_and_a_cancel_at_once_leave_one_of_both() {
    for delay in 0..6 {
        let (bench, _) = asking_on(ApprovalTerms::default(), Setup::default()).await;
        let job = submit(&bench, request("job.a")).await;
        let approval = approval_of(&bench, &job.id).await;
        bench
            .faulty
            .script([Fault::Delay(millis(delay * 10)), Fault::Delay(millis(20))]);
        let cancel = bench
            .engine
            .cancel_job(&ADMIN, &job.id, String::new(), None, false);
        let (voted, cancelled) = tokio::join!(approves(&bench, "ann", &approval), cancel);
        cancelled.unwrap();
        let after = bench.job(&job.id).await;
        assert_eq!(after.state, JobState::Cancelled);
        let should = match voted {
            Ok(_) => ApprovalState::Approved,
            Err(_) => ApprovalState::Withdrawn,
        };
        assert_eq!(after.approvals[0].state, should);
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_vote_and_the_end_of_its_time_at_once_leave_one_of_both() {
    let terms = ApprovalTerms {
        expires_after: Some(secs(10)),
        ..ApprovalTerms::default()
    };
    for early in 0..6 {
        let (bench, _) = asking_on(terms.clone(), Setup::default()).await;
        let job = submit(&bench, request("job.a")).await;
        let approval = approval_of(&bench, &job.id).await;
        pass(millis(10_000 - 20 + early * 8)).await;
        bench.faulty.script([Fault::Delay(millis(15))]);
        let engine = &bench.engine;
        let ballot = vote(&approval, coretex_core::approval::ApprovalVerdict::Approve);
        let voted = engine
            .resolve_approval(&super::approver("ann"), ballot)
            .await;
        pass(secs(5)).await;
        let after = bench.job(&job.id).await;
        let (state, should) = match voted {
            Ok(_) => (JobState::Pending, ApprovalState::Approved),
            Err(_) => (JobState::Denied, ApprovalState::Expired),
        };
        assert_eq!((after.state, after.approvals[0].state), (state, should));
        bench.audit().await;
    }
}
