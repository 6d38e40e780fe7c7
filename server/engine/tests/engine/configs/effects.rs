//! What configuration does to jobs: it fills in, limits, shows itself to workers, and says how long
//! they are kept.

use std::collections::BTreeSet;
use std::time::Duration;

use coretex_core::config::ConfigName;
use coretex_core::job::{JobState, Priority};
use coretex_core::routing::LeftOpen;
use coretex_engine::{Caller, Error, JobEdits, Retention, SubmitJob, ToWorker};
use serde_json::{Value as Json, json};

use super::{org, put, set, system, team};
use crate::support::{
    ADMIN, Bench, Setup, failed, hello, id, jump, named, pass, request, secs, with,
};

const OPEN: LeftOpen = LeftOpen {
    timeout: true,
    schedule_to_start_timeout: true,
    retry: true,
    priority: true,
};

fn open(name: &str, job: &str) -> SubmitJob {
    SubmitJob {
        left_open: OPEN,
        ..named(name, job)
    }
}

fn member() -> Caller {
    Caller {
        team_ids: BTreeSet::from(["t".to_owned()]),
        ..ADMIN.clone()
    }
}

fn of_team(mut request: SubmitJob) -> SubmitJob {
    request.spec.team_id = "t".to_owned();
    request
}

#[tokio::test(start_paused = true)]
async fn what_a_submitter_leaves_open_is_said_by_its_team_first() {
    let bench = Bench::new().await;
    put(
        &bench,
        &org(),
        json!({
            "topics": {"job.a": {"timeout": "7m", "priority": "batch", "risk_tags": ["org"]}},
            "timeouts": {"schedule_to_start": "9m"},
        }),
    )
    .await;
    let topics = json!({"topics": {"job.a": {"timeout": "3m", "risk_tags": ["team"]}}});
    put(&bench, &team("t"), topics).await;
    bench.submit(open("job.a", "org")).await;
    let job = bench.job(&id("org")).await;
    assert_eq!(job.spec.timeout, secs(7 * 60));
    assert_eq!(job.spec.schedule_to_start_timeout, secs(9 * 60));
    assert_eq!(job.spec.priority, Priority::Batch);
    assert_eq!(job.spec.metadata.risk_tags, ["org"]);
    let submit = of_team(open("job.a", "team"));
    bench
        .engine
        .submit_job(&member(), submit.clone())
        .await
        .unwrap();
    let job = bench.job(&id("team")).await;
    assert_eq!(job.spec.timeout, secs(3 * 60));
    assert_eq!(job.spec.metadata.risk_tags, ["org", "team"]);
    // The same request is the same under other documents.
    put(
        &bench,
        &team("t"),
        json!({"topics": {"job.a": {"timeout": "1m"}}}),
    )
    .await;
    let again = bench.engine.submit_job(&member(), submit).await.unwrap();
    assert!(again.replayed);
    // What a rerun gets is what holds now, as far as it only adds.
    put(
        &bench,
        &org(),
        json!({"topics": {"job.a": {"risk_tags": ["new"]}}}),
    )
    .await;
    let old = id("org");
    let cancelled = bench
        .engine
        .cancel_job(&ADMIN, &old, String::new(), None, true);
    cancelled.await.unwrap();
    let rerun = bench
        .engine
        .rerun_job(&ADMIN, &old, JobEdits::default(), String::new());
    let job = rerun.await.unwrap().answer.job;
    assert_eq!(job.spec.metadata.risk_tags, ["org", "new"]);
    assert_eq!(job.spec.timeout, secs(7 * 60));
}

