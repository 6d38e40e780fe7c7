//! Names and ids as types, parsed once at the edge.
//!
//! The alphabet follows the contract: `[A-Za-z0-9_-]{1,128}`; topics are dotted tokens of it that
//! start with `job.`. Ids made by the server for workflow steps also hold `: @ [ ]`, which clients
//! may not use.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest id or name, in bytes.
pub const MAX_ID_LEN: usize = 128;
/// The longest topic, in bytes.
pub const MAX_TOPIC_LEN: usize = 255;

/// Why a text is not an id. The text says what is allowed, for direct use in a field violation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More than the allowed number of bytes.
    #[error("must be at most {max} characters long")]
    TooLong {
        /// The allowed number of bytes.
        max: usize,
    },
    /// A character outside the alphabet.
    #[error("may hold only letters, digits, `_` and `-`")]
    Alphabet,
    /// A topic that is not dotted tokens starting with `job.`.
    #[error("must be `job.` followed by dotted tokens of letters, digits, `_` and `-`")]
    Topic,
}

fn is_id_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

/// Checks a client-given id or name.
///
/// # Errors
/// Empty, longer than [`MAX_ID_LEN`], or a character outside the alphabet.
pub fn check_id(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_LEN {
        return Err(IdError::TooLong { max: MAX_ID_LEN });
    }
    if !text.bytes().all(is_id_byte) {
        return Err(IdError::Alphabet);
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a client-given text.
            ///
            /// # Errors
            /// As [`check_id`].
            pub fn parse(text: &str) -> Result<Self, IdError> {
                check_id(text)?;
                Ok(Self(text.into()))
            }

            /// Wraps a text that the server itself made or has stored.
            #[must_use]
            pub fn from_trusted(text: &str) -> Self {
                Self(text.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text as bytes, for keys.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                self.0.as_bytes()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// One organisation. Everything a client sees belongs to exactly one.
    TenantId
);
text_id!(
    /// A job, unique within its tenant. Step jobs hold `: @ [ ]` too.
    JobId
);
text_id!(
    /// A request for a human's consent. Made by the server; ids sort by creation.
    ApprovalId
);
text_id!(
    /// A worker process by its own name. A name is never trusted to mean the same process.
    WorkerId
);
text_id!(
    /// A pool of workers.
    PoolName
);
text_id!(
    /// A server process, new at every start.
    ReplicaId
);
text_id!(
    /// One connection of a worker, new at every connect.
    SessionId
);

/// What a job is about: `job.` and dotted tokens.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Parses a client-given topic.
    ///
    /// # Errors
    /// Not `job.` followed by dotted tokens of the id alphabet, or too long.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > MAX_TOPIC_LEN {
            return Err(IdError::TooLong { max: MAX_TOPIC_LEN });
        }
        let rest = text.strip_prefix("job.").ok_or(IdError::Topic)?;
        let good = |token: &str| !token.is_empty() && token.bytes().all(is_id_byte);
        if !rest.split('.').all(good) {
            return Err(IdError::Topic);
        }
        Ok(Self(text.into()))
    }

    /// Wraps a topic that has been stored.
    #[must_use]
    pub fn from_trusted(text: &str) -> Self {
        Self(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The random 128 bits that make an attempt unmistakable. Carried by every message about it; only
/// an exact match is applied, because attempt numbers repeat after a failover rewind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(u128);

impl LeaseId {
    /// Wraps 128 random bits.
    #[must_use]
    pub const fn new(bits: u128) -> Self {
        Self(bits)
    }

    /// Parses the 32 hex digits of the wire form; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(Self)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u128 {
        self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_need_the_job_prefix_and_clean_tokens() {
        for good in ["job.a", "job.wc", "job.a-b.c_d.E9"] {
            assert!(Topic::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "", "job", "job.", "job..a", "job.a.", "jobs.a", "job.a b", "job.*", "job.>", "sys.a",
        ] {
            assert!(Topic::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Topic::parse(&format!("job.{}", "a".repeat(300))),
            Err(IdError::TooLong { max: MAX_TOPIC_LEN })
        );
    }

    #[test]
    fn client_ids_may_not_hold_what_step_jobs_need() {
        for bad in [
            "",
            "a:b",
            "a@1",
            "a[0]",
            "a/b",
            "ä",
            "a\0b",
            &"x".repeat(129),
        ] {
            assert!(JobId::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            JobId::parse("A-z_09").map(|id| id.to_string()).as_deref(),
            Ok("A-z_09")
        );
    }

    #[test]
    fn lease_ids_round_trip_and_refuse_other_texts() {
        let lease = LeaseId::new(0x00ff_u128);
        assert_eq!(LeaseId::parse(&lease.to_string()), Some(lease));
        assert_eq!(LeaseId::parse("+0000000000000000000000000000fff"), None);
        assert_eq!(LeaseId::parse("ff"), None);
    }
}
