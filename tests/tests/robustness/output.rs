//! Workers that stream what is no stream: floods that nobody asked for more of, holes, pieces of
//! others, pieces that are too large.

use coretex::proto::open_session_request::Message as Out;
use coretex::proto::open_session_response::Message as In;
use coretex::proto::{AttemptRef, OutputChannel, ReadJobOutputRequest, WorkerHello, WorkerOutput};
use coretex::{Client, Code, Error, JobExt, Payload};
use coretex_tests::cluster::in_time;
use coretex_tests::cluster::server::Options;
use coretex_tests::cluster::session::{RawWorker, attempt_of, hello, success};
use serde_json::json;

use crate::bystander::Scene;

fn piece(of: &AttemptRef, sequence: i32, chunk: Vec<u8>) -> Out {
    Out::Output(WorkerOutput {
        tenant_id: of.tenant_id.clone(),
        job_id: of.job_id.clone(),
        attempt: of.attempt,
        lease_id: of.lease_id.clone(),
        sequence,
        channel: OutputChannel::Log.into(),
        chunk: chunk.into(),
        time: None,
    })
}

async fn kept(client: &Client, job_id: &str) -> Vec<i32> {
    let mut output = client.read_output(ReadJobOutputRequest {
        job_id: job_id.to_owned(),
        ..ReadJobOutputRequest::default()
    });
    let mut sequences = Vec::new();
    while let Some(piece) = in_time("output", output.next()).await {
        sequences.push(piece.unwrap().sequence);
    }
    sequences
}

/// A worker with an attempt.
async fn begin(scene: &Scene, topic: &str) -> (RawWorker, AttemptRef) {
    let channel = scene.server.channel().await;
    let mut worker = RawWorker::open(channel, "", hello(topic, 1)).await.unwrap();
    let submit = scene.client.submit(topic, json!("x")).send();
    in_time("a job", Box::pin(submit)).await.unwrap();
    let attempt = attempt_of(&worker.assignment().await);
    (worker, attempt)
}

/// Waits for an acknowledgement of output: the piece, and whether more is asked for again.
async fn acknowledged(worker: &mut RawWorker) -> (i32, bool) {
    loop {
        if let In::OutputAck(ack) = worker.stream.next().await.unwrap() {
            return (ack.sequence, ack.resend);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_beyond_every_limit_costs_the_server_no_memory() {
    let mut scene = Scene::start(Options::new()).await;
    let (worker, attempt) = begin(&scene, "job.floods").await;
    // It does not wait for what is stored, and sends nothing again.
    for sequence in 1..=2_000 {
        let sent = worker
            .stream
            .say(piece(&attempt, sequence, vec![b'x'; 128 * 1024]));
        if !in_time("a piece to be sent", sent).await {
            break;
        }
    }
    scene.works().await;
    scene.grew_at_most(96);
    let stored = kept(&scene.client, &attempt.job_id).await;
    assert_eq!(stored, (1..=stored.len() as i32).collect::<Vec<_>>());
    assert!(stored.len() <= 4 * 8 + 1, "{} pieces", stored.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_and_pieces_of_others_are_not_kept_and_harm_nobody() {
    let scene = Scene::start(Options::new()).await;
    let (mut worker, attempt) = begin(&scene, "job.talks").await;
    let stranger = AttemptRef {
        lease_id: "0".repeat(32),
        ..attempt.clone()
    };
    worker.stream.say(piece(&stranger, 1, b"no".to_vec())).await;
    assert_eq!(acknowledged(&mut worker).await, (1, false));
    worker.stream.say(piece(&attempt, 1, b"one".to_vec())).await;
    assert_eq!(acknowledged(&mut worker).await, (1, false));
    for sequence in [3, 4, 9] {
        worker
            .stream
            .say(piece(&attempt, sequence, b"early".to_vec()))
            .await;
    }
    assert_eq!(acknowledged(&mut worker).await, (1, true));
    // A result without what is missing is not taken: both are to come again.
    worker
        .stream
        .say(success(&attempt, Payload::from_json(&json!("said"))))
        .await;
    assert_eq!(acknowledged(&mut worker).await, (1, true));
    for sequence in 2..=3 {
        worker
            .stream
            .say(piece(&attempt, sequence, b"x".to_vec()))
            .await;
    }
    worker
        .stream
        .say(success(&attempt, Payload::from_json(&json!("said"))))
        .await;
    assert!(worker.acknowledged(&attempt.lease_id).await);
    let job = scene
        .client
        .wait_ended(&attempt.job_id, None)
        .await
        .unwrap();
    assert_eq!(job.output_as::<String>().unwrap(), "said");
    assert_eq!(kept(&scene.client, &attempt.job_id).await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_that_is_too_large_ends_the_session_and_not_the_attempt() {
    let scene = Scene::start(Options::new()).await;
    let (mut worker, attempt) = begin(&scene, "job.shouts").await;
    let large = vec![b'x'; 256 * 1024 + 1];
    worker.stream.say(piece(&attempt, 1, large)).await;
    let error = Error::from(worker.stream.end().await);
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    assert_eq!(error.violations()[0].field, "output.chunk");
    let again = WorkerHello {
        running: vec![attempt.clone()],
        ..hello("job.shouts", 1)
    };
    let channel = scene.server.channel().await;
    let mut worker = RawWorker::open(channel, "", again).await.unwrap();
    assert_eq!(worker.welcome.kept, std::slice::from_ref(&attempt));
    worker
        .stream
        .say(piece(&attempt, 1, vec![b'x'; 256 * 1024]))
        .await;
    assert_eq!(acknowledged(&mut worker).await, (1, false));
    worker
        .stream
        .say(success(&attempt, Payload::from_json(&json!(1))))
        .await;
    assert!(worker.acknowledged(&attempt.lease_id).await);
    assert_eq!(kept(&scene.client, &attempt.job_id).await, [1]);
}
