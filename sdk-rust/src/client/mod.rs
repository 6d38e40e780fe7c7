//! The client: what it is made of and what its calls have in common.
//!
//! One file per noun holds the calls: `jobs`, `approvals`, `dlq`, `configs`, `policy`, `workers`, `system`, `access`. How a call is made,
//! repeated and given up is in `call`; connections are in `transport`.

mod access;
mod approvals;
mod builder;
mod bulk;
mod call;
mod configs;
mod dlq;
mod items;
mod jobs;
mod output;
mod policy;
mod submit;
mod system;
mod transport;
mod wait;
mod watch;
mod workers;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};

pub use approvals::ApprovalWatch;
pub use builder::ClientBuilder;
pub use bulk::Bulk;
pub use items::Items;
pub use output::JobOutput;
pub use submit::Submit;
pub use transport::Io;
pub use watch::JobWatch;

pub(crate) use transport::Transport;

use crate::{Entropy, Error, PayloadStore};

/// The longest time a server waits in one call.
pub(crate) const MAX_SERVER_WAIT: Duration = Duration::from_secs(60);

/// A connection to Coretex. Cheap to clone; clones share connections.
///
/// Connects when the first call needs it, and again whenever a connection breaks. Must be made and
/// used inside a Tokio runtime.
///
/// Every RPC of the contract is a method that takes the request message and returns the response
/// message. On top of them: [`submit`](Self::submit) builds and awaits jobs,
/// [`wait_ended`](Self::wait_ended) waits as long as it takes, the `all_...` methods read list pages
/// one after the other, and [`watch`](Self::watch), [`watch_approvals`](Self::watch_approvals) and
/// [`read_output`](Self::read_output) resume by themselves.
///
/// ```no_run
/// use coretex::proto::GetJobRequest;
///
/// # async fn example() -> Result<(), coretex::Error> {
/// let client = coretex::Client::builder()
///     .server("https://coretex.example.com")
///     .api_key("ck_...")
///     .build()?;
/// let request = GetJobRequest { job_id: "job-1".into(), ..Default::default() };
/// let job = client.get_job(request).await?.job;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    options: Options,
}

pub(crate) struct Shared {
    pub(crate) transport: Transport,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) payload_store: Arc<dyn PayloadStore>,
    pub(crate) payload_limit: usize,
    outage_tolerance: Duration,
}

/// What may differ from call to call.
#[derive(Clone)]
struct Options {
    deadline: Duration,
    attempts: u32,
    traceparent: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// Makes a client for a server without credentials and with every default.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a bad address; FAILED_PRECONDITION outside a Tokio runtime.
    pub fn new(server: impl Into<String>) -> Result<Self, Error> {
        Self::builder().server(server).build()
    }

    /// Starts to describe a client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// The same client with another deadline for each call, its repetitions included. Calls that
    /// wait on the server (`wait_job`, `submit_job` with `wait`) get the time they wait on top.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        let mut client = self.clone();
        client.options.deadline = deadline;
        client
    }

    /// The same client with another limit on how often a call is sent, the first time included.
    #[must_use]
    pub fn with_attempts(&self, attempts: u32) -> Self {
        let mut client = self.clone();
        client.options.attempts = attempts.max(1);
        client
    }

    /// The same client whose calls continue this W3C `traceparent`. A text that is none is ignored.
    #[must_use]
    pub fn with_traceparent(&self, traceparent: &str) -> Self {
        let mut client = self.clone();
        client.options.traceparent = traceparent.parse().ok();
        client
    }

    /// The addresses of the servers, without credentials.
    #[must_use]
    pub fn servers(&self) -> &[String] {
        self.shared.transport.servers()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The transport hides the credential.
        f.debug_struct("Client")
            .field("transport", &self.shared.transport)
            .field("deadline", &self.options.deadline)
            .field("attempts", &self.options.attempts)
            .finish_non_exhaustive()
    }
}
