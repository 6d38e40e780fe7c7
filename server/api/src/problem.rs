//! What can go wrong in this layer: what the engine says, and what is found before it is asked.
//!
//! Free of any transport; [`crate::status`] turns it into a status.

use coretex_engine::{Error, Violation};

/// A call that was refused or failed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Problem {
    /// The engine refused or failed.
    Engine(Error),
    /// Fields ask for what is not built; all of them are named.
    NotAvailable {
        /// Full paths.
        fields: Vec<String>,
    },
    /// No such RPC.
    UnknownMethod {
        /// The path that was called.
        path: String,
    },
    /// The message could not be read as what the RPC takes.
    Undecodable {
        /// What the decoder says; names fields, not data.
        description: String,
    },
    /// A payload is over the limit, and nothing else is wrong.
    PayloadTooLarge {
        /// Full path of the payload.
        field: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// The message is over the limit of the transport.
    RequestTooLarge,
    /// More items than one request may hold.
    TooManyItems {
        /// The field that holds them.
        field: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The caller's deadline passed before anything was changed.
    DeadlinePassed,
    /// The caller's deadline passed while something was being changed.
    DeadlinePassedMidway,
    /// A session began with something else than `hello`, with nothing, or said it twice.
    HelloExpected,
    /// A message of a session breaks its rules.
    SessionMessage(Vec<Violation>),
    /// The session protocol is one that this server does not speak.
    ProtocolVersion {
        /// The one that was asked for.
        version: i32,
    },
    /// The session ended because the worker was silent.
    HeartbeatMissed,
    /// The worker does not read what it is sent.
    WorkerTooSlow,
    /// The worker goes on over another connection.
    SessionSuperseded,
    /// An RPC without a permission in the contract, which nobody may call.
    NoPermissionDeclared {
        /// The path that was called.
        path: String,
    },
    /// A handler was reached without the layers in front of it.
    LayersMissing,
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

/// The result of a call.
pub(crate) type Result<T> = std::result::Result<T, Problem>;
