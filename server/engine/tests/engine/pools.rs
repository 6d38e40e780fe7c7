//! Pools of the table: listed without workers, too, to the tenants that may use them.

use std::collections::BTreeMap;

use coretex_core::id::{PoolName, TenantId};
use coretex_core::routing::pattern::TopicPattern;
use coretex_core::routing::{PoolRule, Routing, TenantRule, TopicRule};
use coretex_engine::{Caller, Hello, PageRequest, PoolInfo, Role};

use crate::support::{ADMIN, Bench, caller, hello, request};

fn pool(name: &str) -> PoolName {
    PoolName::parse(name).unwrap()
}

fn tenants(names: &[&str]) -> Vec<TenantId> {
    names
        .iter()
        .map(|name| TenantId::parse(name).unwrap())
        .collect()
}

/// Topics with their pools and tenants, pools with their tenants.
fn routing(topics: &[(&str, &[&str], &[&str])], pools: &[(&str, &[&str])]) -> Routing {
    let topics = topics.iter().map(|(pattern, pools, for_tenants)| {
        let rule = TopicRule {
            pools: pools.iter().map(|name| pool(name)).collect(),
            tenants: tenants(for_tenants),
            ..TopicRule::default()
        };
        (TopicPattern::parse(pattern).unwrap(), rule)
    });
    let pools = pools.iter().map(|(name, for_tenants)| {
        let rule = PoolRule {
            tenants: tenants(for_tenants),
            ..PoolRule::default()
        };
        (pool(name), rule)
    });
    let none = BTreeMap::new();
    Routing::new(
        topics.collect(),
        pools.collect(),
        none,
        TenantRule::default(),
    )
    .unwrap()
}

async fn listed(bench: &Bench, caller: &Caller, size: usize, token: &str) -> Vec<PoolInfo> {
    let page = PageRequest {
        size,
        token: token.to_owned(),
    };
    bench.engine.list_pools(caller, page).await.unwrap().0
}

/// Name, workers, patterns and waiting jobs of each.
fn brief(pools: &[PoolInfo]) -> Vec<(&str, u32, String, u64)> {
    pools
        .iter()
        .map(|found| {
            let patterns: Vec<&str> = found
                .topic_patterns
                .iter()
                .map(|one| one.as_str())
                .collect();
            (
                found.pool.as_str(),
                found.workers,
                patterns.join(" "),
                found.waiting,
            )
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn pools_of_the_table_are_listed_to_tenants_that_may_use_them() {
    let bench = Bench::new().await;
    let own = ADMIN.tenant.as_str();
    bench.engine.set_routing(routing(
        &[
            ("job.a.*", &["cpu", "gpu"], &[]),
            ("job.a.secret", &["gpu"], &["other"]),
            ("job.b", &["gpu"], &[own]),
            ("job.c", &[], &[]),
        ],
        &[
            ("cpu", &[]),
            ("gpu", &[own]),
            ("idle", &[]),
            ("vip", &["other"]),
        ],
    ));
    bench.submit(request("job.a.x")).await;
    bench.submit(request("job.a.x")).await;
    bench.submit(request("job.b")).await;
    let ours = listed(&bench, &ADMIN, 100, "").await;
    assert_eq!(
        brief(&ours),
        [
            ("cpu", 0, "job.a.*".to_owned(), 2),
            ("gpu", 0, "job.a.* job.b".to_owned(), 3),
            ("idle", 0, String::new(), 0),
        ]
    );
    assert!(
        ours.iter()
            .all(|pool| pool.topics.is_empty() && pool.capacity == 0)
    );
    // Nobody learns of pools, topics and jobs of others.
    let other = caller("other", "key:o", &[Role::Viewer]);
    let theirs = listed(&bench, &other, 100, "").await;
    assert_eq!(
        brief(&theirs),
        [
            ("cpu", 0, "job.a.*".to_owned(), 0),
            ("idle", 0, String::new(), 0),
            ("vip", 0, String::new(), 0),
        ]
    );
    // Pages go by name over both kinds.
    let second = listed(&bench, &ADMIN, 1, "cpu").await;
    assert_eq!(brief(&second), [("gpu", 0, "job.a.* job.b".to_owned(), 3)]);
}

#[tokio::test(start_paused = true)]
async fn a_pool_of_the_table_with_workers_is_listed_once() {
    let bench = Bench::new().await;
    bench
        .engine
        .set_routing(routing(&[("job.>", &["gpu"], &[])], &[("gpu", &[])]));
    let hello = Hello {
        pool: pool("gpu"),
        ..hello("w", &["job.a"], 3)
    };
    let _worker = bench.connect(hello).await;
    let found = listed(&bench, &ADMIN, 100, "").await;
    assert_eq!(brief(&found), [("gpu", 1, "job.>".to_owned(), 0)]);
    assert_eq!((found[0].topics.len(), found[0].capacity), (1, 3));
    // Without the table it is there by its worker alone.
    bench.engine.set_routing(Routing::default());
    let found = listed(&bench, &ADMIN, 100, "").await;
    assert_eq!(brief(&found), [("gpu", 1, String::new(), 0)]);
}
