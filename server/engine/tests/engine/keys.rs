//! Lives of API keys: their order in lists, what ends with them, and how long they are remembered.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use coretex_engine::{
    ApiKey, Caller, Error, JobFilter, NewApiKey, PageRequest, Role, SessionEnd, WatchItem,
    WatchTarget,
};
use coretex_store::{Batch, CommitId, Order, Range, Shard, Store};
use tokio::sync::mpsc;

use crate::support::{ADMIN, Bench, Setup, Worker, admin, hello, jump, millis, pass, secs};

const DAY: Duration = secs(24 * 3_600);

fn new(roles: &[Role]) -> NewApiKey {
    NewApiKey {
        display_name: "a key".to_owned(),
        tenant: None,
        roles: roles.iter().copied().collect(),
        team_ids: BTreeSet::new(),
        tenants_served: BTreeSet::new(),
        expire_time: None,
    }
}

async fn make(bench: &Bench, new: NewApiKey) -> (ApiKey, String) {
    let made = bench.engine.create_api_key(&ADMIN, new).await;
    made.unwrap()
}

async fn list(bench: &Bench, size: usize, inactive: bool) -> Vec<ApiKey> {
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = PageRequest { size, token };
        let listed = bench.engine.list_api_keys(&ADMIN, page, inactive).await;
        let (keys, next) = listed.unwrap();
        assert!(keys.len() <= size);
        found.extend(keys);
        token = next;
        if token.is_empty() {
            return found;
        }
    }
}

fn ids(keys: &[ApiKey]) -> Vec<&str> {
    keys.iter().map(|key| &*key.key_id).collect()
}

