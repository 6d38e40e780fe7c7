//! Payloads from and to Rust types.
//!
//! What [`Payload`] itself offers (`from_json`, `from_bytes`, `to_json`, `media_type`) is in the
//! contract's crate; here is what needs serde types or this crate's error.

use std::borrow::Cow;

use bytes::Bytes;
use coretex_proto::payload::JSON_TYPE;
use coretex_proto::v1::{Payload, payload};
use coretex_proto::value;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::Code;

use crate::Error;

/// Makes a JSON payload of anything that serde can write.
///
/// ```
/// use coretex::{PayloadExt, to_payload};
///
/// let payload = to_payload(&vec![1_u64, u64::MAX])?;
/// // Numbers beyond 2^53 travel as text, so nothing is lost.
/// assert_eq!(payload.parse::<Vec<u64>>()?, [1, u64::MAX]);
/// # Ok::<(), coretex::Error>(())
/// ```
///
/// # Errors
/// INVALID_ARGUMENT when the type cannot be JSON, for example a map with keys that are no text.
pub fn to_payload<T: Serialize + ?Sized>(data: &T) -> Result<Payload, Error> {
    let json = serde_json::to_value(data)
        .map_err(|error| Error::local(Code::InvalidArgument, format!("not json: {error}")))?;
    Ok(Payload::from_json(&json))
}

/// Ways to read a [`Payload`].
pub trait PayloadExt {
    /// Reads JSON into a type. No data reads like `null`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the data is an artifact, not JSON, or not of that type.
    fn parse<T: DeserializeOwned>(&self) -> Result<T, Error>;

    /// The data as text: raw bytes as they are, JSON as its text, no data as nothing.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the data is an artifact, or not UTF-8.
    fn to_text(&self) -> Result<Cow<'_, str>, Error>;

    /// The data as bytes: raw bytes as they are, JSON as its text, no data as nothing.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the data is an artifact.
    fn to_bytes(&self) -> Result<Bytes, Error>;
}

fn artifact(id: &str) -> Error {
    let message = format!("the data is in artifact {id} and has to be fetched first");
    Error::local(Code::InvalidArgument, message)
}

impl PayloadExt for Payload {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let parsed = match &self.data {
            None => serde_json::from_value(serde_json::Value::Null),
            Some(payload::Data::Json(json)) => serde_json::from_value(value::to_json(json)),
            // Straight from the text: that keeps integers beyond 2^53 exact.
            Some(payload::Data::Raw(raw)) if self.is_json() => serde_json::from_slice(raw),
            Some(payload::Data::Raw(_)) => {
                let message = format!("the data is {}, not {JSON_TYPE}", self.media_type());
                return Err(Error::local(Code::InvalidArgument, message));
            }
            Some(payload::Data::ArtifactId(id)) => return Err(artifact(id)),
        };
        parsed.map_err(|error| {
            Error::local(Code::InvalidArgument, format!("unexpected data: {error}"))
        })
    }

    fn to_text(&self) -> Result<Cow<'_, str>, Error> {
        match &self.data {
            None => Ok(Cow::Borrowed("")),
            Some(payload::Data::Json(json)) => Ok(Cow::Owned(value::to_json(json).to_string())),
            Some(payload::Data::Raw(raw)) => std::str::from_utf8(raw)
                .map(Cow::Borrowed)
                .map_err(|_| Error::local(Code::InvalidArgument, "the data is not utf-8 text")),
            Some(payload::Data::ArtifactId(id)) => Err(artifact(id)),
        }
    }

    fn to_bytes(&self) -> Result<Bytes, Error> {
        match &self.data {
            None => Ok(Bytes::new()),
            Some(payload::Data::Json(json)) => Ok(value::to_json(json).to_string().into()),
            Some(payload::Data::Raw(raw)) => Ok(raw.clone()),
            Some(payload::Data::ArtifactId(id)) => Err(artifact(id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_text_and_values_read_the_same() -> Result<(), Error> {
        let value = Payload::from_json(&json!({"a": [1, "b", null]}));
        let text = Payload::from_bytes(r#"{"a":[1,"b",null]}"#, "application/json; charset=utf-8");
        assert_eq!(
            value.parse::<serde_json::Value>()?,
            text.parse::<serde_json::Value>()?
        );
        assert_eq!(value.to_text()?, r#"{"a":[1,"b",null]}"#);
        assert_eq!(value.to_bytes()?, text.to_bytes()?);
        Ok(())
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let binary = Payload::from_bytes(vec![0xff], "image/png");
        let message = |error: Option<Error>| error.map(|e| e.to_string()).unwrap_or_default();
        assert!(message(binary.parse::<u8>().err()).contains("image/png"));
        assert!(message(binary.to_text().err()).contains("utf-8"));
        let elsewhere = Payload {
            data: Some(payload::Data::ArtifactId("art-1".into())),
            ..Payload::default()
        };
        assert!(message(elsewhere.parse::<u8>().err()).contains("art-1"));
        assert!(
            message(to_payload(&json!("x")).and_then(|p| p.parse::<u8>()).err()).contains("u8")
        );
    }
}
