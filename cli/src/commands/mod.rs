//! What each verb does: call the server through the library, print the answer.

mod approval;
mod bulk;
mod bundle;
mod config;
mod confirm;
mod dlq;
mod exec;
mod job;
mod key;
mod policy;
mod pool;
mod system;
mod worker;

use std::future::Future;
use std::io;

use clap::CommandFactory;
use coretex::Client;
use tokio::runtime;
use tracing_subscriber::EnvFilter;

use crate::args::worker::Verb as WorkerVerb;
use crate::args::{Cli, Noun};
use crate::failure::{Exit, Failure};
use crate::output::Ui;
use crate::settings;

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Cx<'a> {
    pub(crate) client: Client,
    /// The address of the server, for people.
    pub(crate) server: String,
    pub(crate) ui: &'a Ui,
}

/// Does what was typed.
pub(crate) fn run(cli: &Cli, ui: &Ui) -> Result<Exit, Failure> {
    if let Noun::Completions { shell } = cli.noun {
        return completions(shell, ui);
    }
    if let Noun::Policy { verb } = &cli.noun
        && let Some(exit) = policy::offline(verb, ui)
    {
        return exit;
    }
    if let Noun::Bundle { verb } = &cli.noun
        && let Some(exit) = bundle::offline(verb, ui)
    {
        return exit;
    }
    log(cli);
    let mut builder = match &cli.noun {
        // Children are started and read in parallel.
        Noun::Worker {
            verb: WorkerVerb::Exec(_),
        } => runtime::Builder::new_multi_thread(),
        _ => runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build();
    let runtime = runtime.map_err(|error| Failure::usage("cannot start").cause(error))?;
    let outcome = runtime.block_on(async {
        let connection = settings::connect(&cli.global, ui)?;
        let cx = Cx {
            client: connection.client.clone(),
            server: connection.server.clone(),
            ui,
        };
        // The futures of all verbs together are large: they live on the heap.
        let outcome = Box::pin(dispatch(&cx, &cli.noun)).await;
        outcome.map_err(|failure| connection.explain(failure))
    });
    // Somebody may still be blocked in a read of stdin; that is no reason to stay.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(cx: &Cx<'_>, noun: &Noun) -> Result<Exit, Failure> {
    match noun {
        Noun::Job { verb } => job::run(cx, verb).await,
        Noun::Approval { verb } => approval::run(cx, verb).await,
        Noun::Dlq { verb } => dlq::run(cx, verb).await,
        Noun::Worker {
            verb: WorkerVerb::Exec(args),
        } => exec::run(cx, args).await,
        Noun::Worker { verb } => done(worker::run(cx, verb)).await,
        Noun::Pool { verb } => done(pool::run(cx, verb)).await,
        Noun::Bundle { verb } => done(bundle::run(cx, verb)).await,
        Noun::Policy { verb } => policy::run(cx, verb).await,
        Noun::Config { verb } => done(config::run(cx, verb)).await,
        Noun::Key { verb } => done(key::run(cx, verb)).await,
        Noun::Whoami => done(system::whoami(cx)).await,
        Noun::Status => done(system::status(cx)).await,
        // Done before there was a connection.
        Noun::Completions { .. } => Ok(Exit::Done),
    }
}

/// The exit code of what went well.
async fn done(work: impl Future<Output = Result<(), Failure>>) -> Result<Exit, Failure> {
    work.await.map(|()| Exit::Done)
}

/// Shows log lines of the library: what one who runs a worker wants to know, or everything.
fn log(cli: &Cli) {
    let default = match &cli.noun {
        _ if cli.global.verbose => "coretex=debug,coretexctl=debug",
        Noun::Worker {
            verb: WorkerVerb::Exec(_),
        } => "coretex=info",
        _ => "off",
    };
    let filter = EnvFilter::try_from_env("CORETEX_CLI_LOG").unwrap_or_else(|_| default.into());
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_target(false)
        .compact();
    // Fails only where there is one already.
    let _ = subscriber.try_init();
}

fn completions(shell: clap_complete::Shell, ui: &Ui) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "coretexctl", &mut script);
    ui.data(&script)?;
    Ok(Exit::Done)
}
