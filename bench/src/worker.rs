//! The no-op worker: answers every job with its input.

use std::time::Duration;

use coretex::{Client, Worker};

use crate::Result;

/// What it is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Servers, the first one first.
    #[arg(long, value_delimiter = ',')]
    server: Vec<String>,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    parallel: usize,
    /// How long a job takes.
    #[arg(long, default_value_t = 0)]
    work_ms: u64,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let client = Client::builder().servers(args.server).build()?;
    let work = Duration::from_millis(args.work_ms);
    let worker = Worker::new(client)
        .topic(args.topic)
        .max_parallel_jobs(args.parallel)
        .handler(move |_context, job| async move {
            if !work.is_zero() {
                tokio::time::sleep(work).await;
            }
            Ok(job.input)
        });
    let mut handle = worker.handle();
    let running = tokio::spawn(worker.run());
    if handle.connected().await {
        crate::report::line("connected");
    }
    running.await??;
    Ok(())
}
