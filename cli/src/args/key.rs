//! `coretexctl key ...`.

use std::time::Duration;

use clap::{Args, Subcommand};
use coretex::well_known::Timestamp;

use super::value;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make an API key
    ///
    /// Its secret is printed this once; nobody can show it again.
    Create(Create),
    /// List API keys, newest first
    List {
        /// Include revoked and expired keys
        #[arg(long)]
        all: bool,
    },
    /// Make an API key useless
    Revoke {
        /// The key
        #[arg(value_name = "KEY_ID")]
        key_id: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What the key is for, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) name: String,
    /// What the key may do: admin, operator, approver, submitter, worker, viewer, auditor; may be
    /// repeated, or a list with commas
    #[arg(
        long = "role",
        value_name = "ROLE",
        required = true,
        value_delimiter = ','
    )]
    pub(crate) roles: Vec<String>,
    /// Tenant that the key acts for [default: your own]
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// Team that the key may name; may be repeated
    #[arg(long = "team", value_name = "TEAM")]
    pub(crate) teams: Vec<String>,
    /// Tenant whose jobs a worker with the key may get; may be repeated [default: its own]
    #[arg(long = "serves-tenant", value_name = "TENANT")]
    pub(crate) serves_tenants: Vec<String>,
    /// When the key stops working, from now [default: never]
    #[arg(long, value_name = "DURATION", value_parser = value::duration, conflicts_with = "expire_time")]
    pub(crate) expires_in: Option<Duration>,
    /// When the key stops working (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = value::time)]
    pub(crate) expire_time: Option<Timestamp>,
}
