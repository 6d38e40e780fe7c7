//! `job output`, `job logs`, and what `worker exec` streams.

use coretex::proto::open_session_request::Message as FromWorker;
use coretex::proto::*;
use coretex::{JobState, Payload};
use serde_json::json;

use crate::support::{Scene, failed, job};

fn piece(attempt: i32, sequence: i32, chunk: &'static [u8]) -> ReadJobOutputResponse {
    ReadJobOutputResponse {
        attempt,
        sequence,
        channel: OutputChannel::Log.into(),
        chunk: chunk.into(),
        ..ReadJobOutputResponse::default()
    }
}

fn streams(scene: &Scene, pieces: Vec<ReadJobOutputResponse>) {
    scene.fake.output.set(move |_| Ok(pieces.clone()));
}

fn ends(scene: &Scene, answer: Job) {
    scene.fake.get_job.set(move |_| {
        Ok(GetJobResponse {
            job: Some(answer.clone()),
        })
    });
}

#[tokio::test]
async fn output_is_written_as_it_is() {
    let scene = Scene::new().await;
    let mut pieces = vec![
        piece(1, 1, b"to be "),
        piece(1, 2, b"or\xc3"),
        piece(1, 3, b"\xa4"),
    ];
    for piece in &mut pieces {
        piece.channel = OutputChannel::Output.into();
    }
    streams(&scene, pieces);
    let ran = scene.run(&["job", "output", "j"]).await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, "to be orä");
    assert_eq!(ran.stderr, "");
    let asked = scene.fake.output.only();
    let wanted = ReadJobOutputRequest {
        job_id: "j".to_owned(),
        channels: vec![OutputChannel::Output.into()],
        ..ReadJobOutputRequest::default()
    };
    assert_eq!(asked, wanted);
}

#[tokio::test]
async fn logs_are_lines_and_what_is_missing_is_said_aside() {
    let scene = Scene::new().await;
    let gap = ReadJobOutputResponse {
        gap: Some(OutputGap {
            dropped_chunks: 7,
            dropped_bytes: 700,
        }),
        ..piece(1, 3, b"")
    };
    streams(
        &scene,
        vec![
            piece(1, 1, b"one"),
            piece(1, 2, b""),
            gap,
            piece(2, 1, b"again"),
        ],
    );
    ends(&scene, job("j", JobState::Succeeded));
    let ran = scene
        .run(&["job", "logs", "j", "-f", "--attempt", "1", "--from", "1"])
        .await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, "one\n\nagain\n");
    assert!(ran.stderr.contains("from piece 3 on nothing is kept"));
    assert!(ran.stderr.contains("7 pieces, 700 bytes"), "{}", ran.stderr);
    assert!(ran.stderr.ends_with("attempt 2\n"), "{}", ran.stderr);
    let asked = scene.fake.output.only();
    assert_eq!((asked.attempt, asked.from_sequence), (Some(1), 1));
    assert!(asked.follow);
    assert_eq!(asked.channels, [OutputChannel::Log as i32]);
    let ran = scene.run(&["job", "logs", "j", "--output", "json"]).await;
    let lines = ran.json_lines();
    assert_eq!(lines.len(), 4);
    assert_eq!(lines[0]["chunk"], json!("b25l"));
    assert_eq!(lines[0]["channel"], json!("OUTPUT_CHANNEL_LOG"));
    assert_eq!(lines[2]["gap"]["dropped_bytes"], json!("700"));
}

#[tokio::test]
async fn following_ends_as_the_job_does() {
    let scene = Scene::new().await;
    streams(&scene, vec![piece(1, 1, b"oh")]);
    ends(&scene, failed("j"));
    let ran = scene.run(&["job", "logs", "j", "--follow"]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), "oh\n"));
    assert!(ran.stderr.contains("ended FAILED"), "{}", ran.stderr);
    // Without it, reading is all that was asked for.
    let ran = scene.run(&["job", "logs", "j"]).await;
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    // One attempt is over, and the job goes on.
    ends(&scene, job("j", JobState::Scheduled));
    let ran = scene
        .run(&["job", "logs", "j", "-f", "--attempt", "1"])
        .await;
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    for flag in ["--attempt", "--from"] {
        let ran = scene.run(&["job", "logs", "j", flag, "0"]).await;
        assert_eq!(ran.code, Some(2), "{flag}");
    }
}

#[tokio::test]
async fn what_a_program_complains_of_is_logged_while_it_runs() {
    let mut scene = Scene::new().await;
    let script = "cat >/dev/null; for n in 1 2 3; do echo \"step $n\" >&2; done; echo; printf last >&2; exit 3";
    let args = [
        "worker", "exec", "--topic", "job.x", "--", "sh", "-c", script,
    ];
    let _worker = scene.ctl.command(&args).spawn().unwrap();
    let mut session = scene.session().await;
    session.assign("a", Some(Payload::from_json(&json!(1))));
    let mut lines = Vec::new();
    let result = loop {
        match session.any().await {
            Some(FromWorker::Output(line)) => {
                assert_eq!(line.channel(), OutputChannel::Log);
                assert_eq!(line.sequence as usize, lines.len() + 1);
                lines.push(String::from_utf8(line.chunk.to_vec()).unwrap());
            }
            Some(FromWorker::Result(result)) => break *result,
            Some(_) => {}
            None => panic!("the worker left"),
        }
    };
    assert_eq!(lines, ["step 1", "step 2", "step 3", "last"]);
    // The last lines are still what the error says.
    let error = result.error.unwrap();
    assert!(error.message.contains("step 3\nlast"), "{}", error.message);
}
