//! The benchmark of Coretex. Every row names its durability; retention runs during all of them.
//!
//! One process of its own each: the server (`coretexd`), the worker (this program again) and the
//! load (this program), so that CPU and memory of the server are its own.

mod backends;
mod claims;
mod fairness;
mod fleet;
mod load;
mod policy;
mod process;
mod raw;
mod replicas;
mod report;
mod rows;
mod scheduler;
mod server;
mod source;
mod streaming;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Measures Coretex on this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    role: Option<Role>,
    /// The server to measure; default: `coretexd` beside this program.
    #[arg(long)]
    coretexd: Option<PathBuf>,
    /// Where the stores under test stand; default: the temporary directory.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Where the results go.
    #[arg(long, default_value = "bench/results.json")]
    output: PathBuf,
    /// Rows to measure, by their letter; default: all.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// A tenth of the work: to see that it runs, not for figures.
    #[arg(long)]
    quick: bool,
}

/// What this process is.
#[derive(Debug, Subcommand)]
enum Role {
    /// The no-op worker of the measurements.
    #[command(hide = true)]
    Worker(worker::Args),
    /// Many workers, each with a session of its own.
    #[command(hide = true)]
    Fleet(fleet::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let done = match args.role {
        Some(Role::Worker(worker)) => worker::run(worker).await,
        Some(Role::Fleet(fleet)) => fleet::run(fleet).await,
        None => {
            rows::run(rows::Options {
                coretexd: args.coretexd,
                directory: args.directory,
                output: args.output,
                rows: args.rows,
                scale: if args.quick { 10 } else { 1 },
            })
            .await
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::say(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Whatever went wrong; a benchmark only has to say it.
type Error = Box<dyn std::error::Error + Send + Sync>;
/// The result of a step.
type Result<T> = std::result::Result<T, Error>;
