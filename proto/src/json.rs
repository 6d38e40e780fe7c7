//! Messages as proto JSON and YAML text, and back.
//!
//! Written JSON uses the field names of the contract and shows fields that hold their default, so
//! that scripts find every field. Whole numbers have no `.0`. As proto JSON wants it, 64-bit
//! integers are strings, bytes are base64, times are RFC 3339 and durations end in `s`. Read JSON
//! may also use camel case.
//!
//! Errors name the field they are about. The check is made only after reading has failed, so
//! reading good data costs nothing extra.

use prost::{Message, Name};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, SerializeOptions};
use serde_json::{Map, Value};

use crate::{descriptor_pool, value};

/// How much a misspelt name may differ from a known one to be offered instead, from 0 to 1.
const SIMILARITY: f64 = 0.7;

/// Why a message cannot be written as JSON.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The message is not one of this contract.
    #[error("no descriptor for message {0}")]
    UnknownMessage(String),
    /// The message holds something that JSON cannot show: a number that is not finite in a JSON
    /// value, a time out of range, or an error detail of an unknown type.
    #[error("{0}")]
    Value(String),
}

/// Why a text cannot be read as a message.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The message is not one of this contract.
    #[error("no descriptor for message {0}")]
    UnknownMessage(String),
    /// The text is not JSON or YAML. Says where.
    #[error("{0}")]
    Syntax(String),
    /// A field does not hold what it should.
    #[error("{path}: {problem}")]
    Field {
        /// The path of the field, for example `requests[2].retry.max_attempts`; `(top level)` for
        /// the whole.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Writes a message as a JSON value.
///
/// # Errors
/// See [`WriteError`].
pub fn to_value<M: Message + Name>(message: &M) -> Result<Value, WriteError> {
    let descriptor = descriptor::<M>().map_err(WriteError::UnknownMessage)?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
        .map_err(|error| WriteError::Value(error.to_string()))?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false);
    let mut json = dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| WriteError::Value(error.to_string()))?;
    write_whole_numbers(&mut json);
    Ok(json)
}

/// Writes a message as one line of JSON.
///
/// # Errors
/// See [`WriteError`].
pub fn to_string<M: Message + Name>(message: &M) -> Result<String, WriteError> {
    Ok(to_value(message)?.to_string())
}

/// Writes a message as indented JSON, without a line end.
///
/// # Errors
/// See [`WriteError`].
pub fn to_string_pretty<M: Message + Name>(message: &M) -> Result<String, WriteError> {
    serde_json::to_string_pretty(&to_value(message)?)
        .map_err(|error| WriteError::Value(error.to_string()))
}

/// Writes a message as YAML, with the same fields as JSON.
///
/// # Errors
/// See [`WriteError`].
pub fn to_yaml<M: Message + Name>(message: &M) -> Result<String, WriteError> {
    serde_yaml_ng::to_string(&to_value(message)?)
        .map_err(|error| WriteError::Value(error.to_string()))
}

/// Reads a message from JSON text.
///
/// # Errors
/// The text is not JSON, or a field is unknown or does not hold what it should.
pub fn from_json<M: Message + Name + Default>(text: &str) -> Result<M, ReadError> {
    from_value(&serde_json::from_str(text).map_err(|error| ReadError::Syntax(error.to_string()))?)
}

/// Reads a message from YAML text. JSON is YAML, too.
///
/// # Errors
/// The text is not YAML, or a field is unknown or does not hold what it should.
pub fn from_yaml<M: Message + Name + Default>(text: &str) -> Result<M, ReadError> {
    from_value(
        &serde_yaml_ng::from_str(text).map_err(|error| ReadError::Syntax(error.to_string()))?,
    )
}

/// Reads a message from a JSON value.
///
/// # Errors
/// A field is unknown or does not hold what it should.
pub fn from_value<M: Message + Name + Default>(json: &Value) -> Result<M, ReadError> {
    let descriptor = descriptor::<M>().map_err(ReadError::UnknownMessage)?;
    let dynamic = DynamicMessage::deserialize(descriptor.clone(), json).map_err(|error| {
        explain(&descriptor, json, "").unwrap_or_else(|| problem("", error.to_string()))
    })?;
    // Both sides know the same descriptor, so this fails only on nesting beyond what a decoder
    // takes.
    M::decode(dynamic.encode_to_vec().as_slice()).map_err(|error| problem("", error.to_string()))
}

