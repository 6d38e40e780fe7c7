//! The values of an evaluation: JSON read in place, scalars, and what expressions build.

use std::ops::Deref;
use std::rc::Rc;

use serde_json::Value as Json;

use super::error::Fault;
use super::limits::{MAX_VALUE_DEPTH, Meter};
use super::temporal;

/// Largest magnitude up to which every whole number has its own double.
const MAX_EXACT: i64 = 1 << 53;

/// A value; cheap to clone. `'e` is the input or the expression it is read from.
#[derive(Clone, Debug)]
pub(super) enum Value<'e> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Text<'e>),
    List(List<'e>),
    Map(Map<'e>),
    /// Microseconds since the Unix epoch.
    Timestamp(i64),
    /// Microseconds.
    Duration(i64),
}

#[derive(Clone, Debug)]
pub(super) enum Text<'e> {
    Borrowed(&'e str),
    Built(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Built(text) => text,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum List<'e> {
    Json(&'e [Json]),
    Built(Rc<Vec<Value<'e>>>),
}

impl<'e> List<'e> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Json(items) => items.len(),
            Self::Built(items) => items.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Value<'e>> {
        match self {
            Self::Json(items) => items.get(index).map(Value::from_json),
            Self::Built(items) => items.get(index).cloned(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Value<'e>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }
}

#[derive(Clone, Debug)]
pub(super) enum Map<'e> {
    Json(&'e serde_json::Map<String, Json>),
    /// Entries of a map literal, in the order written; keys are all different.
    Built(Rc<Vec<(Key<'e>, Value<'e>)>>),
}

/// A key of a map; keys of JSON objects are texts.
#[derive(Clone, Debug)]
pub(super) enum Key<'e> {
    Bool(bool),
    Int(i64),
    Text(Text<'e>),
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::Int(left), Self::Int(right)) => left == right,
            (Self::Text(left), Self::Text(right)) => **left == **right,
            (Self::Bool(_) | Self::Int(_) | Self::Text(_), _) => false,
        }
    }
}

impl<'e> Key<'e> {
    /// The key that a value is, if values of its type are keys.
    pub(super) fn of(value: Value<'e>) -> Option<Self> {
        match value {
            Value::Bool(value) => Some(Self::Bool(value)),
            Value::Int(value) => Some(Self::Int(value)),
            Value::Double(value) => whole(value).map(Self::Int),
            Value::Text(text) => Some(Self::Text(text)),
            Value::Null
            | Value::List(_)
            | Value::Map(_)
            | Value::Timestamp(_)
            | Value::Duration(_) => None,
        }
    }

    fn value(&self) -> Value<'e> {
        match self {
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Text(text) => Value::Text(text.clone()),
        }
    }

    /// The key in a JSON object, and in messages.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Bool(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Text(text) => text.to_string(),
        }
    }
}

impl<'e> Map<'e> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Json(map) => map.len(),
            Self::Built(entries) => entries.len(),
        }
    }

    /// Looks a key up; a literal is searched in order, which its visit pays for.
    pub(super) fn get(
        &self,
        key: &Key<'e>,
        meter: &Meter,
    ) -> Result<Option<Value<'e>>, Box<Fault>> {
        Ok(match (self, key) {
            (Self::Json(map), Key::Text(name)) => map.get(&**name).map(Value::from_json),
            (Self::Json(_), Key::Bool(_) | Key::Int(_)) => None,
            (Self::Built(entries), _) => {
                meter.visits(entries.len())?;
                let found = entries.iter().find(|(candidate, _)| candidate == key);
                found.map(|(_, value)| value.clone())
            }
        })
    }

    pub(super) fn keys(&self) -> Vec<Value<'e>> {
        match self {
            Self::Json(map) => map
                .keys()
                .map(|key| Value::Text(Text::Borrowed(key)))
                .collect(),
            Self::Built(entries) => entries.iter().map(|(key, _)| key.value()).collect(),
        }
    }

    fn entries(&self) -> Vec<(Key<'e>, Value<'e>)> {
        match self {
            Self::Json(map) => map
                .iter()
                .map(|(key, value)| (Key::Text(Text::Borrowed(key)), Value::from_json(value)))
                .collect(),
            Self::Built(entries) => entries.to_vec(),
        }
    }
}

