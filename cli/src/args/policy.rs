//! `coretexctl policy ...`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use coretex::well_known::Timestamp;

use super::job::{Input, Policy};
use super::value::Priority;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Check bundles, without a server
    ///
    /// Tells everything that is wrong as a compiler does: file:line:column: error: what. Rules that
    /// are never reached are warnings. Ends with 1 when there is an error.
    ///
    /// For example: coretexctl policy check policy/*.yaml
    Check {
        /// Bundles in YAML or JSON; files of cases are checked as such
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Run the cases of bundles, without a server
    ///
    /// All bundles that are given are in force together, each under the name of its file without
    /// the ending. The cases of a bundle `db.yaml` are in `db.cases.yaml` beside it; further files
    /// of cases may be given, too. Tells which rules the cases never came to. Ends with 1 when a
    /// case fails.
    ///
    /// For example: coretexctl policy test policy/*.yaml
    Test {
        /// Bundles, and files of cases (*.cases.yaml)
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Ask what policy says about a job, without submitting it
    ///
    /// Exits with 0 if the job may run, 1 otherwise.
    Evaluate(Box<Subject>),
    /// Ask what policy says about a job, and how it comes to that
    ///
    /// Rules that do not match are left out unless --all is given. Exits as `evaluate`.
    Explain {
        #[command(flatten)]
        subject: Box<Subject>,
        /// Show every rule that was considered
        #[arg(long)]
        all: bool,
    },
    /// Ask what policy would say if these bundles were published
    ///
    /// Exits with 0 if that is what it says now, 1 if it differs.
    Simulate {
        #[command(flatten)]
        subject: Box<Subject>,
        /// A bundle in YAML, under the name of its file; may be repeated
        #[arg(long = "bundle", value_name = "FILE", required = true)]
        bundles: Vec<PathBuf>,
    },
    /// Judge recorded jobs again as if these bundles had been in force, and print what would differ
    ///
    /// Exits with 0 if nothing differs, 1 otherwise.
    Replay {
        /// A bundle in YAML, under the name of its file; may be repeated
        #[arg(long = "bundle", value_name = "FILE", required = true)]
        bundles: Vec<PathBuf>,
        /// Only jobs created since then: a time, or how long ago (24h)
        #[arg(long, value_name = "TIME", value_parser = super::value::time_or_ago)]
        since: Option<Timestamp>,
        /// Only jobs created before then
        #[arg(long, value_name = "TIME", value_parser = super::value::time_or_ago)]
        until: Option<Timestamp>,
        /// Only jobs of this topic; may be repeated
        #[arg(long = "topic", value_name = "TOPIC")]
        topics: Vec<String>,
    },
    /// Put drafts in force
    ///
    /// When it has returned, nothing is accepted, approved or handed out under the policy before.
    Publish {
        /// The bundles [default: all drafts]
        #[arg(value_name = "BUNDLE_ID")]
        bundle_ids: Vec<String>,
        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// Check everything and change nothing
        #[arg(long)]
        validate_only: bool,
    },
    /// Put an earlier snapshot in force
    Rollback {
        /// The snapshot
        #[arg(value_name = "SNAPSHOT_ID")]
        snapshot_id: String,
        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
    /// Make the server read its policy files again
    Reload,
    /// List snapshots, newest first
    Snapshots {
        /// The most to list
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show what is different between two snapshots
    Diff {
        /// The earlier one
        #[arg(value_name = "FROM")]
        from: String,
        /// The later one [default: the one in force]
        #[arg(value_name = "TO")]
        to: Option<String>,
    },
    /// Show who put what in force, newest first
    Audit {
        /// The most to list
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
}

/// A job that is not submitted.
#[derive(Debug, Args)]
pub(crate) struct Subject {
    /// The topic: dotted words that start with `job.`
    #[arg(value_name = "TOPIC")]
    pub(crate) topic: String,
    #[command(flatten)]
    pub(crate) input: Input,
    /// Who asks [default: you]
    #[arg(long, value_name = "PRINCIPAL")]
    pub(crate) principal: Option<String>,
    /// Of this tenant [default: yours]
    #[arg(long, value_name = "TENANT")]
    pub(crate) of_tenant: Option<String>,
    /// Of this team
    #[arg(long, value_name = "TEAM")]
    pub(crate) team: Option<String>,
    /// Label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::value::pair)]
    pub(crate) labels: Vec<(String, String)>,
    /// How soon the job is served [default: interactive]
    #[arg(long, value_enum, value_name = "PRIORITY", ignore_case = true)]
    pub(crate) priority: Option<Priority>,
    #[command(flatten)]
    pub(crate) policy: Policy,
}
