//! Why the server did not start, what helps, and with which code the program ends.

use std::io;
use std::net::SocketAddr;

use coretex_bus::nats::NatsError;
use coretex_store::embedded::OpenError;
use coretex_store::redis::RedisOpenError;

use crate::config::{Bus, Store};

/// A refused start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration asks for what this build does not have.
    #[error("`{key}`: {what} is not available in this build")]
    NotBuilt {
        /// The key.
        key: &'static str,
        /// What was asked for, without secrets.
        what: String,
    },
    /// Certificate or key cannot be used.
    #[error("TLS: {reason}")]
    Tls {
        /// Which file and why.
        reason: String,
    },
    /// An address cannot be listened on.
    #[error("`{key}`: cannot listen on {address}: {error}")]
    Listen {
        /// The key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// A file or directory cannot be used.
    #[error("{what}: {error}")]
    Io {
        /// Which, and for what.
        what: String,
        /// What the system says.
        error: io::Error,
    },
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A file that a setting names cannot be used.
    #[error("`{key}`: {reason}")]
    Setting {
        /// The key.
        key: &'static str,
        /// Which file and why.
        reason: String,
    },
    /// The Redis server is no store, or not now.
    #[error("`{key}`: {error} ({place})")]
    Redis {
        /// The key that it is about.
        key: &'static str,
        /// What is wrong.
        error: RedisOpenError,
        /// The server, without secrets.
        place: String,
    },
    /// The NATS servers are no bus, or not now.
    #[error("`{key}`: {error}")]
    Nats {
        /// The key that it is about.
        key: &'static str,
        /// What is wrong.
        error: NatsError,
    },
    /// The engine cannot start on that store.
    #[error(transparent)]
    Engine(#[from] coretex_engine::Error),
}

impl StartError {
    /// The Redis server of these settings was not opened.
    pub(crate) fn redis(settings: &Store, error: RedisOpenError) -> Self {
        let key = match &error {
            RedisOpenError::Durability { .. } => "store.durability",
            RedisOpenError::Refused { .. } if settings.password_file.is_some() => {
                "store.password_file"
            }
            RedisOpenError::Options { .. }
            | RedisOpenError::Unreachable { .. }
            | RedisOpenError::Refused { .. }
            | RedisOpenError::Version { .. }
            | RedisOpenError::Eviction { .. }
            | RedisOpenError::Foreign { .. }
            | RedisOpenError::Format { .. }
            | RedisOpenError::Shards { .. } => "store.url",
        };
        Self::Redis {
            key,
            error,
            place: settings.url.hidden(),
        }
    }

    /// The NATS servers of these settings were not connected to.
    pub(crate) fn nats(settings: &Bus, error: NatsError) -> Self {
        let key = match &error {
            NatsError::Credentials { .. } if settings.credentials_file.is_some() => {
                "bus.credentials_file"
            }
            NatsError::Credentials { .. } if settings.nkey_file.is_some() => "bus.nkey_file",
            NatsError::Credentials { .. } if settings.password_file.is_some() => {
                "bus.password_file"
            }
            NatsError::Tls { .. } if settings.tls.ca.is_some() => "bus.tls_ca",
            NatsError::Options(_)
            | NatsError::Credentials { .. }
            | NatsError::Tls { .. }
            | NatsError::Unreachable { .. } => "bus.url",
        };
        Self::Nats { key, error }
    }

    /// 2 where the configuration has to change, 3 where the surroundings have to.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotBuilt { .. } | Self::Tls { .. } | Self::Setting { .. } => 2,
            Self::Listen { .. }
            | Self::Io { .. }
            | Self::Store(_)
            | Self::Redis { .. }
            | Self::Nats { .. }
            | Self::Engine(_) => 3,
        }
    }

    /// What probably helps.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Listen { error, .. } => match error.kind() {
                io::ErrorKind::AddrInUse => Some(
                    "another server may be running; `--listen` and `--admin-listen` take another \
                     address, port 0 a free one",
                ),
                io::ErrorKind::PermissionDenied => Some("ports below 1024 need privileges"),
                io::ErrorKind::AddrNotAvailable => Some("this machine does not have that address"),
                _ => None,
            },
            Self::Store(OpenError::InUse { .. }) => Some(
                "another server is running on this data directory; stop it, or give --data-dir or \
                 --ephemeral",
            ),
            Self::Store(OpenError::Damaged { .. }) => {
                Some("nothing was changed; restore the directory from a backup")
            }
            Self::Store(OpenError::Format { .. }) => {
                Some("use the version of coretexd that made the store, or a newer one")
            }
            Self::Redis { error, .. } => redis_hint(error),
            Self::Nats { error, .. } => nats_hint(error),
            Self::Store(_)
            | Self::NotBuilt { .. }
            | Self::Tls { .. }
            | Self::Setting { .. }
            | Self::Io { .. }
            | Self::Engine(_) => None,
        }
    }
}

const fn redis_hint(error: &RedisOpenError) -> Option<&'static str> {
    Some(match error {
        RedisOpenError::Unreachable { .. } => {
            "start Redis, or correct `store.url`; without --store a single server keeps its jobs \
             itself"
        }
        RedisOpenError::Refused { .. } => {
            "correct user and password in `store.url`, or `store.user` and `store.password_file`; \
             docs/adr/0004-redis.md says what the user must be allowed to do"
        }
        RedisOpenError::Eviction { .. } => {
            "set `maxmemory-policy noeviction` in the configuration of Redis"
        }
        RedisOpenError::Durability { .. } => {
            "change Redis, or ask for less with `store.durability`; docs/config.md says what each \
             level needs"
        }
        RedisOpenError::Foreign { .. } => {
            "give another database (`redis://host/1`) or another server; nothing was changed"
        }
        RedisOpenError::Format { .. } => {
            "use the version of coretexd that made the store, or a newer one"
        }
        RedisOpenError::Options { .. }
        | RedisOpenError::Version { .. }
        | RedisOpenError::Shards { .. } => return None,
    })
}

const fn nats_hint(error: &NatsError) -> Option<&'static str> {
    Some(match error {
        NatsError::Unreachable { .. } => {
            "start nats-server, or correct `bus.url`; a single server needs no --bus"
        }
        NatsError::Credentials { .. } => {
            "correct the login; its user must be allowed to publish and subscribe `coretex.>`"
        }
        NatsError::Tls { .. } => {
            "name the authority of the servers in `bus.tls_ca`; nothing was sent without TLS"
        }
        NatsError::Options(_) => return None,
    })
}
