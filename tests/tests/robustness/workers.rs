//! Workers that do not read, say too much, or say what is none of their business.
//!
//! Over 500 lines because each way to misbehave is a test over the same scene.

use std::time::Duration;

use coretex::proto::{
    AttemptRef, CreateApiKeyRequest, ErrorReason, GetJobRequest, JobFilter, JobState,
    ListJobEventsRequest, ListJobsRequest, ListWorkersRequest, Payload, WorkerCapacity,
    WorkerHello, WorkerProgress, WorkerReject, WorkerStarted, open_session_request::Message as Out,
};
use coretex::{Client, Code, Error, JobExt};
use coretex_tests::cluster::server::Options;
use coretex_tests::cluster::session::{RawStream, RawWorker, attempt_of, hello, success};
use coretex_tests::cluster::{MIB, PATIENCE, in_time};
use coretex_tests::poll;
use futures::future::join_all;
use serde_json::json;

use crate::bystander::Scene;

async fn get(client: &Client, job_id: &str) -> coretex::Job {
    let request = GetJobRequest {
        job_id: job_id.to_owned(),
        ..GetJobRequest::default()
    };
    client.get_job(request).await.unwrap().job.unwrap()
}

async fn submit(client: &Client, topic: &str) -> String {
    let submitted = client.submit(topic, json!("x")).send().await.unwrap();
    submitted.job.unwrap().job_id
}

