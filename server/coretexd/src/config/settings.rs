//! The one table of settings: key, variable, flag, form and meaning of every value.
//!
//! Over 500 lines because it is one table.

use super::Config;
use super::value::{Field, Input};

/// One value of the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Dotted path in the file.
    pub key: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// Its flag without dashes, if it has one.
    pub flag: Option<&'static str>,
    /// What its values look like.
    pub form: &'static str,
    /// What it means, in sentences, for the reference.
    pub doc: &'static str,
    set: fn(&mut Config, Input<'_>) -> Result<(), String>,
    show: fn(&Config) -> Option<String>,
    masked: fn(&Config) -> Option<String>,
}

impl Setting {
    /// Reads a value into `config`.
    ///
    /// # Errors
    /// What the value must be.
    pub fn set(&self, config: &mut Config, input: Input<'_>) -> Result<(), String> {
        (self.set)(config, input)
    }

    /// The value as TOML; `None` = not set.
    #[must_use]
    pub fn show(&self, config: &Config) -> Option<String> {
        (self.show)(config)
    }

    /// The value as TOML, secrets hidden; `None` = not set.
    #[must_use]
    pub fn masked(&self, config: &Config) -> Option<String> {
        (self.masked)(config)
    }

    /// The section of the key (empty at the top) and its name there.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').unwrap_or(("", self.key))
    }
}

/// What a section is about.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    pub doc: &'static str,
    /// The key meant by `section = value`, where that is allowed.
    pub main: Option<&'static str>,
}

/// The sections, in the order of the table.
pub static SECTIONS: &[Section] = &[
    section("store", "Where jobs are kept.", Some("store.url")),
    section("bus", "How replicas ring each other.", Some("bus.url")),
    section("log", "Logs, always on stderr.", None),
    section(
        "tls",
        "TLS of the gRPC port. `cert` and `key` turn it on.",
        None,
    ),
    section(
        "cors",
        "Pages in browsers that may call over gRPC-Web.",
        None,
    ),
    section(
        "otlp",
        "Traces, from submit to result, to an OpenTelemetry collector.",
        None,
    ),
    section(
        "limits",
        "What callers may take. Beyond it they are refused, never queued without bound.",
        None,
    ),
    section("retention", "How long what has ended is kept.", None),
    section("timing", "Clocks of worker sessions and of shutdown.", None),
    section(
        "policy",
        "By what jobs are judged. Without any bundle every job is denied.",
        None,
    ),
];

const fn section(name: &'static str, doc: &'static str, main: Option<&'static str>) -> Section {
    Section { name, doc, main }
}

const fn form_of<T: Field>(_: fn(&Config) -> &T) -> &'static str {
    T::FORM
}

macro_rules! setting {
    ($key:literal, $env:literal, $flag:expr, $($path:ident).+, $doc:expr) => {
        Setting {
            key: $key,
            env: $env,
            flag: $flag,
            form: form_of(|config| &config.$($path).+),
            doc: $doc,
            set: |config, input| {
                config.$($path).+ = Field::read(input)?;
                Ok(())
            },
            show: |config| Field::toml(&config.$($path).+),
            masked: |config| Field::masked(&config.$($path).+),
        }
    };
}