impl<'e> Value<'e> {
    /// Reads JSON in place: whole numbers that every JSON library keeps exact are ints, whether
    /// written `3` or `3.0`, all others are doubles.
    pub(super) fn from_json(json: &'e Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::String(text) => Self::Text(Text::Borrowed(text)),
            Json::Array(items) => Self::List(List::Json(items)),
            Json::Object(map) => Self::Map(Map::Json(map)),
            Json::Number(number) => {
                let exact = number
                    .as_i64()
                    .filter(|value| (-MAX_EXACT..=MAX_EXACT).contains(value));
                if let Some(value) = exact {
                    return Self::Int(value);
                }
                let value = number.as_f64().unwrap_or(f64::NAN);
                whole(value).map_or(Self::Double(value), Self::Int)
            }
        }
    }

    pub(super) fn built(text: impl Into<Rc<str>>) -> Self {
        Self::Text(Text::Built(text.into()))
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(List::Built(Rc::new(items)))
    }

    /// The type, with its article, for messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a bool",
            Self::Int(_) => "an int",
            Self::Double(_) => "a double",
            Self::Text(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
            Self::Timestamp(_) => "a timestamp",
            Self::Duration(_) => "a duration",
        }
    }

    /// Writes the value as JSON: whole numbers without a fraction, timestamps and durations as
    /// protobuf's JSON form has them.
    pub(super) fn to_json(&self, meter: &Meter) -> Result<Json, Box<Fault>> {
        self.copy_out(meter, 0)
    }

    fn copy_out(&self, meter: &Meter, depth: usize) -> Result<Json, Box<Fault>> {
        if depth > MAX_VALUE_DEPTH {
            return Err(too_deep());
        }
        match self {
            Self::Null => meter.result(4).map(|()| Json::Null),
            Self::Bool(value) => meter.result(5).map(|()| Json::Bool(*value)),
            Self::Int(value) => meter.result(8).map(|()| Json::from(*value)),
            Self::Double(value) => {
                meter.result(8)?;
                if let Some(whole) = whole(*value) {
                    return Ok(Json::from(whole));
                }
                serde_json::Number::from_f64(*value)
                    .map(Json::Number)
                    .ok_or_else(|| Fault::of_value("the result is not a finite number"))
            }
            Self::Text(text) => {
                meter.result(text.len() + 2)?;
                Ok(Json::String(text.to_string()))
            }
            Self::Timestamp(micros) => {
                meter.result(32)?;
                Ok(Json::String(temporal::timestamp_text(*micros)))
            }
            Self::Duration(micros) => {
                meter.result(16)?;
                Ok(Json::String(temporal::duration_text(*micros)))
            }
            Self::List(list) => {
                // Two bytes at least for each element, before space for them is taken.
                meter.result(2 * list.len() + 2)?;
                let items = list.iter().map(|item| item.copy_out(meter, depth + 1));
                items.collect::<Result<Vec<_>, _>>().map(Json::Array)
            }
            Self::Map(map) => {
                meter.result(4 * map.len() + 2)?;
                let mut object = serde_json::Map::with_capacity(map.len());
                for (key, value) in map.entries() {
                    let name = key.name();
                    meter.result(name.len())?;
                    object.insert(name, value.copy_out(meter, depth + 1)?);
                }
                Ok(Json::Object(object))
            }
        }
    }

    /// The value as text inside other text: strings as they are, all else as JSON.
    pub(super) fn to_text(&self, meter: &Meter) -> Result<String, Box<Fault>> {
        match self {
            Self::Text(text) => {
                meter.result(text.len())?;
                Ok(text.to_string())
            }
            other => Ok(match other.to_json(meter)? {
                Json::String(text) => text,
                json => json.to_string(),
            }),
        }
    }
}

/// The whole number that a double is, within the range where that is exact.
pub(super) fn whole(value: f64) -> Option<i64> {
    let in_range = value.abs() <= MAX_EXACT as f64;
    (in_range && value.fract() == 0.0).then_some(value as i64)
}

/// Compares two values; values of different types are different, numbers compare by value.
pub(super) fn equal(
    left: &Value<'_>,
    right: &Value<'_>,
    meter: &Meter,
) -> Result<bool, Box<Fault>> {
    equal_at(left, right, meter, 0)
}

fn equal_at(
    left: &Value<'_>,
    right: &Value<'_>,
    meter: &Meter,
    depth: usize,
) -> Result<bool, Box<Fault>> {
    if depth > MAX_VALUE_DEPTH {
        return Err(too_deep());
    }
    Ok(match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::Int(left), Value::Int(right))
        | (Value::Timestamp(left), Value::Timestamp(right))
        | (Value::Duration(left), Value::Duration(right)) => left == right,
        (Value::Double(left), Value::Double(right)) => left == right,
        (Value::Int(int), Value::Double(double)) | (Value::Double(double), Value::Int(int)) => {
            *int as f64 == *double
        }
        (Value::Text(left), Value::Text(right)) => {
            meter.text(left.len().min(right.len()))?;
            **left == **right
        }
        (Value::List(left), Value::List(right)) => {
            if left.len() != right.len() {
                return Ok(false);
            }
            for (left, right) in left.iter().zip(right.iter()) {
                meter.steps(1)?;
                if !equal_at(&left, &right, meter, depth + 1)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Map(left), Value::Map(right)) => {
            if left.len() != right.len() {
                return Ok(false);
            }
            meter.steps(left.len())?;
            for (key, value) in left.entries() {
                let Some(other) = right.get_any(&key, meter)? else {
                    return Ok(false);
                };
                if !equal_at(&value, &other, meter, depth + 1)? {
                    return Ok(false);
                }
            }
            true
        }
        (
            Value::Null
            | Value::Bool(_)
            | Value::Int(_)
            | Value::Double(_)
            | Value::Text(_)
            | Value::List(_)
            | Value::Map(_)
            | Value::Timestamp(_)
            | Value::Duration(_),
            _,
        ) => false,
    })
}

impl<'e> Map<'e> {
    /// [`Map::get`] with a key of another value's life.
    fn get_any(&self, key: &Key<'_>, meter: &Meter) -> Result<Option<Value<'e>>, Box<Fault>> {
        let key = match key {
            Key::Bool(value) => Key::Bool(*value),
            Key::Int(value) => Key::Int(*value),
            Key::Text(text) => Key::Text(Text::Built((**text).into())),
        };
        self.get(&key, meter)
    }
}

fn too_deep() -> Box<Fault> {
    Fault::of_value(format!("a value nested more than {MAX_VALUE_DEPTH} deep"))
}