fn result(text: &str) -> Payload {
    Payload::from_json(&json!(text))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_never_reads_loses_its_session_and_the_server_keeps_its_memory() {
    const JOBS: usize = 250;
    let options = Options::new()
        .set("CORETEX_STORE_DURABILITY", "async")
        .set("CORETEX_TIMING_ADOPTION_WINDOW", "2s");
    let mut scene = Scene::start(options).await;
    let channel = scene.server.channel().await;
    let mut deaf = RawWorker::open(channel, "", hello("job.heavy", 5_000))
        .await
        .unwrap();
    let heavy = coretex::Payload::from_bytes(vec![7; MIB - 1024], "application/octet-stream");
    let client = &scene.client;
    let mut ids = Vec::new();
    for _ in 0..JOBS {
        let submit = client.submit("job.heavy", ()).payload(heavy.clone()).send();
        let submitted = in_time("a heavy job", Box::pin(submit)).await.unwrap();
        ids.push(submitted.job.unwrap().job_id);
    }
    scene.works().await;
    scene.grew_at_most(160);

    // Who reads how it ended has begun to read.
    poll::until_async("the session to end", PATIENCE, async || {
        let workers = scene.client.list_workers(ListWorkersRequest::default());
        let workers = workers.await.unwrap().workers;
        let deaf = &deaf.welcome.worker_id;
        match workers.iter().find(|worker| worker.worker_id == *deaf) {
            None => Ok(()),
            Some(worker) => Err(format!("{worker:?}")),
        }
    })
    .await;
    let status = deaf.stream.end().await;
    let error = Error::from(status);
    assert_eq!(
        error.reason(),
        Some(ErrorReason::WorkerTooSlow),
        "{error:?}"
    );
    drop(deaf);
    // Its jobs were lost with it and wait for another.
    let filter = JobFilter {
        topics: vec!["job.heavy".into()],
        states: vec![JobState::Dispatched.into(), JobState::Running.into()],
        ..JobFilter::default()
    };
    poll::until_async("the jobs to be queued again", PATIENCE, async || {
        let request = coretex::proto::CountJobsRequest {
            filter: Some(filter.clone()),
        };
        match scene.client.count_jobs(request).await.unwrap().count {
            0 => Ok(()),
            count => Err(format!("{count} are still out")),
        }
    })
    .await;
    assert!(!get(&scene.client, &ids[0]).await.ended());
    scene.works().await;
    scene.grew_at_most(160);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_progress_is_kept_small() {
    let mut scene = Scene::start(Options::new()).await;
    let channel = scene.server.channel().await;
    let mut worker = RawWorker::open(channel, "", hello("job.chatty", 1))
        .await
        .unwrap();
    let job_id = submit(&scene.client, "job.chatty").await;
    let attempt = attempt_of(&worker.assignment().await);
    let text = "words ".repeat(600);
    for n in 0..40_000 {
        let of_another = n % 4 == 3;
        let lease_id = if of_another {
            "0".repeat(32)
        } else {
            attempt.lease_id.clone()
        };
        let progress = WorkerProgress {
            tenant_id: attempt.tenant_id.clone(),
            job_id: attempt.job_id.clone(),
            attempt: attempt.attempt,
            lease_id,
            percent: n % 100,
            message: format!("{n} {text}"),
        };
        assert!(worker.stream.say(Out::Progress(progress)).await);
    }
    scene.works().await;
    scene.grew_at_most(64);
    assert!(worker.stream.say(success(&attempt, result("done"))).await);
    assert!(worker.acknowledged(&attempt.lease_id).await);
    let job = get(&scene.client, &job_id).await;
    assert_eq!(job.output_as::<String>().unwrap(), "done");
    let events = scene.client.list_job_events(ListJobEventsRequest {
        job_id,
        ..ListJobEventsRequest::default()
    });
    let events = events.await.unwrap().events;
    assert!(events.len() <= 64, "{} events", events.len());
}

/// Everything that may be said about an attempt.
fn meddling(attempt: &AttemptRef) -> [Out; 4] {
    let AttemptRef {
        tenant_id,
        job_id,
        attempt: number,
        lease_id,
    } = attempt.clone();
    let started = WorkerStarted {
        tenant_id: tenant_id.clone(),
        job_id: job_id.clone(),
        attempt: number,
        lease_id: lease_id.clone(),
    };
    let progress = WorkerProgress {
        tenant_id: tenant_id.clone(),
        job_id: job_id.clone(),
        attempt: number,
        lease_id: lease_id.clone(),
        percent: 99,
        message: "stolen".into(),
    };
    let reject = WorkerReject {
        tenant_id,
        job_id,
        attempt: number,
        lease_id,
        reason: "stolen".into(),
    };
    [
        Out::Started(started),
        Out::Progress(progress),
        Out::Reject(reject),
        success(attempt, result("stolen")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn results_for_the_jobs_of_others_change_nothing() {
    let scene = Scene::start(Options::new().secured()).await;
    let channel = scene.server.channel().await;
    let admin_key = scene.server.admin_key();
    let request = CreateApiKeyRequest {
        tenant_id: "elsewhere".into(),
        roles: vec!["worker".into()],
        ..CreateApiKeyRequest::default()
    };
    let foreign_key = scene.client.create_api_key(request).await.unwrap().secret;

    let open = async |key: &str, topic: &str| {
        let opened = RawWorker::open(channel.clone(), key, hello(topic, 2)).await;
        opened.unwrap()
    };
    let mut owner = open(&admin_key, "job.mine").await;
    let job_id = submit(&scene.client, "job.mine").await;
    let attempt = attempt_of(&owner.assignment().await);
    let untouched = get(&scene.client, &job_id).await;

    // One of the same tenant that has to guess, and one of another tenant that knows it all.
    let guesses = [
        AttemptRef {
            lease_id: "0123456789abcdef0123456789abcdef".into(),
            ..attempt.clone()
        },
        AttemptRef {
            attempt: attempt.attempt + 1,
            lease_id: "f".repeat(32),
            ..attempt.clone()
        },
    ];
    let mut neighbour = open(&admin_key, "job.theirs").await;
    for guess in &guesses {
        for message in meddling(guess) {
            assert!(neighbour.stream.say(message).await);
        }
        assert!(!neighbour.acknowledged(&guess.lease_id).await);
    }
    let mut stranger = open(&foreign_key, "job.mine").await;
    let of_own_tenant = AttemptRef {
        tenant_id: "elsewhere".into(),
        ..attempt.clone()
    };
    for guess in [&attempt, &of_own_tenant] {
        for message in meddling(guess) {
            assert!(stranger.stream.say(message).await);
        }
        assert!(!stranger.acknowledged(&attempt.lease_id).await);
    }
    // Nor can it be had by claiming to run it already.
    let greedy = WorkerHello {
        running: vec![attempt.clone(), of_own_tenant],
        ..hello("job.mine", 1)
    };
    let greedy = RawWorker::open(channel.clone(), &foreign_key, greedy)
        .await
        .unwrap();
    assert_eq!(
        (greedy.welcome.kept.len(), greedy.welcome.revoked.len()),
        (0, 2)
    );

    // A flood of it slows nobody down but who sends it.
    for volley in 0..50_u128 {
        let leases: Vec<_> = (0..100)
            .map(|n| format!("{:032x}", volley * 100 + n))
            .collect();
        for lease_id in leases.iter().cloned() {
            let guess = AttemptRef {
                lease_id,
                ..attempt.clone()
            };
            let stolen = success(&guess, result("stolen"));
            assert!(neighbour.stream.say(stolen).await);
        }
        for lease_id in &leases {
            assert!(!neighbour.acknowledged(lease_id).await);
        }
    }
    assert_eq!(get(&scene.client, &job_id).await.etag, untouched.etag);
    assert!(owner.stream.say(success(&attempt, result("earned"))).await);
    assert!(owner.acknowledged(&attempt.lease_id).await);
    let job = get(&scene.client, &job_id).await;
    assert_eq!(job.output_as::<String>().unwrap(), "earned");
    assert_eq!(job.attempt, 1);
}

#[tokio::test]
async fn what_breaks_the_rules_of_a_session_ends_it_with_a_reason() {
    let mut scene = Scene::start(Options::new()).await;
    let channel = scene.server.channel().await;
    let first = async |message: Option<Out>| {
        let mut stream = RawStream::open(channel.clone(), "").await.unwrap();
        stream.say(message).await;
        Error::from(stream.end().await)
    };
    let with = |edit: fn(&mut WorkerHello)| {
        let mut hello = hello("job.x", 1);
        edit(&mut hello);
        Some(Out::Hello(Box::new(hello)))
    };
    let table = [
        (None, Code::FailedPrecondition, "HELLO_EXPECTED", ""),
        (
            Some(Out::Drain(Default::default())),
            Code::FailedPrecondition,
            "HELLO_EXPECTED",
            "",
        ),
        (
            with(|hello| hello.protocol_version = 99),
            Code::FailedPrecondition,
            "PROTOCOL_VERSION_UNSUPPORTED",
            "",
        ),
        (
            with(|hello| hello.topics.clear()),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "hello.topics",
        ),
        (
            with(|hello| hello.topics = vec!["x".into()]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "hello.topics[0]",
        ),
        (
            with(|hello| hello.max_parallel_jobs = -1),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "hello.max_parallel_jobs",
        ),
        (
            with(|hello| hello.worker_id = "a b".into()),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "hello.worker_id",
        ),
        (
            with(|hello| hello.running = vec![AttemptRef::default()]),
            Code::InvalidArgument,
            "INVALID_FIELD",
            "hello.running[0].lease_id",
        ),
    ];
    for (message, code, reason, field) in table {
        let shown = format!("{message:?}");
        let error = first(message).await;
        assert_eq!(
            (error.code(), error.reason_text()),
            (code, reason),
            "{shown}: {error:?}"
        );
        let named = error
            .violations()
            .iter()
            .any(|violation| violation.field == field);
        assert!(field.is_empty() || named, "{shown}: {error:?}");
    }

    let later = async |message: Option<Out>| {
        let opened = RawWorker::open(channel.clone(), "", hello("job.x", 1)).await;
        let mut worker = opened.unwrap();
        worker.stream.say(message).await;
        Error::from(worker.stream.end().await)
    };
    let nobody = AttemptRef {
        tenant_id: "default".into(),
        job_id: "j".into(),
        attempt: 1,
        lease_id: "no lease".into(),
    };
    let [started, progress, reject, finished] = meddling(&nobody);
    let violation = ErrorReason::SessionProtocolViolation;
    for (message, reason) in [
        (None, violation),
        (
            Some(Out::Hello(Box::new(hello("job.x", 1)))),
            ErrorReason::HelloExpected,
        ),
        (Some(started), violation),
        (Some(progress), violation),
        (Some(reject), violation),
        (Some(finished), violation),
        (
            Some(Out::Capacity(WorkerCapacity {
                max_parallel_jobs: -5,
            })),
            violation,
        ),
    ] {
        let shown = format!("{message:?}");
        let error = later(message).await;
        assert_eq!(error.reason(), Some(reason), "{shown}: {error:?}");
    }
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_reconnecting_workers_leaves_nothing_behind() {
    const STORM: usize = 400;
    let mut scene = Scene::start(Options::new()).await;
    for round in 0..3 {
        let connects = (0..STORM).map(|n| {
            let server = &scene.server;
            async move {
                let channel = server.channel().await;
                if n % 4 == 0 {
                    // Gone before the first word.
                    return drop(RawStream::open(channel, "").await);
                }
                let hello = WorkerHello {
                    worker_id: format!("storm-{n}"),
                    // What it says it runs is unknown here.
                    running: vec![unknown(n); n % 3],
                    ..hello("job.storm", 1)
                };
                let worker = RawWorker::open(channel, "", hello).await.unwrap();
                assert_eq!(worker.welcome.revoked.len(), n % 3);
            }
        });
        in_time("the storm to pass", join_all(connects)).await;
        scene.works().await;
        assert!(scene.server.is_running(), "round {round}");
    }
    poll::until_async("the sessions to be gone", PATIENCE, async || {
        let workers = scene
            .client
            .list_workers(ListWorkersRequest::default())
            .await;
        match workers.unwrap().workers.len() {
            1 => Ok(()),
            many => Err(format!("{many} workers")),
        }
    })
    .await;
    scene.grew_at_most(96);
    let jobs = scene
        .client
        .list_jobs(ListJobsRequest::default())
        .await
        .unwrap();
    assert!(jobs.jobs.iter().all(|job| job.topic == "job.bystander"));
}

fn unknown(n: usize) -> AttemptRef {
    AttemptRef {
        tenant_id: "default".into(),
        job_id: format!("nobody-knows-{n}"),
        attempt: 1,
        lease_id: format!("{n:032x}"),
    }
}

#[tokio::test]
async fn a_worker_that_claims_to_run_thousands_of_jobs_is_told_that_it_does_not() {
    let mut scene = Scene::start(Options::new()).await;
    let hello = WorkerHello {
        running: (0..5_000).map(unknown).collect(),
        ..hello("job.x", 5_000)
    };
    let worker = RawWorker::open(scene.server.channel().await, "", hello)
        .await
        .unwrap();
    assert_eq!(
        (worker.welcome.kept.len(), worker.welcome.revoked.len()),
        (0, 5_000)
    );
    scene.works().await;
    scene.grew_at_most(64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_never_says_hello_is_ended() {
    let scene = Scene::start(Options::new()).await;
    let channel = scene.server.channel().await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(RawStream::open(channel.clone(), "").await.unwrap());
    }
    for mut stream in streams {
        let limit = Duration::from_secs(30);
        let end = tokio::time::timeout(limit, stream.end()).await.unwrap();
        assert_eq!(Error::from(end).reason(), Some(ErrorReason::HelloExpected));
    }
}

#[tokio::test]
async fn the_same_attempt_is_never_out_at_two_sessions() {
    let scene = Scene::start(Options::new()).await;
    let channel = scene.server.channel().await;
    let opened = RawWorker::open(channel.clone(), "", hello("job.once", 1)).await;
    let mut old = opened.unwrap();
    let job_id = submit(&scene.client, "job.once").await;
    let attempt = attempt_of(&old.assignment().await);
    let twin = WorkerHello {
        running: vec![attempt.clone()],
        ..hello("job.once", 1)
    };
    let mut new = RawWorker::open(channel, "", twin).await.unwrap();
    assert_eq!(new.welcome.kept, std::slice::from_ref(&attempt));
    // The old connection has lost it, whatever it still says; the lease is what counts.
    for message in meddling(&attempt).into_iter().take(3) {
        old.stream.say(message).await;
    }
    let end = Error::from(old.stream.end().await);
    assert_eq!(end.reason(), Some(ErrorReason::SessionSuperseded), "{end}");
    assert!(!get(&scene.client, &job_id).await.ended());
    assert!(new.stream.say(success(&attempt, result("new"))).await);
    assert!(new.acknowledged(&attempt.lease_id).await);
    let job = get(&scene.client, &job_id).await;
    assert_eq!(job.output_as::<String>().unwrap(), "new");
}