/// Every setting, top-level keys first, then section by section.
pub static SETTINGS: &[Setting] = &[
    setting!(
        "listen",
        "CORETEX_LISTEN",
        Some("listen"),
        listen,
        "Where gRPC, gRPC-Web, health and reflection are served. Port 0 picks a free one. Beyond \
         loopback it needs `tls` or `allow_plaintext`."
    ),
    setting!(
        "admin_listen",
        "CORETEX_ADMIN_LISTEN",
        Some("admin-listen"),
        admin_listen,
        "Where `/metrics`, `/livez` and `/readyz` are served, over plain HTTP. Port 0 picks a free \
         one."
    ),
    setting!(
        "data_dir",
        "CORETEX_DATA_DIR",
        Some("data-dir"),
        data_dir,
        "Where the embedded store and the first admin key live. Made when it is missing, for this \
         user alone. With Redis it holds the key only."
    ),
    setting!(
        "dev",
        "CORETEX_DEV",
        Some("dev"),
        dev,
        "No credentials needed, and a policy bundle that allows every job. Refused when `listen` is not a loopback \
         address."
    ),
    setting!(
        "ephemeral",
        "CORETEX_EPHEMERAL",
        Some("ephemeral"),
        ephemeral,
        "Keep the embedded store in memory: everything is gone when the server stops."
    ),
    setting!(
        "allow_plaintext",
        "CORETEX_ALLOW_PLAINTEXT",
        None,
        allow_plaintext,
        "Serve gRPC without TLS beyond loopback, because something in front of the server ends TLS. \
         Credentials cross that network in the clear."
    ),
    setting!(
        "ready_json",
        "CORETEX_READY_JSON",
        Some("ready-json"),
        ready_json,
        "Print one line to stdout when ready: `{\"listen\": \"...\", \"admin\": \"...\"}` with the \
         real ports."
    ),
    setting!(
        "store.url",
        "CORETEX_STORE",
        Some("store"),
        store.url,
        "`embedded`, or the URL of a Redis server of version 7.0 or newer: \
         `redis://user:password@host:6379/0`, `rediss://` for TLS, \
         `redis+unix:///run/redis.sock?db=0`. One database is one store."
    ),
    setting!(
        "store.durability",
        "CORETEX_STORE_DURABILITY",
        None,
        store.durability,
        "What an acknowledged commit has survived. `fsync`: it is on disk (Redis: `appendfsync \
         always`). `replicated`: `store.replicas` replicas of Redis have it. `async`: it is written \
         to disk about once a second; a crash, of the server or of the machine, loses what was \
         acknowledged since (Redis: `appendonly yes`). `ephemeral`: nothing is promised (for the \
         embedded store, say `ephemeral = true`). A Redis server that does not give what is asked \
         for is refused."
    ),
    setting!(
        "store.cache_size",
        "CORETEX_STORE_CACHE_SIZE",
        None,
        store.cache_size,
        "Memory that the embedded store may use for pages."
    ),
    setting!(
        "store.user",
        "CORETEX_STORE_USER",
        None,
        store.user,
        "Redis: the ACL user, instead of the one in the URL. Needs `store.password_file`."
    ),
    setting!(
        "store.password_file",
        "CORETEX_STORE_PASSWORD_FILE",
        None,
        store.password_file,
        "Redis: file with the password, instead of the one in the URL, which other programs of \
         the machine may see. Without `store.user` it is that of the default user."
    ),
    setting!(
        "store.tls_ca",
        "CORETEX_STORE_TLS_CA",
        None,
        store.tls.ca,
        "Redis: PEM file with the authorities that may have signed the server's certificate. \
         Unset: those of the system. Needs a `rediss://` URL."
    ),
    setting!(
        "store.tls_cert",
        "CORETEX_STORE_TLS_CERT",
        None,
        store.tls.cert,
        "Redis: PEM file with the certificate that is shown to the server. Needs `store.tls_key` \
         and a `rediss://` URL."
    ),
    setting!(
        "store.tls_key",
        "CORETEX_STORE_TLS_KEY",
        None,
        store.tls.key,
        "Redis: PEM file with the private key of that certificate."
    ),
    setting!(
        "store.replicas",
        "CORETEX_STORE_REPLICAS",
        None,
        store.replicas,
        "Redis: how many replicas must have a commit, where `store.durability` is `replicated`."
    ),
    setting!(
        "store.replica_timeout",
        "CORETEX_STORE_REPLICA_TIMEOUT",
        None,
        store.replica_timeout,
        "Redis: how long commits wait for these replicas. Shorter than `store.commit_timeout`."
    ),
    setting!(
        "store.connect_timeout",
        "CORETEX_STORE_CONNECT_TIMEOUT",
        None,
        store.connect_timeout,
        "Redis: how long connecting may take, TLS and login included."
    ),
    setting!(
        "store.read_timeout",
        "CORETEX_STORE_READ_TIMEOUT",
        None,
        store.read_timeout,
        "Redis: how long a read may take."
    ),
    setting!(
        "store.commit_timeout",
        "CORETEX_STORE_COMMIT_TIMEOUT",
        None,
        store.commit_timeout,
        "Redis: how long commits may take before a new connection is made and they are sent again. \
         Longer than the pauses of a healthy server: an fsync behind a busy disk, a fork for a \
         snapshot."
    ),
    setting!(
        "store.connections",
        "CORETEX_STORE_CONNECTIONS",
        None,
        store.connections,
        "Redis: most connections for reads. Commits have one of their own."
    ),
    setting!(
        "bus.url",
        "CORETEX_BUS",
        Some("bus"),
        bus.url,
        "`inproc`, or URLs of NATS servers, separated by commas: `nats://user:password@host:4222`, \
         `nats://token@host`, `tls://host` for TLS. One `tls://` means TLS for all."
    ),
    setting!(
        "bus.user",
        "CORETEX_BUS_USER",
        None,
        bus.user,
        "NATS: the user, instead of the one in the URL. Needs `bus.password_file`."
    ),
    setting!(
        "bus.password_file",
        "CORETEX_BUS_PASSWORD_FILE",
        None,
        bus.password_file,
        "NATS: file with the password of `bus.user`, or without it with a token."
    ),
    setting!(
        "bus.credentials_file",
        "CORETEX_BUS_CREDENTIALS_FILE",
        None,
        bus.credentials_file,
        "NATS: credentials file (`.creds`: a user's JWT and seed). Read again for every connection."
    ),
    setting!(
        "bus.nkey_file",
        "CORETEX_BUS_NKEY_FILE",
        None,
        bus.nkey_file,
        "NATS: file with the seed of a user. Read again for every connection."
    ),
    setting!(
        "bus.tls_ca",
        "CORETEX_BUS_TLS_CA",
        None,
        bus.tls.ca,
        "NATS: PEM file with the authorities that may have signed the servers' certificates. \
         Unset: those of the system. Asks for TLS, whatever the URL says."
    ),
    setting!(
        "bus.tls_cert",
        "CORETEX_BUS_TLS_CERT",
        None,
        bus.tls.cert,
        "NATS: PEM file with the certificate that is shown to the servers. Needs `bus.tls_key` and \
         asks for TLS."
    ),
    setting!(
        "bus.tls_key",
        "CORETEX_BUS_TLS_KEY",
        None,
        bus.tls.key,
        "NATS: PEM file with the private key of that certificate."
    ),
    setting!(
        "bus.startup_timeout",
        "CORETEX_BUS_STARTUP_TIMEOUT",
        None,
        bus.startup_timeout,
        "NATS: how long a start waits for a server that does not answer. Later, a lost connection \
         is made again for ever."
    ),
    setting!(
        "bus.connect_timeout",
        "CORETEX_BUS_CONNECT_TIMEOUT",
        None,
        bus.connect_timeout,
        "NATS: how long one try to connect may take."
    ),
    setting!(
        "bus.ping_interval",
        "CORETEX_BUS_PING_INTERVAL",
        None,
        bus.ping_interval,
        "NATS: how often a silent server is asked whether it is there. It is given up after three."
    ),
    setting!(
        "bus.max_backoff",
        "CORETEX_BUS_MAX_BACKOFF",
        None,
        bus.max_backoff,
        "NATS: the longest pause between two tries to reconnect."
    ),
    setting!(
        "log.format",
        "CORETEX_LOG_FORMAT",
        Some("log-format"),
        log.format,
        "`pretty` for people, `json` for one JSON object a line."
    ),
    setting!(
        "log.filter",
        "CORETEX_LOG",
        None,
        log.filter,
        "Which lines are written: a level, or directives such as `info,coretex_engine=debug`. The \
         part about `async_nats` leaves out what the NATS client says of each connection; the bus \
         says what matters of it."
    ),
    setting!(
        "tls.cert",
        "CORETEX_TLS_CERT",
        None,
        tls.cert,
        "PEM file with the certificate chain of the server."
    ),
    setting!(
        "tls.key",
        "CORETEX_TLS_KEY",
        None,
        tls.key,
        "PEM file with the private key of that certificate."
    ),
    setting!(
        "tls.client_ca",
        "CORETEX_TLS_CLIENT_CA",
        None,
        tls.client_ca,
        "PEM file with authorities: clients must then show a certificate of one of them, besides \
         their key."
    ),
    setting!(
        "cors.origins",
        "CORETEX_CORS_ORIGINS",
        None,
        cors.origins,
        "Origins such as `https://console.example.com`. Empty: no other page gets in."
    ),
    setting!(
        "otlp.endpoint",
        "CORETEX_OTLP_ENDPOINT",
        None,
        otlp.endpoint,
        "gRPC endpoint of the collector, for example `http://127.0.0.1:4317`. Unset: no traces are \
         made."
    ),
    setting!(
        "otlp.headers",
        "CORETEX_OTLP_HEADERS",
        None,
        otlp.headers,
        "Metadata for the collector, such as a credential. Never printed."
    ),
    setting!(
        "otlp.sampling",
        "CORETEX_OTLP_SAMPLING",
        None,
        otlp.sampling,
        "Part of the traces that is kept. All spans of one trace are kept or none."
    ),
    setting!(
        "limits.max_payload",
        "CORETEX_LIMITS_MAX_PAYLOAD",
        None,
        limits.max_payload,
        "Largest input or output of a job. Up to 1536KiB: an answer may hold both, and stock gRPC \
         clients take no message over 4 MiB."
    ),
    setting!(
        "limits.max_waiting_jobs",
        "CORETEX_LIMITS_MAX_WAITING_JOBS",
        None,
        limits.max_waiting_jobs,
        "Jobs of one tenant that wait at the same time; more submits are refused."
    ),
    setting!(
        "limits.max_sessions",
        "CORETEX_LIMITS_MAX_SESSIONS",
        None,
        limits.max_sessions,
        "Workers connected to this server at the same time."
    ),
    setting!(
        "limits.max_parallel_jobs",
        "CORETEX_LIMITS_MAX_PARALLEL_JOBS",
        None,
        limits.max_parallel_jobs,
        "Most parallel jobs that one worker may announce."
    ),
    setting!(
        "limits.max_watches",
        "CORETEX_LIMITS_MAX_WATCHES",
        None,
        limits.max_watches,
        "Watches open at this server at the same time."
    ),
    setting!(
        "limits.max_connections",
        "CORETEX_LIMITS_MAX_CONNECTIONS",
        None,
        limits.max_connections,
        "Connections to the gRPC port of this server at the same time."
    ),
    setting!(
        "retention.jobs",
        "CORETEX_RETENTION_JOBS",
        None,
        retention.jobs,
        "How long ended jobs and their history are kept."
    ),
    setting!(
        "retention.dead_letters",
        "CORETEX_RETENTION_DEAD_LETTERS",
        None,
        retention.dead_letters,
        "How long dead letters are kept, and their jobs with them, unless somebody deals with them \
         before. Never shorter than `retention.jobs`."
    ),
    setting!(
        "retention.byte_budget",
        "CORETEX_RETENTION_BYTE_BUDGET",
        None,
        retention.byte_budget,
        "Size of the store above which the oldest ended jobs go before their time, dead letters \
         last. 0: no budget."
    ),
    setting!(
        "retention.log_entries",
        "CORETEX_RETENTION_LOG_ENTRIES",
        None,
        retention.log_entries,
        "Entries of the event log that are kept: how far back a watch can resume."
    ),
    setting!(
        "retention.deletes_per_second",
        "CORETEX_RETENTION_DELETES_PER_SECOND",
        None,
        retention.deletes_per_second,
        "Most ended jobs deleted a second, so that cleaning up leaves room for work."
    ),
    setting!(
        "timing.adoption_window",
        "CORETEX_TIMING_ADOPTION_WINDOW",
        None,
        timing.adoption_window,
        "How long the running jobs of a lost worker wait for it to come back before they are \
         queued again."
    ),
    setting!(
        "timing.heartbeat_interval",
        "CORETEX_TIMING_HEARTBEAT_INTERVAL",
        None,
        timing.heartbeat_interval,
        "How often workers are asked to report."
    ),
    setting!(
        "timing.heartbeat_timeout",
        "CORETEX_TIMING_HEARTBEAT_TIMEOUT",
        None,
        timing.heartbeat_timeout,
        "Silence of a worker after which it counts as lost. At least twice the interval."
    ),
    setting!(
        "timing.cancel_grace",
        "CORETEX_TIMING_CANCEL_GRACE",
        None,
        timing.cancel_grace,
        "How long a worker may take to stop a cancelled job where the caller says nothing."
    ),
    setting!(
        "timing.priority_rise",
        "CORETEX_TIMING_PRIORITY_RISE",
        None,
        timing.priority_rise,
        "How long a job waits until it rises one class of priority, from BATCH to INTERACTIVE and \
         then before all but CRITICAL, so that nothing starves. `0s`: nothing rises."
    ),
    setting!(
        "timing.drain_timeout",
        "CORETEX_TIMING_DRAIN_TIMEOUT",
        None,
        timing.drain_timeout,
        "The longest a shutdown may take: workers are told to reconnect elsewhere and running calls \
         finish; what is left then is cut."
    ),
    setting!(
        "policy.directory",
        "CORETEX_POLICY_DIR",
        Some("policy-dir"),
        policy.directory,
        "Directory with policy bundles, `*.yaml`, each with its signature in `*.yaml.sig` where it \
         has one. They are in force as `base-<name>` beside the published ones, and read again \
         every second. With several replicas those of the one that owns the shard count."
    ),
    setting!(
        "policy.trusted_keys",
        "CORETEX_POLICY_TRUSTED_KEYS",
        None,
        policy.trusted_keys,
        "PEM file with the Ed25519 public keys whose signatures of bundles count."
    ),
    setting!(
        "policy.require_signatures",
        "CORETEX_POLICY_REQUIRE_SIGNATURES",
        None,
        policy.require_signatures,
        "Take no bundle without a signature by one of `policy.trusted_keys`, and decide nothing by a \
         policy that has one: jobs wait."
    ),
];

