//! `coretexctl job ...`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use coretex::well_known::Timestamp;

use super::bulk::{Pace, Which};
use super::value::{self, OnLimit, OnWorkerLoss, Priority, State};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Submit a job, or many
    ///
    /// Prints the job as it was accepted; with --wait, as it ended. When no worker serves its topic,
    /// stderr says so at once.
    Submit(Box<Submit>),
    /// Show a job
    Get {
        #[command(flatten)]
        id: JobId,
        /// Leave out input and output
        #[arg(long)]
        basic: bool,
    },
    /// List jobs, newest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// The most jobs to list
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// List all jobs, however many
        #[arg(long, conflicts_with = "limit")]
        all: bool,
        /// Go on where an earlier list with the same filter ended
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
        /// Include inputs and outputs
        #[arg(long)]
        full: bool,
    },
    /// Count jobs
    Count {
        #[command(flatten)]
        filter: Filter,
    },
    /// Cancel a job, or all that match
    ///
    /// A job that no worker has is CANCELLED at once. A worker gets the grace to stop; a second later
    /// the job has ended, whatever the worker does.
    Cancel(Box<Cancel>),
    /// Wait until a job has ended
    ///
    /// Exits with 0 if it succeeded, 1 if it ended otherwise, 3 if it has not ended at --timeout.
    Wait {
        #[command(flatten)]
        id: JobId,
        #[command(flatten)]
        limits: WaitLimits,
    },
    /// Print what happens to a job, or to all jobs that match, as it happens
    ///
    /// With a job id: what has happened so far, then what happens until the job ends. Without: every
    /// job that matches the filter, until interrupted.
    Watch {
        /// The job
        #[arg(value_name = "JOB_ID")]
        job_id: Option<String>,
        #[command(flatten)]
        filter: Filter,
        /// Go on where an earlier watch or list ended
        #[arg(long, value_name = "TOKEN")]
        resume_token: Option<String>,
    },
    /// Write what a job streams as its output, for example tokens, to stdout as it is
    ///
    /// What has been streamed so far; with --follow also what comes until the job ends. The result of
    /// a job is not here: see `job wait --result-only`.
    Output {
        #[command(flatten)]
        read: ReadOutput,
    },
    /// Print the log lines of a job: of `worker exec`, what the program writes to stderr
    ///
    /// What has been logged so far; with --follow also what comes until the job ends.
    Logs {
        #[command(flatten)]
        read: ReadOutput,
    },
    /// Say why a job is not running and what would start it, or how it ended
    Diagnose {
        #[command(flatten)]
        id: JobId,
    },
    /// Show what happened to a job
    Events {
        #[command(flatten)]
        id: JobId,
    },
    /// Show how often a job was tried, by whom, and how that ended
    Attempts {
        #[command(flatten)]
        id: JobId,
    },
    /// Show what the safety kernel decided about a job
    Decisions {
        #[command(flatten)]
        id: JobId,
    },
    /// Submit a new job like one that has ended, or like each that matches
    Rerun(Box<Rerun>),
}

#[derive(Debug, Args)]
pub(crate) struct ReadOutput {
    #[command(flatten)]
    pub(crate) id: JobId,
    /// Go on until the job has ended
    ///
    /// Exits with 0 if it succeeded, 1 if it ended otherwise.
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only of this attempt [default: all, one after the other]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) attempt: Option<i32>,
    /// Leave out what comes before this piece, counted from 1 in each attempt
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) from: Option<i32>,
}

#[derive(Debug, Args)]
pub(crate) struct JobId {
    /// The job
    #[arg(value_name = "JOB_ID")]
    pub(crate) job_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Why, for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// How long the worker has to stop by itself, at most 1h [default: 30s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) grace: Option<Duration>,
    /// End the job at once and tell the worker afterwards
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) pace: Pace,
    /// Do not ask before many jobs are cancelled
    #[arg(long, short, help_heading = "Many at once")]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// The topic: dotted words that start with `job.`
    #[arg(value_name = "TOPIC", conflicts_with = "topic_flag")]
    pub(crate) topic: Option<String>,
    /// The topic, as a flag
    #[arg(id = "topic_flag", long = "topic", value_name = "TOPIC")]
    pub(crate) topic_flag: Option<String>,
    #[command(flatten)]
    pub(crate) input: Input,
    /// Submit many jobs: one JSON object per line of FILE (`-` is stdin)
    ///
    /// A line is a SubmitJobRequest as proto JSON; an `input` that is not a Payload is taken as the
    /// data itself: {"topic": "job.wc", "input": {"text": "to be"}}. Flags fill in what a line leaves
    /// out. Prints one line per job; refused lines go to stderr with their number, and the exit code
    /// is then 1.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["input", "input_file", "content_type", "job_id", "idempotency_key", "watch", "result_only"]
    )]
    pub(crate) batch: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) follow: Follow,
    #[command(flatten)]
    pub(crate) identity: Identity,
    #[command(flatten)]
    pub(crate) time: Time,
    #[command(flatten)]
    pub(crate) retry: Retry,
    #[command(flatten)]
    pub(crate) placement: Placement,
    #[command(flatten)]
    pub(crate) policy: Policy,
}

