//! News: replicas that look every second read only what has changed. That they find everything that
//! has changed is told by the tests of what is copied.

use bytes::Bytes;
use coretex_core::id::PoolName;
use coretex_core::pause::PauseScope;
use coretex_store::{Batch, CommitId, Shard, Store, Write};

use crate::support::{ADMIN, Bench, pass, secs};

#[tokio::test(start_paused = true)]
async fn a_replica_at_rest_reads_nothing_of_what_has_not_changed() {
    let bench = Bench::new().await;
    let reads = async || {
        pass(secs(10)).await;
        let before = bench.tap.sys_reads();
        pass(secs(20)).await;
        bench.tap.sys_reads() - before
    };
    let without = reads().await;
    for number in 0..20 {
        let scope = PauseScope {
            tenant: Some(ADMIN.tenant.clone()),
            pool: Some(PoolName::from_trusted(&format!("p-{number}"))),
            ..PauseScope::default()
        };
        let paused = bench.engine.pause_jobs(&ADMIN, scope, String::new());
        paused.await.unwrap();
    }
    assert_eq!(reads().await, without);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_follow_the_news_is_not_ready_after_five_seconds() {
    let bench = Bench::new().await;
    pass(secs(2)).await;
    let put = async |id: u128, news: &'static str, pause: Bytes| {
        let mut batch = Batch::new(Shard::Sys, CommitId(id));
        batch.create(Bytes::from(format!("news-of-test/{id}")), Bytes::new());
        for (key, value) in [("news", Bytes::from(news)), ("pause/\0\0", pause)] {
            let (key, ttl) = (Bytes::from(key), None);
            batch.writes.push(Write::Put { key, value, ttl });
        }
        batch.add(Bytes::from("paused"), Bytes::from("\0\0"));
        bench.base.commit(batch).await.unwrap();
    };
    put(1, "1", Bytes::from("what cannot be read")).await;
    pass(secs(4)).await;
    assert_eq!(bench.engine.not_ready(), None);
    pass(secs(3)).await;
    let reason = "pauses and configuration are not read";
    assert_eq!(bench.engine.not_ready().as_deref(), Some(reason));
    let pause = coretex_core::pause::Pause {
        scope: PauseScope::default(),
        reason: "all".to_owned(),
        principal_id: String::new(),
        time: bench.now(),
    };
    let readable = coretex_store::codec::encode(1, &pause).unwrap();
    put(2, "2", readable).await;
    pass(secs(2)).await;
    assert_eq!(bench.engine.not_ready(), None);
}