/// The setting of a key.
#[must_use]
pub fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

/// The section of that name.
#[must_use]
pub fn section_named(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_rules() {
        let keys: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.key).collect();
        let variables: BTreeSet<_> = SETTINGS.iter().map(|setting| setting.env).collect();
        assert_eq!(
            (keys.len(), variables.len()),
            (SETTINGS.len(), SETTINGS.len())
        );
        for setting in SETTINGS {
            let by_flag = setting.flag.map(|flag| flag.replace('-', "_"));
            let by_key = setting.key.replace('.', "_");
            let derived = by_flag.unwrap_or(by_key).to_uppercase();
            let expected = match setting.key {
                // The one that every Rust program calls by its subject.
                "log.filter" => "CORETEX_LOG".to_owned(),
                _ => format!("CORETEX_{derived}"),
            };
            assert_eq!(setting.env, expected);
            let (section, _) = setting.parts();
            assert!(
                section.is_empty() || section_named(section).is_some(),
                "{section}"
            );
        }
    }

    #[test]
    fn sections_are_not_interleaved() {
        let mut order: Vec<_> = SETTINGS.iter().map(|setting| setting.parts().0).collect();
        order.dedup();
        let mut expected = vec![""];
        expected.extend(SECTIONS.iter().map(|section| section.name));
        assert_eq!(order, expected);
    }
}
