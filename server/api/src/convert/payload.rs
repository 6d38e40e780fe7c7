//! Payloads: JSON values become text on the way in and values again on the way out; raw bytes pass
//! untouched.

use bytes::Bytes;
use coretex_core::payload::{Content, Payload};
use coretex_proto::payload::JSON_TYPE;
use coretex_proto::v1;
use coretex_proto::v1::payload::Data;
use prost::Message;
use serde::de::IgnoredAny;

use super::json;
use crate::validate::{Fields, MAX_NAME};

/// Reads the payload in `field`. `None` when there is no data.
pub(crate) fn read(
    fields: &mut Fields,
    field: &str,
    payload: Option<v1::Payload>,
    limit: usize,
) -> Option<Payload> {
    let payload = payload?;
    let is_json = payload.is_json();
    let content_type = fields.within(field, |fields| {
        fields.line("content_type", payload.content_type, MAX_NAME)
    });
    let content = match payload.data? {
        Data::Json(value) => Content::Json(read_json(fields, field, &value, limit)?),
        Data::Raw(bytes) => {
            if bytes.len() > limit {
                fields.too_large(field, limit);
            } else if is_json && let Err(error) = serde_json::from_slice::<IgnoredAny>(&bytes) {
                fields.refuse(field, format!("raw is not valid json: {error}"));
            }
            Content::Raw(bytes)
        }
        Data::ArtifactId(_) => {
            fields.within(field, |fields| fields.not_available("artifact_id"));
            return None;
        }
    };
    Some(Payload {
        content,
        content_type,
    })
}

/// The limit holds for the text and for the message, because both are kept or sent: a list of
/// small numbers is five times larger as a message.
fn read_json(
    fields: &mut Fields,
    field: &str,
    value: &prost_types::Value,
    limit: usize,
) -> Option<Bytes> {
    let size = value.encoded_len();
    if size > limit {
        fields.too_large(field, limit);
        return None;
    }
    let mut text = Vec::with_capacity(size);
    if let Err(error) = json::write(value, &mut text) {
        fields.refuse(field, error.to_string());
        return None;
    }
    if text.len() > limit {
        fields.too_large(field, limit);
        return None;
    }
    Some(text.into())
}

/// Writes a payload. `None` when its content stands apart and was not asked for.
pub(crate) fn write(payload: &Payload) -> Option<v1::Payload> {
    let mut content_type = payload.content_type.clone();
    let data = match &payload.content {
        Content::Json(text) => match json::read(text) {
            Ok(value) => Data::Json(value),
            Err(error) => {
                // Stored by somebody else than `read` above: still worth handing out.
                tracing::warn!(%error, "a stored json payload does not parse");
                content_type = JSON_TYPE.to_owned();
                Data::Raw(text.clone())
            }
        },
        Content::Raw(bytes) => Data::Raw(bytes.clone()),
        Content::Artifact(id) => Data::ArtifactId(id.clone()),
        Content::Apart { .. } => return None,
    };
    Some(v1::Payload {
        data: Some(data),
        content_type,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use coretex_engine::Error;
    use prost_types::value::Kind;
    use prost_types::{ListValue, Value};

    use super::*;
    use crate::problem::{Problem, Result};
    use crate::validate::check;

    const LIMIT: usize = 1000;

    fn through(payload: v1::Payload) -> Result<Option<Payload>> {
        check(|fields| read(fields, "input", Some(payload), LIMIT))
    }

    fn number(number: f64) -> Value {
        Value {
            kind: Some(Kind::NumberValue(number)),
        }
    }

    fn json(value: Value) -> v1::Payload {
        v1::Payload {
            data: Some(Data::Json(value)),
            content_type: String::new(),
        }
    }

    #[test]
    fn raw_json_is_kept_byte_for_byte() {
        let odd = v1::Payload::from_bytes(r#" {"id": 9007199254740993 } "#, "application/json");
        let kept = through(odd.clone()).unwrap().unwrap();
        assert_eq!(write(&kept), Some(odd));
    }

    #[test]
    fn a_payload_without_data_is_none() {
        assert_eq!(through(v1::Payload::default()), Ok(None));
        assert_eq!(check(|fields| read(fields, "input", None, LIMIT)), Ok(None));
    }

    #[test]
    fn the_limit_holds_for_text_and_message() {
        let zeros = |count| {
            json(Value {
                kind: Some(Kind::ListValue(ListValue {
                    values: vec![number(0.0); count],
                })),
            })
        };
        // 2 bytes each as text, 11 as a message.
        assert!(through(zeros(80)).is_ok());
        let refused = through(zeros(100));
        let quotes = json(Value {
            kind: Some(Kind::StringValue("\"".repeat(600))),
        });
        let raw = v1::Payload::from_bytes(vec![0; LIMIT + 1], "");
        for refused in [refused, through(quotes), through(raw)] {
            let field = "input".to_owned();
            let limit_bytes = LIMIT;
            assert_eq!(
                refused,
                Err(Problem::PayloadTooLarge { field, limit_bytes })
            );
        }
        assert!(through(v1::Payload::from_bytes(vec![0; LIMIT], "")).is_ok());
    }

    #[test]
    fn what_is_not_json_is_refused_where_it_claims_to_be() {
        let claims = v1::Payload::from_bytes("{", "Application/JSON; charset=utf-8");
        for bad in [claims, json(number(f64::NAN))] {
            let Err(Problem::Engine(Error::Invalid(violations))) = through(bad) else {
                unreachable!("must be refused");
            };
            assert_eq!(violations[0].field, "input");
        }
        assert!(through(v1::Payload::from_bytes("{", "text/plain")).is_ok());
    }

    #[test]
    fn artifacts_are_not_available() {
        let payload = v1::Payload {
            data: Some(Data::ArtifactId("a".to_owned())),
            content_type: String::new(),
        };
        let fields = vec!["input.artifact_id".to_owned()];
        assert_eq!(through(payload), Err(Problem::NotAvailable { fields }));
    }

    #[test]
    fn what_does_not_parse_is_handed_out_as_bytes() {
        let broken = Payload::json(Bytes::from_static(b"{"));
        let sent = write(&broken).unwrap();
        assert_eq!(sent, v1::Payload::from_bytes("{", JSON_TYPE));
    }
}
