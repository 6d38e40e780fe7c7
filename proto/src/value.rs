//! Conversions between `google.protobuf.Value` and JSON.
//!
//! Numbers of a `Value` are doubles. A double without a fraction becomes a JSON integer where both
//! kinds mean exactly the same (±2^53), so that `3` stays `3` on its way through the platform.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::{Map, Number};

/// The largest magnitude up to which every whole number is a double: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// The deepest nesting of arrays and objects that survives the journey as a `Value`.
///
/// A decoder of protobuf stops at 100 nested messages. An object in an object costs three of them,
/// and the messages around a payload (session message, assignment, job) some more.
pub const MAX_DEPTH: usize = 24;

/// Converts to JSON.
///
/// Whole numbers within ±2^53 become integers; numbers that JSON does not have (NaN, infinities)
/// and a value without a kind become `null`.
#[must_use]
pub fn to_json(value: &prost_types::Value) -> serde_json::Value {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => serde_json::Value::Null,
        Some(Kind::BoolValue(flag)) => serde_json::Value::Bool(*flag),
        Some(Kind::NumberValue(number)) => {
            number_to_json(*number).map_or(serde_json::Value::Null, serde_json::Value::Number)
        }
        Some(Kind::StringValue(text)) => serde_json::Value::String(text.clone()),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::StructValue(object)) => serde_json::Value::Object(struct_to_json(object)),
    }
}

/// Converts an object to JSON, as [`to_json`] does.
#[must_use]
pub fn struct_to_json(object: &Struct) -> Map<String, serde_json::Value> {
    object
        .fields
        .iter()
        .map(|(key, value)| (key.clone(), to_json(value)))
        .collect()
}

/// Converts from JSON.
///
/// Keys of objects are sorted and integers beyond ±2^53 are rounded to the nearest double; see
/// [`survives`].
#[must_use]
pub fn from_json(json: &serde_json::Value) -> prost_types::Value {
    let kind = match json {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(flag) => Kind::BoolValue(*flag),
        serde_json::Value::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => Kind::ListValue(ListValue {
            values: items.iter().map(from_json).collect(),
        }),
        serde_json::Value::Object(fields) => Kind::StructValue(struct_from_json(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// Converts an object from JSON, as [`from_json`] does.
#[must_use]
pub fn struct_from_json(fields: &Map<String, serde_json::Value>) -> Struct {
    Struct {
        fields: fields
            .iter()
            .map(|(key, value)| (key.clone(), from_json(value)))
            .collect(),
    }
}

/// Whether the data is the same after [`from_json`], a journey, and [`to_json`]: no integer beyond
/// ±2^53, and not nested deeper than [`MAX_DEPTH`]. What does not survive travels as raw bytes.
#[must_use]
pub fn survives(json: &serde_json::Value) -> bool {
    fn check(json: &serde_json::Value, depth: usize) -> bool {
        match json {
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::String(_) => {
                true
            }
            serde_json::Value::Number(number) => {
                // As integers: rounded to a double, 2^53 + 1 would pass for 2^53.
                let within = |whole: i64| whole.unsigned_abs() <= MAX_EXACT as u64;
                number.is_f64() || number.as_i64().is_some_and(within)
            }
            serde_json::Value::Array(items) => {
                depth < MAX_DEPTH && items.iter().all(|item| check(item, depth + 1))
            }
            serde_json::Value::Object(fields) => {
                depth < MAX_DEPTH && fields.values().all(|field| check(field, depth + 1))
            }
        }
    }
    check(json, 0)
}

/// A double as a JSON number: an integer when that is exactly the same. `None` if it is not finite.
pub(crate) fn number_to_json(number: f64) -> Option<Number> {
    // Minus zero is whole, but no integer is it.
    let whole = number.fract() == 0.0 && number.abs() <= MAX_EXACT;
    if whole && !(number == 0.0 && number.is_sign_negative()) {
        return Some(Number::from(number as i64));
    }
    Number::from_f64(number)
}
