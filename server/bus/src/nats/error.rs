//! Why a bus on NATS could not be opened, in words for whoever wrote the configuration. What goes
//! wrong later is a [`BusError`](crate::BusError).

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use async_nats::{ConnectError, ConnectErrorKind, ServerError, rustls};

/// Why [`NatsBus::connect`](super::NatsBus::connect) gave up. No variant ever holds a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NatsError {
    /// The options cannot be used, whatever the servers say.
    #[error("nats options: {0}")]
    Options(String),
    /// A server answered and does not let us in. Trying again would not help.
    #[error("nats server {endpoint} refused the credentials: {reason}")]
    Credentials {
        /// The server, without credentials.
        endpoint: String,
        /// What it said.
        reason: String,
    },
    /// TLS was asked for, by us or by the server, and could not be agreed on; nothing was sent
    /// without it. Trying again would not help.
    #[error("tls with nats server {endpoint} failed: {reason}")]
    Tls {
        /// The server, without credentials.
        endpoint: String,
        /// What is wrong, as TLS says it.
        reason: String,
    },
    /// No server answered in time. Trying again may help.
    #[error("no nats server at {endpoint} answered within {waited:?}: {reason}")]
    Unreachable {
        /// All servers tried, without credentials.
        endpoint: String,
        /// How long.
        waited: Duration,
        /// What the last try said.
        reason: String,
    },
}

/// What one failed try to connect says.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The same options will be refused again.
    Final(NatsError),
    /// It may work later.
    Later(String),
}

impl Refusal {
    /// The text for logs.
    pub(super) fn into_reason(self) -> String {
        match self {
            Refusal::Final(error) => error.to_string(),
            Refusal::Later(reason) => reason,
        }
    }

    /// Sorts an error of the client by what can be done about it.
    pub(super) fn from_client(error: &ConnectError, endpoint: &str) -> Self {
        let endpoint = endpoint.to_owned();
        match error.kind() {
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                Refusal::Final(NatsError::Credentials {
                    endpoint,
                    reason: cause(error),
                })
            }
            ConnectErrorKind::Tls => Refusal::Final(NatsError::Tls {
                endpoint,
                reason: cause(error),
            }),
            ConnectErrorKind::ServerParse => Refusal::Final(NatsError::Options(cause(error))),
            ConnectErrorKind::Io if is_tls(error) => {
                let mut reason = cause(error);
                if reason.contains("corrupt message") {
                    reason.push_str(" (the server does not seem to speak tls)");
                }
                Refusal::Final(NatsError::Tls { endpoint, reason })
            }
            ConnectErrorKind::Io if is_about_rights(error) => {
                Refusal::Final(NatsError::Credentials {
                    endpoint,
                    reason: cause(error),
                })
            }
            ConnectErrorKind::Dns
            | ConnectErrorKind::TimedOut
            | ConnectErrorKind::Io
            | ConnectErrorKind::MaxReconnects => {
                Refusal::Later(format!("{endpoint}: {}", cause(error)))
            }
        }
    }
}

/// The innermost text: the outer ones only say that there is an inner one.
fn cause(error: &ConnectError) -> String {
    match causes(error).last() {
        Some(inner) => inner.to_string().trim_start_matches("nats: ").to_owned(),
        None => error.to_string(),
    }
}

fn causes(error: &ConnectError) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |error| beneath(*error))
}

fn beneath<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    // An I/O error hides the error it wraps from `source`.
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

fn is_tls(error: &ConnectError) -> bool {
    causes(error).any(|cause| cause.is::<rustls::Error>())
}

fn is_about_rights(error: &ConnectError) -> bool {
    causes(error).any(|cause| match cause.downcast_ref::<ServerError>() {
        Some(ServerError::AuthorizationViolation) => true,
        Some(ServerError::Other(text)) => text.to_lowercase().contains("auth"),
        Some(ServerError::SlowConsumer(_)) | None => false,
    })
}
