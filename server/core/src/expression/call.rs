//! What the functions of `function` do to their values.

use super::error::Fault;
use super::function::{Function, name_of};
use super::limits::Meter;
use super::temporal;
use super::value::{Value, whole};

type Outcome<'e> = Result<Value<'e>, Box<Fault>>;

/// Calls a function; `matches` is not among them, because its patterns are kept by the caller.
pub(super) fn call<'e>(function: Function, arguments: &[Value<'e>], meter: &Meter) -> Outcome<'e> {
    match (function, arguments) {
        (Function::Size, [value]) => size(value, meter),
        (Function::Contains, [Value::Text(text), Value::Text(part)]) => {
            meter.text(text.len() + part.len())?;
            Ok(Value::Bool(text.contains(&**part)))
        }
        (Function::StartsWith, [Value::Text(text), Value::Text(part)]) => {
            meter.text(part.len())?;
            Ok(Value::Bool(text.starts_with(&**part)))
        }
        (Function::EndsWith, [Value::Text(text), Value::Text(part)]) => {
            meter.text(part.len())?;
            Ok(Value::Bool(text.ends_with(&**part)))
        }
        (Function::LowerAscii, [Value::Text(text)]) => {
            meter.text(text.len())?;
            Ok(Value::built(text.to_ascii_lowercase()))
        }
        (Function::UpperAscii, [Value::Text(text)]) => {
            meter.text(text.len())?;
            Ok(Value::built(text.to_ascii_uppercase()))
        }
        (Function::Trim, [Value::Text(text)]) => {
            meter.text(text.len())?;
            Ok(Value::built(text.trim()))
        }
        (Function::Split, [Value::Text(text), Value::Text(separator)]) => {
            split(text, separator, meter)
        }
        (Function::Join, [Value::List(_)]) => join(arguments, "", meter),
        (Function::Join, [Value::List(_), Value::Text(separator)]) => {
            join(arguments, separator, meter)
        }
        (Function::Replace, [Value::Text(text), Value::Text(old), Value::Text(new)]) => {
            replace(text, old, new, meter)
        }
        (Function::Int, [value]) => int(value),
        (Function::Double, [value]) => double(value),
        (Function::String, [value]) => string(value),
        (Function::Bool, [value]) => boolean(value),
        (Function::Dyn, [value]) => Ok(value.clone()),
        (Function::Timestamp, [value]) => timestamp(value),
        (Function::Duration, [value]) => duration(value),
        (Function::Part(part), [Value::Timestamp(time)]) => {
            let part = temporal::timestamp_part(*time, part, None);
            part.map(Value::Int).ok_or_else(bad_zone)
        }
        (Function::Part(part), [Value::Timestamp(time), Value::Text(zone)]) => {
            let part = temporal::timestamp_part(*time, part, Some(zone));
            part.map(Value::Int).ok_or_else(bad_zone)
        }
        (Function::Part(part), [Value::Duration(duration)]) => {
            let value = temporal::duration_part(*duration, part);
            value
                .map(Value::Int)
                .ok_or_else(|| refuse(function, arguments))
        }
        _ => Err(refuse(function, arguments)),
    }
}

pub(super) fn refuse(function: Function, arguments: &[Value<'_>]) -> Box<Fault> {
    let types: Vec<_> = arguments.iter().map(Value::type_name).collect();
    Fault::of_type(format!(
        "`{}` does not take {}",
        name_of(function),
        types.join(" and ")
    ))
}

fn bad_zone() -> Box<Fault> {
    Fault::of_value("a time zone is `UTC` or a fixed offset such as `+02:00`")
}

/// Characters of a string, elements of a list, entries of an object.
fn size<'e>(value: &Value<'e>, meter: &Meter) -> Outcome<'e> {
    let size = match value {
        Value::Text(text) => {
            meter.text(text.len())?;
            text.chars().count()
        }
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        other => return Err(refuse(Function::Size, std::slice::from_ref(other))),
    };
    Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
}

/// Splits at each separator; an empty one splits between all characters.
fn split<'e>(text: &str, separator: &str, meter: &Meter) -> Outcome<'e> {
    meter.text(text.len() + separator.len())?;
    let mut pieces = Vec::new();
    if separator.is_empty() {
        for character in text.chars() {
            meter.steps(1)?;
            pieces.push(Value::built(character.to_string()));
        }
    } else {
        for piece in text.split(separator) {
            meter.steps(1)?;
            pieces.push(Value::built(piece));
        }
    }
    Ok(Value::list(pieces))
}

