//! What is kept of documents is bounded, for one document and for a tenant.

use bytes::Bytes;
use coretex_engine::{Error, Expected, MAX_CONFIG_BYTES, MAX_CONFIGS, Role};
use coretex_store::{Batch, CommitId, Shard, Store, codec};
use serde_json::json;

use super::{is_gone, org, page, put, set, team};
use crate::support::{ADMIN, Bench, caller};

#[tokio::test(start_paused = true)]
async fn what_is_kept_of_one_document_and_of_a_tenant_is_bounded() {
    let bench = Bench::new().await;
    let large = |n: usize| json!({"models": {"n": n, "text": "x".repeat(250 * 1024)}});
    for n in 0..10 {
        put(&bench, &team("t"), large(n)).await;
    }
    let page = || page(50, String::new());
    let listed = bench
        .engine
        .list_config_revisions(&ADMIN, &team("t"), page())
        .await;
    // The current one, and a mebibyte of earlier ones.
    assert_eq!(listed.unwrap().0.len(), 5);
    bench.audit().await;
    let name = team("t");
    let deleted = bench
        .engine
        .delete_config(&ADMIN, &name, &Expected::Anything);
    deleted.await.unwrap();
    let most = MAX_CONFIG_BYTES / (250 * 1024);
    let mut made = 0;
    let refused = loop {
        let name = team(&format!("t-{made}"));
        match set(&bench, &ADMIN, &name, large(made), "").await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    let Error::TooManyConfigs { .. } = refused else {
        panic!("{refused}");
    };
    // What had been deleted made room first.
    assert!(
        (most as usize - 1..=most as usize).contains(&made),
        "{made} of {most}"
    );
    is_gone(
        &bench
            .engine
            .list_config_revisions(&ADMIN, &team("t"), page())
            .await,
    );
    // What becomes smaller does not need room, and others have their own.
    let name = team("t-0");
    bench
        .engine
        .delete_config(&ADMIN, &name, &Expected::Anything)
        .await
        .unwrap();
    let beta = caller("beta", "key:b", &[Role::Admin]);
    set(&bench, &beta, &team("t"), large(0), "").await.unwrap();
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_so_many_documents_and_no_more() {
    let bench = Bench::new().await;
    put(&bench, &team("old"), json!({})).await;
    // As if there were almost as many as there may be.
    #[derive(serde::Serialize)]
    struct Usage {
        documents: u32,
        bytes: u64,
    }
    let key = Bytes::from_static(b"config-usage/acme");
    let read = bench.base.get(Shard::Sys, std::slice::from_ref(&key)).await;
    let version = read.unwrap().value[0].as_ref().unwrap().version;
    let usage = Usage {
        documents: MAX_CONFIGS - 1,
        bytes: 2,
    };
    let mut batch = Batch::new(Shard::Sys, CommitId(1));
    batch.replace(key, version, codec::encode(1, &usage).unwrap());
    bench.base.commit(batch).await.unwrap();
    put(&bench, &team("last"), json!({})).await;
    let refused = set(&bench, &ADMIN, &team("more"), json!({}), "").await;
    let Err(Error::TooManyConfigs { documents, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(documents, MAX_CONFIGS);
    // What is there is changed, what is only validated is told, and what is deleted makes room.
    put(&bench, &team("last"), json!({"models": {"n": 1}})).await;
    let (name, says) = (org(), json!({}));
    let only = bench
        .engine
        .set_config(&ADMIN, &name, &says, &Expected::Anything, true);
    assert!(matches!(only.await, Err(Error::TooManyConfigs { .. })));
    let old = team("old");
    let deleted = bench
        .engine
        .delete_config(&ADMIN, &old, &Expected::Anything);
    deleted.await.unwrap();
    set(&bench, &ADMIN, &team("more"), json!({}), "")
        .await
        .unwrap();
    let history = bench
        .engine
        .list_config_revisions(&ADMIN, &old, page(5, String::new()));
    is_gone(&history.await);
}
