//! Lists of approvals: filters, pages, and for whose eyes they are.

use coretex_core::approval::{ApprovalState, ApprovalVerdict};
use coretex_core::id::JobId;
use coretex_core::policy::terms::ApprovalTerms;
use coretex_engine::{ApprovalFilter, Caller, Error, PageRequest, Role};

use super::{approval_of, approver, approves, asking, resolves, submit, submitter};
use crate::support::{ADMIN, Bench, caller, millis, pass, request, topic};

async fn listed(bench: &Bench, who: &Caller, filter: &ApprovalFilter, size: usize) -> Vec<JobId> {
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = PageRequest { size, token };
        let page = bench
            .engine
            .list_approvals(who, filter, page)
            .await
            .unwrap();
        assert!(page.approvals.len() <= size);
        found.extend(page.approvals.iter().map(|one| one.job.id.clone()));
        token = page.next_page_token;
        if token.is_empty() {
            return found;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_found_once_and_newest_first() {
    let (bench, kernel) = asking(ApprovalTerms::default()).await;
    let mut ids = Vec::new();
    for number in 0..60 {
        kernel.ask(
            if number % 4 == 0 { "rule-4" } else { "rule-1" },
            ApprovalTerms::default(),
        );
        let topic = ["job.a", "job.b", "job.c"][number % 3];
        ids.push(submit(&bench, request(topic)).await.id.clone());
        pass(millis(2)).await;
    }
    let other = caller("other", "key:sam", &[Role::Admin]);
    bench
        .engine
        .submit_job(&other, request("job.a"))
        .await
        .unwrap();
    for (number, id) in ids.iter().enumerate() {
        let approval = approval_of(&bench, id).await;
        match number % 5 {
            0 => drop(
                resolves(&bench, "ann", &approval, ApprovalVerdict::Reject)
                    .await
                    .unwrap(),
            ),
            1 => {
                kernel.ask(&approval.rule_id, ApprovalTerms::default());
                drop(approves(&bench, "ann", &approval).await.unwrap());
            }
            2 => {
                let reason = String::new();
                let cancelled = bench
                    .engine
                    .cancel_job(&ADMIN, id, reason, None, false)
                    .await;
                drop(cancelled.unwrap());
            }
            _ => {}
        }
    }
    let state = |number: usize| match number % 5 {
        0 => ApprovalState::Rejected,
        1 => ApprovalState::Approved,
        2 => ApprovalState::Withdrawn,
        _ => ApprovalState::Pending,
    };
    type Case = (ApprovalFilter, Box<dyn Fn(usize) -> bool>);
    let cases: Vec<Case> = vec![
        (ApprovalFilter::default(), Box::new(|_| true)),
        (
            ApprovalFilter {
                states: vec![ApprovalState::Pending],
                ..ApprovalFilter::default()
            },
            Box::new(move |number| state(number) == ApprovalState::Pending),
        ),
        (
            ApprovalFilter {
                states: vec![ApprovalState::Pending, ApprovalState::Rejected],
                topics: vec![topic("job.a"), topic("job.c")],
                ..ApprovalFilter::default()
            },
            Box::new(move |number| {
                let states = [ApprovalState::Pending, ApprovalState::Rejected];
                number % 3 != 1 && states.contains(&state(number))
            }),
        ),
        (
            ApprovalFilter {
                rule_id: "rule-4".to_owned(),
                ..ApprovalFilter::default()
            },
            Box::new(|number| number % 4 == 0),
        ),
        (
            ApprovalFilter {
                job_id: Some(ids[7].clone()),
                ..ApprovalFilter::default()
            },
            Box::new(|number| number == 7),
        ),
        (
            ApprovalFilter {
                requested_by: "key:nobody".to_owned(),
                ..ApprovalFilter::default()
            },
            Box::new(|_| false),
        ),
    ];
    for (filter, wanted) in cases {
        let should: Vec<_> = (0..ids.len())
            .rev()
            .filter(|number| wanted(*number))
            .collect();
        let should: Vec<_> = should
            .into_iter()
            .map(|number| ids[number].clone())
            .collect();
        for size in [1, 7, 100] {
            let found = listed(&bench, &approver("ann"), &filter, size).await;
            assert_eq!(found, should, "{filter:?} by {size}");
        }
    }
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn who_submits_sees_the_approvals_of_his_own_jobs() {
    let (bench, _) = asking(ApprovalTerms::default()).await;
    let own = submit(&bench, request("job.a")).await;
    let theirs = bench
        .engine
        .submit_job(&submitter("tom"), request("job.a"))
        .await;
    let theirs = theirs.unwrap().answer.job;
    let all = ApprovalFilter::default();
    let sam = submitter("sam");
    assert_eq!(
        listed(&bench, &sam, &all, 10).await,
        std::slice::from_ref(&own.id)
    );
    let named = ApprovalFilter {
        job_id: Some(theirs.id.clone()),
        ..ApprovalFilter::default()
    };
    assert!(listed(&bench, &sam, &named, 10).await.is_empty());
    let asked = ApprovalFilter {
        requested_by: "key:tom".to_owned(),
        ..ApprovalFilter::default()
    };
    assert!(listed(&bench, &sam, &asked, 10).await.is_empty());
    let hidden = bench
        .engine
        .get_approval(&sam, &theirs.approvals[0].id, true)
        .await;
    assert!(matches!(hidden, Err(Error::NotFound { .. })));
    let own = bench
        .engine
        .get_approval(&sam, &own.approvals[0].id, true)
        .await;
    assert!(own.is_ok());
    let stranger = caller("other", "key:x", &[Role::Admin]);
    assert!(listed(&bench, &stranger, &all, 10).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_token_is_for_its_own_list() {
    let (bench, _) = asking(ApprovalTerms::default()).await;
    for _ in 0..3 {
        submit(&bench, request("job.a")).await;
    }
    let page = |filter: ApprovalFilter, token: String| {
        let engine = bench.engine.clone();
        async move {
            let page = PageRequest { size: 1, token };
            engine.list_approvals(&approver("ann"), &filter, page).await
        }
    };
    let first = page(ApprovalFilter::default(), String::new())
        .await
        .unwrap();
    let other = ApprovalFilter {
        states: vec![ApprovalState::Pending],
        ..ApprovalFilter::default()
    };
    for (filter, token) in [
        (other, first.next_page_token.clone()),
        (ApprovalFilter::default(), "nonsense".to_owned()),
        (ApprovalFilter::default(), first.resume_token.clone()),
    ] {
        let found = page(filter, token).await;
        assert_eq!(found.err(), Some(Error::PageTokenInvalid));
    }
}
