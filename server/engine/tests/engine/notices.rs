//! Notices reach every endpoint that wants them at least once, whatever fails, and end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use coretex_core::approval::{ApprovalState, ApprovalVerdict};
use coretex_core::id::TenantId;
use coretex_core::policy::terms::ApprovalTerms;
use coretex_engine::{ApprovalEventKind, Endpoint, Notice, Notifier, Role};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::approvals::{approval_of, approves, asking, resolves, submit};
use crate::support::{Bench, caller, pass, request, secs};

/// What an endpoint was told: its name, the id, what, how the approval stood, when.
type Told = (String, String, ApprovalEventKind, ApprovalState, Instant);

#[derive(Debug)]
struct Ear {
    endpoints: Vec<Endpoint>,
    deaf: AtomicBool,
    told: Mutex<Vec<Told>>,
}

impl Ear {
    fn new(endpoints: Vec<Endpoint>) -> Arc<Self> {
        Arc::new(Self {
            endpoints,
            deaf: AtomicBool::new(false),
            told: Mutex::default(),
        })
    }

    fn kinds(&self, endpoint: &str) -> Vec<ApprovalEventKind> {
        let told = self.told.lock();
        let own = told.iter().filter(|(name, ..)| name == endpoint);
        own.map(|(_, _, kind, ..)| *kind).collect()
    }
}

#[async_trait]
impl Notifier for Ear {
    fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    async fn deliver(&self, endpoint: &str, notice: &Notice) -> Result<(), String> {
        let event = &notice.event;
        assert_eq!(notice.answer.approval.id, event.approval_id);
        self.told.lock().push((
            endpoint.to_owned(),
            notice.id.clone(),
            event.kind,
            event.state,
            Instant::now(),
        ));
        match self.deaf.load(Ordering::Relaxed) {
            true => Err("deaf".to_owned()),
            false => Ok(()),
        }
    }
}

fn endpoint(name: &str) -> Endpoint {
    Endpoint {
        name: name.to_owned(),
        ..Endpoint::default()
    }
}

async fn listening(ear: &Arc<Ear>) -> Bench {
    let (bench, _) = asking(ApprovalTerms::default()).await;
    bench.engine.notify_by(Arc::clone(ear) as Arc<dyn Notifier>);
    pass(secs(2)).await;
    bench
}

#[tokio::test(start_paused = true)]
async fn each_endpoint_is_told_what_it_wants() {
    use ApprovalEventKind as K;
    let ear = Ear::new(vec![
        endpoint("all"),
        Endpoint {
            kinds: vec![K::Resolved],
            ..endpoint("ends")
        },
        Endpoint {
            tenants: vec![TenantId::parse("other").unwrap()],
            ..endpoint("others")
        },
    ]);
    let bench = listening(&ear).await;
    let job = submit(&bench, request("job.a")).await;
    pass(secs(1)).await;
    assert_eq!(ear.kinds("all"), [K::Requested]);
    let approval = approval_of(&bench, &job.id).await;
    approves(&bench, "ann", &approval).await.unwrap();
    let stranger = caller("other", "key:x", &[Role::Admin]);
    bench
        .engine
        .submit_job(&stranger, request("job.a"))
        .await
        .unwrap();
    pass(secs(5)).await;
    assert_eq!(ear.kinds("all"), [K::Requested, K::Resolved, K::Requested]);
    assert_eq!(ear.kinds("ends"), [K::Resolved]);
    assert_eq!(ear.kinds("others"), [K::Requested]);
    // Every notice has an id of its own, also at each endpoint.
    let mut ids: Vec<_> = ear.told.lock().iter().map(|told| told.1.clone()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 5);
    let audit = bench.audit().await;
    assert_eq!(audit.records.get("notices"), Some(&4));
}

#[tokio::test(start_paused = true)]
async fn a_deaf_endpoint_is_tried_less_and_less_often_for_an_hour() {
    let ear = Ear::new(vec![endpoint("e")]);
    let bench = listening(&ear).await;
    ear.deaf.store(true, Ordering::Relaxed);
    let job = submit(&bench, request("job.a")).await;
    pass(secs(3_600)).await;
    let times: Vec<Instant> = ear.told.lock().iter().map(|told| told.4).collect();
    assert!((15..=40).contains(&times.len()), "{} tries", times.len());
    let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.iter().all(|pause| *pause <= secs(380)), "{pauses:?}");
    let ids: std::collections::BTreeSet<_> =
        ear.told.lock().iter().map(|told| told.1.clone()).collect();
    assert_eq!(ids.len(), 1, "the same notice has the same id");
    // Given up: it hears of what comes later, and not of this any more.
    pass(secs(1_000)).await;
    let count = ear.told.lock().len();
    ear.deaf.store(false, Ordering::Relaxed);
    pass(secs(1_000)).await;
    assert_eq!(ear.told.lock().len(), count);
    let approval = approval_of(&bench, &job.id).await;
    resolves(&bench, "ann", &approval, ApprovalVerdict::Reject)
        .await
        .unwrap();
    pass(secs(3)).await;
    assert_eq!(ear.told.lock().len(), count + 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_lost_with_a_server_and_nothing_repeated_without_end() {
    let ear = Ear::new(vec![endpoint("e")]);
    let mut bench = listening(&ear).await;
    ear.deaf.store(true, Ordering::Relaxed);
    submit(&bench, request("job.a")).await;
    pass(secs(3)).await;
    bench.crash().await;
    // While nobody listened.
    submit(&bench, request("job.b")).await;
    pass(secs(20)).await;
    ear.told.lock().clear();
    ear.deaf.store(false, Ordering::Relaxed);
    bench
        .engine
        .notify_by(Arc::clone(&ear) as Arc<dyn Notifier>);
    pass(secs(40)).await;
    assert_eq!(ear.kinds("e").len(), 2);
    bench.crash().await;
    bench
        .engine
        .notify_by(Arc::clone(&ear) as Arc<dyn Notifier>);
    pass(secs(60)).await;
    assert_eq!(ear.kinds("e").len(), 2, "what was told is not told again");
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn only_the_owner_of_the_shard_tells() {
    let ear = Ear::new(vec![endpoint("e")]);
    let bench = listening(&ear).await;
    let (other, _tap) = bench.another().await.unwrap();
    other.notify_by(Arc::clone(&ear) as Arc<dyn Notifier>);
    pass(secs(5)).await;
    for _ in 0..20 {
        submit(&bench, request("job.a")).await;
    }
    pass(secs(10)).await;
    assert_eq!(ear.kinds("e").len(), 20);
}
