//! Jobs of many kinds in every state, and filters that each match some of them.

use std::collections::BTreeMap;

use coretex_core::id::WorkerId;
use coretex_core::job::{Job, JobState};
use coretex_engine::{Caller, JobFilter, Role};

use crate::support::{
    ADMIN, Answer, Bench, Script, Setup, caller, hello, id, millis, named, pass, secs, topic, with,
};

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

/// A bench with all of them.
pub(super) async fn zoo_bench() -> Bench {
    let kernel = Script::new(Answer::Allow);
    let bench = Bench::with(Setup {
        kernel: kernel.clone(),
        ..Setup::default()
    })
    .await;
    zoo(&bench, &kernel).await;
    bench
}

/// Filters on every field, alone and together, also such that match nothing.
pub(super) fn filters(bench: &Bench, jobs: &[Job]) -> Vec<JobFilter> {
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
pub(super) fn matches(filter: &JobFilter, job: &Job) -> bool {
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