fn descriptor<M: Name>() -> Result<MessageDescriptor, String> {
    let name = M::full_name();
    descriptor_pool().get_message_by_name(&name).ok_or(name)
}

/// Proto JSON may write the double three as `3` and as `3.0`; people expect `3`.
fn write_whole_numbers(json: &mut Value) {
    match json {
        Value::Number(number) if number.is_f64() => {
            if let Some(short) = number.as_f64().and_then(value::number_to_json) {
                *number = short;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(write_whole_numbers),
        Value::Object(fields) => fields.values_mut().for_each(write_whole_numbers),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn problem(path: &str, problem: impl Into<String>) -> ReadError {
    let path = if path.is_empty() { "(top level)" } else { path };
    ReadError::Field {
        path: path.to_owned(),
        problem: problem.into(),
    }
}

/// The first field of `json` that keeps it from being a message. `None` when every field is fine
/// by itself.
fn explain(message: &MessageDescriptor, json: &Value, path: &str) -> Option<ReadError> {
    let Value::Object(fields) = json else {
        return Some(problem(path, "must be an object"));
    };
    fields.iter().find_map(|(key, json)| {
        let path = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        let field = message
            .get_field_by_name(key)
            .or_else(|| message.get_field_by_json_name(key));
        match field {
            None => Some(problem(&path, unknown(message, key))),
            Some(field) => explain_field(&field, json, &path),
        }
    })
}

fn unknown(message: &MessageDescriptor, key: &str) -> String {
    let names: Vec<_> = message.fields().map(|f| f.name().to_owned()).collect();
    let nearest = names
        .iter()
        .map(|name| (strsim::jaro_winkler(name, key), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((score, name)) if score >= SIMILARITY => {
            format!("unknown field, did you mean `{name}`?")
        }
        _ if names.is_empty() => "unknown field, none is expected".to_owned(),
        _ => format!("unknown field, expected one of {}", names.join(", ")),
    }
}

fn explain_field(field: &FieldDescriptor, json: &Value, path: &str) -> Option<ReadError> {
    // Null stands for "not set" everywhere.
    if json.is_null() {
        return None;
    }
    if field.is_list() {
        let Value::Array(items) = json else {
            return Some(problem(path, "must be a list"));
        };
        return items.iter().enumerate().find_map(|(index, item)| {
            let path = format!("{path}[{index}]");
            let alone = Value::Array(vec![item.clone()]);
            explain_value(field, &field.kind(), item, alone, &path)
        });
    }
    if let (true, Kind::Message(entry)) = (field.is_map(), field.kind()) {
        let Value::Object(entries) = json else {
            return Some(problem(path, "must be an object"));
        };
        let kind = entry.map_entry_value_field().kind();
        return entries.iter().find_map(|(key, item)| {
            let path = format!("{path}.{key}");
            let alone = Value::Object(Map::from_iter([(key.clone(), item.clone())]));
            explain_value(field, &kind, item, alone, &path)
        });
    }
    explain_value(field, &field.kind(), json, json.clone(), path)
}

/// Explains one value; `alone` is it in the form in which it could stand as the only one of its
/// field.
fn explain_value(
    field: &FieldDescriptor,
    kind: &Kind,
    json: &Value,
    alone: Value,
    path: &str,
) -> Option<ReadError> {
    match kind {
        // Well-known types have forms of their own, which only the reader knows.
        Kind::Message(message) if message.package_name() != "google.protobuf" => {
            return explain(message, json, path);
        }
        Kind::Enum(values) => {
            if let Value::String(name) = json
                && values.get_value_by_name(name).is_none()
            {
                let names: Vec<_> = values.values().map(|v| v.name().to_owned()).collect();
                return Some(problem(
                    path,
                    format!("must be one of {}", names.join(", ")),
                ));
            }
        }
        _ => {}
    }
    let single = Value::Object(Map::from_iter([(field.name().to_owned(), alone)]));
    DynamicMessage::deserialize(field.parent_message().clone(), &single)
        .err()
        .map(|error| problem(path, error.to_string()))
}
