//! A server from the first byte of its configuration to its exit code.

use std::future::Future;
use std::io::{self, Write};
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, Source};
use crate::{Server, StartError};

/// The program stopped before it was done, on a second signal.
const CUT: u8 = 1;

/// Runs a server until SIGTERM or SIGINT, drains it, and says how the program should end. A second
/// signal ends the drain at once. With a `source`, its file is read again when it changes, and on
/// SIGHUP.
pub async fn run(config: Config, source: Option<Source>) -> ExitCode {
    let (mut signals, reload) = match listen(source) {
        Ok(listening) => listening,
        Err(error) => {
            return refuse(&StartError::Io {
                what: "cannot listen to signals".to_owned(),
                error,
            });
        }
    };
    // Opening a store can take long after a crash; a signal must be able to end that, too.
    let mut server = match signals.unless_told(Box::pin(Server::start(config))).await {
        Some(Ok(server)) => server,
        Some(Err(error)) => return refuse(&error),
        None => return ExitCode::SUCCESS,
    };
    let told = server.announce();
    if let Err(error) = told {
        server.stop().await;
        return refuse(&error);
    }
    if let Some((source, hangups)) = reload {
        server.keep_up_with(source, hangups);
    }
    let failed = signals.unless_told(Box::pin(server.failed())).await;
    if let Some(reason) = &failed {
        say(&format!("error: {reason}\n"));
    }
    match signals.unless_told(Box::pin(server.stop())).await {
        Some(()) if failed.is_none() => ExitCode::SUCCESS,
        Some(()) => ExitCode::from(3),
        None => {
            say("error: stopped by a second signal before the shutdown was done\n");
            ExitCode::from(CUT)
        }
    }
}

/// Without a file, SIGHUP ends the program, as it does others whose terminal is gone.
fn listen(source: Option<Source>) -> io::Result<(Signals, Option<(Source, Signal)>)> {
    let reload = match source {
        Some(source) => Some((source, signal(SignalKind::hangup())?)),
        None => None,
    };
    Ok((Signals::new()?, reload))
}

fn refuse(error: &StartError) -> ExitCode {
    let mut text = format!("error: {error}\n");
    if let Some(hint) = error.hint() {
        text.push_str(&format!("hint: {hint}\n"));
    }
    say(&text);
    ExitCode::from(error.exit_code())
}

/// Nobody to tell is no reason to end differently.
fn say(text: &str) {
    let _told = io::stderr().write_all(text.as_bytes());
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// What comes of `work`; `None` when a signal came first.
    async fn unless_told<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            outcome = work => Some(outcome),
            _ = self.terminate.recv() => {
                tracing::info!(signal = "SIGTERM", "stopping");
                None
            }
            _ = self.interrupt.recv() => {
                tracing::info!(signal = "SIGINT", "stopping");
                None
            }
        }
    }
}
