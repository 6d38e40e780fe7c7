//! The no-op worker: answers every job with its input.

use coretex::{Client, Worker};

use crate::Result;

/// What it is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    server: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    parallel: usize,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let client = Client::new(args.server)?;
    let worker = Worker::new(client)
        .topic(args.topic)
        .max_parallel_jobs(args.parallel)
        .handler(|_context, job| async move { Ok(job.input) });
    let mut handle = worker.handle();
    let running = tokio::spawn(worker.run());
    if handle.connected().await {
        crate::report::line("connected");
    }
    running.await??;
    Ok(())
}