#[tokio::test(start_paused = true)]
async fn the_routing_table_comes_after_topics_and_before_clocks() {
    let bench = Bench::new().await;
    let rule = coretex_core::routing::TopicRule {
        timeout: Some(secs(11)),
        ..coretex_core::routing::TopicRule::default()
    };
    let pattern = |name: &str| coretex_core::routing::pattern::TopicPattern::parse(name).unwrap();
    let topics = [
        (pattern("job.a"), rule),
        (pattern("job.>"), Default::default()),
    ];
    let routing = coretex_core::routing::Routing::new(
        topics.into_iter().collect(),
        Default::default(),
        Default::default(),
        Default::default(),
    );
    bench.engine.set_routing(routing.unwrap());
    put(&bench, &org(), json!({"timeouts": {"job": "5m"}})).await;
    bench.submit(open("job.a", "table")).await;
    bench.submit(open("job.b", "clock")).await;
    put(
        &bench,
        &org(),
        json!({"topics": {"job.a": {"timeout": "13s"}}}),
    )
    .await;
    bench.submit(open("job.a", "topic")).await;
    for (name, timeout) in [
        ("table", secs(11)),
        ("clock", secs(300)),
        ("topic", secs(13)),
    ] {
        assert_eq!(bench.job(&id(name)).await.spec.timeout, timeout, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn limits_cut_or_refuse_and_say_who_set_them() {
    let bench = Bench::new().await;
    put(
        &bench,
        &org(),
        json!({
            "limits": {"max_labels": 1, "max_attempts": 2, "max_waiting_jobs": 2},
            "timeouts": {"max_job": "1m"},
        }),
    )
    .await;
    put(
        &bench,
        &team("t"),
        json!({"limits": {"max_payload_bytes": 3, "max_labels": 5}}),
    )
    .await;
    let labelled = || {
        with("job.a", |spec| {
            spec.labels = [("a", ""), ("b", "")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into();
            spec.team_id = "t".to_owned();
        })
    };
    let refused = bench.engine.submit_job(&member(), labelled()).await;
    let Err(Error::Invalid(wrong)) = refused else {
        panic!("{refused:?}");
    };
    let told: Vec<_> = wrong
        .iter()
        .map(|one| format!("{}: {}", one.field, one.description))
        .collect();
    assert_eq!(
        told,
        [
            "input: must have at most 3 bytes, says `limits.max_payload_bytes` in the configuration of team `t`",
            "labels: must have at most 1 labels, says `limits.max_labels` in the configuration of org",
        ]
    );
    let cut = with("job.a", |spec| spec.retry.max_attempts = 9);
    let job = bench.submit(cut).await.answer.job;
    assert_eq!(job.spec.retry.max_attempts, 2);
    assert_eq!(job.spec.timeout, secs(60));
    bench.submit(request("job.a")).await;
    let refused = bench.engine.submit_job(&ADMIN, request("job.a")).await;
    assert_eq!(refused.unwrap_err(), Error::TooManyWaitingJobs { limit: 2 });
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn workers_get_what_is_visible_of_what_is_in_force() {
    let bench = Bench::new().await;
    let config = |n: u32| {
        json!({
            "models": {"default": "m", "n": n},
            "safety": {"deny_secrets": true},
            "limits": {"max_labels": 3},
        })
    };
    put(&bench, &org(), config(1)).await;
    bench.submit(named("job.a", "waits")).await;
    put(&bench, &org(), config(2)).await;
    let mut worker = bench.connect(hello("w", &["job.a"], 2)).await;
    let got = async |worker: &mut crate::support::Worker| match worker.next().await {
        ToWorker::Assignment { config, .. } => Json::Object(config.visible.clone()),
        other => panic!("{other:?}"),
    };
    // As of its hand-out.
    assert_eq!(
        got(&mut worker).await,
        json!({"models": {"default": "m", "n": 2}})
    );
    pass(secs(1)).await;
    let says = json!({"visibility": {"workers": []}});
    set(&bench, &system(), &ConfigName::system(), says, "")
        .await
        .unwrap();
    bench.submit(named("job.a", "fast")).await;
    assert_eq!(got(&mut worker).await, json!({}));
    bench.audit().await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_keeps_its_jobs_for_less_time_than_the_server_would() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let bench = Bench::with(Setup {
        retention: Retention {
            jobs: HOUR * 10,
            dead_letters: HOUR * 20,
            ..Retention::default()
        },
        ..Setup::default()
    })
    .await;
    let mut worker = bench.connect(hello("w", &["job.a"], 4)).await;
    let mut end = async |name: &str, well: bool| {
        bench.submit(named("job.a", name)).await;
        let attempt = worker.assignment().await;
        if well {
            assert!(worker.succeed(&attempt).await);
        } else {
            worker.finish(&attempt, failed("boom")).await;
            assert!(worker.ack().await);
        }
    };
    end("server", true).await;
    put(
        &bench,
        &org(),
        json!({"retention": {"jobs": "2h", "dead_letters": "4h"}}),
    )
    .await;
    end("own", true).await;
    end("own-dead", false).await;
    end("settled", false).await;
    put(&bench, &org(), json!({"retention": {"dead_letters": "1h"}})).await;
    // A dead letter is kept for no shorter than its job would be.
    end("least", false).await;
    let entry = bench
        .engine
        .get_dlq_entry(&ADMIN, &id("own-dead"), false)
        .await
        .unwrap();
    let job = &entry.answer.job;
    assert_eq!(entry.expire_time, job.end_time.unwrap() + HOUR * 4);
    let settled = bench.engine.delete_dlq_entry(&ADMIN, &id("settled")).await;
    settled.unwrap();
    let there = async |name: &str| bench.engine.get_job(&ADMIN, &id(name), false).await.is_ok();
    bench.audit().await;
    for (hours, gone) in [
        (2, &["own", "settled"][..]),
        (4, &["own-dead"]),
        (10, &["server", "least"]),
    ] {
        let until = job.create_time + HOUR * hours;
        jump(until.since(bench.now()).saturating_sub(secs(30))).await;
        for name in gone {
            assert!(there(name).await, "{name} before {hours}h");
        }
        jump(secs(60)).await;
        pass(secs(10)).await;
        for name in gone {
            assert!(!there(name).await, "{name} after {hours}h");
        }
        let audit = bench.audit().await;
        assert!(audit.jobs.iter().all(|job| job.state != JobState::Pending));
    }
}
