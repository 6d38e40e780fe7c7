//! Lists and counts: what they hold, for jobs, workers and pools. How jobs are paged is in [`pages`],
//! who sees what in [`visibility`]; [`zoo`] has jobs of every kind to list.

mod pages;
mod visibility;
mod zoo;

use std::collections::BTreeSet;

use coretex_core::id::JobId;
use coretex_core::job::{Job, JobState};
use coretex_engine::{Caller, JobFilter, JobPage, PageRequest};

use crate::support::{ADMIN, Bench, admin, hello, pass, request, secs, topic};
use zoo::{filters, matches, zoo_bench};

async fn page(
    bench: &Bench,
    caller: &Caller,
    filter: &JobFilter,
    size: usize,
    token: &str,
) -> JobPage {
    let request = PageRequest {
        size,
        token: token.to_owned(),
    };
    bench
        .engine
        .list_jobs(caller, filter, request, false)
        .await
        .unwrap()
}

/// All pages; `between` runs after each.
async fn all<F: AsyncFnMut()>(
    bench: &Bench,
    filter: &JobFilter,
    size: usize,
    mut between: F,
) -> Vec<JobId> {
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let page = page(bench, &admin(), filter, size, &token).await;
        assert!(page.jobs.len() <= size);
        found.extend(page.jobs.iter().map(|one| one.job.id.clone()));
        token = page.next_page_token;
        if token.is_empty() {
            return found;
        }
        between().await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_filter_lists_and_counts_what_matches_newest_first() {
    let bench = zoo_bench().await;
    let audit = bench.audit().await;
    let filters = filters(&bench, &audit.jobs);
    let mut states = BTreeSet::new();
    for job in &audit.jobs {
        states.insert(job.state);
    }
    assert_eq!(states.len(), JobState::ALL.len(), "{states:?}");
    for filter in &filters {
        let mut should: Vec<&Job> = audit
            .jobs
            .iter()
            .filter(|job| matches(filter, job))
            .collect();
        should.sort_by(|a, b| (b.create_time, &b.id).cmp(&(a.create_time, &a.id)));
        let should: Vec<JobId> = should.into_iter().map(|job| job.id.clone()).collect();
        for size in [1, 3, 1_000] {
            let found = all(&bench, filter, size, async || {}).await;
            assert_eq!(found, should, "pages of {size}: {filter:?}");
        }
        let count = bench.engine.count_jobs(&ADMIN, filter).await.unwrap();
        assert_eq!(count.count, should.len() as u64, "{filter:?}");
        assert!(!count.capped);
    }
}

#[tokio::test(start_paused = true)]
async fn workers_and_pools_are_paged_by_name() {
    let bench = Bench::new().await;
    let mut workers = Vec::new();
    for number in 0..9 {
        let mut hello = hello(&format!("w{number}"), &["job.a"], 2);
        hello.pool = coretex_core::id::PoolName::parse(&format!("p{}", number % 4)).unwrap();
        workers.push(bench.connect(hello).await);
    }
    for _ in 0..30 {
        bench.submit(request("job.a")).await;
    }
    pass(secs(1)).await;
    let mut names = Vec::new();
    let mut token = String::new();
    loop {
        let request = PageRequest { size: 2, token };
        let (found, next) = bench.engine.list_workers(&ADMIN, request).await.unwrap();
        names.extend(found.iter().map(|one| one.worker_id.to_string()));
        assert!(found.iter().all(|one| one.active_jobs == 2));
        token = next;
        if token.is_empty() {
            break;
        }
    }
    let should: Vec<String> = (0..9).map(|number| format!("w{number}")).collect();
    assert_eq!(names, should);
    let request = PageRequest {
        size: 100,
        token: String::new(),
    };
    let (pools, _) = bench.engine.list_pools(&ADMIN, request).await.unwrap();
    assert_eq!(pools.len(), 4);
    assert_eq!(pools.iter().map(|pool| pool.workers).sum::<u32>(), 9);
    assert_eq!(pools.iter().map(|pool| pool.active).sum::<u32>(), 18);
    assert!(pools.iter().all(|pool| pool.waiting == 12));
    let status = bench.engine.status(&ADMIN).await.unwrap();
    assert_eq!((status.workers, status.replicas[0].active_jobs), (9, 18));
    let queues = &status.queues.depths;
    assert_eq!((queues.len(), &queues[0].topic), (1, &topic("job.a")));
    assert_eq!((queues[0].waiting, queues[0].capped), (12, false));
    bench.audit().await;
}
