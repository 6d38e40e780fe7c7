//! `coretexctl approval ...`.

use clap::{Args, Subcommand, ValueEnum};
use coretex::proto::ApprovalState;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List approvals, newest first; those that wait, unless --state or --all-states says otherwise
    List {
        #[command(flatten)]
        filter: Filter,
        /// The most approvals to list
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// List all approvals that match, however many
        #[arg(long, conflicts_with = "limit")]
        all: bool,
        /// Go on where an earlier list with the same filter ended
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
    },
    /// Show an approval: what is to be approved, why, by whom, and what was said
    Get {
        #[command(flatten)]
        id: ApprovalId,
    },
    /// Approve it: shows the job, its input, rule and risks, and asks
    ///
    /// What is approved is what was shown: had it changed since, nothing would be.
    Approve(Vote),
    /// Reject it: the job ends DENIED. Shows it and asks, as approve does
    Reject(Vote),
    /// Print what happens to approvals, as it happens
    Watch {
        #[command(flatten)]
        filter: Filter,
        /// Go on where an earlier list or watch ended
        #[arg(long, value_name = "TOKEN")]
        resume_token: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ApprovalId {
    /// The approval
    #[arg(value_name = "APPROVAL_ID")]
    pub(crate) approval_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Vote {
    #[command(flatten)]
    pub(crate) id: ApprovalId,
    /// Why, for people; some rules ask for it
    #[arg(long, short = 'm', value_name = "TEXT")]
    pub(crate) reason: Option<String>,
    /// What to answer beside the verdict, as JSON
    #[arg(long, value_name = "JSON")]
    pub(crate) answer: Option<String>,
    /// The hash of what you have looked at, if that was elsewhere: nothing is shown, and another one
    /// is refused
    #[arg(long, value_name = "HASH")]
    pub(crate) hash: Option<String>,
    /// Makes repeating the command safe [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    pub(crate) yes: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Filter")]
pub(crate) struct Filter {
    /// Only approvals in this state; may be repeated, or a list with commas
    #[arg(
        long = "state",
        value_enum,
        value_name = "STATE",
        value_delimiter = ',',
        ignore_case = true
    )]
    pub(crate) states: Vec<State>,
    /// Approvals in any state
    #[arg(long, conflicts_with = "states")]
    pub(crate) all_states: bool,
    /// Only approvals of this job
    #[arg(long = "job", value_name = "JOB_ID")]
    pub(crate) job_id: Option<String>,
    /// Only jobs of this topic; may be repeated
    #[arg(long = "topic", value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// Only jobs that this principal submitted
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) requested_by: Option<String>,
    /// Only approvals that this rule asks for
    #[arg(long = "rule", value_name = "RULE_ID")]
    pub(crate) rule_id: Option<String>,
}

/// States of approvals.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum State {
    Pending,
    Approved,
    Rejected,
    Expired,
    Withdrawn,
}

impl From<State> for ApprovalState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::Approved => Self::Approved,
            State::Rejected => Self::Rejected,
            State::Expired => Self::Expired,
            State::Withdrawn => Self::Withdrawn,
        }
    }
}
