//! Lists and counts of jobs, and who sees what.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use coretex_core::id::{JobId, WorkerId};
use coretex_core::job::{Job, JobState};
use coretex_core::payload::Payload;
use coretex_engine::{Caller, Error, JobEdits, JobFilter, JobPage, PageRequest, Role, WatchTarget};

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, admin, caller, hello, id, is_no_job, millis, named, pass,
    request, secs, topic, with,
};

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

/// Jobs of many kinds, in every state.
async fn zoo(bench: &Bench, kernel: &Script) {
    let mut worker = bench.connect(hello("w1", &["job.run"], 100)).await;
    let mut second = bench.connect(hello("w2", &["job.two"], 100)).await;
    let red = Caller {
        team_ids: ["red".to_owned()].into(),
        ..caller("acme", "key:red", &[Role::Submitter])
    };
    for number in 0..6_u32 {
        for (kind, topic_name) in ["job.run", "job.two", "job.wait"].iter().enumerate() {
            let mut job = named(topic_name, &format!("{}-{number}", kind));
            job.spec
                .labels
                .insert("n".to_owned(), (number % 2).to_string());
            job.spec.labels.insert("kind".to_owned(), kind.to_string());
            job.trace_id = format!("trace-{}", number % 3);
            job.spec.parent_job_id = (number % 2 == 0).then(|| id("parent"));
            if number == 5 {
                job.spec.not_before = Some(bench.now() + secs(3_600));
            }
            if number == 4 {
                job.spec.team_id = "red".to_owned();
                bench.engine.submit_job(&red, job).await.unwrap();
            } else {
                bench.submit(job).await;
            }
            pass(millis(7)).await;
        }
    }
    kernel.say(Answer::Deny);
    bench.submit(named("job.wait", "denied")).await;
    kernel.say(Answer::Approval);
    bench.submit(named("job.wait", "approval")).await;
    kernel.say(Answer::Trouble);
    bench.submit(named("job.wait", "undecided")).await;
    kernel.say(Answer::Allow);
    bench
        .submit(with("job.wait", |spec| {
            spec.schedule_to_start_timeout = secs(1)
        }))
        .await;
    let attempts = worker.assignments(5).await;
    assert!(worker.succeed(&attempts[0]).await);
    assert!(worker.fail(&attempts[1], "x").await);
    worker.started(&attempts[2]).await;
    second.assignments(5).await;
    let first = id("2-0");
    let cancelled = bench
        .engine
        .cancel_job(&ADMIN, &first, String::new(), None, false);
    cancelled.await.unwrap();
    pass(secs(2)).await;
    // The sessions stay: dropped workers would be given up later.
    std::mem::forget(worker);
    std::mem::forget(second);
}

async fn zoo_bench() -> Bench {
    let kernel = Script::new(Answer::Allow);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    zoo(&bench, &kernel).await;
    bench
}

fn filters(bench: &Bench, jobs: &[Job]) -> Vec<JobFilter> {
    let any = JobFilter::default;
    let mut filters = vec![any()];
    for state in JobState::ALL {
        filters.push(JobFilter {
            states: vec![state],
            ..any()
        });
    }
    let mut add = |filter| filters.push(filter);
    add(JobFilter {
        states: vec![JobState::Dispatched, JobState::Running],
        ..any()
    });
    add(JobFilter {
        states: vec![
            JobState::Pending,
            JobState::Scheduled,
            JobState::ApprovalRequired,
        ],
        ..any()
    });
    add(JobFilter {
        states: vec![JobState::Dispatched, JobState::Dispatched],
        ..any()
    });
    add(JobFilter {
        states: vec![JobState::Pending, JobState::Succeeded],
        ..any()
    });
    for topics in [&["job.run"][..], &["job.run", "job.two"], &["job.none"]] {
        add(JobFilter {
            topics: topics.iter().map(|name| topic(name)).collect(),
            ..any()
        });
    }
    add(JobFilter {
        topics: vec![topic("job.wait")],
        states: vec![JobState::Pending],
        ..any()
    });
    add(JobFilter {
        labels: [("n".to_owned(), "1".to_owned())].into(),
        ..any()
    });
    add(JobFilter {
        labels: BTreeMap::from([
            ("n".to_owned(), "1".to_owned()),
            ("kind".to_owned(), "2".to_owned()),
        ]),
        ..any()
    });
    add(JobFilter {
        labels: [("n".to_owned(), "7".to_owned())].into(),
        ..any()
    });
    add(JobFilter {
        principal_id: "key:red".to_owned(),
        ..any()
    });
    add(JobFilter {
        team_id: "red".to_owned(),
        ..any()
    });
    add(JobFilter {
        trace_id: "trace-2".to_owned(),
        ..any()
    });
    for worker in ["w1", "w2", "w3"] {
        add(JobFilter {
            worker_id: Some(WorkerId::parse(worker).unwrap()),
            ..any()
        });
    }
    add(JobFilter {
        parent_job_id: Some(id("parent")),
        ..any()
    });
    let mut times: Vec<_> = jobs.iter().map(|job| job.create_time).collect();
    times.sort();
    let middle = times[times.len() / 2];
    for (after, before) in [
        (Some(middle), None),
        (None, Some(middle)),
        (Some(middle), Some(middle)),
        (Some(times[2]), Some(times[times.len() - 3])),
        (Some(bench.now()), None),
    ] {
        for states in [vec![], vec![JobState::Pending], vec![JobState::Succeeded]] {
            add(JobFilter {
                created_after: after,
                created_before: before,
                states,
                ..any()
            });
        }
    }
    filters
}

