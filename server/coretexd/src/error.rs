//! Why the server did not start, what helps, and with which code the program ends.

use std::io;
use std::net::SocketAddr;

use coretex_store::embedded::OpenError;

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
    /// The engine cannot start on that store.
    #[error(transparent)]
    Engine(#[from] coretex_engine::Error),
}

impl StartError {
    /// 2 where the configuration has to change, 3 where the surroundings have to.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::NotBuilt { .. } | Self::Tls { .. } => 2,
            Self::Listen { .. } | Self::Io { .. } | Self::Store(_) | Self::Engine(_) => 3,
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
            Self::Store(_)
            | Self::NotBuilt { .. }
            | Self::Tls { .. }
            | Self::Io { .. }
            | Self::Engine(_) => None,
        }
    }
}
