//! `coretexctl worker ...`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::value;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List workers, by name
    List {
        /// Only workers of this pool
        #[arg(long, value_name = "POOL")]
        pool: Option<String>,
        /// Only workers that serve this topic
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
    },
    /// Show a worker and what it runs
    Get {
        #[command(flatten)]
        id: WorkerId,
    },
    /// Hand no more jobs to a worker; what it runs goes on
    Drain {
        #[command(flatten)]
        id: WorkerId,
    },
    /// Hand jobs to a drained worker again
    Undrain {
        #[command(flatten)]
        id: WorkerId,
    },
    /// Make a worker of any program: run it once for every job
    ///
    /// The input is on its stdin: JSON as text, bytes as they are. What it writes to stdout is the
    /// output. Its exit code and the last lines of its stderr are the error: code exit_1 or signal_9.
    /// Lines like {"progress": 40, "message": "half way"} on file descriptor 3 are progress.
    ///
    /// In its environment: CORETEX_JOB_ID, CORETEX_ATTEMPT, CORETEX_DEADLINE (RFC 3339) and
    /// TRACEPARENT.
    ///
    /// A job that is cancelled gets SIGTERM and, when its grace is over, SIGKILL; both go to its whole
    /// process group. SIGTERM or Ctrl-C lets the worker finish what it runs and leave.
    ///
    /// For example: coretexctl worker exec --topic job.wc -- wc -w
    Exec(Exec),
}

#[derive(Debug, Args)]
pub(crate) struct WorkerId {
    /// The worker
    #[arg(value_name = "WORKER_ID")]
    pub(crate) worker_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Topic to serve; may be repeated
    #[arg(long = "topic", value_name = "TOPIC", required = true)]
    pub(crate) topics: Vec<String>,
    /// Pool to belong to [default: default]
    #[arg(long, value_name = "POOL")]
    pub(crate) pool: Option<String>,
    /// The most jobs to run at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) parallel: u32,
    /// What stdout is
    #[arg(long, value_enum, value_name = "KIND", default_value = "auto")]
    pub(crate) stdout: Stdout,
    /// Give the program a JSON string without its quotes
    #[arg(long)]
    pub(crate) raw: bool,
    /// Something this worker can do, matched against what jobs require; may be repeated
    #[arg(long = "capability", value_name = "CAPABILITY")]
    pub(crate) capabilities: Vec<String>,
    /// Label that placement may ask for; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = value::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Name of the worker [default: made of host name and process id]
    #[arg(long, value_name = "ID")]
    pub(crate) worker_id: Option<String>,
    /// How long jobs may go on when the worker is told to stop
    #[arg(long, value_name = "DURATION", default_value = "25s", value_parser = value::duration)]
    pub(crate) drain_grace: Duration,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// What the stdout of a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stdout {
    /// JSON; anything else fails the job
    Json,
    /// Text, as a JSON string; bytes if it is not UTF-8
    Text,
    /// JSON if it is a JSON object or array, else text
    Auto,
}
