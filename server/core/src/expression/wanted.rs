//! Which parts of its variables an expression names, and reading just those from JSON text.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;

use super::plan::{Node, Op, Plan};

/// The parts of a value that are wanted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    Fields(BTreeMap<String, Wanted>),
}

impl Wanted {
    /// Nothing but the type.
    pub(super) fn nothing() -> Self {
        Self::Fields(BTreeMap::new())
    }

    /// Adds the value at the end of a path.
    pub(super) fn add(&mut self, path: &[&str]) {
        match (&mut *self, path) {
            (Self::Whole, _) => {}
            (_, []) => *self = Self::Whole,
            (Self::Fields(fields), [first, rest @ ..]) => fields
                .entry((*first).to_owned())
                .or_insert_with(Self::nothing)
                .add(rest),
        }
    }

    fn paths(&self, prefix: &[String], into: &mut Vec<Vec<String>>) {
        match self {
            Self::Whole => into.push(prefix.to_vec()),
            Self::Fields(fields) => {
                for (name, wanted) in fields {
                    let mut path = prefix.to_vec();
                    path.push(name.clone());
                    wanted.paths(&path, into);
                }
            }
        }
    }

    /// Reads the wanted parts of a JSON text. The rest is checked for syntax and skipped.
    pub(super) fn read(&self, text: &str) -> Result<Json, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let value = self.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }
}

/// The wanted parts of each variable, in the order of [`Plan::variables`].
pub(super) fn wanted(plan: &Plan) -> Vec<Wanted> {
    let mut wanted = plan.variables.iter().map(|_| Wanted::nothing()).collect();
    visit(&plan.root, &mut wanted);
    wanted
}

/// The paths that start with these variables, each as its list of names.
pub(super) fn paths(variables: &[String], wanted: &[Wanted]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for (name, wanted) in variables.iter().zip(wanted) {
        wanted.paths(std::slice::from_ref(name), &mut paths);
    }
    paths.sort();
    paths
}

fn visit(node: &Node, wanted: &mut Vec<Wanted>) {
    let mut path = Vec::new();
    if let Some(variable) = constant_path(node, &mut path) {
        if let Some(wanted) = wanted.get_mut(variable) {
            wanted.add(&path);
        }
        return;
    }
    match &node.op {
        Op::Null
        | Op::Bool(_)
        | Op::Int(_)
        | Op::Double(_)
        | Op::Text(_)
        | Op::Variable(_)
        | Op::Local(_) => {}
        Op::Field(inner, _)
        | Op::Has(inner, _)
        | Op::Not(inner)
        | Op::Negate(inner)
        | Op::Matches(inner, _) => visit(inner, wanted),
        Op::Index(left, right) | Op::Binary(_, left, right) => {
            visit(left, wanted);
            visit(right, wanted);
        }
        Op::List(nodes) | Op::And(nodes) | Op::Or(nodes) | Op::Call(_, nodes) => {
            nodes.iter().for_each(|node| visit(node, wanted));
        }
        Op::Map(entries) => {
            for (key, value) in entries {
                visit(key, wanted);
                visit(value, wanted);
            }
        }
        Op::Conditional(parts) => parts.iter().for_each(|part| visit(part, wanted)),
        Op::Loop(inner) => {
            visit(&inner.over, wanted);
            let bodies = inner.test.iter().chain(&inner.output);
            bodies.for_each(|body| visit(body, wanted));
        }
    }
}

/// The variable a chain of constant fields starts at, with the fields in `path`.
fn constant_path<'n>(node: &'n Node, path: &mut Vec<&'n str>) -> Option<usize> {
    let (operand, name) = match &node.op {
        Op::Variable(variable) => return Some(*variable),
        Op::Field(operand, name) | Op::Has(operand, name) => (operand, name),
        Op::Index(operand, index) => match &index.op {
            Op::Text(name) => (operand, name),
            _ => return None,
        },
        _ => return None,
    };
    let variable = constant_path(operand, path)?;
    path.push(name);
    Some(variable)
}

impl<'de> DeserializeSeed<'de> for &Wanted {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        match self {
            Wanted::Whole => serde::Deserialize::deserialize(deserializer),
            Wanted::Fields(fields) => deserializer.deserialize_any(Pick(fields)),
        }
    }
}

/// Keeps the wanted fields of an object. Anything else has no fields to want, so only its type
/// matters, for the error that will follow.
struct Pick<'w>(&'w BTreeMap<String, Wanted>);

impl<'de> Visitor<'de> for Pick<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::from(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(Json::from(value))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(Json::from(value))
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Json, E> {
        Ok(Json::String(String::new()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Json::Array(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut object = serde_json::Map::new();
        while let Some(key) = map.next_key::<String>()? {
            match self.0.get(&key) {
                Some(wanted) => {
                    let value = map.next_value_seed(wanted)?;
                    object.insert(key, value);
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Json::Object(object))
    }
}
