//! JSON text and `google.protobuf.Value`, straight from one to the other.
//!
//! Both directions are on the hot path, so no tree of another kind stands in between. Whole numbers
//! within ±2^53 are written as integers, so that `3` stays `3`.

use std::fmt;

use coretex_proto::value::MAX_DEPTH;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// The largest magnitude up to which every whole number is a double: 2^53.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Why a value cannot be kept as JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unwritable {
    /// A number that JSON does not have: NaN or an infinity.
    #[error("must hold finite numbers only")]
    NotFinite,
    /// So deep that the messages that carry it to workers would no longer be decoded.
    #[error("must not be nested deeper than {MAX_DEPTH}")]
    TooDeep,
}

/// Writes `value` as JSON text. A value without a kind is `null`.
pub(crate) fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), Unwritable> {
    write_nested(value, out, 0)
}

fn write_nested(value: &Value, out: &mut Vec<u8>, depth: usize) -> Result<(), Unwritable> {
    let nested = matches!(value.kind, Some(Kind::ListValue(_) | Kind::StructValue(_)));
    if nested && depth == MAX_DEPTH {
        return Err(Unwritable::TooDeep);
    }
    match &value.kind {
        None | Some(Kind::NullValue(_)) => out.extend_from_slice(b"null"),
        Some(Kind::BoolValue(true)) => out.extend_from_slice(b"true"),
        Some(Kind::BoolValue(false)) => out.extend_from_slice(b"false"),
        Some(Kind::NumberValue(number)) => write_number(*number, out)?,
        Some(Kind::StringValue(text)) => write_string(text, out),
        Some(Kind::ListValue(list)) => {
            out.push(b'[');
            for (index, item) in list.values.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_nested(item, out, depth + 1)?;
            }
            out.push(b']');
        }
        Some(Kind::StructValue(object)) => {
            out.push(b'{');
            for (index, (key, item)) in object.fields.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(key, out);
                out.push(b':');
                write_nested(item, out, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_number(number: f64, out: &mut Vec<u8>) -> Result<(), Unwritable> {
    if !number.is_finite() {
        return Err(Unwritable::NotFinite);
    }
    // Minus zero is whole, but no integer is it.
    let minus_zero = number == 0.0 && number.is_sign_negative();
    if number.fract() == 0.0 && number.abs() <= MAX_EXACT && !minus_zero {
        put(&(number as i64), out);
    } else {
        put(&number, out);
    }
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    put(text, out);
}

/// Writes what cannot fail: a text or a number into memory.
fn put(value: &(impl serde::Serialize + ?Sized), out: &mut Vec<u8>) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "writing to memory does not fail");
}

/// Reads JSON text. Numbers become doubles.
pub(crate) fn read(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice::<Json>(text).map(|json| json.0)
}

/// A `Value` as it is read from JSON.
struct Json(Value);

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

const fn json(kind: Kind) -> Json {
    Json(Value { kind: Some(kind) })
}

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a json value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(json(Kind::NullValue(0)))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json, E> {
        Ok(json(Kind::BoolValue(flag)))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(json(Kind::NumberValue(number as f64)))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(json(Kind::NumberValue(number as f64)))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(json(Kind::NumberValue(number)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(json(Kind::StringValue(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Json, E> {
        Ok(json(Kind::StringValue(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut values = Vec::new();
        while let Some(item) = items.next_element::<Json>()? {
            values.push(item.0);
        }
        Ok(json(Kind::ListValue(ListValue { values })))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut object = Struct::default();
        while let Some((key, item)) = entries.next_entry::<String, Json>()? {
            object.fields.insert(key, item.0);
        }
        Ok(json(Kind::StructValue(object)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn text(value: &Value) -> String {
        let mut out = Vec::new();
        write(value, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn whole_numbers_stay_whole() {
        for json in ["3", "-7", "0", "0.5", "9007199254740992", "1e+300", "-0.0"] {
            assert_eq!(text(&read(json.as_bytes()).unwrap()), json);
        }
        assert_eq!(text(&read(b"3.0").unwrap()), "3");
        assert_eq!(
            text(&read(b"18014398509481984").unwrap()),
            "1.8014398509481984e+16"
        );
    }

    #[test]
    fn numbers_that_json_does_not_have_are_refused() {
        for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let value = json(Kind::NumberValue(number)).0;
            assert_eq!(write(&value, &mut Vec::new()), Err(Unwritable::NotFinite));
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let deepest = nested(MAX_DEPTH);
        assert_eq!(text(&read(deepest.as_bytes()).unwrap()), deepest);
        let deeper = read(nested(MAX_DEPTH + 1).as_bytes()).unwrap();
        assert_eq!(write(&deeper, &mut Vec::new()), Err(Unwritable::TooDeep));
    }

    #[test]
    fn text_is_escaped_and_keys_are_sorted() {
        let value = read(br#" {"b": "\u0001\"\\\n\u2028", "a": [null, true, false, {}]} "#);
        assert_eq!(
            text(&value.unwrap()),
            "{\"a\":[null,true,false,{}],\"b\":\"\\u0001\\\"\\\\\\n\u{2028}\"}"
        );
        assert_eq!(text(&Value { kind: None }), "null");
        for bad in ["", "{", "[1,]", "{\"a\":1} x", "nul", "\"\u{0}\""] {
            assert!(read(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Kind::NullValue(0)),
            any::<bool>().prop_map(Kind::BoolValue),
            any::<i32>().prop_map(|n| Kind::NumberValue(f64::from(n))),
            proptest::num::f64::NORMAL.prop_map(Kind::NumberValue),
            any::<String>().prop_map(Kind::StringValue),
        ];
        let kind = leaf.prop_recursive(6, 64, 8, |inner| {
            let inner = inner.prop_map(|kind| Value { kind: Some(kind) });
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8)
                    .prop_map(|values| Kind::ListValue(ListValue { values })),
                prop::collection::btree_map(any::<String>(), inner, 0..8)
                    .prop_map(|fields| Kind::StructValue(Struct { fields })),
            ]
        });
        kind.prop_map(|kind| Value { kind: Some(kind) })
    }

    proptest! {
        #[test]
        fn values_survive_the_way_through_text(value in values()) {
            let mut out = Vec::new();
            write(&value, &mut out).unwrap();
            prop_assert_eq!(read(&out).unwrap(), value.clone());
            // The same text as that of the slower converter that clients use.
            let tree: serde_json::Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(tree, coretex_proto::value::to_json(&value));
        }
    }
}
