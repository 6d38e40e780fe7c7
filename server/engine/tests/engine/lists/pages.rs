//! Pages: without gaps and repeats, as large as asked for and as may be, with tokens that belong to
//! their list.

use std::collections::BTreeSet;

use base64::Engine as _;
use coretex_core::job::JobState;
use coretex_core::payload::Payload;
use coretex_engine::{Caller, Error, JobFilter, PageRequest, Role};

use super::{all, page};
use crate::support::{ADMIN, Bench, caller, hello, millis, named, pass, request, topic, with};

#[tokio::test(start_paused = true)]
async fn pages_have_no_gaps_and_no_repeats_while_jobs_come_and_change() {
    for open_only in [false, true] {
        let bench = Bench::new().await;
        let mut worker = bench.connect(hello("w", &["job.a"], 50)).await;
        let mut there = BTreeSet::new();
        for number in 0..120_u32 {
            let job = named(
                if number % 2 == 0 { "job.a" } else { "job.b" },
                &format!("j{number}"),
            );
            there.insert(bench.job_of(job).await);
            if number % 3 == 0 {
                pass(millis(1)).await;
            }
        }
        let filter = JobFilter {
            states: if open_only {
                vec![
                    JobState::Pending,
                    JobState::Scheduled,
                    JobState::Dispatched,
                    JobState::Running,
                ]
            } else {
                Vec::new()
            },
            ..JobFilter::default()
        };
        let mut extra = 0;
        let mut ended = BTreeSet::new();
        let found = all(&bench, &filter, 7, async || {
            extra += 1;
            bench.submit(named("job.a", &format!("extra{extra}"))).await;
            if let Some(coretex_engine::ToWorker::Assignment { attempt, .. }) =
                worker.next_within(millis(5)).await
            {
                worker.reject(&attempt).await;
                pass(millis(3)).await;
            }
            if let Some(coretex_engine::ToWorker::Assignment { attempt, .. }) =
                worker.next_within(millis(5)).await
            {
                ended.insert(attempt.job_id.clone());
                worker.finish(&attempt, crate::support::succeeded()).await;
            }
        })
        .await;
        let unique: BTreeSet<_> = found.iter().cloned().collect();
        assert_eq!(unique.len(), found.len(), "repeats");
        let missing: Vec<_> = there
            .difference(&unique)
            .filter(|id| !open_only || !ended.contains(*id))
            .collect();
        assert!(missing.is_empty(), "gaps: {missing:?}");
        bench.audit().await;
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_of_one_instant_are_paged_completely() {
    let bench = Bench::new().await;
    for number in 0..50 {
        bench.submit(named("job.a", &format!("j{number}"))).await;
    }
    for size in [1, 7, 16, 17, 49, 50, 51] {
        let found = all(&bench, &JobFilter::default(), size, async || {}).await;
        let unique: BTreeSet<_> = found.iter().collect();
        assert_eq!((found.len(), unique.len()), (50, 50), "pages of {size}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_belongs_to_its_list() {
    let bench = Bench::new().await;
    for _ in 0..5 {
        bench.submit(request("job.a")).await;
        bench.submit(request("job.b")).await;
    }
    let filter = JobFilter {
        topics: vec![topic("job.a")],
        ..JobFilter::default()
    };
    let token = page(&bench, &ADMIN, &filter, 2, "").await.next_page_token;
    let ask = async |caller: &Caller, filter: &JobFilter, token: &str| {
        let request = PageRequest {
            size: 2,
            token: token.to_owned(),
        };
        bench
            .engine
            .list_jobs(caller, filter, request, false)
            .await
            .err()
    };
    assert_eq!(ask(&ADMIN, &filter, &token).await, None);
    let others = [
        JobFilter::default(),
        JobFilter {
            topics: vec![topic("job.b")],
            ..JobFilter::default()
        },
        JobFilter {
            states: vec![JobState::Pending],
            ..filter.clone()
        },
    ];
    for other in &others {
        assert_eq!(
            ask(&ADMIN, other, &token).await,
            Some(Error::PageTokenInvalid)
        );
    }
    let foreign = caller("other", "key:o", &[Role::Admin]);
    assert_eq!(
        ask(&foreign, &filter, &token).await,
        Some(Error::PageTokenInvalid)
    );
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let mut garbage = vec![
        "x".to_owned(),
        "%%%".to_owned(),
        encode(b""),
        encode(b"\x01\xff\xff"),
    ];
    for cut in 0..token.len() {
        garbage.push(token[..cut].to_owned());
    }
    garbage.push(format!("{token}AAAA"));
    let resume = page(&bench, &ADMIN, &filter, 2, "").await.resume_token;
    garbage.push(resume);
    for garbage in garbage.iter().filter(|token| !token.is_empty()) {
        let answer = ask(&ADMIN, &filter, garbage).await;
        assert_eq!(answer, Some(Error::PageTokenInvalid), "{garbage:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_of_large_jobs_ends_early() {
    let bench = Bench::new().await;
    let mut should = Vec::new();
    for number in 0..12 {
        let mut job = named("job.a", &format!("j{number:02}"));
        job.input = Some(Payload::json(vec![b'1'; 900 * 1024].into()));
        should.push(bench.job_of(job).await);
        pass(millis(1)).await;
    }
    should.reverse();
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let request = PageRequest { size: 1_000, token };
        let page = bench
            .engine
            .list_jobs(&ADMIN, &JobFilter::default(), request, true)
            .await
            .unwrap();
        let bytes: u64 = page
            .jobs
            .iter()
            .map(|one| one.job.input.as_ref().unwrap().size())
            .sum();
        assert!(bytes <= 3_500 * 1024, "{bytes}");
        assert!(
            page.jobs
                .iter()
                .all(|one| !one.job.input.as_ref().unwrap().is_apart())
        );
        found.extend(page.jobs.iter().map(|one| one.job.id.clone()));
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, should);
    // Without payloads they fit into one.
    let basic = page(&bench, &ADMIN, &JobFilter::default(), 1_000, "").await;
    assert_eq!(basic.jobs.len(), 12);
}

#[tokio::test(start_paused = true)]
async fn jobs_with_much_text_end_a_page_early_too() {
    let bench = Bench::new().await;
    let mut worker = bench.connect(hello("w", &["job.a"], 1)).await;
    let mut should = 0;
    for _ in 0..120 {
        let job = with("job.a", |spec| {
            let tags = (0..64)
                .map(|n| format!("{n}-{}", "x".repeat(250)))
                .collect();
            spec.metadata.risk_tags = tags;
        });
        bench.submit(job).await;
        let attempt = worker.assignment().await;
        let coretex_core::job::transition::Outcome::Failed { mut error } =
            crate::support::failed("x")
        else {
            panic!("not a failure");
        };
        error.message = "y".repeat(16 * 1024);
        worker
            .finish(
                &attempt,
                coretex_core::job::transition::Outcome::Failed { error },
            )
            .await;
        assert!(worker.ack().await);
        should += 1;
    }
    let mut found = 0;
    let mut token = String::new();
    loop {
        let page = page(&bench, &ADMIN, &JobFilter::default(), 1_000, &token).await;
        let bytes: usize = page
            .jobs
            .iter()
            .map(|one| {
                let tags: usize = one
                    .job
                    .spec
                    .metadata
                    .risk_tags
                    .iter()
                    .map(String::len)
                    .sum();
                tags + one
                    .job
                    .error
                    .as_ref()
                    .map_or(0, |error| error.message.len())
            })
            .sum();
        assert!(bytes <= 3_500 * 1024, "{bytes}");
        found += page.jobs.len();
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(found, should);
}

#[tokio::test(start_paused = true)]
async fn a_needle_in_a_haystack_is_found_over_short_pages() {
    let bench = Bench::new().await;
    let mut needle = request("job.a");
    needle
        .spec
        .labels
        .insert("needle".to_owned(), "1".to_owned());
    let needle = bench.job_of(needle).await;
    pass(millis(1)).await;
    for _ in 0..5_500 {
        bench.submit(request("job.a")).await;
    }
    let filter = JobFilter {
        labels: [("needle".to_owned(), "1".to_owned())].into(),
        ..JobFilter::default()
    };
    let mut pages = 0;
    let found = all(&bench, &filter, 50, async || pages += 1).await;
    assert_eq!(found, [needle]);
    assert!(pages >= 1, "no page reads everything");
    let count = bench.engine.count_jobs(&ADMIN, &filter).await.unwrap();
    assert_eq!((count.count, count.capped), (1, false));
}
