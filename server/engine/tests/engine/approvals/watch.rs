//! Watches of approvals miss nothing, tell nobody else's, and go on where they were.

use coretex_core::approval::{ApprovalState, ApprovalVerdict};
use coretex_core::policy::terms::{ApprovalTerms, OnExpire};
use coretex_engine::{
    ApprovalEventKind, ApprovalFilter, ApprovalWatchItem, Caller, Error, PageRequest, Result, Role,
};
use tokio::sync::mpsc::Receiver;

use super::{approval_of, approver, approves, asking, resolves, submit, submitter};
use crate::support::{ADMIN, Bench, caller, pass, request, secs};

type Stream = Receiver<Result<ApprovalWatchItem>>;

async fn watch(
    bench: &Bench,
    who: &Caller,
    filter: ApprovalFilter,
    token: &str,
) -> (Stream, String) {
    let mut stream = bench
        .engine
        .watch_approvals(who, &filter, token)
        .await
        .unwrap();
    match stream.recv().await {
        Some(Ok(ApprovalWatchItem::Checkpoint { resume_token })) => (stream, resume_token),
        other => panic!("no checkpoint: {other:?}"),
    }
}

/// What was told: kind and state, and the last token.
async fn told(stream: &mut Stream) -> (Vec<(ApprovalEventKind, ApprovalState)>, String) {
    pass(secs(3)).await;
    let (mut events, mut token) = (Vec::new(), String::new());
    while let Ok(item) = stream.try_recv() {
        match item.unwrap() {
            ApprovalWatchItem::Event {
                event,
                answer,
                resume_token,
            } => {
                assert_eq!(answer.approval.id, event.approval_id);
                events.push((event.kind, event.state));
                token = resume_token;
            }
            ApprovalWatchItem::Checkpoint { .. } => panic!("a second checkpoint"),
        }
    }
    (events, token)
}

#[tokio::test(start_paused = true)]
async fn a_life_is_told_in_order_and_again_from_anywhere() {
    use ApprovalEventKind as K;
    use ApprovalState as S;
    let terms = ApprovalTerms {
        required: 2,
        expires_after: Some(secs(100)),
        on_expire: OnExpire::Escalate,
        escalate_to: vec!["operator".to_owned()],
        ..ApprovalTerms::default()
    };
    let (bench, kernel) = asking(terms).await;
    let all = ApprovalFilter::default;
    let (mut stream, start) = watch(&bench, &approver("ann"), all(), "").await;
    let job = submit(&bench, request("job.a")).await;
    let approval = approval_of(&bench, &job.id).await;
    approves(&bench, "ann", &approval).await.unwrap();
    let (first, middle) = told(&mut stream).await;
    bench.enforce("script-2").await;
    kernel.publish("script-2");
    pass(secs(100)).await;
    kernel.ask("rule-2", ApprovalTerms::default());
    approves(&bench, "bob", &approval).await.unwrap();
    let second = approval_of(&bench, &job.id).await;
    resolves(&bench, "bob", &second, ApprovalVerdict::Reject)
        .await
        .unwrap();
    let (rest, _) = told(&mut stream).await;
    let should = [
        (K::Requested, S::Pending),
        (K::Voted, S::Pending),
        (K::Renewed, S::Pending),
        (K::Escalated, S::Pending),
        (K::Resolved, S::Withdrawn),
        (K::Requested, S::Pending),
        (K::Resolved, S::Rejected),
    ];
    assert_eq!([first, rest.clone()].concat(), should);
    let (mut again, _) = watch(&bench, &ADMIN, all(), &start).await;
    assert_eq!(told(&mut again).await.0, should);
    let (mut again, _) = watch(&bench, &ADMIN, all(), &middle).await;
    assert_eq!(told(&mut again).await.0, rest);
    let pending = ApprovalFilter {
        states: vec![S::Pending],
        ..all()
    };
    let (mut asked, _) = watch(&bench, &ADMIN, pending, &start).await;
    let kinds: Vec<_> = told(&mut asked)
        .await
        .0
        .into_iter()
        .map(|(kind, _)| kind)
        .collect();
    let should = [
        K::Requested,
        K::Voted,
        K::Renewed,
        K::Escalated,
        K::Requested,
    ];
    assert_eq!(kinds, should);
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_a_list_misses_nothing_and_shows_nobody_elses() {
    let (bench, _) = asking(ApprovalTerms::default()).await;
    submit(&bench, request("job.a")).await;
    let page = PageRequest {
        size: 10,
        token: String::new(),
    };
    let all = ApprovalFilter::default;
    let listed = bench
        .engine
        .list_approvals(&ADMIN, &all(), page)
        .await
        .unwrap();
    submit(&bench, request("job.b")).await;
    let token = &listed.resume_token;
    for (who, count) in [
        (approver("ann"), 1),
        (submitter("sam"), 1),
        (submitter("tom"), 0),
        (caller("other", "key:admin", &[Role::Admin]), 0),
    ] {
        let (mut stream, _) = watch(&bench, &who, all(), token).await;
        assert_eq!(told(&mut stream).await.0.len(), count, "{who:?}");
    }
    for bad in ["nonsense", "dzEAAAAAAAAAAA"] {
        let found = bench.engine.watch_approvals(&ADMIN, &all(), bad).await;
        assert!(matches!(found, Err(Error::ResumeTokenInvalid)), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_is_cut() {
    let (bench, _) = asking(ApprovalTerms::default()).await;
    let all = ApprovalFilter::default();
    let (mut stream, _) = watch(&bench, &ADMIN, all, "").await;
    for _ in 0..100 {
        submit(&bench, request("job.a")).await;
    }
    pass(secs(30)).await;
    let mut last = None;
    while let Some(item) = stream.recv().await {
        last = Some(item);
    }
    assert!(matches!(last, Some(Err(Error::WatchTooSlow))));
}
