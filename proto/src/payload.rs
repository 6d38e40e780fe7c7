//! Ways to make and to read a [`Payload`] as JSON.

use bytes::Bytes;

use crate::v1::{Payload, payload};
use crate::value;

/// The media type of JSON.
pub const JSON_TYPE: &str = "application/json";

/// Why a payload cannot be read as JSON.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// The data is an artifact and has to be fetched first.
    #[error("the data is in artifact {0}")]
    Artifact(String),
    /// The data is bytes of another media type.
    #[error("the data is {0}, not json")]
    ContentType(String),
    /// The bytes call themselves JSON and are not.
    #[error("the data is not valid json")]
    Syntax(#[from] serde_json::Error),
}

impl Payload {
    /// Makes a payload of a JSON value: as `json` where nothing is lost by that, else as JSON text
    /// in `raw` (see [`value::survives`]).
    #[must_use]
    pub fn from_json(json: &serde_json::Value) -> Self {
        if value::survives(json) {
            Self {
                data: Some(payload::Data::Json(value::from_json(json))),
                content_type: String::new(),
            }
        } else {
            Self::from_bytes(json.to_string(), JSON_TYPE)
        }
    }

    /// Makes a payload of bytes, kept byte for byte.
    #[must_use]
    pub fn from_bytes(bytes: impl Into<Bytes>, content_type: impl Into<String>) -> Self {
        Self {
            data: Some(payload::Data::Raw(bytes.into())),
            content_type: content_type.into(),
        }
    }

    /// Reads the payload as JSON. `None` when it holds no data.
    ///
    /// # Errors
    /// The data is elsewhere, of another media type, or not valid JSON.
    pub fn to_json(&self) -> Result<Option<serde_json::Value>, PayloadError> {
        match &self.data {
            None => Ok(None),
            Some(payload::Data::Json(json)) => Ok(Some(value::to_json(json))),
            Some(payload::Data::ArtifactId(id)) => Err(PayloadError::Artifact(id.clone())),
            Some(payload::Data::Raw(raw)) if self.is_json() => {
                Ok(Some(serde_json::from_slice(raw)?))
            }
            Some(payload::Data::Raw(_)) => {
                Err(PayloadError::ContentType(self.media_type().to_owned()))
            }
        }
    }

    /// Whether the data is JSON, as a value or as text.
    #[must_use]
    pub fn is_json(&self) -> bool {
        match &self.data {
            None | Some(payload::Data::ArtifactId(_)) => false,
            Some(payload::Data::Json(_)) => true,
            Some(payload::Data::Raw(_)) => {
                let media_type = self.media_type();
                media_type.eq_ignore_ascii_case(JSON_TYPE)
            }
        }
    }

    /// The media type without parameters, with the default filled in. Empty for artifacts that do
    /// not say.
    #[must_use]
    pub fn media_type(&self) -> &str {
        let given = self.content_type.split(';').next().unwrap_or_default();
        let given = given.trim();
        match &self.data {
            _ if !given.is_empty() => given,
            Some(payload::Data::Json(_)) => JSON_TYPE,
            Some(payload::Data::Raw(_)) => "application/octet-stream",
            None | Some(payload::Data::ArtifactId(_)) => "",
        }
    }
}
