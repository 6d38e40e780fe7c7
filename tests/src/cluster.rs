//! Real processes on real sockets, for tests of the whole: a server, workers, connections
//! that break, and clients that do not keep to the rules.
//!
//! Everything listens on 127.0.0.1, keeps its data in a temporary folder and is gone when the
//! test is. Failures panic with what was tried: there is nobody to handle them in a test.

pub mod backends;
pub mod cli;
pub mod proxy;
pub mod server;
pub mod session;
pub mod wire;
pub mod worker;

use std::time::Duration;

/// How long to wait for what must happen. Long enough for a machine that does much else at the
/// same time; nothing takes that long on a good day.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One mebibyte.
pub const MIB: usize = 1024 * 1024;

/// Waits for something, but not for ever.
///
/// # Panics
/// When [`PATIENCE`] is over, naming `what` was waited for.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {PATIENCE:?} for {what}"),
    }
}
