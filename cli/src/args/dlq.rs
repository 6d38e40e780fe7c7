//! `coretexctl dlq ...`.

use clap::{Args, Subcommand};
use coretex::well_known::Timestamp;

use super::bulk::{From, Pace};
use super::job::{Edits, Follow};
use super::value::{self, State};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List dead letters, newest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// The most entries to list
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// List all entries, however many
        #[arg(long, conflicts_with = "limit")]
        all: bool,
        /// Go on where an earlier list with the same filter ended
        #[arg(long, value_name = "TOKEN")]
        page_token: Option<String>,
        /// Include inputs
        #[arg(long)]
        full: bool,
    },
    /// Show a dead letter: why it is one, its job, its attempts
    Get {
        #[command(flatten)]
        id: EntryId,
        /// Leave out the input
        #[arg(long)]
        basic: bool,
    },
    /// Run the job of a dead letter again, as a new job
    ///
    /// The entry is gone with it, whatever becomes of the new job.
    Retry(Box<Retry>),
    /// Retry all dead letters that match, oldest first; without a filter, every one
    ///
    /// Exits with 1 if one refused. When it breaks off, stderr says where to go on; running it again
    /// retries nothing twice.
    RetryAll {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        pace: Pace,
        /// Makes running the command again safe even after retries that failed again: the same key
        /// retries nothing twice [default: a new one]
        #[arg(long, value_name = "KEY", help_heading = "Many at once")]
        idempotency_key: Option<String>,
    },
    /// Throw a dead letter away; its job is kept for as long as others that have ended
    Delete {
        #[command(flatten)]
        id: EntryId,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Throw away all dead letters that match; without a filter, every one
    Purge {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        from: From,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct EntryId {
    /// The entry: the id of its job
    #[arg(value_name = "ENTRY_ID")]
    pub(crate) entry_id: String,
}

#[derive(Debug, Args)]
pub(crate) struct Retry {
    #[command(flatten)]
    pub(crate) id: EntryId,
    #[command(flatten)]
    pub(crate) edits: Edits,
    /// Makes repeating the command safe: the same key gives the same job [default: a new one]
    #[arg(long, value_name = "KEY")]
    pub(crate) idempotency_key: Option<String>,
    #[command(flatten)]
    pub(crate) follow: Follow,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Filter")]
pub(crate) struct Filter {
    /// Only dead letters with this reason code; may be repeated, or a list with commas
    #[arg(
        long = "reason-code",
        visible_alias = "reason",
        value_name = "CODE",
        value_delimiter = ','
    )]
    pub(crate) reason_codes: Vec<String>,
    /// Only jobs of this topic; may be repeated
    #[arg(long = "topic", value_name = "TOPIC")]
    pub(crate) topics: Vec<String>,
    /// Only jobs that ended in this state: failed, timeout, denied; may be repeated
    #[arg(
        long = "state",
        value_enum,
        value_name = "STATE",
        value_delimiter = ',',
        ignore_case = true
    )]
    pub(crate) states: Vec<State>,
    /// Only jobs with this label; may be repeated: all must match
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = value::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// Only jobs that this principal submitted
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) principal: Option<String>,
    /// Only jobs of this team
    #[arg(long, value_name = "TEAM")]
    pub(crate) team: Option<String>,
    /// Only dead letters since this time (RFC 3339, or `2h` for two hours ago)
    #[arg(long, value_name = "TIME", value_parser = value::time_or_ago)]
    pub(crate) created_after: Option<Timestamp>,
    /// Only dead letters before this time
    #[arg(long, value_name = "TIME", value_parser = value::time_or_ago)]
    pub(crate) created_before: Option<Timestamp>,
}
