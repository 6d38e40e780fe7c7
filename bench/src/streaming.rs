//! Streamed output: how much of it a server stores, and hands to readers that follow.

use std::time::{Duration, Instant};

use coretex::proto::{ReadJobOutputRequest, SubmitJobRequest, WaitJobRequest};
use coretex::{Client, JobState};
use futures::TryStreamExt;

use crate::Result;
use crate::load;
use crate::report::Figure;
use crate::rows::{Bench, CONNECTIONS, MIB, TOPIC};
use crate::server::{Keeping, Worker};

/// Jobs that stream at once.
const AT_ONCE: usize = 8;
/// What each of them streams: less than what is kept of a channel.
const BYTES: usize = 3 * 1024 * 1024;

impl Bench {
    /// Jobs that stream, without readers and with one that follows each.
    pub(crate) async fn streaming(&mut self, keeping: Keeping) -> Result<()> {
        for follow in [false, true] {
            let server = self.start(keeping)?;
            let worker = Worker::spawn(&[
                "worker",
                "--server",
                &server.url,
                "--topic",
                TOPIC,
                "--parallel",
                &AT_ONCE.to_string(),
                "--stream-bytes",
                &BYTES.to_string(),
            ])?;
            let client = load::client(&server.url, CONNECTIONS)?;
            let jobs = 80 / self.scale;
            let (server_cpu, worker_cpu) = (server.cpu()?, worker.cpu()?);
            let begun = Instant::now();
            let mut running = tokio::task::JoinSet::new();
            let mut read = 0;
            for _ in 0..jobs {
                while running.len() >= AT_ONCE {
                    read += running.join_next().await.ok_or("no job")???;
                }
                running.spawn(one(client.clone(), follow));
            }
            while let Some(done) = running.join_next().await {
                read += done??;
            }
            let took = begun.elapsed().as_secs_f64();
            let streamed = (jobs * BYTES) as f64 / MIB;
            if follow && read != jobs * BYTES {
                return Err(format!("{read} of {} bytes were read", jobs * BYTES).into());
            }
            let per_mib = |now: Duration, before: Duration| {
                now.saturating_sub(before).as_secs_f64() * 1e3 / streamed
            };
            let figures = vec![
                Figure::new("streamed and stored", streamed / took, "MiB/s"),
                Figure::new(
                    "CPU of coretexd",
                    per_mib(server.cpu()?, server_cpu),
                    "ms/MiB",
                ),
                Figure::new(
                    "CPU of the worker",
                    per_mib(worker.cpu()?, worker_cpu),
                    "ms/MiB",
                ),
                Figure::new("RSS of coretexd", server.rss()? as f64 / MIB, "MiB"),
            ];
            let readers = if follow {
                "each read while it comes"
            } else {
                "nobody reads"
            };
            let title = format!("{AT_ONCE} jobs stream 3 MiB each, in pieces of 4 KiB; {readers}");
            self.push("q", &title, keeping, figures);
        }
        Ok(())
    }
}

/// Runs a job, and reads what it streams; how many bytes were read.
async fn one(client: Client, follow: bool) -> Result<usize> {
    let submitted = client
        .submit_job(SubmitJobRequest {
            topic: TOPIC.to_owned(),
            idempotency_key: uuid::Uuid::now_v7().to_string(),
            ..SubmitJobRequest::default()
        })
        .await?;
    let job_id = submitted.job.ok_or("no job")?.job_id;
    let mut read = 0;
    if follow {
        let mut pieces = client.read_output(ReadJobOutputRequest {
            job_id: job_id.clone(),
            follow: true,
            ..ReadJobOutputRequest::default()
        });
        while let Some(piece) = pieces.try_next().await? {
            read += piece.chunk.len();
        }
    }
    let wait = Some(coretex::proto_time::duration_from_std(Duration::from_secs(
        60,
    )));
    let request = WaitJobRequest {
        job_id,
        timeout: wait,
        ..WaitJobRequest::default()
    };
    let job = client.wait_job(request).await?.job.ok_or("no job")?;
    if job.state() == JobState::Succeeded {
        Ok(read)
    } else {
        Err(format!("a job ended {:?}", job.state()).into())
    }
}
