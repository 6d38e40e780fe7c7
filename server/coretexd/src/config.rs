//! What the server can be told, and the one loader that is told it.
//!
//! [`Config`] holds typed values; [`settings::SETTINGS`] is the one table that ties each value to
//! its key in the file, its environment variable, its flag and its words in the reference. Loading,
//! printing and the generated reference all walk that table, so none of them can forget a key.

pub mod dump;
mod error;
mod file;
pub mod flags;
pub mod load;
mod nearest;
pub mod notify;
pub mod reference;
pub mod reload;
pub mod routing;
pub mod settings;
mod validate;
pub mod value;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use coretex_core::routing::Routing;

use crate::telemetry::logs;

pub use error::{ConfigError, Problem};
pub use flags::Flags;
pub use load::{Environment, Loaded, Origin, load};
pub use reload::Source;
pub use value::{Backend, Durability, Headers, LogFormat, Size};

/// Everything the server can be told. [`Config::default`] holds the defaults but for what depends on
/// something else and is filled in by [`load()`]: the data directory, the durability of Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where gRPC is served. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// Where metrics and probes are served. Port 0 picks a free one.
    pub admin_listen: SocketAddr,
    /// Where the embedded store and the first admin key live.
    pub data_dir: PathBuf,
    /// No credentials needed, policy allows everything; loopback only.
    pub dev: bool,
    /// The embedded store is kept in memory.
    pub ephemeral: bool,
    /// Serve without TLS beyond loopback.
    pub allow_plaintext: bool,
    /// Print one line of JSON to stdout when ready.
    pub ready_json: bool,
    /// The store.
    pub store: Store,
    /// The bus.
    pub bus: Bus,
    /// Logs.
    pub log: Log,
    /// TLS of the gRPC port.
    pub tls: Tls,
    /// Browsers.
    pub cors: Cors,
    /// Traces.
    pub otlp: Otlp,
    /// What callers may take.
    pub limits: Limits,
    /// How long things are kept.
    pub retention: Retention,
    /// Clocks of sessions and shutdown.
    pub timing: Timing,
    /// The policy by which jobs are judged.
    pub policy: Policy,
    /// Which pools serve a topic, who may use them, and what holds for jobs that do not say.
    pub routing: Routing,
    /// Who is told of approvals.
    pub notify: Vec<notify::Webhook>,
}

/// The policy by which jobs are judged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Where files with bundles are.
    pub directory: Option<PathBuf>,
    /// File with public keys whose signatures count.
    pub trusted_keys: Option<PathBuf>,
    /// Every bundle must have a signature that counts.
    pub require_signatures: bool,
}

/// The store.
#[derive(Clone, Debug, PartialEq)]
pub struct Store {
    /// `embedded` or the URL of a server.
    pub url: Backend,
    /// What a commit waits for. What it is by default depends on the engine: [`load()`] knows.
    pub durability: Durability,
    /// Memory for pages of the embedded store.
    pub cache_size: Size,
    /// User of the server.
    pub user: Option<String>,
    /// File with the password.
    pub password_file: Option<PathBuf>,
    /// TLS with the server.
    pub tls: BackendTls,
    /// Replicas of the server that must have a commit, if the durability is `replicated`.
    pub replicas: u32,
    /// How long a commit waits for them.
    pub replica_timeout: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a read may take.
    pub read_timeout: Duration,
    /// How long a group of commits may take.
    pub commit_timeout: Duration,
    /// Connections for reads.
    pub connections: u32,
}

/// The bus.
#[derive(Clone, Debug, PartialEq)]
pub struct Bus {
    /// `inproc` or the URL of a server.
    pub url: Backend,
    /// User of the server.
    pub user: Option<String>,
    /// File with the password, or with a token.
    pub password_file: Option<PathBuf>,
    /// File with a user's JWT and seed.
    pub credentials_file: Option<PathBuf>,
    /// File with a seed.
    pub nkey_file: Option<PathBuf>,
    /// TLS with the server.
    pub tls: BackendTls,
    /// How long a start waits for the server.
    pub startup_timeout: Duration,
    /// How long one try to connect may take.
    pub connect_timeout: Duration,
    /// How often a silent server is asked for a sign of life.
    pub ping_interval: Duration,
    /// The longest pause between two tries.
    pub max_backoff: Duration,
}

/// TLS with a server behind the store or the bus.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BackendTls {
    /// PEM file of the authorities that may have signed its certificate.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate that is shown to it.
    pub cert: Option<PathBuf>,
    /// PEM file of the private key of that.
    pub key: Option<PathBuf>,
}

/// Logs.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// For people or for machines.
    pub format: LogFormat,
    /// Which lines, in the syntax of `tracing` filters.
    pub filter: String,
}