/// The same as the engine's, written out a second time.
fn matches(filter: &JobFilter, job: &Job) -> bool {
    let worker = job.attempts.last().map(|one| &one.worker_id);
    job.tenant.as_str() == "acme"
        && (filter.states.is_empty() || filter.states.contains(&job.state))
        && (filter.topics.is_empty() || filter.topics.contains(&job.spec.topic))
        && filter
            .labels
            .iter()
            .all(|(key, value)| job.spec.labels.get(key) == Some(value))
        && (filter.principal_id.is_empty() || filter.principal_id == job.principal_id)
        && (filter.team_id.is_empty() || filter.team_id == job.spec.team_id)
        && (filter.trace_id.is_empty() || filter.trace_id == job.trace_id)
        && (filter.worker_id.is_none() || filter.worker_id.as_ref() == worker)
        && (filter.parent_job_id.is_none() || filter.parent_job_id == job.spec.parent_job_id)
        && filter.created_after.is_none_or(|at| job.create_time >= at)
        && filter.created_before.is_none_or(|at| job.create_time < at)
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

#[tokio::test(start_paused = true)]
async fn a_submitter_sees_only_its_own_jobs() {
    let bench = zoo_bench().await;
    let red = caller("acme", "key:red", &[Role::Submitter]);
    let mine = page(&bench, &red, &JobFilter::default(), 1_000, "").await;
    assert_eq!(mine.jobs.len(), 3);
    assert!(
        mine.jobs
            .iter()
            .all(|one| one.job.principal_id == "key:red")
    );
    let count = bench
        .engine
        .count_jobs(&red, &JobFilter::default())
        .await
        .unwrap();
    assert_eq!(count.count, 3);
    let others = JobFilter {
        principal_id: "key:admin".to_owned(),
        ..JobFilter::default()
    };
    assert!(page(&bench, &red, &others, 1_000, "").await.jobs.is_empty());
    assert_eq!(
        bench.engine.count_jobs(&red, &others).await.unwrap().count,
        0
    );
    let theirs = id("0-0");
    assert!(is_no_job(&bench.engine.get_job(&red, &theirs, false).await));
    assert!(is_no_job(
        &bench.engine.wait_job(&red, &theirs, millis(1), false).await
    ));
    assert!(is_no_job(&bench.engine.diagnose_job(&red, &theirs).await));
    let target = WatchTarget::Job(theirs.clone());
    assert!(is_no_job(
        &bench
            .engine
            .watch_jobs(&red, target, String::new(), false)
            .await
    ));
    let target = WatchTarget::Filter(others);
    let mut watch = bench
        .engine
        .watch_jobs(&red, target, String::new(), false)
        .await
        .unwrap();
    assert!(watch.recv().await.is_some(), "the checkpoint");
    bench.submit(request("job.wait")).await;
    assert!(tokio::time::timeout(secs(3), watch.recv()).await.is_err());
    // A viewer of the same tenant sees all.
    let viewer = caller("acme", "key:v", &[Role::Viewer]);
    let seen = page(&bench, &viewer, &JobFilter::default(), 1_000, "").await;
    assert!(seen.jobs.len() > 20);
}

#[tokio::test(start_paused = true)]
async fn tenants_never_see_each_other() {
    let bench = zoo_bench().await;
    let other = caller("other", "key:o", &[Role::Admin]);
    let theirs = id("0-0");
    let engine = &bench.engine;
    assert!(
        page(&bench, &other, &JobFilter::default(), 1_000, "")
            .await
            .jobs
            .is_empty()
    );
    for state in JobState::ALL {
        let filter = JobFilter {
            states: vec![state],
            ..JobFilter::default()
        };
        assert_eq!(engine.count_jobs(&other, &filter).await.unwrap().count, 0);
    }
    assert!(is_no_job(&engine.get_job(&other, &theirs, true).await));
    assert!(is_no_job(
        &engine.wait_job(&other, &theirs, millis(1), true).await
    ));
    assert!(is_no_job(&engine.diagnose_job(&other, &theirs).await));
    let cancel = engine.cancel_job(&other, &theirs, String::new(), None, true);
    assert!(is_no_job(&cancel.await));
    let rerun = engine.rerun_job(&other, &theirs, JobEdits::default(), String::new());
    assert!(is_no_job(&rerun.await));
    let watch = engine.watch_jobs(&other, WatchTarget::Job(theirs), String::new(), true);
    assert!(is_no_job(&watch.await));
    let target = WatchTarget::Filter(JobFilter::default());
    let mut watch = engine
        .watch_jobs(&other, target, String::new(), true)
        .await
        .unwrap();
    assert!(watch.recv().await.is_some(), "the checkpoint");
    bench.submit(request("job.wait")).await;
    assert!(tokio::time::timeout(secs(3), watch.recv()).await.is_err());
    let everything = PageRequest {
        size: 100,
        token: String::new(),
    };
    assert!(
        engine
            .list_workers(&other, everything.clone())
            .await
            .unwrap()
            .0
            .is_empty()
    );
    let name = WorkerId::parse("w1").unwrap();
    assert!(engine.get_worker(&other, &name).await.is_err());
    assert!(engine.drain_worker(&other, &name, false).await.is_err());
    assert!(
        engine
            .list_pools(&other, everything.clone())
            .await
            .unwrap()
            .0
            .is_empty()
    );
    assert!(engine.status(&other).await.unwrap().queues.is_empty());
    assert!(
        !engine
            .list_workers(&ADMIN, everything)
            .await
            .unwrap()
            .0
            .is_empty()
    );
    assert!(!engine.status(&ADMIN).await.unwrap().queues.is_empty());
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
    assert_eq!((status.workers, status.active_jobs), (9, 18));
    assert_eq!(status.queues, [(topic("job.a"), 12, false)]);
    bench.audit().await;
}
