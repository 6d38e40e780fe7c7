//! What one document may say: its size, its sections and their keys. Everything that is wrong is told
//! at once.
//!
//! A `null` takes back what a wider scope says. It is no value of the result.

use serde_json::{Map, Number, Value as Json};

use super::merge::{Rule, rule};
use super::sections::{Ceilings, Sections};
use super::{Problem, below};
use crate::document::{Node, Reader};

/// The most bytes of a document, written without spaces.
pub const MAX_BYTES: usize = 256 * 1024;
/// How deep objects and lists may be nested.
pub const MAX_DEPTH: usize = 16;
/// The most values that are no objects; items of lists count.
pub const MAX_LEAVES: usize = 10_000;
/// The most bytes of the pointers to all values of a document, which answers name.
pub const MAX_POINTERS: usize = 256 * 1024;
/// The longest key, in bytes.
pub const MAX_KEY: usize = 255;

/// Checks a document and gives it in its one form: keys sorted, whole numbers whole.
///
/// # Errors
/// Everything that is wrong, in the order of the pointers.
pub fn check(data: &Json, ceilings: &Ceilings) -> Result<Json, Vec<Problem>> {
    let data = normal(data);
    if !data.is_object() {
        return Err(vec![Problem::new("", "must be an object of sections")]);
    }
    let mut size = Size::default();
    size.measure(&data, "", 0);
    // What is too large is not looked at any further.
    let mut problems = size.problems();
    if !problems.is_empty() {
        return Err(problems);
    }
    let said = without_nulls(&data, &mut Vec::new(), "", &mut problems);
    if let Err(wrong) = read(&said, ceilings) {
        problems.extend(wrong);
    }
    if problems.is_empty() {
        return Ok(data);
    }
    problems.sort_by(|left, right| left.pointer.cmp(&right.pointer));
    Err(problems)
}

/// Reads a document without nulls, or the result of merging several.
pub(super) fn read(data: &Json, ceilings: &Ceilings) -> Result<Sections, Vec<Problem>> {
    let node = Node::from_json(data);
    let reader = Reader::new();
    let sections = Sections::read(&reader.root(&node), ceilings);
    let problems = reader.into_problems();
    if problems.is_empty() {
        return Ok(sections);
    }
    let problems = problems.into_iter();
    Err(problems
        .map(|problem| Problem::new(problem.path.pointer(), problem.message))
        .collect())
}

/// A value in its one form.
pub(super) fn normal(value: &Json) -> Json {
    match value {
        Json::Object(object) => {
            let mut keys: Vec<&String> = object.keys().collect();
            keys.sort_unstable();
            let entries = keys
                .into_iter()
                .filter_map(|key| Some((key.clone(), normal(object.get(key)?))));
            Json::Object(entries.collect())
        }
        Json::Array(items) => Json::Array(items.iter().map(normal).collect()),
        Json::Number(number) => Json::Number(whole(number).unwrap_or_else(|| number.clone())),
        Json::Null | Json::Bool(_) | Json::String(_) => value.clone(),
    }
}

/// A double that is a whole number, as one.
fn whole(number: &Number) -> Option<Number> {
    const MAX_EXACT: f64 = 9_007_199_254_740_992.0;
    let value = number.as_f64().filter(|_| number.is_f64())?;
    let exact = value.fract() == 0.0 && value.abs() <= MAX_EXACT;
    exact.then(|| Number::from(value as i64))
}

#[derive(Default)]
struct Size {
    leaves: usize,
    pointers: usize,
    bytes: usize,
    too_deep: Option<String>,
    long_key: Option<String>,
}

impl Size {
    fn measure(&mut self, value: &Json, pointer: &str, depth: usize) {
        if depth == 0 {
            self.bytes = value.to_string().len();
        }
        if depth > MAX_DEPTH {
            self.too_deep.get_or_insert_with(|| pointer.to_owned());
            return;
        }
        match value {
            Json::Object(object) => {
                for (key, value) in object {
                    if key.is_empty() || key.len() > MAX_KEY {
                        self.long_key.get_or_insert_with(|| pointer.to_owned());
                    }
                    self.measure(value, &below(pointer, key), depth + 1);
                }
            }
            Json::Array(items) => {
                self.pointers += pointer.len();
                self.leaves += items.len().max(1);
                for item in items {
                    self.items(item, pointer, depth + 1);
                }
            }
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => {
                self.pointers += pointer.len();
                self.leaves += 1;
            }
        }
    }

    /// What stands inside of a list, which has no pointers of its own.
    fn items(&mut self, value: &Json, pointer: &str, depth: usize) {
        if depth > MAX_DEPTH {
            self.too_deep.get_or_insert_with(|| pointer.to_owned());
            return;
        }
        let inside: Vec<&Json> = match value {
            Json::Object(object) => object.values().collect(),
            Json::Array(items) => items.iter().collect(),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) => return,
        };
        self.leaves += inside.len();
        for value in inside {
            self.items(value, pointer, depth + 1);
        }
    }

    fn problems(self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut bound = |is: usize, most: usize, what: &str| {
            if is > most {
                let message = format!("must have at most {most} {what}, has {is}");
                problems.push(Problem::new("", message));
            }
        };
        bound(self.bytes, MAX_BYTES, "bytes");
        bound(self.leaves, MAX_LEAVES, "values");
        bound(
            self.pointers,
            MAX_POINTERS,
            "bytes of keys on the ways to its values",
        );
        if let Some(pointer) = self.too_deep {
            let message = format!("must not be nested deeper than {MAX_DEPTH}");
            problems.push(Problem::new(pointer, message));
        }
        if let Some(pointer) = self.long_key {
            let message = format!("every key must have 1 to {MAX_KEY} bytes");
            problems.push(Problem::new(pointer, message));
        }
        problems
    }
}

/// The value without what it takes back, and what it cannot take back.
fn without_nulls(
    value: &Json,
    path: &mut Vec<String>,
    pointer: &str,
    problems: &mut Vec<Problem>,
) -> Json {
    let Json::Object(object) = value else {
        return value.clone();
    };
    let mut kept = Map::new();
    for (key, value) in object {
        path.push(key.clone());
        let pointer = below(pointer, key);
        if !value.is_null() {
            kept.insert(key.clone(), without_nulls(value, path, &pointer, problems));
        } else if tightens(path) {
            let message = "cannot be taken back: a narrower scope may only tighten it";
            problems.push(Problem::new(pointer, message));
        }
        path.pop();
    }
    Json::Object(kept)
}

/// Whether there is nothing at or below the path that a narrower scope may replace.
fn tightens(path: &[String]) -> bool {
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    match path[..] {
        ["limits" | "retention" | "safety" | "visibility"] => true,
        _ => rule(&path) != Rule::Replace,
    }
}