fn join<'e>(arguments: &[Value<'e>], separator: &str, meter: &Meter) -> Outcome<'e> {
    let Some(Value::List(list)) = arguments.first() else {
        return Err(refuse(Function::Join, arguments));
    };
    let mut joined = String::new();
    for (index, item) in list.iter().enumerate() {
        let Value::Text(text) = &item else {
            return Err(Fault::of_type(format!(
                "`join` takes a list of strings, element {index} is {}",
                item.type_name()
            )));
        };
        meter.steps(1)?;
        meter.text(text.len() + separator.len())?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(text);
    }
    Ok(Value::built(joined))
}

fn replace<'e>(text: &str, old: &str, new: &str, meter: &Meter) -> Outcome<'e> {
    if old.is_empty() {
        return Err(Fault::of_value("`replace` needs a text to look for"));
    }
    meter.text(text.len() + old.len())?;
    // The result can be far longer than its parts, so it is paid for before it is made.
    let grown = text.matches(old).count().saturating_mul(new.len());
    meter.text(grown)?;
    Ok(Value::built(text.replace(old, new)))
}

fn int<'e>(value: &Value<'e>) -> Outcome<'e> {
    let int = match value {
        Value::Int(int) => Some(*int),
        Value::Double(double) => {
            // Both ends of the range are doubles; the upper one is one past the largest int.
            let in_range = *double >= i64::MIN as f64 && *double < i64::MAX as f64;
            in_range.then_some(*double as i64)
        }
        Value::Text(text) => text.parse().ok(),
        Value::Timestamp(micros) => Some(micros.div_euclid(1_000_000)),
        other => return Err(refuse(Function::Int, std::slice::from_ref(other))),
    };
    int.map(Value::Int)
        .ok_or_else(|| Fault::of_value("not an int"))
}

fn double<'e>(value: &Value<'e>) -> Outcome<'e> {
    let double = match value {
        Value::Int(int) => Some(*int as f64),
        Value::Double(double) => Some(*double),
        Value::Text(text) => text.parse().ok(),
        other => return Err(refuse(Function::Double, std::slice::from_ref(other))),
    };
    double
        .map(Value::Double)
        .ok_or_else(|| Fault::of_value("not a double"))
}

fn string<'e>(value: &Value<'e>) -> Outcome<'e> {
    Ok(Value::built(match value {
        Value::Text(_) => return Ok(value.clone()),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Double(value) => match (whole(*value), serde_json::Number::from_f64(*value)) {
            (Some(whole), _) => whole.to_string(),
            (None, Some(number)) => number.to_string(),
            (None, None) => value.to_string(),
        },
        Value::Timestamp(micros) => temporal::timestamp_text(*micros),
        Value::Duration(micros) => temporal::duration_text(*micros),
        Value::Null | Value::List(_) | Value::Map(_) => {
            return Err(refuse(Function::String, std::slice::from_ref(value)));
        }
    }))
}

fn boolean<'e>(value: &Value<'e>) -> Outcome<'e> {
    match value {
        Value::Bool(_) => Ok(value.clone()),
        Value::Text(text) => match &**text {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Value::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Value::Bool(false)),
            _ => Err(Fault::of_value("not a bool")),
        },
        other => Err(refuse(Function::Bool, std::slice::from_ref(other))),
    }
}

/// From RFC 3339 text or from seconds since the epoch.
fn timestamp<'e>(value: &Value<'e>) -> Outcome<'e> {
    let micros = match value {
        Value::Timestamp(micros) => Some(*micros),
        Value::Text(text) => temporal::parse_timestamp(text),
        Value::Int(seconds) => seconds.checked_mul(1_000_000).and_then(temporal::in_range),
        other => return Err(refuse(Function::Timestamp, std::slice::from_ref(other))),
    };
    micros
        .map(Value::Timestamp)
        .ok_or_else(|| Fault::of_value("not a timestamp such as `2026-01-31T12:00:00Z`"))
}

fn duration<'e>(value: &Value<'e>) -> Outcome<'e> {
    let micros = match value {
        Value::Duration(micros) => Some(*micros),
        Value::Text(text) => temporal::parse_duration(text),
        other => return Err(refuse(Function::Duration, std::slice::from_ref(other))),
    };
    micros
        .map(Value::Duration)
        .ok_or_else(|| Fault::of_value("not a duration such as `1h30m` or `1.5s`"))
}
