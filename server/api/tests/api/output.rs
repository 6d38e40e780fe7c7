//! Streamed output through the services: what a worker sends, and what callers read of it.

use coretex_engine::Role;
use coretex_proto::v1;
use coretex_proto::v1::OutputChannel;
use coretex_proto::v1::open_session_request::Message as Said;
use coretex_proto::v1::open_session_response::Message as Told;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use crate::jobs::submit;
use crate::support::{Harness, Worker, fields, metadata, reason, submission};

fn piece(of: &v1::ServerAssignment, channel: OutputChannel, sequence: i32) -> Said {
    let job = of.job.as_ref().unwrap();
    Said::Output(v1::WorkerOutput {
        tenant_id: job.tenant_id.clone(),
        job_id: job.job_id.clone(),
        attempt: of.attempt,
        lease_id: of.lease_id.clone(),
        sequence,
        channel: channel.into(),
        chunk: format!("{sequence}").into(),
        time: None,
    })
}

/// Sends pieces of both channels and waits until they are stored.
async fn stream(worker: &mut Worker, of: &v1::ServerAssignment, count: i32) {
    let channels = [OutputChannel::Output, OutputChannel::Log];
    for sequence in 1..=count {
        for channel in channels {
            worker.say(piece(of, channel, sequence)).await;
        }
    }
    let mut open = channels.to_vec();
    while !open.is_empty() {
        match worker.hear().await {
            Ok(Some(Told::OutputAck(ack))) => {
                assert!(!ack.resend);
                let done = ack.sequence == count;
                open.retain(|channel| !done || *channel != ack.channel());
            }
            other => panic!("not an acknowledgement: {other:?}"),
        }
    }
}

async fn read(
    harness: &Harness,
    request: v1::ReadJobOutputRequest,
) -> Result<Vec<v1::ReadJobOutputResponse>, Status> {
    let mut stream = harness.jobs().read_job_output(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.push(message);
    }
    Ok(all)
}

#[tokio::test(start_paused = true)]
async fn output_is_read_from_the_start_and_from_any_place() {
    let harness = Harness::open().await;
    let mut worker = Worker::connect(&harness, "job.x", 1).await;
    let job = submit(&harness, submission("job.x")).await;
    let assignment = worker.assignment().await;
    stream(&mut worker, &assignment, 20).await;
    let following = {
        let request = v1::ReadJobOutputRequest {
            job_id: job.job_id.clone(),
            follow: true,
            ..v1::ReadJobOutputRequest::default()
        };
        let mut jobs = harness.jobs();
        jobs.read_job_output(request).await.unwrap().into_inner()
    };
    worker.succeed(&assignment, v1::Payload::default()).await;
    let mut following = following;
    let mut all = Vec::new();
    while let Some(message) = following.message().await.unwrap() {
        all.push(message);
    }
    assert_eq!(all.len(), 40);
    for message in &all {
        assert_eq!(message.attempt, 1);
        assert_eq!(message.chunk, message.sequence.to_string());
        assert!(message.time.is_some() && message.gap.is_none());
    }
    let asked = |change: fn(&mut v1::ReadJobOutputRequest)| {
        let mut request = v1::ReadJobOutputRequest {
            job_id: job.job_id.clone(),
            ..v1::ReadJobOutputRequest::default()
        };
        change(&mut request);
        request
    };
    assert_eq!(read(&harness, asked(|_| {})).await.unwrap(), all);
    let logs = asked(|request| {
        request.channels = vec![OutputChannel::Log.into()];
        request.from_sequence = 15;
    });
    let logs = read(&harness, logs).await.unwrap();
    assert_eq!(logs.len(), 6);
    assert!(
        logs.iter()
            .all(|message| message.channel() == OutputChannel::Log)
    );
    let resumed = v1::ReadJobOutputRequest {
        resume_token: all[24].resume_token.clone(),
        ..asked(|_| {})
    };
    assert_eq!(read(&harness, resumed).await.unwrap(), all[25..]);
    // Tokens are of one job.
    let other = submit(&harness, submission("job.y")).await;
    let foreign = v1::ReadJobOutputRequest {
        job_id: other.job_id,
        resume_token: all[24].resume_token.clone(),
        ..v1::ReadJobOutputRequest::default()
    };
    let refused = read(&harness, foreign).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(reason(&refused), "RESUME_TOKEN_INVALID");
}

#[tokio::test(start_paused = true)]
async fn wrong_requests_are_refused_by_field() {
    let harness = Harness::open().await;
    let wrong = v1::ReadJobOutputRequest {
        job_id: "no job!".to_owned(),
        attempt: Some(0),
        channels: vec![7],
        from_sequence: -1,
        ..v1::ReadJobOutputRequest::default()
    };
    let refused = read(&harness, wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let mut named = fields(&refused);
    named.sort();
    assert_eq!(named, ["attempt", "channels[0]", "from_sequence", "job_id"]);
    let missing = v1::ReadJobOutputRequest {
        job_id: "nobody".to_owned(),
        ..v1::ReadJobOutputRequest::default()
    };
    let refused = read(&harness, missing).await.unwrap_err();
    assert_eq!(reason(&refused), "JOB_NOT_FOUND");
}

#[tokio::test(start_paused = true)]
async fn who_sees_no_payloads_sees_no_output() {
    let harness = Harness::closed().await;
    for (role, may) in [
        (Role::Admin, true),
        (Role::Operator, true),
        (Role::Approver, true),
        (Role::Viewer, false),
        (Role::Auditor, false),
        (Role::Worker, false),
    ] {
        let key = harness.key("acme", &[role]).await;
        let mut request = Request::new(v1::ReadJobOutputRequest {
            job_id: "j".to_owned(),
            ..v1::ReadJobOutputRequest::default()
        });
        let credential = MetadataValue::try_from(format!("Bearer {key}")).unwrap();
        request.metadata_mut().insert("authorization", credential);
        let refused = harness.jobs().read_job_output(request).await.unwrap_err();
        if may {
            assert_eq!(reason(&refused), "JOB_NOT_FOUND", "{role:?}");
        } else {
            assert_eq!(reason(&refused), "PERMISSION_MISSING", "{role:?}");
            let named = metadata(&refused, "permission");
            assert_eq!(named.as_deref(), Some("jobs.output"));
        }
    }
}
