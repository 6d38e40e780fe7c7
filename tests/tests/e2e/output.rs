//! What jobs stream while they run, from a handler to a reader: live, late, in parts, across
//! connections that break and servers that are killed.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use coretex::proto::{OutputChannel, ReadJobOutputRequest, ReadJobOutputResponse};
use coretex::{Client, JobFailure, JobOutput, JobState};
use coretex_tests::cluster::backends::Pair;
use coretex_tests::cluster::cli::{self, Running, run};
use coretex_tests::cluster::proxy::Proxy;
use coretex_tests::cluster::server::{self, Server};
use coretex_tests::cluster::worker::RunningWorker;
use coretex_tests::cluster::{PATIENCE, in_time};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::until_state;

fn follow(client: &Client, job_id: &str) -> JobOutput {
    client.read_output(ReadJobOutputRequest {
        job_id: job_id.to_owned(),
        follow: true,
        ..ReadJobOutputRequest::default()
    })
}

async fn next(output: &mut JobOutput) -> Option<ReadJobOutputResponse> {
    in_time("a piece of output", output.next())
        .await
        .transpose()
        .unwrap()
}

async fn rest(mut output: JobOutput) -> Vec<ReadJobOutputResponse> {
    let mut all = Vec::new();
    while let Some(piece) = next(&mut output).await {
        all.push(piece);
    }
    all
}

fn text(piece: &ReadJobOutputResponse) -> String {
    String::from_utf8(piece.chunk.to_vec()).unwrap()
}

/// Submits a job, perhaps with retries, and answers with its id.
async fn submit(client: &Client, topic: &str, attempts: i32) -> String {
    let submit = client.submit(topic, json!(1)).max_attempts(attempts);
    submit.send().await.unwrap().job.unwrap().job_id
}

async fn tokens_and_logs_are_read_live_late_and_in_parts(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let _worker = RunningWorker::serve(client.clone(), "job.tell", 1, move |ctx, _job| {
        let held = Arc::clone(&held);
        async move {
            for count in 1..=5 {
                held.acquire().await?.forget();
                ctx.output(format!("token {count} ")).await;
                ctx.log(format!("line {count}\n")).await;
            }
            if ctx.attempt() == 1 {
                return Err(JobFailure::new("again", "once more"));
            }
            Ok("told")
        }
    })
    .await;
    let job_id = submit(&client, "job.tell", 2).await;
    let mut live = follow(&client, &job_id);
    for attempt in 1..=2 {
        for count in 1..=5 {
            gate.add_permits(1);
            // Each is there before the next is said.
            let (one, two) = (
                next(&mut live).await.unwrap(),
                next(&mut live).await.unwrap(),
            );
            assert_eq!((one.attempt, one.sequence), (attempt, count));
            assert_eq!(one.channel(), OutputChannel::Output);
            assert_eq!(text(&one), format!("token {count} "));
            assert_eq!((two.attempt, two.sequence), (attempt, count));
            assert_eq!(two.channel(), OutputChannel::Log);
            assert_eq!(text(&two), format!("line {count}"));
            assert!(two.time.is_some());
        }
    }
    assert!(next(&mut live).await.is_none());
    until_state(&client, &job_id, JobState::Succeeded).await;

    let all = rest(follow(&client, &job_id)).await;
    assert_eq!(all.len(), 20);
    let asked = |change: &dyn Fn(&mut ReadJobOutputRequest)| {
        let mut request = ReadJobOutputRequest {
            job_id: job_id.clone(),
            ..ReadJobOutputRequest::default()
        };
        change(&mut request);
        client.read_output(request)
    };
    for at in [0, 9, 10, 18, 19] {
        let token = all[at].resume_token.clone();
        let left = rest(asked(&|request| request.resume_token.clone_from(&token))).await;
        assert_eq!(left, all[at + 1..], "after {at}");
    }
    let second = rest(asked(&|request| {
        request.attempt = Some(2);
        request.channels = vec![OutputChannel::Log.into()];
        request.from_sequence = 4;
    }))
    .await;
    let second: Vec<_> = second.iter().map(text).collect();
    assert_eq!(second, ["line 4", "line 5"]);
}

