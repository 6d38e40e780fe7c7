//! The one error type of the bus.

/// Why a bus call did nothing.
///
/// An `Ok` from publish is no promise of delivery, so no error here ever means "maybe delivered":
/// the caller goes on in every case, because the store is the truth.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// The subject or pattern is not dotted, non-empty, printable tokens, or a wildcard stands
    /// where none may stand.
    #[error("subject {subject:?} is not usable: {why}")]
    InvalidSubject {
        /// What was given.
        subject: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The payload is larger than the engine carries.
    #[error("payload of {size} bytes is over the limit of {limit}")]
    TooLarge {
        /// Bytes given.
        size: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// This handle was drained; it will not come back.
    #[error("bus is closed")]
    Closed,
    /// The engine cannot be reached now; it keeps trying to reconnect by itself.
    #[error("bus is unavailable: {reason}")]
    Unavailable {
        /// What the engine knows about the cause, for logs.
        reason: String,
    },
}
