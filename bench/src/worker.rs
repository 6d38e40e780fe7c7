//! The no-op worker: answers every job with its input, at once or after a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coretex::{Client, Worker};

use crate::Result;

/// What is streamed at once.
const PIECE: [u8; 4_096] = [b'x'; 4_096];
/// What a process with workers says when they are in their sessions.
pub(crate) const CONNECTED: &str = "connected";
/// What it says when it has had as many jobs as it was told.
pub(crate) const HANDLED: &str = "handled";

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
    /// Jobs take between half and one and a half of that, at random.
    #[arg(long)]
    spread: bool,
    /// The credential. Default: none.
    #[arg(long)]
    api_key: Option<String>,
    /// Streams so many bytes of output for each job, in pieces of 4 KiB.
    #[arg(long, default_value_t = 0)]
    stream_bytes: usize,
    /// Says `handled` when it has had so many jobs.
    #[arg(long)]
    report: Option<usize>,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let mut client = Client::builder().servers(args.server);
    if let Some(key) = args.api_key {
        client = client.api_key(key);
    }
    let work = Duration::from_millis(args.work_ms);
    let handled = Arc::new(AtomicUsize::new(0));
    let worker = Worker::new(client.build()?)
        .topic(args.topic)
        .max_parallel_jobs(args.parallel)
        .handler(move |context, job| {
            let handled = Arc::clone(&handled);
            async move {
                for _ in 0..args.stream_bytes / PIECE.len() {
                    context.output(PIECE).await;
                }
                if !work.is_zero() {
                    let part = if args.spread {
                        rand::random_range(0.5..1.5)
                    } else {
                        1.0
                    };
                    tokio::time::sleep(work.mul_f64(part)).await;
                }
                if Some(handled.fetch_add(1, Ordering::Relaxed) + 1) == args.report {
                    crate::report::line(HANDLED);
                }
                Ok(job.input)
            }
        });
    let mut handle = worker.handle();
    let running = tokio::spawn(worker.run());
    if handle.connected().await {
        crate::report::line(CONNECTED);
    }
    running.await??;
    Ok(())
}