async fn nothing_is_lost_or_doubled_though_connections_break_and_the_server_is_killed(pair: &Pair) {
    const LINES: i32 = 4_000;
    let mut server = Server::start(pair.options()).await;
    let (of_worker, of_reader) = (
        Proxy::start(server.address()).await,
        Proxy::start(server.address()).await,
    );
    let worker = server::client(&of_worker.url(), "");
    let _worker = RunningWorker::serve(worker, "job.talk", 1, |ctx, _job| async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        for count in 1..=LINES {
            ctx.log(format!("line {count}")).await;
            if count % 4 == 0 {
                ticks.tick().await;
            }
        }
        Ok("said")
    })
    .await;
    let client = server.client();
    let job_id = submit(&client, "job.talk", 1).await;
    let mut live = follow(&server::client(&of_reader.url(), ""), &job_id);
    for count in 1..=LINES {
        let piece = next(&mut live).await.unwrap();
        assert_eq!((piece.attempt, piece.sequence), (1, count));
        assert_eq!(text(&piece), format!("line {count}"));
        match count {
            1_000 | 3_000 => of_worker.cut(),
            1_500 | 3_500 => of_reader.cut(),
            2_000 => {
                server.kill().await;
                server.restart().await;
            }
            _ => {}
        }
    }
    assert!(next(&mut live).await.is_none());
    let job = client.wait_ended(&job_id, Some(PATIENCE)).await.unwrap();
    assert_eq!((job.state(), job.attempt), (JobState::Succeeded, 1));
    let stored = rest(follow(&client, &job_id)).await;
    let sequences: Vec<i32> = stored.iter().map(|piece| piece.sequence).collect();
    assert_eq!(sequences, (1..=LINES).collect::<Vec<_>>());
}

async fn a_flood_ends_with_a_gap_and_a_slow_reader_holds_nobody_up(pair: &Pair) {
    const MIB: usize = 1024 * 1024;
    let server = Server::start(pair.options()).await;
    let client = server.client();
    let _worker = RunningWorker::serve(client.clone(), "job.flood", 1, |ctx, _job| async move {
        let chunk = vec![b'x'; 16 * 1024];
        for _ in 0..6 * MIB / chunk.len() {
            ctx.output(&chunk).await;
        }
        ctx.log("flooded").await;
        Ok("done")
    })
    .await;
    let job_id = submit(&client, "job.flood", 1).await;
    let mut slow = follow(&client, &job_id);
    let first = next(&mut slow).await.unwrap();
    // It reads nothing more until the job is done, and then misses nothing all the same.
    let job = client.wait_ended(&job_id, Some(PATIENCE)).await.unwrap();
    assert_eq!(job.state(), JobState::Succeeded, "{job:?}");
    let mut all = vec![first];
    all.extend(rest(slow).await);
    let kept: usize = all.iter().map(|piece| piece.chunk.len()).sum();
    assert_eq!(kept, 4 * MIB + "flooded".len());
    let gaps: Vec<_> = all.iter().filter(|piece| piece.gap.is_some()).collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].channel(), OutputChannel::Output);
    assert_eq!(gaps[0].sequence, 257);
    let late = rest(follow(&client, &job_id)).await;
    let gap = late.iter().find_map(|piece| piece.gap.as_ref()).unwrap();
    assert_eq!(
        (gap.dropped_chunks, gap.dropped_bytes),
        (128, 2 * MIB as i64)
    );
    assert_eq!(text(late.last().unwrap()), "flooded");
}

async fn what_a_program_says_is_read_while_it_runs_and_afterwards(pair: &Pair) {
    let server = Server::start(pair.options()).await;
    // It goes on when somebody has read what it said.
    let go = server.folder().join("go");
    let script = format!(
        "echo started >&2; while [ ! -e {} ]; do sleep 0.05; done; echo going >&2; echo done",
        go.display()
    );
    let exec = ["worker", "exec", "--topic", "job.says", "--", "sh", "-c"];
    let mut command = cli::command(&server);
    let _worker = Running::start(command.args(exec).arg(&script));
    let submit = ["job", "submit", "job.says", "--job-id", "said"];
    let submitted = run(&server, submit).await.code(0);
    assert!(submitted.contains("said"), "{submitted}");
    let mut command = cli::command(&server);
    let mut logs = Running::start(command.args(["job", "logs", "said", "-f"]));
    assert_eq!(logs.line().await.as_deref(), Some("started"));
    fs::write(&go, "").unwrap();
    let logs = logs.end().await;
    assert_eq!((logs.code, logs.stdout.as_str()), (Some(0), "going\n"));
    let late = run(&server, ["job", "logs", "said"]).await.code(0);
    assert_eq!(late, "started\ngoing\n");
    let part = run(&server, ["job", "logs", "said", "--from", "2"]).await;
    assert_eq!(part.code(0), "going\n");
    // What it wrote to stdout is its result, and was not streamed.
    let output = run(&server, ["job", "output", "said"]).await.code(0);
    assert_eq!(output, "");
    let missing = run(&server, ["job", "logs", "nobody"]).await;
    assert!(missing.stderr.contains("JOB_NOT_FOUND"), "{missing:?}");
    assert_eq!(missing.code, Some(1));
}

on_both_pairs!(
    what_a_program_says_is_read_while_it_runs_and_afterwards,
    tokens_and_logs_are_read_live_late_and_in_parts,
    nothing_is_lost_or_doubled_though_connections_break_and_the_server_is_killed,
    a_flood_ends_with_a_gap_and_a_slow_reader_holds_nobody_up,
);