#[derive(Debug, Args)]
pub(crate) struct Input {
    /// The input, as JSON
    #[arg(long, value_name = "JSON", conflicts_with_all = ["input_file", "content_type"])]
    pub(crate) input: Option<String>,
    /// The input, from a file (`-` is stdin): JSON if it is JSON, else its bytes as they are
    #[arg(long, value_name = "FILE")]
    pub(crate) input_file: Option<PathBuf>,
    /// Send the file's bytes as they are, with this media type, even if they are JSON
    #[arg(long, value_name = "TYPE", requires = "input_file")]
    pub(crate) content_type: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub(crate) struct Follow {
    /// Wait until the job has ended
    ///
    /// Exits with 0 if it succeeded, 1 if it ended otherwise, 3 if it has not ended at --timeout, 4 if
    /// it waits for an approval with --no-approval-wait.
    #[arg(long)]
    pub(crate) wait: bool,
    /// Wait, and print what happens to the job as it happens
    #[arg(long)]
    pub(crate) watch: bool,
    #[command(flatten)]
    pub(crate) limits: WaitLimits,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Waiting")]
pub(crate) struct WaitLimits {
    /// Wait no longer than this [default: as long as it takes]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) timeout: Option<Duration>,
    /// Do not wait for people: exit with 4 when the job needs an approval
    #[arg(long)]
    pub(crate) no_approval_wait: bool,
    /// Print nothing but the output of a job that succeeded: text without quotes, bytes as they are
    #[arg(long)]
    pub(crate) result_only: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Job")]
pub(crate) struct Identity {
    /// Id of the job [default: the server makes one]
    #[arg(long, value_name = "ID")]
    pub(crate) job_id: Option<String>,
    /// Makes submitting again safe: the same key gives the same job [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Label, for finding the job and for policy; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = value::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// How soon the job is served [default: interactive]
    #[arg(long, value_enum, value_name = "PRIORITY")]
    pub(crate) priority: Option<Priority>,
    /// Team that the job is for
    #[arg(long, value_name = "TEAM")]
    pub(crate) team: Option<String>,
    /// Memory (conversation, session) that the work belongs to
    #[arg(long, value_name = "MEMORY")]
    pub(crate) memory: Option<String>,
    /// Job that causes this one
    #[arg(long, value_name = "JOB_ID")]
    pub(crate) parent: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Time")]
pub(crate) struct Time {
    /// How long one attempt may take [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) attempt_timeout: Option<Duration>,
    /// How long the job may be ready without being handed out [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) schedule_to_start_timeout: Option<Duration>,
    /// When the job ends at the latest, from now [default: never]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) deadline_after: Option<Duration>,
    /// Do not run the job before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = value::time, conflicts_with = "delay")]
    pub(crate) not_before: Option<Timestamp>,
    /// Do not run the job before so much time has passed
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) delay: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Retry")]
pub(crate) struct Retry {
    /// The most attempts that may fail, the first included [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) retry_max_attempts: Option<i32>,
    /// Pause before the first retry [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) backoff: Option<Duration>,
    /// What the pause grows by [default: 2]
    #[arg(long, value_name = "FACTOR")]
    pub(crate) backoff_multiplier: Option<f64>,
    /// The longest pause [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) max_backoff: Option<Duration>,
    /// How far a pause may be off, from 0 to 1 [default: 0.2]
    #[arg(long, value_name = "PART")]
    pub(crate) backoff_jitter: Option<f64>,
    /// Error code that is not retried; may be repeated
    #[arg(long = "non-retryable", value_name = "CODE")]
    pub(crate) non_retryable: Vec<String>,
    /// What happens when the worker is lost [default: retry]
    #[arg(long, value_enum, value_name = "POLICY")]
    pub(crate) on_worker_loss: Option<OnWorkerLoss>,
    /// How often the job may be handed out again after a loss [default: 3]
    #[arg(long, value_name = "N")]
    pub(crate) max_redispatch: Option<i32>,
    /// The worker begins only when the server has confirmed it: never after a cancel
    #[arg(long)]
    pub(crate) confirm_start: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Placement")]
pub(crate) struct Placement {
    /// Pool to use while it has a free worker
    #[arg(long, value_name = "POOL")]
    pub(crate) prefer_pool: Option<String>,
    /// Worker to use while it is free
    #[arg(long, value_name = "WORKER_ID")]
    pub(crate) prefer_worker: Option<String>,
    /// Label that the worker must have; may be repeated
    #[arg(long = "worker-label", value_name = "KEY=VALUE", value_parser = value::pair)]
    pub(crate) worker_labels: Vec<(String, String)>,
    /// Capability that the worker must have; may be repeated
    #[arg(long = "requires", value_name = "CAPABILITY")]
    pub(crate) requires: Vec<String>,
    /// How many parallel slots of its worker an attempt takes [default: 1]
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<i32>,
    /// Key by which jobs of one tenant take turns
    #[arg(long, value_name = "KEY")]
    pub(crate) fairness_key: Option<String>,
    /// Key whose jobs run at most --concurrency-limit at once
    #[arg(long, value_name = "KEY", requires = "concurrency_limit")]
    pub(crate) concurrency_key: Option<String>,
    /// The most jobs of the key at once
    #[arg(long, value_name = "N", requires = "concurrency_key")]
    pub(crate) concurrency_limit: Option<i32>,
    /// What happens when the key is full [default: queue]
    #[arg(long, value_enum, value_name = "ACTION", requires = "concurrency_key")]
    pub(crate) on_limit: Option<OnLimit>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Claims for policy")]
pub(crate) struct Policy {
    /// Capability that the work uses
    #[arg(long, value_name = "CAPABILITY")]
    pub(crate) capability: Option<String>,
    /// What could go wrong; may be repeated
    #[arg(long = "risk-tag", value_name = "TAG")]
    pub(crate) risk_tags: Vec<String>,
    /// Pack that the work comes from
    #[arg(long, value_name = "PACK")]
    pub(crate) pack: Option<String>,
    /// Person or program on whose behalf the work is done
    #[arg(long, value_name = "ACTOR")]
    pub(crate) actor: Option<String>,
    /// What the job is expected to cost
    #[arg(long, value_name = "COST")]
    pub(crate) estimated_cost: Option<f64>,
    /// The most tokens that the job may use
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_total_tokens: Option<i64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Filter")]
pub(crate) struct Filter {
    /// Only jobs in this state; may be repeated, or a list with commas
    #[arg(
        long = "state",
        value_enum,
        value_name = "STATE",
        value_delimiter = ',',
        ignore_case = true
    )]
    pub(crate) states: Vec<State>,
    /// Only jobs of this topic; may be repeated
    #[arg(long = "topic", value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// Only jobs with this label; may be repeated: all must match
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = value::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Only jobs that this worker has or last had
    #[arg(long, value_name = "WORKER_ID")]
    pub(crate) worker: Option<String>,
    /// Only jobs that this principal submitted
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) principal: Option<String>,
    /// Only jobs of this team
    #[arg(long, value_name = "TEAM")]
    pub(crate) team: Option<String>,
    /// Only jobs of this trace
    #[arg(long, value_name = "TRACE_ID")]
    pub(crate) trace: Option<String>,
    /// Only jobs of this workflow run
    #[arg(long, value_name = "RUN_ID")]
    pub(crate) run: Option<String>,
    /// Only jobs that this job caused
    #[arg(long, value_name = "JOB_ID")]
    pub(crate) parent: Option<String>,
    /// Only jobs accepted at this time (RFC 3339, or `2h` for two hours ago) or later
    #[arg(long, value_name = "TIME", value_parser = value::time_or_ago)]
    pub(crate) created_after: Option<Timestamp>,
    /// Only jobs accepted before this time
    #[arg(long, value_name = "TIME", value_parser = value::time_or_ago)]
    pub(crate) created_before: Option<Timestamp>,
}

#[derive(Debug, Args)]
pub(crate) struct Rerun {
    #[command(flatten)]
    pub(crate) which: Which,
    #[command(flatten)]
    pub(crate) edits: Edits,
    /// Makes repeating the command safe: the same key gives the same job [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    #[command(flatten)]
    pub(crate) pace: Pace,
    #[command(flatten)]
    pub(crate) follow: Follow,
}

/// How a new job differs from the one that it repeats.
#[derive(Debug, Args)]
pub(crate) struct Edits {
    #[command(flatten)]
    pub(crate) input: Input,
    /// Another topic
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// Another priority
    #[arg(long, value_enum, value_name = "PRIORITY")]
    pub(crate) priority: Option<Priority>,
    /// Label to add or overwrite; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = value::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Label to remove; may be repeated
    #[arg(long = "remove-label", value_name = "KEY")]
    pub(crate) remove_labels: Vec<String>,
    /// Another limit on how long one attempt may take
    #[arg(long, value_name = "DURATION", value_parser = value::duration)]
    pub(crate) attempt_timeout: Option<Duration>,
}
