//! Logs: lines on stderr, for people or for machines.

use std::io::{self, IsTerminal};

use tracing_subscriber::fmt::format::FmtSpan;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{Log, LogFormat};

/// What people want to know. The NATS client tells of every connection, and calls the end of each an
/// error, because our bus keeps it from reconnecting and opens the next one itself; what matters of
/// that the bus says.
pub(crate) const DEFAULT_FILTER: &str = "info,async_nats=warn,async_nats::connector=off";

/// Sends the log lines of this process to stderr from now on, panics included.
///
/// # Errors
/// Somebody else in this process has taken the logs.
pub fn init(config: &Log) -> Result<(), TryInitError> {
    // Checked when the configuration was read.
    let filter =
        EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_span_events(FmtSpan::NONE);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        LogFormat::Pretty => {
            // https://no-color.org: any value but an empty one.
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let color = io::stderr().is_terminal() && !plain;
            lines.with_ansi(color).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init()?;
    super::metrics::log_panics();
    Ok(())
}
