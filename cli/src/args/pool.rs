//! `coretexctl pool ...`.

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List pools: their topics, workers, capacity and queues
    List,
    /// Hand out no more jobs of a pool, a topic or a tenant; what runs goes on
    ///
    /// New jobs are accepted and wait. All that is given must apply: `pause fast --topic job.mail.>`
    /// stops mail jobs on their way to the pool `fast`, of your tenant.
    ///
    /// For example, in an incident: coretexctl pool pause gpu --reason "driver update"
    Pause {
        #[command(flatten)]
        scope: Scope,
        /// Why, for those who find their jobs waiting
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Hand them out again; names the pause by the same parts
    Resume {
        #[command(flatten)]
        scope: Scope,
    },
    /// List what is paused
    Pauses,
}

/// What a pause is about.
#[derive(Debug, Args)]
pub(crate) struct Scope {
    /// Jobs on their way to workers of this pool
    #[arg(value_name = "POOL", required_unless_present_any = ["topic", "tenant", "all_tenants"])]
    pub(crate) pool: Option<String>,
    /// Jobs about this topic, or pattern of topics: job.mail.* (one token), job.mail.> (the rest)
    #[arg(long, value_name = "TOPIC")]
    pub(crate) topic: Option<String>,
    /// Jobs of this tenant [default: your own]
    #[arg(long, value_name = "TENANT", conflicts_with = "all_tenants")]
    pub(crate) tenant: Option<String>,
    /// Jobs of all tenants
    #[arg(long)]
    pub(crate) all_tenants: bool,
}
