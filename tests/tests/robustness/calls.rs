//! Calls that are too large, too many, or never read.

use std::time::Duration;

use bytes::Bytes;
use coretex::proto::job_service_client::JobServiceClient;
use coretex::proto::{
    CountJobsRequest, JobFilter, JobView, SubmitJobRequest, SubmitJobsRequest, WaitJobRequest,
    WatchJobsRequest, payload::Data, watch_jobs_request::Target,
};
use coretex::{Code, ErrorReason, Payload};
use coretex_tests::cluster::server::Options;
use coretex_tests::cluster::wire::{self, Manner};
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::cluster::{MIB, PATIENCE, in_time};
use coretex_tests::poll;
use futures::future::join_all;
use futures::{StreamExt, stream};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{ListValue, Value};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::bystander::Scene;

const SUBMIT: &str = "/coretex.v1.JobService/SubmitJob";
const STATUS: &str = "/coretex.v1.SystemService/GetStatus";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_over_the_limit_are_refused_with_a_reason_and_cost_nothing() {
    let mut scene = Scene::start(Options::new()).await;
    let channel = scene.server.channel().await;
    let job = |bytes: usize| {
        let raw = Payload::from_bytes(vec![0_u8; bytes], "application/octet-stream");
        let request = SubmitJobRequest {
            topic: "job.large".into(),
            input: Some(raw),
            ..SubmitJobRequest::default()
        };
        Bytes::from(request.encode_to_vec())
    };
    let plain = Manner::default();
    let gzip = Manner {
        gzip: true,
        ..Manner::default()
    };
    assert!(wire::call(&channel, SUBMIT, job(MIB), plain).await.is_ok());

    let error = wire::call(&channel, SUBMIT, job(MIB + 1), plain)
        .await
        .unwrap_err();
    assert_eq!(
        error.reason(),
        Some(ErrorReason::PayloadTooLarge),
        "{error:?}"
    );
    assert_eq!(
        (error.code(), error.violations()[0].field.as_str()),
        (Code::InvalidArgument, "input")
    );

    // What is small on the wire is large when it is unpacked.
    let bomb = Bytes::from(vec![0; 48 * MIB]);
    for (path, message, manner) in [
        (SUBMIT, job(9 * MIB), plain),
        (STATUS, Bytes::from(vec![0; 5 * MIB]), plain),
        (SUBMIT, bomb.clone(), gzip),
        (STATUS, bomb, gzip),
    ] {
        let error = wire::call(&channel, path, message, manner)
            .await
            .unwrap_err();
        assert_eq!(
            error.reason(),
            Some(ErrorReason::RequestTooLarge),
            "{path}: {error:?}"
        );
        assert_eq!(error.code(), Code::ResourceExhausted);
    }
    scene.works().await;
    scene.grew_at_most(64);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_with_a_reason() {
    let mut scene = Scene::start(Options::new()).await;
    let channel = scene.server.channel().await;
    // Nested deeper than a decoder may follow.
    let list = |values| Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    };
    let deep = (0..200).fold(list(Vec::new()), |inner, _| list(vec![inner]));
    let deep = SubmitJobRequest {
        topic: "job.deep".into(),
        input: Some(Payload {
            data: Some(Data::Json(deep)),
            ..Payload::default()
        }),
        ..SubmitJobRequest::default()
    };
    let bodies: [&[u8]; 7] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x0a\x7fshort",
        b"\x0a\x03\xff\xfe\xfd",
        b"\x08",
        b"\x0c",
        &[0x22; 1_000],
        &deep.encode_to_vec(),
    ];
    for body in bodies {
        let body = Bytes::copy_from_slice(body);
        let error = wire::call(&channel, SUBMIT, body.clone(), Manner::default())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{body:?}: {error:?}");
        assert_eq!(
            error.reason(),
            Some(ErrorReason::InvalidField),
            "{body:?}: {error:?}"
        );
    }
    for path in [
        "/coretex.v1.JobService/NoSuch",
        "/coretex.v2.JobService/GetJob",
        "/",
    ] {
        let error = wire::call(&channel, path, Bytes::new(), Manner::default())
            .await
            .unwrap_err();
        assert_eq!(error.code(), Code::Unimplemented, "{path}: {error:?}");
    }
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_never_reads_is_cut_and_can_resume() {
    const JOBS: usize = 120;
    let options = Options::new()
        .set("CORETEX_STORE_DURABILITY", "async")
        .set("CORETEX_LIMITS_MAX_WATCHES", "1");
    let mut scene = Scene::start(options).await;
    // Next to nothing fits into the connection, so the server has to keep it or to stop.
    let endpoint = Endpoint::from_shared(scene.server.url()).unwrap();
    let channel = endpoint
        .initial_stream_window_size(65_535)
        .initial_connection_window_size(65_535)
        .connect()
        .await
        .unwrap();
    let watch = WatchJobsRequest {
        target: Some(Target::Filter(JobFilter {
            topics: vec!["job.noise".into()],
            ..JobFilter::default()
        })),
        view: JobView::Full.into(),
        ..WatchJobsRequest::default()
    };
    let mut service = JobServiceClient::new(channel);
    let mut stalled = service
        .watch_jobs(watch.clone())
        .await
        .unwrap()
        .into_inner();
    let first = in_time("the checkpoint", stalled.message())
        .await
        .unwrap()
        .unwrap();

    // Each event carries its job whole: a lot to keep for somebody who does not read.
    let large = Payload::from_bytes(vec![7; MIB / 2], "application/octet-stream");
    let _worker = RunningWorker::echo(scene.client.clone(), "job.noise", 4).await;
    let client = &scene.client;
    let runs = (0..JOBS).map(|_| {
        let submit = client.submit("job.noise", ());
        submit.payload(large.clone()).result()
    });
    let runs = stream::iter(runs).buffer_unordered(4).collect();
    let ended: Vec<_> = in_time("the noise", runs).await;
    assert!(ended.iter().all(Result::is_ok));
    scene.works().await;
    scene.grew_at_most(96);

    // There is room for another watch only when the server has cut the first.
    let mut probe = JobServiceClient::new(scene.server.channel().await);
    let what = "the watch to be cut";
    let opened = poll::until_async(what, PATIENCE, async || {
        let opened = probe.watch_jobs(watch.clone()).await;
        opened.map_err(|status| status.to_string())
    })
    .await;
    drop(opened);

    // What had been sent is still there to be read, and then the reason.
    let (mut token, mut told) = (first.resume_token, 0);
    let status = loop {
        match in_time("the end of the watch", stalled.message()).await {
            Ok(Some(message)) => {
                token = message.resume_token;
                told += 1;
            }
            Ok(None) => panic!("the watch ends without a reason after {told} events"),
            Err(status) => break status,
        }
    };
    let error = coretex::Error::from(status);
    assert_eq!(
        error.reason(),
        Some(ErrorReason::WatchTooSlow),
        "after {told} events: {error:?}"
    );
    let mut resumed = scene.client.watch(WatchJobsRequest {
        resume_token: token,
        ..watch
    });
    let mut endings = 0;
    while endings == 0 || told < 2 * JOBS {
        let next = in_time("the rest", resumed.next()).await.unwrap().unwrap();
        let Some(event) = next.event else { continue };
        told += 1;
        endings += usize::from(coretex::is_final(event.to_state()));
    }
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_waits_cost_little_and_are_all_answered() {
    const WAITS: usize = 3_000;
    let mut scene = Scene::start(Options::new()).await;
    let mut ids = Vec::new();
    for n in 0..40 {
        let job = scene
            .client
            .submit("job.late", n)
            .send()
            .await
            .unwrap()
            .job
            .unwrap();
        ids.push(job.job_id);
    }
    let mut services = Vec::new();
    for _ in 0..16 {
        services.push(JobServiceClient::new(scene.server.channel().await));
    }
    let wait = |services: &[JobServiceClient<Channel>], n: usize| {
        let mut service = services[n % services.len()].clone();
        let mut request = Request::new(WaitJobRequest {
            job_id: ids[n % ids.len()].clone(),
            timeout: Some(prost_types::Duration {
                seconds: 60,
                nanos: 0,
            }),
            ..WaitJobRequest::default()
        });
        request.set_timeout(PATIENCE);
        async move { service.wait_job(request).await }
    };
    // As many again are given up by their callers soon. A connection on which a great many are
    // given up at once may be closed, so these are not those of the others.
    let (hasty, patient) = services.split_at(8);
    let soon = Duration::from_millis(500);
    let abandoned = (0..WAITS).map(|n| tokio::time::timeout(soon, wait(hasty, n)));
    for answer in join_all(abandoned).await {
        assert!(!matches!(answer, Ok(Ok(_))), "nothing has ended yet");
    }

    let waits: Vec<_> = (0..WAITS).map(|n| tokio::spawn(wait(patient, n))).collect();
    scene.works().await;
    scene.grew_at_most(160);
    let _worker = RunningWorker::echo(scene.client.clone(), "job.late", 8).await;
    for answer in in_time("all waits", join_all(waits)).await {
        let job = answer.unwrap().unwrap().into_inner().job.unwrap();
        assert_eq!(job.state(), coretex::JobState::Succeeded);
    }
    scene.works().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_submits_without_end_is_told_to_wait() {
    const MOST: usize = 50;
    let options = Options::new().set("CORETEX_LIMITS_MAX_WAITING_JOBS", "50");
    let mut scene = Scene::start(options).await;
    let client = scene.client.with_attempts(1);
    let submits = stream::iter(0..400).map(|n| client.submit("job.pile", n).send());
    let answers: Vec<_> = submits.buffer_unordered(64).collect().await;
    let accepted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(accepted, MOST, "the limit is exact");
    for error in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        assert_eq!(
            error.reason(),
            Some(ErrorReason::TooManyWaitingJobs),
            "{error:?}"
        );
        assert!(error.retry_after().is_some());
    }
    let requests = (0..10).map(|n| client.submit("job.pile", n).into_request().unwrap());
    let batch = SubmitJobsRequest {
        requests: requests.collect(),
    };
    let answer = client.submit_jobs(batch).await.unwrap();
    assert!(answer.results.iter().all(|result| {
        matches!(
            result.outcome,
            Some(coretex::proto::submit_jobs_result::Outcome::Status(_))
        )
    }));

    let _worker = RunningWorker::echo(client.clone(), "job.pile", 8).await;
    poll::until_async("the pile to be worked off", PATIENCE, async || {
        let filter = JobFilter {
            topics: vec!["job.pile".into()],
            states: vec![coretex::JobState::Succeeded.into()],
            ..JobFilter::default()
        };
        let request = CountJobsRequest {
            filter: Some(filter),
        };
        match client.count_jobs(request).await.unwrap().count {
            50 => Ok(()),
            count => Err(format!("{count} done")),
        }
    })
    .await;
    scene.works().await;
}