#[tokio::test(start_paused = true)]
async fn keys_are_listed_newest_first_and_useless_ones_on_request() {
    let bench = Bench::new().await;
    let mut made = Vec::new();
    for number in 0..12_u64 {
        let mut wanted = new(&[Role::Viewer]);
        if number % 3 == 1 {
            wanted.expire_time = Some(bench.now() + secs(60));
        }
        made.push(make(&bench, wanted).await.0);
        pass(secs(1)).await;
    }
    for number in [2, 5] {
        let id = &made[number].key_id;
        bench.engine.revoke_api_key(&ADMIN, id).await.unwrap();
    }
    pass(secs(60)).await;
    made.reverse();
    let useful: Vec<ApiKey> = made
        .iter()
        .filter(|key| key.expire_time.is_none())
        .filter(|key| ![&made[9].key_id, &made[6].key_id].contains(&&key.key_id))
        .cloned()
        .collect();
    assert_eq!(useful.len(), 6);
    for size in [1, 2, 5, 100] {
        let (all, some) = (
            list(&bench, size, true).await,
            list(&bench, size, false).await,
        );
        assert_eq!(ids(&all), ids(&made), "{size}");
        assert_eq!(ids(&some), ids(&useful), "{size}");
        let revoked = all.iter().filter(|key| key.revoke_time.is_some()).count();
        assert_eq!(revoked, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_useless_key_is_forgotten_after_a_month() {
    let bench = Bench::new().await;
    let (kept, _) = make(&bench, new(&[Role::Viewer])).await;
    let expiring = NewApiKey {
        expire_time: Some(bench.now() + DAY),
        ..new(&[Role::Viewer])
    };
    let (expiring, _) = make(&bench, expiring).await;
    let (revoked, _) = make(&bench, new(&[Role::Viewer])).await;
    bench
        .engine
        .revoke_api_key(&ADMIN, &revoked.key_id)
        .await
        .unwrap();
    jump(29 * DAY).await;
    assert_eq!(list(&bench, 10, true).await.len(), 3);
    jump(DAY + secs(3_600)).await;
    let left = list(&bench, 10, true).await;
    assert_eq!(left.len(), 2, "{left:?}");
    let again = bench.engine.revoke_api_key(&ADMIN, &revoked.key_id).await;
    assert!(matches!(again, Err(Error::NotFound { .. })));
    jump(DAY + secs(3_600)).await;
    let left = list(&bench, 10, true).await;
    assert_eq!(ids(&left), [&kept.key_id], "{}", expiring.key_id);
}

#[tokio::test(start_paused = true)]
async fn the_first_admin_key_is_made_again_when_no_key_is_left_that_works() {
    let bench = Bench::new().await;
    bench.engine.ensure_admin_key().await.unwrap().unwrap();
    assert_eq!(bench.engine.ensure_admin_key().await.unwrap(), None);
    let owner = Caller {
        system: true,
        ..admin()
    };
    let owner = Caller {
        tenant: coretex_core::id::TenantId::parse("default").unwrap(),
        ..owner
    };
    let page = PageRequest {
        size: 10,
        token: String::new(),
    };
    let (keys, _) = bench
        .engine
        .list_api_keys(&owner, page, false)
        .await
        .unwrap();
    let revoke = bench.engine.revoke_api_key(&owner, &keys[0].key_id);
    revoke.await.unwrap();
    let another = bench.engine.ensure_admin_key().await.unwrap().unwrap();
    bench.engine.authenticate(&another).await.unwrap();
}

/// Keys of builds that kept no times in their index are found by this one.
#[tokio::test(start_paused = true)]
async fn keys_of_the_old_index_are_taken_over() {
    let mut bench = Bench::new().await;
    let mut made = Vec::new();
    for _ in 0..3 {
        made.push(make(&bench, new(&[Role::Viewer])).await.0);
        pass(millis(1)).await;
    }
    bench.kill();
    let all = Range::all("keys-by-time");
    let read = bench
        .base
        .range(Shard::Sys, &[all], 10, Order::Ascending)
        .await;
    for (number, member) in (1..).zip(read.unwrap().value.remove(0)) {
        let id = &member[member.len() - 16..];
        let name = Bytes::from([b"key/", id].concat());
        let record = bench.base.get(Shard::Sys, &[name.clone()]).await.unwrap();
        let record = record.value[0].clone().unwrap();
        let mut batch = Batch::new(Shard::Sys, CommitId(number));
        batch.replace(name, record.version, record.value);
        batch.add("keys".into(), [b"acme\0", id].concat().into());
        batch.remove("keys-by-time".into(), member);
        bench.base.commit(batch).await.unwrap();
    }
    bench.crash().await;
    made.reverse();
    assert_eq!(ids(&list(&bench, 10, false).await), ids(&made));
    let old = bench.base.count(Shard::Sys, &Range::all("keys"), 10).await;
    assert_eq!(old.unwrap().value, 0);
}

type Watch = mpsc::Receiver<coretex_engine::Result<WatchItem>>;

/// A session and a watch, opened with `secret`.
async fn streams(bench: &Bench, secret: &str) -> (Worker, Watch) {
    let who = bench.engine.authenticate(secret).await.unwrap();
    let worker = Worker::connect_as(&bench.engine, &who, hello("w", &["job.a"], 1)).await;
    let target = WatchTarget::Filter(JobFilter::default());
    let watch = bench.engine.watch_jobs(&who, target, String::new(), false);
    let mut watch = watch.await.unwrap();
    assert!(watch.recv().await.unwrap().is_ok(), "the checkpoint");
    (worker, watch)
}

/// Both have ended for want of a credential, within `patience`.
async fn end(streams: (Worker, Watch), patience: Duration) {
    let (mut worker, mut watch) = streams;
    let told = tokio::time::timeout(patience, watch.recv()).await.unwrap();
    assert_eq!(told.unwrap().err(), Some(Error::CredentialInvalid));
    assert!(worker.is_closed(millis(1)).await);
    let why = worker.session.why_ended();
    assert_eq!(why, Some(SessionEnd::CredentialInvalid));
}

#[tokio::test(start_paused = true)]
async fn sessions_and_watches_end_with_the_key_that_opened_them() {
    let bench = Bench::with(Setup {
        exclusive: false,
        ..Setup::default()
    })
    .await;
    let (elsewhere, _tap) = bench.another().await.unwrap();
    let roles = [Role::Worker, Role::Viewer];
    let (_, lasting) = make(&bench, new(&roles)).await;
    let (here, here_secret) = make(&bench, new(&roles)).await;
    let (there, there_secret) = make(&bench, new(&roles)).await;
    let expiring = NewApiKey {
        expire_time: Some(bench.now() + secs(30)),
        ..new(&roles)
    };
    let (_, expiring) = make(&bench, expiring).await;
    let mut others = streams(&bench, &lasting).await;
    let of_here = streams(&bench, &here_secret).await;
    let of_there = streams(&bench, &there_secret).await;
    let of_expiring = streams(&bench, &expiring).await;

    let revoked = bench.engine.revoke_api_key(&ADMIN, &here.key_id).await;
    revoked.unwrap();
    end(of_here, millis(1)).await;
    let revoked = elsewhere.revoke_api_key(&ADMIN, &there.key_id).await;
    revoked.unwrap();
    end(of_there, secs(10)).await;
    let mut of_expiring = of_expiring;
    of_expiring.0.beat_for(secs(15)).await;
    assert!(of_expiring.1.try_recv().is_err(), "not before its time");
    pass(secs(10)).await;
    end(of_expiring, secs(10)).await;
    others.0.beat().await;
    assert!(others.1.try_recv().is_err());
    elsewhere.drain(Duration::ZERO).await;
}