/// TLS of the gRPC port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tls {
    /// PEM file of the certificate chain.
    pub cert: Option<PathBuf>,
    /// PEM file of its private key.
    pub key: Option<PathBuf>,
    /// PEM file of the authorities whose client certificates are required.
    pub client_ca: Option<PathBuf>,
}

impl Tls {
    /// Whether the port speaks TLS.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.cert.is_some() && self.key.is_some()
    }
}

/// Browsers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cors {
    /// Origins whose pages may call over gRPC-Web.
    pub origins: Vec<String>,
}

/// Traces.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// gRPC endpoint of a collector; unset = no traces.
    pub endpoint: Option<String>,
    /// Metadata sent along.
    pub headers: Headers,
    /// Part of the traces to keep, from 0 to 1.
    pub sampling: f64,
}

/// What callers may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Largest payload of a job.
    pub max_payload: Size,
    /// Waiting jobs of one tenant.
    pub max_waiting_jobs: u64,
    /// Connected workers.
    pub max_sessions: u32,
    /// Parallel jobs of one worker.
    pub max_parallel_jobs: u32,
    /// Open watches.
    pub max_watches: u32,
    /// Open connections.
    pub max_connections: u32,
}

/// How long things are kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Retention {
    /// Ended jobs.
    pub jobs: Duration,
    /// Ended jobs with a dead letter, if that is longer.
    pub dead_letters: Duration,
    /// Size of the store above which the oldest ended jobs go early; 0 = no budget.
    pub byte_budget: Size,
    /// Entries of the event log.
    pub log_entries: u64,
    /// Ended jobs deleted a second, at most.
    pub deletes_per_second: u32,
}

/// Clocks of sessions and shutdown.
#[derive(Clone, Debug, PartialEq)]
pub struct Timing {
    /// How long a lost worker's attempts wait for it to come back.
    pub adoption_window: Duration,
    /// How often workers report.
    pub heartbeat_interval: Duration,
    /// Silence after which a session counts as lost.
    pub heartbeat_timeout: Duration,
    /// How long a worker may take to stop after a cancel.
    pub cancel_grace: Duration,
    /// How long a job waits until it rises one class of priority.
    pub priority_rise: Duration,
    /// The longest shutdown.
    pub drain_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self {
            listen: local(50_051),
            admin_listen: local(9_464),
            data_dir: PathBuf::new(),
            dev: false,
            ephemeral: false,
            allow_plaintext: false,
            ready_json: false,
            store: Store {
                url: Backend::Builtin("embedded"),
                durability: Durability::Fsync,
                // redb's own default would take hundreds of megabytes.
                cache_size: Size::mebibytes(16),
                user: None,
                password_file: None,
                tls: BackendTls::default(),
                replicas: 1,
                replica_timeout: Duration::from_secs(1),
                connect_timeout: Duration::from_secs(2),
                read_timeout: Duration::from_secs(3),
                commit_timeout: Duration::from_secs(3),
                connections: 8,
            },
            bus: Bus {
                url: Backend::Builtin("inproc"),
                user: None,
                password_file: None,
                credentials_file: None,
                nkey_file: None,
                tls: BackendTls::default(),
                startup_timeout: Duration::from_secs(10),
                connect_timeout: Duration::from_secs(5),
                ping_interval: Duration::from_secs(2),
                max_backoff: Duration::from_secs(2),
            },
            log: Log {
                format: LogFormat::Pretty,
                filter: logs::DEFAULT_FILTER.to_owned(),
            },
            tls: Tls::default(),
            cors: Cors::default(),
            otlp: Otlp {
                endpoint: None,
                headers: Headers::default(),
                sampling: 1.0,
            },
            limits: Limits {
                max_payload: Size::mebibytes(1),
                max_waiting_jobs: 100_000,
                max_sessions: 10_000,
                max_parallel_jobs: 10_000,
                max_watches: 1_000,
                max_connections: 10_000,
            },
            retention: Retention {
                jobs: Duration::from_secs(7 * 24 * 3_600),
                dead_letters: Duration::from_secs(30 * 24 * 3_600),
                byte_budget: Size::bytes(0),
                log_entries: 500_000,
                deletes_per_second: 10_000,
            },
            timing: Timing {
                adoption_window: Duration::from_secs(15),
                heartbeat_interval: Duration::from_secs(5),
                heartbeat_timeout: Duration::from_secs(30),
                cancel_grace: Duration::from_secs(30),
                priority_rise: coretex_core::queue::rank::DEFAULT_RISE_AFTER,
                drain_timeout: Duration::from_secs(30),
            },
            policy: Policy::default(),
            routing: Routing::default(),
            notify: Vec::new(),
        }
    }
}
