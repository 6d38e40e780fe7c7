//! The names by which [`ErrorReason`] travels in `google.rpc.ErrorInfo`.
//!
//! Which gRPC code belongs to which reason is the server's table, not here.

use crate::v1::ErrorReason;

/// The `domain` of every `ErrorInfo` that Coretex sends.
pub const ERROR_DOMAIN: &str = "coretex.dev";

/// What the names of the enum values start with and the reasons on the wire do not.
const PREFIX: &str = "ERROR_REASON_";

impl ErrorReason {
    /// The `reason` of `ErrorInfo`: the name of the value without its prefix, for example
    /// `ETAG_MISMATCH`.
    #[must_use]
    pub fn reason(self) -> &'static str {
        let name = self.as_str_name();
        name.strip_prefix(PREFIX).unwrap_or(name)
    }

    /// The value whose [`reason`](Self::reason) this is. `None` for reasons of other domains or of
    /// later versions.
    #[must_use]
    pub fn from_reason(reason: &str) -> Option<Self> {
        Self::from_str_name(&format!("{PREFIX}{reason}"))
    }
}
