//! What can be typed. One file per noun; what they share is here, and `value` reads values.
//!
//! Every comment on a field or a verb is its help text.

pub(crate) mod approval;
pub(crate) mod bulk;
pub(crate) mod bundle;
pub(crate) mod config;
pub(crate) mod dlq;
pub(crate) mod job;
pub(crate) mod key;
pub(crate) mod policy;
pub(crate) mod pool;
pub(crate) mod value;
pub(crate) mod worker;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The command line client of Coretex
///
/// Data goes to stdout, everything else to stderr.
///
/// Settings come from the flag, else from the environment, else from the profile in
/// $XDG_CONFIG_HOME/coretex/config.toml. Without a key there, the admin.key of a server on this
/// machine is used.
///
/// Exit codes: 0 ok; 1 refused, or a job ended badly; 2 usage or environment, for example no server;
/// 3 not finished at --timeout; 4 waiting for an approval with --no-approval-wait.
#[derive(Debug, Parser)]
#[command(
    name = "coretexctl",
    version,
    max_term_width = 100,
    infer_long_args = false
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) noun: Noun,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Address of the server [default: http://127.0.0.1:50051]
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "CORETEX_SERVER",
        hide_env_values = true
    )]
    pub(crate) server: Option<String>,
    /// Key to authenticate with
    #[arg(
        long,
        global = true,
        value_name = "KEY",
        env = "CORETEX_API_KEY",
        hide_env_values = true
    )]
    pub(crate) api_key: Option<String>,
    /// Profile of the configuration file to use
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "CORETEX_PROFILE",
        hide_env_values = true
    )]
    pub(crate) profile: Option<String>,
    /// Certificate authority (PEM) to trust beside those of the system
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CORETEX_CLI_CA_FILE",
        hide_env_values = true
    )]
    pub(crate) ca_file: Option<PathBuf>,
    /// Format of what goes to stdout
    #[arg(
        long,
        short = 'o',
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORMAT",
        env = "CORETEX_OUTPUT",
        hide_env_values = true
    )]
    pub(crate) output: Format,
    /// Say on stderr what goes on underneath
    #[arg(long, short, global = true)]
    pub(crate) verbose: bool,
}

/// How data is written to stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// Proto JSON with the field names of the contract and defaults
    Json,
    /// The same as YAML
    Yaml,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Noun {
    /// Submit jobs, follow them, and find out why they do or do not run
    Job {
        #[command(subcommand)]
        verb: job::Verb,
    },
    /// Look at jobs that wait for the consent of people, and give it or not
    Approval {
        #[command(subcommand)]
        verb: approval::Verb,
    },
    /// Look at jobs that ended badly, and retry them or throw them away
    Dlq {
        #[command(subcommand)]
        verb: dlq::Verb,
    },
    /// Look at workers, or make one of any program
    Worker {
        #[command(subcommand)]
        verb: worker::Verb,
    },
    /// Look at pools; pause and resume pools, topics and tenants
    Pool {
        #[command(subcommand)]
        verb: pool::Verb,
    },
    /// Write, read and sign bundles of policy rules
    Bundle {
        #[command(subcommand)]
        verb: bundle::Verb,
    },
    /// Check and test bundles, put them in force, and ask what they say
    Policy {
        #[command(subcommand)]
        verb: policy::Verb,
    },
    /// Read and write configuration, and see what is in force
    Config {
        #[command(subcommand)]
        verb: config::Verb,
    },
    /// Make, list and revoke API keys
    Key {
        #[command(subcommand)]
        verb: key::Verb,
    },
    /// Show whom the credential stands for
    Whoami,
    /// Show how the installation is doing
    Status,
    /// Print the completion script of a shell
    ///
    /// For example: coretexctl completions bash > ~/.local/share/bash-completion/completions/coretexctl
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let before = Cli::try_parse_from(["coretexctl", "--output", "json", "job", "get", "a"]);
        let after = Cli::try_parse_from(["coretexctl", "job", "get", "a", "--output", "json"]);
        for cli in [before, after] {
            assert!(cli.is_ok_and(|cli| cli.global.output == Format::Json));
        }
    }
}
