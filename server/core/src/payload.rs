//! Inputs and outputs of jobs as the server keeps them: bytes with a kind, never parsed here.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// What the bytes of a payload are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// JSON text, as the API layer wrote it from a protobuf value.
    Json(Bytes),
    /// Bytes kept as they are.
    Raw(Bytes),
    /// The id of an artifact that holds the bytes.
    Artifact(String),
    /// The content stands in a record of its own, because it is larger than
    /// [`Payload::INLINE_LIMIT`].
    Apart {
        /// True when the record holds JSON text, false for raw bytes.
        json: bool,
        /// Its size in bytes.
        size: u64,
    },
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    /// The content.
    pub content: Content,
    /// Media type; empty = unsaid.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub content_type: String,
}

impl Payload {
    /// Payloads up to this many bytes stand inside the job record; larger ones would make every
    /// later commit of the job rewrite them.
    pub const INLINE_LIMIT: usize = 16 * 1024;

    /// A payload of JSON text.
    #[must_use]
    pub const fn json(text: Bytes) -> Self {
        Self {
            content: Content::Json(text),
            content_type: String::new(),
        }
    }

    /// The size in bytes of the content; 0 for an artifact.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::Json(bytes) | Content::Raw(bytes) => bytes.len() as u64,
            Content::Artifact(_) => 0,
            Content::Apart { size, .. } => *size,
        }
    }

    /// Splits a large payload into what stays in the job record and the bytes that go apart; a
    /// small one stays whole.
    #[must_use]
    pub fn split(self) -> (Self, Option<Bytes>) {
        let (json, bytes) = match &self.content {
            Content::Json(bytes) if bytes.len() > Self::INLINE_LIMIT => (true, bytes.clone()),
            Content::Raw(bytes) if bytes.len() > Self::INLINE_LIMIT => (false, bytes.clone()),
            Content::Json(_) | Content::Raw(_) | Content::Artifact(_) | Content::Apart { .. } => {
                return (self, None);
            }
        };
        let content = Content::Apart {
            json,
            size: bytes.len() as u64,
        };
        (
            Self {
                content,
                content_type: self.content_type,
            },
            Some(bytes),
        )
    }

    /// Puts the bytes that went apart back.
    #[must_use]
    pub fn join(self, apart: Bytes) -> Self {
        let content = match self.content {
            Content::Apart { json: true, .. } => Content::Json(apart),
            Content::Apart { json: false, .. } => Content::Raw(apart),
            other @ (Content::Json(_) | Content::Raw(_) | Content::Artifact(_)) => other,
        };
        Self {
            content,
            content_type: self.content_type,
        }
    }

    /// Whether the content stands in a record of its own.
    #[must_use]
    pub const fn is_apart(&self) -> bool {
        matches!(self.content, Content::Apart { .. })
    }
}
