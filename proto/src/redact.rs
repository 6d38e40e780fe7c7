//! `Debug` for messages that hold secrets: everything but the secret.
//!
//! The generated form is switched off for these in the build script, so that a message that ends up
//! in a log line cannot take a secret along.

use std::fmt;

use crate::v1;

/// What stands in place of a secret.
const HIDDEN: &str = "(hidden)";

impl fmt::Debug for v1::CreateApiKeyResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateApiKeyResponse")
            .field("api_key", &self.api_key)
            .field("secret", &HIDDEN)
            .finish()
    }
}

impl fmt::Debug for v1::ServerAssignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The names of secrets are no secret and help to find a missing one.
        let secrets: Vec<_> = self.secrets.keys().map(|name| (name, HIDDEN)).collect();
        f.debug_struct("ServerAssignment")
            .field("job", &self.job)
            .field("attempt", &self.attempt)
            .field("lease_id", &self.lease_id)
            .field("valid_for", &self.valid_for)
            .field("constraints", &self.constraints)
            .field("config", &self.config)
            .field("secrets", &secrets)
            .field("traceparent", &self.traceparent)
            .field("time_limit", &self.time_limit)
            .finish()
    }
}
