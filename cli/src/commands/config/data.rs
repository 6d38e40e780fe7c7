//! Documents as they are typed: files, and keys with their values.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use coretex::proto_value::struct_to_json;
use coretex::well_known::Struct;
use serde_json::{Map, Value};

use crate::failure::Failure;

/// What a document says.
pub(super) fn of(data: Option<&Struct>) -> Map<String, Value> {
    data.map(struct_to_json).unwrap_or_default()
}

/// Reads a document from a file, or from stdin for `-`.
pub(super) fn read(path: &Path) -> Result<Map<String, Value>, Failure> {
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text = text
        .map_err(|error| Failure::usage(format!("cannot read {}", path.display())).cause(error))?;
    parse(&text)
}

/// Reads a document from JSON or YAML; nothing is an empty one.
pub(super) fn parse(text: &str) -> Result<Map<String, Value>, Failure> {
    let read: Value = serde_yaml_ng::from_str(text)
        .map_err(|error| Failure::usage("not a document of configuration").cause(error))?;
    match read {
        Value::Object(data) => Ok(data),
        Value::Null => Ok(Map::new()),
        _ => Err(Failure::usage(
            "not a document of configuration: it has to be an object of sections",
        )),
    }
}

/// A value as it is typed: JSON if it is that, else a text.
pub(super) fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// The keys on the way to a value: `a.b`, or a JSON pointer.
fn way(key: &str) -> Result<Vec<String>, Failure> {
    let keys: Vec<String> = match key.strip_prefix('/') {
        Some(pointer) => pointer
            .split('/')
            .map(|part| part.replace("~1", "/").replace("~0", "~"))
            .collect(),
        None => key.split('.').map(str::to_owned).collect(),
    };
    if keys.iter().any(String::is_empty) {
        return Err(Failure::usage(format!("`{key}` is no key")).hint(
            "a key such as limits.max_labels, or a JSON pointer such as /topics/job.a/timeout",
        ));
    }
    Ok(keys)
}

/// Sets the value of a key, with the objects on the way to it.
pub(super) fn put(data: &mut Map<String, Value>, key: &str, value: Value) -> Result<(), Failure> {
    let mut keys = way(key)?;
    let Some(last) = keys.pop() else {
        return Ok(());
    };
    let mut inner = data;
    for part in keys {
        let next = inner.entry(part).or_insert(Value::Null);
        if !next.is_object() {
            *next = Value::Object(Map::new());
        }
        let Value::Object(object) = next else {
            return Ok(());
        };
        inner = object;
    }
    inner.insert(last, value);
    Ok(())
}

/// Takes a key out, and the objects on the way to it that hold nothing else.
pub(super) fn take(data: &mut Map<String, Value>, key: &str) -> Result<(), Failure> {
    fn take_at(data: &mut Map<String, Value>, keys: &[String]) -> bool {
        match keys {
            [] => false,
            [last] => data.remove(last).is_some(),
            [first, rest @ ..] => {
                let Some(Value::Object(inner)) = data.get_mut(first) else {
                    return false;
                };
                let taken = take_at(inner, rest);
                if inner.is_empty() {
                    data.remove(first);
                }
                taken
            }
        }
    }
    if take_at(data, &way(key)?) {
        return Ok(());
    }
    Err(Failure::usage(format!("the document has no `{key}`")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            _ => Map::new(),
        }
    }

    #[test]
    fn keys_are_set_and_taken_out_one_by_one() {
        let mut data = object(json!({"limits": {"max_labels": 1}, "models": "x"}));
        for (key, typed) in [
            ("limits.max_attempts", "3"),
            ("models.default", "small"),
            ("/topics/job.a/timeout", "5m"),
            ("/models/a~1b~0c", "[1]"),
            ("timeouts.job", "null"),
        ] {
            assert!(put(&mut data, key, value(typed)).is_ok(), "{key}");
        }
        assert_eq!(
            Value::Object(data.clone()),
            json!({
                "limits": {"max_labels": 1, "max_attempts": 3},
                "models": {"default": "small", "a/b~c": [1]},
                "topics": {"job.a": {"timeout": "5m"}},
                "timeouts": {"job": null},
            })
        );
        assert!(take(&mut data, "/topics/job.a/timeout").is_ok());
        assert!(take(&mut data, "limits.max_labels").is_ok());
        assert!(take(&mut data, "limits.max_labels").is_err());
        assert!(take(&mut data, "models.default.x").is_err());
        assert!(!data.contains_key("topics"));
        for bad in ["", ".a", "a..b", "/", "/a//b"] {
            assert!(put(&mut data, bad, Value::Null).is_err(), "{bad}");
        }
    }

    #[test]
    fn documents_are_json_or_yaml() {
        let yaml = parse("models:\n  default: small\n  n: 3\n").ok();
        let json = parse(r#"{"models": {"default": "small", "n": 3}}"#).ok();
        assert!(yaml.is_some());
        assert_eq!(yaml, json);
        assert_eq!(parse("# nothing\n").ok(), Some(Map::new()));
        for bad in ["[1]", "text", "{"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
